//! Heads that guess token by token, beyond their goldens: trees, long texts, and files that do not
//! fit or lie.

mod common;

use common::checkpoint::poison;
use common::heads::{CASES, Files, bits, first_scores, load, load_with, target, target_at};
use common::text::Text;
use leveret_model::Model;
use leveret_model::drafters::{Branch, DraftOptions};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

#[test]
fn a_tree_says_what_its_paths_say() {
    let branch = |(parent, token)| Branch { parent, token };
    for (case, drafter, of) in CASES {
        let mut model = target(of);
        let network = load(common::golden(case).join(drafter), &model).unwrap();
        // Longer than what is kept waiting for a draft.
        let text = Text::new(&mut model, 400, &network.description().taps);
        let mut tree = Arc::clone(&network).guesser(420).unwrap();
        let mut read = 0;
        for n in [1, 2, 9, 30, 256, 257, 258, 390] {
            text.observe(&mut *tree, read, n).unwrap();
            read = n;
            tree.begin(&text.tokens[..=n]).unwrap();
            tree.expand(&[(0, 3), (0, 9), (0, 17)].map(branch)).unwrap();
            // A child in the same call as its parent, too.
            tree.expand(&[(2, 40), (1, 5), (4, 6), (6, 7)].map(branch)).unwrap();
            let paths: [&[u32]; 8] = [&[], &[3], &[9], &[17], &[9, 40], &[3, 5], &[9, 40, 6], &[9, 40, 6, 7]];
            for (node, path) in paths.iter().enumerate() {
                let mut chain = text.begun(&network, n);
                for (parent, &token) in path.iter().enumerate() {
                    chain.expand(&[Branch { parent, token }]).unwrap();
                }
                assert!(bits(&*tree, node) == bits(&*chain, path.len()), "{case}: {n} rows, node {node}");
            }
            // The same draft opened again.
            let first = bits(&*tree, 0);
            tree.begin(&text.tokens[..=n]).unwrap();
            assert!(bits(&*tree, 0) == first, "{case}: {n} rows");
        }
    }
}

#[test]
fn what_cannot_be_drafted() {
    let mut model = target("eagle3");
    let network = load(common::golden("eagle3/drafter-specforge"), &model).unwrap();
    let text = Text::new(&mut model, 30, &network.description().taps);
    let mut guesser = Arc::clone(&network).guesser(12).unwrap();
    assert!(guesser.begin(&text.tokens[..1]).is_err());
    assert!(text.observe(&mut *guesser, 1, 5).unwrap_err().to_string().contains("expected 0"));
    text.observe(&mut *guesser, 0, 10).unwrap();
    assert!(guesser.begin(&text.tokens[..5]).is_err());
    guesser.begin(&text.tokens[..11]).unwrap();
    assert!(guesser.expand(&[Branch { parent: 1, token: 0 }]).is_err());
    assert!(guesser.expand(&[Branch { parent: 0, token: 384 }]).is_err());
    guesser.expand(&[Branch { parent: 0, token: 1 }, Branch { parent: 1, token: 1 }]).unwrap();
    assert!(guesser.expand(&[Branch { parent: 2, token: 1 }]).unwrap_err().to_string().contains("room"));
    // A refusal leaves the text's own scores, and a draft behind more text.
    text.observe(&mut *guesser, 10, 11).unwrap();
    guesser.begin(&text.tokens[..12]).unwrap();
    let mut fresh = Arc::clone(&network).guesser(12).unwrap();
    text.observe(&mut *fresh, 0, 11).unwrap();
    fresh.begin(&text.tokens[..12]).unwrap();
    assert!(bits(&*guesser, 0) == bits(&*fresh, 0));
    guesser.expand(&[Branch { parent: 0, token: 1 }]).unwrap();

    let slots = load(common::golden("p-eagle/drafter-speculators"), &model).unwrap();
    let depth = slots.description().depth.unwrap();
    let mut guesser = text.begun(&slots, 20);
    for parent in 0..depth - 1 {
        guesser.expand(&[Branch { parent, token: 1 }]).unwrap();
    }
    assert!(guesser.expand(&[Branch { parent: depth - 1, token: 1 }]).is_err());
}

#[test]
fn every_tensor_is_needed_in_its_shape_and_no_other() {
    for (case, drafter, of) in CASES {
        let model = target(of);
        let (files, _, tensors) = Files::copy(&common::golden(case).join(drafter));
        load(files.path(), &model).unwrap();
        for name in tensors.keys() {
            let mut changed = tensors.clone();
            let taken = changed.remove(name).unwrap();
            files.fill(&changed);
            // Of the two maps one is enough; embedding and head can be the target's.
            let spare = ["t2d", "embed_tokens.weight", "fc.bias"].contains(&name.as_str())
                || (name == "lm_head.weight" && case == "p-eagle");
            match load(files.path(), &model) {
                Ok(_) => assert!(spare, "{case}: loads without {name}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        !spare && !text.contains('\n') && text.len() < 600,
                        "{case} without {name}: {text}"
                    );
                }
            }
            let (dtype, shape, bytes) = &taken;
            let half = shape.iter().product::<usize>() / 2 * dtype.bitsize() / 8;
            changed.insert(
                name.clone(),
                (*dtype, vec![shape.iter().product::<usize>() / 2], bytes[..half].into()),
            );
            files.fill(&changed);
            let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
            let named = error.contains(name.trim_end_matches(".weight")) || error.contains("no drafter");
            assert!(named, "{case}: {name} halved: {error}");
        }
        let mut more = tensors.clone();
        let (dtype, shape, bytes) = tensors.values().next().unwrap().clone();
        more.insert("layers.9.norm.weight".into(), (dtype, shape, bytes));
        files.fill(&more);
        let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`layers.9.norm.weight`"), "{error}");
        load_with(files.path(), &model, &DraftOptions { force: true, ..DraftOptions::default() }).unwrap();
    }
}

