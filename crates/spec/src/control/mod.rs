//! How far to guess: a price for every row, from what passes cost, what guesses are worth and how
//! fast the text is being written. Nothing here can change a text.
//!
//! [`cost`] says what a pass over some rows takes, [`clock`] and [`shape`] correct that as passes are timed;
//! [`estimator`] says how likely a guess comes true; [`policy`] chooses rows by the two; [`parking`]
//! stops drafts that lose, those that take time apart from the others.

mod clock;
mod cost;
mod estimator;
mod measure;
mod parking;
mod policy;
mod shape;

use crate::draft::Draft;
use crate::drafter::{Lessons, Worth};
use clock::Clock;
use estimator::{Estimator, Reached};
use parking::Parking;

pub use cost::CostCurve;
pub use measure::measure;
pub use policy::Control;

/// Rounds over which speed is remembered. Long against a burst of luck, short against a change
/// of what is being written.
const MEMORY: f64 = 128.0;
/// Rounds of plain decoding that a text is taken to have behind it at its start.
const START: f64 = 8.0;
/// Tokens that a draft which takes time is taken to gain beyond that, where nobody knows better.
const GAIN: f64 = 0.7;
/// One-row passes from which on a draft counts as one that takes time: more than trees of earlier text take beside a
/// small model, less than a step of a draft model.
const SLOW: f64 = 0.2;

/// What was learned while a text was written and holds for the next one of the same model, on the same machine, with
/// the same drafter: how the machine departs from the cost curve of late, what the drafter's chances are worth, and
/// what the drafter itself has learned.
#[derive(Debug, Clone, Default)]
pub struct Experience {
    clock: Clock,
    estimator: Estimator,
    drafter: Option<Lessons>,
}

impl Experience {
    pub(crate) fn lessons(&self) -> Option<&Lessons> {
        self.drafter.as_ref()
    }

    pub(crate) fn with_lessons(self, drafter: Option<Lessons>) -> Self {
        Self { drafter, ..self }
    }
}

/// Decides how much of each draft of one text is verified. Time is in passes of one row.
#[derive(Debug)]
pub(crate) struct Controller {
    policy: Control,
    curve: CostCurve,
    /// Whether the clock is used. Without, decisions follow from texts and curve alone.
    timed: bool,
    known: Experience,
    /// Brakes of drafts that took no time and of those that did: the one shall not stop the other.
    parking: [Parking; 2],
    /// Whether the draft of this round took time.
    slow: bool,
    /// Tokens and time of late, faded.
    tokens: f64,
    time: f64,
    /// What the drafter said in this round, and what asking it took as a rule.
    offered: Draft,
    drafting: f64,
    /// Time that drafts mostly take; 0 before the first.
    usual: f64,
    trial: Option<Trial>,
    /// Scratch: nodes by chance, and which of them stay.
    order: Vec<usize>,
    chosen: Vec<bool>,
}

/// A draft that would have been verified, had guessing not been parked; the text tells what would
/// have come of it.
#[derive(Debug)]
struct Trial {
    draft: Draft,
    slow: bool,
    cost: f64,
    at: Reached,
    hits: usize,
}

impl Controller {
    /// Starts from the speed of plain decoding.
    pub(crate) fn new(policy: Control, curve: CostCurve, timed: bool) -> Self {
        Self {
            policy,
            curve,
            timed,
            known: Experience::default(),
            parking: [Parking::default(), Parking::of_slow()],
            slow: false,
            tokens: START,
            time: START,
            offered: Draft::new(),
            drafting: 0.0,
            usual: 0.0,
            trial: None,
            order: Vec::new(),
            chosen: Vec::new(),
        }
    }

    /// What was learned so far.
    pub(crate) fn experience(&self) -> &Experience {
        &self.known
    }

    /// Goes on from what was learned before, in place of what has been learned so far.
    pub(crate) fn remember(&mut self, experience: Experience) {
        self.known = experience;
    }

