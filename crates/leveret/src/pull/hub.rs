//! Files from the Hugging Face hub, kept in its own cache: `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`
//! and `HF_HUB_OFFLINE` mean what they mean to its other clients. Interrupted files continue.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, Metadata};
use hf_hub::{Cache, Repo, RepoType};

use super::lock::Lock;
use super::{NoSpace, hash_of, out_of_space};
use crate::progress::Progress;
use crate::streams::tell;

/// How long a hub that does not answer may hold us up.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a request that failed is made again, and after what pause.
const RETRIES: usize = 2;
const PAUSE: Duration = Duration::from_millis(300);

/// A file of `repo`, from the cache or the hub. With `sha256` the hub's own record of the hash is
/// compared before anything is downloaded.
pub(crate) fn file(repo: &str, file: &str, sha256: Option<&str>) -> Result<PathBuf> {
    if let Some(path) = Cache::from_env().model(repo.to_owned()).get(file) {
        return Ok(path);
    }
    let api = connect().with_context(|| format!("hub {repo}"))?;
    download(&api, repo, file, sha256)
}

/// What `hf:OWNER/REPO` means: the repository's only GGUF model, or its folder of safetensors.
pub(crate) fn repository(repo: &str) -> Result<PathBuf> {
    let api = match connect() {
        Ok(api) => api,
        Err(error) => {
            return cached(repo).ok_or_else(|| error.context(format!("hub {repo}: not in the cache")));
        }
    };
    let info = match api.model(repo.to_owned()).info() {
        Ok(info) => info,
        Err(error) => {
            let error = explain(error, repo, "its list of files");
            let path = cached(repo).ok_or_else(|| anyhow!("{error:#}"))?;
            tell!("{error:#}; what is in the cache is used");
            return Ok(path);
        }
    };
    let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let wanted = wanted(repo, &files)?;
    // Files of an older state of the repository do not count. The one that names the model comes last: where it is, all
    // others are.
    let known =
        |file: &str| Cache::from_env().model(repo.to_owned()).get(file).filter(|path| is_of(path, &info.sha));
    let mut path = PathBuf::new();
    for file in &wanted {
        path = match known(file) {
            Some(path) => path,
            None => download(&api, repo, file, None)?,
        };
    }
    if let Some(file) = wanted.iter().find(|file| known(file).is_none()) {
        bail!("hub {repo}: has changed while {file} was fetched; try again");
    }
    match path.extension().is_some_and(|ext| ext == "gguf") {
        true => Ok(path),
        false => Ok(path.parent().map(Path::to_path_buf).unwrap_or(path)),
    }
}

/// Whether a file of the cache belongs to the state `commit` of its repository: it is in the folder of that name.
fn is_of(path: &Path, commit: &str) -> bool {
    path.ancestors().skip(1).any(|folder| folder.file_name().is_some_and(|name| name == commit))
}

/// All parts of `file` when it is one of a split model (`…-00001-of-00003.gguf`), the first last.
pub(crate) fn split(file: &str) -> Vec<String> {
    let parts = || {
        let stem = file.strip_suffix(".gguf")?;
        let (stem, count) = stem.rsplit_once("-of-")?;
        let (stem, part) = stem.rsplit_once('-')?;
        let number = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5);
        let count: usize = number(count).filter(|n| (1..=999).contains(n))?;
        number(part).filter(|part| (1..=count).contains(part))?;
        Some((1..=count).rev().map(|i| format!("{stem}-{i:05}-of-{count:05}.gguf")).collect())
    };
    parts().unwrap_or_else(|| vec![file.to_owned()])
}

/// Chooses the files to download, the one that makes the model complete last.
fn wanted(repo: &str, files: &[String]) -> Result<Vec<String>> {
    let weights = weights(files);
    if !weights.is_empty() {
        let small = |file: &&String| {
            [".json", ".jinja", ".txt", ".model"].iter().any(|ext| file.ends_with(ext))
                && *file != "config.json"
        };
        let mut wanted: Vec<String> = files.iter().filter(is_top).filter(small).cloned().collect();
        wanted.extend(weights);
        wanted.push("config.json".into());
        return Ok(wanted);
    }
    match ggufs(files).as_slice() {
        [] => bail!("hub {repo}: holds neither a .gguf file nor config.json with .safetensors files"),
        [only] => Ok(split(only)),
        many => {
            let names: Vec<&str> = many.iter().map(|file| file.as_str()).collect();
            bail!(
                "hub {repo}: holds {} models; name one: hf:{repo}/FILE with FILE one of {}",
                names.len(),
                names.join(", ")
            )
        }
    }
}

