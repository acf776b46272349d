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
use super::odds::{Odds, log_odds};
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Round};
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