    /// Tokens in the time of a one-row pass, of late; never less than plain decoding's 1.
    fn lambda(&self) -> f64 {
        (self.tokens / self.time).max(1.0)
    }

    /// What `rows` rows cost more than one, after `context` tokens.
    fn extra(&self, rows: usize, context: usize) -> f64 {
        self.known.clock.extra(self.curve.extra(rows, context), rows)
    }

    /// Seconds of a one-row pass; 0 while unknown.
    fn pass_seconds(&self, context: usize) -> f64 {
        if self.timed { self.known.clock.level() * self.growth(context) } else { 0.0 }
    }

    /// Time of a one-row pass, in times of one at the start of a text.
    fn growth(&self, context: usize) -> f64 {
        self.curve.time(1, context) / self.curve.time(1, 0)
    }

    /// Seconds of a one-row pass at the start of a text, as of late; `None` before enough passes were timed.
    pub(crate) fn level(&self) -> Option<f64> {
        (self.timed && self.known.clock.knows()).then(|| self.known.clock.level())
    }

    /// What time is worth to a drafter after `context` tokens.
    pub(crate) fn worth(&self, context: usize) -> Worth {
        // The mean over the first few rows: single steps of a measured curve are uneven.
        const ROWS: usize = 8;
        let (lambda, least_given) = match self.policy {
            Control::Fixed(_) => (0.0, 0.0),
            Control::PMin(least) => (0.0, least),
            Control::Price | Control::Ratio => (self.lambda(), 0.0),
        };
        Worth {
            lambda,
            row: self.extra(1 + ROWS, context) / ROWS as f64,
            pass_seconds: self.pass_seconds(context),
            least_given,
            gain: GAIN,
            parked: self.parked(true),
        }
    }

    /// Most rows that are worth proposing, of `room`.
    pub(crate) fn rows(&self, room: usize) -> usize {
        if let Control::Fixed(rows) = self.policy { rows.min(room) } else { room }
    }

    /// Whether drafts wait, those that take time or the others.
    fn parked(&self, slow: bool) -> bool {
        self.policy == Control::Price && self.parking[usize::from(slow)].is_parked()
    }

    /// Keeps of `draft` what is worth a row, possibly nothing. `base` is the number of rows that
    /// the pass has anyway, `context` the tokens before it, `seconds` what the drafter took.
    ///
    /// What was drawn must not be looked at by the decision whether to verify it, so a draft with
    /// draws stays as it is or goes altogether: its drafter has paid attention to the price.
    pub(crate) fn cut(&mut self, draft: &mut Draft, base: usize, context: usize, seconds: f64) {
        self.offered.clone_from(draft);
        let pass = self.pass_seconds(context);
        let drafting = if pass > 0.0 { seconds / pass } else { 0.0 };
        self.slow = drafting > SLOW;
        self.drafting = self.usually(drafting, draft.is_empty());
        if !draft.has_draws() {
            self.choose(draft, base, context);
        }
        if self.parked(self.slow) {
            if self.trial.is_none() && !draft.is_empty() {
                let cost = self.extra(base + draft.len(), context) + self.drafting;
                let slow = self.slow;
                self.trial = Some(Trial { draft: draft.clone(), slow, cost, at: None, hits: 0 });
            }
            draft.clear();
        }
    }

    /// The time of a proposal, as far as it says something about those to come: a drafter that was
    /// not asked for long, or never, first reads what it has missed.
    fn usually(&mut self, time: f64, empty: bool) -> f64 {
        let most = if self.usual > 0.0 { 3.0 * self.usual } else { 1.0 };
        let time = time.min(most);
        if !empty {
            self.usual += if self.usual > 0.0 { (time - self.usual) / 8.0 } else { time };
        }
        time
    }

