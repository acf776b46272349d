//! Gemma 4: every spelling of its configuration and every layout of its tensors gives the same model.

mod common;

use common::checkpoint::{self, Tensors};
use leveret_model::config::KvSource;
use leveret_model::{Cache, KvType, LoadOptions, LogitRows, Model, Pass, Source, Target};
use safetensors::Dtype;
use serde_json::{Value, json};

/// Configuration and tensors of a golden's target.
fn folder_of(case: &str) -> (Value, Tensors) {
    checkpoint::read(&common::golden(case).join("target"))
}

/// Logits of a few rows, as bits.
fn logits(source: &Source) -> Vec<u32> {
    let options = LoadOptions { threads: 1, kv: KvType::F32, ..LoadOptions::default() };
    let mut model = Model::load(source, &options).unwrap();
    let mut cache = model.new_cache(24).unwrap();
    let tokens: Vec<u32> = (3..27).collect();
    let pass = Pass { cache: &mut cache, tokens: &tokens, parents: None, logits: LogitRows::All };
    model.forward(&mut [pass], &[]).unwrap();
    (0..tokens.len()).flat_map(|row| model.logits(row).iter().map(|x| x.to_bits())).collect()
}

/// Rewrites a golden and expects the same model of it.
fn same(case: &str, rewrite: impl FnOnce(&mut Value, &mut Tensors)) -> Source {
    let original = Source::open(common::golden(case).join("target")).unwrap();
    let (mut config, mut tensors) = folder_of(case);
    rewrite(&mut config, &mut tensors);
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), &config, &tensors);
    let source = Source::open(dir.path()).unwrap();
    assert_eq!(source.config().unwrap(), original.config().unwrap(), "{case}");
    assert!(logits(&source) == logits(&original), "{case}");
    source
}

/// The keys of the text model, wherever they stand.
fn text(config: &mut Value) -> &mut serde_json::Map<String, Value> {
    let wrapped = config.get("text_config").is_some();
    let text = if wrapped { &mut config["text_config"] } else { config };
    text.as_object_mut().unwrap()
}

#[test]
fn heads_by_layer() {
    for case in ["gemma4-e", "gemma4-31b", "gemma4-26b-a4b"] {
        same(case, |config, _| {
            let text = text(config);
            let (dim, kv) =
                (text.remove("global_head_dim").unwrap(), text.remove("num_global_key_value_heads"));
            let mut map = serde_json::Map::new();
            for (i, ty) in text["layer_types"].as_array().unwrap().iter().enumerate() {
                if ty == "full_attention" {
                    let mut own = json!({"head_dim": dim});
                    if let Some(kv) = kv.as_ref().filter(|kv| !kv.is_null()) {
                        own["num_key_value_heads"] = kv.clone();
                    }
                    map.insert(i.to_string(), own);
                }
            }
            text.insert("per_layer_config".into(), map.into());
        });
    }
}

#[test]
fn flat_and_wrapped() {
    same("gemma4-e", |config, tensors| {
        *config = config["text_config"].take();
        tensors.iter_mut().for_each(|t| t.0 = t.0.replace("model.language_model.", "model."));
    });
    same("gemma4-31b", |config, tensors| {
        *config = json!({"model_type": "gemma4_unified", "text_config": config.take()});
        config["text_config"]["model_type"] = "gemma4_unified_text".into();
        tensors.iter_mut().for_each(|t| t.0 = t.0.replacen("model.", "model.language_model.", 1));
    });
}

#[test]
fn experts_apart() {
    same("gemma4-26b-a4b", |_, tensors| {
        let fused: Tensors = tensors.extract_if(.., |t| t.0.contains(".experts.")).collect();
        for (name, ty, shape, data) in fused {
            let (prefix, part) = name.rsplit_once('.').unwrap();
            for (e, expert) in data.chunks_exact(data.len() / shape[0]).enumerate() {
                let mut add = |part: &str, rows: usize, data: &[u8]| {
                    let name = format!("{prefix}.{e}.{part}.weight");
                    tensors.push((name, ty, vec![rows, shape[2]], data.to_vec()));
                };
                if part == "down_proj" {
                    add("down_proj", shape[1], expert);
                } else {
                    let (gate, up) = expert.split_at(expert.len() / 2);
                    add("gate_proj", shape[1] / 2, gate);
                    add("up_proj", shape[1] / 2, up);
                }
            }
        }
    });
}

