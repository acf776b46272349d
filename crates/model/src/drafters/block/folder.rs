//! Folders of block drafters: z-lab (and SpecForge, which follows it), DeepSpec, speculators, the
//! transformers library, and AngelSpec. They differ in where keys stand, how they count layers,
//! which rows guess, and which rows of a block see each other.

use super::MapRule;
use super::config::{BlockConfig, BlockNames};
use super::gguf::CANDIDATES;
use crate::arch;
use crate::config::hf::HfConfig;
use crate::config::{Config, Head};
use crate::formats::Folder;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// A publisher's way of describing block drafters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    ZLab,
    DeepSpec,
    Speculators,
    Transformers,
    AngelSpec,
}

impl Dialect {
    fn name(self) -> &'static str {
        match self {
            Dialect::ZLab => "z-lab",
            Dialect::DeepSpec => "deepspec",
            Dialect::Speculators => "speculators",
            Dialect::Transformers => "transformers",
            Dialect::AngelSpec => "angelspec",
        }
    }

    /// Whose configuration it is; `None` if no block drafter's.
    fn of(config: &Value) -> Option<Self> {
        if let Some(kind) = text(config, "speculators_model_type") {
            return ["dflash", "dflash2", "dspark"].contains(&kind).then_some(Dialect::Speculators);
        }
        if text(config, "model_type") == Some("muse_glimmer_assistant") {
            return Some(Dialect::Transformers);
        }
        let name = architecture(config);
        match () {
            () if name.contains("DFly") => Some(Dialect::AngelSpec),
            () if !name.contains("DFlash") && !name.contains("DSpark") => None,
            () if config.get("dflash_config").is_some_and(Value::is_object) => Some(Dialect::ZLab),
            () if config.get("target_layer_ids").is_some() => Some(Dialect::DeepSpec),
            () => Some(Dialect::ZLab),
        }
    }
}

fn text<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    config.get(key).and_then(Value::as_str)
}

fn architecture(config: &Value) -> &str {
    config.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str).unwrap_or("")
}

/// Which family a folder is of.
pub(super) fn family(folder: &Folder) -> Option<&'static str> {
    let config = folder.config.as_ref()?;
    let dialect = Dialect::of(config)?;
    let names = BlockNames::HF;
    let has = |name: &str| {
        names.prefixes.iter().any(|prefix| folder.raw(&format!("{prefix}{name}.weight")).is_some())
    };
    Some(match () {
        () if dialect == Dialect::AngelSpec => "dfly",
        () if has(names.markov_in) || architecture(config).contains("DSpark") => "dspark",
        () if has(names.selector) || architecture(config).contains("DFlash2") => "dflash2",
        () => "dflash",
    })
}

