//! Llama and the many models that share its shape (SmolLM2, TinyLlama, ...): grouped-query
//! attention, SwiGLU, optional biases, Llama 3 rope scaling.

use super::Family;
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::HfConfig;
use crate::config::{Activation, Config};
use crate::{Error, Result};

pub(super) const LLAMA: Family =
    Family { name: "llama", hf: &["llama"], from_hf, gguf: &["llama"], from_gguf };

fn from_hf(keys: &HfConfig<'_>) -> Result<Config> {
    let mut config = keys.decoder("llama", false)?;
    let bias = keys.flag("attention_bias")?.unwrap_or(false).into();
    let mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false).into();
    for layer in &mut config.layers {
        (layer.attention.qkv_bias, layer.attention.out_bias) = (bias, bias);
        layer.mlp.bias = mlp_bias;
    }
    Ok(config)
}

/// GGUF converters reorder query and key rows of this architecture so that rotated pairs lie side
/// by side. Mistral files carry the same name.
fn from_gguf(keys: &GgufConfig<'_>) -> Result<Config> {
    if keys.get::<usize>("expert_count")?.unwrap_or(0) > 0 {
        return Err(Error::unsupported(
            keys.path(),
            "`llama.expert_count` is above zero: Mixtral is not supported",
        ));
    }
    let family =
        GgufFamily { name: "llama", activation: Activation::SwiGlu, interleaved: true, yarn_truncate: true };
    let mut config = keys.decoder(family)?;
    let window = keys.get::<usize>("attention.sliding_window")?.filter(|&w| w > 0);
    config.set_windows(window, |_| true);
    Ok(config)
}
