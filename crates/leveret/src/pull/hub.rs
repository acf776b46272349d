//! Files from the Hugging Face hub, kept in its own cache: `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`
//! and `HF_HUB_OFFLINE` mean what they mean to its other clients. Interrupted files continue.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::lock::Lock;
use super::out_of_space;
use crate::progress::Progress;
use crate::streams::tell;

/// How long a hub that does not answer may hold us up.
const PATIENCE: Duration = Duration::from_secs(3);

/// A file of `repo`, from the cache or the hub. With `sha256` the hub's own record of the hash is
/// compared before anything is downloaded.
pub(crate) fn file(repo: &str, file: &str, sha256: Option<&str>) -> Result<PathBuf> {
    let name = format!("hub {repo}");
    if let Some(path) = Cache::from_env().model(repo.to_owned()).get(file) {
        return Ok(path);
    }
    let api = connect().context(name.clone())?;
    let handle = api.model(repo.to_owned());
    if let Some(expected) = sha256 {
        let meta = api.metadata(&handle.url(file)).map_err(|error| explain(error, repo, file))?;
        let found = meta.etag();
        if found.len() == 64 && found != expected {
            bail!("{name}: {file} has sha256 {found}, expected {expected}");
        }
    }
    download(&handle, repo, file)
}

/// What `hf:OWNER/REPO` means: the repository's only GGUF model, or its folder of safetensors.
pub(crate) fn repository(repo: &str) -> Result<PathBuf> {
    let api = match connect() {
        Ok(api) => api,
        Err(error) => {
            return cached(repo).ok_or_else(|| error.context(format!("hub {repo}: not in the cache")));
        }
    };
    let handle = api.model(repo.to_owned());
    let info = match handle.info() {
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
            None => download(&handle, repo, file)?,
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
    let top = |file: &&String| !file.contains('/');
    let weights = files.iter().filter(top).filter(|file| file.ends_with(".safetensors"));
    let weights: Vec<String> = weights.cloned().collect();
    if !weights.is_empty() && files.iter().any(|file| file == "config.json") {
        let small = |file: &&String| {
            [".json", ".jinja", ".txt", ".model"].iter().any(|ext| file.ends_with(ext))
                && *file != "config.json"
        };
        let mut wanted: Vec<String> = files.iter().filter(top).filter(small).cloned().collect();
        wanted.extend(weights);
        wanted.push("config.json".into());
        return Ok(wanted);
    }
    let firsts: Vec<&String> = files
        .iter()
        .filter(|file| file.ends_with(".gguf") && !file.contains("mmproj"))
        .filter(|file| split(file).last() == Some(file))
        .collect();
    match firsts.as_slice() {
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

/// The model of `repo` in the cache, if a complete one is there.
fn cached(repo: &str) -> Option<PathBuf> {
    let cache = Cache::from_env();
    if let Some(config) = cache.model(repo.to_owned()).get("config.json") {
        return config.parent().map(Path::to_path_buf);
    }
    let folder = cache.path().join(Repo::new(repo.to_owned(), RepoType::Model).folder_name());
    let commit = std::fs::read_to_string(folder.join("refs/main")).ok()?;
    let files = std::fs::read_dir(folder.join("snapshots").join(commit.trim())).ok()?;
    let mut models = files.flatten().map(|file| file.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".gguf") && split(&name).last().is_some_and(|first| *first == name)
    });
    models.next().filter(|_| models.next().is_none())
}

fn connect() -> Result<Api> {
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| value != "0" && !value.is_empty()) {
        bail!("HF_HUB_OFFLINE is set");
    }
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
    reach(&endpoint)?;
    let mut builder = ApiBuilder::from_env().with_progress(false).with_retries(2);
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

fn download(handle: &ApiRepo, repo: &str, file: &str) -> Result<PathBuf> {
    // The client itself does not wait for another process; what that one has fetched is then here.
    let folder = super::home()?.join("models");
    std::fs::create_dir_all(&folder).map_err(|error| out_of_space(&folder, error))?;
    let before = Cache::from_env().model(repo.to_owned()).get(file);
    let _turn = Lock::take(&folder.join(format!("{}.lock", repo.replace('/', "--"))))?;
    if let Some(path) =
        Cache::from_env().model(repo.to_owned()).get(file).filter(|path| before.as_ref() != Some(path))
    {
        return Ok(path);
    }
    let shown = Shown { label: file.to_owned(), progress: None };
    handle.download_with_progress(file, shown).map_err(|error| explain(error, repo, file))
}

/// One line, with what to do where there is something to do.
fn explain(error: ApiError, repo: &str, file: &str) -> anyhow::Error {
    if let ApiError::IoError(error) = error {
        return out_of_space(Cache::from_env().path(), error).context(format!("hub {repo}: {file}"));
    }
    let text = error.to_string();
    let hint = if text.contains("401") || text.contains("403") {
        "; the repository may ask for consent to its terms: set HF_TOKEN"
    } else if text.contains("404") {
        "; no such repository or file"
    } else {
        ""
    };
    anyhow!("hub {repo}: {file}: {text}{hint}")
}

/// Our progress as the hub's client wants it; the size is known only once it calls `init`.
struct Shown {
    label: String,
    progress: Option<Progress>,
}

impl hf_hub::api::Progress for Shown {
    fn init(&mut self, size: usize, _filename: &str) {
        self.progress = Some(Progress::new(&self.label, size as u64));
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
