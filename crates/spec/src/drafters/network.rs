//! Grows a draft from the scores of a network: level by level, the likeliest nodes first, for as
//! long as what may still be accepted pays for the time it takes.
//!
//! One rule for chained heads, draft models and block drafters, for chains and trees (after EAGLE-2,
//! arXiv 2406.16858, and DDTree, arXiv 2604.12989, with a price in place of fixed sizes).

use std::fmt;
use std::time::Instant;

use leveret_model::Tap;
use leveret_model::drafters::{Branch, Committed, Guesser, Network};

use super::ahead::Ahead;
use super::breadth::Breadth;
use super::pace::Mean;
use super::reading::{Reading, Seconds};
use super::reliability::Reliability;
use crate::control::CostCurve;
use crate::draft::{Draft, Node};
use crate::drafter::{Context, Drafter, Lessons, Round};
use crate::error::Result;
use crate::sampler::{Choice, DrawScratch};
use std::sync::Arc;

/// Tokens that are considered behind each node.
const CHOICES: usize = 4;
/// Most nodes of a level that are looked behind.
const WIDTH: usize = 6;
/// Deepest draft of a network that has no limit of its own.
const DEPTH: usize = 16;

/// The drafter of one text that asks a network.
pub struct NetworkDrafter {
    name: String,
    guesser: Box<dyn Guesser>,
    taps: Vec<Tap>,
    depth: usize,
    breadth: Breadth,
    reliability: Reliability,
    /// All that was considered for the last draft, until the text has told what came true. The first
    /// is the text.
    guesses: Vec<Guess>,
    reading: Reading,
    /// Seconds of looking behind one level.
    step: Mean,
    trouble: Option<String>,
    ahead: Ahead,
    /// Places of the guesses of one level.
    level: Vec<usize>,
    next: Vec<usize>,
    branches: Vec<Branch>,
    /// Places of guesses by chance, and where each went in the draft.
    order: Vec<usize>,
    placed: Vec<Option<usize>>,
    choices: Vec<Choice>,
    scratch: DrawScratch,
}

/// A token that was considered.
#[derive(Debug, Clone, Copy)]
struct Guess {
    token: u32,
    /// Place of the guess before it; the first one of all is the text itself.
    parent: usize,
    /// Guesses before it, and among its siblings.
    depth: usize,
    rank: usize,
    /// What the network says that its chance is, given its parent.
    own: f32,
    /// Estimated chance that it is accepted.
    chance: f32,
    /// Its number with the guesser; 0, which is the text's, until it was looked behind.
    branch: usize,
}

impl NetworkDrafter {
    /// A drafter for a text of up to `capacity` tokens, drafts included.
    ///
    /// # Errors
    /// No memory for the network's caches.
    pub fn new(network: Arc<dyn Network>, capacity: usize) -> Result<Self> {
        let description = network.description();
        Ok(Self {
            name: description.family.to_owned(),
            taps: description.taps.clone(),
            depth: description.depth.unwrap_or(DEPTH),
            breadth: Breadth::new(description.vocab),
            guesser: network.guesser(capacity)?,
            reliability: Reliability::default(),
            guesses: Vec::new(),
            reading: Reading::default(),
            step: Mean::default(),
            trouble: None,
            ahead: Ahead::default(),
            level: Vec::new(),
            next: Vec::new(),
            branches: Vec::new(),
            order: Vec::new(),
            placed: Vec::new(),
            choices: Vec::new(),
            scratch: DrawScratch::default(),
        })
    }

    fn fail(&mut self, error: &dyn fmt::Display) {
        self.trouble = Some(stopped(&self.name, error));
    }

    /// Opens a draft: the text is the first guess and the first level.
    fn open(&mut self, context: &Context<'_>) -> Result<()> {
        self.guesser.score_first(self.breadth.of(context.tokens));
        self.ahead.open();
        self.branches.clear();
        if self.guesser.reads_ahead() {
            self.ahead.follow(0, context.guessed, &mut self.branches);
        }
        self.guesser.begin_with(&context.tokens[self.reading.from..], &self.branches)?;
        let text = Guess { token: 0, parent: 0, depth: 0, rank: 0, own: 1.0, chance: 1.0, branch: 0 };
        self.guesses.push(text);
        self.level.clear();
        self.level.push(0);
        Ok(())
    }

    /// Whether `hope`, tokens that may come true, pays for `seconds`.
    fn pays(hope: f32, seconds: f64, context: &Context<'_>) -> bool {
        hope >= context.worth.least_chance(seconds)
    }

