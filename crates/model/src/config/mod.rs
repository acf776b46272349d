//! What a decoder is, whatever file described it: sizes, and for each layer what it is composed of.
//!
//! A family in [`crate::arch`] fills a [`Config`] from GGUF metadata ([`gguf`]) or a
//! `config.json` ([`hf`]); weights, caches and the forward pass read nothing else.

mod defaults;
pub(crate) mod gguf;
pub(crate) mod hf;
mod names;
pub(crate) mod rope;

use crate::{Error, Result};
use leveret_kernels::delta::{DeltaShape, MAX_TAPS};
use std::path::Path;

pub use names::{DeltaNames, ExpertNames, PerLayerNames, SharedNames, TensorNames};
pub use rope::{RopeScaling, Rotation};

/// A decoder: embedding, layers, final norm, head.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the family, as [`supported_architectures`](crate::supported_architectures) lists it.
    pub family: &'static str,
    /// Token ids: rows of the embedding and of the head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Positions that the model was made for.
    pub max_context: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Added to every stored norm weight: 1 where a checkpoint stores the distance from one.
    pub norm_offset: f32,
    /// Factor on embedding rows.
    pub embedding_scale: f32,
    /// A second embedding, of which each layer gets its own part (Gemma 4 E).
    pub per_layer: Option<PerLayerConfig>,
    /// `cap * tanh(logit / cap)` on logits.
    pub final_softcap: Option<f32>,
    /// Where the head's matrix comes from.
    pub head: Head,
    /// The distinct position rotations; layers name them by index.
    pub rotations: Vec<Rotation>,
    /// From the embedding to the head.
    pub layers: Vec<LayerConfig>,
    /// How the file calls its tensors.
    pub names: TensorNames,
}

/// Where the head's matrix comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The embedding serves as head.
    Tied,
    /// A tensor of its own.
    Own,
    /// A tensor of its own if the file has one, else the embedding.
    OwnIfPresent,
}

/// Whether a tensor belongs to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not part of it, even if the file should hold one.
    No,
    /// Missing is an error.
    Yes,
    /// Used if the file holds one: the metadata do not say.
    IfPresent,
}

impl From<bool> for Presence {
    fn from(yes: bool) -> Self {
        if yes { Presence::Yes } else { Presence::No }
    }
}

/// Embeddings of tokens for each layer apart: a table with a row per token and a projection of the
/// main embedding, added up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerLayerConfig {
    /// Width of one layer's part.
    pub width: usize,
    /// Rows of the table. Tokens beyond it read row 0.
    pub vocab: usize,
    /// Factor on its rows.
    pub scale: f32,
}

/// One decoder layer: attention and MLP, each added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// How rows read earlier rows, unless there is a recurrence.
    pub attention: AttentionConfig,
    /// A recurrence in place of the attention, which then says nothing.
    pub delta: Option<DeltaConfig>,
    /// What is done to each row alone.
    pub mlp: MlpConfig,
    /// Norms on the outputs of attention and MLP too, before they are added.
    pub post_norms: bool,
    /// A learned factor on the residual stream after the layer.
    pub output_scale: bool,
}

/// Softmax attention over a key-value cache.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// What queries, keys and values are made of.
    pub input: AttentionInput,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a query and key head.
    pub k_dim: usize,
    /// Width of a value head.
    pub v_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Rows see at most this many rows, their own included.
    pub window: Option<usize>,
    /// A learned logit per head that takes part in the softmax and has no value.
    pub sinks: bool,
    /// Where keys and values come from.
    pub source: KvSource,
    /// Norms on each query and key head before the rotation.
    pub qk_norm: bool,
    /// Norms without weights on each value head.
    pub v_norm: bool,
    /// A gate on each element of the heads' output: the sigmoid of a projection whose rows share a
    /// tensor with the queries, head by head, behind each query head.
    pub gated: bool,
    /// Biases of the query, key and value projections.
    pub qkv_bias: Presence,
    /// Bias of the output projection.
    pub out_bias: Presence,
    /// Index into [`Config::rotations`].
    pub rotation: usize,
    /// Factor on queries that grows with the position.
    pub query_growth: Option<QueryGrowth>,
}