pub(super) fn read(folder: &Folder, target: Option<&Config>) -> Result<BlockConfig> {
    let path = folder.path().join("config.json");
    let no = || Error::format(&path, "describes no block drafter");
    let root = folder.config.as_ref().ok_or_else(no)?;
    let dialect = Dialect::of(root).ok_or_else(no)?;
    let family = family(folder).ok_or_else(no)?;
    let keys = HfConfig::new(&path, root)?.searched_first("dflash_config");
    refuse(&path, &keys)?;

    let names = BlockNames::HF;
    let described = match dialect {
        Dialect::Speculators => root.get("transformer_layer_config"),
        _ => Some(root),
    };
    let Some(described) = described.and_then(Value::as_object) else {
        return Err(Error::format(&path, "key `transformer_layer_config` is missing or no object"));
    };
    let mut layers = read_layers(&path, described, target)?;
    let count = layers.layers.len();
    let sliding = set_windows(&path, described, &keys, &mut layers)?;
    let has = |name: String| {
        names.prefixes.iter().any(|prefix| folder.raw(&format!("{prefix}{name}.weight")).is_some())
    };
    for (i, layer) in layers.layers.iter_mut().enumerate() {
        layer.attention.qk_norm = has(format!("layers.{i}.{}", names.layers.q_norm));
    }
    if !keys.flag("rope_is_neox_style")?.or(keys.flag("is_neox_style")?).unwrap_or(true) {
        layers.rotations.iter_mut().for_each(|rotation| rotation.interleaved = true);
    }

    let ids = match dialect {
        Dialect::Speculators => keys.counts("aux_hidden_state_layer_ids")?,
        _ => keys.layers_done("target_layer_ids")?,
    };
    let target_layers = match dialect {
        // It counts the features there.
        Dialect::AngelSpec => None,
        _ => keys.count("num_target_layers")?,
    };
    let ids = match (ids.is_empty(), target_layers.or(target.map(|t| t.layers.len()))) {
        (true, Some(of)) if dialect != Dialect::Speculators => {
            spread(count, of).into_iter().map(|output| output.saturating_add(1)).collect()
        }
        _ => ids,
    };
    let shifted = keys.flag("sample_from_anchor")?.or(keys.flag("shift_label")?);
    let anchor_guesses = shifted.unwrap_or(match dialect {
        Dialect::DeepSpec | Dialect::AngelSpec => true,
        Dialect::ZLab | Dialect::Speculators => family == "dspark",
        Dialect::Transformers => false,
    });
    let input_scale = keys.number("input_embedding_scale")?.unwrap_or(1.0) as f32;
    let mask = keys.need_count("mask_token_id")?;
    Ok(BlockConfig {
        family,
        dialect: dialect.name(),
        causal: causal(dialect, family, &keys, &sliding)?,
        ids,
        taps: Vec::new(),
        target_layers,
        rows: match (keys.count("block_size")?, dialect) {
            (Some(rows), _) => rows,
            // What these publishers' classes say.
            (None, Dialect::Speculators) => 8,
            (None, Dialect::ZLab) => 16,
            (None, _) => keys.need_count("block_size")?,
        },
        anchor_guesses,
        mask: u32::try_from(mask)
            .map_err(|_| Error::format(&path, format!("`mask_token_id` is {mask}, expected a token id")))?,
        embedding_scale: [input_scale, input_scale * layers.embedding_scale],
        logit_scale: keys.number("output_multiplier")?.unwrap_or(1.0) as f32,
        softcap: keys.number("final_logit_softcapping")?.filter(|&cap| cap > 0.0).map(|cap| cap as f32),
        candidates: keys.count("selector_top_k")?.unwrap_or(CANDIDATES),
        map_rule: MapRule::Offset,
        names: BlockNames {
            layers: layers.names,
            // Without a head, or an embedding, these are the target's.
            head: if layers.head == Head::Tied && !has(names.head.into()) {
                names.embedding
            } else {
                names.head
            },
            ..names
        },
        layers,
    })
}

/// Options that change what is computed, in ways that are not implemented.
fn refuse(path: &Path, keys: &HfConfig<'_>) -> Result<()> {
    for key in ["attention_sink_bias", "fc_norm"] {
        if keys.flag(key)?.unwrap_or(false) {
            return Err(Error::unsupported(path, format!("`{key}` of a block drafter; use another drafter")));
        }
    }
    match keys.number("attention_value_scale")? {
        Some(scale) if scale != 1.0 => {
            Err(Error::unsupported(path, format!("`attention_value_scale` is {scale}; supported: 1")))
        }
        _ => Ok(()),
    }
}

