//! Heads that guess token by token from their own last state: EAGLE-1 and 3, their relatives, and
//! MTP layers. A few layers with caches of their own read each token together with a feature of the
//! target, or of the head itself where the target has not been yet.
//!
//! Every dialect is a table that fills in one [`Design`]; [`guesser`] alone computes.

mod design;
pub(super) mod eagle1;
pub(super) mod eagle3;
mod guesser;
pub(super) mod mistral;
pub(super) mod mtp;
mod weights;

pub(crate) use design::{Design, Join, Names, Next, Slots};

use super::fit::refuse_unused;
use super::kinds::DraftOptions;
use super::{Description, Guesser, Network, TargetFacts, TargetParts};
use crate::footprint::{layer_bytes, packed};
use crate::load::Source;
use crate::weights::{Measure, Repack};
use crate::{Error, Result};
use guesser::RecurrentGuesser;
use leveret_kernels::Matrix;
use std::sync::Arc;
use weights::Weights;

/// A loaded head.
#[derive(Debug)]
pub(crate) struct Recurrent {
    description: Description,
    design: Design,
    weights: Weights,
    target: TargetParts,
}

/// Checks that the files hold what `design` says, and that it fits the target; describes it.
pub(super) fn describe(
    source: &Source,
    design: &Design,
    target: Option<&TargetFacts>,
    options: &DraftOptions,
) -> Result<Description> {
    let weights = weights::load(source, design, options, &Measure)?;
    if let Some(target) = target {
        let (own, of_target) = (design.config.hidden, target.config.hidden);
        let shares = design.names.embedding.is_none() || design.names.head.is_none();
        if shares && own != of_target {
            return Err(Error::format(
                source.path(),
                format!(
                    "this drafter has no embedding or head of its own and is {own} wide, but the target's are {of_target} wide: it was made for another one"
                ),
            ));
        }
    }
    if design.complete {
        refuse_unused(source, design.family, options, is_spare)?;
    }
    let head = match (&weights.head, target) {
        (Some(head), _) => packed(head) as usize,
        (None, Some(target)) => target.head_bytes,
        (None, None) => 0,
    };
    let fc = match design.join {
        // Only rows that the target has been over are projected; a block always reads some.
        Join::Beside { .. } if design.slots.is_none() => 0,
        _ => packed(&weights.fc) as usize,
    };
    let layers = weights.layers.iter().zip(&design.config.layers).map(|(l, config)| layer_bytes(l, config));
    Ok(Description {
        family: design.family,
        dialect: design.dialect,
        taps: design.taps.clone(),
        depth: design.slots.map(|slots| slots.count),
        vocab: weights.tokens.as_ref().map_or(design.vocab, |tokens| tokens.len()),
        bytes_per_step: fc + layers.sum::<u64>() as usize + head,
        bytes_along: 0,
        kv_values: design.config.kv_values_read(),
    })
}

/// Loads the head that `design` describes.
pub(super) fn load(
    source: &Source,
    design: Design,
    parts: &TargetParts,
    options: &DraftOptions,
) -> Result<Arc<dyn Network>> {
    let description = describe(source, &design, Some(&parts.facts()), options)?;
    let weights = weights::load(source, &design, options, &Repack { team: &parts.team, source })?;
    Ok(Arc::new(Recurrent { description, design, weights, target: parts.clone() }))
}

/// Tensors that files of this kind may hold besides: what follows from the configuration, or
/// belongs to the target.
fn is_spare(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || name.starts_with("verifier_")
        || name.starts_with("rope_freqs")
        || ["t2d", "embed_tokens.weight", "token_embd.weight", "lm_head.weight"].contains(&name)
}

impl Recurrent {
    /// `[tokens, hidden]`, its own or the target's.
    fn embedding(&self) -> &Matrix {
        self.weights.embedding.as_ref().unwrap_or(&self.target.embedding)
    }

    /// `[candidates, hidden]`, its own or the target's.
    fn head(&self) -> &Matrix {
        self.weights.head.as_ref().unwrap_or(&self.target.head)
    }
}

impl Network for Recurrent {
    fn description(&self) -> &Description {
        &self.description
    }

    fn guesser(self: Arc<Self>, capacity: usize) -> Result<Box<dyn Guesser>> {
        Ok(Box::new(RecurrentGuesser::new(self, capacity)?))
    }
}