/// The safetensors among `files` that `config.json` describes.
fn weights(files: &[String]) -> Vec<String> {
    if !files.iter().any(|file| file == "config.json") {
        return Vec::new();
    }
    files.iter().filter(is_top).filter(|file| file.ends_with(".safetensors")).cloned().collect()
}

fn is_top(file: &&String) -> bool {
    !file.contains('/')
}

/// The GGUF models among `files`, each by its first part.
fn ggufs(files: &[String]) -> Vec<&String> {
    let model = |file: &&String| file.ends_with(".gguf") && !file.contains("mmproj");
    files.iter().filter(model).filter(|file| split(file).last() == Some(file)).collect()
}

/// The model of `repo` in the cache, if a complete one is there.
fn cached(repo: &str) -> Option<PathBuf> {
    let cache = Cache::from_env();
    if let Some(config) = cache.model(repo.to_owned()).get("config.json") {
        return config.parent().map(Path::to_path_buf);
    }
    let folder = cache.path().join(Repo::new(repo.to_owned(), RepoType::Model).folder_name());
    let files = fs::read_dir(snapshot(&folder)?).ok()?;
    let mut models = files.flatten().map(|file| file.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".gguf") && split(&name).last().is_some_and(|first| *first == name)
    });
    models.next().filter(|_| models.next().is_none())
}

/// The folder of the newest state that the cache has of a repository.
fn snapshot(folder: &Path) -> Option<PathBuf> {
    let commit = fs::read_to_string(folder.join("refs/main")).ok()?;
    Some(folder.join("snapshots").join(commit.trim()))
}

/// All models in the cache, as `hf:` names them: names, places and sizes, sorted.
pub(crate) fn models() -> Vec<(String, PathBuf, u64)> {
    // The client panics where it knows no folder for its cache.
    if std::env::var("HF_HOME").is_err() && std::env::home_dir().is_none() {
        return Vec::new();
    }
    let Ok(folders) = fs::read_dir(Cache::from_env().path()) else { return Vec::new() };
    let mut models = Vec::new();
    for folder in folders.flatten() {
        let name = folder.file_name().to_string_lossy().replacen("--", "/", 2);
        let Some(repo) = name.strip_prefix("models/").filter(|repo| repo.contains('/')) else { continue };
        let Some(snapshot) = snapshot(&folder.path()) else { continue };
        // None where a part is missing.
        let size = |files: &[String]| -> Option<u64> {
            files.iter().map(|file| Some(fs::metadata(snapshot.join(file)).ok()?.len())).sum()
        };
        let mut files = Vec::new();
        files_below(&snapshot, "", &mut files);
        let weights = weights(&files);
        if let Some(bytes) = size(&weights).filter(|_| !weights.is_empty()) {
            models.push((format!("hf:{repo}"), snapshot.clone(), bytes));
        }
        for file in ggufs(&files) {
            if let Some(bytes) = size(&split(file)) {
                models.push((format!("hf:{repo}/{file}"), snapshot.join(file), bytes));
            }
        }
    }
    models.sort();
    models
}

/// Adds the names of all files in `folder` to `files`, those of its folders as `folder/file`.
fn files_below(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => files_below(&entry.path(), &format!("{name}/"), files),
            false => files.push(name),
        }
    }
}

fn connect() -> Result<Api> {
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| value != "0" && !value.is_empty()) {
        bail!("HF_HUB_OFFLINE is set");
    }
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
    reach(&endpoint)?;
    let mut builder = ApiBuilder::from_env().with_progress(false);
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token.trim().to_owned()).filter(|token| !token.is_empty()));
    }
    builder.build().map_err(|error| anyhow!("{error}"))
}

