//! Mistral: Llama with a sliding window; Ministral has it in some layers only; Ministral 3 adds YaRN and
//! queries that grow with the position. Reads Mistral's own `params.json` too.

use super::Family;
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::{HfConfig, missing, wrong};
use crate::config::{Activation, Config, QueryGrowth, RopeScaling, TensorNames};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

pub(super) const MISTRAL: Family = Family {
    name: "mistral",
    hf: &["mistral", "ministral", "ministral3"],
    from_hf,
    gguf: &["mistral3"],
    from_gguf,
};

fn from_hf(keys: &HfConfig<'_>) -> Result<Config> {
    let mut config = keys.decoder("mistral", false)?;
    // Ministral 3 has no use for the types of its layers.
    let sliding = if keys.is("ministral3") { None } else { keys.sliding_layers(config.layers.len())? };
    config.set_windows(keys.count("sliding_window")?, |i| sliding.as_ref().is_none_or(|sliding| sliding[i]));
    if let Some(beta) = keys.rope_number("llama_4_scaling_beta")? {
        let period = match keys.rope_number("original_max_position_embeddings")? {
            Some(original) => original as usize,
            None => config.max_context,
        };
        set_growth(&mut config, beta as f32, period);
    }
    Ok(config)
}

const GGUF: GgufFamily =
    GgufFamily { name: "mistral", activation: Activation::SwiGlu, interleaved: true, yarn_truncate: true };

fn from_gguf(keys: &GgufConfig<'_>) -> Result<Config> {
    with_growth(keys, keys.decoder(GGUF)?)
}

/// A drafter's layers, whose file may hold no embedding; with the windows that it names.
pub(crate) fn from_gguf_draft(keys: &GgufConfig<'_>) -> Result<Config> {
    let mut config = with_growth(keys, keys.decoder_of(GGUF, keys.require("vocab_size")?)?)?;
    let sliding = keys.sliding_layers(config.layers.len(), 0)?;
    config.set_windows(keys.get("attention.sliding_window")?, |i| sliding[i]);
    config.check(keys.path())?;
    Ok(config)
}

fn with_growth(keys: &GgufConfig<'_>, mut config: Config) -> Result<Config> {
    if let Some(beta) = keys.get::<f32>("attention.temperature_scale")?.filter(|&beta| beta != 0.0) {
        let period = match keys.get("attention.temperature_length")? {
            Some(length) => length,
            None => match config.rotations[0].scaling {
                RopeScaling::Yarn { original, .. } => original as usize,
                _ => config.max_context,
            },
        };
        set_growth(&mut config, beta, period);
    }
    Ok(config)
}

fn set_growth(config: &mut Config, beta: f32, period: usize) {
    for layer in &mut config.layers {
        layer.attention.query_growth = Some(QueryGrowth { beta, period });
    }
}

/// What a key of `params.json` holds.
enum Holds {
    Whole,
    Number,
    Flag,
}

/// Keys of `params.json`, what a `config.json` calls the same, what they hold and whether they must be there.
const KEYS: [(&str, &str, Holds, bool); 10] = [
    ("dim", "hidden_size", Holds::Whole, true),
    ("n_layers", "num_hidden_layers", Holds::Whole, true),
    ("n_heads", "num_attention_heads", Holds::Whole, true),
    ("n_kv_heads", "num_key_value_heads", Holds::Whole, false),
    ("head_dim", "head_dim", Holds::Whole, false),
    ("hidden_dim", "intermediate_size", Holds::Whole, true),
    ("norm_eps", "rms_norm_eps", Holds::Number, true),
    ("vocab_size", "vocab_size", Holds::Whole, true),
    ("rope_theta", "rope_theta", Holds::Number, false),
    ("tied_embeddings", "tie_word_embeddings", Holds::Flag, false),
];