    /// Considers guesses level by level.
    fn grow(&mut self, context: &Context<'_>, rows: usize) -> Result<()> {
        self.open(context)?;
        let deepest = self.depth.min(rows);
        for depth in 0..deepest {
            self.next.clear();
            let mut seen = None;
            for at in 0..self.level.len() {
                self.look_behind(self.level[at], context, &mut seen);
            }
            let guesses = &mut self.guesses;
            self.next.sort_by(|&a, &b| guesses[b].chance.total_cmp(&guesses[a].chance));
            self.next.truncate(WIDTH);
            if depth + 1 == deepest || !self.choose(context) {
                break;
            }
            self.look_behind_level(context)?;
        }
        Ok(())
    }

    /// Leaves in `next` the guesses that are worth looking behind: those that were in advance, and the others if
    /// together they pay for a step. Whether there are any.
    fn choose(&mut self, context: &Context<'_>) -> bool {
        let (guesses, ahead) = (&mut self.guesses, &self.ahead);
        // The likeliest token behind a guess is taken to be as likely as the guess was.
        let (mut seen, mut unseen) = (0.0, 0.0);
        for &i in &self.next {
            let Guess { parent, token, chance, .. } = guesses[i];
            guesses[i].branch = ahead.find(guesses[parent].branch, token).unwrap_or(0);
            *if guesses[i].branch > 0 { &mut seen } else { &mut unseen } += chance * chance;
        }
        if Self::pays(unseen, self.step.get().unwrap_or(0.0), context) {
            return !self.next.is_empty();
        }
        self.next.retain(|&i| guesses[i].branch > 0);
        Self::pays(seen, 0.0, context) && !self.next.is_empty()
    }

    /// Has the network look behind the guesses of `next`, which then are the level.
    fn look_behind_level(&mut self, context: &Context<'_>) -> Result<()> {
        self.branches.clear();
        for &i in &self.next {
            let Guess { parent, token, branch, .. } = self.guesses[i];
            if branch == 0 {
                let parent = self.guesses[parent].branch;
                self.branches.push(Branch { parent, token });
                self.guesses[i].branch = self.ahead.push(parent, token, context.guessed);
            }
        }
        if !self.branches.is_empty() {
            if self.guesser.reads_ahead() {
                for &i in &self.next {
                    self.ahead.follow(self.guesses[i].branch, context.guessed, &mut self.branches);
                }
            }
            let start = Instant::now();
            self.guesser.expand(&self.branches)?;
            self.step.record(start.elapsed().as_secs_f64());
        }
        std::mem::swap(&mut self.level, &mut self.next);
        Ok(())
    }

    /// Draws level by level, for verification that makes use of the laws. Whether a token is drawn
    /// is decided before it is.
    fn grow_drawn(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) -> Result<()> {
        let context = &Context { guessed: None, ..*context };
        self.open(context)?;
        let mut added = Vec::new();
        for depth in 0..self.depth.min(rows) {
            self.next.clear();
            for &at in &self.level {
                let Guess { chance: above, branch, .. } = self.guesses[at];
                let least = context.worth.least_chance(0.0);
                let (reliability, mut owns) = (&self.reliability, Vec::new());
                let chance = |rank: usize, own: f32| {
                    owns.push(own);
                    let chance = reliability.chance(depth, rank, own);
                    (above * chance >= least || (rank == 0 && depth == 0)).then_some(chance)
                };
                // Guess `i` is node `i - 1` of the draft.
                let (parent, count) = (at.checked_sub(1), CHOICES.min(rows - draft.len()));
                context.draw.propose(&self.guesser.scores(branch), count, draft, parent, chance, &mut added);
                for (rank, &node) in added.iter().enumerate() {
                    let Node { token, chance, depth, .. } = draft.nodes()[node];
                    self.next.push(self.guesses.len());
                    self.guesses.push(Guess {
                        token,
                        parent: at,
                        depth,
                        rank,
                        own: owns[rank],
                        chance,
                        branch: 0,
                    });
                }
            }
            let hope: f32 = self.next.iter().map(|&i| self.guesses[i].chance).sum();
            let full = depth + 1 == self.depth.min(rows) || draft.len() == rows;
            let pays = Self::pays(hope, self.step.get().unwrap_or(0.0), context);
            if full || self.next.is_empty() || !pays {
                break;
            }
            self.look_behind_level(context)?;
        }
        Ok(())
    }

