//! Loops over slices, one vector at a time with a masked tail: element `i` always sits in lane
//! `i % LANES`, so its arithmetic never depends on the length.

use crate::simd::Simd;

/// `out[i] = f(x[i], y[i])` where `x`, `y` and `out` may be the same memory.
///
/// # Safety
/// `n` elements are readable behind `x` and `y` and writable behind `out`; the processor has `S`.
#[inline(always)]
pub(super) unsafe fn map2<S: Simd>(
    x: *const f32,
    y: *const f32,
    out: *mut f32,
    n: usize,
    f: impl Fn(S::F, S::F) -> S::F,
) {
    let whole = n - n % S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: i + LANES <= n.
        unsafe { S::store(out.add(i), f(S::load(x.add(i)), S::load(y.add(i)))) };
    }
    if whole < n {
        let rest = n - whole;
        // SAFETY: only the last `rest` elements are touched.
        unsafe {
            let v = f(S::load_part(x.add(whole), rest), S::load_part(y.add(whole), rest));
            S::store_part(out.add(whole), v, rest);
        }
    }
}

/// `x[i] = f(x[i])`.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(super) unsafe fn map_assign<S: Simd>(x: &mut [f32], f: impl Fn(S::F) -> S::F) {
    let p = x.as_mut_ptr();
    // SAFETY: all three pointers are `x`, which map2 allows.
    unsafe { map2::<S>(p, p, p, x.len(), |a, _| f(a)) }
}

/// Calls `f(lanes, n)` for each vector of `x`; the last one may have `n < LANES` elements, with
/// `fill` in the lanes behind them.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(super) unsafe fn each<S: Simd>(x: &[f32], fill: f32, mut f: impl FnMut(S::F)) {
    let whole = x.len() - x.len() % S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: i + LANES <= x.len().
        f(unsafe { S::load(x.as_ptr().add(i)) });
    }
    if whole < x.len() {
        let mut padded = [fill; 16];
        padded[..x.len() - whole].copy_from_slice(&x[whole..]);
        // SAFETY: no set has more than 16 lanes.
        f(unsafe { S::load(padded.as_ptr()) });
    }
}
