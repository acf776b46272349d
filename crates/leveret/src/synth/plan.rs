//! The tensors of a family at a given size, in the layout that its checkpoints have.

use std::str::FromStr;

use serde_json::{Value, json};

use super::builder::{Builder, Checkpoint, FILES, Fill, config};

/// Families whose proportions are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Family {
    /// Llama 3.2 1B.
    Llama,
    /// Qwen3 8B.
    Qwen3,
    /// Qwen3.5 27B: recurrent and attending layers, and its head for guessing ahead.
    #[value(name = "qwen3_5", alias = "qwen35")]
    Qwen35,
    /// Gemma 4 31B: sliding and full layers, keys as values.
    Gemma4,
    /// Gemma 4 E4B: embeddings for each layer, and a tail that reads the keys of earlier layers.
    #[value(name = "gemma4_e")]
    Gemma4E,
}

impl Family {
    #[cfg(test)]
    pub(super) const ALL: [Family; 5] =
        [Family::Llama, Family::Qwen3, Family::Qwen35, Family::Gemma4, Family::Gemma4E];

    /// As the command line has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen3 => "qwen3",
            Family::Qwen35 => "qwen3_5",
            Family::Gemma4 => "gemma4",
            Family::Gemma4E => "gemma4_e",
        }
    }
}

/// How large a checkpoint is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    /// As it was asked for.
    pub(crate) text: String,
    pub(crate) parameters: u64,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        // Two bytes a weight.
        let units = [("mb", 0.5e6), ("gb", 0.5e9), ("m", 1e6), ("b", 1e9)];
        let found = units.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, factor)));
        let size = found.and_then(|(number, factor)| Some(number.parse::<f64>().ok()? * factor));
        match size {
            Some(size) if (1e6..=1e12).contains(&size) => Ok(Self { text: lower, parameters: size as u64 }),
            _ => Err(format!("`{text}` is no size; expected one like 300m, 1b, 600mb or 2gb, up to 1000b")),
        }
    }
}

/// A target to be written, and what its drafters must know of it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) target: Checkpoint,
    pub(super) family: Family,
    /// What became of published widths.
    pub(super) factor: f64,
    pub(super) sizes: Sizes,
}

/// Sizes that all families have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) tied: bool,
    /// Layers come in groups of so many.
    pub(super) period: usize,
}

impl Family {
    /// As published.
    fn published(self) -> Sizes {
        let p = |vocab, hidden, layers, inner, heads, kv_heads, head_dim, tied, period| Sizes {
            vocab,
            hidden,
            layers,
            inner,
            heads,
            kv_heads,
            head_dim,
            tied,
            period,
        };
        match self {
            Family::Llama => p(128_256, 2048, 16, 8192, 32, 8, 64, true, 1),
            Family::Qwen3 => p(151_936, 4096, 36, 12_288, 32, 8, 128, false, 1),
            Family::Qwen35 => p(248_320, 5120, 64, 17_408, 24, 4, 256, false, 4),
            Family::Gemma4 => p(262_144, 5376, 60, 21_504, 32, 16, 256, true, 6),
            Family::Gemma4E => p(262_144, 2560, 42, 10_240, 8, 2, 256, true, 6),
        }
    }
}

/// The checkpoint of `family` whose weights come closest to `size`.
pub(crate) fn plan(family: Family, size: &Size) -> Plan {
    // More of everything is more weights, so halving finds the factor.
    let (mut low, mut high) = (0.001f64, 8.0f64);
    for _ in 0..40 {
        let middle = (low * high).sqrt();
        match build(family, middle).target.parameters() < size.parameters {
            true => low = middle,
            false => high = middle,
        }
    }
    let distance = |plan: &Plan| plan.target.parameters().abs_diff(size.parameters);
    let (low, high) = (build(family, low), build(family, high));
    if distance(&low) < distance(&high) { low } else { high }
}

/// `published` times `factor`, in steps, at least one of them.
pub(super) fn scaled(published: usize, factor: f64, step: usize) -> usize {
    ((published as f64 * factor / step as f64).round() as usize).max(1) * step
}

