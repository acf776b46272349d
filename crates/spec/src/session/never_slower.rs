//! What drafters that mislead can cost, in times of the cost curve: next to nothing.

use super::*;
use crate::control::CostCurve;
use crate::sampler::SamplingParams;
use crate::testing::{HashTarget, mix};

/// Says `claim` of every guess; whether the guess of depth `d` for position `n` is right is up to
/// `right(n, d)`.
struct Misleading {
    text: Vec<u32>,
    claim: f32,
    right: fn(u64, usize) -> bool,
}

impl Drafter for Misleading {
    fn name(&self) -> &str {
        "misleading"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        let (mut parent, mut chance) = (None, 1.0);
        for depth in 0..rows {
            let at = context.tokens.len() + depth;
            let token = self.text.get(at).copied().unwrap_or(0);
            let wrong = u32::from(!(self.right)(at as u64, depth));
            chance *= self.claim;
            parent = draft.push((token + wrong) % 50, parent, chance);
        }
    }

    fn observe(&mut self, _: &Round<'_>) {}
}

/// Time with the drafter over time without, for a text of `tokens` tokens.
fn ratio(tokens: usize, claim: f32, right: fn(u64, usize) -> bool) -> f64 {
    let mut target = HashTarget::new(50, 6.0, 8000);
    let run = |target: &mut HashTarget, drafter: Option<Box<dyn Drafter>>| {
        let params = SamplingParams { max_tokens: Some(tokens), ..SamplingParams::default() };
        let request = Request { prompt: vec![1, 2, 3], params, drafter, text: None };
        let options = Options { context: 8000, follow_clock: false, ..Options::default() };
        let mut session = Session::new(target, request, options).unwrap();
        target.passes.clear();
        session.run(target).unwrap();
        session.tokens().to_vec()
    };
    let text = run(&mut target, None);
    let drafter = Misleading { text: text.clone(), claim, right };
    assert_eq!(run(&mut target, Some(Box::new(drafter))), text);
    let curve = CostCurve::default();
    // The first pass reads the prompt.
    let time: f64 = target.passes[1..].iter().map(|&rows| curve.time(rows, 0)).sum();
    time / (tokens as f64 - 1.0)
}

#[test]
fn whatever_a_drafter_says() {
    type Case = (&'static str, fn(u64, usize) -> bool);
    let cases: [Case; 6] = [
        ("always wrong", |_, _| false),
        ("right once in four", |at, _| mix(at).is_multiple_of(4)),
        ("right one time in two", |at, _| mix(at).is_multiple_of(2)),
        ("right at first and then wrong", |_, depth| depth == 0),
        ("now right, now wrong", |at, _| at / 50 % 2 == 0),
        ("right for long, then wrong for longer", |at, _| at < 60),
    ];
    for (name, right) in cases {
        for claim in [0.3, 0.9, 1.0] {
            let (short, long) = (ratio(120, claim, right), ratio(2000, claim, right));
            assert!(short < 1.08, "{name}, says {claim}: {short} of the time for 120 tokens");
            assert!(long < 1.02, "{name}, says {claim}: {long} of the time for 2000 tokens");
        }
    }
}
