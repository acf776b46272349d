//! From a path to a model: what kind of files stand there, and the way from them to a tokenizer, a
//! chat template and a running [`Model`].
//!
//! ```no_run
//! use leveret_model::{LoadOptions, Model, Source};
//!
//! # fn main() -> leveret_model::Result<()> {
//! let source = Source::open("model.gguf")?;
//! let tokenizer = source.tokenizer()?;
//! let model = Model::load(&source, &LoadOptions::default())?;
//! # Ok(())
//! # }
//! ```

use crate::config::Config;
use crate::decoder::Model;
use crate::formats::safetensors::RawTensor;
use crate::formats::{Folder, Gguf, TensorView};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Precision, Repack};
use crate::{Error, Result, arch, drafters};
use leveret_kernels::attention::KvType;
use leveret_kernels::{ElementType, Team};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The files of one model, open and mapped.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    files: Files,
    /// Tensors that were asked for so far.
    asked: Mutex<BTreeSet<String>>,
}

/// What kind of files.
#[derive(Debug)]
pub enum Files {
    /// One GGUF file, or all parts of a split one.
    Gguf(Gguf),
    /// A Hugging Face folder (or one of Mistral's).
    Folder(Box<Folder>),
}

/// Tensors of a multimodal model that see and hear, and are not loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAside {
    /// Their number.
    pub tensors: usize,
    /// Their size in the files.
    pub bytes: u64,
}

/// What multimodal models call the parts that see and hear.
const MODALITIES: [&str; 12] = [
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "vision_embedder",
    "vision_adapter",
    "visual",
    "embed_vision",
    "audio_tower",
    "audio_encoder",
    "embed_audio",
    "multi_modal_projector",
    "patch_merger",
];

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Threads that loading and passes run on, the caller's included.
    pub threads: usize,
    /// How caches store keys and values.
    pub kv: KvType,
    /// What becomes of the weights.
    pub precision: Precision,
    /// Positions to allow instead of all that the model was made for.
    pub context: Option<usize>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            threads: Team::default_threads(),
            kv: KvType::F16,
            precision: Precision::AsStored,
            context: None,
        }
    }
}

impl LoadOptions {
    /// The context that these options give a model, and whether they can be met at all.
    pub(crate) fn check(&self, config: &Config) -> Result<usize> {
        if let Precision::Quantize(ty) = self.precision
            && !matches!(ty, ElementType::Q8_0 | ElementType::Q4_0 | ElementType::Q4K)
        {
            let what =
                format!("weights cannot be quantised to {} at load; supported: Q8_0, Q4_0, Q4_K", ty.name());
            return Err(Error::request(what));
        }
        let most = config.max_context;
        match self.context {
            Some(context) if context == 0 || context > most => Err(Error::request(format!(
                "a context of {context} positions was asked for; this model takes 1 to {most}"
            ))),
            context => Ok(context.unwrap_or(most)),
        }
    }
}

