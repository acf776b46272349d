//! Block drafters: every layout of one drafter drafts the same, what goldens do not have follows
//! from what they have, and damaged files are refused with the reason.

mod common;

use common::checkpoint::{self, Tensors};
use leveret_model::drafters::{self, Branch, Committed, Description, DraftOptions, Features, Guesser};
use leveret_model::{
    ElementType, KvType, LoadOptions, LogitRows, Model, Pass, Precision, Source, Tap, Target,
};
use safetensors::Dtype;
use serde_json::{Value, json};

/// Configuration and tensors of a golden's drafter.
fn folder_of(case: &str) -> (Value, Tensors) {
    checkpoint::read(&common::golden(case).join("drafter"))
}

fn target() -> Model {
    target_of("dflash")
}

fn target_of(case: &str) -> Model {
    let source = Source::open(common::golden(case).join("target")).unwrap();
    let options =
        LoadOptions { threads: 1, kv: KvType::F32, precision: Precision::Float, ..LoadOptions::default() };
    Model::load(&source, &options).unwrap()
}

/// A text with the target's residual stream after every layer.
struct Text {
    tokens: Vec<u32>,
    taps: Vec<Vec<Vec<f32>>>,
}

impl Text {
    fn of(model: &mut Model, rows: usize) -> Self {
        let vocab = model.vocab_size() as u32;
        let tokens: Vec<u32> = (0..=rows as u32).map(|i| (i * 37 + 5) % vocab).collect();
        let taps: Vec<Tap> = (0..=model.config().layers.len()).map(Tap::Residual).collect();
        let mut cache = model.new_cache(rows).unwrap();
        let pass =
            Pass { cache: &mut cache, tokens: &tokens[..rows], parents: None, logits: LogitRows::None };
        model.forward(&mut [pass], &taps).unwrap();
        let values = |tap| (0..rows).map(|row| model.feature(tap, row).to_vec()).collect();
        Self { taps: (0..taps.len()).map(values).collect(), tokens }
    }

    fn guesser(&self, model: &Model, source: &Source) -> Box<dyn Guesser> {
        let network = drafters::load(source, &model.parts(), &DraftOptions::default()).unwrap();
        let mut guesser = network.guesser(100).unwrap();
        let rows: Vec<usize> = (0..self.tokens.len() - 1).collect();
        guesser.observe(&Committed { tokens: &self.tokens, first: 0, rows: &rows, features: self }).unwrap();
        guesser.begin(&self.tokens).unwrap();
        guesser
    }

    /// Scores along a chain of given tokens.
    fn scores(&self, model: &Model, source: &Source) -> Vec<f32> {
        let network = drafters::load(source, &model.parts(), &DraftOptions::default()).unwrap();
        let depth = network.description().depth.unwrap();
        let mut guesser = self.guesser(model, source);
        let mut all = Vec::new();
        for node in 0..depth {
            let scores = guesser.scores(node);
            all.extend_from_slice(scores.logits);
            all.extend(scores.confidence);
            if node + 1 < depth {
                guesser.expand(&[Branch { parent: node, token: (node * 11 + 3) as u32 }]).unwrap();
            }
        }
        all
    }
}

