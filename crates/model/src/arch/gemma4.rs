//! Gemma 4 (text): norms around each block and on values, full layers with wider heads and a partly
//! still rotation between sliding ones. The small ones have embeddings per layer and a tail that
//! reads the caches of earlier layers; the large ones use keys as values in full layers, and the
//! mixture has a dense MLP beside its experts.

use super::Family;
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::HfConfig;
use crate::config::{
    Activation, Config, DenseBeside, ExpertNames, ExpertsConfig, Head, KvSource, LayerConfig, PerLayerConfig,
    RopeScaling, Rotation, Routing, TensorNames,
};
use crate::{Error, Result};

pub(super) const GEMMA4: Family = Family {
    name: "gemma4",
    hf: &["gemma4_text", "gemma4", "gemma4_unified_text", "gemma4_unified"],
    from_hf,
    gguf: &["gemma4"],
    from_gguf,
};

/// Layers per full layer, where a file does not say.
const PERIOD: usize = 6;
/// Rope bases of full and of sliding layers, where a file does not say.
const BASES: [f64; 2] = [1_000_000.0, 10_000.0];

const HF_NAMES: TensorNames = TensorNames {
    attention_post_norm: "post_attention_layernorm",
    mlp_norm: "pre_feedforward_layernorm",
    mlp_post_norm: "post_feedforward_layernorm",
    router: "router.proj",
    router_scale: "router.scale",
    expert_scales: "router.per_expert_scale",
    experts_norm: "pre_feedforward_layernorm_2",
    experts_post_norm: "post_feedforward_layernorm_2",
    dense_post_norm: "post_feedforward_layernorm_1",
    experts: &[
        ExpertNames::Fused { gate_up: "experts.gate_up_proj", down: "experts.down_proj" },
        ExpertNames::Each { experts: "experts.", gate: "gate_proj", up: "up_proj", down: "down_proj" },
    ],
    output_scale: "layer_scalar",
    ..TensorNames::HF
};

/// What both kinds of file say of the whole model.
struct Plan {
    window: Option<usize>,
    sliding: Vec<bool>,
    /// Layers at the end that read the caches of earlier ones.
    shared: usize,
    /// Width of the embeddings per layer; 0 without.
    per_layer: usize,
}

pub(crate) fn from_hf(keys: &HfConfig<'_>) -> Result<Config> {
    let mut config = keys.decoder("gemma4", true)?;
    if keys.text("use_bidirectional_attention") == Some("all") {
        let what =
            "`use_bidirectional_attention` is `all`: rows that see later ones cannot be decoded one by one";
        return Err(Error::unsupported(keys.path(), what));
    }
    let layers = config.layers.len();
    let sliding = keys.sliding_layers(layers)?;
    let mut sliding = sliding.unwrap_or_else(|| (0..layers).map(|i| (i + 1) % PERIOD != 0).collect());
    // Whatever the pattern says.
    sliding[layers - 1] = false;
    let plan = Plan {
        window: keys.count("sliding_window")?,
        sliding,
        shared: keys.count("num_kv_shared_layers")?.unwrap_or(0),
        per_layer: keys.count("hidden_size_per_layer_input")?.unwrap_or(0),
    };
    let keys_as_values = keys.flag("attention_k_eq_v")?.unwrap_or(false);
    set_heads(keys, &mut config, &plan.sliding, keys_as_values)?;
    let first = |sliding: bool| plan.sliding.iter().position(|&s| s == sliding);
    let dim = |sliding: bool| config.layers[first(sliding).unwrap_or(0)].attention.k_dim;
    config.rotations = vec![
        keys.rotation(Some("full_attention"), dim(false), BASES[0])?,
        keys.rotation(Some("sliding_attention"), dim(true), BASES[1])?,
    ];
    let bias = keys.flag("attention_bias")?.unwrap_or(false).into();
    let double = keys.flag("use_double_wide_mlp")?.unwrap_or(false);
    let tail = layers.saturating_sub(plan.shared);
    let experts = match keys.flag("enable_moe_block")?.unwrap_or(false) {
        true => Some((experts_from_hf(keys)?, keys.need_count("moe_intermediate_size")?)),
        false => None,
    };
    for (i, layer) in config.layers.iter_mut().enumerate() {
        (layer.attention.qkv_bias, layer.attention.out_bias) = (bias, bias);
        // Where all layers share, as an assistant's do, none is widened.
        if double && tail > 0 && i >= tail {
            layer.mlp.width = layer.mlp.width.saturating_mul(2);
        }
        if let Some((experts, width)) = experts {
            set_experts(layer, experts, width);
        }
    }
    config.final_softcap = keys.number("final_logit_softcapping")?.map(|cap| cap as f32);
    config.names = HF_NAMES;
    let vocab = keys.count("vocab_size_per_layer_input")?.unwrap_or(config.vocab);
    Ok(compose(config, &plan, vocab, |_, sliding| keys_as_values && !sliding))
}

