//! Whether a drafter fits a target: what its files claim of it, and the layers that it reads.

use super::kinds::DraftOptions;
use crate::config::Config;
use crate::load::Source;
use crate::target::Tap;
use crate::{Error, Result};
use std::path::Path;

/// What a drafter's files say of the target that it was made for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// Width of its residual stream. Weights are shaped by it, so that no force helps.
    pub(crate) hidden: Option<usize>,
    /// Its number of tokens.
    pub(crate) vocab: Option<usize>,
    /// Its number of layers.
    pub(crate) layers: Option<usize>,
}

impl Claims {
    /// Of a head whose own decoder has the target's width and tokens.
    pub(crate) fn like(config: &Config) -> Self {
        Self { hidden: Some(config.hidden), vocab: Some(config.vocab), layers: None }
    }

    /// Compares them with a target.
    ///
    /// # Errors
    /// Another width; another number of tokens or layers, unless `options` force it.
    pub(crate) fn check(&self, path: &Path, target: &Config, options: &DraftOptions) -> Result<()> {
        if let Some(hidden) = self.hidden.filter(|&hidden| hidden != target.hidden) {
            return Err(Error::format(
                path,
                format!(
                    "this drafter reads features of width {hidden}, but the target's ({}) have {}: it was made for another one",
                    target.family, target.hidden
                ),
            ));
        }
        for (what, claimed, found) in
            [("tokens", self.vocab, target.vocab), ("layers", self.layers, target.layers.len())]
        {
            if let Some(claimed) = claimed.filter(|&claimed| claimed != found && !options.force) {
                return Err(Error::format(
                    path,
                    format!(
                        "this drafter was made for a target with {claimed} {what}, this one ({}) has {found}: use another drafter, or force it",
                        target.family
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Refuses layers that let in embeddings of their own: nobody makes these for a drafter's rows.
pub(crate) fn refuse_per_layer(path: &Path, config: &Config) -> Result<()> {
    let Some(per_layer) = config.per_layer else { return Ok(()) };
    let what = format!(
        "a drafter whose layers have embeddings of {} values of their own (`hidden_size_per_layer_input`, \
         in GGUF `embedding_length_per_layer_input`); supported: 0, none",
        per_layer.width
    );
    Err(Error::unsupported(path, what))
}

/// The width of the target's features that a file names, if any model can have it.
///
/// # Errors
/// None can.
pub(crate) fn feature_width(path: &Path, width: usize) -> Result<usize> {
    const MOST: usize = 1 << 20;
    match width {
        1..=MOST => Ok(width),
        _ => Err(Error::format(path, format!("features of width {width} are named, expected 1 to {MOST}"))),
    }
}

/// How a format counts the layers whose residual stream a drafter reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerIds {
    /// `i` is what goes into layer `i` (speculators, vLLM, GGUF, EAGLE-3's own defaults).
    Inputs,
    /// `i` is what comes out of layer `i` (DeepSpec, SpecForge).
    Outputs,
}

impl LayerIds {
    /// The taps that `ids` mean, in their order, or those that `options` name instead.
    ///
    /// # Errors
    /// None, too many, or one that `layers` layers do not have.
    pub(crate) fn taps(
        self,
        path: &Path,
        ids: &[usize],
        layers: Option<usize>,
        options: &DraftOptions,
    ) -> Result<Vec<Tap>> {
        const MOST: usize = 64;
        let shift = match self {
            LayerIds::Inputs => 0,
            LayerIds::Outputs => 1,
        };
        let after: Vec<usize> = match &options.taps {
            Some(taps) => taps.clone(),
            None => ids.iter().map(|id| id.saturating_add(shift)).collect(),
        };
        if after.is_empty() || after.len() > MOST {
            let what = format!("{} features of the target are named, expected 1 to {MOST}", after.len());
            return Err(Error::format(path, what));
        }
        if let (Some(layers), Some(k)) = (layers, after.iter().find(|&&k| Some(k) > layers)) {
            return Err(Error::format(
                path,
                format!(
                    "this drafter reads the residual stream after {k} layers, but the target has {layers}: it was made for a deeper one"
                ),
            ));
        }
        Ok(after.into_iter().map(Tap::Residual).collect())
    }
}

/// Refuses files with a tensor that nobody has read, unless `spare` knows why it may be there.
///
/// # Errors
/// Such a tensor, unless `options` force it.
pub(crate) fn refuse_unused(
    source: &Source,
    family: &str,
    options: &DraftOptions,
    spare: impl Fn(&str) -> bool,
) -> Result<()> {
    match source.unused().find(|name| !options.force && !spare(name)) {
        None => Ok(()),
        Some(name) => Err(Error::format(
            source.path(),
            format!(
                "tensor `{name}` belongs to nothing in a drafter of family {family}: the configuration is of another one, or the file is; force it to leave the tensor out"
            ),
        )),
    }
}