fn build(family: Family, factor: f64) -> Plan {
    let p = family.published();
    // Whole blocks of every quantised type, except in the smallest.
    let step = if factor * p.hidden as f64 > 1000.0 { 256 } else { 32 };
    let group = p.heads / p.kv_heads;
    let kv_heads = scaled(p.kv_heads, factor, 1);
    let sizes = Sizes {
        vocab: scaled(p.vocab, factor * factor, 256).max(512),
        hidden: scaled(p.hidden, factor, step),
        layers: scaled(p.layers, factor, p.period),
        inner: scaled(p.inner, factor, step),
        heads: kv_heads * group,
        kv_heads,
        ..p
    };
    let mut builder = Builder { offset: 0.0, tensors: Vec::new() };
    let config = match family {
        Family::Llama => dense(&mut builder, &sizes, "llama", "LlamaForCausalLM", false, 500_000.0),
        Family::Qwen3 => dense(&mut builder, &sizes, "qwen3", "Qwen3ForCausalLM", true, 1_000_000.0),
        Family::Qwen35 => qwen35(&mut builder, &sizes, factor),
        Family::Gemma4 => gemma4(&mut builder, &sizes, None),
        Family::Gemma4E => {
            let tail = scaled(TAIL, factor, sizes.period).min(sizes.layers - sizes.period);
            let extras = Extras { tail, width: scaled(PER_LAYER, factor, 32) };
            gemma4(&mut builder, &sizes, Some(&extras))
        }
    };
    let (tensors, words) = (builder.tensors, Some(sizes.vocab));
    let target = Checkpoint { config, names: FILES, tensors, words };
    Plan { target, family, factor, sizes }
}

fn dense(b: &mut Builder, p: &Sizes, model_type: &str, class: &str, qk_norm: bool, base: f64) -> Value {
    b.ends("model.", p);
    for i in 0..p.layers {
        let layer = format!("model.layers.{i}.");
        b.norms(&layer, &["input_layernorm", "post_attention_layernorm"], p.hidden);
        b.attention(&layer, p, p.heads * p.head_dim, qk_norm);
        b.mlp(&layer, p);
    }
    let mut config = config(p, model_type, class);
    config["hidden_act"] = json!("silu");
    config["rope_theta"] = json!(base);
    config
}

/// A layer of Qwen3.5 that attends.
fn qwen35_attending(b: &mut Builder, p: &Sizes, layer: &str) {
    b.norms(layer, &["input_layernorm", "post_attention_layernorm"], p.hidden);
    b.attention(layer, p, 2 * p.heads * p.head_dim, true);
    b.mlp(layer, p);
}

/// Qwen3.5's layer that guesses ahead.
pub(super) fn qwen35_mtp(b: &mut Builder, p: &Sizes) {
    b.matrix("mtp.fc".into(), p.hidden, 2 * p.hidden);
    b.norms("mtp.", &["pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"], p.hidden);
    qwen35_attending(b, p, "mtp.layers.0.");
}

/// Heads and their widths in recurrent layers, as published; rows that the convolution looks at.
const DELTA_HEADS: (usize, usize) = (16, 48);
const DELTA_DIM: usize = 128;
const TAPS: usize = 4;