#[test]
fn other_modalities_are_set_aside() {
    let plain = Source::open(common::golden("gemma4-e/target")).unwrap();
    assert_eq!(plain.set_aside(), None);
    let source = same("gemma4-e", |_, tensors| {
        for name in ["model.vision_tower.patch.weight", "model.embed_audio.projection.weight"] {
            tensors.push((name.into(), Dtype::BF16, vec![4, 8], vec![0; 64]));
        }
    });
    let aside = source.set_aside().unwrap();
    assert_eq!((aside.tensors, aside.bytes), (2, 128));
}

#[test]
fn shared_layers_keep_no_cache() {
    let source = Source::open(common::golden("gemma4-e/target")).unwrap();
    let config = source.config().unwrap();
    let sources: Vec<_> = config.layers.iter().map(|layer| layer.attention.source).collect();
    let own = config.layers.len() - 4;
    assert!(sources[..own].iter().all(|&s| s == KvSource::Own));
    assert_eq!(sources[own..], [2, 2, 2, 3].map(KvSource::Layer));
    let options = LoadOptions { kv: KvType::F32, ..LoadOptions::default() };
    let values: usize = config.layers[..own]
        .iter()
        .map(|l| l.attention.kv_heads * (l.attention.k_dim + l.attention.v_dim))
        .sum();
    assert_eq!(source.footprint(&options).unwrap().cache_bytes_per_position, 4 * values as u64);
    let model = Model::load(&source, &options).unwrap();
    let mut cache = model.new_cache(256).unwrap();
    assert!(cache.bytes() < 256 * 5 * values, "{}", cache.bytes());
    cache.truncate(0).unwrap();
}

#[test]
fn damaged_tensors_are_named() {
    let refusal = |case: &str, damage: &dyn Fn(&mut Value, &mut Tensors)| {
        let (mut config, mut tensors) = folder_of(case);
        damage(&mut config, &mut tensors);
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), &config, &tensors);
        let error = Source::open(dir.path()).and_then(|source| source.footprint(&LoadOptions::default()));
        error.unwrap_err().to_string()
    };
    let without = |part: &'static str| {
        move |_: &mut Value, tensors: &mut Tensors| tensors.retain(|t| !t.0.contains(part))
    };
    for part in [
        "embed_tokens_per_layer",
        "2.per_layer_input_gate",
        "3.layer_scalar",
        "5.self_attn.q_norm",
        "0.self_attn.v_proj",
    ] {
        let text = refusal("gemma4-e", &without(part));
        assert!(text.contains(part) && text.contains("missing"), "{text}");
    }
    for part in ["router.scale", "per_expert_scale", "pre_feedforward_layernorm_2", "4.experts.down_proj"] {
        let text = refusal("gemma4-26b-a4b", &without(part));
        assert!(text.contains(part.trim_start_matches("4.")) && text.contains("missing"), "{text}");
    }
    let all_shared =
        refusal("gemma4-e", &|config, _| config["text_config"]["num_kv_shared_layers"] = 8.into());
    assert!(all_shared.contains("layer 0") && all_shared.contains("cache"), "{all_shared}");
    let both_ways =
        refusal("gemma4-e", &|config, _| config["text_config"]["use_bidirectional_attention"] = "all".into());
    assert!(both_ways.contains("use_bidirectional_attention"), "{both_ways}");
    let wrong =
        refusal("gemma4-e", &|config, _| config["text_config"]["hidden_size_per_layer_input"] = 8.into());
    assert!(wrong.contains("[384, 128]") && wrong.contains("[384, 64]"), "{wrong}");
}
