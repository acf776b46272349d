//! How likely a guess is to come true, learned as text goes by: a logistic model of a few features
//! that starts from weights which hold for most texts and bends to the text at hand. Drafters score
//! their guesses with one, and control corrects their scores with another.

/// How fast what is learned replaces what was expected.
#[derive(Debug)]
pub(crate) struct Learning {
    /// Chances are kept this far from certainty.
    pub(crate) least: f32,
    /// What an observation keeps of its weight with each newer one.
    pub(crate) keep: f32,
    /// Observations at even odds and feature 1 that a starting weight is worth, times a quarter.
    pub(crate) worth: f32,
}

impl Learning {
    /// The chance that has the logarithm `score` of its odds.
    pub(crate) fn chance(&self, score: f32) -> f32 {
        (1.0 / (1.0 + (-score).exp())).clamp(self.least, 1.0 - self.least)
    }

    /// The logarithm of the odds of `chance`, which is first kept away from certainty.
    pub(crate) fn log_odds(&self, chance: f32) -> f32 {
        // Not a number counts as no chance.
        let chance = if chance > self.least { chance.min(1.0 - self.least) } else { self.least };
        (chance / (1.0 - chance)).ln()
    }
}

/// A weight and how much has been learned about it.
///
/// It is learned as if all others were known, at a rate of one over its precision, which grows by the information in each
/// observation and fades to what the start is worth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weight {
    pub(crate) value: f32,
    start: f32,
    learned: f32,
}

impl Weight {
    pub(crate) const fn new(start: f32) -> Self {
        Self { value: start, start, learned: 0.0 }
    }

    /// A step towards less error, slowly back to the start where nothing holds it: `x` is its feature in an observation
    /// that was `error` above a chance of variance `spread`.
    pub(crate) fn learn(&mut self, learning: &Learning, x: f32, error: f32, spread: f32) {
        self.learned = self.learned * learning.keep + spread * x * x;
        let pull = (1.0 - learning.keep) * learning.worth * (self.start - self.value);
        self.value += (error * x + pull) / (learning.worth + self.learned);
    }
}

/// That of [`Odds`].
const LEARNING: Learning = Learning { least: 0.001, keep: 0.998, worth: 3.0 };

/// A logistic model of `N` features.
#[derive(Debug, Clone)]
pub(crate) struct Odds<const N: usize> {
    weights: [Weight; N],
}

impl<const N: usize> Odds<N> {
    /// A model that expects `weights`.
    pub(crate) fn new(weights: [f32; N]) -> Self {
        Self { weights: weights.map(Weight::new) }
    }

    /// Probability that a guess with `features` comes true.
    pub(crate) fn chance(&self, features: &[f32; N]) -> f32 {
        LEARNING.chance(self.weights.iter().zip(features).map(|(w, x)| w.value * x).sum())
    }

    /// Takes note of one such guess.
    pub(crate) fn learn(&mut self, features: &[f32; N], came_true: bool) {
        let chance = self.chance(features);
        let error = f32::from(came_true) - chance;
        let spread = chance * (1.0 - chance);
        for (weight, &x) in self.weights.iter_mut().zip(features) {
            weight.learn(&LEARNING, x, error, spread);
        }
    }

    /// The weights as they stand.
    #[cfg(test)]
    pub(crate) fn weights(&self) -> [f32; N] {
        self.weights.map(|weight| weight.value)
    }
}

/// The logarithm of the odds of `chance`, which is first kept away from certainty.
pub(crate) fn log_odds(chance: f32) -> f32 {
    LEARNING.log_odds(chance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mix;

    #[test]
    fn starts_as_told_and_finds_the_truth() {
        let mut odds = Odds::new([0.0, 1.0]);
        assert_eq!(odds.chance(&[1.0, 0.0]), 0.5);
        // In truth the odds are e^(1 - 2x).
        for i in 0..4000u64 {
            let x = (mix(i) % 100) as f32 / 50.0;
            let truth = 1.0 / (1.0 + (2.0 * x - 1.0).exp());
            odds.learn(&[1.0, x], (mix(i ^ 0xabcd) % 1000) as f32 / 1000.0 < truth);
        }
        for x in [0.0f32, 1.0, 2.0] {
            let truth = 1.0 / (1.0 + (2.0 * x - 1.0).exp());
            let found = odds.chance(&[1.0, x]);
            assert!((found - truth).abs() < 0.15, "{x}: {found}, in truth {truth}; {:?}", odds.weights());
        }
    }

    #[test]
    fn log_odds_are_finite() {
        assert_eq!(log_odds(0.5), 0.0);
        for chance in [0.0, 1.0, -3.0, 7.0, f32::NAN, f32::INFINITY] {
            assert!(log_odds(chance).is_finite(), "{chance}");
        }
    }
}
