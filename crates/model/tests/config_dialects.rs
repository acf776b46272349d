//! The dialects of `config.json`: old and new spelling, and multimodal wrappers, describe the same model.

mod common;

use leveret_model::config::{Activation, Head, RopeScaling, Routing};
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

/// Qwen2's biases are what they are, whatever MiMo's file says of them; those of Qwen3 are as it says.
#[test]
fn attention_biases() {
    let of = |case: &str, bias: bool| described(case, |config| config["attention_bias"] = bias.into());
    assert_eq!(of("qwen2", false), of("qwen2", true));
    let mimo = described("qwen2", |config| {
        config["attention_bias"] = true.into();
        config["model_type"] = "mimo".into();
    });
    assert_eq!(of("qwen2", false), mimo);
    for case in ["qwen3", "qwen3-moe"] {
        assert_ne!(of(case, false), of(case, true), "{case}");
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
fn a_base_beside_the_sections_is_that_of_full_layers() {
    let config = described("gemma3", |config| {
        config["rope_parameters"] = json!({
            "full_attention": {"rope_type": "default"},
            "sliding_attention": {"rope_type": "default"},
        });
        config["rope_theta"] = json!(5e5);
        config["rope_local_base_freq"] = json!(2e4);
    });
    assert_eq!([config.rotations[0].base, config.rotations[1].base], [5e5, 2e4]);
}

/// The values of transformers' classes, which wrappers leave out when they are saved.
#[test]
fn what_a_configuration_leaves_out() {
    let config = described("gemma3", |config| {
        const LEFT_OUT: [&str; 9] = [
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "vocab_size",
            "rms_norm_eps",
            "max_position_embeddings",
            "hidden_activation",
            "query_pre_attn_scalar",
            "sliding_window",
        ];
        remove(config, &LEFT_OUT);
        *config = json!({"model_type": "gemma3", "text_config": config.take()});
    });
    let attention = &config.layers[0].attention;
    assert_eq!((attention.heads, attention.kv_heads, attention.k_dim), (8, 4, 256));
    assert_eq!((attention.scale, attention.window), (1.0 / 16.0, Some(4096)));
    assert_eq!(config.layers[0].mlp.activation, Activation::GegluTanh);
    assert_eq!((config.vocab, config.max_context, config.norm_eps), (262_208, 131_072, 1e-6));

    let config = described("gpt-oss", |config| remove(config, &["rope_scaling", "rope_theta"]));
    let RopeScaling::Yarn { factor, original, truncate, .. } = config.rotations[0].scaling else {
        panic!("{:?}", config.rotations[0]);
    };
    assert_eq!((factor, original, truncate, config.rotations[0].base), (32.0, 4096.0, false, 150_000.0));

    let experts = |case: &str, keys: &[&str]| {
        let config = described(case, |config| remove(config, keys));
        config.layers[0].mlp.experts.unwrap()
    };
    assert_eq!(experts("gpt-oss", &["num_experts_per_tok", "experts_per_token"]).used, 4);
    assert_eq!(experts("qwen3-moe", &["num_experts", "num_local_experts"]).count, 128);

    let config = described("qwen3", |config| {
        config["use_sliding_window"] = true.into();
        config["sliding_window"] = 5.into();
        remove(config, &["max_window_layers", "layer_types"]);
    });
    assert!(config.layers.iter().all(|layer| layer.attention.window.is_none()), "28 full layers come first");
}

/// What is null is absent, not left out.
#[test]
fn null_is_not_left_out() {
    let window = |value: Option<Value>| {
        let config = described("mistral-sliding", |config| match value {
            Some(value) => config["sliding_window"] = value,
            None => remove(config, &["sliding_window"]),
        });
        config.layers[0].attention.window
    };
    assert_eq!(window(Some(Value::Null)), None);
    assert_eq!(window(Some(json!(3))), Some(3));
    assert_eq!(window(None), Some(4096));
}

#[test]
fn newer_names() {
    let renamed = described("qwen3-moe", |config| {
        config["num_local_experts"] = config["num_experts"].clone();
        remove(config, &["num_experts"]);
    });
    assert_eq!(renamed, described("qwen3-moe", |_| ()));

    let by_type = |model_type: &str| {
        let config = described("mistral-sliding", |config| {
            config["model_type"] = model_type.into();
            let layers = config["num_hidden_layers"].as_u64().unwrap() as usize;
            let mut types = vec!["full_attention"; layers];
            types[0] = "sliding_attention";
            config["layer_types"] = json!(types);
        });
        config.layers.iter().map(|layer| layer.attention.window.is_some()).collect::<Vec<_>>()
    };
    assert!(by_type("ministral")[0] && !by_type("ministral")[1]);
    assert_eq!(by_type("mistral"), by_type("ministral"));
    assert!(by_type("ministral3").iter().all(|&window| window));

    let config = described("gpt-oss", |config| config["swiglu_alpha"] = json!(1.5));
    assert!(matches!(config.layers[0].mlp.activation, Activation::ClampedSwiGlu { alpha: 1.5, .. }));
}

#[test]
fn rope_in_its_lesser_known_forms() {
    let llama = |rope: Value| described("llama", |config| config["rope_scaling"] = rope).rotations[0].clone();
    assert_eq!(llama(json!({"rope_type": "dynamic", "factor": 4.0})).scaling, RopeScaling::None);
    // Without a factor, it is what takes the original context to the present one.
    let yarn = |rope: Value| match llama(rope).scaling {
        RopeScaling::Yarn { factor, original, .. } => (factor, original),
        other => panic!("{other:?}"),
    };
    let context = described("llama", |_| ()).max_context as f64;
    let implied = yarn(json!({"rope_type": "yarn", "factor": null, "original_max_position_embeddings": 32}));
    assert_eq!(implied, (context / 32.0, 32.0));
    let beside = described("llama", |config| {
        config["rope_scaling"] =
            json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32});
        config["original_max_position_embeddings"] = json!(16);
    });
    assert!(matches!(beside.rotations[0].scaling, RopeScaling::Yarn { original: 16.0, .. }));
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
fn a_wrappers_word_on_tying_counts() {
    let head = |outer: Value, inner: Value| {
        let config = described("qwen3", |config| {
            config["tie_word_embeddings"] = inner;
            *config = json!({"model_type": "qwen3_vl", "text_config": config.take()});
            config["tie_word_embeddings"] = outer;
        });
        config.head
    };
    assert_eq!(head(true.into(), false.into()), Head::Tied);
    assert_eq!(head(false.into(), true.into()), Head::Own);
    assert_eq!(head(Value::Null, true.into()), Head::Tied);
}

#[test]
fn full_layers_of_gemma_4_turn_a_quarter_of_a_head_unless_told_otherwise() {
    let config = described("gemma4-31b", |config| remove(config, &["rope_parameters"]));
    assert_eq!(config.rotations[0].scaling, RopeScaling::Proportional { share: 0.25, factor: 1.0 });
    assert_eq!([config.rotations[0].base, config.rotations[1].base], [1e6, 1e4]);
}

/// Null or 0 is the width of the other heads; left out, the class has one.
#[test]
fn the_width_of_heads_in_full_layers_of_gemma_4() {
    let full = |value: Option<Value>| {
        let config = described("gemma4-31b", |config| match value {
            Some(value) => config["global_head_dim"] = value,
            None => remove(config, &["global_head_dim"]),
        });
        let width = |layer: usize| config.layers[layer].attention.k_dim;
        (width(config.layers.len() - 1), width(0))
    };
    for value in [Value::Null, json!(0)] {
        let (full, other) = full(Some(value));
        assert_eq!(full, other);
    }
    assert_eq!(full(Some(json!(48))).0, 48);
    assert_eq!(full(None).0, 512);
}

#[test]
fn the_factor_on_embeddings_per_layer_is_not_rounded() {
    let config = described("gemma4-e", |config| {
        config["text_config"]["hidden_size_per_layer_input"] = 12.into();
    });
    assert_eq!(config.per_layer.unwrap().scale, 12f32.sqrt());
}

#[test]
fn a_window_of_experts_holds_in_all_layers() {
    let config = described("qwen3-moe", |config| {
        config["use_sliding_window"] = true.into();
        config["sliding_window"] = 5.into();
    });
    assert!(config.layers.iter().all(|layer| layer.attention.window == Some(5)));
}

/// The class of Qwen3.5 has no such key; that of Qwen3 obeys it.
#[test]
fn shares_of_experts() {
    let routing = |case: &str, named: bool| {
        let config = described(case, |config| {
            let text = if config["text_config"].is_object() { &mut config["text_config"] } else { config };
            text["norm_topk_prob"] = named.into();
        });
        config.layers[0].mlp.experts.map(|experts| experts.routing)
    };
    assert_eq!(routing("qwen35-moe", false), Some(Routing::SoftmaxChosen));
    assert_eq!(routing("qwen3-moe", false), Some(Routing::SoftmaxAll));
    assert_eq!(routing("qwen3-moe", true), Some(Routing::SoftmaxChosen));
}