/// The layers as those of a decoder: of the family that they name, or else Qwen3's.
fn read_layers(path: &Path, keys: &Map<String, Value>, target: Option<&Config>) -> Result<Config> {
    let mut keys = keys.clone();
    let known = keys.get("model_type").and_then(Value::as_str).is_some_and(arch::is_hf);
    if !known {
        keys.insert("model_type".into(), "qwen3".into());
    }
    let mut default = |key: &str, value: usize| {
        let entry = keys.entry(key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = value.into();
        }
    };
    default("vocab_size", target.map_or(1, |t| t.vocab));
    default("max_position_embeddings", target.map_or(1 << 17, |t| t.max_context));
    // Windows by type are set afterwards, for whatever kind of layer.
    if keys.get("layer_types").is_some_and(Value::is_array) {
        keys.remove("use_sliding_window");
    }
    // Each layer has keys and values of its own. A copy of a Gemma 4's configuration still says how many share them
    // there, which here decides over the widths of MLPs alone.
    let copied = arch::unchecked_from_hf(path, &Value::Object(keys.clone()))?;
    keys.remove("num_kv_shared_layers");
    let mut layers = arch::from_hf(path, &Value::Object(keys))?;
    for (layer, copied) in layers.layers.iter_mut().zip(copied.layers) {
        layer.mlp = copied.mlp;
    }
    Ok(layers)
}

/// Gives sliding layers their window; returns which they are.
fn set_windows(
    path: &Path,
    described: &Map<String, Value>,
    keys: &HfConfig<'_>,
    layers: &mut Config,
) -> Result<Vec<bool>> {
    let count = layers.layers.len();
    let number = |key: &str| described.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let types = described.get("layer_types").and_then(Value::as_array);
    let (sliding, window) = match types {
        Some(types) if types.len() != count => {
            let what = format!("`layer_types` names {} layers, expected {count}", types.len());
            return Err(Error::format(path, what));
        }
        Some(types) => {
            let sliding = types.iter().map(|t| t.as_str() == Some("sliding_attention")).collect();
            // The switch takes the window, not what its type means for a layer's own block.
            let held = described.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(true);
            (sliding, number("sliding_window").filter(|_| held))
        }
        None if keys.flag("use_swa")?.unwrap_or(false) => {
            (vec![true; count], keys.count("swa_window_size")?.or(number("sliding_window")))
        }
        None => return Ok(layers.layers.iter().map(|layer| layer.attention.window.is_some()).collect()),
    };
    for (layer, &sliding) in layers.layers.iter_mut().zip(&sliding) {
        layer.attention.window = window.filter(|_| sliding);
    }
    Ok(sliding)
}

/// For each layer whether rows of a block see only those before them.
fn causal(dialect: Dialect, family: &str, keys: &HfConfig<'_>, sliding: &[bool]) -> Result<Vec<bool>> {
    let all = |causal: bool| vec![causal; sliding.len()];
    if let Some(causal) = keys.flag("is_causal")? {
        return Ok(all(causal));
    }
    if dialect == Dialect::Speculators {
        let mutual = keys.flag("sliding_window_non_causal")?.unwrap_or(family == "dflash2");
        return Ok(sliding.iter().map(|&sliding| sliding && !mutual).collect());
    }
    if let Some(causal) = keys.flag("causal")? {
        return Ok(all(causal));
    }
    Ok(match (dialect, family) {
        (Dialect::Transformers, _) | (_, "dspark") => all(false),
        _ => sliding.to_vec(),
    })
}

/// The features that z-lab's drafters of `count` layers read of a target of `of` layers where none
/// are named: evenly spread outputs, without the first and the last few. What lies between two
/// layers goes to the even one.
fn spread(count: usize, of: usize) -> Vec<usize> {
    match (count, of.checked_sub(4)) {
        (1, _) => vec![of / 2],
        (count, Some(span)) if count > 1 => {
            let place = |i: usize| 1.0 + (i * span) as f64 / (count - 1) as f64;
            (0..count).map(|i| place(i).round_ties_even() as usize).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_spread_as_published() {
        assert_eq!(spread(5, 36), [1, 9, 17, 25, 33]);
        assert_eq!(spread(1, 36), [18]);
        // Halfway between two layers.
        assert_eq!(spread(3, 7), [1, 2, 4]);
        assert_eq!(spread(3, 9), [1, 4, 6]);
    }
}
