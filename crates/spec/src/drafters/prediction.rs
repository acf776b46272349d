//! Guesses from the user's own idea of the answer: a file before an edit, last week's report.
//!
//! The text is followed through the prediction. Where they part, several readings are kept in mind:
//! that words were replaced, added, or left out, or that the text has moved to another place; the
//! next tokens tell which is right.

use super::grow::{Grower, Guess};
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Round};
use crate::odds::Odds;

/// Readings that are kept in mind.
const READINGS: usize = 4;
/// Tokens of the prediction that may have been left out.
const LEFT_OUT: usize = 12;
/// Tokens that must agree for another place to be looked for there, and that are compared at most.
const SAME: std::ops::RangeInclusive<usize> = 2..=32;
/// Tokens without agreement after which a reading is given up.
const PATIENCE: u32 = 12;

/// Of a guess: see [`Reading::features`].
const FEATURES: usize = 6;
/// What mostly holds, from edits of code by several models.
const START: [f32; FEATURES] = [0.0, 0.8, 0.9, -0.2, -0.6, -0.3];

/// The drafter of one text that follows a prediction of it.
#[derive(Debug)]
pub struct PredictionDrafter {
    prediction: Vec<u32>,
    readings: Vec<Reading>,
    odds: Odds<FEATURES>,
    grower: Grower<Reading>,
    /// Tokens of the text that have been followed; the prompt is none of them.
    followed: usize,
    /// Scratch.
    next: Vec<Reading>,
}

/// A place in the prediction at which the text may be.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    /// Place of the token that is expected.
    at: usize,
    /// Tokens in a row that agreed up to here.
    run: u32,
    /// Tokens since the last one that agreed.
    misses: u32,
    /// What is made of a disagreement.
    change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    /// Nothing has disagreed yet.
    None,
    /// The text says something else in as many tokens.
    Replaced,
    /// The text says something more.
    Added,
    /// The text has gone on elsewhere.
    Moved,
}

impl Reading {
    /// Constants for agreement and for none, length of the agreement, tokens without one, and
    /// whether something is taken to be replaced or to have moved.
    fn features(&self) -> [f32; FEATURES] {
        let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
        let agrees = self.run > 0;
        [
            flag(!agrees),
            flag(agrees),
            (self.run.max(1) as f32).ln(),
            self.misses as f32,
            flag(!agrees && self.change == Change::Replaced),
            flag(self.change == Change::Moved),
        ]
    }

    fn agreed(self) -> Self {
        Self { at: self.at + 1, run: self.run + 1, misses: 0, ..self }
    }
}

impl PredictionDrafter {
    /// A drafter for a text that `prediction` is a guess of.
    pub fn new(prediction: Vec<u32>) -> Self {
        let start = Reading { at: 0, run: 0, misses: 0, change: Change::None };
        Self {
            prediction,
            readings: vec![start],
            odds: Odds::new(START),
            grower: Grower::new(),
            followed: 0,
            next: Vec::new(),
        }
    }

    /// Follows the tokens that are new in the context.
    fn read(&mut self, context: &Context<'_>) {
        let text = context.tokens;
        for at in self.followed.max(context.prompt_len)..text.len() {
            self.learn(text[at]);
            self.follow(&text[context.prompt_len..=at]);
        }
        self.followed = text.len();
    }

    fn learn(&mut self, token: u32) {
        for i in 0..self.readings.len() {
            let reading = self.readings[i];
            let Some(&expected) = self.prediction.get(reading.at) else { continue };
            if self.readings[..i].iter().any(|r| self.prediction.get(r.at) == Some(&expected)) {
                continue;
            }
            let came_true = expected == token;
            self.odds.learn(&reading.features(), came_true);
            if came_true {
                break;
            }
        }
    }

    /// Takes in the last token of `output`.
    fn follow(&mut self, output: &[u32]) {
        let Some(&token) = output.last() else { return };
        let prediction = &self.prediction;
        self.next.clear();
        for reading in &self.readings {
            if prediction.get(reading.at) == Some(&token) {
                self.next.push(reading.agreed());
                continue;
            }
            let Reading { at, run, change, .. } = *reading;
            let misses = reading.misses + 1;
            let lost = Reading { at, run: 0, misses, change };
            match change {
                _ if misses > PATIENCE => {}
                Change::Replaced if run == 0 => self.next.push(Reading { at: at + 1, ..lost }),
                Change::Added if run == 0 => self.next.push(lost),
                _ => {
                    let rest = prediction.get(at + 1..).unwrap_or_default();
                    if let Some(out) = rest.iter().take(LEFT_OUT).position(|&t| t == token) {
                        self.next.push(Reading { at: at + out + 2, run: 1, misses: 0, change: Change::None });
                    }
                    self.next.push(Reading { at: at + 1, change: Change::Replaced, ..lost });
                    self.next.push(Reading { change: Change::Added, ..lost });
                }
            }
        }
        if self.next.iter().all(|reading| reading.run < 2) {
            let near = self.next.first().map_or(0, |reading| reading.at);
            self.next.extend(search(prediction, output, near));
        }
        self.next.retain(|reading| reading.at < prediction.len());
        let chance = |reading: &Reading| self.odds.chance(&reading.features());
        self.next.sort_by(|a, b| chance(b).total_cmp(&chance(a)));
        self.readings.clear();
        for reading in &self.next {
            let known = self.readings.iter().any(|r| r.at == reading.at);
            if !known && self.readings.len() < READINGS {
                self.readings.push(*reading);
            }
        }
    }
}

