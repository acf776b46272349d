//! What a block drafter is, whatever files described it.

use super::MapRule;
use crate::config::{Config, TensorNames};
use crate::drafters::fit::refuse_per_layer;
use crate::load::Source;
use crate::target::Tap;
use crate::{Error, Result};

/// A block drafter.
#[derive(Debug, Clone)]
pub(crate) struct BlockConfig {
    pub(crate) family: &'static str,
    pub(crate) dialect: &'static str,
    /// Its layers; embedding and head of it are not read.
    pub(crate) layers: Config,
    /// For each feature that it reads the number of the target's layers that have run before.
    pub(crate) ids: Vec<usize>,
    /// The same as taps, once they have been checked.
    pub(crate) taps: Vec<Tap>,
    /// Layers of the target that it was made for, if the files say so.
    pub(crate) target_layers: Option<usize>,
    /// Rows of a block: the last token and masks.
    pub(crate) rows: usize,
    /// The last token's row guesses too, and every row guesses what comes after it; otherwise mask
    /// rows guess what stands in their own place.
    pub(crate) anchor_guesses: bool,
    /// For each layer whether rows of the block see only rows before them.
    pub(crate) causal: Vec<bool>,
    pub(crate) mask: u32,
    /// Factor on embedding rows: on the target's raw ones, or on its own.
    pub(crate) embedding_scale: [f32; 2],
    /// Factor on logits.
    pub(crate) logit_scale: f32,
    /// Softcap on logits, instead of the one that belongs to the head.
    pub(crate) softcap: Option<f32>,
    /// Candidates that a selector chooses from.
    pub(crate) candidates: usize,
    pub(crate) map_rule: MapRule,
    pub(crate) names: BlockNames,
}

/// What the shapes of tensors say that configurations do not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shapes {
    pub(crate) prefix: &'static str,
    pub(crate) target_hidden: usize,
    /// Rows of an embedding and a head of its own.
    pub(crate) embedding_rows: Option<usize>,
    pub(crate) head_rows: Option<usize>,
    /// Rows of tables that are indexed by tokens.
    pub(crate) tables: Vec<usize>,
}

/// Names of tensors that only block drafters have. Each may have several spellings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockNames {
    /// What may stand before all names.
    pub(crate) prefixes: &'static [&'static str],
    pub(crate) layers: TensorNames,
    pub(crate) fc: &'static [&'static str],
    pub(crate) context_norm: &'static [&'static str],
    pub(crate) norm: &'static [&'static str],
    pub(crate) embedding: &'static str,
    pub(crate) head: &'static str,
    /// Kernel (full name) and projection of the convolutions around attention and MLP.
    pub(crate) convolutions: [(&'static str, &'static str); 2],
    pub(crate) fusion: &'static str,
    pub(crate) markov_in: &'static str,
    pub(crate) markov_out: &'static str,
    pub(crate) markov_gate: &'static str,
    pub(crate) markov_joint: &'static str,
    pub(crate) confidence: &'static str,
    pub(crate) selector: &'static str,
    pub(crate) predecessor: &'static str,
    pub(crate) successor: &'static str,
    pub(crate) correction: &'static str,
}

impl BlockNames {
    pub(crate) const HF: Self = Self {
        prefixes: &["", "model.", "draft_model.", "module.draft_model.", "module."],
        layers: TensorNames::HF,
        fc: &["fc", "encoder.fc", "context_proj"],
        context_norm: &["hidden_norm", "encoder.output_norm_enc", "context_norm"],
        norm: &["norm", "final_norm"],
        embedding: "embed_tokens",
        head: "lm_head",
        convolutions: [
            ("attention_conv.base_kernel", "attention_conv.kernel_projection"),
            ("mlp_conv.base_kernel", "mlp_conv.kernel_projection"),
        ],
        fusion: "layer_fusion_weights",
        markov_in: "markov_head.markov_w1",
        markov_out: "markov_head.markov_w2",
        markov_gate: "markov_head.gate_proj",
        markov_joint: "markov_head.joint_proj",
        confidence: "confidence_head.proj",
        selector: "candidate_selector.hidden_projection",
        predecessor: "candidate_selector.predecessor_codebook",
        successor: "candidate_selector.successor_codebook",
        correction: "hidden_correction",
    };