fn qwen35(b: &mut Builder, p: &Sizes, factor: f64) -> Value {
    let k_heads = scaled(DELTA_HEADS.0, factor, 1);
    let v_heads = k_heads * (DELTA_HEADS.1 / DELTA_HEADS.0);
    let (keys, values) = (k_heads * DELTA_DIM, v_heads * DELTA_DIM);
    b.offset = 1.0;
    b.ends("model.language_model.", p);
    for i in 0..p.layers {
        let layer = format!("model.language_model.layers.{i}.");
        if (i + 1) % p.period == 0 {
            qwen35_attending(b, p, &layer);
            continue;
        }
        b.norms(&layer, &["input_layernorm", "post_attention_layernorm"], p.hidden);
        let mixer = format!("{layer}linear_attn.");
        let channels = 2 * keys + values;
        b.matrix(format!("{mixer}in_proj_qkv"), channels, p.hidden);
        b.matrix(format!("{mixer}in_proj_z"), values, p.hidden);
        b.matrix(format!("{mixer}in_proj_b"), v_heads, p.hidden);
        b.matrix(format!("{mixer}in_proj_a"), v_heads, p.hidden);
        b.matrix(format!("{mixer}out_proj"), p.hidden, values);
        let conv = Fill::Around { centre: 0.0, spread: 0.8 };
        b.add(format!("{mixer}conv1d.weight"), &[channels, 1, TAPS], conv);
        b.add(format!("{mixer}A_log"), &[v_heads], Fill::LogRate);
        b.add(format!("{mixer}dt_bias"), &[v_heads], Fill::Around { centre: -4.5, spread: 2.0 });
        b.add(format!("{mixer}norm.weight"), &[DELTA_DIM], Fill::Around { centre: 1.0, spread: 0.1 });
        b.mlp(&layer, p);
    }
    qwen35_mtp(b, p);

    let kinds = (1..=p.layers).map(|i| if i % p.period == 0 { "full_attention" } else { "linear_attention" });
    let mut text = config(p, "qwen3_5_text", "Qwen3_5ForCausalLM");
    text["hidden_act"] = json!("silu");
    text["layer_types"] = kinds.collect();
    text["full_attention_interval"] = json!(p.period);
    text["attn_output_gate"] = json!(true);
    text["rope_parameters"] =
        json!({"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25});
    text["linear_num_key_heads"] = json!(k_heads);
    text["linear_num_value_heads"] = json!(v_heads);
    text["linear_key_head_dim"] = json!(DELTA_DIM);
    text["linear_value_head_dim"] = json!(DELTA_DIM);
    text["linear_conv_kernel_dim"] = json!(TAPS);
    text["mtp_num_hidden_layers"] = json!(1);
    json!({
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "text_config": text,
        "tie_word_embeddings": p.tied,
    })
}

/// Layers of Gemma 4 E4B that read the keys of earlier ones, and the width of embeddings for each
/// layer, as published.
const TAIL: usize = 18;
const PER_LAYER: usize = 256;

/// The same, scaled.
struct Extras {
    tail: usize,
    width: usize,
}

/// What full layers of Gemma 4 have: heads twice as wide, and a quarter of the keys in the large ones.
pub(super) fn gemma4_full(p: &Sizes, large: bool) -> Sizes {
    let kv_heads = if large { (p.kv_heads / 4).max(1) } else { p.kv_heads };
    Sizes { head_dim: 2 * p.head_dim, kv_heads, ..*p }
}

/// Norms of a layer of Gemma 4.
pub(super) const GEMMA4_NORMS: [&str; 4] = [
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];

fn gemma4(b: &mut Builder, p: &Sizes, extras: Option<&Extras>) -> Value {
    let full = gemma4_full(p, extras.is_none());
    let own_keys = p.layers - extras.map_or(0, |extras| extras.tail);
    b.ends("model.", p);
    if let Some(Extras { width, .. }) = extras {
        b.matrix("model.embed_tokens_per_layer".into(), p.vocab, p.layers * width);
        b.matrix("model.per_layer_model_projection".into(), p.layers * width, p.hidden);
        b.norm("model.per_layer_projection_norm".into(), *width);
    }
    for i in 0..p.layers {
        let layer = format!("model.layers.{i}.");
        b.norms(&layer, &GEMMA4_NORMS, p.hidden);
        let (sizes, is_full) = if (i + 1) % p.period == 0 { (&full, true) } else { (p, false) };
        b.attention(&layer, sizes, sizes.heads * sizes.head_dim, true);
        // Keys serve as values in full layers of the large ones; the tail has neither.
        let missing: &[&str] = match (i < own_keys, is_full && extras.is_none()) {
            (false, _) => &["k_proj", "v_proj", "k_norm"],
            (true, true) => &["v_proj"],
            (true, false) => &[],
        };
        let names: Vec<_> = missing.iter().map(|name| format!("{layer}self_attn.{name}.weight")).collect();
        b.tensors.retain(|tensor| !names.contains(&tensor.name));
        b.mlp(&layer, p);
        if let Some(Extras { width, .. }) = extras {
            b.matrix(format!("{layer}per_layer_input_gate"), *width, p.hidden);
            b.matrix(format!("{layer}per_layer_projection"), p.hidden, *width);
            b.norm(format!("{layer}post_per_layer_input_norm"), p.hidden);
        }
        b.add(format!("{layer}layer_scalar"), &[1], Fill::Around { centre: 1.0, spread: 0.1 });
    }
    let mut config = config(p, "gemma4_text", "Gemma4ForCausalLM");
    gemma4_keys(&mut config, &full, (1..=p.layers).map(|i| i % p.period == 0));
    config["attention_k_eq_v"] = json!(extras.is_none());
    config["final_logit_softcapping"] = json!(30.0);
    config["hidden_size_per_layer_input"] = json!(extras.map_or(0, |extras| extras.width));
    config["num_kv_shared_layers"] = json!(p.layers - own_keys);
    config
}

/// Keys of Gemma 4's targets and assistants: `full` are the sizes of full layers, `is_full` says for
/// each layer whether it is one.
pub(super) fn gemma4_keys(config: &mut Value, full: &Sizes, is_full: impl Iterator<Item = bool>) {
    let kinds = is_full.map(|full| if full { "full_attention" } else { "sliding_attention" });
    config["hidden_activation"] = json!("gelu_pytorch_tanh");
    config["layer_types"] = kinds.collect();
    config["sliding_window"] = json!(1024);
    config["global_head_dim"] = json!(full.head_dim);
    config["num_global_key_value_heads"] = json!(full.kv_heads);
    config["rope_parameters"] = json!({
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    });
}
