//! Gemma 4's assistants beyond their goldens: trees, both layouts, what a step reads, and files that
//! do not fit.

mod common;

use common::checkpoint::{self, Tensors};
use common::keys_in;
use common::text::Text;
use leveret_model::drafters::{
    self, AssistantOptions, Branch, DraftOptions, DraftPosition, Guesser, Network,
};
use leveret_model::{LoadOptions, Model, Source};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

const CASES: [&str; 3] = ["gemma4-e", "gemma4-31b", "gemma4-26b-a4b"];

fn target(case: &str) -> Model {
    let source = Source::open(common::golden(case).join("target")).unwrap();
    Model::load(&source, &LoadOptions { threads: 2, ..LoadOptions::default() }).unwrap()
}

fn load(path: impl AsRef<Path>, model: &Model) -> leveret_model::Result<Arc<dyn Network>> {
    drafters::load(&Source::open(path)?, &model.parts(), &DraftOptions::default())
}

/// Scores of a node, and the tokens that they are of.
fn scores(guesser: &dyn Guesser, node: usize) -> (Vec<u32>, Option<Vec<u32>>) {
    let scores = guesser.scores(node);
    (scores.logits.iter().map(|x| x.to_bits()).collect(), scores.tokens.map(<[u32]>::to_vec))
}

#[test]
fn a_tree_says_what_its_paths_say() {
    for case in CASES {
        let mut model = target(case);
        let network = load(common::golden(case).join("assistant"), &model).unwrap();
        let text = Text::new(&mut model, 300, &network.description().taps);
        let guesser = || Arc::clone(&network).guesser(320).unwrap();
        let mut tree = guesser();
        let mut read = 0;
        // Short of the window, across it, and at the ends of an attention block.
        for n in [1, 5, 9, 20, 256, 257, 299] {
            text.observe(&mut *tree, read, n).unwrap();
            read = n;
            tree.begin(&text.tokens[..=n]).unwrap();
            let branch = |(parent, token)| Branch { parent, token };
            tree.expand(&[(0, 3), (0, 9), (0, 17)].map(branch)).unwrap();
            // A child in the same call as its parent, too.
            tree.expand(&[(2, 40), (1, 5), (4, 6), (6, 7)].map(branch)).unwrap();
            let paths: [&[u32]; 8] = [&[], &[3], &[9], &[17], &[9, 40], &[3, 5], &[9, 40, 6], &[9, 40, 6, 7]];
            for (node, path) in paths.iter().enumerate() {
                let mut chain = guesser();
                text.observe(&mut *chain, 0, n).unwrap();
                chain.begin(&text.tokens[..=n]).unwrap();
                for (parent, &token) in path.iter().enumerate() {
                    chain.expand(&[Branch { parent, token }]).unwrap();
                }
                assert!(scores(&*tree, node) == scores(&*chain, path.len()), "{case}: {n} rows, node {node}");
            }
        }
    }
}

/// A text that goes on as the drafter guesses from one of its positions shows which it is.
#[test]
fn the_position_under_which_more_comes_true_stays() {
    let at = |position| DraftOptions {
        assistant: AssistantOptions { position, ..AssistantOptions::default() },
        ..DraftOptions::default()
    };
    let mut model = target("gemma4-31b");
    let load = |model: &Model, options: &DraftOptions| {
        let source = Source::open(common::golden("gemma4-31b/assistant")).unwrap();
        drafters::load(&source, &model.parts(), options).unwrap()
    };
    let fixed =
        [DraftPosition::LastToken, DraftPosition::LastRow].map(|position| load(&model, &at(position)));
    let taps = fixed[0].description().taps.clone();
    for (right, wrong) in [(0, 1), (1, 0)] {
        let mut measured = load(&model, &DraftOptions::default()).guesser(100).unwrap();
        let mut tokens = vec![7, 60];
        let mut found = Vec::new();
        for n in 1..90 {
            let text = Text::of(&mut model, tokens.clone(), &taps);
            text.observe(&mut *measured, n - 1, n).unwrap();
            measured.begin(&tokens).unwrap();
            let each = [right, wrong].map(|i: usize| scores(&*text.begun(&fixed[i], n), 0));
            let best = |(logits, _): &(Vec<u32>, _)| {
                let value = |i: &usize| f32::from_bits(logits[*i]);
                (0..logits.len()).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap() as u32
            };
            // Any token where both agree, so that the text does not run in circles.
            let agree = best(&each[0]) == best(&each[1]);
            tokens.push(if agree { (n as u32 * 53 + 9) % 384 } else { best(&each[0]) });
            found = vec![scores(&*measured, 0) == each[0], scores(&*measured, 0) == each[1]];
        }
        assert_eq!(found, [true, false], "position {right}");
    }
}