/// What queries, keys and values of a layer are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionInput {
    /// The residual stream, normed.
    Normed,
    /// Rows of this width that are put together outside the layer (first layers of EAGLE heads).
    Given {
        /// Values in a row.
        width: usize,
    },
}

/// Gated DeltaNet: a convolution over the last rows, then one matrix per head that each row decays
/// and corrects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaConfig {
    /// Heads, their widths, rows of the convolution.
    pub shape: DeltaShape,
    /// Whether the file stores logarithms of decay rates (Hugging Face) or the rates, negative (GGUF).
    pub log_rates: bool,
    /// Whether value heads that share a key head lie apart in the file, with one of every other key head between them
    /// (GGUF of Qwen3.5); in memory they are neighbours.
    pub tiled: bool,
}

impl DeltaConfig {
    /// The value head of the file that is value head `head` in memory.
    pub(crate) fn stored_head(&self, head: usize) -> usize {
        let sharing = self.shape.v_heads / self.shape.k_heads;
        if self.tiled { head % sharing * self.shape.k_heads + head / sharing } else { head }
    }
}

/// Where the keys and values of a layer come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSource {
    /// A projection each.
    Own,
    /// One projection: values are the keys before their norm and rotation.
    KeysAsValues,
    /// Those that this earlier layer wrote to its cache. The layer has queries only.
    Layer(usize),
}

/// `1 + beta * ln(1 + floor(position / period))` on queries (Llama 4, Ministral 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryGrowth {
    /// Strength.
    pub beta: f32,
    /// Positions until the first step.
    pub period: usize,
}

/// A gated MLP, dense or with experts.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpConfig {
    /// Inner width (of one expert).
    pub width: usize,
    /// Between gate and up projection.
    pub activation: Activation,
    /// Biases of all projections.
    pub bias: Presence,
    /// Absent: dense.
    pub experts: Option<ExpertsConfig>,
}

/// How rows choose experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertsConfig {
    /// Experts in the layer.
    pub count: usize,
    /// Experts that a row uses.
    pub used: usize,
    /// How router logits become weights.
    pub routing: Routing,
    /// Bias of the router.
    pub router_bias: bool,
    /// The router reads the residual stream by way of a norm of its own, and the weight of each
    /// expert has a learned factor.
    pub scaled: bool,
    /// A dense MLP that every row takes besides.
    pub dense: Option<DenseBeside>,
}

/// A dense MLP beside the experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseBeside {
    /// Reads the residual stream as a dense layer does. The experts read it by way of a second
    /// norm; each of the two outputs has a norm before they are added up.
    Normed {
        /// Inner width.
        width: usize,
    },
    /// Reads what the experts read; its output is multiplied by the sigmoid of a learned product
    /// with the row and added to theirs (Qwen's shared expert).
    Gated {
        /// Inner width.
        width: usize,
    },
}

/// How router logits become the weights of the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Softmax over all experts, then the largest: their weights need not sum to one.
    SoftmaxAll,
    /// Softmax over the chosen experts only, which is the same as softmax over all, renormalised.
    SoftmaxChosen,
}

/// The gated activation of an MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `silu(gate) * up`.
    SwiGlu,
    /// `gelu_tanh(gate) * up`.
    GegluTanh,
    /// gpt-oss: `g * sigmoid(alpha g) * (u + 1)` with `g = min(gate, limit)`, `u = clamp(up, ±limit)`.
    ClampedSwiGlu {
        /// Slope of the sigmoid.
        alpha: f32,
        /// Bound on both inputs.
        limit: f32,
    },
}

/// Bounds on what a file may claim, far above any real model: products of any three stay below 2^63.
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCAB: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_CONTEXT: usize = 1 << 28;
const MAX_HEAD: usize = 1 << 12;

