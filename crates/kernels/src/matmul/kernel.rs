//! The inner product: one panel of weights times a tile of rows, every sum in one fixed order.
//!
//! For each output: over blocks in order, `acc = fma(fma-free product of scale and integer dot, activation
//! scale, acc)`, then the offset term. The order depends on the format alone, never on the tile.

use super::format::{Format, GROUPS};
use crate::activations::Block;
use crate::simd::Simd;

/// What a code stands above its weight, as [`Simd::dot_codes`] sees codes.
const fn zero<S: Simd, F: Format>() -> i32 {
    if F::BITS == 8 { F::ZERO - (128 - S::EIGHT_BIT_BIAS) } else { F::ZERO }
}

/// Products of a quantised panel over `supers` super-blocks with `T` rows.
///
/// # Safety
/// `panel` holds the super-blocks; each `x` points at as many activation blocks; the set's instructions exist.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, F: Format, const T: usize>(
    panel: *const u8,
    supers: usize,
    x: [*const Block; T],
) -> [S::F; T] {
    // SAFETY: all pointers stay inside what the caller guarantees.
    unsafe {
        let mut acc = [S::splat(0.0); T];
        let mut p = panel;
        let mut at = 0;
        for _ in 0..supers {
            let head = F::head::<S>(p);
            p = p.add(F::HEAD * S::LANES);
            for _ in 0..F::SUPER {
                let mut ahead = 0;
                while ahead < (F::SCALES + F::CODES) * S::LANES {
                    S::prefetch(p.wrapping_add(AHEAD + ahead));
                    ahead += 64;
                }
                let scales = F::scales::<S>(head, p);
                let codes = F::codes::<S>(p.add(F::SCALES * S::LANES));
                for t in 0..T {
                    acc[t] = block::<S, F>(acc[t], &scales, &codes, x[t].add(at));
                }
                p = p.add((F::SCALES + F::CODES) * S::LANES);
                at += 1;
            }
        }
        acc
    }
}

/// How far ahead of use a panel is prefetched.
const AHEAD: usize = 2048;

#[inline(always)]
unsafe fn block<S: Simd, F: Format>(
    acc: S::F,
    scales: &super::format::Scales<S>,
    codes: &[S::B; GROUPS],
    x: *const Block,
) -> S::F {
    // SAFETY: `x` points at one activation block.
    unsafe {
        let x = &*x;
        let q = x.q.as_ptr();
        let zero = const { zero::<S, F>() };
        let weighted = if F::SPLIT {
            let [low, high]: [[S::B; 4]; 2] = std::array::from_fn(|h| std::array::from_fn(|g| codes[4 * h + g]));
            let start = |half: usize| S::i_splat(if zero == 0 { 0 } else { -zero * x.half_sums[half] });
            let low = S::i_to_f(S::dot_codes::<6, 4>(start(0), &low, q));
            let high = S::i_to_f(S::dot_codes::<6, 4>(start(1), &high, q.add(16)));
            S::fma(high, scales.scale[1], S::mul(low, scales.scale[0]))
        } else {
            let start = S::i_splat(if zero == 0 { 0 } else { -zero * x.sum });
            let dot = match F::BITS {
                0..=4 => S::dot_codes::<4, GROUPS>(start, codes, q),
                5 => S::dot_codes::<5, GROUPS>(start, codes, q),
                6 => S::dot_codes::<6, GROUPS>(start, codes, q),
                _ => S::dot_codes::<8, GROUPS>(start, codes, q),
            };
            S::mul(S::i_to_f(dot), scales.scale[0])
        };
        let acc = S::fma(weighted, S::splat(x.d), acc);
        if !F::OFFSET {
            acc
        } else if F::SPLIT {
            let sums = x.half_sums.map(|sum| S::splat(x.d * sum as f32));
            S::fma(scales.offset[1], sums[1], S::fma(scales.offset[0], sums[0], acc))
        } else {
            S::fma(scales.offset[0], S::splat(x.d_sum), acc)
        }
    }
}

/// How float weights are read.
pub(crate) trait FloatForm: 'static {
    const BYTES: usize;
    #[allow(clippy::missing_safety_doc)] // `p` points at one weight of every row of the panel
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
}

macro_rules! float_form {
    ($name:ident, $bytes:literal, $load:ident) => {
        #[derive(Debug)]
        pub(crate) struct $name;
        impl FloatForm for $name {
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<S: Simd>(p: *const u8) -> S::F {
                // SAFETY: the caller's contract.
                unsafe { S::$load(p.cast()) }
            }
        }
    };
}
float_form!(F32, 4, load);
float_form!(F16, 2, load_f16);
float_form!(BF16, 2, load_bf16);

/// Partial sums of a float product: weight `k` goes to sum `k % 4`, so that additions need not wait for each other.
const PARTS: usize = 4;

/// Products of a float panel over `k` weights with `T` rows of f32.
///
/// # Safety
/// `panel` holds `k` weights per row; each `x` points at `k` values; the set's instructions exist.
#[inline(always)]
pub(crate) unsafe fn float_tile<S: Simd, W: FloatForm, const T: usize>(
    panel: *const u8,
    k: usize,
    x: [*const f32; T],
) -> [S::F; T] {
    // SAFETY: all pointers stay inside what the caller guarantees.
    unsafe {
        let mut acc = [[S::splat(0.0); PARTS]; T];
        let step = W::BYTES * S::LANES;
        let whole = k - k % PARTS;
        let mut at = 0;
        while at < whole {
            let p = panel.add(at * step);
            S::prefetch(p.wrapping_add(AHEAD));
            for part in 0..PARTS {
                let w = W::load::<S>(p.add(part * step));
                for t in 0..T {
                    acc[t][part] = S::fma(w, S::splat(*x[t].add(at + part)), acc[t][part]);
                }
            }
            at += PARTS;
        }
        for (part, at) in (whole..k).enumerate() {
            let w = W::load::<S>(panel.add(at * step));
            for t in 0..T {
                acc[t][part] = S::fma(w, S::splat(*x[t].add(at)), acc[t][part]);
            }
        }
        acc.map(|[a, b, c, d]| S::add(S::add(a, b), S::add(c, d)))
    }
}