    /// Adds the tokens that may follow guess `at`. `seen` is the row of scores that the choices are of;
    /// where slots of a block are independent, all guesses of a level have the same.
    fn look_behind(&mut self, at: usize, context: &Context<'_>, seen: &mut Option<*const f32>) {
        let Guess { depth, chance, branch, .. } = self.guesses[at];
        let scores = self.guesser.scores(branch);
        let position = (context.tokens.len() + depth) as u64;
        if seen.replace(scores.logits.as_ptr()) != Some(scores.logits.as_ptr()) {
            context.draw.choices(position, &scores, CHOICES, &mut self.scratch, &mut self.choices);
        }
        let least = context.worth.least_chance(0.0);
        for (rank, choice) in self.choices.iter().enumerate() {
            let own = scores.confidence.filter(|_| rank == 0).unwrap_or(choice.chance);
            let chance = chance * self.reliability.chance(depth, rank, own);
            // The very first guess costs nothing any more, and whether it comes true is worth knowing.
            let likely = chance >= least && own >= context.worth.least_given;
            if likely || (rank == 0 && depth == 0) {
                self.next.push(self.guesses.len());
                let (token, parent, depth, branch) = (choice.token, at, depth + 1, 0);
                self.guesses.push(Guess { token, parent, depth, rank, own, chance, branch });
            }
        }
    }

    /// Makes the likeliest `rows` guesses a draft.
    fn write(&mut self, rows: usize, draft: &mut Draft) {
        self.order.clear();
        self.order.extend(1..self.guesses.len());
        // Stable, so that a parent stays before its child.
        self.order.sort_by(|&a, &b| self.guesses[b].chance.total_cmp(&self.guesses[a].chance));
        self.order.truncate(rows);
        self.placed.clear();
        self.placed.resize(self.guesses.len(), None);
        for &i in &self.order {
            let Guess { token, parent, chance, .. } = self.guesses[i];
            self.placed[i] = draft.push(token, self.placed[parent], chance);
        }
    }

    /// Compares the last draft with the text that followed it.
    fn learn(&mut self, tokens: &[u32]) {
        if self.guesses.is_empty() || tokens.len() <= self.reading.after {
            return;
        }
        let (mut at, mut gained) = (0, 0);
        for &token in &tokens[self.reading.after..] {
            let mut came_true = None;
            for (i, guess) in self.guesses.iter().enumerate().skip(1).filter(|(_, g)| g.parent == at) {
                let hit = guess.token == token;
                self.reliability.record(guess.depth - 1, guess.rank, guess.own, hit);
                came_true = if hit { Some(i) } else { came_true };
            }
            let Some(next) = came_true else { break };
            at = next;
            gained += 1;
        }
        self.reading.gained(gained);
        self.guesses.clear();
    }
}

impl Drafter for NetworkDrafter {
    fn name(&self) -> &str {
        &self.name
    }

    fn seconds(&self) -> Option<f64> {
        self.reading.seconds()
    }

    fn taps(&self) -> &[Tap] {
        &self.taps
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        if self.trouble.is_some() || rows == 0 {
            return;
        }
        let tokens = context.tokens.len();
        let unread = self.guesser.unread(tokens - self.reading.from);
        if !self.reading.may_draft(tokens, unread, &context.worth) {
            return;
        }
        self.guesses.clear();
        let start = Instant::now();
        let grown = match context.draw.wants_laws() {
            true => self.grow_drawn(context, rows, draft),
            false => self.grow(context, rows).map(|()| self.write(rows, draft)),
        };
        if let Err(error) = grown {
            self.fail(&error);
        }
        self.reading.took(start.elapsed().as_secs_f64());
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.learn(round.context.tokens);
        if self.trouble.is_some() {
            return;
        }
        let committed = Committed {
            tokens: round.context.tokens,
            first: round.first,
            rows: round.rows,
            features: round.pass,
        };
        if let Err(error) = self.guesser.observe(&committed) {
            self.fail(&error);
        }
    }

    fn lessons(&self) -> Option<Lessons> {
        Some(Lessons::new(Times { reading: self.reading.lessons(), step: self.step.get() }))
    }

    fn remember(&mut self, lessons: &Lessons) {
        if let Some(times) = lessons.of::<Times>() {
            self.reading.remember(times.reading);
            times.step.into_iter().for_each(|seconds| self.step.record(seconds));
        }
    }

    fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// What the network's work takes on this machine.
pub(super) struct Times {
    pub(super) reading: Seconds,
    pub(super) step: Option<f64>,
}

/// What a network that reads the text itself can know before its first text, of the seconds of its passes.
pub fn network_lessons(costs: &CostCurve) -> Lessons {
    const MANY: usize = 32;
    let (one, many) = (costs.time(1, 0), costs.time(MANY, 0));
    Lessons::new(Times { reading: Seconds::of_reading(many / MANY as f64), step: Some(one) })
}

/// What is said of a drafter that has failed.
pub(super) fn stopped(name: &str, error: &dyn fmt::Display) -> String {
    format!("drafter {name}: {error}; it guesses no more of this text, which stays the same")
}

impl fmt::Debug for NetworkDrafter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkDrafter")
            .field("name", &self.name)
            .field("guesser", &self.guesser)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
