//! Where tests find models and goldens, and what they make of them.

#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod checkpoint;
pub(crate) mod heads;
pub(crate) mod text;

use std::path::{Path, PathBuf};

/// The GGUF of a model in the catalogue, from `$LEVERET_MODELS` or else the ordinary cache; `None`
/// where it was not fetched.
pub(crate) fn find_model(name: &str) -> Option<PathBuf> {
    let chosen = std::env::var_os("LEVERET_MODELS").map(PathBuf::from);
    let cache = || std::env::home_dir().map(|home| home.join(".cache/leveret/models"));
    let path = chosen.or_else(cache)?.join(format!("{name}.gguf"));
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
