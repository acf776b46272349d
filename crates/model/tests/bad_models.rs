//! Configurations and files that lie: every one is refused in one line or runs; none panics.

mod common;

use common::keys_in;
use leveret_model::formats::gguf::{MetaValue, Writer};
use leveret_model::formats::{self, Gguf};
use leveret_model::{Cache, Error, LoadOptions, LogitRows, Model, Pass, Precision, Source, Target};
use serde_json::{Value, json};
use std::path::Path;

/// Loads and runs a few rows.
fn try_out(path: &Path) -> Result<(), Error> {
    let source = Source::open(path)?;
    let options = LoadOptions { threads: 1, ..LoadOptions::default() };
    let footprint = source.footprint(&options).map(|_| ());
    let mut model = match Model::load(&source, &options) {
        Ok(model) => model,
        Err(error) => {
            assert!(footprint.is_err(), "inspect passes what loading refuses: {error}");
            return Err(error);
        }
    };
    footprint?;
    let mut cache = model.new_cache(8.min(model.max_context()))?;
    model.forward(
        &mut [Pass { cache: &mut cache, tokens: &[1, 2], parents: None, logits: LogitRows::All }],
        &[],
    )?;
    cache.commit(&[0, 1])
}

fn one_line(error: &Error) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 600, "{text}");
    text
}

