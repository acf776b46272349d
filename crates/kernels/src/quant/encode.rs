//! Encoders for `--quantize`: Q8_0, Q4_0 and Q4_K.
//!
//! Each chooses scales as the block will store them (rounded to `f16` or six bits) and only then
//! the codes, so that rounding a scale never costs twice.

use super::QuantError;
use crate::ElementType;
use half::f16;

/// Encodes `values` and appends the blocks to `out`.
///
/// The number of values must be a multiple of the block length. Values are expected to be finite
/// and, scaled to a block, within the range of `f16`.
pub fn quantize(ty: ElementType, values: &[f32], out: &mut Vec<u8>) -> Result<(), QuantError> {
    let Some(bytes) = ty.row_bytes(values.len()) else {
        return Err(QuantError::Partial { ty, elements: values.len() });
    };
    match ty {
        ElementType::Q8_0 => {
            out.reserve(bytes);
            values.as_chunks().0.iter().for_each(|block| q8_0(block, out));
        }
        ElementType::Q4_0 => {
            out.reserve(bytes);
            values.as_chunks().0.iter().for_each(|block| q4_0(block, out));
        }
        ElementType::Q4K => {
            out.reserve(bytes);
            values.as_chunks().0.iter().for_each(|block| q4_k(block, out));
        }
        _ => return Err(QuantError::NoEncoder(ty)),
    }
    Ok(())
}

fn q8_0(x: &[f32; 32], out: &mut Vec<u8>) {
    let largest = x.iter().fold(0f32, |a, v| a.max(v.abs()));
    let d = f16::from_f32(largest / 127.0);
    let inverse = reciprocal(d.to_f32());
    out.extend(d.to_le_bytes());
    out.extend(x.iter().map(|v| (nearest(v * inverse, -127.0, 127.0) as i8).cast_unsigned()));
}

/// Tries scales around the one that maps the largest value to -8, refines each by least squares
/// for the codes it leads to, and keeps the one with the smallest squared error.
fn q4_0(x: &[f32; 32], out: &mut Vec<u8>) {
    let extreme = x.iter().fold(0f32, |a, &v| if v.abs() > a.abs() { v } else { a });
    let code = |v: f32, inverse: f32| nearest(v * inverse, -8.0, 7.0);
    let error = |d: f32| {
        let inverse = reciprocal(d);
        sum(|i| (code(x[i], inverse) * d - x[i]).powi(2))
    };
    let mut d = stored(extreme / -8.0);
    let mut least = error(d);
    for step in -9..=9 {
        let inverse = reciprocal(extreme / -(8.0 + 0.1 * step as f32));
        let codes = x.map(|v| code(v, inverse));
        let (qx, qq) = (sum(|i| codes[i] * x[i]), sum(|i| codes[i] * codes[i]));
        let candidate = stored(if qq > 0.0 { qx / qq } else { 0.0 });
        let found = error(candidate);
        if found < least {
            (d, least) = (candidate, found);
        }
    }
    let inverse = reciprocal(d);
    let codes = x.map(|v| (code(v, inverse) + 8.0) as u8);
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend((0..16).map(|j| codes[j] | codes[j + 16] << 4));
}

/// The quantised scales of a Q4_K super-block: group `g` is `d scales[g] q - dmin mins[g]`.
#[derive(Clone, Copy)]
struct Affine {
    d: f32,
    dmin: f32,
    scales: [u8; 8],
    mins: [u8; 8],
}

impl Affine {
    /// The codes nearest to `x`, and the weighted squared error they leave.
    fn codes(&self, x: &[[f32; 32]; 8], weights: &[[f32; 32]; 8]) -> ([[u8; 32]; 8], f32) {
        let mut error = 0.0;
        let codes = std::array::from_fn(|g| {
            let (codes, left) = self.group_codes(&x[g], &weights[g], self.scales[g], self.mins[g]);
            error += left;
            codes.map(|q| q as u8)
        });
        (codes, error)
    }

    /// The same for one group, if it had the given scale and minimum.
    fn group_codes(&self, x: &[f32; 32], weights: &[f32; 32], scale: u8, min: u8) -> ([f32; 32], f32) {
        let scale = self.d * f32::from(scale);
        let min = self.dmin * f32::from(min);
        let inverse = reciprocal(scale);
        let codes = x.map(|v| nearest((v + min) * inverse, 0.0, 15.0));
        let error = sum(|i| weights[i] * (scale * codes[i] - min - x[i]).powi(2));
        (codes, error)
    }

    /// Moves the scale and minimum of each group one step where that lowers its error: rounding
    /// the two together beats rounding each.
    fn nudged(mut self, x: &[[f32; 32]; 8], weights: &[[f32; 32]; 8]) -> Self {
        for g in 0..8 {
            let (scale, min) = (self.scales[g], self.mins[g]);
            let error = |s, m| self.group_codes(&x[g], &weights[g], s, m).1;
            let mut best = (scale, min);
            let mut least = error(scale, min);
            for s in scale.saturating_sub(1)..=(scale + 1).min(63) {
                for m in min.saturating_sub(1)..=(min + 1).min(63) {
                    let found = error(s, m);
                    if found < least {
                        (best, least) = ((s, m), found);
                    }
                }
            }
            (self.scales[g], self.mins[g]) = best;
        }
        self
    }

