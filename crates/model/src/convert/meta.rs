//! A decoder in the metadata keys of GGUF: the other way round from `config::gguf`.

use super::plan::Layout;
use crate::arch::{GPT_OSS_GGUF, QWEN35_GGUF};
use crate::config::rope::yarn_magnitude;
use crate::config::{Config, DenseBeside, KvSource, LayerConfig, RopeScaling, TensorNames};
use crate::formats::gguf::{MetaValue, Writer};
use crate::{Error, Result};
use leveret_kernels::ElementType;
use std::path::Path;

/// How GGUF lays a family of decoders down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Architecture {
    /// `general.architecture`.
    pub(super) name: &'static str,
    pub(super) layout: Layout,
    /// Every so many layers one sees everything, where a file does not say; 0: no file says.
    period: usize,
}

impl Architecture {
    const PLAIN: Self = Self {
        name: "",
        layout: Layout {
            names: TensorNames::GGUF,
            interleaved: false,
            tiled: false,
            fused_experts: false,
            norm_offset: 0.0,
            members: false,
        },
        period: 0,
    };

    const fn plain(name: &'static str) -> Self {
        Self { name, ..Self::PLAIN }
    }

    /// Of the Llama line, whose rotated rows stand side by side.
    pub(super) const fn llama(name: &'static str) -> Self {
        let layout = Layout { interleaved: true, ..Self::PLAIN.layout };
        Self { name, layout, ..Self::PLAIN }
    }

    const fn qwen35(name: &'static str, tiled: bool) -> Self {
        let layout = Layout { names: QWEN35_GGUF, tiled, ..Self::PLAIN.layout };
        Self { name, layout, ..Self::PLAIN }
    }

    /// Gemma 4, and its assistants.
    pub(super) const fn gemma4(name: &'static str) -> Self {
        let layout = Layout { fused_experts: true, ..Self::PLAIN.layout };
        Self { name, layout, ..Self::PLAIN }
    }

    pub(super) const DFLASH: Self = Self::plain("dflash");

    /// Whether its files of llama.cpp have no windows, so that one is of all layers.
    fn has_no_windows(&self) -> bool {
        ["llama", "mistral3"].contains(&self.name)
    }

