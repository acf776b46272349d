//! Qwen2 (biases on queries, keys and values), Qwen3 (norms on queries and keys) and its
//! mixture-of-experts form.

use super::Family;
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::HfConfig;
use crate::config::{Activation, Config, DenseBeside, ExpertsConfig, Presence, Routing};
use crate::{Error, Result};

pub(super) const QWEN2: Family = Family {
    name: "qwen2",
    // MiMo's trunk is one.
    hf: &["qwen2", "mimo"],
    from_hf: |keys| with_bias(from_hf(keys, "qwen2")?),
    gguf: &["qwen2"],
    from_gguf: |keys| with_bias(from_gguf(keys, "qwen2")?),
};

pub(super) const QWEN3: Family = Family {
    name: "qwen3",
    hf: &["qwen3"],
    from_hf: |keys| qwen3_from_hf(keys, "qwen3"),
    gguf: &["qwen3"],
    from_gguf: |keys| with_norms(from_gguf(keys, "qwen3")?),
};

pub(super) const QWEN3_MOE: Family = Family {
    name: "qwen3_moe",
    hf: &["qwen3_moe"],
    from_hf: moe_from_hf,
    gguf: &["qwen3moe"],
    from_gguf: moe_from_gguf,
};

fn with_bias(mut config: Config) -> Result<Config> {
    config.layers.iter_mut().for_each(|layer| layer.attention.qkv_bias = Presence::Yes);
    Ok(config)
}

fn with_norms(mut config: Config) -> Result<Config> {
    config.layers.iter_mut().for_each(|layer| layer.attention.qk_norm = true);
    Ok(config)
}

/// Layers from `max_window_layers` on have the window, where it is switched on.
fn from_hf(keys: &HfConfig<'_>, family: &'static str) -> Result<Config> {
    let mut config = keys.decoder(family, false)?;
    if keys.flag("use_sliding_window")?.unwrap_or(false) {
        let window = keys.count("sliding_window")?;
        match keys.sliding_layers(config.layers.len())? {
            Some(sliding) => config.set_windows(window, |i| sliding[i]),
            None => {
                let first = keys.count("max_window_layers")?.unwrap_or(0);
                config.set_windows(window, |i| i >= first);
            }
        }
    }
    Ok(config)
}

/// Qwen3 has all biases of the attention or none. Qwen2 has no key for its own, though MiMo names one.
fn qwen3_from_hf(keys: &HfConfig<'_>, family: &'static str) -> Result<Config> {
    let mut config = with_norms(from_hf(keys, family)?)?;
    let bias = keys.flag("attention_bias")?.unwrap_or(false).into();
    for layer in &mut config.layers {
        (layer.attention.qkv_bias, layer.attention.out_bias) = (bias, bias);
    }
    Ok(config)
}

fn from_gguf(keys: &GgufConfig<'_>, name: &'static str) -> Result<Config> {
    let family = GgufFamily { name, activation: Activation::SwiGlu, interleaved: false, yarn_truncate: true };
    keys.decoder(family)
}

/// A window that is switched on holds in all layers here.
fn moe_from_hf(keys: &HfConfig<'_>) -> Result<Config> {
    let mut config = qwen3_from_hf(keys, "qwen3_moe")?;
    if keys.flag("use_sliding_window")?.unwrap_or(false) {
        config.set_windows(keys.count("sliding_window")?, |_| true);
    }
    put_experts(&mut config, keys, keys.flag("norm_topk_prob")?.unwrap_or(false), None)?;
    Ok(config)
}

/// Experts of Qwen in place of the MLPs of most layers, and one of the width `shared` beside them. `renormalise`
/// says whether the shares are those among the chosen ones.
pub(super) fn put_experts(
    config: &mut Config,
    keys: &HfConfig<'_>,
    renormalise: bool,
    shared: Option<usize>,
) -> Result<()> {
    // The name that newer files have for it.
    let count = match keys.count("num_local_experts")? {
        Some(count) => count,
        None => keys.need_count("num_experts")?,
    };
    let experts = ExpertsConfig {
        routing: if renormalise { Routing::SoftmaxChosen } else { Routing::SoftmaxAll },
        ..experts(count, keys.need_count("num_experts_per_tok")?, shared)
    };
    let width = keys.need_count("moe_intermediate_size")?;
    let step = keys.count("decoder_sparse_step")?.unwrap_or(1);
    let dense = keys.counts("mlp_only_layers")?;
    for (i, layer) in config.layers.iter_mut().enumerate() {
        if step > 0 && (i + 1).is_multiple_of(step) && !dense.contains(&i) {
            layer.mlp.experts = Some(experts);
            layer.mlp.width = width;
        }
    }
    Ok(())
}

/// Experts whose shares are those of the chosen ones.
pub(super) fn experts(count: usize, used: usize, shared: Option<usize>) -> ExpertsConfig {
    ExpertsConfig {
        count,
        used,
        routing: Routing::SoftmaxChosen,
        router_bias: false,
        scaled: false,
        dense: shared.map(|width| DenseBeside::Gated { width }),
    }
}

/// Files of this architecture come from checkpoints that renormalise; there is no key for it.
fn moe_from_gguf(keys: &GgufConfig<'_>) -> Result<Config> {
    let mut config = with_norms(from_gguf(keys, "qwen3_moe")?)?;
    let experts = experts(keys.require("expert_count")?, keys.require("expert_used_count")?, None);
    if experts.count == 0 {
        return Err(Error::format(keys.path(), "metadata `qwen3moe.expert_count` is 0, expected experts"));
    }
    config.set_experts(experts, keys.require("expert_feed_forward_length")?);
    Ok(config)
}