    pub(crate) const GGUF: Self = Self {
        prefixes: &[""],
        layers: TensorNames::GGUF,
        fc: &["fc"],
        context_norm: &["enc.output_norm"],
        norm: &["output_norm"],
        embedding: "token_embd",
        head: "output",
        convolutions: [("attn_conv_base", "attn_conv_proj"), ("ffn_conv_base", "ffn_conv_proj")],
        fusion: "layer_fusion_weights",
        markov_in: "markov_w1",
        markov_out: "markov_w2",
        markov_gate: "markov_gate",
        markov_joint: "markov_joint",
        confidence: "conf_proj",
        selector: "selector_hidden",
        predecessor: "selector_predecessor",
        successor: "selector_successor",
        correction: "hidden_correction",
    };

    /// Where `name` stands: behind the prefix, unless the files have it without.
    pub(crate) fn placed(source: &Source, prefix: &str, name: &str) -> String {
        let with = format!("{prefix}{name}");
        let has = |name: &str| source.has(name) || source.has(&format!("{name}.weight"));
        if !has(&with) && has(name) { name.to_owned() } else { with }
    }

    /// The first of `names` that the files have, or else the first.
    pub(crate) fn spelled(source: &Source, prefix: &str, names: &[&'static str]) -> String {
        let full = |name: &&str| format!("{prefix}{name}");
        let mut all = names.iter().map(full);
        let present = all.find(|name| source.has(&format!("{name}.weight")));
        present.unwrap_or_else(|| format!("{prefix}{}", names.first().copied().unwrap_or_default()))
    }
}

/// Bound on the rows of a block.
const MOST_ROWS: usize = 256;

impl BlockConfig {
    /// Tokens that a block guesses.
    pub(crate) fn slots(&self) -> usize {
        self.rows - self.first_slot()
    }

    /// The block's row that guesses first.
    pub(crate) fn first_slot(&self) -> usize {
        usize::from(!self.anchor_guesses)
    }

    /// Refuses what cannot be run, and reads the shapes that the configuration leaves open.
    pub(crate) fn check(&self, source: &Source) -> Result<Shapes> {
        let path = source.path();
        self.layers.check(path)?;
        refuse_per_layer(path, &self.layers)?;
        let fault = |what: String| Err(Error::format(path, what));
        if !(1 + self.first_slot()..=MOST_ROWS).contains(&self.rows) {
            return fault(format!(
                "`block_size` is {}, expected {} to {MOST_ROWS}",
                self.rows,
                1 + self.first_slot()
            ));
        }
        let factors = self.embedding_scale.iter().chain([&self.logit_scale]);
        if !factors.into_iter().all(|x| x.is_finite())
            || self.softcap.is_some_and(|cap| cap.is_nan() || cap <= 0.0)
        {
            return fault("a scale or softcap is not a finite number above zero".into());
        }
        let names = &self.names;
        let fc_of = |prefix: &&&str| names.fc.iter().any(|fc| source.has(&format!("{prefix}{fc}.weight")));
        let prefix = names.prefixes.iter().find(fc_of).copied().unwrap_or(names.prefixes[0]);
        let fc = format!("{}.weight", BlockNames::spelled(source, prefix, names.fc));
        let Some(tensor) = source.tensor(&fc)? else {
            return fault(format!("tensor `{fc}` is missing: the file is incomplete, or no block drafter"));
        };
        let target_hidden = match *tensor.shape {
            [rows, cols] if rows == self.layers.hidden && cols.is_multiple_of(self.taps.len()) => {
                cols / self.taps.len()
            }
            _ => {
                return fault(format!(
                    "tensor `{fc}` has the shape {:?}, expected [{}, a multiple of the {} features]",
                    tensor.shape,
                    self.layers.hidden,
                    self.taps.len()
                ));
            }
        };
        let rows = |name: &str| -> Result<Option<usize>> {
            let name = BlockNames::placed(source, prefix, name);
            for name in [format!("{name}.weight"), name] {
                if let Some(tensor) = source.tensor(&name)? {
                    return Ok(tensor.shape.first().copied());
                }
            }
            Ok(None)
        };
        let tables = [names.markov_in, names.predecessor, names.successor];
        Ok(Shapes {
            prefix,
            target_hidden,
            embedding_rows: rows(names.embedding)?,
            head_rows: rows(names.head)?,
            tables: tables.into_iter().filter_map(|name| rows(name).transpose()).collect::<Result<_>>()?,
        })
    }
}
