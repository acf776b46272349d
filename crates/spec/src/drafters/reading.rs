//! What a network that reads the text itself reads of it before a draft. Reading takes time as drafting does: it is done
//! as far as rounds that went without a draft have earned it, and counted apart from the drafts.

use super::pace::{Mean, Pace};
use crate::drafter::Worth;

/// Tokens since the last draft up to which reading them counts as a part of drafting.
const CLOSE: usize = 24;
/// Tokens that are taken to be read in the time of a one-row pass, before that is known.
const READ_IN_A_PASS: f64 = 20.0;
/// The end of a text with which a network makes do where reading all of it is not affordable.
const WINDOW: usize = 128;

/// How far a network has read one text, and what its drafts took and gained.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Where in the text it began; it makes do without what stands before.
    pub(super) from: usize,
    /// Length of the text at the last draft.
    pub(super) after: usize,
    /// Tokens that drafts would have gained in the rounds since the last one in which one was wanted. Reading may cost
    /// as many: a reader that tries itself in every text shall not make short ones much slower.
    earned: f64,
    /// Tokens that the last draft had to read first.
    read: usize,
    pace: Pace,
    /// Seconds of reading a token, where there are many.
    token: Mean,
}

/// What its work takes on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds {
    draft: Option<f64>,
    token: Option<f64>,
}

impl Seconds {
    /// Of a network that has only been seen to read so far, for so long a token.
    pub(super) fn of_reading(token: f64) -> Self {
        Self { draft: None, token: Some(token) }
    }
}

impl Reading {
    /// Whether a draft after `tokens` tokens is earned and expected to pay; then it is to be made. `unread` of them are
    /// yet to be read if reading goes on from where it began. To be asked once in each round that wants a draft.
    pub(super) fn may_draft(&mut self, tokens: usize, unread: usize, worth: &Worth) -> bool {
        let Some(from) = self.affordable(tokens, unread, worth) else { return false };
        if !self.pace.pays(worth) {
            return false;
        }
        self.pace.looked();
        let unread = if from == self.from { unread } else { tokens - from };
        let written = tokens - self.after.min(tokens);
        self.read = written.max(unread);
        (self.from, self.after, self.earned) = (from, tokens, 0.0);
        true
    }

    /// Where in the text the network is to begin reading, or began: as early as the rounds pay for that went without a
    /// draft. `None` when they do not pay for the end of the text.
    fn affordable(&mut self, tokens: usize, unread: usize, worth: &Worth) -> Option<usize> {
        self.earned += worth.gain;
        let token = self.token.get().filter(|_| worth.pass_seconds > 0.0);
        let passes = token.map_or(1.0 / READ_IN_A_PASS, |seconds| seconds / worth.pass_seconds);
        let can_read = |count: usize| count <= CLOSE || worth.lambda * passes * count as f64 <= self.earned;
        let window = tokens.saturating_sub(WINDOW);
        if can_read(unread) {
            return Some(self.from);
        }
        can_read(tokens - window).then_some(window)
    }

    /// Takes note of what the draft took.
    pub(super) fn took(&mut self, seconds: f64) {
        // Reading what was passed over, the prompt above all, is no part of the drafts to come.
        if self.read <= CLOSE {
            self.pace.took(seconds);
        } else if self.read >= WINDOW {
            self.token.record((seconds - self.seconds().unwrap_or(0.0)).max(0.0) / self.read as f64);
        }
    }

    /// What the next text need not find out again.
    pub(super) fn lessons(&self) -> Seconds {
        Seconds { draft: self.seconds(), token: self.token.get() }
    }

    /// Goes on from what another text has found out.
    pub(super) fn remember(&mut self, known: Seconds) {
        known.draft.into_iter().for_each(|seconds| self.pace.took(seconds));
        known.token.into_iter().for_each(|seconds| self.token.record(seconds));
    }

    /// Takes note of how many tokens of the last draft came true.
    pub(super) fn gained(&mut self, tokens: usize) {
        self.pace.gained(tokens);
    }

    /// Seconds of a draft lately; `None` before the first that had little to read.
    pub(super) fn seconds(&self) -> Option<f64> {
        self.pace.seconds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_read_as_was_earned() {
        let worth = Worth { lambda: 1.0, pass_seconds: 0.02, gain: 0.7, ..Worth::default() };
        let mut reading = Reading::default();
        assert_eq!(reading.affordable(600, 0, &worth), Some(0), "what is read as it comes");
        reading.earned = 0.0;
        let first = (1..).find(|&round| reading.affordable(600 + round, 600 + round, &worth).is_some());
        assert_eq!(first, Some(10), "as long as six passes take");
        assert_eq!(reading.affordable(640, 640, &worth), Some(640 - 128), "the end of the text");
        reading.earned = 56.0;
        assert_eq!(reading.affordable(640, 640, &worth), Some(0), "all of it");
        // It has read the end, and now what has come since.
        (reading.from, reading.earned) = (504, 0.0);
        assert_eq!(reading.affordable(650, 18, &worth), Some(504));
        reading.earned = 2.0;
        assert_eq!(reading.affordable(672, 40, &worth), Some(504), "for rounds that went without");
        reading.earned = 0.0;
        assert_eq!(reading.affordable(901, 269, &worth), None);
        reading.earned = 9.0;
        assert_eq!(reading.affordable(901, 269, &worth), Some(901 - 128), "less than what was missed");
    }

    /// Reading is the dearer, the more is written in the time, and costs what another text has found it to.
    #[test]
    fn reading_is_paid_for_at_the_going_rate() {
        let worth = Worth { lambda: 2.0, pass_seconds: 0.02, gain: 0.7, ..Worth::default() };
        let mut reading = Reading { earned: 100.0, ..Reading::default() };
        assert!(reading.may_draft(200, 200, &worth));
        reading.took(0.4);
        let rounds = |lambda: f64| {
            let mut next = Reading::default();
            next.remember(reading.lessons());
            let worth = Worth { lambda, ..worth };
            (1..1000).find(|&round| next.affordable(300 + round, 300 + round, &worth).is_some())
        };
        // A tenth of a pass for each token, 12.8 for the end of the text.
        assert_eq!([0.0, 1.0, 3.0].map(rounds), [Some(1), Some(19), Some(55)]);
    }

    #[test]
    fn what_reading_takes_is_no_part_of_the_drafts() {
        let worth = Worth { lambda: 1.0, row: 0.1, pass_seconds: 0.01, gain: 0.7, ..Worth::default() };
        let mut reading = Reading { earned: 100.0, ..Reading::default() };
        let mut draft = |tokens, unread, seconds| {
            assert!(reading.may_draft(tokens, unread, &worth));
            reading.took(seconds);
            reading.gained(1);
            reading.seconds()
        };
        assert_eq!(draft(1000, 1000, 0.06), None, "the prompt");
        assert_eq!(draft(1002, 2, 0.002), Some(0.002));
        assert_eq!(draft(1040, 0, 0.06), Some(0.002), "work that was put off");
        // Nothing is left of the prompt that would make drafts look dear.
        for tokens in 1041..1100 {
            draft(tokens, 1, 0.002);
        }
    }
}