/// Of a target's tables, heads with a part of its vocabulary read the embeddings of tokens alone.
#[test]
fn trimmed_heads_spare_the_table() {
    let mut model = target("eagle3");
    let path = common::golden("eagle3/drafter-specforge");
    let expected = first_scores(&load(&path, &model).unwrap(), &mut model);
    assert!(expected.iter().all(|&x| f32::from_bits(x).is_finite()));
    let mut read = Text::new(&mut model, 12, &[]).tokens;
    read.push(5);
    let (files, _, mut tensors) = Files::copy(&common::golden("eagle3/target"));
    for (name, kept) in [("lm_head.weight", &[][..]), ("model.embed_tokens.weight", &read)] {
        let (_, shape, bytes) = tensors.get_mut(name).unwrap();
        poison(bytes, shape[1], kept);
    }
    files.fill(&tensors);
    let network = load(&path, &target_at(files.path())).unwrap();
    assert!(first_scores(&network, &mut model) == expected);
}

#[test]
fn maps_that_lie() {
    let model = target("eagle3");
    let (files, _, tensors) = Files::copy(&common::golden("eagle3/drafter-specforge"));
    let d2t: Vec<i64> = tensors["d2t"].2.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    let rows = d2t.len();
    let refuse = |map: Vec<i64>, why: &str| {
        let mut changed = tensors.clone();
        let bytes = map.iter().flat_map(|id| id.to_le_bytes()).collect();
        changed.insert("d2t".into(), (Dtype::I64, vec![map.len()], bytes));
        files.fill(&changed);
        let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refuse(vec![i64::MAX; rows], "outside the target's");
    refuse((0..rows as i64).map(|i| -i).collect(), "two rows to token 0");
    // Offsets of one drafter beside the membership of another.
    refuse(vec![1; rows], "disagree");
    refuse(d2t[1..].to_vec(), "one for each");
    // Both maps in each other's place.
    let mut changed = tensors.clone();
    let (a, b) = (tensors["d2t"].clone(), tensors["t2d"].clone());
    changed.insert("d2t".into(), b);
    changed.insert("t2d".into(), a);
    files.fill(&changed);
    assert!(load(files.path(), &model).is_err());
}

#[test]
fn drafters_for_other_targets() {
    let other = target("qwen3");
    for (case, drafter, of) in CASES {
        let path = common::golden(case).join(drafter);
        let model = target(of);
        let (files, config, _) = Files::copy(&path);
        if other.config().hidden != model.config().hidden {
            let error = load(&path, &other).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("another one") || error.contains("has the shape"), "{case}: {error}");
        }
        let mut changed = config.clone();
        let section = match changed.get("transformer_layer_config") {
            Some(_) => changed.get_mut("transformer_layer_config").unwrap(),
            None => &mut changed,
        };
        section["vocab_size"] = json!(999);
        files.configure(&changed);
        let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("999 tokens"), "{case}: {error}");
    }
}

/// Loads and drafts once.
fn try_out(path: PathBuf, model: &mut Model) -> leveret_model::Result<()> {
    let network = load(path, model)?;
    let text = Text::new(model, 12, &network.description().taps);
    let mut guesser = network.guesser(16)?;
    text.observe(&mut *guesser, 0, 11)?;
    guesser.begin(&text.tokens)?;
    guesser.expand(&[Branch { parent: 0, token: 1 }])
}

#[test]
fn configurations_with_any_key_changed() {
    let strange = [
        json!(0),
        json!(3),
        json!(-1),
        json!(7.5),
        json!(u64::MAX),
        json!("?"),
        json!(null),
        json!([]),
        json!([u64::MAX, 0, 1]),
        json!({}),
        json!(true),
    ];
    let (mut refused, mut ran) = (0, 0);
    for (case, drafter, of) in CASES {
        let mut model = target(of);
        let (files, config, _) = Files::copy(&common::golden(case).join(drafter));
        let mut places: Vec<String> =
            config.as_object().unwrap().keys().map(|key| format!("/{key}")).collect();
        for section in ["transformer_layer_config", "eagle_config"] {
            let keys = config.get(section).and_then(Value::as_object);
            places.extend(keys.into_iter().flatten().map(|(key, _)| format!("/{section}/{key}")));
        }
        if case.starts_with("eagle3-") && case != "eagle3-spec-3.1" {
            continue;
        }
        for place in &places {
            for value in &strange {
                let mut changed = config.clone();
                *changed.pointer_mut(place).unwrap() = value.clone();
                files.configure(&changed);
                match try_out(files.path().into(), &mut model) {
                    Ok(()) => ran += 1,
                    Err(error) => {
                        let text = error.to_string();
                        assert!(!text.contains('\n') && text.len() < 600, "{case} {place} = {value}: {text}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 100 && ran > 100, "{refused} refused, {ran} ran");
}