#[test]
fn both_layouts_say_the_same() {
    for case in ["gemma4-31b", "gemma4-26b-a4b"] {
        let mut model = target(case);
        let folder = load(common::golden(case).join("assistant"), &model).unwrap();
        let gguf = load(common::golden(case).join("gguf/assistant-bf16.gguf"), &model).unwrap();
        let text = Text::new(&mut model, 30, &folder.description().taps);
        assert_eq!(folder.description().taps, gguf.description().taps);
        let first = [folder, gguf].map(|network| {
            let mut guesser = network.guesser(40).unwrap();
            text.observe(&mut *guesser, 0, 29).unwrap();
            guesser.begin(&text.tokens).unwrap();
            scores(&*guesser, 0)
        });
        assert!(first[0] == first[1], "{case}");
    }
}

#[test]
fn clusters_spare_the_table() {
    let mut model = target("gemma4-e");
    let clusters = load(common::golden("gemma4-e/assistant"), &model).unwrap();
    let table = load(common::golden("gemma4-e/gguf/assistant-bf16.gguf"), &model).unwrap();
    let (few, all) = (clusters.description().bytes_per_step, table.description().bytes_per_step);
    assert!(few < all, "{few} of {all}");
    let text = Text::new(&mut model, 30, &clusters.description().taps);
    let [few, all] = [clusters, table].map(|network| {
        let mut guesser = network.guesser(40).unwrap();
        text.observe(&mut *guesser, 0, 29).unwrap();
        guesser.begin(&text.tokens).unwrap();
        guesser
    });
    let (few, all) = (few.scores(0), all.scores(0));
    let tokens = few.tokens.unwrap();
    assert!(tokens.len() < all.logits.len() / 2 && all.tokens.is_none());
    for (&token, logit) in tokens.iter().zip(few.logits) {
        assert_eq!(logit.to_bits(), all.logits[token as usize].to_bits(), "token {token}");
    }
}

#[test]
fn clusters_that_are_not_chosen_are_not_read() {
    let mut model = target("gemma4-e");
    let clean = load(common::golden("gemma4-e/assistant"), &model).unwrap();
    let text = Text::new(&mut model, 30, &clean.description().taps);
    let step = |network: Arc<dyn Network>| {
        let mut guesser = network.guesser(40).unwrap();
        text.observe(&mut *guesser, 0, 29).unwrap();
        guesser.begin(&text.tokens).unwrap();
        guesser.expand(&[Branch { parent: 0, token: 5 }]).unwrap();
        scores(&*guesser, 1)
    };
    let expected = step(clean);
    let read = expected.1.clone().unwrap();
    let dir = changed("gemma4-e", |_, tensors| {
        let table = tensors.iter_mut().find(|t| t.0 == "model.embed_tokens.weight").unwrap();
        let cols = table.2[1];
        checkpoint::poison(&mut table.3, cols, &read);
    });
    // The scores of the node before are of other clusters.
    assert!(step(load(dir.path(), &model).unwrap()) == expected);
    assert!(expected.0.iter().all(|&x| f32::from_bits(x).is_finite()));
}

#[test]
fn what_cannot_be_drafted() {
    let mut model = target("gemma4-31b");
    let network = load(common::golden("gemma4-31b/assistant"), &model).unwrap();
    let text = Text::new(&mut model, 30, &network.description().taps);
    let mut guesser = network.guesser(20).unwrap();
    assert!(guesser.begin(&text.tokens[..1]).is_err());
    assert!(text.observe(&mut *guesser, 1, 5).unwrap_err().to_string().contains("from 1 on"));
    text.observe(&mut *guesser, 0, 5).unwrap();
    assert!(guesser.begin(&text.tokens[..9]).unwrap_err().to_string().contains("5 rows of the text, of 8"));
    guesser.begin(&text.tokens[..6]).unwrap();
    assert!(guesser.expand(&[Branch { parent: 1, token: 0 }]).is_err());
    assert!(guesser.expand(&[Branch { parent: 0, token: 384 }]).is_err());
    assert!(text.observe(&mut *guesser, 5, 26).unwrap_err().to_string().contains("room for 20"));
    text.observe(&mut *guesser, 5, 20).unwrap();
    guesser.begin(&text.tokens[..21]).unwrap();
}

/// An assistant after a change to its files.
fn changed(case: &str, change: impl FnOnce(&mut Value, &mut Tensors)) -> tempfile::TempDir {
    let (mut config, mut tensors) = checkpoint::read(&common::golden(case).join("assistant"));
    change(&mut config, &mut tensors);
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), &config, &tensors);
    dir
}

