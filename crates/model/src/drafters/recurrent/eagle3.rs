//! EAGLE-3 and P-EAGLE in the layouts of SafeAILab, SpecForge, NVIDIA, DeepSpec and speculators, and
//! in GGUF: one or more Llama layers, the first of which attends over embedding and feature side by
//! side; P-EAGLE guesses later tokens from mask rows.

use super::{Design, Join, Names, Next, Slots};
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::HfConfig;
use crate::config::{Activation, AttentionInput, Config, Presence};
use crate::drafters::fit::{Claims, LayerIds, feature_width};
use crate::drafters::kinds::{DraftOptions, Kind, Runner};
use crate::drafters::vocabulary::MapRule;
use crate::formats::{Folder, Gguf};
use crate::load::{Files, Source};
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

pub(in crate::drafters) const EAGLE3: Kind =
    Kind { family: "eagle3", matches, runner: Runner::Recurrent(design) };

/// What stands before the first layer's tensors, by publisher.
const FIRST_LAYERS: [(&str, &str); 5] = [
    ("", "midlayer."),
    ("", "layers.0."),
    ("model.", "model.midlayer."),
    ("model.", "model.layers.0."),
    ("", "model.layers.0."),
];

fn matches(source: &Source) -> bool {
    match source.files() {
        Files::Gguf(gguf) => matches!(gguf.meta().get("general.architecture"), Ok(Some("eagle3"))),
        Files::Folder(folder) => {
            first_layer(folder).is_some() || folder.config.as_ref().is_some_and(is_named)
        }
    }
}

/// Where the first layer is, if it has the norm that only these heads have.
fn first_layer(folder: &Folder) -> Option<(&'static str, &'static str)> {
    let has = |name: String| folder.raw(&name).is_some();
    FIRST_LAYERS
        .into_iter()
        .find(|(outer, layer)| has(format!("{layer}hidden_norm.weight")) && has(format!("{outer}fc.weight")))
}

/// Whether the configuration says so, should a tensor be missing.
fn is_named(config: &Value) -> bool {
    let kind = config.get("speculators_model_type").and_then(Value::as_str);
    let class = config.get("architectures").and_then(|names| names.get(0)?.as_str()).unwrap_or_default();
    matches!(kind, Some("eagle3" | "peagle")) || class.contains("Eagle3") || class.contains("PEagle")
}

fn design(source: &Source, target: Option<&Config>, options: &DraftOptions) -> Result<Design> {
    let design = match source.files() {
        Files::Gguf(gguf) => from_gguf(gguf, target, options)?,
        Files::Folder(folder) => from_folder(source, folder, target, options)?,
    };
    design.config.check(source.path())?;
    Ok(design)
}

fn from_folder(
    source: &Source,
    folder: &Folder,
    target: Option<&Config>,
    options: &DraftOptions,
) -> Result<Design> {
    let path = folder.path().join("config.json");
    let Some(root) = &folder.config else {
        return Err(Error::format(folder.path(), "holds no config.json"));
    };
    let outer = HfConfig::new(&path, root)?;
    let nested = root.get("transformer_layer_config");
    let inner = nested.map_or(Ok(outer), |nested| HfConfig::new(&path, nested))?;
    let (prefix, first) = first_layer(folder).unwrap_or(FIRST_LAYERS[1]);
    let has = |name: &str| source.has(&format!("{name}.weight"));
    let own = |name: &str| Some(format!("{prefix}{name}"));

    let mut config = inner.decoder("eagle3", false)?;
    if inner.windows_hold()?
        && let Some(sliding) = inner.sliding_layers(config.layers.len())?
    {
        config.set_windows(inner.count("sliding_window")?, |i| sliding[i]);
    }
    config.check(&path)?;
    let feature = outer.count("target_hidden_size")?.unwrap_or(target.map_or(config.hidden, |t| t.hidden));
    let feature = feature_width(&path, feature)?;
    let claims = Claims { hidden: Some(feature), vocab: Some(config.vocab), layers: None };
    if let Some(target) = target {
        claims.check(&path, target, options)?;
    }
    widen_first(&mut config, |suffix| has(&format!("{first}{suffix}")));
    let taps = taps(&path, root, &outer, target, options)?;
    let flag = |key: &str| Ok::<_, Error>(outer.flag(key)?.unwrap_or(false));
    let count = taps.len().max(1);
    let feature_norms =
        match (flag("fc_norm")? || has("fc_norm.0"), flag("norm_before_fc")? || has("input_norm")) {
            (true, false) => (0..count).map(|i| (format!("{prefix}fc_norm.{i}"), feature)).collect(),
            (false, true) => vec![(format!("{prefix}input_norm"), count * feature)],
            (false, false) => Vec::new(),
            (true, true) => {
                let what = "both `fc_norm` and `norm_before_fc`; supported: one of them";
                return Err(Error::unsupported(&path, what));
            }
        };
    let layer_names = (0..config.layers.len()).map(|i| match (i, first.strip_suffix("0.")) {
        (0, _) => first.to_owned(),
        (_, Some(base)) => format!("{base}{i}."),
        (_, None) => format!("{prefix}layers.{i}."),
    });
    let slots = slots(&path, folder, &outer)?;
    let slots = slots.map(|slots| checked(&path, slots, config.vocab)).transpose()?;
    Ok(Design {
        family: family_of(slots),
        dialect: dialect(root, first),
        layer_names: layer_names.collect(),
        names: Names {
            fc: format!("{prefix}fc"),
            feature_norms,
            embedding_norm: Some(format!("{first}input_layernorm")),
            hidden_norm: Some(format!("{first}hidden_norm")),
            final_norm: own("norm"),
            embedding: own("embed_tokens").filter(|name| has(name)),
            head: own("lm_head")
                .filter(|name| has(name))
                .or_else(|| has("lm_head").then(|| "lm_head".into())),
            mask_hidden: slots.map(|_| "mask_hidden".into()),
        },
        taps,
        feature,
        join: Join::Beside { normed_residual: flag("norm_before_residual")? },
        next: if flag("norm_output")? { Next::Normed } else { Next::Residual },
        head_rows: outer.count("draft_vocab_size")?.unwrap_or(config.vocab),
        map: MapRule::Offset,
        vocab: target.map_or(config.vocab, |target| target.vocab),
        slots,
        complete: true,
        config,
    })
}

