//! Hugging Face model folders: configurations as JSON, tokenizer files by path, weights mapped.

use super::safetensors::{RawTensor, Safetensors};
use super::{TensorView, quoted};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// An open model folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// `config.json`; `None` in folders that only have Mistral's `params.json`.
    pub config: Option<Value>,
    /// Mistral's `params.json`.
    pub params: Option<Value>,
    /// `generation_config.json`.
    pub generation_config: Option<Value>,
    /// Path of `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// Path of `tokenizer_config.json`.
    pub tokenizer_config: Option<PathBuf>,
    /// Path of `chat_template.jinja`.
    pub chat_template: Option<PathBuf>,
    files: Vec<Safetensors>,
    /// Index into `files` of each tensor.
    by_name: BTreeMap<String, usize>,
}

impl Folder {
    /// Opens the folder `dir`: it needs `config.json` or `params.json`, and safetensors weights.
    ///
    /// Weights are `model.safetensors` or the shards that `model.safetensors.index.json` names;
    /// without these, or without `config.json`, the same under the name `consolidated`; then
    /// `pytorch_model.bin`, in one file or in shards. Layers that guess ahead may stand in files of
    /// their own beside them, or alone: those with `mtp` or `nextn` in their names.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config = read_object(&dir.join("config.json"))?;
        let params = read_object(&dir.join("params.json"))?;
        let mut layouts = [MODEL, CONSOLIDATED, PICKLED];
        match (&config, &params) {
            (Some(_), _) => {}
            (None, Some(_)) => layouts.swap(0, 1),
            (None, None) => {
                let what = "holds no config.json (nor params.json); expected a model folder";
                return Err(Error::format(dir, what));
            }
        }
        let mut files = Vec::new();
        for layout in &layouts {
            if let Some(found) = weights(dir, layout)? {
                files = found;
                break;
            }
        }
        add_ahead(dir, &mut files)?;
        if files.is_empty() {
            return Err(no_weights(dir));
        }
        Self::with_weights(dir, config, params, files)
    }

    /// Opens one safetensors file of a folder and leaves the folder's other weights aside, as for a part of a model
    /// that stands in a file of its own. Nothing need describe it: a drafter may be what its target says.
    pub fn open_file(file: impl AsRef<Path>) -> Result<Self> {
        let file = file.as_ref();
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let weights = Safetensors::open(file)?;
        let described = |name| read_object(&dir.join(name));
        Self::with_weights(dir, described("config.json")?, described("params.json")?, vec![weights])
    }

    fn with_weights(
        dir: &Path,
        config: Option<Value>,
        params: Option<Value>,
        files: Vec<Safetensors>,
    ) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = by_name.insert(name.clone(), index) {
                    let other = files[other].path().display();
                    let what = format!("tensor `{}` stands in {other} too", quoted(&name));
                    return Err(Error::format(file.path(), what));
                }
            }
        }
        let present = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        Ok(Self {
            path: dir.into(),
            config,
            params,
            generation_config: read_object(&dir.join("generation_config.json"))?,
            tokenizer: present("tokenizer.json"),
            tokenizer_config: present("tokenizer_config.json"),
            chat_template: present("chat_template.jinja"),
            files,
            by_name,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The tensor `name`; `None` if there is no such tensor, an error if it is not F32, F16 or BF16.
    pub fn tensor(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        self.file_of(name).map_or(Ok(None), |file| file.tensor(name))
    }

    /// The tensor `name` whatever its element type.
    pub fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.file_of(name)?.raw(name)
    }

    /// Lets go of the memory behind a tensor that is no longer needed (because it was repacked).
    pub fn release(&self, name: &str) {
        if let Some(file) = self.file_of(name) {
            file.release(name);
        }
    }

    /// As [`release`](Self::release), for a part of a tensor's bytes. Bytes from elsewhere are left alone.
    pub fn release_part(&self, bytes: &[u8]) {
        self.files.iter().for_each(|file| file.release_part(bytes));
    }

    /// Size of all weight files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(Safetensors::file_bytes).sum()
    }

    /// The weight files.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(Safetensors::path)
    }

    fn file_of(&self, name: &str) -> Option<&Safetensors> {
        Some(&self.files[*self.by_name.get(name)?])
    }
}

