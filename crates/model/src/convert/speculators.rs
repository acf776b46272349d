//! Drafters in the layout of the speculators library, which vLLM reads: `config.json` and
//! `model.safetensors` in a folder.

use super::drafts::{HeadNames, feature_norms, joins_features, writes};
use super::plan::{Layout, Plan};
use super::planned::Planned;
use super::{ConvertOptions, Converted, check, part_of, residual_taps, safetensors};
use crate::config::{Config, RopeScaling, Rotation, TensorNames};
use crate::drafters::{self, BlockConfig, BlockNames, Design, Join, MapRule, Names, Next, Shapes, Structure};
use crate::load::{Files, LoadOptions, Source};
use crate::{Error, Result};
use leveret_kernels::{ElementType, Team};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// The version of the library whose layout is written.
const VERSION: &str = "0.9.0";
/// Tokens to propose, where a drafter is chained at will and its files do not say.
const PROPOSED: usize = 5;

const LAYOUT: Layout = Layout {
    names: TensorNames::HF,
    interleaved: false,
    tiled: false,
    fused_experts: false,
    norm_offset: 0.0,
    members: true,
};

/// Writes the drafter of `source` to the folder `out`, with matrices of 16 or 32 bits. `verifier` is
/// what the files are to call its target. Files appear under their names only when they are complete.
///
/// # Errors
/// A drafter of a kind that the library does not have, or that its configuration cannot describe; no
/// drafter; another type; whatever the system refuses.
pub fn to_speculators(
    source: &Source,
    verifier: Option<&str>,
    out: &Path,
    options: &ConvertOptions<'_>,
) -> Result<Converted> {
    if !matches!(options.ty, ElementType::F32 | ElementType::BF16) {
        let what =
            format!("drafters for vLLM cannot be written as {}; supported: F32, BF16", options.ty.name());
        return Err(Error::request(what));
    }
    let part = part_of(out);
    let written = write(source, verifier, &part, options).and_then(|done| {
        std::fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
        for name in [WEIGHTS, CONFIG] {
            std::fs::rename(part.join(name), out.join(name)).map_err(|error| Error::io(out, error))?;
        }
        Ok(done)
    });
    // Only these were put there, so that nothing else can go; the first error counts.
    let _ = [WEIGHTS, CONFIG].map(|name| std::fs::remove_file(part.join(name)));
    let _ = std::fs::remove_dir(&part);
    written
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

fn write(
    source: &Source,
    verifier: Option<&str>,
    part: &Path,
    options: &ConvertOptions<'_>,
) -> Result<Converted> {
    let target = options.target.map(|target| target.target_facts(&LoadOptions::default())).transpose()?;
    let Some(structure) = drafters::structure(source, target.as_ref())? else {
        return Err(Error::unsupported(
            source.path(),
            "holds no drafter: only these have the layout of speculators",
        ));
    };
    let mut plan = Plan::new(source, LAYOUT, options.ty);
    let (kind, mut config, proposed) = match &structure {
        Structure::Head(design) => head(&mut plan, design)?,
        Structure::Block(config, shapes) => {
            block(&mut plan, config, shapes, target.as_ref().map(|target| target.config.vocab))?
        }
        Structure::Assistant(_) => return Err(unknown(source, "gemma4-assistant")),
    };
    let mut planned = plan.planned;
    planned.sort_by_key(|tensor| !tensor.is_described());
    config.insert("speculators_model_type".into(), json!(kind));
    config.insert("speculators_version".into(), json!(VERSION));
    config.insert(
        "torch_dtype".into(),
        json!(if options.ty == ElementType::F32 { "float32" } else { "bfloat16" }),
    );
    config.insert("speculators_config".into(), proposal(source, kind, proposed, verifier, options.target));

    std::fs::create_dir_all(part).map_err(|error| Error::io(part, error))?;
    let path = part.join(CONFIG);
    let text = serde_json::to_string_pretty(&Value::Object(config))
        .map_err(|error| Error::format(&path, error.to_string()))?;
    std::fs::write(&path, text).map_err(|error| Error::io(&path, error))?;
    let path = part.join(WEIGHTS);
    let io = |error| Error::io(&path, error);
    let (front, bytes) = safetensors::header(source, &planned)?;
    let mut file = File::create(&path).map_err(io)?;
    file.write_all(&front).map_err(io)?;
    let bytes = front.len() as u64 + bytes;
    file.set_len(bytes).map_err(io)?;
    let team = Team::new(options.threads);
    let (described, rest) = planned.split_at(planned.iter().take_while(|t| t.is_described()).count());
    safetensors::data(&file, &path, described, source, &team)?;
    let written = drafters::structure(&Source::open(part)?, target.as_ref())?;
    check::same_drafter(source, "speculators' files", &structure, written.as_ref())?;
    safetensors::data(&file, &path, rest, source, &team)?;
    Ok(Converted { tensors: planned.len(), bytes, notes: Vec::new() })
}

fn unknown(source: &Source, family: &str) -> Error {
    let what = format!(
        "the speculators library has no layout for drafters of family {family}; it has those of eagle1, eagle3, p-eagle, dflash, dflash2 and dspark"
    );
    Error::unsupported(source.path(), what)
}

/// What to call a drafter, its configuration, and the tokens it proposes if that is fixed.
type Described = (&'static str, Map<String, Value>, Option<usize>);

fn head(plan: &mut Plan<'_>, design: &Design) -> Result<Described> {
    let kind = match design.family {
        "eagle1" if design.config.layers.len() == 1 => "eagle",
        "eagle3" => "eagle3",
        "p-eagle" => "peagle",
        "eagle1" => {
            return Err(plan.unsupported("an EAGLE-1 head of several layers; speculators has one layer"));
        }
        family => return Err(unknown(plan.source, family)),
    };
    let named = |name: &str| Some(name.to_owned());
    let eagle1 = kind == "eagle";
    let to = HeadNames {
        names: Names {
            fc: if eagle1 { "fusion_fc" } else { "fc" }.into(),
            feature_norms: feature_norms(design, "input_norm", "fc_norm"),
            embedding_norm: named("layers.0.input_layernorm"),
            hidden_norm: named("layers.0.hidden_norm"),
            final_norm: named("norm"),
            embedding: named("embed_tokens"),
            head: named("lm_head"),
            mask_hidden: named("mask_hidden"),
        },
        layers: match eagle1 {
            true => vec!["transformer.".into()],
            false => (0..design.config.layers.len()).map(|i| format!("layers.{i}.")).collect(),
        },
        map: MapRule::Offset,
    };
    plan.head(design, &to)?;
    let mut keys = Map::new();
    keys.insert("transformer_layer_config".into(), layers(&design.config, &plan.planned));
    if eagle1 {
        keys.insert("architectures".into(), json!(["EagleSpeculator"]));
        keys.insert("transformer_layer_architecture".into(), json!("LlamaDecoderLayer"));
        keys.insert("fusion_bias".into(), json!(writes(&plan.planned, "fusion_fc.bias")));
        keys.insert("layernorms".into(), json!(false));
        return Ok((kind, keys, None));
    }
    let class = if kind == "eagle3" { "Eagle3DraftModel" } else { "PEagleDraftModel" };
    keys.insert("architectures".into(), json!([class]));
    keys.insert("draft_vocab_size".into(), json!(design.head_rows));
    let taps = residual_taps(plan.source.path(), &design.taps)?;
    keys.insert("eagle_aux_hidden_state_layer_ids".into(), json!(taps));
    keys.insert("target_hidden_size".into(), json!(design.feature));
    keys.insert("embed_requires_grad".into(), json!(false));
    let normed_residual = design.join == Join::Beside { normed_residual: true };
    keys.insert("norm_before_residual".into(), json!(normed_residual));
    keys.insert("norm_before_fc".into(), json!(joins_features(design)));
    let each = !design.names.feature_norms.is_empty() && !joins_features(design);
    keys.insert("fc_norm".into(), json!(each));
    keys.insert("norm_output".into(), json!(design.next == Next::Normed));
    if let Some(slots) = design.slots {
        keys.insert("mask_token_id".into(), json!(slots.mask));
    }
    Ok((kind, keys, design.slots.map(|slots| slots.count)))
}

fn block(
    plan: &mut Plan<'_>,
    config: &BlockConfig,
    shapes: &Shapes,
    vocab: Option<usize>,
) -> Result<Described> {
    let (kind, class) = match config.family {
        "dflash" => ("dflash", "DFlashDraftModel"),
        "dflash2" => ("dflash2", "DFlash2DraftModel"),
        "dspark" => ("dspark", "DSparkDraftModel"),
        family => return Err(unknown(plan.source, family)),
    };
    let names = BlockNames::HF;
    plan.block(config, shapes, &names, MapRule::Offset, vocab)?;
    let mut keys = Map::new();
    keys.insert("architectures".into(), json!([class]));
    keys.insert("transformer_layer_config".into(), layers(&config.layers, &plan.planned));
    let taps = residual_taps(plan.source.path(), &config.taps)?;
    keys.insert("aux_hidden_state_layer_ids".into(), json!(taps));
    keys.insert("target_hidden_size".into(), json!(shapes.target_hidden));
    keys.insert("draft_vocab_size".into(), json!(shapes.head_rows.or(vocab)));
    keys.insert("block_size".into(), json!(config.rows));
    keys.insert("mask_token_id".into(), json!(config.mask));
    keys.insert("sample_from_anchor".into(), json!(config.anchor_guesses));
    if let Some(layers) = config.target_layers {
        keys.insert("num_target_layers".into(), json!(layers));
    }
    let sliding = || config.layers.layers.iter().map(|layer| layer.attention.window.is_some());
    let as_windows = sliding().eq(config.causal.iter().copied());
    keys.insert("sliding_window_non_causal".into(), json!(!as_windows));
    if !as_windows && config.causal.iter().all(|&causal| causal) {
        keys.insert("is_causal".into(), json!(true));
    }
    let scale = config.embedding_scale[usize::from(shapes.embedding_rows.is_some())];
    for (key, factor) in [("input_embedding_scale", scale), ("output_multiplier", config.logit_scale)] {
        if factor != 1.0 {
            keys.insert(key.into(), json!(decimal(factor)));
        }
    }
    if let Some(cap) = config.softcap {
        keys.insert("final_logit_softcapping".into(), json!(decimal(cap)));
    }
    let shape = |name: &str| {
        let found = plan.planned.iter().find(|tensor| tensor.name.trim_end_matches(".weight") == name);
        found.map(|tensor| &tensor.shape[..])
    };
    if let Some(&[rank, _]) = shape(names.selector) {
        keys.insert("selector_rank".into(), json!(rank));
        keys.insert("selector_top_k".into(), json!(config.candidates));
    }
    let of_first = |name: &str| shape(&format!("layers.0.{name}"));
    let (base, projection) = names.convolutions[0];
    if let (Some(&[_, taps, width]), Some(&[rows, _])) = (of_first(base), of_first(projection)) {
        keys.insert("conv_kernel_size".into(), json!(taps));
        keys.insert("conv_group_size".into(), json!(width / (rows / (2 * taps)).max(1)));
    }
    if let Some(&[_, rank]) = shape(names.markov_in) {
        let (gated, joint) = (shape(names.markov_gate).is_some(), shape(names.markov_joint).is_some());
        let head = if joint {
            "rnn"
        } else if gated {
            "gated"
        } else {
            "vanilla"
        };
        let confidence = shape(names.confidence).and_then(|shape| shape.last().copied());
        keys.insert("markov_rank".into(), json!(rank));
        keys.insert("markov_head_type".into(), json!(head));
        keys.insert("enable_confidence_head".into(), json!(confidence.is_some()));
        let with_token = confidence.is_some_and(|columns| columns > config.layers.hidden);
        keys.insert("confidence_head_with_markov".into(), json!(with_token));
    }
    Ok((kind, keys, Some(config.slots())))
}

/// How many tokens are proposed, and for whom.
fn proposal(
    source: &Source,
    kind: &str,
    proposed: Option<usize>,
    verifier: Option<&str>,
    target: Option<&Source>,
) -> Value {
    let config = |source: &'_ Source| match source.files() {
        Files::Folder(folder) => folder.config.clone(),
        Files::Gguf(_) => None,
    };
    let before = config(source).and_then(|config| config.get("speculators_config").cloned());
    let before = |pointer: &str| before.as_ref().and_then(|before| before.pointer(pointer).cloned());
    let tokens =
        proposed.map(|count| json!(count)).or_else(|| before("/proposal_methods/0/speculative_tokens"));
    let known = match (verifier, target) {
        (None, None) => before("/verifier"),
        _ => None,
    };
    let architectures = target.and_then(config).and_then(|config| config.get("architectures").cloned());
    json!({
        "algorithm": kind,
        "default_proposal_method": "greedy",
        "proposal_methods": [{
            "proposal_type": "greedy",
            "speculative_tokens": tokens.unwrap_or(json!(PROPOSED)),
            "verifier_accept_k": 1,
            "accept_tolerance": 0.0,
        }],
        "verifier": known.unwrap_or_else(|| json!({
            "name_or_path": verifier,
            "architectures": architectures.unwrap_or(json!([])),
        })),
    })
}

/// Layers as the configuration of a Hugging Face model; what it cannot say shows when it is read back.
fn layers(config: &Config, planned: &[Planned]) -> Value {
    let first = &config.layers[0];
    let a = &first.attention;
    let has = |end: &str| planned.iter().any(|tensor| tensor.name.ends_with(end));
    let sliding = || config.layers.iter().map(|layer| layer.attention.window.is_some());
    let kind = |sliding: bool| if sliding { "sliding_attention" } else { "full_attention" };
    let (model, class) =
        if a.qk_norm { ("qwen3", "Qwen3ForCausalLM") } else { ("llama", "LlamaForCausalLM") };
    let mut keys = json!({
        "model_type": model,
        "architectures": [class],
        "attention_bias": has("self_attn.q_proj.bias"),
        "attention_dropout": 0.0,
        "head_dim": a.k_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "initializer_range": 0.02,
        "intermediate_size": first.mlp.width,
        "max_position_embeddings": config.max_context,
        "mlp_bias": has("mlp.gate_proj.bias"),
        "num_attention_heads": a.heads,
        "num_hidden_layers": config.layers.len(),
        "num_key_value_heads": a.kv_heads,
        "rms_norm_eps": decimal(config.norm_eps),
        "rope_parameters": rope(&config.rotations[a.rotation], a.k_dim),
        "tie_word_embeddings": false,
        "use_cache": true,
        "vocab_size": config.vocab,
    });
    if let Some(window) = config.layers.iter().find_map(|layer| layer.attention.window) {
        keys["layer_types"] = sliding().map(kind).collect();
        keys["sliding_window"] = json!(window);
        keys["use_sliding_window"] = json!(true);
    }
    keys
}

fn rope(rotation: &Rotation, head: usize) -> Value {
    let mut keys = match rotation.scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low, high, original } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        }),
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, magnitude } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original as u64,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "truncate": truncate,
            "attention_factor": magnitude,
        }),
        _ => json!({"rope_type": "default"}),
    };
    keys["rope_theta"] = json!(rotation.base);
    if rotation.dims != head {
        keys["partial_rotary_factor"] = json!(rotation.dims as f64 / head as f64);
    }
    keys
}

/// The shortest decimal number that is this one.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
