//! Gumbel noise that is a pure function of (seed, position, token).
//!
//! With g independent Gumbel variables, argmax(log p + g) is a draw from p. Because g is keyed and
//! not streamed, the draw at a position does not depend on how the text before it was found: with
//! any drafter or none it is the same (Daliri et al. 2025, arXiv 2408.07978).

use std::f64::consts::LN_2;

use super::elementary::ln;
use crate::random::{STEP, mix};

/// The noise of all tokens at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    key: u64,
}

impl Noise {
    /// Noise for the token at `position` of the text, counted from the first prompt token.
    pub fn new(seed: u64, position: u64) -> Self {
        Self { key: mix(mix(seed.wrapping_add(STEP)) ^ position.wrapping_mul(STEP)) }
    }

    /// A standard Gumbel variable.
    pub fn gumbel(&self, token: u32) -> f64 {
        gumbel(self.bits(token))
    }

    /// A uniform number above 0 and below 1, for verification rules that take chances. Its bits
    /// are behind those of all tokens, so it has nothing to do with any Gumbel variable.
    pub fn uniform(&self, index: u32) -> f64 {
        fraction(self.output(1 << 32 | u64::from(index)))
    }

    /// A seed for other noise, which has nothing to do with this.
    pub(super) fn seed(&self) -> u64 {
        self.output(1 << 33)
    }

    fn bits(&self, token: u32) -> u64 {
        self.output(u64::from(token))
    }

    /// SplitMix64 started at the key, index-th output.
    fn output(&self, index: u64) -> u64 {
        mix(self.key.wrapping_add((index + 1).wrapping_mul(STEP)))
    }

    /// The token of `row` with the greatest `(logit - shift) * scale + gumbel`; of equals the
    /// lowest id. `None` when no sum is above minus infinity.
    ///
    /// Most tokens are out of reach, and a glance at the leading bits of the noise tells: the sum
    /// of a block's greatest logit and greatest noise rules out the block.
    pub(super) fn pick_row(&self, row: &[f32], shift: f32, scale: f64) -> Option<u32> {
        const BLOCK: usize = 16;
        let mut draw = Draw::new(shift, scale);
        for (block, first) in row.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
            let max = block.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
            let mut bits = [u64::MAX; BLOCK];
            for (bits, token) in bits.iter_mut().zip(first..) {
                *bits = self.bits(token);
            }
            let least = bits.iter().fold(u64::MAX, |a, &b| a.min(b));
            if draw.in_reach(max, least) {
                for ((&logit, &bits), token) in block.iter().zip(&bits).zip(first..) {
                    draw.take(token, logit, bits);
                }
            }
        }
        draw.choice
    }

    /// The same among `candidates` alone, which may come in any order.
    pub(super) fn pick(
        &self,
        candidates: impl Iterator<Item = (u32, f32)>,
        shift: f32,
        scale: f64,
    ) -> Option<u32> {
        let mut draw = Draw::new(shift, scale);
        candidates.for_each(|(token, logit)| draw.take(token, logit, self.bits(token)));
        draw.choice
    }
}

/// The best so far of a search for the greatest sum of logit and noise.
struct Draw {
    shift: f64,
    scale: f64,
    best: f64,
    choice: Option<u32>,
}

impl Draw {
    fn new(shift: f32, scale: f64) -> Self {
        Self { shift: f64::from(shift), scale, best: f64::NEG_INFINITY, choice: None }
    }

    fn score(&self, logit: f32) -> f64 {
        (f64::from(logit) - self.shift) * self.scale
    }

    /// Whether a logit of at most `logit` with noise from bits of at least `bits` could win.
    fn in_reach(&self, logit: f32, bits: u64) -> bool {
        self.score(logit) + bound(bits) >= self.best
    }

    fn take(&mut self, token: u32, logit: f32, bits: u64) {
        if !self.in_reach(logit, bits) {
            return;
        }
        let sum = self.score(logit) + gumbel(bits);
        if sum > self.best || (sum == self.best && self.choice.is_some_and(|known| token < known)) {
            self.best = sum;
            self.choice = Some(token);
        }
    }
}

/// The upper 52 bits as a fraction in the middle of its cell, so that it is neither 0 nor 1.
fn fraction(bits: u64) -> f64 {
    ((bits >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// -ln(-ln(1 - u)). Small u make great values, and have the finer grid.
fn gumbel(bits: u64) -> f64 {
    -ln(-ln(1.0 - fraction(bits)))
}

/// At least `gumbel(bits)`: -ln(1 - u) is at least u, and u at least 2^-(z+1) for z leading zeros.
fn bound(bits: u64) -> f64 {
    f64::from(bits.leading_zeros() + 1) * (LN_2 * 1.000_001)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn bound_holds() {
        for shift in 0..=64 {
            for low in [0u64, 1, u64::MAX, 0x1234_5678_9abc_def0] {
                let bits = low.checked_shr(shift).unwrap_or(0);
                assert!(gumbel(bits) <= bound(bits), "{bits:#x}");
                assert!(gumbel(bits).is_finite(), "{bits:#x}");
            }
        }
        let noise = Noise::new(3, 4);
        for token in 0..100_000 {
            assert!(noise.gumbel(token) <= bound(noise.bits(token)));
        }
    }

    #[test]
    fn pick_is_the_plain_argmax() {
        for position in 0..300 {
            let noise = Noise::new(1, position);
            let logits: Vec<f32> = (0..501).map(|t| ((t * 37) % 101) as f32 * 0.1).collect();
            let sums = logits.iter().zip(0u32..).map(|(&x, t)| f64::from(x) * 0.7 + noise.gumbel(t));
            let plain = sums.zip(0u32..).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, t)| t);
            let row = logits.iter().zip(0u32..).map(|(&x, t)| (t, x));
            assert_eq!(noise.pick(row, 0.0, 0.7), plain);
            assert_eq!(noise.pick_row(&logits, 0.0, 0.7), plain);
        }
    }

    /// Mean 0.5772, variance pi^2/6, and the same with each part of the key varied alone.
    #[test]
    fn moments() {
        const N: u64 = 400_000;
        type Draw = fn(u64) -> f64;
        let by_key: [(&str, Draw); 4] = [
            ("token", |i| Noise::new(0, 0).gumbel(i as u32)),
            ("position", |i| Noise::new(0, i).gumbel(0)),
            ("seed", |i| Noise::new(i, 0).gumbel(0)),
            ("high seed bits", |i| Noise::new(i << 40, 7).gumbel(11)),
        ];
        for (name, draw) in by_key {
            let (mut sum, mut squares, mut lagged, mut last) = (0.0, 0.0, 0.0, 0.0);
            for i in 0..N {
                let centred = draw(i) - 0.577_215_664_9;
                sum += centred;
                squares += centred * centred;
                lagged += centred * last;
                last = centred;
            }
            let n = N as f64;
            let variance = std::f64::consts::PI.powi(2) / 6.0;
            // Four standard errors; the fourth central moment of a Gumbel is 5.4 variances squared.
            assert!((sum / n).abs() < 4.0 * (variance / n).sqrt(), "{name}: mean");
            assert!((squares / n - variance).abs() < 4.0 * variance * (4.4 / n).sqrt(), "{name}: variance");
            assert!((lagged / n).abs() < 4.0 * variance / n.sqrt(), "{name}: neighbours");
        }
    }

    #[test]
    fn keys_do_not_collide() {
        let mut seen = HashSet::new();
        for seed in 0..20 {
            for position in 0..50 {
                for token in 0..100 {
                    assert!(seen.insert(Noise::new(seed, position).bits(token)));
                }
            }
        }
    }
}
