//! Another checkpoint as drafter: a head made for the target, or a language model, whose tokens are
//! compared with the target's one by one. Both run on the target's threads.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use leveret_model::drafters::{self, AssistantOptions, DraftOptions, DraftPosition, LanguageModel, Network};
use leveret_model::tokenizer::Tokenizer;
use leveret_model::{Files, LoadOptions, Model, Precision, Source, Target};
use leveret_spec::drafters::{NetworkDrafter, TranslatedDrafter, network_lessons};
use leveret_spec::{CostCurve, Drafter};

use crate::control::Costs;
use crate::model::{self, Loaded};
use crate::streams::tell;

/// How heads made for a model are read.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HeadArgs {
    /// Features that a head reads, where its files name the wrong ones: the residual stream after so
    /// many layers of the target.
    #[arg(long, value_name = "LAYERS,…", value_delimiter = ',')]
    draft_taps: Option<Vec<usize>>,
    /// Use a head though its files say that it was made for another model.
    #[arg(long)]
    draft_force: bool,
    /// Where the steps of Gemma 4's assistants stand: at the last token, at the row before it, or,
    /// measured in the first rounds, wherever more comes true.
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    draft_position: Position,
}

/// Position of an assistant's steps.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Position {
    #[default]
    Measured,
    Token,
    Row,
}

impl HeadArgs {
    /// The same for the loader; weights become of `precision`.
    pub(crate) fn options(&self, precision: Precision) -> DraftOptions {
        let position = match self.draft_position {
            Position::Measured => DraftPosition::Measured,
            Position::Token => DraftPosition::LastToken,
            Position::Row => DraftPosition::LastRow,
        };
        DraftOptions {
            precision,
            taps: self.draft_taps.clone(),
            force: self.draft_force,
            assistant: AssistantOptions { position, ..AssistantOptions::default() },
        }
    }
}

/// Tokens that a block of masks guesses at once, where a file does not say how many it was trained for.
const MASKED_DEPTH: usize = 8;

/// A draft model, ready for any number of texts.
#[derive(Debug)]
pub(crate) struct DraftModel {
    network: Arc<dyn Network>,
    /// Tokenizers of the target and of the draft model, where they spell text in different tokens.
    translation: Option<(Arc<Tokenizer>, Arc<Tokenizer>)>,
    /// Room of a text.
    capacity: usize,
    /// What passes of a language model take on this machine.
    costs: Option<CostCurve>,
}

impl DraftModel {
    /// Loads the model `name` as drafter for `target`.
    pub(crate) fn load(name: &str, target: &Loaded, heads: &HeadArgs) -> Result<Self> {
        let source = model::open(Some(name))?;
        if drafters::recognise(&source).is_some() {
            return Self::head(&source, target, heads);
        }
        Self::language(&source, name, target)
    }

    /// A whole language model, called `name`.
    fn language(source: &Source, name: &str, target: &Loaded) -> Result<Self> {
        let parts = target.model.parts();
        let options =
            LoadOptions { kv: target.model.kv_type(), precision: target.precision, ..LoadOptions::default() };
        let bytes = source.footprint(&options)?.bytes_per_token as usize;
        let tokenizer = source.tokenizer()?;
        let mut model = Model::load_on(Arc::clone(parts.team()), source, &options)?;
        let costs = Costs::of_draft(&model, source, target.precision).curve(&mut model)?;
        let own = &target.words.tokenizer;
        let same = first_difference(own, &tokenizer);
        let vocab = match same {
            None => target.model.vocab_size(),
            Some(_) => model.vocab_size(),
        };
        let mut network = LanguageModel::new(model, vocab, bytes)?;
        let mask = mask_token(source);
        if let Some(mask) = mask {
            network = network.with_mask(mask, MASKED_DEPTH)?;
        }
        let translation = match same {
            None => None,
            Some(difference) if mask.is_some() => bail!(
                "{name}: guesses blocks for its own vocabulary only, and the target's is another: {difference}"
            ),
            Some(difference) => {
                tell!("{name}: another vocabulary than the target's ({difference}); its text is translated");
                Some((Arc::clone(own), Arc::new(tokenizer)))
            }
        };
        let capacity = target.model.max_context();
        Ok(Self { network: Arc::new(network), translation, capacity, costs: Some(costs) })
    }

    /// The guessing layers in the target's own files; `None` if there are none.
    pub(crate) fn own(target: &Loaded, heads: &HeadArgs) -> Result<Option<Self>> {
        if !target.guesses {
            return Ok(None);
        }
        Self::head(&Source::open(&target.path)?, target, heads).map(Some)
    }

    /// A head made for the target.
    fn head(source: &Source, target: &Loaded, heads: &HeadArgs) -> Result<Self> {
        let network = drafters::load(source, &target.model.parts(), &heads.options(target.precision))?;
        Ok(Self { network, translation: None, capacity: target.model.max_context(), costs: None })
    }

