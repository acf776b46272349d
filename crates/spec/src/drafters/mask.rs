//! The target guesses for itself: rows of a mask token behind the text say what may stand further
//! on, for models that were trained to (multi-token prediction by self-distillation, arXiv
//! 2602.06019; P-EAGLE and DFlash train heads in the same way).
//!
//! Masks ride along in the passes that verify: row `j` behind a row guesses the token `j` places
//! after the one that this row decides. What is guessed is verified in the next pass like any draft.

use std::fmt;

use leveret_model::drafters::Scores;

use super::reliability::Reliability;
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Probe, Round};
use crate::sampler::{Choice, DrawScratch};

/// The first estimate of how often a slot comes true, given that those before it do.
const HOPE: f32 = 0.6;
/// Rounds without masks after which one is tried anyway.
const PATIENCE: usize = 48;

/// The drafter of one text whose model knows a mask token.
pub struct MaskDrafter {
    token: u32,
    depth: usize,
    /// Masks may stand behind several nodes of a pass.
    several: bool,
    /// Logits of the masks behind the text while it had `after` tokens, `[count, vocab]`.
    logits: Vec<f32>,
    count: usize,
    after: usize,
    /// What was guessed of them, with what the model said of its chance.
    guesses: Vec<(u32, f32)>,
    reliability: Reliability,
    /// The same without the model's word, for masks whose guesses are not known yet.
    slots: Reliability,
    /// Rounds since masks were asked for.
    idle: usize,
    /// Scratch: endings of the pass by chance.
    endings: Vec<(f32, Option<usize>)>,
    choices: Vec<Choice>,
    scratch: DrawScratch,
}

impl MaskDrafter {
    /// A drafter with up to `depth` masks of id `token` behind a row; behind one row of a pass only
    /// unless `several` says otherwise, for models with a recurrent state: there each branch costs a
    /// state of its own.
    pub fn new(token: u32, depth: usize, several: bool) -> Self {
        Self {
            token,
            depth,
            several,
            logits: Vec::new(),
            count: 0,
            after: 0,
            guesses: Vec::new(),
            reliability: Reliability::default(),
            slots: Reliability::default(),
            idle: 0,
            endings: Vec::new(),
            choices: Vec::new(),
            scratch: DrawScratch::default(),
        }
    }

    /// Compares what was guessed with the text that followed.
    fn learn(&mut self, tokens: &[u32]) {
        let truth = tokens.get(self.after..).unwrap_or_default();
        for (slot, ((guess, own), token)) in self.guesses.drain(..).zip(truth).enumerate() {
            let hit = guess == *token;
            self.reliability.record(slot, 0, own, hit);
            self.slots.record(slot, 0, HOPE, hit);
            if !hit {
                break;
            }
        }
    }

    /// Masks that pay behind a row on which the pass ends with chance `ending`: those whose guesses
    /// are worth more than their rows, now and when they are verified.
    fn worth(&self, ending: f32, least: f32) -> usize {
        let mut chance = 1.0;
        let gain = (0..self.depth).map(|slot| {
            chance *= self.slots.chance(slot, 0, HOPE);
            ending * (chance - least)
        });
        gain.take_while(|&gain| gain > least).count()
    }
}

impl Drafter for MaskDrafter {
    fn name(&self) -> &str {
        "mask"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        self.guesses.clear();
        if self.count == 0 || self.after != context.tokens.len() {
            return;
        }
        let width = self.logits.len() / self.count;
        let (mut parent, mut chance) = (None, 1.0);
        for (slot, logits) in self.logits.chunks_exact(width).take(rows).enumerate() {
            let scores = Scores { logits, tokens: None, confidence: None };
            let position = (self.after + slot) as u64;
            context.draw.choices(position, &scores, 1, &mut self.scratch, &mut self.choices);
            let Some(&Choice { token, chance: own }) = self.choices.first() else { break };
            chance *= self.reliability.chance(slot, 0, own);
            if token == self.token || (slot > 0 && chance < context.worth.least_chance(0.0)) {
                break;
            }
            self.guesses.push((token, own));
            parent = draft.push(token, parent, chance);
        }
    }