impl Features for Text {
    fn feature(&self, tap: Tap, row: usize) -> &[f32] {
        match tap {
            Tap::Residual(k) => &self.taps[k][row],
            _ => &[],
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Rewrites a golden's drafter; the description and the scores of both.
fn rewritten(
    case: &str,
    rewrite: impl FnOnce(&mut Value, &mut Tensors),
) -> (Description, Vec<f32>, Vec<f32>) {
    let (mut config, mut tensors) = folder_of(case);
    rewrite(&mut config, &mut tensors);
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), &config, &tensors);
    let source = Source::open(dir.path()).unwrap();
    let original = Source::open(common::golden(case).join("drafter")).unwrap();
    let mut model = target();
    let text = Text::of(&mut model, 23);
    let network = drafters::load(&source, &model.parts(), &DraftOptions::default()).unwrap();
    let description = network.description().clone();
    (description, text.scores(&model, &source), text.scores(&model, &original))
}

fn same(case: &str, dialect: &str, rewrite: impl FnOnce(&mut Value, &mut Tensors)) {
    let (description, found, expected) = rewritten(case, rewrite);
    assert_eq!(description.dialect, dialect, "{case}");
    assert!(bits(&found) == bits(&expected), "{case} as {dialect}");
}

fn take(config: &mut Value, key: &str) -> Value {
    config.as_object_mut().unwrap().remove(key).unwrap_or(Value::Null)
}

/// The configuration as speculators writes it.
fn as_speculators(config: &mut Value, kind: &str, causal: bool) {
    let mut own = take(config, "dflash_config");
    if own.is_null() {
        own = config.clone();
    }
    let outer = config.clone();
    let key = |key: &str| own.get(key).or(outer.get(key)).cloned().unwrap_or(Value::Null);
    let ids: Vec<i64> =
        key("target_layer_ids").as_array().unwrap().iter().map(|id| id.as_i64().unwrap() + 1).collect();
    *config = json!({
        "speculators_model_type": kind,
        "architectures": ["X"],
        "aux_hidden_state_layer_ids": ids,
        "block_size": key("block_size"),
        "mask_token_id": key("mask_token_id"),
        "sample_from_anchor": kind == "dspark",
        "sliding_window_non_causal": !causal,
        "selector_top_k": key("selector_top_k"),
        "transformer_layer_config": outer,
    });
}

#[test]
fn speculators_describes_the_same_drafters() {
    for (case, kind, causal) in [
        ("dflash", "dflash", false),
        ("dflash-sliding", "dflash", true),
        ("dflash2", "dflash2", false),
        ("dspark", "dspark", false),
        ("dspark-rnn", "dspark", false),
    ] {
        same(case, "speculators", |config, _| as_speculators(config, kind, causal));
    }
}

#[test]
fn rows_of_a_block_see_as_they_are_told() {
    // The goldens' sliding layers are causal where nothing is said.
    let (_, mutual, causal) =
        rewritten("dflash-sliding", |config, _| config["dflash_config"]["causal"] = false.into());
    assert!(bits(&mutual) != bits(&causal));
    let (_, causal, mutual) = rewritten("dflash", |config, _| config["is_causal"] = true.into());
    assert!(bits(&mutual) != bits(&causal));
    // And so are those of the second kind.
    let sliding = |is_causal: Value| {
        let (_, found, _) = rewritten("dflash2", |config, _| {
            config["layer_types"] = json!(["sliding_attention", "sliding_attention", "sliding_attention"]);
            config["sliding_window"] = 10.into();
            config["is_causal"] = is_causal;
        });
        bits(&found)
    };
    assert!(sliding(Value::Null) == sliding(true.into()));
    assert!(sliding(Value::Null) != sliding(false.into()));
}

#[test]
fn a_feature_may_be_the_embedding() {
    let named = |config: &mut Value| config["target_layer_ids"] = json!([-1, 3, 5]);
    let (description, found, _) = rewritten("dspark", |config, _| named(config));
    assert_eq!(description.taps, [0, 4, 6].map(Tap::Residual));
    let (_, expected, _) = rewritten("dspark", |config, _| {
        named(config);
        as_speculators(config, "dspark", false);
    });
    assert!(bits(&found) == bits(&expected));
}

/// A drafter of DeepSpec's for a Gemma 4: full layers, its configuration a copy of the target's.
#[test]
fn layers_of_gemma_4_have_keys_and_values_of_their_own() {
    let mut model = target_of("gemma4-31b");
    let text = Text::of(&mut model, 23);
    let (config, tensors) = checkpoint::read(&common::golden("gemma4-31b").join("target"));
    let (hidden, taps) = (model.config().hidden, 3);
    let mut drafter: Tensors = vec![
        tensor("fc.weight", &[hidden, taps * hidden], &noise(hidden * taps * hidden, 6)),
        tensor("hidden_norm.weight", &[hidden], &vec![1.0; hidden]),
    ];
    for (name, ty, shape, data) in tensors {
        let own = name.replacen("model.", "", 1).replacen("layers.3.", "layers.0.", 1);
        let own = own.replacen("layers.5.", "layers.1.", 1);
        if own == "embed_tokens.weight" {
            drafter.push(("lm_head.weight".into(), ty, shape.clone(), data.clone()));
        }
        if own != name.replacen("model.", "", 1) || !own.starts_with("layers.") {
            drafter.push((own, ty, shape, data));
        }
    }
    let scores = |shared: usize, change: &dyn Fn(&mut Value, &mut Tensors)| {
        let (mut config, mut tensors) = (config.clone(), drafter.clone());
        config["architectures"] = json!(["Gemma4DSparkModel"]);
        config["num_target_layers"] = config["num_hidden_layers"].clone();
        config["num_hidden_layers"] = 2.into();
        config["layer_types"] = json!(["full_attention", "full_attention"]);
        config["tie_word_embeddings"] = false.into();
        config["target_layer_ids"] = json!([0, 2, 4]);
        config["mask_token_id"] = 4.into();
        config["block_size"] = 5.into();
        config["num_kv_shared_layers"] = shared.into();
        change(&mut config, &mut tensors);
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), &config, &tensors);
        let source = Source::open(dir.path()).unwrap();
        let fits = drafters::load(&source, &model.parts(), &DraftOptions::default());
        fits.map(|_| bits(&text.scores(&model, &source))).map_err(|error| error.to_string())
    };
    let expected = scores(0, &|_, _| ()).unwrap();
    let double = |config: &mut Value, _: &mut Tensors| config["use_double_wide_mlp"] = true.into();
    for shared in [1, 2, 18] {
        assert!(scores(shared, &|_, _| ()).unwrap() == expected, "{shared} shared");
        let own_values = scores(shared, &|config, tensors| {
            config["attention_k_eq_v"] = false.into();
            config["num_key_value_heads"] = config["num_global_key_value_heads"].clone();
            for (name, ty, shape, data) in tensors.clone().into_iter().filter(|t| t.0.contains("k_proj")) {
                tensors.push((name.replace("k_proj", "v_proj"), ty, shape, data));
            }
        });
        assert!(own_values.unwrap() == expected, "{shared} shared");
        // The target's rule for widths: some layers share, but not all.
        let wide = scores(shared, &double);
        match shared {
            1 => assert!(wide.unwrap_err().contains("layers.1.mlp")),
            _ => assert!(wide.unwrap() == expected, "{shared} shared"),
        }
    }
}

