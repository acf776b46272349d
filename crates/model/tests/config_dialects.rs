//! The dialects of `config.json`: old and new spelling, and multimodal wrappers, describe the same model.

mod common;

use leveret_model::{Config, Source};
use serde_json::{Value, json};

/// Describes the model of a golden whose configuration was rewritten.
fn described(case: &str, rewrite: impl FnOnce(&mut Value)) -> Config {
    let target = common::golden(case).join("target");
    let mut config = serde_json::from_slice(&std::fs::read(target.join("config.json")).unwrap()).unwrap();
    rewrite(&mut config);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(target.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    Source::open(dir.path()).unwrap().config().unwrap()
}

fn remove(config: &mut Value, keys: &[&str]) {
    let object = config.as_object_mut().unwrap();
    keys.iter().for_each(|key| drop(object.remove(*key)));
}

/// Moves `rope_theta` into `rope_scaling` and gives it its new name.
fn new_rope(config: &mut Value) {
    let mut rope = config["rope_scaling"].clone();
    if rope.is_null() {
        rope = json!({"rope_type": "default"});
    }
    rope["rope_theta"] = config["rope_theta"].clone();
    remove(config, &["rope_scaling", "rope_theta"]);
    config["rope_parameters"] = rope;
}

#[test]
fn rope_parameters() {
    for case in ["llama", "qwen2", "qwen3", "gpt-oss"] {
        assert_eq!(described(case, |_| ()), described(case, new_rope), "{case}");
    }
}

#[test]
fn rope_parameters_by_layer_type() {
    let old = described("gemma3", |_| ());
    let new = described("gemma3", |config| {
        config["rope_parameters"] = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": config["rope_theta"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": config["rope_local_base_freq"]},
        });
        remove(config, &["rope_scaling", "rope_theta", "rope_local_base_freq"]);
    });
    assert_ne!(old.rotations[0], old.rotations[1]);
    assert_eq!(old, new);
}

#[test]
fn layer_patterns() {
    let named = described("gemma3-custom", |_| ());
    let period = described("gemma3-custom", |config| remove(config, &["layer_types"]));
    assert_eq!(named, period);
    let standard = described("gemma3", |config| remove(config, &["layer_types", "_sliding_window_pattern"]));
    assert_eq!(standard, described("gemma3", |_| ()));
    let alternating = described("gpt-oss", |config| remove(config, &["layer_types"]));
    assert_eq!(alternating, described("gpt-oss", |_| ()));
}

#[test]
fn multimodal_wrappers() {
    for (case, outer) in [("gemma3", "gemma3"), ("ministral3", "mistral3"), ("llama", "llava")] {
        let wrapped = described(case, |config| {
            *config = json!({"model_type": outer, "text_config": config.take(), "vision_config": {"hidden_size": 9}});
        });
        assert_eq!(wrapped, described(case, |_| ()), "{case}");
    }
}

#[test]
fn a_window_of_experts_holds_in_all_layers() {
    let config = described("qwen3-moe", |config| {
        config["use_sliding_window"] = true.into();
        config["sliding_window"] = 5.into();
    });
    assert!(config.layers.iter().all(|layer| layer.attention.window == Some(5)));
}