    fn probe(&mut self, context: &Context<'_>, draft: &Draft, rows: usize, probes: &mut Vec<Probe>) {
        self.endings.clear();
        self.endings.push((1.0, None));
        self.endings.extend(draft.nodes().iter().enumerate().map(|(i, node)| (node.chance, Some(i))));
        for node in draft.nodes() {
            self.endings[node.parent.map_or(0, |p| p + 1)].0 -= node.chance;
        }
        self.endings.sort_by(|a, b| b.0.total_cmp(&a.0));
        if !self.several {
            self.endings.truncate(1);
        }
        let least = context.worth.least_chance(0.0);
        let mut left = rows;
        for i in 0..self.endings.len() {
            let (ending, after) = self.endings[i];
            let mut count = self.worth(ending, least).min(left);
            if i == 0 && count == 0 && self.idle >= PATIENCE {
                count = left.min(1);
            }
            if count > 0 {
                probes.push(Probe { after, token: self.token, rows: count });
                left -= count;
            }
        }
        self.idle = if probes.is_empty() { self.idle + 1 } else { 0 };
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.learn(round.context.tokens);
        self.count = 0;
        self.logits.clear();
        self.after = round.context.tokens.len();
        for row in round.probed().take(self.depth) {
            let Some(logits) = round.pass.logits(row) else { break };
            self.logits.extend_from_slice(logits);
            self.count += 1;
        }
    }
}

impl fmt::Debug for MaskDrafter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaskDrafter")
            .field("token", &self.token)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drafter::Worth;

    fn probes(drafter: &mut MaskDrafter, draft: &Draft, rows: usize, worth: Worth) -> Vec<Probe> {
        let mut probes = Vec::new();
        let context = Context { worth, ..Context::new(&[1, 2, 3], 1) };
        drafter.probe(&context, draft, rows, &mut probes);
        probes
    }

    #[test]
    fn masks_stand_where_the_pass_is_likely_to_end() {
        let mut drafter = MaskDrafter::new(9, 3, true);
        let mut draft = Draft::new();
        let a = draft.push(1, None, 0.9);
        draft.push(2, a, 0.2);
        let found = probes(&mut drafter, &draft, 16, Worth::default());
        let after: Vec<_> = found.iter().map(|probe| (probe.after, probe.rows)).collect();
        assert_eq!(after, [(Some(0), 3), (Some(1), 3), (None, 3)]);
        // Fewer rows, and rows that cost something.
        assert_eq!(probes(&mut drafter, &draft, 4, Worth::default())[1].rows, 1);
        let dear = Worth { lambda: 1.0, row: 0.2, ..Worth::default() };
        let found = probes(&mut drafter, &draft, 16, dear);
        assert_eq!(found, [Probe { after: Some(0), token: 9, rows: 1 }]);
        // Where each branch costs a state, behind the likeliest only.
        let mut one = MaskDrafter::new(9, 3, false);
        assert_eq!(
            probes(&mut one, &draft, 16, Worth::default()),
            [Probe { after: Some(0), token: 9, rows: 3 }]
        );
    }

    #[test]
    fn masks_that_never_come_true_are_given_up_and_tried_again() {
        let mut drafter = MaskDrafter::new(9, 2, true);
        let dear = Worth { lambda: 1.0, row: 0.1, ..Worth::default() };
        assert!(!probes(&mut drafter, &Draft::new(), 8, dear).is_empty());
        for _ in 0..100 {
            drafter.guesses.push((1, 0.5));
            drafter.after = 1;
            drafter.learn(&[7, 2]);
        }
        let tried: Vec<usize> =
            (0..190).filter(|_| !probes(&mut drafter, &Draft::new(), 8, dear).is_empty()).collect();
        assert_eq!(tried, [PATIENCE, 2 * PATIENCE + 1, 3 * PATIENCE + 2]);
    }
}
