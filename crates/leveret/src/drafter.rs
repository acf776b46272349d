//! What `--drafter` can name, and how it becomes a drafter.
//!
//! A name is read once ([`DrafterSpec`]), what it needs is loaded once for a model
//! ([`DrafterArgs::load`], [`DrafterSpec::load`]), and every text being written gets a drafter of its
//! own ([`DrafterSource::build`]).

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use leveret_model::Source;
use leveret_model::tokenizer::Tokenizer;
use leveret_spec::Drafter;
use leveret_spec::drafters::{
    Composite, MaskDrafter, PredictionDrafter, RecycleDrafter, Store, StoreDrafter, SuffixDrafter, store,
};
use sha2::{Digest, Sha256};

use crate::cli::Usage;
use crate::draft_model::{DraftModel, HeadArgs};
use crate::model::Loaded;
use crate::pull;
use crate::streams::tell;

/// The options of every command that guesses ahead.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrafterArgs {
    /// What guesses ahead: none; auto, which is all that is there; or some of suffix (repetitions
    /// of the text), recycle (what the model thought of before), store (earlier answers),
    /// prediction:FILE, own (guessing layers in the model's files), model:NAME (another model or a
    /// head made for this one, by name or path) and mask:K[:ID] (the model itself, from K rows of its
    /// mask token), joined by +. The text is the same with each, only the speed differs; unless another
    /// --accept than match is asked for.
    #[arg(long, value_name = "DRAFTER", default_value = "auto")]
    pub(crate) drafter: DrafterSpec,
    /// Your own guess of the answer, such as the file that is to be edited. A wrong one costs
    /// nothing but speed.
    #[arg(long, value_name = "FILE")]
    pub(crate) prediction: Option<PathBuf>,
    /// Where answers are kept to guess later ones from: off, or a file. By default a file of at
    /// most 4 MB for each model in $LEVERET_HOME/answers (else leveret/answers in the cache folder,
    /// $XDG_CACHE_HOME or ~/.cache), for your eyes alone; the oldest go first, and prompts are not
    /// kept. LEVERET_STORE does the same.
    #[arg(long, value_name = "off|FILE", value_parser = OsStringValueParser::new().try_map(StorePlace::try_from))]
    pub(crate) store: Option<StorePlace>,
    #[command(flatten)]
    heads: HeadArgs,
}

/// Where answers are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StorePlace {
    /// Nowhere.
    Off,
    /// In this file.
    At(PathBuf),
}

impl TryFrom<OsString> for StorePlace {
    type Error = &'static str;

    fn try_from(text: OsString) -> Result<Self, &'static str> {
        match text.to_str() {
            Some("") => Err("expected off or a file"),
            Some("off") => Ok(Self::Off),
            _ => Ok(Self::At(text.into())),
        }
    }
}

/// What guesses ahead. Its text form is that of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DrafterSpec {
    /// Nothing: plain decoding.
    None,
    /// All that need no training, and the heads that lie in the model's files or beside them.
    Auto,
    /// Repetitions of the text.
    Suffix,
    /// What the target thought could follow, the last time.
    Recycle,
    /// Earlier answers: those of the model's own store, or of this file.
    Store(Option<PathBuf>),
    /// A guess of the answer, in this file.
    Prediction(PathBuf),
    /// Another model or a head made for the target, by name or path.
    Model(String),
    /// The model itself, from rows of its mask token.
    Mask(Masks),
    /// The guessing layers in the target's own files.
    Own,
    /// Several at once.
    Several(Vec<DrafterSpec>),
}

/// Masks behind a row, and their token where it is not the one that the model's files name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Masks {
    pub(crate) count: usize,
    token: Option<u32>,
}

/// Most masks behind a row.
const MOST_MASKS: usize = 32;

impl Masks {
    fn parse(text: &str) -> Option<Self> {
        let (count, token) = match text.split_once(':') {
            Some((count, token)) => (count, Some(token.parse().ok()?)),
            None => (text, None),
        };
        let count = count.parse().ok().filter(|count| (1..=MOST_MASKS).contains(count))?;
        Some(Self { count, token })
    }

