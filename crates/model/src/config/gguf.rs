//! Reading GGUF metadata: keys of the file's architecture, and the sizes all families share.

use super::rope::yarn_magnitude;
use super::{
    Activation, AttentionConfig, AttentionInput, Config, Head, KvSource, LayerConfig, MlpConfig, Presence,
};
use super::{RopeScaling, Rotation, TensorNames};
use crate::formats::Gguf;
use crate::formats::gguf::{FromValue, Value};
use crate::{Error, Result};
use leveret_kernels::ElementType;
use std::path::Path;

/// Metadata of one model, keys without the architecture's name in front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GgufConfig<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

/// What a family knows that the metadata do not say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GgufFamily {
    pub(crate) name: &'static str,
    pub(crate) activation: Activation,
    /// Whether rotated pairs lie side by side.
    pub(crate) interleaved: bool,
    /// Whether the ends of YaRN's ramp are rounded.
    pub(crate) yarn_truncate: bool,
}

impl<'a> GgufConfig<'a> {
    pub(crate) fn new(gguf: &'a Gguf) -> Result<Self> {
        Ok(Self { gguf, architecture: gguf.meta().require("general.architecture")? })
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.gguf.meta().path()
    }

    pub(crate) fn architecture(&self) -> &'a str {
        self.architecture
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        matches!(self.gguf.tensor(name), Ok(Some(_)) | Err(_))
    }

    /// Rows of a matrix; `None` if there is none of this name.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        self.gguf.tensor(name).ok()??.shape.first().copied()
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(crate) fn get<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>> {
        self.gguf.meta().get(&self.key(key))
    }

    pub(crate) fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T> {
        self.gguf.meta().require(&self.key(key))
    }

    /// A key that holds one value for all layers or a list with one for each.
    pub(crate) fn per_layer<T: FromValue<'a> + Copy>(
        &self,
        key: &str,
        layers: usize,
    ) -> Result<Option<Vec<T>>> {
        if !matches!(self.gguf.meta().value(&self.key(key)), Some(Value::Array(_))) {
            return Ok(self.get(key)?.map(|one| vec![one; layers]));
        }
        let list: Vec<T> = self.require(key)?;
        if list.len() != layers {
            let what = format!(
                "metadata `{}` has {} entries, expected {layers}: one per layer",
                self.key(key),
                list.len()
            );
            return Err(Error::format(self.path(), what));
        }
        Ok(Some(list))
    }

    /// For each layer whether it has the sliding window. `sliding_window_pattern` is a list of
    /// flags or a period `p` whose every `p`-th layer sees everything; `period` if it is absent.
    pub(crate) fn sliding_layers(&self, layers: usize, period: usize) -> Result<Vec<bool>> {
        let key = "attention.sliding_window_pattern";
        let period = match self.gguf.meta().value(&self.key(key)) {
            Some(Value::Array(_)) => return Ok(self.per_layer(key, layers)?.unwrap_or_default()),
            Some(_) => self.require(key)?,
            None => period,
        };
        Ok((0..layers).map(|i| period == 0 || (i + 1) % period != 0).collect())
    }

    /// Blocks of the decoder itself: those that guess ahead stand behind them and are counted with them.
    pub(crate) fn trunk_blocks(&self) -> Result<usize> {
        let blocks: usize = self.require("block_count")?;
        let ahead = self.get("nextn_predict_layers")?.unwrap_or(0);
        blocks.checked_sub(ahead).filter(|&trunk| trunk > 0).ok_or_else(|| {
            let what = format!("metadata `nextn_predict_layers` is {ahead}, of {blocks} blocks in all");
            Error::format(self.path(), what)
        })
    }

    /// The sizes all families share, as a decoder without norms on queries and keys, windows or
    /// sinks. Biases are used where the file holds them.
    pub(crate) fn decoder(&self, family: GgufFamily) -> Result<Config> {
        self.decoder_of(family, self.vocab()?)
    }

    /// As [`decoder`](Self::decoder), of a file whose embedding is elsewhere and has `vocab` rows.
    pub(crate) fn decoder_of(&self, family: GgufFamily, vocab: usize) -> Result<Config> {
        let count: usize = self.require("block_count")?;
        let hidden = self.require("embedding_length")?;
        let heads = self.per_layer("attention.head_count", count.min(super::MAX_LAYERS))?;
        let Some(heads) = heads else {
            return Err(self.require::<usize>("attention.head_count").err().unwrap_or_else(|| {
                Error::format(self.path(), "metadata `attention.head_count` is missing")
            }));
        };
        let first_heads: usize = heads.first().copied().unwrap_or(0);
        let k_dim = match self.get("attention.key_length")? {
            Some(dim) => dim,
            None if first_heads > 0 && hidden % first_heads == 0 => hidden / first_heads,
            None => {
                let what = format!(
                    "embedding length {hidden} is not a multiple of {first_heads} heads, and there is no attention.key_length"
                );
                return Err(Error::format(self.path(), what));
            }
        };
        let layer = LayerConfig {
            delta: None,
            attention: AttentionConfig {
                input: AttentionInput::Normed,
                heads: first_heads,
                kv_heads: first_heads,
                k_dim,
                v_dim: self.get("attention.value_length")?.unwrap_or(k_dim),
                scale: (1.0 / (k_dim as f64).sqrt()) as f32,
                window: None,
                sinks: false,
                source: KvSource::Own,
                qk_norm: false,
                v_norm: false,
                gated: false,
                qkv_bias: Presence::IfPresent,
                out_bias: Presence::IfPresent,
                rotation: 0,
                query_growth: None,
            },
            mlp: MlpConfig {
                width: 0,
                activation: family.activation,
                bias: Presence::IfPresent,
                experts: None,
            },
            post_norms: false,
            output_scale: false,
        };
        let mut layers = super::alike(self.path(), layer, count)?;
        let kv_heads = self.per_layer("attention.head_count_kv", count)?.unwrap_or_else(|| heads.clone());
        let widths = self.per_layer("feed_forward_length", count)?.unwrap_or_else(|| vec![0; count]);
        for (i, layer) in layers.iter_mut().enumerate() {
            (layer.attention.heads, layer.attention.kv_heads) = (heads[i], kv_heads[i]);
            layer.mlp.width = widths[i];
        }
        Ok(Config {
            family: family.name,
            vocab,
            hidden,
            max_context: self.require("context_length")?,
            norm_eps: self.require("attention.layer_norm_rms_epsilon")?,
            norm_offset: 0.0,
            embedding_scale: 1.0,
            per_layer: None,
            final_softcap: self.get("final_logit_softcapping")?.filter(|&cap: &f32| cap != 0.0),
            head: Head::OwnIfPresent,
            rotations: vec![self.rotation(family, k_dim)?],
            layers,
            names: TensorNames::GGUF,
        })
    }

    /// Rows of the embedding: the metadata may leave the vocabulary size out. Where a layer that guesses ahead stands
    /// alone, it has as many as there are tokens.
    fn vocab(&self) -> Result<usize> {
        match self.gguf.tensor("token_embd.weight")? {
            Some(tensor) if tensor.shape.len() == 2 => Ok(tensor.shape[0]),
            Some(tensor) => {
                let what = format!(
                    "tensor `token_embd.weight` has the shape {:?}, expected [vocabulary, hidden]",
                    tensor.shape
                );
                Err(Error::format(self.path(), what))
            }
            None => match self.gguf.meta().get::<Vec<&str>>("tokenizer.ggml.tokens")? {
                Some(tokens) => Ok(tokens.len()),
                None => Err(Error::format(
                    self.path(),
                    "tensor `token_embd.weight` is missing: this file holds no whole language model",
                )),
            },
        }
    }

    fn rotation(&self, family: GgufFamily, k_dim: usize) -> Result<Rotation> {
        let base: f32 = self.get("rope.freq_base")?.unwrap_or(10_000.0);
        let scaling = match (self.scaling(family)?, self.divisors()?) {
            (scaling, None) => scaling,
            (RopeScaling::None, Some(divisors)) => RopeScaling::Divisors(divisors),
            (scaling, Some(_)) => {
                let what =
                    format!("both `rope_freqs.weight` and rope scaling {scaling:?}; supported: one of them");
                return Err(Error::unsupported(self.path(), what));
            }
        };
        Ok(Rotation {
            base: base.into(),
            dims: self.get("rope.dimension_count")?.unwrap_or(k_dim),
            interleaved: family.interleaved,
            scaling,
        })
    }

    fn scaling(&self, family: GgufFamily) -> Result<RopeScaling> {
        let number = |key: &str| Ok::<_, Error>(self.get::<f32>(key)?.map(f64::from));
        let factor = || Ok(f64::from(self.require::<f32>("rope.scaling.factor")?));
        match self.get::<&str>("rope.scaling.type")?.unwrap_or("none") {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "yarn" => {
                let factor = factor()?;
                let own = number("rope.scaling.attn_factor")?.unwrap_or(1.0);
                let shared = match number("rope.scaling.yarn_log_multiplier")? {
                    Some(multiplier) if multiplier != 0.0 => yarn_magnitude(factor, multiplier),
                    _ => 1.0,
                };
                let original: Option<usize> = self.get("rope.scaling.original_context_length")?;
                Ok(RopeScaling::Yarn {
                    factor,
                    original: match original {
                        Some(length) => length,
                        None => self.require("context_length")?,
                    } as f64,
                    beta_fast: number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    truncate: family.yarn_truncate,
                    magnitude: own * yarn_magnitude(factor, 1.0) / shared,
                })
            }
            other => {
                let what = format!("rope scaling `{other}`; supported: none, linear, yarn");
                Err(Error::unsupported(self.path(), what))
            }
        }
    }

    /// The tensor that divides frequencies one by one.
    fn divisors(&self) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.gguf.tensor("rope_freqs.weight")? else { return Ok(None) };
        if tensor.ty != ElementType::F32 {
            let what = format!("tensor `rope_freqs.weight` has the type {}, expected F32", tensor.ty.name());
            return Err(Error::format(self.path(), what));
        }
        let values = tensor.bytes.as_chunks().0;
        Ok(Some(values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
    }
}