    /// Drafters made for the target that lie beside it: in its folder, or next to it under its name
    /// and a dash. Of whole models those that were put there to draft: they guess blocks, or their name goes on with
    /// `draft`. One that does not fit is passed over with a word; so is, without one, another whole
    /// model with layers that guess, if the target has its own.
    pub(crate) fn beside(target: &Loaded, heads: &HeadArgs) -> Vec<Self> {
        let mut found = Vec::new();
        for path in neighbours(&target.path) {
            let Ok(source) = Source::open(&path) else { continue };
            let name = path.display().to_string();
            let loaded = match drafters::recognise(&source) {
                Some(_) if target.guesses && source.config().is_ok() => continue,
                Some(_) => Self::head(&source, target, heads),
                None if mask_token(&source).is_some() || called_draft(&path, &target.path) => {
                    Self::language(&source, &name, target)
                }
                None => continue,
            };
            match loaded {
                Ok(drafter) => found.push(drafter),
                Err(error) => tell!("{}: not used as drafter: {error:#}", path.display()),
            }
        }
        found
    }

    /// The network itself.
    pub(crate) fn network(&self) -> &Arc<dyn Network> {
        &self.network
    }

    /// A drafter for a new text.
    pub(crate) fn drafter(&self) -> Result<Box<dyn Drafter>> {
        let network = Arc::clone(&self.network);
        let mut drafter: Box<dyn Drafter> = match &self.translation {
            None => Box::new(NetworkDrafter::new(network, self.capacity).context("draft model")?),
            Some((target, own)) => {
                let (target, own) = (Arc::clone(target), Arc::clone(own));
                Box::new(TranslatedDrafter::new(network, self.capacity, target, own).context("draft model")?)
            }
        };
        self.costs.iter().for_each(|costs| drafter.remember(&network_lessons(costs)));
        Ok(drafter)
    }
}

/// Files and folders in which a drafter for the model at `path` would lie, in the order of their names.
fn neighbours(path: &Path) -> Vec<PathBuf> {
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    // What follows a dot belongs to the name of a folder.
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.unwrap_or_default().to_string_lossy().into_owned() + "-";
    let named = |other: &PathBuf| {
        other != path && other.file_name().is_some_and(|other| other.to_string_lossy().starts_with(&name))
    };
    let inside = path.is_dir().then(|| entries(path).filter(|inner| inner.is_dir()));
    let next = path.parent().map(|parent| entries(parent).filter(named));
    let mut found: Vec<_> = inside.into_iter().flatten().chain(next.into_iter().flatten()).collect();
    found.sort();
    found
}

/// Whether a neighbour's name is that of the model and `-draft`, or in the model's folder begins with `draft`.
fn called_draft(path: &Path, model: &Path) -> bool {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = if model.is_dir() { name(model) } else { name(&model.with_extension("")) };
    let own = name(path);
    own.strip_prefix(&stem).and_then(|rest| rest.strip_prefix('-')).unwrap_or(&own).starts_with("draft")
}

/// Where two vocabularies differ first, in words; `None` when one is the beginning of the other.
/// Control tokens may differ: they cost a guess, no more.
fn first_difference(a: &Tokenizer, b: &Tokenizer) -> Option<String> {
    let shared = a.vocab_size().min(b.vocab_size());
    if shared * 2 < a.vocab_size().max(b.vocab_size()) {
        return Some(format!("{} tokens against {}", b.vocab_size(), a.vocab_size()));
    }
    let id = (0..shared as u32)
        .find(|&id| a.token_text(id) != b.token_text(id) && !(a.is_special(id) && b.is_special(id)))?;
    let text = |t: &Tokenizer| t.token_text(id).unwrap_or("nothing").to_owned();
    Some(format!("token {id} is {:?} against {:?}", text(b), text(a)))
}

/// The mask token of a model trained to guess blocks (PARD's `pard_token`).
fn mask_token(source: &Source) -> Option<u32> {
    let Files::Folder(folder) = source.files() else { return None };
    let config = folder.config.as_ref()?;
    u32::try_from(config.get("pard_token")?.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_models_draft_where_their_name_says_so() {
        let called = |other: &str, model: &str| called_draft(Path::new(other), Path::new(model));
        assert!(called("at/qwen-draft.gguf", "at/qwen.gguf") && called("at/qwen-draft-0.5B", "at/qwen.gguf"));
        assert!(!called("at/qwen-2B.gguf", "at/qwen.gguf") && !called("at/qwen-eagle3", "at/qwen.gguf"));
        let model = tempfile::tempdir().unwrap();
        assert!(called_draft(&model.path().join("draft"), model.path()));
        assert!(!called_draft(&model.path().join("mtp"), model.path()));
    }

    #[test]
    fn drafters_are_looked_for_where_they_lie() {
        let home = tempfile::tempdir().unwrap();
        for folder in ["qwen/mtp", "qwen-eagle3", "qwen2-eagle3", "qwen.5-2B", "qwen.5-2B-mtp", "other"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        for file in ["qwen.gguf", "qwen-dflash.gguf", "qwen/config.json"] {
            fs::write(home.path().join(file), "").unwrap();
        }
        let names = |path: &str| -> Vec<String> {
            let found = neighbours(&home.path().join(path));
            found.iter().map(|p| p.strip_prefix(home.path()).unwrap().display().to_string()).collect()
        };
        assert_eq!(names("qwen"), ["qwen/mtp", "qwen-dflash.gguf", "qwen-eagle3"]);
        assert_eq!(names("qwen.gguf"), ["qwen-dflash.gguf", "qwen-eagle3"]);
        assert_eq!(names("qwen.5-2B"), ["qwen.5-2B-mtp"]);
        assert_eq!(names("other"), [""; 0]);
    }
}