    /// The token of the masks.
    ///
    /// # Errors
    /// The model has none, or not this one.
    pub(crate) fn token(self, target: &Loaded) -> Result<u32> {
        let Some(token) = self.token.or(target.mask) else {
            bail!(
                "the model's files name no mask token: say which it is, as in mask:{}:ID, if the model was trained with one",
                self.count
            );
        };
        let vocab = target.model.config().vocab;
        if token as usize >= vocab {
            bail!("mask token {token}, but the model has {vocab} tokens");
        }
        Ok(token)
    }
}

const EXPECTED: &str = "expected none, auto, or some of suffix, recycle, own, store, \
                        store:FILE, prediction:FILE, model:NAME and mask:K, joined by +";

impl FromStr for DrafterSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<Self> = split(text).iter().map(|part| Self::single(part)).collect::<Result<_, _>>()?;
        match &parts[..] {
            [part] => Ok(part.clone()),
            parts if parts.contains(&Self::None) => Err("none cannot be joined with others".into()),
            parts => Ok(Self::Several(parts.to_vec())),
        }
    }
}

/// The parts that are joined by +. What follows a + and is no kind of drafter belongs to the name
/// before it.
fn split(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for piece in text.split('+') {
        match parts.last_mut() {
            Some(last) if last.contains(':') && DrafterSpec::single(piece).is_err() => {
                last.push('+');
                last.push_str(piece);
            }
            _ => parts.push(piece.to_owned()),
        }
    }
    parts
}

impl DrafterSpec {
    fn single(text: &str) -> Result<Self, String> {
        match (text, text.split_once(':').filter(|(_, name)| !name.is_empty())) {
            ("none", _) => Ok(Self::None),
            ("auto", _) => Ok(Self::Auto),
            ("suffix", _) => Ok(Self::Suffix),
            ("recycle", _) => Ok(Self::Recycle),
            ("own", _) => Ok(Self::Own),
            ("store", _) => Ok(Self::Store(None)),
            (_, Some(("store", path))) => Ok(Self::Store(Some(path.into()))),
            (_, Some(("prediction", path))) => Ok(Self::Prediction(path.into())),
            (_, Some(("model", name))) => Ok(Self::Model(name.to_owned())),
            (_, Some(("mask", masks))) => Masks::parse(masks)
                .map(Self::Mask)
                .ok_or_else(|| format!("expected mask:K or mask:K:ID, K from 1 to {MOST_MASKS}")),
            _ => Err(EXPECTED.into()),
        }
    }
}

