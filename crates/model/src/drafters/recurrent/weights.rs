//! The tensors of a head.

use super::{Design, Join};
use crate::config::Presence;
use crate::drafters::kinds::DraftOptions;
use crate::drafters::vocabulary::{TokenMap, token_map};
use crate::layers::Layer;
use crate::load::Source;
use crate::weights::{Pack, Tensors, load_layer};
use crate::{Error, Result};
use leveret_kernels::Matrix;

/// All weights of a head.
#[derive(Debug)]
pub(super) struct Weights<M = Matrix> {
    pub(super) embedding: Option<M>,
    pub(super) head: Option<M>,
    /// Target token of each row of the head; absent if they are the same.
    pub(super) tokens: Option<TokenMap>,
    pub(super) fc: M,
    pub(super) feature_norms: Vec<Vec<f32>>,
    pub(super) embedding_norm: Option<Vec<f32>>,
    pub(super) hidden_norm: Option<Vec<f32>>,
    pub(super) final_norm: Option<Vec<f32>>,
    pub(super) mask_hidden: Option<Vec<f32>>,
    pub(super) layers: Vec<Layer<M>>,
}

/// Loads what `design` names.
pub(super) fn load<P: Pack>(
    source: &Source,
    design: &Design,
    options: &DraftOptions,
    pack: &P,
) -> Result<Weights<P::Matrix>> {
    let Design { config, names, .. } = design;
    let norm_offset = config.norm_offset;
    let tensors = || Tensors { source, precision: options.precision, norm_offset, pack };
    let (width, loader) = (config.hidden, tensors());
    let norm = |name: &Option<String>, len: usize| {
        name.as_ref().map(|name| loader.norm(&format!("{name}.weight"), len)).transpose()
    };
    let matrix = |name: &Option<String>, rows: usize| {
        name.as_ref().map(|name| loader.matrix(name, rows, width, Presence::No)).transpose()
    };
    let features = features(source, design)?;
    let (inputs, feature_width) = match design.join {
        Join::Beside { .. } => (features, width),
        Join::Projected { .. } => (width + features, features),
    };
    let layer = |(i, base): (usize, &String)| load_layer(tensors(), config, i, base);
    let head = matrix(&names.head, design.head_rows)?;
    Ok(Weights {
        tokens: match head {
            Some(_) => token_map(source, design.map, design.head_rows, design.vocab, options.force)?,
            None => None,
        },
        embedding: matrix(&names.embedding, config.vocab)?,
        head,
        fc: loader.matrix(&names.fc, width, inputs, Presence::IfPresent)?,
        feature_norms: names
            .feature_norms
            .iter()
            .map(|(name, len)| loader.norm(&format!("{name}.weight"), *len))
            .collect::<Result<_>>()?,
        embedding_norm: norm(&names.embedding_norm, width)?,
        hidden_norm: norm(&names.hidden_norm, feature_width)?,
        final_norm: norm(&names.final_norm, width)?,
        mask_hidden: match &names.mask_hidden {
            Some(name) => Some(loader.vector(name, &[1, 1, features])?),
            None => None,
        },
        layers: design.layer_names.iter().enumerate().map(layer).collect::<Result<_>>()?,
    })
}

/// Width of all features together. Where nothing says how many there are, the projection does.
fn features(source: &Source, design: &Design) -> Result<usize> {
    if !design.taps.is_empty() {
        return Ok(design.taps.len() * design.feature);
    }
    let name = format!("{}.weight", design.names.fc);
    match source.tensor(&name)? {
        Some(tensor) if tensor.shape.len() == 2 => Ok(tensor.shape[1]),
        _ => Err(Error::format(source.path(), format!("tensor `{name}` is missing, or no matrix"))),
    }
}
