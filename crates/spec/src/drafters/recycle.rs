//! Guesses that a token is followed by what the target last thought could follow it (token
//! recycling, arXiv 2408.08696).
//!
//! A pass gives the target's scores after every row, also after rows that were not accepted; all but
//! one of them are thrown away by decoding. The likeliest few are kept here, by the last token and
//! by the last two, and a tree is grown from them. Where tokens are drawn with noise, the noise is
//! known, so the guess is of the draw.

use std::collections::HashMap;

use leveret_model::drafters::Scores;

use super::grow::{Grower, Guess};
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Round};
use crate::odds::{Odds, log_odds};
use crate::sampler::{Candidate, Choice, DrawScratch, likeliest};

/// Successors that are kept of a token.
const KEPT: usize = 8;
/// Successors that are offered behind a node.
const OFFERED: usize = 5;
/// Rejected rows of a pass that are kept too. Looking for the likeliest takes a share of a pass.
const REJECTED: usize = 2;
/// Most contexts that are kept; beyond, all are forgotten. 64 bytes each, and 24 in the index.
const MOST: usize = 1 << 17;

/// What the target thought could follow, likeliest first.
#[derive(Debug, Clone, Copy)]
struct Successors {
    tokens: [u32; KEPT],
    logits: [f32; KEPT],
}

/// Of a guess: constant, log-odds by the kept scores alone, and whether it is the first choice.
const FEATURES: usize = 3;
/// What mostly holds after one known token, from texts of several kinds and models.
const AFTER_ONE: [f32; FEATURES] = [-2.1, 0.2, 0.5];
/// The same after two.
const AFTER_TWO: [f32; FEATURES] = [-2.0, 0.25, 2.3];

/// The last two tokens of a context.
type Pair = (Option<u32>, u32);

/// The recycling drafter of one sequence.
#[derive(Debug)]
pub struct RecycleDrafter {
    kept: HashMap<Pair, Successors>,
    /// By the number of known tokens, from one.
    odds: [Odds<FEATURES>; 2],
    grower: Grower<Pair>,
    choices: Vec<Choice>,
    scratch: DrawScratch,
    list: Vec<Candidate>,
}

impl Default for RecycleDrafter {
    fn default() -> Self {
        Self::new()
    }
}

impl RecycleDrafter {
    /// A drafter that knows nothing yet.
    pub fn new() -> Self {
        Self {
            kept: HashMap::new(),
            odds: [Odds::new(AFTER_ONE), Odds::new(AFTER_TWO)],
            grower: Grower::new(),
            choices: Vec::new(),
            scratch: DrawScratch::default(),
            list: Vec::new(),
        }
    }

    /// Keeps the likeliest of `logits`, which stand after `pair`.
    fn keep(&mut self, pair: Pair, logits: &[f32]) {
        likeliest(logits, KEPT, &mut self.list);
        let Some(&Candidate { token, logit }) = self.list.first() else { return };
        let mut successors = Successors { tokens: [token; KEPT], logits: [f32::NEG_INFINITY; KEPT] };
        for (i, c) in self.list.iter().enumerate() {
            (successors.tokens[i], successors.logits[i]) = (c.token, c.logit - logit);
        }
        if self.kept.len() + 2 > MOST {
            self.kept.clear();
        }
        self.kept.insert(pair, successors);
        self.kept.insert((None, pair.1), successors);
    }
}

/// What is known after `pair`, and by how many tokens less one.
fn known(kept: &HashMap<Pair, Successors>, pair: Pair) -> Option<(&Successors, usize)> {
    match kept.get(&pair) {
        Some(found) if pair.0.is_some() => Some((found, 1)),
        _ => kept.get(&(None, pair.1)).map(|found| (found, 0)),
    }
}

fn features(rank: usize, chance: f32) -> [f32; FEATURES] {
    [1.0, log_odds(chance), if rank == 0 { 1.0 } else { 0.0 }]
}

/// The tokens that the draw at `position` may fall on after `found`.
fn choose(
    context: &Context<'_>,
    position: usize,
    found: &Successors,
    scratch: &mut DrawScratch,
    choices: &mut Vec<Choice>,
) {
    let scores = Scores { logits: &found.logits, tokens: Some(&found.tokens), confidence: None };
    context.draw.choices(position as u64, &scores, OFFERED, scratch, choices);
}

/// The pair that ends with the token at `at`.
fn pair(tokens: &[u32], at: usize) -> Pair {
    (at.checked_sub(1).map(|before| tokens[before]), tokens[at])
}

impl Drafter for RecycleDrafter {
    fn name(&self) -> &str {
        "recycle"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        let Some(last) = context.tokens.len().checked_sub(1) else { return };
        let Self { kept, odds, grower, choices, scratch, .. } = self;
        let look = |state: Pair, depth: usize, guesses: &mut Vec<Guess<Pair>>| {
            let Some((found, level)) = known(kept, state) else { return };
            choose(context, last + 1 + depth, found, scratch, choices);
            guesses.extend(choices.iter().enumerate().map(|(rank, choice)| {
                let chance = odds[level].chance(&features(rank, choice.chance));
                (choice.token, chance, (Some(state.1), choice.token))
            }));
        };
        grower.grow(context, rows, pair(context.tokens, last), draft, look);
    }

