//! Drafters that guess a block of tokens in one pass: DFlash, DFlash 2, DSpark and DFly, in every
//! layout that they are published in.
//!
//! A block is the text's last token and masks behind it. Its rows read the text as keys and values
//! that are projections of the target's features, and each other. What chooses along a path, where
//! there is such a part, is in [`path`]; dialects end in [`BlockConfig`].

mod config;
mod conv;
mod folder;
mod gguf;
mod guesser;
mod path;
mod weights;

use super::fit::{Claims, LayerIds, refuse_unused};
use super::kinds::{DraftOptions, Kind, Runner};
use super::vocabulary::{MapRule, TokenMap, token_map};
use super::{Description, Guesser, Network, TargetFacts, TargetParts};
use crate::config::Config;
use crate::footprint::packed;
use crate::load::{Files, Source};
use crate::weights::{Measure, Pack, Repack};
use crate::{Error, Result};
pub(crate) use config::{BlockConfig, BlockNames, Shapes};
pub(crate) use gguf::causal_where_unsaid;
use path::PathPart;
use std::sync::Arc;
use weights::BlockWeights;

pub(super) const DFLASH: Kind = kind("dflash", |source| family(source) == Some("dflash"));
pub(super) const DFLASH2: Kind = kind("dflash2", |source| family(source) == Some("dflash2"));
pub(super) const DSPARK: Kind = kind("dspark", |source| family(source) == Some("dspark"));
pub(super) const DFLY: Kind = kind("dfly", |source| family(source) == Some("dfly"));

const fn kind(family: &'static str, matches: fn(&Source) -> bool) -> Kind {
    Kind { family, matches, runner: Runner::Block }
}

/// Which of these families the files are of.
fn family(source: &Source) -> Option<&'static str> {
    match source.files() {
        Files::Gguf(gguf) => gguf::family(gguf),
        Files::Folder(folder) => folder::family(folder),
    }
}

/// See [`Runner`].
pub(super) fn describe(
    source: &Source,
    target: Option<&TargetFacts>,
    options: &DraftOptions,
) -> Result<Description> {
    let found = read(source, target.map(|t| &*t.config), options, &Measure)?;
    refuse_unused(source, found.config.family, options, |name| is_spare(found.config.family, name))?;
    Ok(found.describe(target.map_or(0, |t| t.head_bytes)))
}

/// What the drafter is composed of.
pub(super) fn structure(
    source: &Source,
    target: Option<&Config>,
    options: &DraftOptions,
) -> Result<(BlockConfig, Shapes)> {
    let found = read(source, target, options, &Measure)?;
    Ok((found.config, found.shapes))
}

/// See [`Runner`].
pub(super) fn load(source: &Source, parts: &TargetParts, options: &DraftOptions) -> Result<Arc<dyn Network>> {
    let facts = parts.facts();
    let description = describe(source, Some(&facts), options)?;
    let Found { config, weights, map, .. } =
        read(source, Some(&parts.config), options, &Repack { team: &parts.team, source })?;
    Ok(Arc::new(BlockNetwork { description, config, weights, map, parts: parts.clone() }))
}

/// Tensors that may be there though a drafter of `family` has no use for them: what follows from the
/// configuration, belongs to the target, or served training.
fn is_spare(family: &str, name: &str) -> bool {
    let of_another = family == "dfly" && (name.contains("markov_head.") || name.contains("confidence_head."));
    of_another
        || name.ends_with("rotary_emb.inv_freq")
        || ["verifier_", "rope_freqs"].iter().any(|start| name.starts_with(start))
        || ["t2d", "d2t"].contains(&name)
}

/// All that is in the files.
struct Found<M> {
    config: BlockConfig,
    weights: BlockWeights<M>,
    map: Option<TokenMap>,
    shapes: Shapes,
}

fn read<P: Pack>(
    source: &Source,
    target: Option<&Config>,
    options: &DraftOptions,
    pack: &P,
) -> Result<Found<P::Matrix>> {
    let mut config = match source.files() {
        Files::Gguf(gguf) => gguf::read(gguf, target)?,
        Files::Folder(folder) => folder::read(folder, target)?,
    };
    config.taps =
        LayerIds::Inputs.taps(source.path(), &config.ids, target.map(|t| t.layers.len()), options)?;
    let shapes = config.check(source)?;
    let claims = Claims {
        hidden: Some(shapes.target_hidden),
        vocab: shapes.embedding_rows,
        layers: config.target_layers,
    };
    if let Some(target) = target {
        claims.check(source.path(), target, options)?;
    }
    let tokens = target.map(|t| t.vocab).or(shapes.embedding_rows);
    let map = match (shapes.head_rows, tokens) {
        (Some(rows), Some(tokens)) => token_map(source, config.map_rule, rows, tokens, options.force)?,
        _ => None,
    };
    // Tables with a row per token must reach as far as the target's vocabulary.
    if let Some(tokens) = tokens {
        let short = shapes.tables.iter().chain(&shapes.embedding_rows).find(|&&rows| rows < tokens);
        if let Some(rows) = short {
            let what = format!("a table of {rows} rows cannot serve a target of {tokens} tokens");
            return Err(Error::format(source.path(), what));
        }
        if config.mask as usize >= tokens.max(shapes.embedding_rows.unwrap_or(0)) {
            let what = format!(
                "the mask token is {}, but the target has {tokens} tokens: this drafter was made for another one",
                config.mask
            );
            return Err(Error::format(source.path(), what));
        }
    }
    let shares = shapes.embedding_rows.is_none() || shapes.head_rows.is_none();
    if let Some(target) = target.filter(|t| shares && t.hidden != config.layers.hidden) {
        return Err(Error::format(
            source.path(),
            format!(
                "this drafter has no embedding or head of its own and is {} wide, but the target's are {} wide: it was made for another one",
                config.layers.hidden, target.hidden
            ),
        ));
    }
    let vocab = shapes.head_rows.or(tokens).unwrap_or(0);
    let weights = BlockWeights::load(source, &config, &shapes, vocab, options.precision, pack)?;
    Ok(Found { config, weights, map, shapes })
}

impl Found<crate::weights::MatrixShape> {
    fn describe(&self, target_head: usize) -> Description {
        let head = self.weights.head.as_ref().map_or(target_head, |head| packed(head) as usize);
        let along = match &self.weights.path {
            PathPart::None | PathPart::Selector(_) => 0,
            // What is corrected goes through the head one by one.
            PathPart::Correction(_) => self.weights.path_bytes() + head,
            PathPart::Markov(_) => self.weights.path_bytes(),
        };
        Description {
            family: self.config.family,
            dialect: self.config.dialect,
            taps: self.config.taps.clone(),
            depth: Some(self.config.slots()),
            vocab: self.weights.vocab,
            bytes_per_step: self.weights.pass_bytes(&self.config.layers) + self.weights.path_bytes() + head,
            bytes_along: along,
            kv_values: self.config.layers.kv_values_read(),
        }
    }
}

/// A loaded block drafter.
#[derive(Debug)]
struct BlockNetwork {
    description: Description,
    config: BlockConfig,
    weights: BlockWeights,
    map: Option<TokenMap>,
    parts: TargetParts,
}

impl Network for BlockNetwork {
    fn description(&self) -> &Description {
        &self.description
    }

    fn guesser(self: Arc<Self>, capacity: usize) -> Result<Box<dyn Guesser>> {
        Ok(Box::new(guesser::BlockGuesser::new(self, capacity)?))
    }
}
