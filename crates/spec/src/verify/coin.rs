//! Where verification takes its chances from: keyed numbers at run time, every branch in turn when
//! a law is enumerated. A rule is written once, over [`Coin`], so what is enumerated is what runs.

use std::collections::BTreeMap;

use crate::sampler::{Distribution, Noise};

/// Random choices of a verification rule.
pub trait Coin {
    /// True with probability `chance`, which may lie outside 0..=1: never, or always.
    fn flip(&mut self, chance: f64) -> bool;

    /// A token with probability in proportion to its weight; `None` when no weight is above 0.
    fn draw(&mut self, weights: &Distribution) -> Option<u32>;
}

/// A coin that is a pure function of its key: the uniform numbers of one position, one after the
/// other. They are other numbers than the Gumbel noise of that position.
#[derive(Debug, Clone)]
pub struct KeyedCoin {
    noise: Noise,
    next: u32,
}

impl KeyedCoin {
    /// A coin of the position that `noise` belongs to. Two rounds must not share one.
    pub fn new(noise: Noise) -> Self {
        Self { noise, next: 0 }
    }

    fn uniform(&mut self) -> f64 {
        self.next += 1;
        self.noise.uniform(self.next)
    }
}

impl Coin for KeyedCoin {
    fn flip(&mut self, chance: f64) -> bool {
        self.uniform() < chance
    }

    fn draw(&mut self, weights: &Distribution) -> Option<u32> {
        let total: f64 = weights.iter().map(|&(_, w)| w).sum();
        let mut left = self.uniform() * total;
        let positive = weights.iter().filter(|&&(_, w)| w > 0.0);
        // The last one also takes what rounding leaves over.
        let mut last = None;
        for &(token, weight) in positive {
            last = Some(token);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

/// A coin that takes one branch of each choice and remembers which: see [`enumerate`].
#[derive(Debug, Default)]
pub struct Branches {
    /// For each choice on the way, the probabilities of the branches that are still to be taken,
    /// in reverse: the last is the one that is taken now.
    open: Vec<Vec<(u32, f64)>>,
    /// Choices met in this run.
    met: usize,
}

impl Branches {
    /// Takes a branch among `options`, at their probabilities.
    fn branch(&mut self, options: impl Iterator<Item = (u32, f64)>) -> Option<u32> {
        if self.met == self.open.len() {
            self.open.push(options.filter(|&(_, chance)| chance > 0.0).collect());
        }
        self.met += 1;
        self.open[self.met - 1].last().map(|&(option, _)| option)
    }

    /// Probability of the run.
    fn weight(&self) -> f64 {
        self.open.iter().filter_map(|open| open.last()).map(|&(_, chance)| chance).product()
    }

    /// Moves on to the next run; false when there is none.
    fn advance(&mut self) -> bool {
        self.met = 0;
        while let Some(last) = self.open.last_mut() {
            last.pop();
            if !last.is_empty() {
                return true;
            }
            self.open.pop();
        }
        false
    }
}

impl Coin for Branches {
    fn flip(&mut self, chance: f64) -> bool {
        let chance = chance.clamp(0.0, 1.0);
        self.branch([(1, chance), (0, 1.0 - chance)].into_iter()) == Some(1)
    }

    fn draw(&mut self, weights: &Distribution) -> Option<u32> {
        let total: f64 = weights.iter().map(|&(_, w)| w).sum();
        self.branch(weights.iter().map(|&(token, w)| (token, w / total)))
    }
}

/// The exact law of what `run` returns: it is run once for each way in which its choices may fall.
///
/// ```
/// use leveret_spec::verify::{Coin, enumerate};
///
/// let law = enumerate(|coin| coin.flip(0.25) && coin.flip(0.5));
/// assert_eq!(law[&true], 0.125);
/// ```
pub fn enumerate<T: Ord>(mut run: impl FnMut(&mut Branches) -> T) -> BTreeMap<T, f64> {
    let mut law = BTreeMap::new();
    let mut coin = Branches::default();
    loop {
        let outcome = run(&mut coin);
        *law.entry(outcome).or_insert(0.0) += coin.weight();
        if !coin.advance() {
            return law;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_coins_follow_their_chances() {
        let (mut heads, mut drawn) = (0, [0; 3]);
        for position in 0..40_000 {
            let mut coin = KeyedCoin::new(Noise::new(5, position));
            heads += i32::from(coin.flip(0.3));
            assert!(coin.flip(1.0) && !coin.flip(0.0));
            if let Some(token) = coin.draw(&[(0, 1.0), (1, 0.0), (2, 3.0)]) {
                drawn[token as usize] += 1;
            }
        }
        // Five standard deviations.
        assert!((heads - 12_000).abs() < 460, "{heads}");
        assert!(drawn[1] == 0 && (drawn[0] - 10_000i32).abs() < 430, "{drawn:?}");
        assert_eq!(KeyedCoin::new(Noise::new(0, 0)).draw(&[(3, 0.0)]), None);
    }

    #[test]
    fn enumeration_reaches_every_outcome_once() {
        let law = enumerate(|coin| {
            let first = coin.draw(&[(4, 0.5), (5, 1.5)]);
            (first, if first == Some(5) { coin.flip(0.5) } else { coin.flip(1.0) })
        });
        let expected = [((Some(4), true), 0.25), ((Some(5), false), 0.375), ((Some(5), true), 0.375)];
        assert_eq!(law.into_iter().collect::<Vec<_>>(), expected);
    }
}
