//! Rotary position embedding: the angles per position, after the model's scaling rule.
//!
//! Rules and their parameters as in the reference library (Hugging Face `modeling_rope_utils`), in
//! the order of its `f32` arithmetic where that shows at long contexts.

use crate::{Error, Result};
use std::f64::consts::TAU;
use std::fmt;
use std::path::Path;

/// How queries and keys of a layer are rotated.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    /// Longest wavelength is about `2 pi * base` positions.
    pub base: f64,
    /// Leading elements of a head that are rotated; even.
    pub dims: usize,
    /// In the file, rows `2i` and `2i + 1` of a head form a pair; otherwise `i` and `i + dims / 2`, as
    /// in memory they always do.
    pub interleaved: bool,
    /// How the context was extended.
    pub scaling: RopeScaling,
}

/// How the context of a model was extended.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided.
    Linear { factor: f64 },
    /// The leading `share` of the pairs turn, as slowly as in a rotation of all; the others stand
    /// still (Gemma 4).
    Proportional { share: f64, factor: f64 },
    /// Low frequencies divided, high ones kept, a ramp between (Llama 3.1).
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    /// Ramp over dimensions, and a magnitude on the rotated vectors.
    Yarn {
        factor: f64,
        original: f64,
        beta_fast: f64,
        beta_slow: f64,
        /// Whether the ends of the ramp are rounded to whole dimensions.
        truncate: bool,
        /// Factor on cosine and sine.
        magnitude: f64,
    },
    /// Each frequency divided by its own number, `[dims / 2]` (how GGUF stores Llama 3.1).
    Divisors(Vec<f32>),
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "base {}, {} elements, ", self.base, self.dims)?;
        match &self.scaling {
            RopeScaling::None => write!(f, "no scaling"),
            RopeScaling::Linear { factor } => write!(f, "linear scaling by {factor}"),
            RopeScaling::Proportional { share, factor } => {
                write!(f, "a share of {share} turning, scaled by {factor}")
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                write!(f, "llama3 scaling by {factor} from {original} positions, bounds {low} and {high}")
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, magnitude } => write!(
                f,
                "YaRN by {factor} from {original} positions, bounds {beta_fast} and {beta_slow}{}, magnitude {magnitude}",
                if *truncate { "" } else { " (not rounded)" }
            ),
            RopeScaling::Divisors(by) => write!(f, "{} divisors", by.len()),
        }
    }
}

/// The magnitude that YaRN prescribes for a factor, `mscale` times as strong.
pub(crate) fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

impl Rotation {
    pub(crate) fn check(&self, path: &Path, head: usize) -> Result<()> {
        let fault = |what: String| Err(Error::format(path, what));
        if self.dims > head || !self.dims.is_multiple_of(2) || self.dims == 0 {
            return fault(format!(
                "rotary dimensions are {}, expected an even number up to the head width {head}",
                self.dims
            ));
        }
        let good = |x: f64| x.is_finite() && x > 0.0;
        let scaling = match &self.scaling {
            RopeScaling::None => true,
            RopeScaling::Linear { factor } => good(*factor),
            RopeScaling::Proportional { share, factor } => good(*factor) && (0.0..=1.0).contains(share),
            RopeScaling::Llama3 { factor, low, high, original } => {
                good(*factor) && good(*low) && good(*original) && high.is_finite() && high > low
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, magnitude, .. } => {
                [factor, original, beta_fast, beta_slow, magnitude].into_iter().all(|&x| good(x))
            }
            RopeScaling::Divisors(by) => {
                if by.len() != self.dims / 2 {
                    return fault(format!(
                        "{} rope factors, expected one per rotated pair: {}",
                        by.len(),
                        self.dims / 2
                    ));
                }
                by.iter().all(|&x| good(x.into()))
            }
        };
        if !(self.base.is_finite() && self.base > 1.0 && scaling) {
            return fault(format!("rope parameters out of range: {self}"));
        }
        Ok(())
    }

    /// Where the file has what is row `row` of heads of width `head` in memory.
    pub(crate) fn stored_row(&self, head: usize, row: usize) -> usize {
        let (within, half) = (row % head, self.dims / 2);
        match within {
            within if !self.interleaved || within >= self.dims => row,
            within if within < half => row + within,
            within => row - within + 2 * (within - half) + 1,
        }
    }

    /// Radians per position of each pair, `[dims / 2]`, and the factor on cosine and sine.
    pub(crate) fn frequencies(&self) -> (Vec<f32>, f32) {
        let plain = (0..self.dims / 2).map(|i| self.base.powf(-((2 * i) as f64) / self.dims as f64));
        let scaled: Vec<f32> = match &self.scaling {
            RopeScaling::None => plain.map(|f| f as f32).collect(),
            RopeScaling::Linear { factor } => plain.map(|f| (f / factor) as f32).collect(),
            RopeScaling::Proportional { share, factor } => {
                let turning = (self.dims as f64 * share / 2.0) as usize;
                plain.enumerate().map(|(i, f)| if i < turning { (f / factor) as f32 } else { 0.0 }).collect()
            }
            RopeScaling::Divisors(by) => plain.zip(by).map(|(f, &by)| (f / f64::from(by)) as f32).collect(),
            RopeScaling::Llama3 { factor, low, high, original } => {
                plain.map(|f| llama3(f, *factor, *low, *high, *original) as f32).collect()
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let (first, last) = self.yarn_ramp(*original, *beta_fast, *beta_slow, *truncate);
                let blend = |(i, f): (usize, f64)| {
                    let divided = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                    (f / factor * divided + f * (1.0 - divided)) as f32
                };
                plain.enumerate().map(blend).collect()
            }
        };
        let magnitude = match self.scaling {
            RopeScaling::Yarn { magnitude, .. } => magnitude as f32,
            _ => 1.0,
        };
        (scaled, magnitude)
    }

    /// The pairs between which frequencies pass from kept to divided: those that turn `fast` and
    /// `slow` times within the original context.
    fn yarn_ramp(&self, original: f64, fast: f64, slow: f64, truncate: bool) -> (f64, f64) {
        let pair = |turns: f64| self.dims as f64 * (original / (turns * TAU)).ln() / (2.0 * self.base.ln());
        let (mut first, mut last) = (pair(fast), pair(slow));
        if truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        (first, last) = (first.max(0.0), last.min(self.dims as f64 - 1.0));
        (first, if first == last { last + 0.001 } else { last })
    }
}

fn llama3(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let turns = original * frequency / TAU;
    if turns < low {
        frequency / factor
    } else if turns > high {
        frequency
    } else {
        let keep = (turns - low) / (high - low);
        (1.0 - keep) * frequency / factor + keep * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_halves_head_by_head_and_the_rest_stays() {
        let rotation = |interleaved| Rotation { base: 1e4, dims: 4, interleaved, scaling: RopeScaling::None };
        let places = |interleaved: bool| -> Vec<usize> {
            (0..12).map(|row| rotation(interleaved).stored_row(6, row)).collect()
        };
        assert_eq!(places(true), [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
        assert_eq!(places(false), (0..12).collect::<Vec<_>>());
        // More than two pairs, where there and back are not the same.
        let wide = Rotation { dims: 6, ..rotation(true) };
        assert_eq!((0..6).map(|row| wide.stored_row(6, row)).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5]);
    }
}