/// Fails within [`PATIENCE`] when no connection can be made. A proxy is left to the client.
fn reach(endpoint: &str) -> Result<()> {
    let proxies = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    if proxies.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        return Ok(());
    }
    let (secure, rest) = match endpoint.split_once("://") {
        Some((scheme, rest)) => (scheme != "http", rest),
        None => (true, endpoint),
    };
    let host = rest.split('/').next().unwrap_or_default().to_owned();
    let address =
        if host.contains(':') { host.clone() } else { format!("{host}:{}", if secure { 443 } else { 80 }) };
    // Looking a name up cannot be given a time limit, so it is done beside us and left behind.
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let addresses = match address.to_socket_addrs() {
            Ok(addresses) => addresses.collect::<Vec<_>>(),
            Err(error) => return drop(send.send(Err(error))),
        };
        let mut last = Err(std::io::Error::other("the name has no address"));
        for address in &addresses {
            // A share of the time for each: of two kinds of network one may lead nowhere.
            last = TcpStream::connect_timeout(address, PATIENCE / addresses.len() as u32).map(drop);
            if last.is_ok() {
                break;
            }
        }
        let _ = send.send(last);
    });
    // Some more, so that the reason comes first.
    match receive.recv_timeout(PATIENCE + PATIENCE / 10) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => bail!("{host} cannot be reached ({error})"),
        Err(_) => bail!("{host} cannot be reached (no answer in {} s)", PATIENCE.as_secs()),
    }
}

fn download(api: &Api, repo: &str, file: &str, sha256: Option<&str>) -> Result<PathBuf> {
    // The client itself does not wait for another process; what that one has fetched is then here.
    let folder = super::home()?.join("models");
    fs::create_dir_all(&folder).map_err(|error| out_of_space(&folder, error))?;
    let before = Cache::from_env().model(repo.to_owned()).get(file);
    let _turn = Lock::take(&folder.join(format!("{}.lock", repo.replace('/', "--"))))?;
    if let Some(path) =
        Cache::from_env().model(repo.to_owned()).get(file).filter(|path| before.as_ref() != Some(path))
    {
        return Ok(path);
    }
    let handle = api.model(repo.to_owned());
    let record = insist(repo, file, || api.metadata(&handle.url(file)))?;
    if let (Some(expected), Some(found)) = (sha256, sha256_of(&record))
        && found != expected
    {
        bail!("hub {repo}: {file} has sha256 {found}, expected {expected}");
    }
    let path = insist(repo, file, || {
        clear(repo, file, &record);
        handle.download_with_progress(file, Shown { label: file.to_owned(), progress: None })
    })?;
    check(&path, &record).with_context(|| format!("hub {repo}: {file}"))?;
    Ok(path)
}

/// Makes a request again where that may help. The client could, but if the connection breaks before the first byte of a
/// resumed file, it appends the whole file to the part; a download that is started anew measures the part first.
fn insist<T>(repo: &str, file: &str, request: impl Fn() -> Result<T, ApiError>) -> Result<T> {
    let mut left = RETRIES;
    loop {
        let error = match request() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let lasting = hint(&error).is_some();
        let error = explain(error, repo, file);
        if left == 0 || lasting || error.is::<NoSpace>() {
            return Err(error);
        }
        left -= 1;
        tell!("{error:#}; trying again");
        std::thread::sleep(PAUSE);
    }
}

/// Deletes what would stop the client run after run: a part to which nothing is missing, as the hub refuses to send
/// nothing, and a pointer to a file that someone deleted, in whose place it puts no other.
fn clear(repo: &str, file: &str, record: &Metadata) {
    let cache = Cache::from_env().model(repo.to_owned());
    let part = cache.blob_path(record.etag()).with_extension("part");
    if fs::metadata(&part).is_ok_and(|part| part.len() >= record.size() as u64) {
        let _ = fs::remove_file(&part);
    }
    let pointer = cache.pointer_path(record.commit_hash()).join(file);
    if !pointer.exists() {
        let _ = fs::remove_file(&pointer);
    }
}

