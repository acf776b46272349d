//! Qwen3.5 and its successors of the same type (3.6, 3.8), dense and with experts, and Qwen3-Next:
//! most layers are recurrent (Gated DeltaNet), every few attend, with a gate on what they read.
//! Experts have a shared one beside them.

use super::Family;
use super::qwen::{experts, put_experts};
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::HfConfig;
use crate::config::{Activation, Config, DeltaConfig, TensorNames};
use crate::{Error, Result};
use leveret_kernels::delta::DeltaShape;

pub(super) const QWEN35: Family = Family {
    name: "qwen3_5",
    hf: &["qwen3_5", "qwen3_5_text"],
    from_hf: |keys| from_hf(keys, "qwen3_5"),
    gguf: &["qwen35"],
    from_gguf: |keys| from_gguf(keys, "qwen3_5"),
};

pub(super) const QWEN35_MOE: Family = Family {
    name: "qwen3_5_moe",
    hf: &["qwen3_5_moe", "qwen3_5_moe_text"],
    from_hf: |keys| moe_from_hf(keys, "qwen3_5_moe"),
    gguf: &["qwen35moe"],
    from_gguf: |keys| moe_from_gguf(keys, "qwen3_5_moe"),
};

/// Names its projections together, head by head; its GGUF files, some of them.
pub(super) const QWEN3_NEXT: Family = Family {
    name: "qwen3_next",
    hf: &["qwen3_next"],
    from_hf: |keys| moe_from_hf(keys, "qwen3_next"),
    gguf: &["qwen3next"],
    from_gguf: |keys| moe_from_gguf(keys, "qwen3_next"),
};

/// Layers per attending one, and the share of a head that is rotated, where a file does not say.
const PERIOD: usize = 4;
const ROTATED: f64 = 0.25;

pub(crate) const GGUF_NAMES: TensorNames =
    TensorNames { mlp_norm: "post_attention_norm", ..TensorNames::GGUF };

fn from_hf(keys: &HfConfig<'_>, family: &'static str) -> Result<Config> {
    let mut config = keys.decoder(family, false)?;
    if keys.flag("attention_bias")?.unwrap_or(false) {
        return Err(Error::unsupported(keys.path(), "key `attention_bias` is true; supported: false"));
    }
    if let Some(gate) = keys.text("output_gate_type").filter(|gate| !["swish", "silu"].contains(gate)) {
        let what = format!("key `output_gate_type` is `{gate}`; supported: swish, silu");
        return Err(Error::unsupported(keys.path(), what));
    }
    let layers = config.layers.len();
    let recurrent = match keys.layers_of_type("linear_attention", layers)? {
        Some(recurrent) => recurrent,
        None => by_period(layers, keys.count("full_attention_interval")?),
    };
    let share = keys.rope_number("partial_rotary_factor")?.unwrap_or(ROTATED);
    config.rotations[0].dims = (config.layers[0].attention.k_dim as f64 * share) as usize;
    let shape = DeltaShape {
        k_heads: keys.need_count("linear_num_key_heads")?,
        v_heads: keys.need_count("linear_num_value_heads")?,
        k_dim: keys.need_count("linear_key_head_dim")?,
        v_dim: keys.need_count("linear_value_head_dim")?,
        taps: keys.need_count("linear_conv_kernel_dim")?,
    };
    let gated = keys.flag("attn_output_gate")?.unwrap_or(true);
    // Stored as the distance from one; GGUF converters add the one.
    config.norm_offset = 1.0;
    Ok(compose(config, DeltaConfig { shape, log_rates: true, tiled: false }, &recurrent, gated))
}

/// Which layers do not attend.
fn by_period(layers: usize, period: Option<usize>) -> Vec<bool> {
    let period = period.unwrap_or(PERIOD);
    (0..layers).map(|i| period == 0 || (i + 1) % period != 0).collect()
}

/// Converters put value heads that share a key head apart, `k_heads` heads from one another; those of
/// Qwen3-Next do not.
fn from_gguf(keys: &GgufConfig<'_>, name: &'static str) -> Result<Config> {
    let family = GgufFamily { name, activation: Activation::SwiGlu, interleaved: false, yarn_truncate: true };
    let mut config = keys.decoder(family)?;
    let blocks = config.layers.len();
    let recurrent = match keys.per_layer("attention.recurrent_layers", blocks)? {
        Some(recurrent) => recurrent,
        None => by_period(blocks, keys.get("full_attention_interval")?),
    };
    config.layers.truncate(keys.trunk_blocks()?);
    let v_heads: usize = keys.require("ssm.time_step_rank")?;
    let inner: usize = keys.require("ssm.inner_size")?;
    if v_heads == 0 || !inner.is_multiple_of(v_heads) {
        let what = format!("metadata `ssm.inner_size` is {inner}, expected a multiple of {v_heads} heads");
        return Err(Error::format(keys.path(), what));
    }
    let shape = DeltaShape {
        k_heads: keys.require("ssm.group_count")?,
        v_heads,
        k_dim: keys.require("ssm.state_size")?,
        v_dim: inner / v_heads,
        taps: keys.require("ssm.conv_kernel")?,
    };
    config.names = GGUF_NAMES;
    let tiled = name != QWEN3_NEXT.name;
    Ok(compose(config, DeltaConfig { shape, log_rates: false, tiled }, &recurrent, true))
}

fn compose(mut config: Config, delta: DeltaConfig, recurrent: &[bool], gated: bool) -> Config {
    for (layer, &recurrent) in config.layers.iter_mut().zip(recurrent) {
        layer.attention.qk_norm = true;
        layer.attention.gated = gated;
        layer.delta = recurrent.then_some(delta);
    }
    config
}

fn moe_from_hf(keys: &HfConfig<'_>, family: &'static str) -> Result<Config> {
    let mut config = from_hf(keys, family)?;
    let shared = keys.count("shared_expert_intermediate_size")?.filter(|&width| width > 0);
    // Qwen3.5 has no such key, and its class does not look at one.
    let named = keys.flag("norm_topk_prob")?.filter(|_| family == QWEN3_NEXT.name);
    put_experts(&mut config, keys, named.unwrap_or(true), shared)?;
    Ok(config)
}

/// Files of this architecture come from checkpoints that renormalise; there is no key for it.
fn moe_from_gguf(keys: &GgufConfig<'_>, name: &'static str) -> Result<Config> {
    let mut config = from_gguf(keys, name)?;
    let shared = keys.get("expert_shared_feed_forward_length")?.filter(|&width: &usize| width > 0);
    let experts = experts(keys.require("expert_count")?, keys.require("expert_used_count")?, shared);
    config.set_experts(experts, keys.require("expert_feed_forward_length")?);
    Ok(config)
}
