//! From named tensors to the matrices and vectors that layers hold: names resolved, shapes checked,
//! weights repacked one tensor at a time and each tensor's file pages given back after that.
//!
//! The same walk without packing says what a model will need ([`crate::footprint`]).

mod delta;
mod experts;
pub(crate) mod fp8;
mod pack;
mod tensors;

pub(crate) use delta::ByHead;
pub(crate) use experts::ExpertRows;
pub(crate) use pack::{MatrixShape, Measure, Pack, Repack, convert, fitting};
use tensors::Place;
pub(crate) use tensors::Tensors;

use crate::Result;
use crate::config::{
    AttentionConfig, AttentionInput, Config, DenseBeside, ExpertsConfig, Head, KvSource, MlpConfig,
    PerLayerConfig, Presence,
};
use crate::layers::{
    Attention, Beside, Experts, Gated, Layer, Mixer, Mlp, MlpKind, NormWeights, PerLayerGate, PerLayerInputs,
    Shared,
};
use crate::load::Source;
use leveret_kernels::{ElementType, Matrix};
use std::sync::Arc;

/// What becomes of a file's weights in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Stay as they are stored.
    #[default]
    AsStored,
    /// Floats are quantised (except norms and routers); blocks stay as they are stored.
    Quantize(ElementType),
    /// Blocks are decoded to `f32`, so that activations are not rounded either: the reference
    /// arithmetic that goldens are compared in, at four bytes a weight.
    Float,
}

/// All weights of a decoder; `M` is a packed matrix.
#[derive(Debug)]
pub(crate) struct Weights<M = Matrix> {
    /// Shared, as is the head, with drafters that have none of their own.
    pub(crate) embedding: Arc<M>,
    /// Absent: the embedding serves.
    pub(crate) head: Option<Arc<M>>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) per_layer: Option<PerLayerInputs<M>>,
    pub(crate) layers: Vec<Layer<M>>,
}

/// Loads the weights that `config` describes.
///
/// # Errors
/// A tensor that is missing, has another shape than the configuration says, or cannot be packed.
pub(crate) fn load<P: Pack>(
    source: &Source,
    config: &Config,
    precision: Precision,
    pack: &P,
) -> Result<Weights<P::Matrix>> {
    let names = &config.names;
    let embedding_of = |prefix: &&&str| source.has(&format!("{prefix}{}.weight", names.embedding));
    let prefix = names.prefixes.iter().find(embedding_of).copied().unwrap_or(names.prefixes[0]);
    let tensors = Tensors { source, precision, norm_offset: config.norm_offset, pack };
    let loader = Loader { tensors, config, prefix };
    let embedding_name = format!("{prefix}{}", names.embedding);
    // The largest matrix first: two copies of it are in memory while nothing else is.
    let embedding = loader.tensors.matrix(&embedding_name, config.vocab, config.hidden, Presence::No)?;
    let head = loader.head()?;
    let per_layer = config.per_layer.map(|per_layer| loader.per_layer_inputs(per_layer)).transpose()?;
    let layer = |i| loader.layer(i);
    Ok(Weights {
        embedding: Arc::new(embedding),
        head: head.map(Arc::new),
        per_layer,
        final_norm: loader.tensors.norm(&format!("{prefix}{}.weight", names.final_norm), config.hidden)?,
        layers: (0..config.layers.len()).map(layer).collect::<Result<_>>()?,
    })
}

/// Loads the layers that `config` describes and nothing else, from files that hold no whole decoder.
/// `prefix` stands before their names.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_layers<P: Pack>(
    source: &Source,
    config: &Config,
    prefix: &'static str,
    precision: Precision,
    pack: &P,
) -> Result<Vec<Layer<P::Matrix>>> {
    let tensors = Tensors { source, precision, norm_offset: config.norm_offset, pack };
    let loader = Loader { tensors, config, prefix };
    (0..config.layers.len()).map(|i| loader.layer(i)).collect()
}

/// Loads layer `index` of those that `config` describes, from files that hold no whole decoder.
/// `base` stands before its tensors' names.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_layer<P: Pack>(
    tensors: Tensors<'_, P>,
    config: &Config,
    index: usize,
    base: &str,
) -> Result<Layer<P::Matrix>> {
    Loader { tensors, config, prefix: "" }.layer_named(index, &|suffix| format!("{base}{suffix}"))
}

struct Loader<'a, P: Pack> {
    tensors: Tensors<'a, P>,
    config: &'a Config,
    prefix: &'static str,
}