#[test]
fn the_transformers_library_has_other_names() {
    for case in ["dflash", "dspark-gated"] {
        let rename = |tensors: &mut Tensors| {
            for (name, ..) in tensors {
                *name = match name.as_str() {
                    "fc.weight" => "encoder.fc.weight".into(),
                    "hidden_norm.weight" => "encoder.output_norm_enc.weight".into(),
                    _ => continue,
                };
            }
        };
        same(case, "transformers", |config, tensors| {
            rename(tensors);
            config["model_type"] = "muse_glimmer_assistant".into();
            config["sample_from_anchor"] = (case != "dflash").into();
            take(config, "vocab_size");
            if let Some(own) = take(config, "dflash_config").as_object() {
                own.iter().for_each(|(key, value)| config[key] = value.clone());
            }
        });
    }
}

#[test]
fn names_may_have_a_prefix_or_lack_an_ending() {
    same("dflash2", "z-lab", |_, tensors| {
        for (name, ..) in tensors {
            *name = format!("model.{}", name.replace("codebook.weight", "codebook"));
        }
    });
}

fn floats(ty: Dtype, data: &[u8]) -> Vec<f32> {
    assert_eq!(ty, Dtype::BF16);
    data.chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect()
}

fn tensor(name: &str, shape: &[usize], values: &[f32]) -> (String, Dtype, Vec<usize>, Vec<u8>) {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    (name.into(), Dtype::F32, shape.to_vec(), bytes)
}