    /// The `d` and `dmin` that fit `x` best for given codes, by weighted least squares.
    fn refit(&self, x: &[[f32; 32]; 8], weights: &[[f32; 32]; 8], codes: &[[u8; 32]; 8]) -> Self {
        let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0f32, 0f32, 0f32, 0f32, 0f32);
        for g in 0..8 {
            let b = -f32::from(self.mins[g]);
            let a = codes[g].map(|q| f32::from(self.scales[g]) * f32::from(q));
            let (w, x) = (&weights[g], &x[g]);
            aa += sum(|i| w[i] * a[i] * a[i]);
            ab += b * sum(|i| w[i] * a[i]);
            bb += b * b * sum(|i| w[i]);
            ax += sum(|i| w[i] * a[i] * x[i]);
            bx += b * sum(|i| w[i] * x[i]);
        }
        let determinant = aa * bb - ab * ab;
        if determinant <= 0.0 {
            return *self;
        }
        let d = stored((ax * bb - bx * ab) / determinant);
        let dmin = stored((bx * aa - ax * ab) / determinant);
        Self { d, dmin, ..*self }
    }
}

fn q4_k(x: &[f32; 256], out: &mut Vec<u8>) {
    let x: [[f32; 32]; 8] = std::array::from_fn(|g| std::array::from_fn(|i| x[g * 32 + i]));
    // Large weights matter more, and more so in a group of small ones.
    let weights = x.map(|group| {
        let mean_square = group.iter().map(|v| v * v).sum::<f32>() / 32.0;
        group.map(|v| mean_square.sqrt() + v.abs())
    });

    let fits: [(f32, f32); 8] = std::array::from_fn(|g| fit_group(&x[g], &weights[g]));
    let largest_scale = fits.iter().fold(0f32, |a, fit| a.max(fit.0));
    let largest_min = fits.iter().fold(0f32, |a, fit| a.max(fit.1));
    let six_bits = |v: f32, unit: f32| nearest(v * reciprocal(unit), 0.0, 63.0) as u8;
    let (d, dmin) = (stored(largest_scale / 63.0), stored(largest_min / 63.0));
    let mut best = Affine {
        d,
        dmin,
        scales: fits.map(|fit| six_bits(fit.0, d)),
        mins: fits.map(|fit| six_bits(fit.1, dmin)),
    }
    .nudged(&x, &weights);
    let (mut codes, mut error) = best.codes(&x, &weights);
    for _ in 0..3 {
        let candidate = best.refit(&x, &weights, &codes).nudged(&x, &weights);
        let (found, left) = candidate.codes(&x, &weights);
        if left >= error {
            break;
        }
        (best, codes, error) = (candidate, found, left);
    }

    out.extend(f16::from_f32(best.d).to_le_bytes());
    out.extend(f16::from_f32(best.dmin).to_le_bytes());
    let (s, m) = (best.scales, best.mins);
    out.extend((0..4).map(|g| s[g] | s[g + 4] >> 4 << 6));
    out.extend((0..4).map(|g| m[g] | m[g + 4] >> 4 << 6));
    out.extend((0..4).map(|g| s[g + 4] & 15 | m[g + 4] << 4));
    for pair in codes.as_chunks::<2>().0 {
        out.extend(pair[0].iter().zip(&pair[1]).map(|(low, high)| low | high << 4));
    }
}

/// The scale and minimum (both at least zero) with which `scale * q - min`, `q` in `0..=15`,
/// comes nearest to one group.
///
/// Tries spans a little narrower and wider than the group's own; each gives codes, the codes
/// give a least-squares line, and the line with the smallest weighted error wins.
fn fit_group(x: &[f32; 32], weights: &[f32; 32]) -> (f32, f32) {
    // The format cannot say a positive minimum: zero is always inside the span.
    let low = x.iter().fold(0f32, |a, &v| a.min(v));
    let high = x.iter().fold(0f32, |a, &v| a.max(v));
    let span = high - low;
    if span <= 0.0 {
        return (0.0, 0.0);
    }
    let (total, total_x) = (sum(|i| weights[i]), sum(|i| weights[i] * x[i]));
    let mut best = (span / 15.0, -low);
    let mut least = f32::INFINITY;
    for step in -10..=10 {
        let inverse = (15.0 + 0.1 * step as f32) / span;
        let codes = x.map(|v| nearest((v - low) * inverse, 0.0, 15.0));
        let q1 = sum(|i| weights[i] * codes[i]);
        let q2 = sum(|i| weights[i] * codes[i] * codes[i]);
        let qx = sum(|i| weights[i] * codes[i] * x[i]);
        let determinant = total * q2 - q1 * q1;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (total * qx - q1 * total_x) / determinant;
        let mut min = (q1 * qx - q2 * total_x) / determinant;
        if min < 0.0 {
            min = 0.0;
            scale = qx / q2;
        }
        if scale <= 0.0 {
            continue;
        }
        let error = sum(|i| weights[i] * (scale * codes[i] - min - x[i]).powi(2));
        if error < least {
            (best, least) = ((scale, min), error);
        }
    }
    best
}

/// `v` limited to `low..=high` and rounded to the nearest integer (halves to even).
///
/// Adding 1.5 x 2^23 leaves no room for a fraction; unlike `round`, that is a vector instruction
/// on every machine.
fn nearest(v: f32, low: f32, high: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (v.clamp(low, high) + NO_FRACTION) - NO_FRACTION
}

/// The sum over the 32 elements of a group, in eight lanes that are added up last.
fn sum(term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; 8];
    for start in [0, 8, 16, 24] {
        lanes.iter_mut().enumerate().for_each(|(lane, sum)| *sum += term(start + lane));
    }
    lanes.iter().sum()
}

/// `v` as a reader of the block will see it.
fn stored(v: f32) -> f32 {
    f16::from_f32(v).to_f32()
}

/// `1 / v`, or zero for a zero scale, whose codes are then all zero.
fn reciprocal(v: f32) -> f32 {
    if v == 0.0 { 0.0 } else { 1.0 / v }
}