impl fmt::Display for DrafterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Auto => f.write_str("auto"),
            Self::Suffix => f.write_str("suffix"),
            Self::Recycle => f.write_str("recycle"),
            Self::Own => f.write_str("own"),
            Self::Store(None) => f.write_str("store"),
            Self::Store(Some(path)) => write!(f, "store:{}", path.display()),
            Self::Prediction(path) => write!(f, "prediction:{}", path.display()),
            Self::Model(name) => write!(f, "model:{name}"),
            Self::Mask(Masks { count, token: None }) => write!(f, "mask:{count}"),
            Self::Mask(Masks { count, token: Some(token) }) => write!(f, "mask:{count}:{token}"),
            Self::Several(parts) => {
                for (i, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if i > 0 { "+" } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

impl DrafterArgs {
    /// Loads what the drafters of a command share: what [`DrafterSpec::load`] does, the prediction,
    /// and, where `auto` or `store` asks for it, the store of the model of `source`.
    ///
    /// # Errors
    /// Files that are missing or do not fit the target.
    pub(crate) fn load(&self, target: &Loaded, source: &Source) -> Result<DrafterSource> {
        if self.store_place() == Some(StorePlace::Off)
            && self.drafter.any(|part| matches!(part, DrafterSpec::Store(_)))
        {
            let what = "--drafter store reads and keeps answers, --store off (or LEVERET_STORE=off) neither: leave one out";
            return Err(Usage(what.into()).into());
        }
        let mut drafters = self.drafter.load_with(target, &self.heads)?;
        if self.drafter == DrafterSpec::None {
            return Ok(drafters);
        }
        if let Some(path) = &self.prediction {
            drafters.add(&DrafterSpec::Prediction(path.clone()), target, &self.heads)?;
        }
        if self.drafter.any(|part| matches!(part, DrafterSpec::Auto | DrafterSpec::Store(None)))
            && let Some(path) = self.store_path(source)
        {
            drafters.open_store(&path, &target.words.tokenizer);
        }
        Ok(drafters)
    }

    /// Where answers are kept if that was said, here or in the environment.
    fn store_place(&self) -> Option<StorePlace> {
        let set = || StorePlace::try_from(std::env::var_os("LEVERET_STORE")?).ok();
        self.store.clone().or_else(set)
    }

    /// The file of the model's store; `None` for no store.
    fn store_path(&self, source: &Source) -> Option<PathBuf> {
        match self.store_place() {
            Some(StorePlace::Off) => None,
            Some(StorePlace::At(path)) => Some(path),
            None => {
                let name = source.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let file = format!("{name}-{:016x}", file_key(source));
                Some(pull::home().ok()?.join("answers").join(file))
            }
        }
    }
}

impl DrafterSpec {
    /// Loads what drafters of this kind share for a target: weights, files, earlier texts. Nothing
    /// is carried over from one run to the next but through a file that it names.
    ///
    /// # Errors
    /// Files that are missing or do not fit the target.
    pub(crate) fn load(&self, target: &Loaded) -> Result<DrafterSource> {
        self.load_with(target, &HeadArgs::default())
    }

    fn load_with(&self, target: &Loaded, heads: &HeadArgs) -> Result<DrafterSource> {
        let mut drafters = DrafterSource::default();
        drafters.add(self, target, heads)?;
        Ok(drafters)
    }

    /// Whether it is, or joins, one of those that `holds` says.
    fn any(&self, holds: fn(&Self) -> bool) -> bool {
        match self {
            Self::Several(parts) => parts.iter().any(|part| part.any(holds)),
            single => holds(single),
        }
    }

    /// Whether it names the model's own store.
    pub(crate) fn names_own_store(&self) -> bool {
        self.any(|part| matches!(part, Self::Store(None)))
    }
}

/// What tells one model from another: its path, and the bytes of its files.
fn file_key(source: &Source) -> u64 {
    let path = fs::canonicalize(source.path()).unwrap_or_else(|_| source.path().to_owned());
    let hash = Sha256::new().chain_update(path.as_os_str().as_encoded_bytes());
    first_bytes(hash.chain_update(source.file_bytes().to_le_bytes()))
}

/// What tells one vocabulary from another: its size, and some of its tokens. A file of answers
/// means something for the vocabulary alone.
fn vocabulary_key(tokenizer: &Tokenizer) -> u64 {
    const STEP: usize = 61;
    let size = tokenizer.vocab_size();
    let hash = Sha256::new().chain_update(size.to_le_bytes());
    let tokens = (0..size as u32).step_by(STEP).filter_map(|id| tokenizer.token_bytes(id));
    first_bytes(tokens.fold(hash, |hash, bytes| hash.chain_update(bytes).chain_update([0xff])))
}

fn first_bytes(hash: Sha256) -> u64 {
    hash.finalize().iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// Makes drafters of one kind for one target, one for each text.
#[derive(Default)]
pub(crate) struct DrafterSource {
    makes: Vec<Make>,
    store: Option<(Arc<Store>, PathBuf)>,
}

type Make = Box<dyn Fn() -> Result<Box<dyn Drafter>>>;

impl DrafterSource {
    /// Whether texts are decoded plainly.
    pub(crate) fn is_empty(&self) -> bool {
        self.makes.is_empty()
    }

    /// A drafter for a new text; `None` for plain decoding.
    ///
    /// # Errors
    /// No memory for what it keeps.
    pub(crate) fn build(&self) -> Result<Option<Box<dyn Drafter>>> {
        let mut parts = self.makes.iter().map(|make| make()).collect::<Result<Vec<_>>>()?;
        Ok(match parts.len() {
            0 | 1 => parts.pop(),
            _ => Some(Box::new(Composite::new(parts))),
        })
    }

    /// Keeps an answer for later ones, where there is a store. What cannot be kept is said and done
    /// without.
    pub(crate) fn remember(&self, answer: &[u32]) {
        let Some((store, path)) = &self.store else { return };
        if let Some(note) = store.wait() {
            tell!("{note}");
        }
        if answer.len() < SHORTEST {
            return;
        }
        if !path.exists() {
            tell!("{}: answers are kept here to guess later ones (not with --store off)", path.display());
        }
        store.add(answer);
        if let Err(error) = store.save() {
            tell!("{}: {error}; this answer is not kept (--store off keeps none)", path.display());
        }
    }

    fn add(&mut self, spec: &DrafterSpec, target: &Loaded, heads: &HeadArgs) -> Result<()> {
        match spec {
            // The model's own store is opened by who knows the model's file.
            DrafterSpec::None | DrafterSpec::Store(None) => {}
            DrafterSpec::Auto => {
                self.add(&DrafterSpec::Suffix, target, heads)?;
                self.add(&DrafterSpec::Recycle, target, heads)?;
                // What nobody asked for by name is no reason to refuse a text.
                let own = DraftModel::own(target, heads).unwrap_or_else(|error| {
                    tell!("{}: guessing layers not used: {error:#}", target.path.display());
                    None
                });
                for model in own.into_iter().chain(DraftModel::beside(target, heads)) {
                    self.makes.push(Box::new(move || model.drafter()));
                }
            }
            DrafterSpec::Own => {
                let path = target.path.display();
                let model = DraftModel::own(target, heads)?
                    .with_context(|| format!("{path}: holds no layers that guess; try another --drafter"))?;
                self.makes.push(Box::new(move || model.drafter()));
            }
            DrafterSpec::Suffix => self.makes.push(Box::new(|| Ok(Box::new(SuffixDrafter::default())))),
            DrafterSpec::Recycle => self.makes.push(Box::new(|| Ok(Box::new(RecycleDrafter::new())))),
            DrafterSpec::Store(Some(path)) => self.open_store(path, &target.words.tokenizer),
            DrafterSpec::Prediction(path) => {
                let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
                let ids = target.words.tokenizer.encode(&text, false)?;
                self.makes.push(Box::new(move || Ok(Box::new(PredictionDrafter::new(ids.clone())))));
            }
            DrafterSpec::Model(name) => {
                let model = DraftModel::load(name, target, heads)?;
                self.makes.push(Box::new(move || model.drafter()));
            }
            DrafterSpec::Mask(masks) => {
                let (token, count) = (masks.token(target)?, masks.count);
                let attends = target.model.config().layers.iter().all(|layer| layer.delta.is_none());
                self.makes.push(Box::new(move || Ok(Box::new(MaskDrafter::new(token, count, attends)))));
            }
            DrafterSpec::Several(parts) => {
                for part in parts {
                    self.add(part, target, heads)?;
                }
            }
        }
        Ok(())
    }

    fn open_store(&mut self, path: &Path, tokenizer: &Tokenizer) {
        let store = Store::open(path, vocabulary_key(tokenizer), store::DEFAULT_BYTES);
        let shared = Arc::clone(&store);
        self.makes.push(Box::new(move || Ok(Box::new(StoreDrafter::new(Arc::clone(&shared))))));
        self.store = Some((store, path.to_owned()));
    }
}

/// Answers of fewer tokens are not worth keeping.
const SHORTEST: usize = 16;

impl fmt::Debug for DrafterSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrafterSource").field("parts", &self.makes.len()).field("store", &self.store).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "none",
            "auto",
            "own",
            "store",
            "recycle+store:/a/b:c",
            "model:/a/b+c.gguf+suffix",
            "auto+model:m",
        ] {
            assert_eq!(name.parse::<DrafterSpec>().unwrap().to_string(), name);
        }
        let model = DrafterSpec::Model("b+c.gguf".into());
        assert_eq!("model:b+c.gguf+auto".parse(), Ok(DrafterSpec::Several(vec![model, DrafterSpec::Auto])));
        assert_eq!("mask:4:384+suffix".parse::<DrafterSpec>().unwrap().to_string(), "mask:4:384+suffix");
        for wrong in ["mask:0", "mask:99", "mask:x", "mask:3:-1"] {
            assert!(wrong.parse::<DrafterSpec>().unwrap_err().contains("mask:K"));
        }
        assert!("oracle".parse::<DrafterSpec>().unwrap_err().contains("suffix"));
        assert!("prediction:".parse::<DrafterSpec>().unwrap_err().contains("FILE"));
        assert!("none+suffix".parse::<DrafterSpec>().unwrap_err().contains("none"));
        let place = |text: &str| StorePlace::try_from(OsString::from(text));
        assert_eq!(place("off"), Ok(StorePlace::Off));
        assert_eq!(place("a/off"), Ok(StorePlace::At("a/off".into())));
        assert_eq!(place(""), Err("expected off or a file"));
    }
}
