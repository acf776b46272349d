//! From named tensors to the matrices and vectors that layers hold: names resolved, shapes checked,
//! weights repacked one tensor at a time and each tensor's file pages given back after that.
//!
//! The same walk without packing says what a model will need ([`crate::footprint`]).

mod experts;
mod pack;
mod tensors;

pub(crate) use pack::{MatrixShape, Measure, Pack, Repack};
pub(crate) use tensors::Tensors;

use crate::Result;
use crate::config::{AttentionConfig, Config, ExpertsConfig, Head, MlpConfig, Presence};
use crate::layers::{Attention, Experts, Gated, Mlp, MlpKind, NormWeights};
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
    pub(crate) layers: Vec<Layer<M>>,
}

/// The weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer<M = Matrix> {
    pub(crate) attention: Attention<M>,
    pub(crate) mlp: Mlp<M>,
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
    let layer = |i| loader.layer(i);
    Ok(Weights {
        embedding: Arc::new(embedding),
        head: head.map(Arc::new),
        final_norm: loader.tensors.norm(&format!("{prefix}{}.weight", names.final_norm), config.hidden)?,
        layers: (0..config.layers.len()).map(layer).collect::<Result<_>>()?,
    })
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
        let layer = &self.config.layers[index];
        let names = &self.config.names;
        let name = |suffix: &str| format!("{}{}{index}.{suffix}", self.prefix, names.layer);
        let hidden = self.config.hidden;
        let norm = |suffix: &str| self.tensors.norm(&format!("{}.weight", name(suffix)), hidden);
        let post_norm = |suffix: &str| layer.post_norms.then(|| norm(suffix)).transpose();
        Ok(Layer {
            attention: self.attention(
                &layer.attention,
                &name,
                NormWeights {
                    before: norm(names.attention_norm)?,
                    after: post_norm(names.attention_post_norm)?,
                },
            )?,
            mlp: self.mlp(
                &layer.mlp,
                &name,
                NormWeights { before: norm(names.mlp_norm)?, after: post_norm(names.mlp_post_norm)? },
            )?,
        })
    }

    fn attention(
        &self,
        a: &AttentionConfig,
        name: &dyn Fn(&str) -> String,
        norms: NormWeights,
    ) -> Result<Attention<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.hidden);
        let head_norm = |suffix: &str| {
            a.qk_norm.then(|| self.tensors.norm(&format!("{}.weight", name(suffix)), a.k_dim)).transpose()
        };
        Ok(Attention {
            norms,
            q: self.tensors.matrix(&name(names.q), a.q_width(), hidden, a.qkv_bias)?,
            k: self.tensors.matrix(&name(names.k), a.kv_heads * a.k_dim, hidden, a.qkv_bias)?,
            v: self.tensors.matrix(&name(names.v), a.kv_heads * a.v_dim, hidden, a.qkv_bias)?,
            o: self.tensors.matrix(&name(names.o), hidden, a.out_width(), a.out_bias)?,
            q_norm: head_norm(names.q_norm)?,
            k_norm: head_norm(names.k_norm)?,
            sinks: a.sinks.then(|| self.tensors.vector(&name(names.sinks), &[a.heads])).transpose()?,
        })
    }

    fn mlp(
        &self,
        mlp: &MlpConfig,
        name: &dyn Fn(&str) -> String,
        norms: NormWeights,
    ) -> Result<Mlp<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.hidden);
        let kind = match mlp.experts {
            None => MlpKind::Dense(Gated {
                gate: self.tensors.matrix(&name(names.gate), mlp.width, hidden, mlp.bias)?,
                up: self.tensors.matrix(&name(names.up), mlp.width, hidden, mlp.bias)?,
                down: self.tensors.matrix(&name(names.down), hidden, mlp.width, mlp.bias)?,
            }),
            Some(experts) => MlpKind::Experts(Experts {
                router: self.router(&name(names.router), experts)?,
                experts: self.experts(mlp, experts.count, name)?,
            }),
        };
        Ok(Mlp { norms, kind })
    }

    /// Routers keep their precision: a rounded one would choose other experts.
    fn router(&self, name: &str, experts: ExpertsConfig) -> Result<P::Matrix> {
        let exact = match self.tensors.precision {
            Precision::Quantize(_) => Precision::AsStored,
            other => other,
        };
        let tensors = Tensors { precision: exact, ..self.tensors };
        tensors.matrix(name, experts.count, self.config.hidden, experts.router_bias.into())
    }
}
