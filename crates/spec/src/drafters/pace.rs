//! Whether drafts that take time gain more than that: what they took and what they gained lately.
//! While they do not they are left out, with a rare look whether that has changed.

use crate::drafter::Worth;

/// Share of the time that may go into finding out whether guessing pays again.
const PROBE_SHARE: f64 = 0.005;
/// Drafts over which times and gains are remembered.
const MEMORY: f64 = 16.0;
/// Drafts before which nothing is concluded from them.
const ENOUGH: f64 = 3.5;

/// A fading mean.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    pub(crate) fn record(&mut self, value: f64) {
        self.sum += value - self.sum / MEMORY;
        self.weight += 1.0 - self.weight / MEMORY;
    }

    pub(crate) fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    fn is_of(&self, values: f64) -> bool {
        self.weight >= values
    }
}

/// Times and gains of one drafter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    seconds: Mean,
    gain: Mean,
    /// Rounds without a draft since the last.
    idle: f64,
}

impl Pace {
    /// Whether a draft is expected to gain more than it takes; if not, whether it is time to look
    /// again. To be asked once a round.
    pub(crate) fn pays(&mut self, worth: &Worth) -> bool {
        let (Some(seconds), Some(gain)) = (self.seconds.get(), self.gain.get()) else { return true };
        let too_few = !self.gain.is_of(ENOUGH) && !worth.parked;
        if worth.pass_seconds <= 0.0 || too_few {
            return true;
        }
        // Rows are paid for one by one, later.
        let cost = seconds / worth.pass_seconds;
        self.idle += 1.0;
        (!worth.parked && gain > worth.lambda * cost) || self.idle * PROBE_SHARE > cost
    }

    /// Takes note that there is a draft.
    pub(crate) fn looked(&mut self) {
        self.idle = 0.0;
    }

    /// Takes note of what it took.
    pub(crate) fn took(&mut self, seconds: f64) {
        self.seconds.record(seconds);
    }

    /// Seconds of a draft lately; `None` before the first.
    pub(crate) fn seconds(&self) -> Option<f64> {
        self.seconds.get()
    }

    /// Takes note of how many tokens of the last draft came true.
    pub(crate) fn gained(&mut self, tokens: usize) {
        self.gain.record(tokens as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_when_it_does_not_pay_and_looks_again_seldom() {
        let worth = Worth { lambda: 1.0, row: 0.1, pass_seconds: 0.010, ..Worth::default() };
        let mut pace = Pace::default();
        assert!(pace.pays(&worth));
        for _ in 0..50 {
            pace.took(0.005);
            pace.gained(2);
        }
        assert!(pace.pays(&worth));
        for _ in 0..50 {
            pace.took(0.005);
            pace.gained(0);
        }
        // Half a pass for nothing: 0.5% of the time is one look in a hundred rounds.
        let looks = (0..1000).filter(|_| pace.pays(&worth).then(|| pace.looked()).is_some()).count();
        assert!((5..=10).contains(&looks), "{looks}");
    }
}