    fn observe(&mut self, round: &Round<'_>) {
        let context = &round.context;
        let tokens = context.tokens;
        for (at, &row) in (round.first..).zip(round.rows) {
            let Some(logits) = round.pass.logits(row) else { continue };
            let pair = pair(tokens, at);
            // What followed in fact tells what the old successors were worth.
            if let (Some(&next), Some((found, level))) = (tokens.get(at + 1), known(&self.kept, pair)) {
                choose(context, at + 1, found, &mut self.scratch, &mut self.choices);
                for (rank, choice) in self.choices.iter().enumerate() {
                    self.odds[level].learn(&features(rank, choice.chance), choice.token == next);
                }
            }
            self.keep(pair, logits);
        }
        let rejected = (0..round.draft.len()).filter(|node| !round.rows.contains(&(round.base + node)));
        for node in rejected.take(REJECTED) {
            let Some(logits) = round.pass.logits(round.base + node) else { continue };
            let nodes = round.draft.nodes();
            let before = match nodes[node].parent {
                Some(parent) => nodes[parent].token,
                None => round.pass.tokens()[round.base - 1],
            };
            self.keep((Some(before), nodes[node].token), logits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafter::PassRows;
    use crate::sampler::{Sampler, SamplingParams};
    use leveret_model::Tap;
    use leveret_model::drafters::Features;

    const VOCAB: usize = 300;

    /// A pass whose rows hold these tokens and logits.
    struct Rows(Vec<u32>, Vec<Vec<f32>>);

    impl Features for Rows {
        fn feature(&self, _: Tap, _: usize) -> &[f32] {
            &[]
        }
    }

    impl PassRows for Rows {
        fn tokens(&self) -> &[u32] {
            &self.0
        }

        fn logits(&self, row: usize) -> Option<&[f32]> {
            self.1.get(row).map(Vec::as_slice)
        }
    }

    fn row(likely: &[(u32, f32)]) -> Vec<f32> {
        let mut row = vec![-9.0; VOCAB];
        likely.iter().for_each(|&(token, logit)| row[token as usize] = logit);
        row
    }

    /// A round after `tokens`, whose last row was token 4 with `logits`, and a rejected guess 8.
    fn observe(drafter: &mut RecycleDrafter, context: Context<'_>, logits: Vec<f32>) {
        let mut draft = Draft::new();
        draft.push(8, None, 0.5);
        let pass = Rows(vec![4, 8], vec![logits, row(&[(70, 1.0)])]);
        let first = context.tokens.len() - 2;
        drafter.observe(&Round { context, new: 1, draft: &draft, base: 1, first, rows: &[0], pass: &pass });
    }

    fn proposed(drafter: &mut RecycleDrafter, context: &Context<'_>) -> Draft {
        let mut draft = Draft::new();
        drafter.propose(context, 8, &mut draft);
        draft
    }

    #[test]
    fn what_was_thought_of_is_guessed_next_time() {
        let mut drafter = RecycleDrafter::new();
        let tokens = [1, 4, 20];
        observe(&mut drafter, Context::new(&tokens, 1), row(&[(20, 3.0), (30, 2.0), (8, 2.5)]));
        let draft = proposed(&mut drafter, &Context::new(&[9, 4], 1));
        let first: Vec<u32> = draft.tokens_after(None).collect();
        assert_eq!(first[..3], [20, 8, 30], "likeliest first");
        // The rejected row tells what would have come behind its token.
        let behind: Vec<u32> = draft.tokens_after(draft.child(None, 8)).collect();
        assert_eq!(behind[..1], [70]);
        assert!(proposed(&mut drafter, &Context::new(&[4, 9], 1)).is_empty());
    }

    #[test]
    fn two_tokens_say_more_than_one() {
        let mut drafter = RecycleDrafter::new();
        observe(&mut drafter, Context::new(&[1, 4, 20], 1), row(&[(20, 3.0)]));
        observe(&mut drafter, Context::new(&[2, 4, 30], 1), row(&[(30, 3.0)]));
        let first = |drafter: &mut RecycleDrafter, tokens: [u32; 2]| {
            proposed(drafter, &Context::new(&tokens, 1)).tokens_after(None).next()
        };
        assert_eq!(first(&mut drafter, [1, 4]), Some(20));
        assert_eq!(first(&mut drafter, [2, 4]), Some(30));
        assert_eq!(first(&mut drafter, [3, 4]), Some(30), "the newest");
    }

    /// Where tokens are drawn, the guess is what the noise will pick of the same scores.
    #[test]
    fn the_draw_is_guessed() {
        let likely = [(20, 1.0), (30, 1.1), (40, 0.9), (50, 1.0)];
        for seed in 0..50 {
            let params = SamplingParams { seed, temperature: 1.0, top_k: 4, ..SamplingParams::default() };
            let draw = crate::Draw::new(&params);
            let mut drafter = RecycleDrafter::new();
            let context = |tokens| Context { draw, ..Context::new(tokens, 1) };
            observe(&mut drafter, context(&[1, 4, 20]), row(&likely));
            let tokens = [1, 4, 20, 1, 4];
            let mut sampler = Sampler::new(&params, VOCAB, &tokens).unwrap();
            let drawn = sampler.sample(&row(&likely)).unwrap();
            let draft = proposed(&mut drafter, &context(&tokens));
            assert_eq!(draft.tokens_after(None).next(), Some(drawn));
        }
    }
}
