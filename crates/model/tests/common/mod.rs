//! Where tests find models and goldens, and what they make of them.

#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod checkpoint;
pub(crate) mod heads;
pub(crate) mod text;

use std::path::{Path, PathBuf};

/// The GGUF of a model in the catalogue, from `$LEVERET_MODELS` or else where `leveret pull` keeps it; `None` where it
/// was not fetched. The default model is there in CI: other tests, which come first, have fetched it.
pub(crate) fn find_model(name: &str) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("LEVERET_HOME").or_else(|| Some(set("XDG_CACHE_HOME")?.join("leveret")));
    let cache = || home().or_else(|| std::env::home_dir().map(|home| home.join(".cache/leveret")));
    let folder = set("LEVERET_MODELS").or_else(|| cache().map(|home| home.join("models")))?;
    let path = folder.join(format!("{name}.gguf"));
    let needed = name == "smollm2-135m-instruct" && set("CI").is_some();
    assert!(path.exists() || !needed, "{} is missing; CI needs it", path.display());
    path.exists().then_some(path)
}

/// A file or folder of the goldens.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden").join(path)
}

/// A golden JSON file.
pub(crate) fn golden_json(path: &str) -> serde_json::Value {
    let path = golden(path);
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("golden {}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Every golden folder with recorded outputs, by name.
pub(crate) fn goldens() -> Vec<leveret_model::golden::Golden> {
    let entries = std::fs::read_dir(golden("")).unwrap();
    let mut dirs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    dirs.retain(|dir| dir.join("golden.safetensors").is_file());
    dirs.sort();
    dirs.iter().map(|dir| leveret_model::golden::Golden::open(dir).unwrap()).collect()
}

/// The model or drafter in `dir` as a GGUF file beside its own files, its tokenizer that of the golden
/// folder `target`.
pub(crate) fn as_gguf(dir: &Path, target: &str, ty: leveret_model::ElementType) -> PathBuf {
    let target = golden(target);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(target.join(name), dir.join(name)).unwrap();
    }
    let [source, target] = [dir, &target].map(|path| leveret_model::Source::open(path).unwrap());
    let options = leveret_model::convert::ConvertOptions { ty, threads: 1, target: Some(&target) };
    let out = dir.join("converted.gguf");
    leveret_model::convert::to_gguf(&source, &out, &options).unwrap_or_else(|error| panic!("{error}"));
    out
}

/// Where every key of a configuration stands: added to `places`, with `path` before them.
pub(crate) fn keys_in(config: &serde_json::Value, path: &str, places: &mut Vec<String>) {
    for (key, value) in config.as_object().into_iter().flatten() {
        let place = format!("{path}/{key}");
        keys_in(value, &place, places);
        places.push(place);
    }
}