impl<P: Pack> Loader<'_, P> {
    fn head(&self) -> Result<Option<P::Matrix>> {
        let names = self.config.names.heads;
        let name = names.iter().find(|name| self.tensors.source.has(&format!("{name}.weight")));
        let name = match (self.config.head, name) {
            (Head::Tied, _) | (Head::OwnIfPresent, None) => return Ok(None),
            (_, name) => name.unwrap_or(&names[0]),
        };
        self.tensors.matrix(name, self.config.vocab, self.config.hidden, Presence::No).map(Some)
    }

    fn layer(&self, index: usize) -> Result<Layer<P::Matrix>> {
        let base = format!("{}{}{index}.", self.prefix, self.config.names.layer);
        self.layer_named(index, &|suffix| format!("{base}{suffix}"))
    }

    fn layer_named(&self, index: usize, name: &dyn Fn(&str) -> String) -> Result<Layer<P::Matrix>> {
        let layer = &self.config.layers[index];
        let names = &self.config.names;
        let hidden = self.config.hidden;
        let norm = |suffix: &str| self.tensors.norm(&format!("{}.weight", name(suffix)), hidden);
        let post_norm = |suffix: &str| layer.post_norms.then(|| norm(suffix)).transpose();
        Ok(Layer {
            mixer: {
                let before = match layer.attention.input {
                    AttentionInput::Given { .. } if layer.delta.is_none() => Vec::new(),
                    _ => norm(names.attention_norm)?,
                };
                let norms = NormWeights { before, after: post_norm(names.attention_post_norm)? };
                match &layer.delta {
                    None => Mixer::Attention(self.attention(&layer.attention, name, norms)?),
                    Some(delta) => Mixer::Delta(self.delta(delta, name, norms)?),
                }
            },
            mlp: self.mlp(
                &layer.mlp,
                name,
                NormWeights { before: norm(names.mlp_norm)?, after: post_norm(names.mlp_post_norm)? },
            )?,
            per_layer: self.config.per_layer.map(|part| self.per_layer_gate(part, name)).transpose()?,
            output_scale: match layer.output_scale {
                true => self.tensors.vector(&name(names.output_scale), &[1])?.first().copied(),
                false => None,
            },
        })
    }

    fn per_layer_inputs(&self, part: PerLayerConfig) -> Result<PerLayerInputs<P::Matrix>> {
        let (names, hidden) = (&self.config.names.per_layer, self.config.hidden);
        let name = |name: &str| format!("{}{name}", self.prefix);
        let width = self.config.layers.len() * part.width;
        Ok(PerLayerInputs {
            table: self.tensors.matrix(&name(names.table), part.vocab, width, Presence::No)?,
            projection: self.tensors.matrix(&name(names.projection), width, hidden, Presence::No)?,
            norm: self.tensors.norm(&format!("{}.weight", name(names.norm)), part.width)?,
        })
    }

    fn per_layer_gate(
        &self,
        part: PerLayerConfig,
        name: &dyn Fn(&str) -> String,
    ) -> Result<PerLayerGate<P::Matrix>> {
        let (names, hidden) = (&self.config.names.per_layer, self.config.hidden);
        Ok(PerLayerGate {
            gate: self.tensors.matrix(&name(names.gate), part.width, hidden, Presence::No)?,
            out: self.tensors.matrix(&name(names.out), hidden, part.width, Presence::No)?,
            post_norm: self.tensors.norm(&format!("{}.weight", name(names.post_norm)), hidden)?,
        })
    }

    fn attention(
        &self,
        a: &AttentionConfig,
        name: &dyn Fn(&str) -> String,
        norms: NormWeights,
    ) -> Result<Attention<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.hidden);
        let rotation = &self.config.rotations[a.rotation];
        let in_memory = |row: usize| rotation.stored_row(a.k_dim, row);
        let place = rotation.interleaved.then_some(&in_memory as Place<'_>);
        let head_norm = |suffix: &str, present: bool| -> Result<Option<Vec<f32>>> {
            let norm = || self.tensors.norm(&format!("{}.weight", name(suffix)), a.k_dim);
            let norm = present.then(norm).transpose()?;
            Ok(norm.map(|stored| (0..a.k_dim).map(|i| stored[in_memory(i)]).collect()))
        };
        let (k_width, v_width) = a.kv_widths();
        let inputs = match a.input {
            AttentionInput::Normed => hidden,
            AttentionInput::Given { width } => width,
        };
        let has_keys = !matches!(a.source, KvSource::Layer(_));
        let matrix = |suffix: &str, width: usize, place: Option<Place<'_>>| {
            self.tensors.reordered(&name(suffix), width, inputs, a.qkv_bias, place)
        };
        let (q, gate) = match a.gated {
            true => self.queries_and_gate(a, &name(names.q), &in_memory).map(|(q, gate)| (q, Some(gate)))?,
            false => (matrix(names.q, a.q_width(), place)?, None),
        };
        Ok(Attention {
            norms,
            q,
            gate,
            k: has_keys.then(|| matrix(names.k, k_width, place)).transpose()?,
            v: (a.source == KvSource::Own).then(|| matrix(names.v, v_width, None)).transpose()?,
            o: self.tensors.matrix(&name(names.o), hidden, a.out_width(), a.out_bias)?,
            q_norm: head_norm(names.q_norm, a.qk_norm)?,
            k_norm: head_norm(names.k_norm, a.qk_norm && has_keys)?,
            sinks: a.sinks.then(|| self.tensors.vector(&name(names.sinks), &[a.heads])).transpose()?,
        })
    }

    /// Query heads and their gates take turns in one tensor.
    fn queries_and_gate(
        &self,
        a: &AttentionConfig,
        name: &str,
        place: Place<'_>,
    ) -> Result<(P::Matrix, P::Matrix)> {
        let (rows, head) = (a.q_width(), a.k_dim);
        let part = |gate: bool| {
            let pick = |row: usize| {
                let row = if gate { row } else { place(row) };
                row / head * 2 * head + usize::from(gate) * head + row % head
            };
            self.tensors.picked(name, (2 * rows, self.config.hidden), rows, pick)
        };
        let parts = (part(false)?, part(true)?);
        self.tensors.source.release(&format!("{name}.weight"));
        Ok(parts)
    }

    fn mlp(
        &self,
        mlp: &MlpConfig,
        name: &dyn Fn(&str) -> String,
        norms: NormWeights,
    ) -> Result<Mlp<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.hidden);
        let norm = |suffix: &str| self.tensors.norm(&format!("{}.weight", name(suffix)), hidden);
        let kind = match mlp.experts {
            None => MlpKind::Dense(self.dense(mlp.width, mlp.bias, name)?),
            Some(experts @ ExpertsConfig { dense: None | Some(DenseBeside::Gated { .. }), .. }) => {
                MlpKind::Experts(self.mixture(mlp, experts, name)?)
            }
            Some(experts @ ExpertsConfig { dense: Some(DenseBeside::Normed { width }), .. }) => {
                MlpKind::Beside(Box::new(Beside {
                    dense: self.dense(width, mlp.bias, name)?,
                    dense_after: norm(names.dense_post_norm)?,
                    experts: self.mixture(mlp, experts, name)?,
                    experts_before: norm(names.experts_norm)?,
                    experts_after: norm(names.experts_post_norm)?,
                }))
            }
        };
        Ok(Mlp { norms, kind })
    }

    fn dense(&self, width: usize, bias: Presence, name: &dyn Fn(&str) -> String) -> Result<Gated<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.hidden);
        Ok(Gated {
            gate: self.tensors.matrix(&name(names.gate), width, hidden, bias)?,
            up: self.tensors.matrix(&name(names.up), width, hidden, bias)?,
            down: self.tensors.matrix(&name(names.down), hidden, width, bias)?,
        })
    }

    fn mixture(
        &self,
        mlp: &MlpConfig,
        experts: ExpertsConfig,
        name: &dyn Fn(&str) -> String,
    ) -> Result<Experts<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.hidden);
        // A rounded router would choose other experts.
        let exact = self.tensors.unrounded();
        let vector = |suffix: &str, len: usize| {
            experts.scaled.then(|| self.tensors.vector(&name(suffix), &[len])).transpose()
        };
        // The router's input is divided by the root of its width; the norm's weights take that in.
        let root = (hidden as f64).sqrt() as f32;
        let router_norm = vector(names.router_scale, hidden)?;
        Ok(Experts {
            router: exact.matrix(&name(names.router), experts.count, hidden, experts.router_bias.into())?,
            router_norm: router_norm.map(|scale| scale.into_iter().map(|s| s / root).collect()),
            scales: vector(names.expert_scales, experts.count)?,
            experts: self.experts(mlp, experts.count, name)?,
            shared: match experts.dense {
                Some(DenseBeside::Gated { width }) => Some(Box::new(self.shared(width, name)?)),
                _ => None,
            },
        })
    }

    fn shared(&self, width: usize, name: &dyn Fn(&str) -> String) -> Result<Shared<P::Matrix>> {
        let (names, hidden) = (&self.config.names.shared, self.config.hidden);
        let matrix = |name: &str, rows, cols| self.tensors.matrix(name, rows, cols, Presence::No);
        Ok(Shared {
            mlp: Gated {
                gate: matrix(&name(names.gate), width, hidden)?,
                up: matrix(&name(names.up), width, hidden)?,
                down: matrix(&name(names.down), hidden, width)?,
            },
            scale: self.tensors.unrounded().row(&name(names.scale), hidden)?,
        })
    }
}
