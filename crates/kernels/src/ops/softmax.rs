//! Softmax and the logarithm of a sum of exponentials over one row of logits.

use super::lanes::{each, map_assign};
use crate::isa::simd_fn;
use crate::simd::Simd;

simd_fn! {
    /// `x = exp(x - max) / sum(exp(x - max))`; an empty row stays empty.
    pub fn softmax<S>(x: &mut [f32]) {
        // SAFETY: simd_fn runs this only where the set exists.
        unsafe {
            let max = S::splat(largest::<S>(x));
            map_assign!(S, x, |x| S::exp(S::sub(x, max)));
            let mut sum = S::splat(0.0);
            each!(S, x, 0.0, |v| sum = S::add(sum, v));
            let inv = S::splat(1.0 / S::sum(sum));
            map_assign!(S, x, |x| S::mul(x, inv));
        }
    }
}

simd_fn! {
    /// `ln(sum(exp(x)))`; minus infinity for an empty row.
    pub fn log_sum_exp<S>(x: &[f32]) -> f32 {
        // SAFETY: simd_fn runs this only where the set exists.
        unsafe {
            let max = largest::<S>(x);
            if max == f32::NEG_INFINITY {
                return max;
            }
            let shift = S::splat(max);
            let mut sum = S::splat(0.0);
            each!(S, x, f32::NEG_INFINITY, |v| sum = S::add(sum, S::exp(S::sub(v, shift))));
            max + S::sum(sum).ln()
        }
    }
}

/// The largest element, NaN passed over; minus infinity for an empty row.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(super) unsafe fn largest<S: Simd>(x: &[f32]) -> f32 {
    // SAFETY: lane arithmetic on a set that the caller vouches for.
    unsafe {
        let mut sums = [S::splat(f32::NEG_INFINITY); 4];
        each!(S, x, f32::NEG_INFINITY, |v| {
            // The element comes first: `max` returns its second operand beside NaN.
            let [a, b, c, d] = sums;
            sums = [b, c, d, S::max(v, a)];
        });
        S::max_lane(S::max(S::max(sums[0], sums[1]), S::max(sums[2], sums[3])))
    }
}