/// Heads of each layer: the published keys name those of full layers apart; a newer map, which takes
/// their place, names what differs layer by layer.
fn set_heads(keys: &HfConfig<'_>, config: &mut Config, sliding: &[bool], keys_as_values: bool) -> Result<()> {
    let published = !keys.has("per_layer_config");
    // Null or 0 is the width of all other heads.
    let full_dim = keys.count("global_head_dim")?.filter(|&dim| published && dim > 0);
    let full_kv = keys.count("num_global_key_value_heads")?.filter(|_| published && keys_as_values);
    for (i, (layer, &sliding)) in config.layers.iter_mut().zip(sliding).enumerate() {
        let a = &mut layer.attention;
        let (mut dim, mut kv_heads) = match sliding {
            true => (a.k_dim, a.kv_heads),
            false => (full_dim.unwrap_or(a.k_dim), full_kv.unwrap_or(a.kv_heads)),
        };
        if let Some(own) = keys.section("per_layer_config", &i.to_string())? {
            dim = own.count("head_dim")?.unwrap_or(dim);
            kv_heads = own.count("num_key_value_heads")?.unwrap_or(kv_heads);
            a.heads = own.count("num_attention_heads")?.unwrap_or(a.heads);
        }
        (a.k_dim, a.v_dim, a.kv_heads) = (dim, dim, kv_heads);
    }
    Ok(())
}

fn experts_from_hf(keys: &HfConfig<'_>) -> Result<ExpertsConfig> {
    let used = match keys.count("top_k_experts")? {
        Some(used) => used,
        None => keys.need_count("num_experts_per_tok")?,
    };
    Ok(experts(keys.need_count("num_experts")?, used))
}