/// Small numbers.
fn noise(n: usize, salt: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919 + salt * 104_729) % 997) as f32 / 997.0 - 0.5) * 0.2).collect()
}

#[test]
fn dfly_mixes_features_for_each_layer_and_corrects_hidden_states() {
    let (config, tensors) = folder_of("dflash");
    let (hidden, taps, layers) = (64, 3, 3);
    let dfly = |shares: &[f32], scale: f32| {
        let mut config = config.clone();
        config["architectures"] = json!(["DFlyDraftModel"]);
        let mut tensors = tensors.clone();
        for (name, ..) in &mut tensors {
            *name = match name.as_str() {
                "fc.weight" => "draft_model.context_proj.weight".into(),
                "hidden_norm.weight" => "draft_model.context_norm.weight".into(),
                "norm.weight" => "draft_model.final_norm.weight".into(),
                other => format!("draft_model.{other}"),
            };
        }
        let name = |part: &str| format!("draft_model.hidden_correction.{part}.weight");
        let down: Vec<f32> = noise(hidden * 48, 3).iter().map(|x| x * scale).collect();
        tensors.extend([
            tensor("draft_model.layer_fusion_weights", &[layers, taps], &shares.repeat(layers)),
            tensor(&name("hidden_norm"), &[hidden], &noise(hidden, 4)),
            tensor(&name("embed_norm"), &[hidden], &noise(hidden, 5)),
            tensor(&name("gate_proj"), &[48, 2 * hidden], &noise(48 * 2 * hidden, 1)),
            tensor(&name("up_proj"), &[48, 2 * hidden], &noise(48 * 2 * hidden, 2)),
            tensor(&name("down_proj"), &[hidden, 48], &down),
        ]);
        (config, tensors)
    };
    let mut model = target();
    let text = Text::of(&mut model, 23);
    let scores = |(config, tensors): &(Value, Tensors)| {
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), config, tensors);
        let scores = text.scores(&model, &Source::open(dir.path()).unwrap());
        let written = common::as_gguf(dir.path(), "dflash/target", ElementType::F32);
        assert!(bits(&text.scores(&model, &Source::open(written).unwrap())) == bits(&scores));
        scores
    };

    // Equal shares for all layers are the same as a projection that has them in it.
    let shares = [0.3f32, -0.2, 0.9];
    let sum: f32 = shares.iter().map(|x| x.exp()).sum();
    let mut plain = (config.clone(), tensors.clone());
    plain.0["dflash_config"]["sample_from_anchor"] = true.into();
    let fc = plain.1.iter_mut().find(|(name, ..)| name == "fc.weight").unwrap();
    let mut weights = floats(fc.1, &fc.3);
    for (i, row) in weights.chunks_exact_mut(taps * hidden).enumerate() {
        (0..taps).for_each(|t| row[t * hidden + i] += shares[t].exp() / sum);
    }
    *fc = tensor("fc.weight", &[hidden, taps * hidden], &weights);
    let (expected, found) = (scores(&plain), scores(&dfly(&shares, 0.0)));
    assert_eq!(expected.len(), found.len());
    let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-3, "{worst}");
    // And the correction is there.
    let corrected = scores(&dfly(&shares, 1000.0));
    assert!(corrected.iter().zip(&found).any(|(a, b)| (a - b).abs() > 1e-2));
}

