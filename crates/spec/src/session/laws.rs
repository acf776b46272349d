//! The law of whole texts under every rule of verification, by many seeds on a target without a
//! network: several rounds, penalties, drawn chains and trees, fixed guesses beside them.

use std::collections::BTreeMap;

use leveret_model::drafters::Scores;

use super::*;
use crate::control::CostCurve;
use crate::drafters::HostileDrafter;
use crate::sampler::SamplingParams;
use crate::testing::{HashTarget, mix};

const VOCAB: usize = 4;
const PROMPT: [u32; 2] = [1, 2];
const LENGTH: usize = 4;
const SEEDS: u64 = 20_000;

/// Draws from a distribution of its own, `width` tokens after each node of a chain, and guesses
/// from choices where it is not asked for laws.
#[derive(Debug)]
struct DrawingDrafter {
    width: usize,
}

impl Drafter for DrawingDrafter {
    fn name(&self) -> &str {
        "drawing"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        assert!(context.draw.wants_laws());
        let (mut parent, mut added) = (None, Vec::new());
        let mut state = context.tokens.iter().fold(7, |h, &t| mix(h ^ u64::from(t)));
        for _ in 0..rows.min(6) / self.width {
            let logits: Vec<f32> =
                (0..VOCAB as u64).map(|v| 2.0 * (mix(state ^ v) >> 40) as f32 / (1 << 24) as f32).collect();
            let scores = Scores { logits: &logits, tokens: None, confidence: None };
            context.draw.propose(&scores, self.width, draft, parent, |_, own| Some(own), &mut added);
            let Some(&last) = added.last() else { break };
            parent = Some(last);
            state = mix(state ^ u64::from(draft.nodes()[last].token));
        }
        // Guesses without chance below the draws, where there is room.
        draft.push(0, parent, 0.5);
    }

    fn observe(&mut self, _: &Round<'_>) {}
}

fn params(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 0.9,
        top_p: 0.97,
        frequency_penalty: 0.4,
        max_tokens: Some(LENGTH),
        seed,
        ..SamplingParams::default()
    }
}

/// Exact law of the text.
fn exact(target: &mut HashTarget) -> BTreeMap<Vec<u32>, f64> {
    let mut texts = vec![(Vec::new(), 1.0)];
    for _ in 0..LENGTH {
        let mut longer = Vec::new();
        for (text, chance) in texts {
            let mut sampler = Sampler::new(&params(0), VOCAB, &PROMPT).unwrap();
            text.iter().for_each(|&token| sampler.push(token));
            let mut law = Vec::new();
            sampler.distribution(&target.row(&[&PROMPT[..], &text].concat()), &mut law).unwrap();
            for (token, p) in law {
                longer.push(([&text[..], &[token]].concat(), chance * p));
            }
        }
        texts = longer;
    }
    texts.into_iter().collect()
}

/// Chi-square of the texts of all seeds, and the mean number of accepted drafts.
fn check(accept: Accept, drafter: impl Fn(u64) -> Box<dyn Drafter>) -> f64 {
    let mut target = HashTarget::new(VOCAB, 2.0, 64);
    let exact = exact(&mut target);
    let mut counts: BTreeMap<Vec<u32>, u64> = BTreeMap::new();
    let mut accepted = 0;
    for seed in 0..SEEDS {
        let drafter = Some(drafter(seed));
        let request = Request { prompt: PROMPT.to_vec(), params: params(seed), drafter, text: None };
        let free = CostCurve::new(&[(1, 1.0), (64, 1.001)]).unwrap();
        let options = Options { accept, cost: free, follow_clock: false, ..Options::default() };
        let mut session = Session::new(&target, request, options).unwrap();
        session.run(&mut target).unwrap();
        *counts.entry(session.output().to_vec()).or_insert(0) += 1;
        accepted += session.stats().accepted;
    }
    assert!(counts.keys().all(|text| exact.contains_key(text)), "a text that cannot be");
    // Rare texts count together.
    let (mut chi, mut cells, mut rare) = (0.0, 0, (0.0, 0.0));
    for (text, chance) in &exact {
        let expected = chance * SEEDS as f64;
        let found = counts.get(text).copied().unwrap_or(0) as f64;
        if expected < 8.0 {
            rare = (rare.0 + expected, rare.1 + found);
        } else {
            chi += (found - expected).powi(2) / expected;
            cells += 1;
        }
    }
    chi += (rare.1 - rare.0).powi(2) / rare.0.max(1.0);
    let freedom = f64::from(cells);
    assert!(cells > 30, "{cells} texts are too few for a test");
    // Mean and five standard deviations of chi-square.
    assert!(chi < freedom + 5.0 * (2.0 * freedom).sqrt(), "{accept:?}: {chi} for {cells} texts");
    accepted as f64 / SEEDS as f64
}

#[test]
fn texts_follow_the_law_with_drawn_chains() {
    let drawing = |_| Box::new(DrawingDrafter { width: 1 }) as Box<dyn Drafter>;
    let rejection = check(Accept::Rejection, drawing);
    let block = check(Accept::Block, drawing);
    assert!(rejection > 0.5 && block > rejection, "{block} after {rejection}");
}

#[test]
fn texts_follow_the_law_with_drawn_trees() {
    let drawing = |_| Box::new(DrawingDrafter { width: 2 }) as Box<dyn Drafter>;
    for accept in [Accept::Rejection, Accept::Block] {
        let accepted = check(accept, drawing);
        assert!(accepted > 0.5, "{accepted}");
    }
}

#[test]
fn texts_follow_the_law_with_any_guesses() {
    for accept in [Accept::Match, Accept::Rejection, Accept::Block] {
        let hostile = |seed| {
            let truth = vec![1, 2, 0, 1, 2, 3];
            let hostile = HostileDrafter { seed, vocab: VOCAB as u32, truth, ..HostileDrafter::default() };
            Box::new(hostile) as Box<dyn Drafter>
        };
        assert!(check(accept, hostile) > 0.1);
    }
}

#[test]
fn greedy_texts_are_the_same_under_every_rule() {
    let mut target = HashTarget::new(VOCAB, 2.0, 64);
    let texts = [Accept::Match, Accept::Rejection, Accept::Block].map(|accept| {
        let params = SamplingParams { max_tokens: Some(40), ..SamplingParams::default() };
        let drafter = HostileDrafter { seed: 1, vocab: VOCAB as u32, ..HostileDrafter::default() };
        let request =
            Request { prompt: PROMPT.to_vec(), params, drafter: Some(Box::new(drafter)), text: None };
        let mut session = Session::new(&target, request, Options { accept, ..Options::default() }).unwrap();
        session.run(&mut target).unwrap();
        session.output().to_vec()
    });
    assert!(texts.iter().all(|text| *text == texts[0]));
}