/// Describes the model of a `params.json`: its keys translated, its tensor names, its row order.
pub(crate) fn from_params(path: &Path, params: &Value) -> Result<Config> {
    for (key, what) in [("moe", "dense models"), ("q_lora_rank", "ordinary attention")] {
        if params.get(key).is_some_and(|v| !v.is_null()) {
            return Err(Error::unsupported(path, format!("`{key}` in params.json; supported: {what}")));
        }
    }
    if let Some(format) = params.get("quantization").and_then(|q| q.get("qformat_weight"))
        && format != "fp8_e4m3"
    {
        let what = format!("weights in {format}; supported: fp8_e4m3 and unquantised ones");
        return Err(Error::unsupported(path, what));
    }
    let mut translated = Map::new();
    for (theirs, ours, holds, required) in KEYS {
        let Some(value) = params.get(theirs).filter(|value| !value.is_null()) else {
            if required {
                return Err(missing(path, theirs));
            }
            continue;
        };
        // Checked under the name that it has in this file.
        let (good, expected) = match holds {
            Holds::Whole => (value.is_u64(), "a whole number"),
            Holds::Number => (value.is_number(), "a number"),
            Holds::Flag => (value.is_boolean(), "true or false"),
        };
        if !good {
            return Err(wrong(path, theirs, value, expected));
        }
        translated.insert(ours.into(), value.clone());
    }
    // The file may leave the context out; released models then have 32k.
    let context = ["max_position_embeddings", "max_seq_len"].iter().find_map(|key| params.get(key));
    translated.insert("max_position_embeddings".into(), context.cloned().unwrap_or(json!(32_768)));
    if let Some(yarn) = params.get("yarn").filter(|v| !v.is_null()) {
        let field = |key: &str| yarn.get(key).cloned().unwrap_or(Value::Null);
        let applied = yarn.get("apply_scale").and_then(Value::as_bool).unwrap_or(true);
        let magnitude = if applied { Value::Null } else { json!(1.0) };
        let scaling = json!({
            "rope_type": "yarn",
            "factor": field("factor"),
            "original_max_position_embeddings": field("original_max_position_embeddings"),
            "beta_fast": field("beta"),
            "beta_slow": field("alpha"),
            "attention_factor": magnitude,
        });
        translated.insert("rope_scaling".into(), scaling);
    }
    let root = Value::Object(translated);
    let mut config = from_hf(&HfConfig::new(path, &root)?)?;
    config.names = TensorNames::MISTRAL;
    config.rotations.iter_mut().for_each(|rotation| rotation.interleaved = true);
    let windows = windows(path, params)?;
    for (layer, window) in config.layers.iter_mut().zip(windows.iter().cycle()) {
        layer.attention.window = *window;
    }
    if let Some(growth) = params.get("llama_4_scaling").filter(|v| !v.is_null()) {
        let places = [
            growth.get("original_max_position_embeddings"),
            params.pointer("/yarn/original_max_position_embeddings"),
        ];
        let period =
            places.into_iter().flatten().find_map(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let Some((beta, period)) = growth.get("beta").and_then(Value::as_f64).zip(period) else {
            let what =
                "`llama_4_scaling` in params.json, expected `beta` and `original_max_position_embeddings`";
            return Err(Error::format(path, what));
        };
        set_growth(&mut config, beta as f32, period);
    }
    config.check(path)?;
    Ok(config)
}

/// `sliding_window`: one for all layers, or a list that is repeated over them.
fn windows(path: &Path, params: &Value) -> Result<Vec<Option<usize>>> {
    let window = |value: &Value| match value {
        Value::Null => Ok(None),
        value => value.as_u64().and_then(|n| usize::try_from(n).ok()).map(Some).ok_or_else(|| {
            Error::format(path, "`sliding_window` in params.json, expected whole numbers or null")
        }),
    };
    match params.get("sliding_window") {
        None => Ok(vec![None]),
        Some(Value::Array(list)) if !list.is_empty() => list.iter().map(window).collect(),
        Some(value) => Ok(vec![window(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_keys_of_the_file() {
        let params = json!({
            "dim": 64, "n_layers": 2, "head_dim": 16, "hidden_dim": 80, "n_heads": 4, "n_kv_heads": 2,
            "rope_theta": 1e6, "norm_eps": 1e-5, "vocab_size": 384, "tied_embeddings": false
        });
        let path = Path::new("params.json");
        from_params(path, &params).unwrap();
        for (theirs, ours, _, required) in KEYS {
            let with = |value: Value| {
                let mut params = params.clone();
                params[theirs] = value;
                from_params(path, &params)
            };
            let refusal = with(json!("x")).unwrap_err().to_string();
            assert!(refusal.contains(&format!("`{theirs}` is \"x\"")), "{refusal}");
            match with(Value::Null) {
                Err(error) => assert!(error.to_string().contains(&format!("`{theirs}` is missing"))),
                Ok(_) => assert!(!required, "{ours}"),
            }
        }
    }
}