    fn choose(&mut self, draft: &mut Draft, base: usize, context: usize) {
        if self.policy.counts_costs() {
            self.known.estimator.rescore(draft);
        }
        let policy = self.policy;
        draft.retain_given(|node, above| policy.allows(node, above));
        let nodes = draft.nodes();
        self.order.clear();
        self.order.extend(0..nodes.len());
        // Of equals, the earlier: a parent comes before its child.
        self.order.sort_unstable_by(|&a, &b| nodes[b].chance.total_cmp(&nodes[a].chance).then(a.cmp(&b)));
        let chances = self.order.iter().map(|&i| nodes[i].chance);
        let idle = self.extra(base, context);
        let cost = |n: usize| 1.0 + self.extra(base + n, context) - idle + self.drafting;
        let size = policy.size(chances, cost);
        self.chosen.clear();
        self.chosen.resize(nodes.len(), false);
        for &node in &self.order[..size] {
            self.chosen[node] = true;
        }
        draft.retain(|i, _| self.chosen[i]);
    }

    /// Learns from a round: a pass of `rows` rows after `context` tokens took `seconds` and led to
    /// the tokens `new`.
    pub(crate) fn record(&mut self, rows: usize, context: usize, seconds: f64, new: &[u32]) {
        if self.timed {
            self.known.clock.record(self.curve.extra(rows, context), rows, seconds / self.growth(context));
        }
        let extra = self.extra(rows, context);
        let cost = extra + self.drafting;
        self.tokens += new.len() as f64 - self.tokens / MEMORY;
        self.time += 1.0 + cost - self.time / MEMORY;
        self.known.estimator.learn(&self.offered, None, new);
        // The next round may go without a draft.
        self.offered.clear();
        self.drafting = 0.0;
        self.follow_trial(new);
        self.parking[usize::from(self.slow)].record(new.len() as f64 - 1.0 - cost);
        self.parking.iter_mut().for_each(|parking| parking.pass(new.len()));
        self.slow = false;
        if self.trial.as_ref().is_some_and(|trial| !self.parked(trial.slow)) {
            self.trial = None;
        }
    }

