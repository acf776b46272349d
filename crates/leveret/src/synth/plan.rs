//! The tensors of a family at a given size, in the layout that its checkpoints have.

use std::str::FromStr;

use serde_json::{Value, json};

use super::tokenizer;

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
}

impl Family {
    #[cfg(test)]
    pub(super) const ALL: [Family; 4] = [Family::Llama, Family::Qwen3, Family::Qwen35, Family::Gemma4];

    /// As the command line has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen3 => "qwen3",
            Family::Qwen35 => "qwen3_5",
            Family::Gemma4 => "gemma4",
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

/// A checkpoint to be written.
#[derive(Debug)]
pub(crate) struct Plan {
    /// `config.json`.
    pub(super) config: Value,
    pub(super) vocab: usize,
    pub(super) tensors: Vec<Planned>,
}

impl Plan {
    /// Weights in all.
    pub(crate) fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
    }
}

/// A tensor to be written.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) fill: Fill,
}

/// What numbers a tensor holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fill {
    /// Even over `centre - spread` to `centre + spread`.
    Around { centre: f32, spread: f32 },
    /// Logarithms of decay rates from 1 to 16.
    LogRate,
}

/// Sizes that all families have, as published.
struct Published {
    vocab: usize,
    hidden: usize,
    layers: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    tied: bool,
    /// Layers come in groups of so many.
    period: usize,
}

impl Family {
    fn published(self) -> Published {
        let p = |vocab, hidden, layers, inner, heads, kv_heads, head_dim, tied, period| Published {
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
        }
    }
}

/// The checkpoint of `family` whose weights come closest to `size`.
pub(crate) fn plan(family: Family, size: &Size) -> Plan {
    // More of everything is more weights, so halving finds the factor.
    let (mut low, mut high) = (0.001f64, 8.0f64);
    for _ in 0..40 {
        let middle = (low * high).sqrt();
        match build(family, middle).parameters() < size.parameters {
            true => low = middle,
            false => high = middle,
        }
    }
    let distance = |plan: &Plan| plan.parameters().abs_diff(size.parameters);
    let (low, high) = (build(family, low), build(family, high));
    if distance(&low) < distance(&high) { low } else { high }
}

/// `published` times `factor`, in steps, at least one of them.
fn scaled(published: usize, factor: f64, step: usize) -> usize {
    ((published as f64 * factor / step as f64).round() as usize).max(1) * step
}

fn build(family: Family, factor: f64) -> Plan {
    let p = family.published();
    // Whole blocks of every quantised type, except in the smallest.
    let step = if factor * p.hidden as f64 > 1000.0 { 256 } else { 32 };
    let group = p.heads / p.kv_heads;
    let kv_heads = scaled(p.kv_heads, factor, 1);
    let sizes = Published {
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
        Family::Gemma4 => gemma4(&mut builder, &sizes),
    };
    Plan { config, vocab: sizes.vocab, tensors: builder.tensors }
}

struct Builder {
    /// What norms store less than their factor.
    offset: f32,
    tensors: Vec<Planned>,
}

impl Builder {
    fn add(&mut self, name: String, shape: &[usize], fill: Fill) {
        self.tensors.push(Planned { name, shape: shape.into(), fill });
    }

    /// Rows of length one, about: activations keep their size.
    fn matrix(&mut self, name: String, rows: usize, cols: usize) {
        let spread = (3.0 / cols as f32).sqrt();
        self.add(format!("{name}.weight"), &[rows, cols], Fill::Around { centre: 0.0, spread });
    }

    fn norm(&mut self, name: String, width: usize) {
        let fill = Fill::Around { centre: 1.0 - self.offset, spread: 0.1 };
        self.add(format!("{name}.weight"), &[width], fill);
    }

    /// Embedding, final norm, head.
    fn ends(&mut self, prefix: &str, p: &Published) {
        self.matrix(format!("{prefix}embed_tokens"), p.vocab, p.hidden);
        self.norm(format!("{prefix}norm"), p.hidden);
        if !p.tied {
            self.matrix("lm_head".into(), p.vocab, p.hidden);
        }
    }

    /// Projections of an attention block; rows of queries may hold gates as well.
    fn attention(&mut self, layer: &str, p: &Published, q_rows: usize, qk_norm: bool) {
        let (q, kv) = (p.heads * p.head_dim, p.kv_heads * p.head_dim);
        self.matrix(format!("{layer}self_attn.q_proj"), q_rows, p.hidden);
        self.matrix(format!("{layer}self_attn.k_proj"), kv, p.hidden);
        self.matrix(format!("{layer}self_attn.v_proj"), kv, p.hidden);
        self.matrix(format!("{layer}self_attn.o_proj"), p.hidden, q);
        if qk_norm {
            self.norm(format!("{layer}self_attn.q_norm"), p.head_dim);
            self.norm(format!("{layer}self_attn.k_norm"), p.head_dim);
        }
    }