#[test]
fn a_tree_says_what_its_paths_say() {
    let mut model = target();
    let text = Text::of(&mut model, 23);
    for case in ["dflash", "dflash2", "dspark", "dspark-gated", "dspark-rnn"] {
        let source = Source::open(common::golden(case).join("drafter")).unwrap();
        let mut tree = text.guesser(&model, &source);
        let branches = [(0, 7), (0, 9), (1, 3), (2, 3), (3, 1)];
        // Two levels in one call.
        let branch = |&(parent, token): &(usize, u32)| Branch { parent, token };
        tree.expand(&branches[..2].iter().map(branch).collect::<Vec<_>>()).unwrap();
        tree.expand(&branches[2..].iter().map(branch).collect::<Vec<_>>()).unwrap();
        for path in [vec![7, 3, 1], vec![9, 3]] {
            let mut chain = text.guesser(&model, &source);
            let mut node = 0;
            for (depth, &token) in path.iter().enumerate() {
                chain.expand(&[Branch { parent: depth, token }]).unwrap();
                node = 1 + branches.iter().position(|&b| b == (node, token)).unwrap();
                let (a, b) = (chain.scores(depth + 1), tree.scores(node));
                assert!(bits(a.logits) == bits(b.logits) && a.tokens == b.tokens, "{case}");
                assert_eq!(a.confidence, b.confidence, "{case}");
            }
        }
        assert!(tree.expand(&[Branch { parent: 99, token: 1 }]).is_err());
        assert!(tree.expand(&[Branch { parent: 0, token: 1 << 20 }]).is_err());
    }
}

#[test]
fn bad_drafters_are_refused_with_the_reason() {
    let model = target();
    let refused = |case: &str, expected: &str, rewrite: &dyn Fn(&mut Value, &mut Tensors)| {
        let (mut config, mut tensors) = folder_of(case);
        rewrite(&mut config, &mut tensors);
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), &config, &tensors);
        let source = Source::open(dir.path()).unwrap();
        let error = drafters::load(&source, &model.parts(), &DraftOptions::default()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{expected:?} in {error:?}");
    };
    let without = |part: &'static str| {
        move |_: &mut Value, tensors: &mut Tensors| tensors.retain(|(name, ..)| !name.contains(part))
    };
    for part in ["fc.", "hidden_norm", "layers.1.mlp.up_proj", "layers.2.self_attn.k_proj"] {
        refused("dflash", "is missing", &without(part));
    }
    refused("dflash2", "is missing", &without("successor_codebook"));
    refused("dspark", "is missing", &without("markov_w2"));
    refused("dflash", "belongs to nothing", &|_, tensors| {
        tensors.push(tensor("layers.0.extra.weight", &[2, 2], &[0.0; 4]));
    });
    let own = |key: &'static str, value: Value| {
        move |config: &mut Value, _: &mut Tensors| config["dflash_config"][key] = value.clone()
    };
    refused("dflash", "after 99 layers", &own("target_layer_ids", json!([1, 3, 98])));
    refused("dflash", "is -2, expected layers", &own("target_layer_ids", json!([-2, 1, 3])));
    refused("dflash", "a multiple of the 5 features", &own("target_layer_ids", json!([1, 2, 3, 4, 5])));
    refused("dflash", "reads features of width 96", &own("target_layer_ids", json!([1, 2])));
    refused("dflash", "mask token is 9999", &own("mask_token_id", json!(9999)));
    refused("dflash", "`block_size` is 1", &|config, _| config["block_size"] = 1.into());
    refused("dflash", "`block_size` is 100000", &|config, _| config["block_size"] = 100_000.into());
    refused("dflash", "`mask_token_id` is missing", &own("mask_token_id", Value::Null));
    refused("dflash", "with 12 layers", &|config, _| config["num_target_layers"] = 12.into());
    refused("dflash", "attention_sink_bias", &own("attention_sink_bias", json!(true)));
    refused("dflash", "hidden_size_per_layer_input", &|config, _| {
        config["model_type"] = "gemma4_text".into();
        config["hidden_size_per_layer_input"] = 16.into();
    });
    refused("dflash2", "expected", &|_, tensors| {
        let base = tensors.iter_mut().find(|(name, ..)| name == "layers.1.mlp_conv.base_kernel").unwrap();
        base.2 = vec![4, 64];
    });
    refused("dspark", "tokens", &|_, tensors| {
        for (name, ty, shape, data) in tensors {
            if name == "markov_head.markov_w1.weight" {
                shape[0] = 5;
                data.truncate(5 * shape[1] * 2);
                assert_eq!(*ty, Dtype::BF16);
            }
        }
    });
}
