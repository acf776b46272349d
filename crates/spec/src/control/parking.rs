//! The brake: when what guessing has cost is more than it has brought, it stops, and comes back on
//! trial. The price rule loses nothing as long as its estimates are right; this bounds what wrong
//! ones can do.

/// Time that may be lost before guessing stops, in one-row passes.
const START: f64 = 1.0;
/// The same for drafts that take time themselves.
const SLOW_START: f64 = 2.5;
/// Most of earlier gains that counts as credit.
const MOST: f64 = 4.0;
/// Credit of a trial.
const TRIAL: f64 = 0.25;
/// Tokens without guessing, at first and at most. The pause doubles with each trial that fails, so
/// that trials take an ever smaller share.
const PAUSE: (usize, usize) = (32, 1024);

/// Gains and losses of guessing, in one-row passes: what the tokens of a round would have cost one
/// by one, less what the round did cost.
#[derive(Debug, Clone)]
pub(crate) struct Parking {
    credit: f64,
    pause: usize,
    /// Tokens until the next trial, while parked.
    left: Option<usize>,
}

impl Default for Parking {
    fn default() -> Self {
        Self { credit: START, pause: PAUSE.0, left: None }
    }
}

impl Parking {
    /// A brake of drafts that take time: a single one may take as long as others may lose in all.
    pub(crate) fn of_slow() -> Self {
        Self { credit: SLOW_START, ..Self::default() }
    }

    /// Whether nothing should be verified.
    pub(crate) fn is_parked(&self) -> bool {
        self.left.is_some()
    }

    /// Takes note of a round: `gain` in one-row passes, which is below 0 for a loss. While parked
    /// it is what a round would have gained.
    pub(crate) fn record(&mut self, gain: f64) {
        self.credit = (self.credit + gain).min(MOST);
        if self.is_parked() {
            self.credit = self.credit.max(-TRIAL);
            if self.credit >= TRIAL {
                self.left = None;
            }
        } else if self.credit < 0.0 {
            self.left = Some(self.pause);
            self.pause = (self.pause * 2).min(PAUSE.1);
        } else if self.credit > START {
            self.pause = PAUSE.0;
        }
    }

    /// Takes note that `tokens` more were written; a pause may end.
    pub(crate) fn pass(&mut self, tokens: usize) {
        let Some(left) = &mut self.left else { return };
        match left.checked_sub(tokens) {
            Some(rest) if rest > 0 => *left = rest,
            _ => {
                self.left = None;
                self.credit = TRIAL;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loss over `tokens` tokens when every round of guessing gains `gain`.
    fn run(tokens: usize, gain: impl Fn(usize) -> f64) -> (f64, usize) {
        let (mut parking, mut total, mut rounds) = (Parking::default(), 0.0, 0);
        for at in 0..tokens {
            if !parking.is_parked() {
                let gain = gain(at);
                parking.record(gain);
                total += gain;
                rounds += 1;
            }
            parking.pass(1);
        }
        (total, rounds)
    }

    #[test]
    fn losses_are_bounded() {
        for loss in [0.05, 0.3, 1.0] {
            let (total, _) = run(100, |_| -loss);
            assert!(total > -5.5, "{loss}: {total} of 100 tokens");
            let (total, _) = run(4000, |_| -loss);
            assert!(total > -15.0, "{loss}: {total} of 4000 tokens");
        }
    }

    #[test]
    fn what_pays_is_never_parked() {
        assert_eq!(run(1000, |at| if at % 2 == 0 { 1.0 } else { -0.5 }).1, 1000);
    }

    #[test]
    fn comes_back_when_it_pays_again() {
        let (total, rounds) = run(3000, |at| if at < 300 { -0.3 } else { 0.5 });
        assert!(total > 1000.0 && rounds > 2400, "{total} {rounds}");
        let mut parking = Parking::default();
        (0..9).for_each(|_| parking.record(-0.3));
        assert!(parking.is_parked());
        // What would have been gained counts as well.
        (0..3).for_each(|_| parking.record(0.4));
        assert!(!parking.is_parked());
    }
}
