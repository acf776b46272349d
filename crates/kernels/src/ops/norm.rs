//! RMS norms and the residual stream's additions.

use super::activation::sigmoid;
use super::lanes::{each, map_assign, map2};
use crate::isa::simd_fn;

simd_fn! {
    /// `out = x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Panics
    /// If the three slices differ in length.
    pub fn rms_norm<S>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        // SAFETY: lengths are equal; simd_fn runs this only where the set exists.
        unsafe {
            let inv = S::splat(inverse_rms::<S>(x, eps));
            map2!(S, x.as_ptr(), weight.as_ptr(), out.as_mut_ptr(), x.len(), |x, w| {
                S::mul(S::mul(x, inv), w)
            });
        }
    }
}

simd_fn! {
    /// Norms every head of `x` (`[heads][weight.len()]`) in place, with the same weight.
    ///
    /// # Panics
    /// If `x` is not a whole number of heads.
    pub fn rms_norm_heads<S>(x: &mut [f32], weight: &[f32], eps: f32) {
        assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()));
        for head in x.chunks_exact_mut(weight.len()) {
            // SAFETY: head and weight have one length; simd_fn runs this only where the set exists.
            unsafe {
                let inv = S::splat(inverse_rms::<S>(head, eps));
                let p = head.as_mut_ptr();
                map2!(S, p, weight.as_ptr(), p, head.len(), |x, w| S::mul(S::mul(x, inv), w));
            }
        }
    }
}

simd_fn! {
    /// `out = norm(x) * silu(gate)`, the norm for every head of `x` (`[heads][weight.len()]`) apart, with the
    /// same weight.
    ///
    /// # Panics
    /// If the slices differ in length or are not a whole number of heads.
    pub fn rms_norm_gated<S>(x: &[f32], weight: &[f32], gate: &[f32], eps: f32, out: &mut [f32]) {
        let n = weight.len();
        assert!(n > 0 && x.len().is_multiple_of(n) && x.len() == gate.len() && x.len() == out.len());
        for at in (0..x.len()).step_by(n) {
            let (x, gate, out) = (&x[at..at + n], &gate[at..at + n], &mut out[at..at + n]);
            // SAFETY: all have one length; simd_fn runs this only where the set exists.
            unsafe {
                let inv = S::splat(inverse_rms::<S>(x, eps));
                let p = out.as_mut_ptr();
                map2!(S, x.as_ptr(), weight.as_ptr(), p, n, |x, w| S::mul(S::mul(x, inv), w));
                map2!(S, p, gate.as_ptr(), p, n, |x, g| S::mul(x, S::mul(g, sigmoid::<S>(g))));
            }
        }
    }
}

simd_fn! {
    /// Norms every head of `x` (`[heads][head_dim]`) in place, without a weight.
    ///
    /// # Panics
    /// If `x` is not a whole number of heads.
    pub fn rms_norm_unweighted<S>(x: &mut [f32], head_dim: usize, eps: f32) {
        assert!(head_dim > 0 && x.len().is_multiple_of(head_dim));
        for head in x.chunks_exact_mut(head_dim) {
            // SAFETY: simd_fn runs this only where the set exists.
            unsafe {
                let inv = S::splat(inverse_rms::<S>(head, eps));
                map_assign!(S, head, |x| S::mul(x, inv));
            }
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`: squares summed lane by lane, then over the lanes.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn inverse_rms<S: crate::simd::Simd>(x: &[f32], eps: f32) -> f32 {
    // Vectors go to four sums in turn, so that additions do not wait for one another.
    // SAFETY: lane arithmetic on a set that the caller vouches for.
    let sum = unsafe {
        let mut sums = [S::splat(0.0); 4];
        each!(S, x, 0.0, |v| {
            let [a, b, c, d] = sums;
            sums = [b, c, d, S::fma(v, v, a)];
        });
        // The turn depends on the length alone, and so does this order.
        S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
    };
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

simd_fn! {
    /// `x += y`.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn add_assign<S>(x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        let p = x.as_mut_ptr();
        // SAFETY: lengths are equal; simd_fn runs this only where the set exists.
        unsafe { map2!(S, p, y.as_ptr(), p, x.len(), |x, y| S::add(x, y)) }
    }
}

simd_fn! {
    /// `x *= s`.
    pub fn scale<S>(x: &mut [f32], s: f32) {
        // SAFETY: simd_fn runs this only where the set exists.
        unsafe {
            let s = S::splat(s);
            map_assign!(S, x, |x| S::mul(x, s));
        }
    }
}

simd_fn! {
    /// `acc += x * s`, one rounding: how experts are combined.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn add_scaled<S>(acc: &mut [f32], x: &[f32], s: f32) {
        assert_eq!(acc.len(), x.len());
        let p = acc.as_mut_ptr();
        // SAFETY: lengths are equal; simd_fn runs this only where the set exists.
        unsafe {
            let s = S::splat(s);
            map2!(S, p, x.as_ptr(), p, acc.len(), |acc, x| S::fma(x, s, acc));
        }
    }
}
