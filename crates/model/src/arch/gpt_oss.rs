//! gpt-oss: mixture of experts with biases everywhere and a clamped activation, attention with
//! sinks, every other layer with a sliding window.

use super::Family;
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::HfConfig;
use crate::config::{Activation, Config, ExpertNames, ExpertsConfig, Presence, Routing, TensorNames};
use crate::{Error, Result};

pub(super) const GPT_OSS: Family =
    Family { name: "gpt_oss", hf: &["gpt_oss"], from_hf, gguf: &["gpt-oss"], from_gguf };

/// Layers per full layer, where a file does not say.
const PERIOD: usize = 2;
/// Experts that a row uses, where a file does not say.
const USED: usize = 4;
/// The activation's slope and limit, where a file does not say.
const ALPHA: f32 = 1.702;
const LIMIT: f32 = 7.0;

const HF_NAMES: TensorNames = TensorNames {
    router: "mlp.router",
    experts: &[ExpertNames::Alternating {
        gate_up: "mlp.experts.gate_up_proj",
        down: "mlp.experts.down_proj",
    }],
    ..TensorNames::HF
};

pub(crate) const GGUF_NAMES: TensorNames =
    TensorNames { mlp_norm: "post_attention_norm", ..TensorNames::GGUF };

fn from_hf(keys: &HfConfig<'_>) -> Result<Config> {
    let mut config = keys.decoder("gpt_oss", false)?;
    let layers = config.layers.len();
    let sliding = keys.sliding_layers(layers)?;
    let sliding = sliding.unwrap_or_else(|| (0..layers).map(|i| (i + 1) % PERIOD != 0).collect());
    let used = keys.count("num_experts_per_tok")?.or(keys.count("experts_per_token")?).unwrap_or(USED);
    let experts = experts(keys.need_count("num_local_experts")?, used);
    let width = keys.need_count("intermediate_size")?;
    let bias = keys.flag("attention_bias")?.unwrap_or(true).into();
    let number = |key, silent| Ok::<_, Error>(keys.number(key)?.map_or(silent, |named| named as f32));
    let activation = Activation::ClampedSwiGlu {
        alpha: number("swiglu_alpha", ALPHA)?,
        limit: number("swiglu_limit", LIMIT)?,
    };
    config.names = HF_NAMES;
    let mut config = compose(config, activation, experts, width, bias);
    config.set_windows(keys.count("sliding_window")?, |i| sliding[i]);
    Ok(config)
}

/// The format cannot say whether the ends of YaRN's ramp are rounded. The released checkpoints
/// do not round, so neither do we: both layouts of a model give the same text.
fn from_gguf(keys: &GgufConfig<'_>) -> Result<Config> {
    let family = GgufFamily {
        name: "gpt_oss",
        activation: Activation::SwiGlu,
        interleaved: false,
        yarn_truncate: false,
    };
    let mut config = keys.decoder(family)?;
    let experts = experts(keys.require("expert_count")?, keys.require("expert_used_count")?);
    let width = keys.require("expert_feed_forward_length")?;
    config.names = GGUF_NAMES;
    let sliding = keys.sliding_layers(config.layers.len(), PERIOD)?;
    let activation = Activation::ClampedSwiGlu { alpha: ALPHA, limit: LIMIT };
    // Nor can it say whether attention has biases.
    let mut config = compose(config, activation, experts, width, Presence::IfPresent);
    config.set_windows(keys.get("attention.sliding_window")?, |i| sliding[i]);
    Ok(config)
}

fn experts(count: usize, used: usize) -> ExpertsConfig {
    ExpertsConfig {
        count,
        used,
        routing: Routing::SoftmaxChosen,
        router_bias: true,
        scaled: false,
        dense: None,
    }
}

fn compose(
    mut config: Config,
    activation: Activation,
    experts: ExpertsConfig,
    width: usize,
    bias: Presence,
) -> Config {
    config.set_experts(experts, width);
    for layer in &mut config.layers {
        let attention = &mut layer.attention;
        attention.sinks = true;
        (attention.qkv_bias, attention.out_bias) = (bias, bias);
        layer.mlp.bias = Presence::Yes;
        layer.mlp.activation = activation;
    }
    config
}
