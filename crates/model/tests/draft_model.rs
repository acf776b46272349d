//! A language model as drafter: what it says behind a node is, bit for bit, what it says after the
//! text that the node spells.

use leveret_model::drafters::{Branch, LanguageModel, Network};
use leveret_model::{LoadOptions, Model, Precision, Source};
use std::sync::Arc;

mod common;

fn model(case: &str) -> Model {
    let source = Source::open(common::golden(case).join("target")).unwrap();
    let options = LoadOptions { threads: 2, precision: Precision::Float, ..LoadOptions::default() };
    Model::load(&source, &options).unwrap()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_tree_grown_level_by_level_says_what_its_paths_say() {
    for case in ["llama", "mistral-sliding", "gemma3", "qwen35"] {
        let model = model(case);
        let vocab = model.config().vocab;
        let network: Arc<dyn Network> = Arc::new(LanguageModel::new(model, vocab, 0).unwrap());
        let mut tree = Arc::clone(&network).guesser(200).unwrap();
        let mut fresh = network.guesser(200).unwrap();
        let mut text: Vec<u32> = (0..40).map(|i| i * 7 % vocab as u32).collect();
        // (parent, token) by level; node 0 is the text.
        let levels: [&[(usize, u32)]; 4] =
            [&[(0, 5), (0, 9)], &[(1, 5), (2, 1), (1, 3)], &[(4, 2)], &[(6, 8), (6, 5)]];
        for round in 0..3 {
            // The first levels may be looked behind in the pass that reads the text.
            let branches = |level: &[(usize, u32)]| -> Vec<Branch> {
                level.iter().map(|&(parent, token)| Branch { parent, token }).collect()
            };
            let at_once = [0, 2, 1][round];
            tree.begin_with(&text, &branches(&levels[..at_once].concat())).unwrap();
            let mut paths = vec![text.clone()];
            for (i, level) in levels.into_iter().enumerate() {
                if i >= at_once {
                    tree.expand(&branches(level)).unwrap();
                }
                for &(parent, token) in level {
                    paths.push([&paths[parent][..], &[token]].concat());
                }
            }
            // One that scores fewer tokens gives those the same bits, and the other all of them.
            let few = if round == 1 { vocab / 3 } else { vocab };
            fresh.score_first(few);
            for (node, path) in paths.iter().enumerate() {
                fresh.begin(path).unwrap();
                assert_eq!((tree.scores(node).logits.len(), fresh.scores(0).logits.len()), (vocab, few));
                assert!(
                    bits(&tree.scores(node).logits[..few]) == bits(fresh.scores(0).logits),
                    "{case}, round {round}, node {node}"
                );
            }
            // Some of what was drafted becomes text, or something else does.
            text = paths[[8, 3, 0][round]].clone();
            text.push(11);
        }
        assert!(tree.expand(&[Branch { parent: 99, token: 1 }]).is_err());
        assert!(tree.begin(&[]).is_err());
    }
}

/// Row `j` of the masks guesses the token `j` further on, so a block says what the text with that
/// many masks behind it says.
#[test]
fn masks_guess_a_block_in_one_pass() {
    let model = model("llama");
    let vocab = model.config().vocab;
    let mask = vocab as u32 - 1;
    let plain: Arc<dyn Network> = Arc::new(LanguageModel::new(self::model("llama"), vocab, 0).unwrap());
    let mut plain = plain.guesser(100).unwrap();
    let masked = LanguageModel::new(model, vocab, 0).unwrap();
    let network: Arc<dyn Network> = Arc::new(masked.with_mask(mask, 3).unwrap());
    assert_eq!(network.description().depth, Some(3));
    let mut masked = Arc::clone(&network).guesser(100).unwrap();
    for len in [5, 6, 9] {
        let text: Vec<u32> = (0..len).collect();
        masked.begin(&text).unwrap();
        masked.expand(&[Branch { parent: 0, token: 8 }, Branch { parent: 1, token: 3 }]).unwrap();
        for node in 0..3 {
            plain.begin(&[&text[..], &vec![mask; node]].concat()).unwrap();
            assert!(
                bits(masked.scores(node).logits) == bits(plain.scores(0).logits),
                "node {node} after {len}"
            );
        }
        assert!(masked.expand(&[Branch { parent: 2, token: 3 }]).is_err());
    }
    // At the end of the context there are as many masks as there is room for.
    let mut short = network.guesser(7).unwrap();
    for (len, guessed) in [(5, 3), (6, 2), (7, 1)] {
        let text: Vec<u32> = (0..len).collect();
        masked.begin(&text).unwrap();
        short.begin(&text).unwrap();
        for node in 0..guessed {
            let branch = [Branch { parent: node, token: 8 }];
            assert!(bits(masked.scores(node).logits) == bits(short.scores(node).logits), "{len}, {node}");
            assert_eq!(short.expand(&branch).is_ok(), node + 1 < guessed, "{len}, {node}");
            let _ = masked.expand(&branch);
        }
    }
}
