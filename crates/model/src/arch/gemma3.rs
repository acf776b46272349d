//! Gemma 3 (text): norms before and after each block, norms on queries and keys, layers with a
//! sliding window between layers that see everything, each kind with its own rotation.

use super::Family;
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::HfConfig;
use crate::config::{Activation, Config, Head, RopeScaling, Rotation, TensorNames};
use crate::{Error, Result};

pub(super) const GEMMA3: Family =
    Family { name: "gemma3", hf: &["gemma3_text", "gemma3"], from_hf, gguf: &["gemma3"], from_gguf };

/// Layers per full layer, where a file does not say.
const PERIOD: usize = 6;
/// Rope base of windowed layers, where a file does not say.
const LOCAL_BASE: f64 = 10_000.0;

const HF_NAMES: TensorNames = TensorNames {
    attention_post_norm: "post_attention_layernorm",
    mlp_norm: "pre_feedforward_layernorm",
    mlp_post_norm: "post_feedforward_layernorm",
    ..TensorNames::HF
};

fn from_hf(keys: &HfConfig<'_>) -> Result<Config> {
    let mut config = keys.decoder("gemma3", true)?;
    if keys.flag("use_bidirectional_attention")?.unwrap_or(false) {
        let what =
            "`use_bidirectional_attention` is true: rows that see later ones cannot be decoded one by one";
        return Err(Error::unsupported(keys.path(), what));
    }
    let layers = config.layers.len();
    let sliding = match keys.sliding_layers(layers)? {
        Some(sliding) => sliding,
        None => {
            let named = keys.count("sliding_window_pattern")?;
            let period = named.or(keys.count("_sliding_window_pattern")?).unwrap_or(PERIOD);
            (0..layers).map(|i| period == 0 || (i + 1) % period != 0).collect()
        }
    };
    let head_dim = config.layers[0].attention.k_dim;
    config.rotations =
        vec![keys.rotation(Some("full_attention"), head_dim, 1_000_000.0)?, local_rotation(keys, head_dim)?];
    let scale = match keys.number("query_pre_attn_scalar")? {
        Some(scalar) => (1.0 / scalar.sqrt()) as f32,
        None => config.layers[0].attention.scale,
    };
    let bias = keys.flag("attention_bias")?.unwrap_or(false).into();
    for layer in &mut config.layers {
        let attention = &mut layer.attention;
        attention.scale = scale;
        (attention.qkv_bias, attention.out_bias) = (bias, bias);
    }
    config.final_softcap = keys.number("final_logit_softcapping")?.map(|cap| cap as f32);
    // Stored as the distance from one; GGUF converters add the one.
    config.norm_offset = 1.0;
    config.names = HF_NAMES;
    Ok(compose(config, keys.count("sliding_window")?, &sliding))
}

/// In the old spelling windowed layers have a base of their own and no scaling.
fn local_rotation(keys: &HfConfig<'_>, head_dim: usize) -> Result<Rotation> {
    let base = keys.number("rope_local_base_freq")?.unwrap_or(LOCAL_BASE);
    if keys.has("rope_parameters") {
        let rotation = keys.rotation(Some("sliding_attention"), head_dim, base)?;
        let section = keys.section("rope_parameters", "sliding_attention")?;
        // A base beside the sections is that of full layers.
        let silent = section.is_some_and(|section| !section.has("rope_theta"));
        return Ok(if silent { Rotation { base, ..rotation } } else { rotation });
    }
    Ok(Rotation { base, dims: head_dim, interleaved: false, scaling: RopeScaling::None })
}

fn from_gguf(keys: &GgufConfig<'_>) -> Result<Config> {
    let family = GgufFamily {
        name: "gemma3",
        activation: Activation::GegluTanh,
        interleaved: false,
        yarn_truncate: true,
    };
    let mut config = keys.decoder(family)?;
    let base = keys.get::<f32>("rope.freq_base_swa")?.map_or(LOCAL_BASE, f64::from);
    let global = config.rotations[0].clone();
    config.rotations.push(Rotation { base, scaling: RopeScaling::None, ..global });
    let sliding = keys.sliding_layers(config.layers.len(), PERIOD)?;
    // The format has no key for the query scale. Of the released sizes only the 27B, the one
    // with 62 layers, divides by something else than the head width.
    let wide = config.layers.len() == 62;
    for layer in &mut config.layers {
        if wide && layer.attention.heads > 0 {
            layer.attention.scale = (layer.attention.heads as f32 / config.hidden as f32).sqrt();
        }
    }
    Ok(compose(config, keys.get("attention.sliding_window")?, &sliding))
}

fn compose(mut config: Config, window: Option<usize>, sliding: &[bool]) -> Config {
    config.set_windows(window, |i| sliding[i]);
    config.embedding_scale = (config.hidden as f64).sqrt() as f32;
    if config.head == Head::Own {
        config.head = Head::OwnIfPresent;
    }
    for (layer, &sliding) in config.layers.iter_mut().zip(sliding) {
        layer.attention.qk_norm = true;
        layer.attention.rotation = usize::from(sliding);
        layer.post_norms = true;
    }
    config
}