/// Where the end of `output` stands in the prediction: the longest agreement, of equals the
/// nearest to `near`.
fn search(prediction: &[u32], output: &[u32], near: usize) -> Option<Reading> {
    let last = output.last()?;
    let ends = prediction.iter().enumerate().filter(|(_, token)| *token == last);
    let found = ends.map(|(end, _)| {
        let pairs = prediction[..=end].iter().rev().zip(output.iter().rev());
        let same = pairs.take(*SAME.end()).take_while(|(a, b)| a == b).count();
        (same, std::cmp::Reverse(near.abs_diff(end + 1)), end + 1)
    });
    let (same, _, at) = found.max().filter(|(same, _, _)| SAME.contains(same))?;
    Some(Reading { at, run: same as u32, misses: 0, change: Change::Moved })
}

impl Drafter for PredictionDrafter {
    fn name(&self) -> &str {
        "prediction"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        self.read(context);
        let Self { prediction, readings, odds, grower, .. } = self;
        let Some(&first) = readings.first() else { return };
        let behind = |reading: Reading, depth: usize, guesses: &mut Vec<Guess<Reading>>| {
            let mut left = 1.0;
            let here = [reading];
            let all = if depth == 0 { &readings[..] } else { &here[..] };
            for reading in all {
                let Some(&token) = prediction.get(reading.at) else { continue };
                if guesses.iter().any(|guess| guess.0 == token) {
                    continue;
                }
                let chance = odds.chance(&reading.features());
                guesses.push((token, left * chance, reading.agreed()));
                left *= 1.0 - chance;
            }
        };
        grower.grow(context, rows, first, draft, behind);
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.read(&round.context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: [u32; 2] = [900, 901];

    /// Writes `text` with `prediction` at hand; returns how many of its tokens were the first guess
    /// at their place.
    fn hits(prediction: &[u32], text: &[u32]) -> usize {
        let mut drafter = PredictionDrafter::new(prediction.to_vec());
        let mut tokens = PROMPT.to_vec();
        let mut hits = 0;
        for &token in text {
            let mut draft = Draft::new();
            drafter.propose(&Context::new(&tokens, PROMPT.len()), 8, &mut draft);
            hits += usize::from(draft.tokens_after(None).next() == Some(token));
            tokens.push(token);
        }
        hits
    }

    #[test]
    fn follows_what_it_was_told() {
        let text: Vec<u32> = (0..40).collect();
        assert_eq!(hits(&text, &text), 40);
        assert_eq!(hits(&[], &text), 0);
    }

    #[test]
    fn finds_back_after_every_kind_of_change() {
        let old: Vec<u32> = (0..40).collect();
        let changed = |at: usize, out: usize, new: &[u32]| [&old[..at], new, &old[at + out..]].concat();
        // Two tokens at most are missed beside those that are new.
        for (out, new) in [(1, 1), (3, 3), (0, 1), (0, 4), (1, 0), (6, 0), (2, 4), (4, 1)] {
            let new: Vec<u32> = (100..100 + new).collect();
            let text = changed(20, out, &new);
            let missed = text.len() - hits(&old, &text);
            assert!(missed <= new.len() + 2, "{out} for {}: {missed} missed", new.len());
        }
        // The second half first.
        let text = [&old[20..], &old[..20]].concat();
        assert!(hits(&old, &text) >= 35);
    }

    #[test]
    fn a_guess_in_reserve_stands_beside_the_first() {
        let mut drafter = PredictionDrafter::new((0..20).collect());
        let tokens = [&PROMPT[..], &[0, 1, 2, 3, 4, 77]].concat();
        let mut draft = Draft::new();
        drafter.propose(&Context::new(&tokens, PROMPT.len()), 16, &mut draft);
        // 77 was added before 5, or stands for it.
        assert!(draft.child(None, 5).is_some() && draft.child(None, 6).is_some());
    }

    #[test]
    fn a_useless_prediction_is_believed_less_and_less() {
        let mut drafter = PredictionDrafter::new(vec![1; 30]);
        let mut tokens = PROMPT.to_vec();
        for i in 0..200 {
            tokens.extend([1, 50 + i]);
            drafter.read(&Context::new(&tokens, PROMPT.len()));
        }
        let mut draft = Draft::new();
        drafter.propose(&Context::new(&tokens, PROMPT.len()), 16, &mut draft);
        assert!(draft.nodes().iter().all(|node| node.chance < 0.75), "{:?}", draft.nodes());
    }
}