    fn follow_trial(&mut self, new: &[u32]) {
        let Some(trial) = &mut self.trial else { return };
        for &token in new {
            let next = trial.draft.child(trial.at, token);
            trial.hits += usize::from(next.is_some());
            trial.at = next;
            if next.is_none() || trial.draft.tokens_after(next).next().is_none() {
                let (gain, slow) = (trial.hits as f64 - trial.cost, trial.slow);
                self.trial = None;
                return self.parking[usize::from(slow)].record(gain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(points: &[(usize, f64)]) -> Controller {
        Controller::new(Control::Price, CostCurve::new(points).unwrap(), true)
    }

    fn chain(chances: &[f32]) -> Draft {
        let mut draft = Draft::new();
        let mut parent = None;
        for (i, &chance) in chances.iter().enumerate() {
            parent = draft.push(i as u32, parent, chance);
        }
        draft
    }

    fn kept(controller: &mut Controller, chances: &[f32]) -> usize {
        let mut draft = chain(chances);
        controller.cut(&mut draft, 1, 10, 0.0);
        draft.len()
    }

    #[test]
    fn a_row_must_be_worth_its_time() {
        let mut price = controller(&[(1, 1.0), (17, 5.0)]);
        assert_eq!(kept(&mut price, &[0.9, 0.6, 0.5, 0.15, 0.1]), 3);
        assert_eq!(kept(&mut price, &[0.2, 0.2]), 0);
    }

    #[test]
    fn the_clock_corrects_the_curve() {
        let mut price = controller(&[(1, 1.0), (9, 2.0)]);
        for i in 0..100 {
            let rows = 1 + i % 9;
            price.record(rows, 10, 0.07 * (1.0 + 0.4 * (rows - 1) as f64), &[1]);
            price.parking = Default::default();
        }
        assert!((price.extra(9, 10) - 3.2).abs() < 0.3, "{}", price.extra(9, 10));
        assert_eq!(kept(&mut price, &[0.9, 0.7, 0.3]), 2);
    }

    #[test]
    fn price_rises_with_speed() {
        let mut price = controller(&[(1, 1.0), (9, 2.0)]);
        assert_eq!(price.lambda(), 1.0);
        for _ in 0..600 {
            price.record(5, 10, 0.0, &[1; 5]);
        }
        assert!((price.lambda() - 5.0 / 1.5).abs() < 0.1);
        assert_eq!(price.worth(10).lambda, price.lambda());
    }

    /// A drafter that says 0.9 and is wrong each time is soon told so, and would be parked if it
    /// were not.
    #[test]
    fn a_liar_loses_little() {
        let mut price = controller(&[(1, 1.0), (17, 5.0)]);
        let mut rows = 0;
        for _ in 0..1000 {
            let drafted = kept(&mut price, &[0.99; 16]);
            rows += drafted;
            price.record(1 + drafted, 10, 0.0, &[77]);
        }
        assert!(rows < 30, "{rows}");
        assert!(price.offered.is_empty(), "what was said once does not count twice");
    }

    #[test]
    fn the_next_text_goes_on_from_what_was_learned() {
        let curve = [(1, 1.0), (17, 5.0)];
        let (mut first, mut next) = (controller(&curve), controller(&curve));
        for i in 0..200 {
            first.cut(&mut chain(&[0.8]), 1, 10, 0.0);
            let rows = 1 + i % 4;
            first.record(rows, 10, 0.01 * rows as f64, &[77]);
        }
        assert!((kept(&mut next, &[0.8]), next.extra(4, 10)) == (1, 0.75));
        next.remember(first.experience().clone());
        assert_eq!(kept(&mut next, &[0.8]), 0);
        assert!((next.extra(4, 10) / 3.0 - 1.0).abs() < 0.3, "{}", next.extra(4, 10));
    }

    /// While parked, what would have been gained ends the pause.
    #[test]
    fn a_drafter_that_is_right_again_is_heard() {
        let mut price = controller(&[(1, 1.0), (17, 5.0)]);
        (0..20).for_each(|_| price.parking[0].record(-1.0));
        assert!(price.parked(false) && !price.worth(10).parked, "what takes time is another matter");
        let mut rounds = 0;
        while price.parked(false) {
            rounds += 1;
            assert_eq!(kept(&mut price, &[0.9]), 0);
            price.record(1, 10, 0.0, &[0]);
        }
        assert!(rounds < 6, "{rounds}");
        assert_eq!(kept(&mut price, &[0.9]), 1);
    }

    #[test]
    fn a_slow_start_is_not_held_against_a_drafter() {
        let mut price = controller(&[(1, 1.0), (17, 5.0)]);
        (0..9).for_each(|_| price.record(1, 10, 0.01, &[1]));
        price.cut(&mut chain(&[0.9]), 1, 10, 5.0);
        assert!((price.drafting - 1.0).abs() < 1e-6);
        for _ in 0..40 {
            price.cut(&mut chain(&[0.9]), 1, 10, 0.002);
        }
        assert!((price.drafting - 0.2).abs() < 0.02 && price.usual < 0.3, "{}", price.usual);
        price.cut(&mut chain(&[0.9]), 1, 10, 5.0);
        assert!(price.drafting < 1.0);
    }

    #[test]
    fn other_rules_take_what_they_are_told() {
        let mut fixed = Controller::new(Control::Fixed(3), CostCurve::default(), false);
        assert_eq!((fixed.rows(16), kept(&mut fixed, &[0.1; 5])), (3, 3));
        let mut pmin = Controller::new(Control::PMin(0.5), CostCurve::default(), false);
        assert_eq!(kept(&mut pmin, &[0.8, 0.5, 0.2, 0.2]), 2);
        assert_eq!(pmin.worth(0).least_chance(1.0), 0.0);
    }
}