/// How weight files are called and read.
struct Layout {
    single: &'static str,
    index: &'static str,
    open: fn(&Path) -> Result<Safetensors>,
}

const MODEL: Layout = Layout {
    single: "model.safetensors",
    index: "model.safetensors.index.json",
    open: |path| Safetensors::open(path),
};
const CONSOLIDATED: Layout = Layout {
    single: "consolidated.safetensors",
    index: "consolidated.safetensors.index.json",
    open: |path| Safetensors::open(path),
};
const PICKLED: Layout = Layout {
    single: "pytorch_model.bin",
    index: "pytorch_model.bin.index.json",
    open: |path| Safetensors::open_pickled(path),
};

/// The weight files of a layout; `None` if there are none.
fn weights(dir: &Path, layout: &Layout) -> Result<Option<Vec<Safetensors>>> {
    let index_path = dir.join(layout.index);
    if let Some(index) = read_object(&index_path)? {
        return shards(dir, layout, &index_path, &index).map(Some);
    }
    let single = dir.join(layout.single);
    if !single.is_file() {
        return Ok(None);
    }
    Ok(Some(vec![(layout.open)(&single)?]))
}

/// Opens the shards that an index names and checks that every tensor is where it says.
fn shards(dir: &Path, layout: &Layout, index_path: &Path, index: &Value) -> Result<Vec<Safetensors>> {
    let fault = |what: String| Error::format(index_path, what);
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(fault("has no object `weight_map`".into()));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        // A shard lies in the folder itself: the index must not lead anywhere else.
        let file = file
            .as_str()
            .filter(|file| !file.starts_with('.') && !file.contains(['/', '\\', ':']) && !file.is_empty());
        let Some(file) = file else {
            return Err(fault(format!(
                "`weight_map` maps `{}` to {}; expected a file name",
                quoted(tensor),
                quoted(&map[tensor].to_string())
            )));
        };
        names.insert(file);
    }
    let open = |name: &&str| (layout.open)(&dir.join(name));
    let files = names.iter().map(open).collect::<Result<Vec<_>>>()?;
    for (tensor, file) in map {
        let holds = |(name, shard): (&&str, &Safetensors)| file == *name && shard.raw(tensor).is_some();
        if !names.iter().zip(&files).any(holds) {
            return Err(fault(format!("maps `{}` to {file}, which lacks it", quoted(tensor))));
        }
    }
    Ok(files)
}

/// Adds the files of layers that guess ahead to the weights of a model. One with a tensor that the model has is left
/// aside: it repeats what stands there, or belongs to a model of its own.
fn add_ahead(dir: &Path, files: &mut Vec<Safetensors>) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_ahead(path)).collect();
    paths.sort();
    let model = files.len();
    for path in paths {
        if files[..model].iter().any(|file| file.path() == path) {
            continue;
        }
        let ahead = Safetensors::open(&path)?;
        let repeats = |name: &String| files[..model].iter().any(|file| file.raw(name).is_some());
        if !ahead.names().iter().any(repeats) {
            files.push(ahead);
        }
    }
    Ok(())
}

fn is_ahead(path: &Path) -> bool {
    let named = |name: &str| name.contains("mtp") || name.contains("nextn");
    path.extension().is_some_and(|ending| ending == "safetensors")
        && path.file_stem().is_some_and(|stem| named(&stem.to_string_lossy().to_lowercase()))
        && path.is_file()
}

fn no_weights(dir: &Path) -> Error {
    let what = "holds no weights; expected model.safetensors, model.safetensors.index.json, \
                consolidated.safetensors, pytorch_model.bin or mtp.safetensors";
    Error::format(dir, what)
}

/// The JSON object in the file at `path`; `None` if there is no such file.
fn read_object(path: &Path) -> Result<Option<Value>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
    };
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|e| Error::format(path, format!("is not valid JSON: {e}")))?;
    if !value.is_object() {
        return Err(Error::format(path, "is not a JSON object"));
    }
    Ok(Some(value))
}