pub(crate) fn from_gguf(keys: &GgufConfig<'_>) -> Result<Config> {
    let family = GgufFamily {
        name: "gemma4",
        activation: Activation::GegluTanh,
        interleaved: false,
        yarn_truncate: true,
    };
    let mut config = keys.decoder(family)?;
    if !matches!(config.rotations[0].scaling, RopeScaling::Divisors(_)) {
        let what =
            "tensor `rope_freqs.weight` is missing: full layers do not say which part of a head they rotate";
        return Err(Error::format(keys.path(), what));
    }
    let layers = config.layers.len();
    let plan = Plan {
        window: keys.get("attention.sliding_window")?,
        sliding: keys.sliding_layers(layers, PERIOD)?,
        shared: keys.get("attention.shared_kv_layers")?.unwrap_or(0),
        per_layer: keys.get("embedding_length_per_layer_input")?.unwrap_or(0),
    };
    let full_dim = config.layers[0].attention.k_dim;
    let sliding_dim = keys.get("attention.key_length_swa")?.unwrap_or(full_dim);
    let sliding_value = keys.get("attention.value_length_swa")?.unwrap_or(sliding_dim);
    config.rotations.push(Rotation {
        base: keys.get::<f32>("rope.freq_base_swa")?.map_or(BASES[1], f64::from),
        dims: keys.get("rope.dimension_count_swa")?.unwrap_or(sliding_dim),
        interleaved: false,
        scaling: RopeScaling::None,
    });
    let experts = match keys.get::<usize>("expert_count")?.filter(|&count| count > 0) {
        Some(count) => {
            let experts = experts(count, keys.require("expert_used_count")?);
            Some((experts, keys.require("expert_feed_forward_length")?))
        }
        None => None,
    };
    for (layer, &sliding) in config.layers.iter_mut().zip(&plan.sliding) {
        if sliding {
            (layer.attention.k_dim, layer.attention.v_dim) = (sliding_dim, sliding_value);
        }
        if let Some((experts, width)) = experts {
            set_experts(layer, experts, width);
        }
    }
    let vocab = keys.rows("per_layer_token_embd.weight").unwrap_or(config.vocab);
    // The format says it by leaving the values' projection out.
    let keys_as_values =
        |i: usize, sliding: bool| !sliding && !keys.has_tensor(&format!("blk.{i}.attn_v.weight"));
    Ok(compose(config, &plan, vocab, keys_as_values))
}

fn experts(count: usize, used: usize) -> ExpertsConfig {
    ExpertsConfig {
        count,
        used,
        routing: Routing::SoftmaxChosen,
        router_bias: false,
        scaled: true,
        dense: None,
    }
}

/// Experts of the given width beside the dense MLP that the layer has.
fn set_experts(layer: &mut LayerConfig, experts: ExpertsConfig, width: usize) {
    let dense = Some(DenseBeside::Normed { width: layer.mlp.width });
    layer.mlp.experts = Some(ExpertsConfig { dense, ..experts });
    layer.mlp.width = width;
}

fn compose(
    mut config: Config,
    plan: &Plan,
    per_layer_vocab: usize,
    keys_as_values: impl Fn(usize, bool) -> bool,
) -> Config {
    config.set_windows(plan.window, |i| plan.sliding[i]);
    config.embedding_scale = embedding_scale(config.hidden);
    if config.head == Head::Own {
        config.head = Head::OwnIfPresent;
    }
    config.per_layer = (plan.per_layer > 0).then_some(PerLayerConfig {
        width: plan.per_layer,
        vocab: per_layer_vocab,
        // Not rounded: published widths are squares, of which nothing is lost, and in f32 the reference rounds none.
        scale: (plan.per_layer as f64).sqrt() as f32,
    });
    let tail = config.layers.len().saturating_sub(plan.shared);
    for (i, layer) in config.layers.iter_mut().enumerate() {
        let (a, sliding) = (&mut layer.attention, plan.sliding[i]);
        a.scale = 1.0;
        a.qk_norm = true;
        a.v_norm = true;
        a.rotation = usize::from(sliding);
        a.source = match plan.sliding[..tail].iter().rposition(|&s| s == sliding) {
            // Without an earlier layer of its kind the layer names itself, which is refused.
            source if i >= tail => KvSource::Layer(source.unwrap_or(i)),
            _ if keys_as_values(i, sliding) => KvSource::KeysAsValues,
            _ => KvSource::Own,
        };
        layer.post_norms = true;
        layer.output_scale = true;
    }
    config
}

/// The factor on the rows of an embedding of this width, which the reference rounds to the type that the weights were
/// trained in, bf16.
fn embedding_scale(width: usize) -> f32 {
    half::bf16::from_f32((width as f64).sqrt() as f32).to_f32()
}

#[cfg(test)]
mod tests {
    use super::embedding_scale;

    #[test]
    fn the_factor_on_embeddings_is_rounded_where_the_width_is_no_square() {
        assert_eq!([256, 12, 80].map(embedding_scale), [16.0, 3.46875, 8.9375]);
    }
}