fn dialect(root: &Value, first: &str) -> &'static str {
    if root.get("speculators_model_type").is_some() {
        "speculators"
    } else if root.get("target_layer_ids").is_some() {
        "deepspec"
    } else if root.get("eagle_config").is_some() {
        "specforge"
    } else if first.ends_with("midlayer.") {
        "safeailab"
    } else {
        "nvidia"
    }
}

/// Makes the first attention read embedding and feature side by side, and gives all layers what
/// their tensors say.
fn widen_first(config: &mut Config, has: impl Fn(&str) -> bool) {
    let qk_norm = has(config.names.q_norm);
    for layer in &mut config.layers {
        layer.attention.qk_norm = qk_norm;
        layer.attention.qkv_bias = Presence::IfPresent;
        layer.attention.out_bias = Presence::IfPresent;
        layer.mlp.bias = Presence::IfPresent;
    }
    config.layers[0].attention.input = AttentionInput::Given { width: 2 * config.hidden };
}

/// The features that are read, by each publisher's way of counting layers.
fn taps(
    path: &Path,
    root: &Value,
    outer: &HfConfig<'_>,
    target: Option<&Config>,
    options: &DraftOptions,
) -> Result<Vec<crate::Tap>> {
    const KEY: &str = "eagle_aux_hidden_state_layer_ids";
    let layers = target.map(|target| target.layers.len());
    // A list without entries, which some write, names none.
    let at_top = outer.counts(KEY)?;
    let nested = match root.get("eagle_config").filter(|section| section.is_object()) {
        Some(section) => {
            let keys = HfConfig::new(path, section)?;
            if keys.flag("use_aux_hidden_state")? == Some(false) {
                let what =
                    "`eagle_config.use_aux_hidden_state` is false; supported: features of several layers";
                return Err(Error::unsupported(path, what));
            }
            keys.counts(KEY)?
        }
        None => Vec::new(),
    };
    let (rule, ids) = if !at_top.is_empty() {
        (LayerIds::Inputs, at_top)
    } else if !nested.is_empty() {
        (LayerIds::Outputs, nested)
    } else if outer.has("target_layer_ids") {
        (LayerIds::Outputs, outer.counts("target_layer_ids")?)
    } else {
        match layers {
            Some(n) => (LayerIds::Inputs, vec![2.min(n), n / 2, n.saturating_sub(3)]),
            None if options.taps.is_none() => return Ok(Vec::new()),
            None => (LayerIds::Inputs, Vec::new()),
        }
    };
    // An output of a layer behind the last one: the file counts inputs (some for gpt-oss do).
    let rule = match layers {
        Some(n) if ids.contains(&n) => LayerIds::Inputs,
        _ => rule,
    };
    rule.taps(path, &ids, layers, options)
}

fn family_of(slots: Option<Slots>) -> &'static str {
    if slots.is_some() { "p-eagle" } else { "eagle3" }
}

/// Bound on the tokens that mask rows guess.
const MOST: usize = 64;

