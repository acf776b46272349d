//! From files to a drafter: the kinds that there are, how each is recognised, and what may be asked
//! of all of them.

use super::assistant::{self, AssistantOptions};
use super::block::{self, BlockConfig, Shapes};
use super::recurrent::{self, Design};
use super::{Description, Network, TargetFacts, TargetParts};
use crate::config::Config;
use crate::load::{Files, Source};
use crate::weights::Precision;
use crate::{Error, Result};
use std::sync::Arc;

/// How a drafter is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DraftOptions {
    /// What becomes of its weights.
    pub precision: Precision,
    /// Features to read instead of those that its files name: residual streams after so many layers
    /// of the target.
    pub taps: Option<Vec<usize>>,
    /// Load it though its files say that it was made for another target.
    pub force: bool,
    /// Conventions of Gemma 4's assistants.
    pub assistant: AssistantOptions,
}

/// What a drafter is composed of, whatever dialect described it: for writing it in another one.
#[derive(Debug)]
pub(crate) enum Structure {
    /// It guesses token by token.
    Head(Box<Design>),
    /// It guesses a block.
    Block(Box<BlockConfig>, Shapes),
    /// It reads the target's keys and values.
    Assistant(Box<assistant::Plan>),
}

/// A kind of drafter.
pub(crate) struct Kind {
    /// Its family, as [`Description::family`] has it.
    pub(crate) family: &'static str,
    /// Whether `source` holds one.
    pub(crate) matches: fn(&Source) -> bool,
    pub(crate) runner: Runner,
}

/// What computes a drafter. Each describes one, checking every tensor's presence and shape and that
/// it fits the target if there is one, and loads it.
pub(crate) enum Runner {
    /// Token by token; the dialect says what it is composed of.
    Recurrent(fn(&Source, Option<&Config>, &DraftOptions) -> Result<Design>),
    /// A block at once.
    Block,
    /// On the target's own keys and values.
    Assistant,
}

/// All kinds; the first that recognises the files counts.
const KINDS: [Kind; 9] = [
    assistant::KIND,
    recurrent::mtp::MTP,
    recurrent::eagle3::EAGLE3,
    recurrent::eagle1::EAGLE1,
    recurrent::mistral::MISTRAL_EAGLE,
    block::DFLASH,
    block::DFLASH2,
    block::DSPARK,
    block::DFLY,
];

/// Whether `source` holds a drafter, and of which family. A target that has one in its own file
/// counts as well.
pub fn recognise(source: &Source) -> Option<&'static str> {
    find(source).map(|kind| kind.family)
}

/// Says what the drafter in `source` is, and checks that it is complete and fits `target`.
///
/// # Errors
/// No drafter, or one that [`load`] would refuse.
pub fn describe(
    source: &Source,
    target: Option<&TargetFacts>,
    options: &DraftOptions,
) -> Result<Description> {
    let kind = find(source).ok_or_else(|| unknown(source))?;
    match kind.runner {
        Runner::Recurrent(design) => {
            let design = design(source, target.map(|target| &*target.config), options)?;
            recurrent::describe(source, &design, target, options)
        }
        Runner::Block => block::describe(source, target, options),
        Runner::Assistant => assistant::describe(source, target, options),
    }
}

/// Loads the drafter in `source` for the target that `parts` are of.
///
/// # Errors
/// No drafter of a kind that is supported; a tensor that is missing, has another shape than the
/// configuration says, or belongs to nothing; a drafter that does not fit the target, by its width,
/// vocabulary or taps.
pub fn load(source: &Source, parts: &TargetParts, options: &DraftOptions) -> Result<Arc<dyn Network>> {
    let kind = find(source).ok_or_else(|| unknown(source))?;
    match kind.runner {
        Runner::Recurrent(design) => {
            recurrent::load(source, design(source, Some(&parts.config), options)?, parts, options)
        }
        Runner::Block => block::load(source, parts, options),
        Runner::Assistant => assistant::load(source, parts, options),
    }
}

/// What the drafter in `source` is composed of; `None` if there is none.
///
/// # Errors
/// As [`describe`].
pub(crate) fn structure(source: &Source, target: Option<&TargetFacts>) -> Result<Option<Structure>> {
    let Some(kind) = find(source) else { return Ok(None) };
    let options = DraftOptions::default();
    describe(source, target, &options)?;
    let target = target.map(|target| &*target.config);
    Ok(Some(match kind.runner {
        Runner::Recurrent(design) => Structure::Head(Box::new(design(source, target, &options)?)),
        Runner::Block => {
            let (config, shapes) = block::structure(source, target, &options)?;
            Structure::Block(Box::new(config), shapes)
        }
        Runner::Assistant => Structure::Assistant(Box::new(assistant::plan(source)?)),
    }))
}

fn find(source: &Source) -> Option<&'static Kind> {
    const { &KINDS }.iter().find(|kind| (kind.matches)(source))
}

fn unknown(source: &Source) -> Error {
    let found = match source.files() {
        Files::Gguf(gguf) => match gguf.meta().get::<&str>("general.architecture") {
            Ok(Some(name)) => format!("architecture `{name}`"),
            _ => "no architecture".into(),
        },
        Files::Folder(folder) => {
            let config = folder.config.as_ref().or(folder.params.as_ref());
            let name = config.and_then(|c| c.get("architectures")?.get(0)?.as_str());
            name.map_or_else(|| "no architecture".into(), |name| format!("architecture `{name}`"))
        }
    };
    let families: Vec<_> = const { &KINDS }.iter().map(|kind| kind.family).collect();
    let what =
        format!("holds no drafter that this engine knows ({found}); supported: {}", families.join(", "));
    Error::unsupported(source.path(), what)
}