    fn mlp(&mut self, layer: &str, p: &Published) {
        self.matrix(format!("{layer}mlp.gate_proj"), p.inner, p.hidden);
        self.matrix(format!("{layer}mlp.up_proj"), p.inner, p.hidden);
        self.matrix(format!("{layer}mlp.down_proj"), p.hidden, p.inner);
    }

    fn norms(&mut self, layer: &str, names: &[&str], width: usize) {
        names.iter().for_each(|name| self.norm(format!("{layer}{name}"), width));
    }
}

const CONTEXT: usize = 32_768;

/// Keys that all families share.
fn config(p: &Published, model_type: &str, architecture: &str) -> Value {
    json!({
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": p.vocab,
        "hidden_size": p.hidden,
        "num_hidden_layers": p.layers,
        "intermediate_size": p.inner,
        "num_attention_heads": p.heads,
        "num_key_value_heads": p.kv_heads,
        "head_dim": p.head_dim,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": p.tied,
        "eos_token_id": tokenizer::end(p.vocab),
    })
}

fn dense(b: &mut Builder, p: &Published, model_type: &str, class: &str, qk_norm: bool, base: f64) -> Value {
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

/// Heads and their widths in recurrent layers, as published; rows that the convolution looks at.
const DELTA_HEADS: (usize, usize) = (16, 48);
const DELTA_DIM: usize = 128;
const TAPS: usize = 4;

fn qwen35(b: &mut Builder, p: &Published, factor: f64) -> Value {
    let k_heads = scaled(DELTA_HEADS.0, factor, 1);
    let v_heads = k_heads * (DELTA_HEADS.1 / DELTA_HEADS.0);
    let (keys, values) = (k_heads * DELTA_DIM, v_heads * DELTA_DIM);
    b.offset = 1.0;
    b.ends("model.language_model.", p);
    let attention = |b: &mut Builder, layer: &str| {
        b.norms(layer, &["input_layernorm", "post_attention_layernorm"], p.hidden);
        b.attention(layer, p, 2 * p.heads * p.head_dim, true);
        b.mlp(layer, p);
    };
    for i in 0..p.layers {
        let layer = format!("model.language_model.layers.{i}.");
        if (i + 1) % p.period == 0 {
            attention(b, &layer);
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
    b.matrix("mtp.fc".into(), p.hidden, 2 * p.hidden);
    b.norms("mtp.", &["pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"], p.hidden);
    attention(b, "mtp.layers.0.");

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

fn gemma4(b: &mut Builder, p: &Published) -> Value {
    // Full layers have heads twice as wide, a quarter as many of keys, which serve as values.
    let full = Published { head_dim: 2 * p.head_dim, kv_heads: (p.kv_heads / 4).max(1), ..*p };
    b.ends("model.", p);
    for i in 0..p.layers {
        let layer = format!("model.layers.{i}.");
        let names = [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ];
        b.norms(&layer, &names, p.hidden);
        if (i + 1) % p.period == 0 {
            b.attention(&layer, &full, full.heads * full.head_dim, true);
            b.tensors.retain(|tensor| tensor.name != format!("{layer}self_attn.v_proj.weight"));
        } else {
            b.attention(&layer, p, p.heads * p.head_dim, true);
        }
        b.mlp(&layer, p);
        b.add(format!("{layer}layer_scalar"), &[1], Fill::Around { centre: 1.0, spread: 0.1 });
    }
    let kinds =
        (1..=p.layers).map(|i| if i % p.period == 0 { "full_attention" } else { "sliding_attention" });
    let mut config = config(p, "gemma4_text", "Gemma4ForCausalLM");
    config["hidden_activation"] = json!("gelu_pytorch_tanh");
    config["layer_types"] = kinds.collect();
    config["sliding_window"] = json!(1024);
    config["attention_k_eq_v"] = json!(true);
    config["global_head_dim"] = json!(full.head_dim);
    config["num_global_key_value_heads"] = json!(full.kv_heads);
    config["final_logit_softcapping"] = json!(30.0);
    config["hidden_size_per_layer_input"] = json!(0);
    config["num_kv_shared_layers"] = json!(0);
    config["rope_parameters"] = json!({
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    });
    config
}
