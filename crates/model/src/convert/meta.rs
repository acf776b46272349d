//! A decoder in the metadata keys of GGUF: the other way round from `config::gguf`.

use super::FAMILIES;
use crate::config::rope::yarn_magnitude;
use crate::config::{Config, LayerConfig, RopeScaling};
use crate::formats::gguf::{MetaValue, Writer};
use crate::{Error, Result};
use leveret_kernels::ElementType;
use std::path::Path;

/// Windowed layers before each full one in Gemma 3, where a file does not say.
const GEMMA_PERIOD: usize = 6;

/// What GGUF calls the family of `config`.
///
/// # Errors
/// A family that is not written.
pub(super) fn architecture(path: &Path, config: &Config) -> Result<&'static str> {
    Ok(match config.family {
        "llama" => "llama",
        "qwen2" => "qwen2",
        "qwen3" => "qwen3",
        "gemma3" => "gemma3",
        "mistral" if config.layers.iter().any(|layer| layer.attention.query_growth.is_some()) => "mistral3",
        "mistral" => "llama",
        other => {
            let what = format!(
                "a folder of family {other} cannot be written as GGUF yet; supported: {}",
                FAMILIES.join(", ")
            );
            return Err(Error::unsupported(path, what));
        }
    })
}

/// What `general.file_type` says of files that are mostly of this type.
pub(super) fn file_type(ty: ElementType) -> u32 {
    match ty {
        ElementType::Q4_0 => 2,
        ElementType::Q8_0 => 7,
        ElementType::Q4K => 14,
        ElementType::BF16 => 32,
        _ => 0,
    }
}

/// Adds all that describes the network.
pub(super) fn describe(
    architecture: &str,
    name: &str,
    config: &Config,
    ty: ElementType,
    writer: &mut Writer,
) {
    writer.meta("general.architecture", architecture);
    writer.meta("general.type", "model");
    writer.meta("general.name", name);
    writer.meta("general.file_type", file_type(ty));
    writer.meta("general.quantization_version", 2u32);
    let mut keys = Keys { architecture, writer };
    let first = &config.layers[0].attention;
    keys.count("block_count", config.layers.len());
    keys.count("context_length", config.max_context);
    keys.count("embedding_length", config.hidden);
    keys.count("vocab_size", config.vocab);
    keys.counts("feed_forward_length", config, |layer| layer.mlp.width);
    keys.counts("attention.head_count", config, |layer| layer.attention.heads);
    keys.counts("attention.head_count_kv", config, |layer| layer.attention.kv_heads);
    keys.count("attention.key_length", first.k_dim);
    keys.count("attention.value_length", first.v_dim);
    keys.put("attention.layer_norm_rms_epsilon", config.norm_eps);
    if let Some(cap) = config.final_softcap {
        keys.put("final_logit_softcapping", cap);
    }
    if let Some(cap) = first.softcap {
        keys.put("attn_logit_softcapping", cap);
    }
    windows(architecture, config, &mut keys);
    rotation(config, &mut keys);
    if let Some(growth) = first.query_growth {
        keys.put("attention.temperature_scale", growth.beta);
        keys.count("attention.temperature_length", growth.period);
    }
}

fn windows(architecture: &str, config: &Config, keys: &mut Keys<'_>) {
    let windows = || config.layers.iter().map(|layer| layer.attention.window);
    let Some(window) = windows().flatten().next() else { return };
    keys.count("attention.sliding_window", window);
    let usual = |(i, window): (usize, Option<usize>)| window.is_some() == ((i + 1) % GEMMA_PERIOD != 0);
    if architecture == "gemma3" && !windows().enumerate().all(usual) {
        let sliding: Vec<bool> = windows().map(|window| window.is_some()).collect();
        keys.put("attention.sliding_window_pattern", sliding);
    }
}

fn rotation(config: &Config, keys: &mut Keys<'_>) {
    let rotation = &config.rotations[0];
    keys.put("rope.freq_base", rotation.base as f32);
    keys.count("rope.dimension_count", rotation.dims);
    if let Some(local) = config.rotations.get(1) {
        keys.put("rope.freq_base_swa", local.base as f32);
    }
    match rotation.scaling {
        RopeScaling::Linear { factor } => {
            keys.put("rope.scaling.type", "linear");
            keys.put("rope.scaling.factor", factor as f32);
        }
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, magnitude, .. } => {
            keys.put("rope.scaling.type", "yarn");
            keys.put("rope.scaling.factor", factor as f32);
            keys.count("rope.scaling.original_context_length", original as usize);
            keys.put("rope.scaling.yarn_beta_fast", beta_fast as f32);
            keys.put("rope.scaling.yarn_beta_slow", beta_slow as f32);
            let usual = yarn_magnitude(factor, 1.0);
            if magnitude == 1.0 {
                keys.put("rope.scaling.yarn_log_multiplier", 1.0f32);
            } else if magnitude != usual {
                keys.put("rope.scaling.attn_factor", (magnitude / usual) as f32);
            }
        }
        // Divisors are a tensor. What there is no key for shows when the file is read back.
        _ => {}
    }
}

/// Keys with the architecture's name in front.
struct Keys<'a> {
    architecture: &'a str,
    writer: &'a mut Writer,
}

impl Keys<'_> {
    fn put(&mut self, key: &str, value: impl Into<MetaValue>) {
        self.writer.meta(&format!("{}.{key}", self.architecture), value);
    }

    /// Sizes were checked against bounds far below this type's.
    fn count(&mut self, key: &str, value: usize) {
        self.put(key, u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// One value if all layers have the same, else a list.
    fn counts(&mut self, key: &str, config: &Config, of: impl Fn(&LayerConfig) -> usize) {
        let values: Vec<u32> =
            config.layers.iter().map(|l| u32::try_from(of(l)).unwrap_or(u32::MAX)).collect();
        match values.iter().all(|value| *value == values[0]) {
            true => self.put(key, values[0]),
            false => self.put(key, values),
        }
    }
}