    /// What GGUF has for the family of `config`.
    ///
    /// # Errors
    /// A family that is not written.
    pub(super) fn of(path: &Path, config: &Config) -> Result<Self> {
        let grows = || config.layers.iter().any(|layer| layer.attention.query_growth.is_some());
        Ok(match config.family {
            "llama" => Self::llama("llama"),
            "mistral" if grows() => Self::llama("mistral3"),
            "mistral" => Self::llama("llama"),
            "qwen2" => Self::plain("qwen2"),
            "qwen3" => Self::plain("qwen3"),
            "qwen3_moe" => Self::plain("qwen3moe"),
            "qwen3_5" => Self::qwen35("qwen35", true),
            "qwen3_5_moe" => Self::qwen35("qwen35moe", true),
            "qwen3_next" => Self::qwen35("qwen3next", false),
            "gemma3" => Self { period: 6, ..Self::plain("gemma3") },
            "gemma4" => Self::gemma4("gemma4"),
            "gpt_oss" => {
                let layout = Layout { names: GPT_OSS_GGUF, ..Self::PLAIN.layout };
                Self { layout, period: 2, ..Self::plain("gpt-oss") }
            }
            other => {
                return Err(Error::unsupported(path, format!("family {other} cannot be written as GGUF")));
            }
        })
    }
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

/// Adds all that describes the network, with `ahead` layers behind it that guess.
pub(super) fn describe(
    architecture: &Architecture,
    name: &str,
    config: &Config,
    ahead: usize,
    ty: ElementType,
    writer: &mut Writer,
) {
    writer.meta("general.architecture", architecture.name);
    writer.meta("general.type", "model");
    writer.meta("general.name", name);
    writer.meta("general.file_type", file_type(ty));
    writer.meta("general.quantization_version", 2u32);
    let mut keys = Keys { architecture: architecture.name, ahead, writer };
    keys.count("block_count", config.layers.len() + ahead);
    if ahead > 0 {
        keys.count("nextn_predict_layers", ahead);
    }
    keys.count("context_length", config.max_context);
    keys.count("embedding_length", config.hidden);
    keys.count("vocab_size", config.vocab);
    keys.counts("feed_forward_length", config, |layer| match layer.mlp.experts.and_then(|e| e.dense) {
        Some(DenseBeside::Normed { width }) => width,
        _ => layer.mlp.width,
    });
    keys.counts("attention.head_count", config, |layer| layer.attention.heads);
    keys.counts("attention.head_count_kv", config, |layer| layer.attention.kv_heads);
    keys.put("attention.layer_norm_rms_epsilon", config.norm_eps);
    if let Some(cap) = config.final_softcap {
        keys.put("final_logit_softcapping", cap);
    }
    let first = &config.layers[0].attention;
    if let Some(growth) = first.query_growth {
        keys.put("attention.temperature_scale", growth.beta);
        keys.count("attention.temperature_length", growth.period);
    }
    windows(architecture, config, &mut keys);
    rotation(config, &mut keys);
    if config.family == "gemma4" {
        gemma4(config, &mut keys);
    } else {
        keys.count("attention.key_length", first.k_dim);
        keys.count("attention.value_length", first.v_dim);
        keys.count("rope.dimension_count", config.rotations[0].dims);
    }
    experts(config, &mut keys);
    recurrent(config, &mut keys);
}

/// What llama.cpp computes otherwise from a file that says all there is to say.
pub(super) fn notes(architecture: &Architecture, config: &Config, ahead: usize) -> Vec<String> {
    const KNOWN_AHEAD: [&str; 3] = ["qwen35", "qwen35moe", "qwen3next"];
    let mut notes = Vec::new();
    if ahead > 0 && !KNOWN_AHEAD.contains(&architecture.name) {
        notes.push(format!("llama.cpp knows no MTP layers behind `{}`, and refuses them", architecture.name));
    }
    let window = config.layers.iter().find_map(|layer| layer.attention.window);
    if let Some(window) = window.filter(|_| architecture.has_no_windows()) {
        notes.push(format!(
            "llama.cpp knows no sliding window in `{}` and computes something else beyond {window} tokens",
            architecture.name
        ));
    }
    if let RopeScaling::Yarn { truncate: false, .. } = config.rotations[0].scaling {
        notes.push("llama.cpp rounds the ends of YaRN's ramp, which this model does not".into());
    }
    notes
}

fn windows(architecture: &Architecture, config: &Config, keys: &mut Keys<'_>) {
    let windows = || config.layers.iter().map(|layer| layer.attention.window);
    let Some(window) = windows().flatten().next() else { return };
    keys.count("attention.sliding_window", window);
    let period = architecture.period;
    let usual = |(i, window): (usize, Option<usize>)| window.is_some() == ((i + 1) % period != 0);
    // There all layers have the window.
    if !architecture.has_no_windows() && (period == 0 || !windows().enumerate().all(usual)) {
        let sliding: Vec<bool> = windows().map(|window| window.is_some()).collect();
        keys.put("attention.sliding_window_pattern", sliding);
    }
}

fn rotation(config: &Config, keys: &mut Keys<'_>) {
    let rotation = &config.rotations[0];
    keys.put("rope.freq_base", rotation.base as f32);
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

/// Sizes of layers with and without a window, each kind by itself; layers that read others' caches.
fn gemma4(config: &Config, keys: &mut Keys<'_>) {
    let of_kind = |sliding: bool| {
        let kind = |layer: &&LayerConfig| layer.attention.window.is_some() == sliding;
        config.layers.iter().find(kind).or(config.layers.first()).map(|layer| &layer.attention)
    };
    for (sliding, end) in [(false, ""), (true, "_swa")] {
        let Some(a) = of_kind(sliding) else { continue };
        keys.count(&format!("attention.key_length{end}"), a.k_dim);
        keys.count(&format!("attention.value_length{end}"), a.v_dim);
        keys.count(&format!("rope.dimension_count{end}"), config.rotations[usize::from(sliding)].dims);
    }
    let shared = config.layers.iter().filter(|l| matches!(l.attention.source, KvSource::Layer(_)));
    keys.count("attention.shared_kv_layers", shared.count());
    keys.count("embedding_length_per_layer_input", config.per_layer.map_or(0, |part| part.width));
}

fn experts(config: &Config, keys: &mut Keys<'_>) {
    let Some((mlp, experts)) = config.layers.iter().find_map(|l| Some((&l.mlp, l.mlp.experts?))) else {
        return;
    };
    keys.count("expert_count", experts.count);
    keys.count("expert_used_count", experts.used);
    keys.count("expert_feed_forward_length", mlp.width);
    if let Some(DenseBeside::Gated { width }) = experts.dense {
        keys.count("expert_shared_feed_forward_length", width);
    }
}

fn recurrent(config: &Config, keys: &mut Keys<'_>) {
    let Some(shape) = config.layers.iter().find_map(|layer| Some(layer.delta.as_ref()?.shape)) else {
        return;
    };
    keys.count("ssm.conv_kernel", shape.taps);
    keys.count("ssm.state_size", shape.k_dim);
    keys.count("ssm.group_count", shape.k_heads);
    keys.count("ssm.time_step_rank", shape.v_heads);
    keys.count("ssm.inner_size", shape.v_width());
    // Layers that guess attend.
    let recurrent = config.layers.iter().map(|layer| layer.delta.is_some());
    let recurrent: Vec<bool> = recurrent.chain(vec![false; keys.ahead]).collect();
    let trunk = &recurrent[..config.layers.len()];
    let period = (1..=trunk.len()).find(|p| trunk.iter().enumerate().all(|(i, &r)| r == ((i + 1) % p != 0)));
    if let Some(period) = period {
        keys.count("full_attention_interval", period);
    }
    keys.put("attention.recurrent_layers", recurrent);
    // Pairs that turn with time, height and width, which are one in a text.
    let pairs = config.rotations[0].dims / 2;
    let sections = [pairs.div_ceil(3), (pairs + 1) / 3, pairs / 3, 0];
    keys.put("rope.dimension_sections", sections.map(|n| n as i32).to_vec());
}

/// Keys with the architecture's name in front.
pub(super) struct Keys<'a> {
    pub(super) architecture: &'a str,
    /// Layers that guess, behind those of the decoder.
    pub(super) ahead: usize,
    pub(super) writer: &'a mut Writer,
}

impl Keys<'_> {
    pub(super) fn put(&mut self, key: &str, value: impl Into<MetaValue>) {
        self.writer.meta(&format!("{}.{key}", self.architecture), value);
    }

    /// Sizes were checked against bounds far below this type's.
    pub(super) fn count(&mut self, key: &str, value: usize) {
        self.put(key, u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// One value if all layers have the same, else a list, in which layers that guess are like the last.
    fn counts(&mut self, key: &str, config: &Config, of: impl Fn(&LayerConfig) -> usize) {
        let mut values: Vec<u32> =
            config.layers.iter().map(|l| u32::try_from(of(l)).unwrap_or(u32::MAX)).collect();
        if values.iter().all(|value| *value == values[0]) {
            return self.put(key, values[0]);
        }
        values.extend(values.last().copied().into_iter().cycle().take(self.ahead));
        self.put(key, values);
    }
}
