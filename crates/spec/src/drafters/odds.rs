//! How likely a guess is to come true, learned as text goes by: a logistic model of a few features
//! that starts from weights which hold for most texts and bends to the text at hand.

/// Chances are kept this far from certainty.
const LEAST: f32 = 0.001;
/// What an observation keeps of its weight with each newer one.
const KEEP: f32 = 0.998;

/// A logistic model of `N` features.
///
/// Each weight is learned as if the others were known, at a rate of one over its precision, which
/// grows by the information in each observation and fades to what the start is worth.
#[derive(Debug, Clone)]
pub(crate) struct Odds<const N: usize> {
    weights: [f32; N],
    start: [f32; N],
    /// What was learned about each weight since the start.
    learned: [f32; N],
}

/// Observations at even odds and feature 1 that a starting weight is worth, times a quarter.
const WORTH: f32 = 3.0;

impl<const N: usize> Odds<N> {
    /// A model that expects `weights`.
    pub(crate) fn new(weights: [f32; N]) -> Self {
        Self { weights, start: weights, learned: [0.0; N] }
    }

    /// Probability that a guess with `features` comes true.
    pub(crate) fn chance(&self, features: &[f32; N]) -> f32 {
        let score: f32 = self.weights.iter().zip(features).map(|(w, x)| w * x).sum();
        (1.0 / (1.0 + (-score).exp())).clamp(LEAST, 1.0 - LEAST)
    }

    /// Takes note of one such guess.
    pub(crate) fn learn(&mut self, features: &[f32; N], came_true: bool) {
        let chance = self.chance(features);
        let error = f32::from(came_true) - chance;
        let spread = chance * (1.0 - chance);
        for (i, &x) in features.iter().enumerate() {
            let (weight, learned) = (&mut self.weights[i], &mut self.learned[i]);
            *learned = *learned * KEEP + spread * x * x;
            let pull = (1.0 - KEEP) * WORTH * (self.start[i] - *weight);
            *weight += (error * x + pull) / (WORTH + *learned);
        }
    }

    /// The weights as they stand.
    #[cfg(test)]
    pub(crate) fn weights(&self) -> &[f32; N] {
        &self.weights
    }
}

/// The logarithm of the odds of `chance`, which is first kept away from certainty.
pub(crate) fn log_odds(chance: f32) -> f32 {
    // Not a number counts as no chance.
    let chance = if chance > LEAST { chance.min(1.0 - LEAST) } else { LEAST };
    (chance / (1.0 - chance)).ln()
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