impl Config {
    /// Refuses sizes that no layer could run with, so that nothing later can overflow or divide by zero.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let range = |what: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::format(
                path,
                format!(
                    "{what} is {value}, expected 1 to {max}: the metadata are damaged or no language model's"
                ),
            ))
        };
        range("vocabulary size", self.vocab, MAX_VOCAB)?;
        range("hidden size", self.hidden, MAX_WIDTH)?;
        range("number of layers", self.layers.len(), MAX_LAYERS)?;
        range("context length", self.max_context, MAX_CONTEXT)?;
        if let Some(per_layer) = self.per_layer {
            range("vocabulary size of the embeddings per layer", per_layer.vocab, MAX_VOCAB)?;
            let width = per_layer.width.saturating_mul(self.layers.len());
            range("width of the embeddings per layer, all together", width, MAX_WIDTH)?;
        }
        let finite = [self.norm_eps, self.norm_offset, self.embedding_scale];
        let factors = self.layers.iter().map(|l| l.attention.scale);
        if !finite.into_iter().chain(factors).all(f32::is_finite)
            || self.final_softcap.is_some_and(|cap| !cap.is_finite() || cap <= 0.0)
        {
            return Err(Error::format(
                path,
                "a norm epsilon, scale or softcap is not a finite number above zero",
            ));
        }
        for (i, layer) in self.layers.iter().enumerate() {
            match &layer.delta {
                Some(delta) => check_delta(path, i, &delta.shape, &range)?,
                None => self.check_attention(path, i, &range)?,
            }
            range(&format!("layer {i}: MLP width"), layer.mlp.width, MAX_WIDTH)?;
            if let Some(experts) = layer.mlp.experts {
                range(&format!("layer {i}: number of experts"), experts.count, 1 << 14)?;
                range(&format!("layer {i}: experts used by a row"), experts.used, experts.count)?;
                if let Some(DenseBeside::Normed { width } | DenseBeside::Gated { width }) = experts.dense {
                    range(&format!("layer {i}: width of the dense MLP"), width, MAX_WIDTH)?;
                }
            }
        }
        // Their tables are made whether or not a layer turns by them.
        self.rotations.iter().try_for_each(|rotation| rotation.check(path, MAX_HEAD))
    }

    fn check_attention(
        &self,
        path: &Path,
        i: usize,
        range: &dyn Fn(&str, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let a = &self.layers[i].attention;
        if let AttentionInput::Given { width } = a.input {
            range(&format!("layer {i}: width of the attention's input"), width, MAX_WIDTH)?;
        }
        range(&format!("layer {i}: number of query heads"), a.heads, 1 << 12)?;
        range(&format!("layer {i}: number of key-value heads"), a.kv_heads, a.heads)?;
        range(&format!("layer {i}: key head width"), a.k_dim, MAX_HEAD)?;
        range(&format!("layer {i}: value head width"), a.v_dim, MAX_HEAD)?;
        range(&format!("layer {i}: query width"), a.heads * a.k_dim.max(a.v_dim), MAX_WIDTH)?;
        if !a.heads.is_multiple_of(a.kv_heads) {
            let (h, k) = (a.heads, a.kv_heads);
            return Err(Error::format(
                path,
                format!("layer {i}: {h} query heads are not a multiple of {k} key-value heads"),
            ));
        }
        if let Some(window) = a.window {
            range(&format!("layer {i}: sliding window"), window, usize::MAX)?;
        }
        if let Some(growth) = a.query_growth {
            range("original context of the query scale", growth.period, MAX_CONTEXT)?;
        }
        let Some(rotation) = self.rotations.get(a.rotation) else {
            return Err(Error::format(
                path,
                format!("layer {i} names a position rotation that is not described"),
            ));
        };
        rotation.check(path, a.k_dim)?;
        if a.gated && a.k_dim != a.v_dim {
            return Err(Error::format(
                path,
                format!("layer {i}: gates of width {} for values of width {}", a.k_dim, a.v_dim),
            ));
        }
        self.check_source(path, i)
    }

    /// A layer can only read keys and values that were written before it, and in its own shape.
    fn check_source(&self, path: &Path, layer: usize) -> Result<()> {
        let a = &self.layers[layer].attention;
        let fault = |what: String| Err(Error::format(path, format!("layer {layer}: {what}")));
        match a.source {
            KvSource::Own => Ok(()),
            KvSource::KeysAsValues if a.k_dim == a.v_dim => Ok(()),
            KvSource::KeysAsValues => {
                fault(format!("keys of width {} cannot serve as values of width {}", a.k_dim, a.v_dim))
            }
            KvSource::Layer(source) => {
                let shape = |a: &AttentionConfig| (a.kv_heads, a.k_dim, a.v_dim);
                let own =
                    |l: &&LayerConfig| l.delta.is_none() && !matches!(l.attention.source, KvSource::Layer(_));
                match self.layers[..layer].get(source).filter(own).map(|l| &l.attention) {
                    Some(other) if shape(other) == shape(a) => Ok(()),
                    Some(other) => fault(format!(
                        "reads the cache of layer {source}, whose heads are {:?}, with heads of {:?} (number, key width, value width)",
                        shape(other),
                        shape(a)
                    )),
                    None => fault(format!("reads the cache of layer {source}, which has none before it")),
                }
            }
        }
    }

    /// Whether the attention of layer `layer` reads rows that are put together outside of it.
    pub(crate) fn reads_given(&self, layer: usize) -> bool {
        matches!(self.layers[layer].attention.input, AttentionInput::Given { .. })
    }

    /// Number of values that one row adds to the cache of layer `layer`; 0 if it has none.
    pub(crate) fn kv_width(&self, layer: usize) -> usize {
        let LayerConfig { attention, delta, .. } = &self.layers[layer];
        let (k, v) = attention.kv_widths();
        if delta.is_some() { 0 } else { k + v }
    }

    /// Number of values that one row reads of the caches for each row before it, windows aside.
    pub fn kv_values_read(&self) -> usize {
        let attending =
            self.layers.iter().filter(|layer| layer.delta.is_none()).map(|layer| &layer.attention);
        attending.map(|a| a.kv_heads * (a.k_dim + a.v_dim)).sum()
    }

    /// The layer whose cache the attention of layer `layer` reads.
    pub(crate) fn kv_layer(&self, layer: usize) -> usize {
        match self.layers[layer].attention.source {
            KvSource::Layer(source) => source,
            _ => layer,
        }
    }
}