#[test]
fn the_other_name_of_the_12b() {
    let model = target("gemma4-31b");
    let dir = changed("gemma4-31b", |config, _| {
        config["model_type"] = "gemma4_unified_assistant".into();
        config["text_config"]["model_type"] = "gemma4_unified_text".into();
    });
    let source = Source::open(dir.path()).unwrap();
    assert_eq!(drafters::recognise(&source), Some("gemma4-assistant"));
    let alone = drafters::describe(&source, None, &DraftOptions::default()).unwrap();
    let fitted = load(dir.path(), &model).unwrap();
    assert_eq!(alone.bytes_per_step, fitted.description().bytes_per_step);
    assert!(alone.taps.is_empty() && !fitted.description().taps.is_empty());
    // A target is no drafter.
    let source = Source::open(common::golden("gemma4-31b/target")).unwrap();
    assert_eq!(drafters::recognise(&source), None);
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let model = target("gemma4-e");
    let refused = |change: &dyn Fn(&mut Value, &mut Tensors), parts: &[&str]| {
        let dir = changed("gemma4-e", change);
        let error = load(dir.path(), &model).unwrap_err().to_string();
        assert!(!error.contains('\n') && error.len() < 600, "{error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{error:?} does not say {part:?}"));
    };
    refused(&|config, _| config["backbone_hidden_size"] = 128.into(), &["width 128", "64", "another"]);
    refused(&|config, _| config["text_config"]["vocab_size"] = 416.into(), &["416", "384"]);
    refused(&|config, _| config["text_config"]["head_dim"] = 8.into(), &["width 8", "width 16"]);
    refused(
        &|config, _| {
            config["text_config"]["hidden_size_per_layer_input"] = 16.into();
            config["text_config"]["vocab_size_per_layer_input"] = 384.into();
        },
        &["hidden_size_per_layer_input", "supported"],
    );
    refused(&|config, _| config["num_centroids"] = 31.into(), &["31 clusters", "384"]);
    refused(&|config, _| config["centroid_intermediate_top_k"] = 33.into(), &["33 of 32"]);
    // What the classes say.
    let without = |key: &'static str| {
        move |config: &mut Value, _: &mut Tensors| drop(config.as_object_mut().unwrap().remove(key))
    };
    refused(&without("num_centroids"), &["of 2048 clusters", "384"]);
    refused(&without("backbone_hidden_size"), &["width 1536", "64"]);
    refused(
        &|config, tensors| {
            config["model_type"] = "gemma4_unified_assistant".into();
            config["text_config"]["model_type"] = "gemma4_unified_text".into();
            without("backbone_hidden_size")(config, tensors);
        },
        &["width 3840", "64"],
    );
    refused(&|config, _| config["use_ordered_embeddings"] = json!("yes"), &["use_ordered_embeddings"]);
    for part in [
        "pre_projection",
        "post_projection",
        "2.self_attn.q_norm",
        "model.norm",
        "token_ordering",
        "centroids",
    ] {
        refused(&|_, tensors| tensors.retain(|t| !t.0.contains(part)), &[part, "missing"]);
    }
    let order = |tensors: &mut Tensors| tensors.iter().position(|t| t.0.contains("ordering")).unwrap();
    refused(
        &|_, tensors| {
            let at = order(tensors);
            tensors[at].3[..8].copy_from_slice(&[0; 8]);
            tensors[at].3[8..16].copy_from_slice(&[0; 8])
        },
        &["token 0 twice"],
    );
    refused(
        &|_, tensors| {
            let at = order(tensors);
            tensors[at].3[..8].copy_from_slice(&i64::MIN.to_le_bytes())
        },
        &["outside"],
    );
    refused(
        &|_, tensors| {
            let at = tensors.iter().position(|t| t.0 == "pre_projection.weight").unwrap();
            tensors[at].2.reverse();
        },
        &["pre_projection", "[128, 36]", "[36, 128]"],
    );

    // Made for another family.
    let llama = target("llama");
    let error = load(common::golden("gemma4-31b/assistant"), &llama).unwrap_err().to_string();
    assert!(error.contains("llama") && error.contains("sliding window"), "{error}");
}

#[test]
fn configurations_with_any_key_changed() {
    let mut model = target("gemma4-e");
    let taps = load(common::golden("gemma4-e/assistant"), &model).unwrap().description().taps.clone();
    let text = Text::new(&mut model, 12, &taps);
    let strange = [
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!("?"),
        json!(null),
        json!([]),
        json!({}),
        json!(true),
    ];
    let mut places = Vec::new();
    drop(changed("gemma4-e", |config, _| keys_in(config, "", &mut places)));
    let dir = changed("gemma4-e", |_, _| ());
    let path = dir.path().join("config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let (mut refused, mut ran) = (0, 0);
    for place in &places {
        for value in &strange {
            let mut changed = config.clone();
            *changed.pointer_mut(place).unwrap() = value.clone();
            std::fs::write(&path, changed.to_string()).unwrap();
            match load(dir.path(), &model) {
                Ok(network) => {
                    let mut guesser = network.guesser(16).unwrap();
                    text.observe(&mut *guesser, 0, 11).unwrap();
                    guesser.begin(&text.tokens).unwrap();
                    assert!(!guesser.scores(0).logits.is_empty());
                    ran += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().contains('\n'), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100 && ran > 100, "{refused} refused, {ran} ran");
}
