//! The rules of verification against exact laws, by enumeration of every way in which draft and
//! coin may fall on small vocabularies.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::rejection::Candidates;
use super::*;

/// A distribution over the tokens from 0 on; some have no probability.
fn law(vocab: usize) -> impl Strategy<Value = Vec<(u32, f64)>> {
    let weight = prop_oneof![1 => Just(0.0), 4 => 0.01f64..1.0];
    proptest::collection::vec(weight, vocab).prop_filter_map("some weight", |weights| {
        let total: f64 = weights.iter().sum();
        (total > 0.0).then(|| {
            let tokens = (0u32..).zip(weights.into_iter().map(|w| w / total));
            tokens.filter(|&(_, w)| w > 0.0).collect()
        })
    })
}

/// A distribution for every text of up to `depth` tokens.
fn model(vocab: usize, depth: usize) -> impl Strategy<Value = Model> {
    let texts: usize = (0..=depth as u32).map(|d| vocab.pow(d)).sum();
    proptest::collection::vec(law(vocab), texts).prop_map(move |laws| Model { vocab, laws })
}

#[derive(Debug, Clone)]
struct Model {
    vocab: usize,
    laws: Vec<Vec<(u32, f64)>>,
}

impl Model {
    fn after(&self, text: &[u32]) -> &Vec<(u32, f64)> {
        let number = text.iter().fold(0, |n, &token| n * self.vocab + token as usize + 1);
        &self.laws[number]
    }

    /// Draws from here on until the text has `len` tokens.
    fn complete(&self, text: &mut Vec<u32>, len: usize, coin: &mut Branches) {
        while text.len() < len {
            let token = coin.draw(self.after(text)).unwrap();
            text.push(token);
        }
    }
}

fn drafted(q: &Model, len: usize, coin: &mut Branches) -> Vec<u32> {
    let mut tokens = Vec::new();
    q.complete(&mut tokens, len, coin);
    tokens
}

/// One round over a drawn chain: (tokens kept, text).
fn token_round(p: &Model, chain: &[u32], q: &Model, coin: &mut Branches) -> (usize, Vec<u32>) {
    let mut text = Vec::new();
    loop {
        let drawn = chain.get(text.len()..text.len() + 1).unwrap_or_default();
        let empty = Vec::new();
        let law = if drawn.is_empty() { &empty } else { q.after(&text) };
        let candidates = Candidates { fixed: &[], drawn, law, replacement: false };
        let token = rejection::choose(&mut p.after(&text).clone(), &candidates, coin).unwrap();
        let kept = drawn == [token];
        text.push(token);
        if !kept {
            return (text.len() - 1, text);
        }
    }
}

fn block_round(p: &Model, chain: &[u32], q: &Model, coin: &mut Branches) -> (usize, Vec<u32>) {
    let p: Vec<_> = (0..=chain.len()).map(|i| p.after(&chain[..i]).clone()).collect();
    let q: Vec<_> = (0..chain.len()).map(|i| q.after(&chain[..i]).clone()).collect();
    let (kept, token) = block::choose(&block::Chain { tokens: chain, q: &q, p: &p }, coin);
    let mut text = chain[..kept].to_vec();
    text.extend(token);
    (kept, text)
}

type Round = fn(&Model, &[u32], &Model, &mut Branches) -> (usize, Vec<u32>);

/// Law of the text after one round of `len` drafts and plain draws up to `len + 1` tokens.
fn text_law(p: &Model, q: &Model, len: usize, round: Round) -> BTreeMap<Vec<u32>, f64> {
    enumerate(|coin| {
        let chain = drafted(q, len, coin);
        let (_, mut text) = round(p, &chain, q, coin);
        p.complete(&mut text, len + 1, coin);
        text
    })
}

/// Mean number of drafts that a round keeps.
fn kept(p: &Model, q: &Model, len: usize, round: Round) -> f64 {
    let law = enumerate(|coin| {
        let chain = drafted(q, len, coin);
        round(p, &chain, q, coin).0
    });
    law.iter().map(|(&kept, chance)| kept as f64 * chance).sum()
}

fn same_law<T: Ord + std::fmt::Debug>(
    found: &BTreeMap<T, f64>,
    expected: &BTreeMap<T, f64>,
) -> Result<(), TestCaseError> {
    for outcome in found.keys().chain(expected.keys()) {
        let chance = |law: &BTreeMap<T, f64>| law.get(outcome).copied().unwrap_or(0.0);
        let (a, b) = (chance(found), chance(expected));
        prop_assert!((a - b).abs() < 1e-9, "{outcome:?}: {a}, expected {b}");
    }
    Ok(())
}

/// Vocabulary, depth, target and drafter.
fn pair() -> impl Strategy<Value = (usize, Model, Model)> {
    (2usize..4, 1usize..4)
        .prop_flat_map(|(vocab, depth)| (Just(depth), model(vocab, depth), model(vocab, depth)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_chain_keeps_the_law((len, p, q) in pair()) {
        let plain = enumerate(|coin| drafted(&p, len + 1, coin));
        same_law(&text_law(&p, &q, len, token_round), &plain)?;
        same_law(&text_law(&p, &q, len, block_round), &plain)?;
        // A drafter that is the target itself is never refused.
        prop_assert!((kept(&p, &p, len, block_round) - len as f64).abs() < 1e-9);
    }

    #[test]
    fn a_block_keeps_at_least_as_much((len, p, q) in pair()) {
        let (token, block) = (kept(&p, &q, len, token_round), kept(&p, &q, len, block_round));
        prop_assert!(block >= token - 1e-9, "{block} below {token}");
    }

    /// Any number of fixed candidates, then any number of draws.
    #[test]
    fn several_candidates_keep_the_law(
        (p, q) in (2usize..6).prop_flat_map(|vocab| (law(vocab), law(vocab))),
        fixed in proptest::collection::vec(0u32..6, 0..3),
        draws in 0usize..4,
        replacement in any::<bool>(),
    ) {
        let found = enumerate(|coin| {
            let (mut rest, mut drawn) = (q.clone(), Vec::new());
            for _ in 0..draws {
                let Some(token) = coin.draw(&rest) else { break };
                drawn.push(token);
                if !replacement {
                    rest.retain(|&(t, _)| t != token);
                }
            }
            let candidates = Candidates { fixed: &fixed, drawn: &drawn, law: &q, replacement };
            rejection::choose(&mut p.clone(), &candidates, coin).unwrap()
        });
        same_law(&found, &p.iter().copied().collect())?;
    }
}

#[test]
fn a_wrong_claim_is_survived() {
    let p = vec![(1, 0.5), (2, 0.5)];
    let mut coin = KeyedCoin::new(crate::Noise::new(0, 0));
    let candidates = Candidates { fixed: &[9, 9], drawn: &[7, 1], law: &[], replacement: false };
    assert!(matches!(rejection::choose(&mut p.clone(), &candidates, &mut coin), Some(1 | 2)));
    assert_eq!(rejection::choose(&mut Vec::new(), &candidates, &mut coin), None);
    let q = [vec![(5, f64::NAN)], Vec::new()];
    let chain = block::Chain { tokens: &[5, 1], q: &q, p: &[p.clone(), p.clone(), p] };
    assert!(matches!(block::choose(&chain, &mut coin), (0..=2, Some(1 | 2))));
    let nothing = block::Chain { tokens: &[5], q: &q, p: &[] };
    assert_eq!(block::choose(&nothing, &mut coin), (0, None));
}