/// Mask rows whose token is one of the `vocab` in the embedding.
fn checked(path: &Path, Slots { count, mask }: Slots, vocab: usize) -> Result<Slots> {
    if mask as usize >= vocab {
        let what = format!("the mask token is {mask}, expected one of the {vocab} in the embedding");
        return Err(Error::format(path, what));
    }
    Ok(Slots { count: count.clamp(1, MOST), mask })
}

/// P-EAGLE's mask rows.
fn slots(path: &Path, folder: &Folder, outer: &HfConfig<'_>) -> Result<Option<Slots>> {
    const TOKEN_KEYS: [&str; 3] = ["mask_token_id", "pard_token", "ptd_token_id"];
    const DEFAULT: usize = 5;
    let named = outer.text("speculators_model_type") == Some("peagle");
    if folder.raw("mask_hidden").is_none() && !named {
        return Ok(None);
    }
    let mut mask = None;
    for key in TOKEN_KEYS {
        mask = mask.or(outer.count(key)?);
    }
    let Some(mask) = mask.and_then(|mask| u32::try_from(mask).ok()) else {
        return Err(Error::format(
            path,
            format!("has none of the keys {}: the token of mask rows", TOKEN_KEYS.join(", ")),
        ));
    };
    let proposed = folder.config.as_ref().and_then(|config| {
        config.pointer("/speculators_config/proposal_methods/0/speculative_tokens")?.as_u64()
    });
    let count = proposed.map_or(DEFAULT, |count| usize::try_from(count).unwrap_or(MOST));
    Ok(Some(Slots { count, mask }))
}

fn from_gguf(gguf: &Gguf, target: Option<&Config>, options: &DraftOptions) -> Result<Design> {
    let keys = GgufConfig::new(gguf)?;
    let family =
        GgufFamily { name: "eagle3", activation: Activation::SwiGlu, interleaved: true, yarn_truncate: true };
    let has = |name: &str| keys.has_tensor(&format!("{name}.weight"));
    let vocab = match (keys.get("vocab_size")?, target) {
        (Some(vocab), _) => vocab,
        (None, Some(target)) => target.vocab,
        (None, None) => keys.require("vocab_size")?,
    };
    let mut config = keys.decoder_of(family, vocab)?;
    config.check(keys.path())?;
    let feature = feature_width(keys.path(), keys.get("target_hidden_size")?.unwrap_or(config.hidden))?;
    let layers = target.map(|target| target.layers.len());
    if let Some(target) = target {
        let claims = Claims { hidden: Some(feature), vocab: Some(vocab), layers: None };
        claims.check(keys.path(), target, options)?;
    }
    let first = "blk.0.";
    widen_first(&mut config, |suffix| has(&format!("{first}{suffix}")));
    let taps =
        LayerIds::Inputs.taps(keys.path(), &keys.require::<Vec<usize>>("target_layers")?, layers, options)?;
    let flag = |key: &str| Ok::<_, Error>(keys.get::<bool>(key)?.unwrap_or(false));
    let named = |name: &str| Some(name.to_owned()).filter(|name| has(name));
    // Beyond llama.cpp's layout: docs/gguf.md.
    let count = taps.len();
    let feature_norms = match (has("fc_norm.0"), flag("norm_before_fc")?) {
        (true, _) => (0..count).map(|i| (format!("fc_norm.{i}"), feature)).collect(),
        (false, true) => vec![("enc.output_norm".into(), count * feature)],
        (false, false) => Vec::new(),
    };
    let slots = match keys.get("parallel_tokens")? {
        Some(count) => {
            let mask = gguf.meta().require("tokenizer.ggml.mask_token_id")?;
            Some(checked(keys.path(), Slots { count, mask }, vocab)?)
        }
        None => None,
    };
    let head = named("output");
    let rows = head.as_ref().and_then(|_| gguf.tensor("output.weight").ok()??.shape.first().copied());
    Ok(Design {
        family: family_of(slots),
        dialect: "gguf",
        layer_names: (0..config.layers.len()).map(|i| format!("blk.{i}.")).collect(),
        names: Names {
            fc: "fc".into(),
            feature_norms,
            embedding_norm: Some(format!("{first}attn_norm")),
            hidden_norm: Some(format!("{first}attn_norm_2")),
            final_norm: Some("output_norm".into()),
            embedding: named("token_embd"),
            head,
            mask_hidden: slots.map(|_| "mask_hidden".into()),
        },
        taps,
        feature,
        join: Join::Beside { normed_residual: flag("norm_before_residual")? },
        next: if flag("norm_output")? { Next::Normed } else { Next::Residual },
        head_rows: rows.unwrap_or(vocab),
        map: MapRule::Token,
        vocab: target.map_or(vocab, |target| target.vocab),
        slots,
        complete: true,
        config,
    })
}
