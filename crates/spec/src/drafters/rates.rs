//! How often guesses come true, by the length of the match behind them, learned as text goes by.

/// Match lengths are told apart up to these, in tokens: each bound is the last of its class.
const CLASSES: [usize; 9] = [1, 2, 3, 4, 5, 8, 16, 32, usize::MAX];

/// What to expect of each class before anything has been seen: too little for the short ones to be
/// drafted, until the text at hand shows that it repeats itself.
const PRIOR: [f32; 9] = [0.15, 0.3, 0.5, 0.65, 0.75, 0.85, 0.92, 0.95, 0.97];

/// Observations that the prior is worth.
const PRIOR_WEIGHT: f32 = 4.0;

/// What an observation keeps of its weight with each newer one of its class.
const KEEP: f32 = 0.98;

/// Running rates, one for each class of match lengths.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates {
    /// (came true, all), faded.
    seen: [(f32, f32); 9],
}

impl Rates {
    /// Probability that the token that followed a match of `len` tokens follows again.
    pub(crate) fn rate(&self, len: usize) -> f32 {
        let class = class(len);
        let (hits, all) = self.seen[class];
        (hits + PRIOR[class] * PRIOR_WEIGHT) / (all + PRIOR_WEIGHT)
    }

    /// Takes note of one such guess.
    pub(crate) fn record(&mut self, len: usize, came_true: bool) {
        let (hits, all) = &mut self.seen[class(len)];
        *hits = *hits * KEEP + f32::from(came_true);
        *all = *all * KEEP + 1.0;
    }
}

fn class(len: usize) -> usize {
    CLASSES.iter().position(|&bound| len <= bound).unwrap_or(CLASSES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_what_it_sees() {
        let mut rates = Rates::default();
        assert_eq!(rates.rate(1), 0.15);
        assert_eq!(rates.rate(40), 0.97);
        for _ in 0..100 {
            rates.record(1, true);
            rates.record(40, false);
        }
        assert!(rates.rate(1) > 0.9);
        assert!(rates.rate(40) < 0.1);
        assert_eq!(rates.rate(2), 0.3);
    }
}