fn folder_with(config: &Value, weights: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn configurations_with_any_key_changed() {
    let strange = [
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(7.5),
        json!(1e300),
        json!(u64::MAX),
        json!("?"),
        json!(null),
        json!([]),
        json!({}),
        json!(true),
        json!(false),
        json!(["full_attention"]),
    ];
    let (mut refused, mut ran) = (0, 0);
    for case in [
        "llama",
        "qwen2",
        "qwen3-moe",
        "ministral3",
        "gemma3",
        "gemma4-e",
        "gemma4-26b-a4b",
        "qwen35",
        "qwen35-moe",
        "gpt-oss",
    ] {
        let target = common::golden(case).join("target");
        let config: Value =
            serde_json::from_slice(&std::fs::read(target.join("config.json")).unwrap()).unwrap();
        let weights = target.join("model.safetensors");
        let mut places = Vec::new();
        keys_in(&config, "", &mut places);
        let dir = folder_with(&config, &weights);
        try_out(dir.path()).unwrap();
        let original = Source::open(dir.path()).unwrap().config().unwrap();
        for place in &places {
            for value in &strange {
                let mut changed = config.clone();
                *changed.pointer_mut(place).unwrap() = value.clone();
                std::fs::write(dir.path().join("config.json"), changed.to_string()).unwrap();
                // What changes nothing needs no run.
                if Source::open(dir.path()).unwrap().config().is_ok_and(|config| config == original) {
                    ran += 1;
                    continue;
                }
                match try_out(dir.path()) {
                    Ok(()) => ran += 1,
                    Err(error) => {
                        one_line(&error);
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 500 && ran > 500, "{refused} refused, {ran} ran");
}

/// Two keys at once: rotations are described, and no layer turns by them.
#[test]
fn rotations_that_no_layer_uses_are_checked_too() {
    let refused = |case: &str, change: &dyn Fn(&mut Value)| {
        let target = common::golden(case).join("target");
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(target.join("config.json")).unwrap()).unwrap();
        let text = if config.get("text_config").is_some() { &mut config["text_config"] } else { &mut config };
        change(text);
        let dir = folder_with(&config, &target.join("model.safetensors"));
        let text = one_line(&Source::open(dir.path()).unwrap().config().unwrap_err());
        assert!(text.contains("rotary dimensions"), "{text}");
        assert!(try_out(dir.path()).is_err());
    };
    let layers = |config: &mut Value, kind: &str| {
        config["layer_types"].as_array_mut().unwrap().iter_mut().for_each(|layer| *layer = kind.into());
    };
    refused("gemma3", &|config| {
        layers(config, "full_attention");
        config["rope_parameters"] = json!({
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0},
        });
    });
    for factor in [json!(0), json!(1e300)] {
        refused("qwen35", &|config| {
            layers(config, "linear_attention");
            config["partial_rotary_factor"] = factor.clone();
            config["rope_parameters"]["partial_rotary_factor"] = factor.clone();
        });
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let target = common::golden("llama/target");
    let config: Value = serde_json::from_slice(&std::fs::read(target.join("config.json")).unwrap()).unwrap();
    let weights = target.join("model.safetensors");
    let refusal = |key: &str, value: Value| {
        let mut changed = config.clone();
        changed[key] = value;
        one_line(&try_out(folder_with(&changed, &weights).path()).unwrap_err())
    };
    let expect = |text: String, parts: &[&str]| {
        parts.iter().for_each(|part| assert!(text.contains(part), "{text:?} does not say {part:?}"));
    };
    expect(refusal("model_type", json!("mamba")), &["mamba", "supported", "llama", "gemma3"]);
    expect(refusal("model_type", json!(null)), &["model_type", "missing"]);
    expect(refusal("hidden_size", json!("64")), &["hidden_size", "\"64\"", "whole number"]);
    expect(refusal("num_hidden_layers", json!(5)), &["model.layers.4.", "missing"]);
    expect(refusal("intermediate_size", json!(128)), &["mlp.gate_proj.weight", "[112, 64]", "[128, 64]"]);
    expect(refusal("num_key_value_heads", json!(3)), &["4 query heads", "3 key-value heads"]);
    expect(refusal("hidden_act", json!("relu")), &["relu", "silu"]);
    expect(refusal("rope_scaling", json!({"rope_type": "longrope"})), &["longrope", "yarn"]);
    expect(refusal("quantization_config", json!({"quant_method": "awq"})), &["awq", "mxfp4", "--quantize"]);
}

#[test]
fn requests_that_cannot_be_met() {
    let source = Source::open(common::golden("llama/target")).unwrap();
    let options = LoadOptions { threads: 1, ..LoadOptions::default() };
    let refused = |options: LoadOptions| one_line(&Model::load(&source, &options).unwrap_err());
    assert!(refused(LoadOptions { context: Some(257), ..options }).contains("1 to 256"));
    let odd = Precision::Quantize(leveret_model::ElementType::Q2K);
    assert!(refused(LoadOptions { precision: odd, ..options }).contains("Q8_0, Q4_0, Q4_K"));

    let mut model = Model::load(&source, &options).unwrap();
    assert!(model.new_cache(257).is_err() && model.new_cache(0).is_err());
    let mut cache = model.new_cache(4).unwrap();
    let mut run = |tokens: &[u32], parents: Option<&[Option<usize>]>| {
        let pass = Pass { cache: &mut cache, tokens, parents, logits: LogitRows::Last };
        model.forward(&mut [pass], &[]).map_err(|error| one_line(&error))
    };
    assert!(run(&[384], None).unwrap_err().contains("384"));
    assert!(run(&[0; 5], None).unwrap_err().contains("context overflow"));
    assert!(run(&[0; 2], Some(&[None])).unwrap_err().contains("1 parents for 2 rows"));
    assert!(run(&[0; 2], Some(&[None, Some(1)])).unwrap_err().contains("row 1"));
    assert!(run(&[], None).is_ok());
    assert!(run(&[0; 3], Some(&[None, None, Some(0)])).is_ok());
    assert!(cache.commit(&[1, 2]).is_err() && cache.commit(&[3]).is_err() && cache.truncate(1).is_err());
    cache.commit(&[0, 2]).unwrap();
    assert_eq!(cache.len(), 2);
}

#[test]
fn quantised_at_load() {
    use leveret_model::ElementType::{Q4_0, Q4K, Q8_0};
    let source = Source::open(common::golden("llama/target")).unwrap();
    for ty in [Q8_0, Q4_0, Q4K] {
        let options =
            LoadOptions { threads: 1, precision: Precision::Quantize(ty), ..LoadOptions::default() };
        let stored = source.footprint(&LoadOptions::default()).unwrap().weight_bytes;
        assert!(source.footprint(&options).unwrap().weight_bytes < stored, "{ty:?}");
        Model::load(&source, &options).unwrap();
    }
}

/// A list of flags or of numbers.
fn copied(list: formats::gguf::Array<'_>) -> MetaValue {
    let flag = |v| matches!(v, formats::gguf::Value::Bool(true));
    let number = |v| match v {
        formats::gguf::Value::Unsigned(n) => n as u32,
        formats::gguf::Value::Signed(n) => n as u32,
        _ => 0,
    };
    match list.iter().next() {
        Some(formats::gguf::Value::Bool(_)) => MetaValue::Bools(list.iter().map(flag).collect()),
        _ => MetaValue::U32s(list.iter().map(number).collect()),
    }
}

/// Writes `gguf` again without its tokenizer, one key changed.
fn rewrite(gguf: &Gguf, changed: &str, value: &MetaValue, path: &Path) {
    let mut writer = Writer::new();
    for (key, old) in gguf.meta().iter().filter(|(key, _)| !key.starts_with("tokenizer.")) {
        match old {
            _ if key == changed => drop(writer.meta(key, value.clone())),
            formats::gguf::Value::Unsigned(v) => drop(writer.meta(key, v as u32)),
            formats::gguf::Value::Float(v) => drop(writer.meta(key, v as f32)),
            formats::gguf::Value::Str(v) => drop(writer.meta(key, v)),
            formats::gguf::Value::Array(list) => drop(writer.meta(key, copied(list))),
            _ => {}
        }
    }
    for tensor in gguf.tensors() {
        writer.tensor(tensor.name, tensor.ty.element().unwrap(), tensor.shape).unwrap();
    }
    let mut body = writer.start(std::io::BufWriter::new(std::fs::File::create(path).unwrap())).unwrap();
    for tensor in gguf.tensors() {
        body.tensor(tensor.name, gguf.tensor(tensor.name).unwrap().unwrap().bytes).unwrap();
    }
    body.finish().unwrap();
}

#[test]
fn gguf_metadata_with_any_key_changed() {
    let strange = [
        MetaValue::U32(0),
        MetaValue::U32(1),
        MetaValue::U32(3),
        MetaValue::U64(u64::MAX),
        MetaValue::I32(-1),
        MetaValue::F32(0.0),
        MetaValue::F32(f32::NAN),
        MetaValue::F32(-1e30),
        MetaValue::U32s(vec![2, 0, 1, 7]),
        MetaValue::Bools(vec![true]),
        MetaValue::from("yarn"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let (mut refused, mut ran) = (0, 0);
    for case in [
        "llama",
        "qwen3-moe",
        "ministral3",
        "gemma3",
        "gemma4-e",
        "gemma4-26b-a4b",
        "qwen35",
        "qwen35-moe",
        "gpt-oss",
    ] {
        let gguf = Gguf::open(common::golden(&format!("{case}/gguf/target-bf16.gguf"))).unwrap();
        rewrite(&gguf, "", &MetaValue::U8(0), &path);
        try_out(&path).unwrap();
        let keys = gguf.meta().iter().map(|(key, _)| key).filter(|key| !key.starts_with("tokenizer."));
        for key in keys {
            for value in &strange {
                rewrite(&gguf, key, value, &path);
                match try_out(&path) {
                    Ok(()) => ran += 1,
                    Err(error) => {
                        one_line(&error);
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 200 && ran > 200, "{refused} refused, {ran} ran");
}