/// Compares what arrived with the hub's record of it. What differs is deleted: later runs would take it for the file.
fn check(path: &Path, record: &Metadata) -> Result<()> {
    let context = || path.display().to_string();
    let blob = fs::canonicalize(path).with_context(context)?;
    let (what, found, expected) = match sha256_of(record) {
        Some(sha256) => ("sha256", hash_of(&blob)?, sha256.to_owned()),
        None => {
            let size = fs::metadata(&blob).with_context(context)?.len();
            ("size", size.to_string(), record.size().to_string())
        }
    };
    if found == expected {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(blob);
    bail!("{what} is {found}, expected {expected}; deleted what was downloaded, run again")
}

/// The hub's record of a file's sha256. Of small files it has another hash.
fn sha256_of(record: &Metadata) -> Option<&str> {
    let etag = record.etag();
    (etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(etag)
}

/// One line, with what to do where there is something to do.
fn explain(error: ApiError, repo: &str, file: &str) -> anyhow::Error {
    let hint = hint(&error).unwrap_or_default();
    match error {
        ApiError::IoError(error) => {
            out_of_space(Cache::from_env().path(), error).context(format!("hub {repo}: {file}"))
        }
        error => anyhow!("hub {repo}: {file}: {error}{hint}"),
    }
}

/// What to do where the hub refuses, as it would again.
fn hint(error: &ApiError) -> Option<&'static str> {
    let text = error.to_string();
    if text.contains("status: 401") || text.contains("status: 403") {
        return Some("; the repository may ask for consent to its terms: set HF_TOKEN");
    }
    text.contains("status: 404").then_some("; no such repository or file")
}

/// Our progress as the hub's client wants it; the size is known only once it calls `init`.
struct Shown {
    label: String,
    progress: Option<Progress>,
}

impl hf_hub::api::Progress for Shown {
    fn init(&mut self, size: usize, _filename: &str) {
        // The client calls this twice for each file.
        self.progress.get_or_insert_with(|| Progress::new(&self.label, size as u64));
    }

    fn update(&mut self, size: usize) {
        if let Some(progress) = &mut self.progress {
            progress.add(size as u64);
        }
    }

    fn finish(&mut self) {
        self.progress = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_model_ends_with_its_first_part() {
        let parts = split("m-00002-of-00003.gguf");
        assert_eq!(parts, ["m-00003-of-00003.gguf", "m-00002-of-00003.gguf", "m-00001-of-00003.gguf"]);
        for whole in ["m-q4.gguf", "best-of-3.gguf", "my-best-of-00003.gguf", "m-00004-of-00003.gguf"] {
            assert_eq!(split(whole), [whole]);
        }
    }

    #[test]
    fn a_file_is_of_the_commit_that_its_folder_names() {
        let path = Path::new("/c/models--o--r/snapshots/abc/sub/m.gguf");
        assert!(is_of(path, "abc") && !is_of(path, "abd") && !is_of(path, "m.gguf"));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let tries = |error: fn() -> ApiError| {
            let tries = std::cell::Cell::new(0);
            let request = || {
                tries.set(tries.get() + 1);
                Err::<(), _>(error())
            };
            let error = insist("o/r", "m.gguf", request).unwrap_err();
            assert!(format!("{error:#}").starts_with("hub o/r: m.gguf: "), "{error:#}");
            tries.get()
        };
        assert_eq!(tries(|| ApiError::IoError(std::io::ErrorKind::UnexpectedEof.into())), RETRIES + 1);
        assert_eq!(tries(|| ApiError::IoError(std::io::ErrorKind::StorageFull.into())), 1);
    }

    #[test]
    fn a_repository_is_one_model_or_a_question() {
        let files = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let folder = wanted("o/r", &files(&["config.json", "model.safetensors", "tokenizer.json", "a.bin"]));
        assert_eq!(folder.unwrap(), ["tokenizer.json", "model.safetensors", "config.json"]);
        assert_eq!(wanted("o/r", &files(&["README.md", "m.gguf"])).unwrap(), ["m.gguf"]);
        let question = wanted("o/r", &files(&["a.gguf", "b.gguf"])).unwrap_err().to_string();
        assert!(question.contains("a.gguf, b.gguf"), "{question}");
        assert!(wanted("o/r", &files(&["README.md"])).is_err());
    }
}