impl AttentionConfig {
    /// Width of the query projection.
    pub(crate) fn q_width(&self) -> usize {
        self.heads * self.k_dim
    }

    /// Widths of the keys and the values that a row adds to the cache; 0 if the layer has no own.
    pub(crate) fn kv_widths(&self) -> (usize, usize) {
        match self.source {
            KvSource::Layer(_) => (0, 0),
            _ => (self.kv_heads * self.k_dim, self.kv_heads * self.v_dim),
        }
    }

    /// Width of the attention output before its projection.
    pub(crate) fn out_width(&self) -> usize {
        self.heads * self.v_dim
    }
}

/// Most values of a recurrent layer's state.
const MAX_STATE: usize = 1 << 28;

fn check_delta(
    path: &Path,
    i: usize,
    shape: &DeltaShape,
    range: &dyn Fn(&str, usize, usize) -> Result<()>,
) -> Result<()> {
    let DeltaShape { k_heads, v_heads, k_dim, v_dim, taps, .. } = *shape;
    range(&format!("layer {i}: number of recurrent value heads"), v_heads, 1 << 12)?;
    range(&format!("layer {i}: number of recurrent key heads"), k_heads, v_heads)?;
    range(&format!("layer {i}: width of recurrent key heads"), k_dim, 1 << 12)?;
    range(&format!("layer {i}: width of recurrent value heads"), v_dim, 1 << 12)?;
    range(&format!("layer {i}: width of the convolution"), shape.channels(), MAX_WIDTH)?;
    range(&format!("layer {i}: recurrent state"), v_heads * k_dim * v_dim, MAX_STATE)?;
    if !v_heads.is_multiple_of(k_heads) {
        let what =
            format!("layer {i}: {v_heads} recurrent value heads are not a multiple of {k_heads} key heads");
        return Err(Error::format(path, what));
    }
    if !(2..=MAX_TAPS).contains(&taps) {
        let what = format!("layer {i}: a convolution over {taps} rows; supported: 2 to {MAX_TAPS}");
        return Err(Error::unsupported(path, what));
    }
    Ok(())
}

/// `count` copies of a layer, refused before anything is allocated if no model has so many.
pub(crate) fn alike(path: &Path, layer: LayerConfig, count: usize) -> Result<Vec<LayerConfig>> {
    if !(1..=MAX_LAYERS).contains(&count) {
        return Err(Error::format(path, format!("number of layers is {count}, expected 1 to {MAX_LAYERS}")));
    }
    Ok(vec![layer; count])
}
