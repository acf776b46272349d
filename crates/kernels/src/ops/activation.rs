//! Activations of the feed-forward blocks, and the tanh cap on logits.

use super::lanes::{map_assign, map2};
use crate::isa::simd_fn;
use crate::simd::Simd;

simd_fn! {
    /// `out = silu(gate) * up`.
    ///
    /// # Panics
    /// If the three slices differ in length.
    pub fn swiglu<S>(gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        // SAFETY: lengths are equal; simd_fn runs this only where the set exists.
        unsafe {
            map2!(S, gate.as_ptr(), up.as_ptr(), out.as_mut_ptr(), gate.len(), |g, u| {
                S::mul(S::mul(g, sigmoid::<S>(g)), u)
            });
        }
    }
}

simd_fn! {
    /// `out = gelu(gate) * up` with the tanh form of GELU.
    ///
    /// # Panics
    /// If the three slices differ in length.
    pub fn geglu_tanh<S>(gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        // SAFETY: lengths are equal; simd_fn runs this only where the set exists.
        unsafe {
            map2!(S, gate.as_ptr(), up.as_ptr(), out.as_mut_ptr(), gate.len(), |g, u| {
                // (1 + tanh(z)) / 2 = sigmoid(2 z), without cancellation for negative z.
                const TWO_SQRT_2_OVER_PI: f32 = 1.595_769;
                let cube = S::mul(S::mul(g, g), S::mul(g, S::splat(0.044715)));
                let z = S::mul(S::add(g, cube), S::splat(TWO_SQRT_2_OVER_PI));
                S::mul(S::mul(g, sigmoid::<S>(z)), u)
            });
        }
    }
}

simd_fn! {
    /// The gpt-oss form: `g = min(gate, limit)`, `u = clamp(up, -limit, limit)`,
    /// `out = (u + 1) * g * sigmoid(alpha * g)`.
    ///
    /// # Panics
    /// If the three slices differ in length.
    pub fn swiglu_clamped<S>(gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        // SAFETY: lengths are equal; simd_fn runs this only where the set exists.
        unsafe {
            let (top, bottom) = (S::splat(limit), S::splat(-limit));
            let (alpha, one) = (S::splat(alpha), S::splat(1.0));
            map2!(S, gate.as_ptr(), up.as_ptr(), out.as_mut_ptr(), gate.len(), |g, u| {
                let g = S::min(top, g);
                let u = S::max(bottom, S::min(top, u));
                S::mul(S::add(u, one), S::mul(g, sigmoid::<S>(S::mul(alpha, g))))
            });
        }
    }
}

simd_fn! {
    /// `x *= sigmoid(gate)`.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn mul_sigmoid<S>(x: &mut [f32], gate: &[f32]) {
        assert_eq!(x.len(), gate.len());
        let p = x.as_mut_ptr();
        // SAFETY: lengths are equal; simd_fn runs this only where the set exists.
        unsafe { map2!(S, p, gate.as_ptr(), p, x.len(), |x, g| S::mul(x, sigmoid::<S>(g))) }
    }
}

simd_fn! {
    /// `x = cap * tanh(x / cap)`.
    pub fn softcap<S>(x: &mut [f32], cap: f32) {
        // SAFETY: simd_fn runs this only where the set exists.
        unsafe {
            let cap = S::splat(cap);
            map_assign!(S, x, |x| S::mul(cap, tanh::<S>(S::div(x, cap))))
        }
    }
}

/// `1 / (1 + exp(-x))`, lane by lane.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: lane arithmetic on a set that the caller vouches for.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, S::exp(S::sub(S::splat(0.0), x))))
    }
}

/// `tanh(x) = t / (t + 2)` with `t = exp(2 x) - 1`, which keeps its relative precision near zero:
/// with `2 x = n ln 2 + r`, `t = 2^n (exp(r) - 1) + (2^n - 1)`, where the second part is exact.
#[inline(always)]
unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    // SAFETY: lane arithmetic on a set that the caller vouches for.
    unsafe {
        let y = S::add(x, x);
        // Beyond 18 the result is 1 to the last bit. The constants come first so that NaN passes.
        let y = S::max(S::splat(-18.0), S::min(S::splat(18.0), y));
        let n = S::round(S::mul(y, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_145_75), y);
        let r = S::fma(n, S::splat(-1.428_606_8e-6), r);
        let mut p = S::splat(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let r = S::fma(S::mul(p, r), r, r);
        let power = S::pow2(n);
        let t = S::fma(power, r, S::sub(power, S::splat(1.0)));
        S::div(t, S::add(t, S::splat(2.0)))
    }
}
