//! The parts that checkpoints are made of: tensors with what they hold, blocks of layers, and the
//! keys of configurations.

use serde_json::{Value, json};

use super::plan::Sizes;
use super::tokenizer;

/// A folder to be written.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(super) config: Value,
    /// Names of the files of configuration and weights.
    pub(super) names: [&'static str; 2],
    pub(super) tensors: Vec<Planned>,
    /// Tokens of its tokenizer, if it has one.
    pub(super) words: Option<usize>,
}

/// Names of the files in ordinary folders.
pub(super) const FILES: [&str; 2] = ["config.json", "model.safetensors"];

impl Checkpoint {
    /// Weights in all.
    pub(crate) fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
    }
}

/// A tensor to be written.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) fill: Fill,
}

/// What numbers a tensor holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fill {
    /// Even over `centre - spread` to `centre + spread`.
    Around { centre: f32, spread: f32 },
    /// Logarithms of decay rates from 1 to 16.
    LogRate,
    /// For each row of a head the way from its number to its token: tokens evenly over so many.
    Offsets { tokens: usize },
    /// Tokens in so many clusters, in which they lie as far apart.
    Clusters { count: usize },
}

impl Fill {
    /// Whether it is one of 64-bit integers.
    pub(super) fn is_integer(self) -> bool {
        matches!(self, Fill::Offsets { .. } | Fill::Clusters { .. })
    }
}

/// Tensors so far.
pub(super) struct Builder {
    /// What norms store less than their factor.
    pub(super) offset: f32,
    pub(super) tensors: Vec<Planned>,
}

impl Builder {
    pub(super) fn add(&mut self, name: String, shape: &[usize], fill: Fill) {
        self.tensors.push(Planned { name, shape: shape.into(), fill });
    }

    /// Rows of length one, about: activations keep their size.
    pub(super) fn matrix(&mut self, name: String, rows: usize, cols: usize) {
        let spread = (3.0 / cols as f32).sqrt();
        self.add(format!("{name}.weight"), &[rows, cols], Fill::Around { centre: 0.0, spread });
    }

    pub(super) fn norm(&mut self, name: String, width: usize) {
        let fill = Fill::Around { centre: 1.0 - self.offset, spread: 0.1 };
        self.add(format!("{name}.weight"), &[width], fill);
    }

    /// Embedding, final norm, head.
    pub(super) fn ends(&mut self, prefix: &str, p: &Sizes) {
        self.matrix(format!("{prefix}embed_tokens"), p.vocab, p.hidden);
        self.norm(format!("{prefix}norm"), p.hidden);
        if !p.tied {
            self.matrix("lm_head".into(), p.vocab, p.hidden);
        }
    }

    /// Projections of an attention block; rows of queries may hold gates as well.
    pub(super) fn attention(&mut self, layer: &str, p: &Sizes, q_rows: usize, qk_norm: bool) {
        self.projections(layer, p, q_rows, p.hidden);
        if qk_norm {
            self.norm(format!("{layer}self_attn.q_norm"), p.head_dim);
            self.norm(format!("{layer}self_attn.k_norm"), p.head_dim);
        }
    }

    /// The same without norms, for inputs of the width `inputs`.
    pub(super) fn projections(&mut self, layer: &str, p: &Sizes, q_rows: usize, inputs: usize) {
        let (q, kv) = (p.heads * p.head_dim, p.kv_heads * p.head_dim);
        self.matrix(format!("{layer}self_attn.q_proj"), q_rows, inputs);
        self.matrix(format!("{layer}self_attn.k_proj"), kv, inputs);
        self.matrix(format!("{layer}self_attn.v_proj"), kv, inputs);
        self.matrix(format!("{layer}self_attn.o_proj"), p.hidden, q);
    }

    pub(super) fn mlp(&mut self, layer: &str, p: &Sizes) {
        self.matrix(format!("{layer}mlp.gate_proj"), p.inner, p.hidden);
        self.matrix(format!("{layer}mlp.up_proj"), p.inner, p.hidden);
        self.matrix(format!("{layer}mlp.down_proj"), p.hidden, p.inner);
    }

    pub(super) fn norms(&mut self, layer: &str, names: &[&str], width: usize) {
        names.iter().for_each(|name| self.norm(format!("{layer}{name}"), width));
    }
}

/// Tokens of context.
pub(super) const CONTEXT: usize = 32_768;

/// Keys that all families share.
pub(super) fn config(p: &Sizes, model_type: &str, architecture: &str) -> Value {
    json!({
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": p.vocab,
        "hidden_size": p.hidden,
        "num_hidden_layers": p.layers,
        "intermediate_size": p.inner,
        "num_attention_heads": p.heads,
        "num_key_value_heads": p.kv_heads,
        "head_dim": p.head_dim,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": p.tied,
        "eos_token_id": tokenizer::end(p.vocab),
    })
}