impl Source {
    /// Opens a GGUF file (any part of a split one), a model folder, or a folder's `config.json`; or one safetensors file
    /// of a folder, if that file alone is meant.
    ///
    /// # Errors
    /// No such file, or one of another kind, or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let folder = match path.file_name().and_then(|name| name.to_str()) {
            _ if path.is_dir() => Some(path),
            Some("config.json" | "params.json") => {
                path.parent().map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
            }
            _ => None,
        };
        let files = match folder {
            Some(folder) => Files::Folder(Box::new(Folder::open(folder)?)),
            None if path.extension().is_some_and(|ending| ending == "safetensors") => {
                Files::Folder(Box::new(Folder::open_file(path)?))
            }
            None => Files::Gguf(Gguf::open(path)?),
        };
        Ok(Self { path: folder.unwrap_or(path).into(), files, asked: Mutex::default() })
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files as their formats show them.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Size of the weight files in bytes.
    pub fn file_bytes(&self) -> u64 {
        match &self.files {
            Files::Gguf(gguf) => gguf.file_bytes(),
            Files::Folder(folder) => folder.file_bytes(),
        }
    }

    /// What the files hold besides the text model; `None` if there is nothing.
    pub fn set_aside(&self) -> Option<SetAside> {
        let Files::Folder(folder) = &self.files else { return None };
        let mut aside = SetAside { tensors: 0, bytes: 0 };
        // The part that names a modality stands first, or after `model`.
        for name in folder.names().filter(|name| name.split('.').take(2).any(|p| MODALITIES.contains(&p))) {
            aside.tensors += 1;
            aside.bytes += folder.raw(name).map_or(0, |raw| raw.bytes.len() as u64);
        }
        (aside.tensors > 0).then_some(aside)
    }

    /// What the model is composed of.
    ///
    /// # Errors
    /// An architecture that is not supported, missing keys, or sizes out of range.
    pub fn config(&self) -> Result<Config> {
        let described = self.describe();
        let family = match &described {
            Ok(config) if self.holds_trunk(config) => None,
            // Of other drafters the files describe no model.
            Ok(_) => drafters::recognise(self).filter(|family| *family == "mtp"),
            // Such a head may also stand in the files of a model that is not understood.
            Err(_) => drafters::recognise(self).filter(|family| *family != "mtp"),
        };
        match family {
            Some(family) => Err(Error::unsupported(
                &self.path,
                format!(
                    "holds a drafter ({family}) and no model that runs by itself: name its target's files and give this one with --drafter model:PATH"
                ),
            )),
            None => described,
        }
    }

    /// Whether tensors of the first layer are there.
    fn holds_trunk(&self, config: &Config) -> bool {
        let names = &config.names;
        let first = names.prefixes.iter().map(|prefix| format!("{prefix}{}0.", names.layer));
        // A layer that guesses ahead may stand alone as the first.
        let first: Vec<String> = first.filter(|first| !self.has(&format!("{first}eh_proj.weight"))).collect();
        self.names().iter().any(|name| first.iter().any(|first| name.starts_with(first)))
    }

    /// What the files say that the model is composed of, whether they hold all of it or a layer that guesses ahead.
    pub(crate) fn describe(&self) -> Result<Config> {
        let folder = match &self.files {
            Files::Gguf(gguf) => return arch::from_gguf(gguf),
            Files::Folder(folder) => folder,
        };
        match (&folder.config, &folder.params) {
            (Some(config), _) => arch::from_hf(&folder.path().join("config.json"), config),
            (None, Some(params)) => arch::mistral::from_params(&folder.path().join("params.json"), params),
            (None, None) => Err(Error::format(
                &self.path,
                "is described by neither config.json nor params.json in its folder; for a drafter name its target",
            )),
        }
    }

    /// The token whose rows guess tokens further on, if the files name one.
    ///
    /// # Errors
    /// Metadata of another type.
    pub fn mask_token(&self) -> Result<Option<u32>> {
        match &self.files {
            Files::Gguf(gguf) => gguf.meta().get("tokenizer.ggml.mask_token_id"),
            Files::Folder(folder) => {
                let config = folder.config.as_ref();
                let key = config.and_then(|c| {
                    let text = c.get("text_config").unwrap_or(c);
                    text.get("mask_token_id").or(c.get("mask_token_id"))
                });
                Ok(key.and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok()))
            }
        }
    }

    /// The model's tokenizer. Weights may be loaded on another thread meanwhile.
    ///
    /// # Errors
    /// No tokenizer in the files, or one of an unknown kind.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.files {
            Files::Gguf(gguf) => Tokenizer::from_gguf(gguf.meta()),
            Files::Folder(folder) => Tokenizer::from_folder(folder.path()),
        }
    }

    /// The model's chat template, or `None` if it has none; `tokenizer` spells its BOS and EOS.
    ///
    /// # Errors
    /// A template that is not well formed.
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        match &self.files {
            Files::Gguf(gguf) => ChatTemplate::from_gguf(gguf.meta(), bos, eos),
            Files::Folder(folder) => ChatTemplate::from_folder(folder.path(), bos, eos),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match &self.files {
            Files::Gguf(gguf) => matches!(gguf.tensor(name), Ok(Some(_)) | Err(_)),
            Files::Folder(folder) => folder.raw(name).is_some(),
        }
    }

    /// A tensor of floats or blocks.
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        self.ask(name);
        match &self.files {
            Files::Gguf(gguf) => gguf.tensor(name),
            Files::Folder(folder) => folder.tensor(name),
        }
    }

    /// A tensor of any type; of a GGUF file, of integers only.
    pub(crate) fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.ask(name);
        match &self.files {
            Files::Gguf(gguf) => gguf.integers(name),
            Files::Folder(folder) => folder.raw(name),
        }
    }

    fn ask(&self, name: &str) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }

    /// Tensors that nobody has asked for yet.
    pub fn unused(&self) -> impl Iterator<Item = String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let names: Vec<String> = self.names().into_iter().map(str::to_owned).collect();
        names.into_iter().filter(move |name| !asked.contains(name))
    }

    /// Names of all tensors.
    fn names(&self) -> Vec<&str> {
        match &self.files {
            Files::Gguf(gguf) => gguf.tensors().map(|tensor| tensor.name).collect(),
            Files::Folder(folder) => folder.names().collect(),
        }
    }

    /// Gives the pages of a tensor back that was repacked.
    pub(crate) fn release(&self, name: &str) {
        match &self.files {
            Files::Gguf(gguf) => gguf.release(name),
            Files::Folder(folder) => folder.release(name),
        }
    }

    /// As [`release`](Self::release), for a part of a tensor's bytes.
    pub(crate) fn release_part(&self, bytes: &[u8]) {
        match &self.files {
            Files::Gguf(gguf) => gguf.release_part(bytes),
            Files::Folder(folder) => folder.release_part(bytes),
        }
    }
}

impl Model {
    /// Loads the weights of `source`.
    ///
    /// # Errors
    /// Whatever [`Source::config`] refuses; options that the model cannot meet; a tensor that is
    /// missing, has another shape than the configuration says, or a type that is not supported.
    pub fn load(source: &Source, options: &LoadOptions) -> Result<Self> {
        Self::load_on(Arc::new(Team::new(options.threads)), source, options)
    }

    /// Loads the weights of `source` for a team that other models run on too, one at a time, as a
    /// target and its drafter do; `options.threads` says nothing then.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_on(team: Arc<Team>, source: &Source, options: &LoadOptions) -> Result<Self> {
        let config = source.config()?;
        let max_context = options.check(&config)?;
        let repack = Repack { team: &team, source };
        let weights = weights::load(source, &config, options.precision, &repack)?;
        Ok(Self::new(team, config, weights, options.kv, max_context))
    }
}
