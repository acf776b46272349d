//! The inner product: one panel of weights times a tile of rows, every sum in one fixed order.
//!
//! For each output: over blocks in order, `acc = fma(fma-free product of scale and integer dot, activation
//! scale, acc)`, then the offset term. The order depends on the format alone, never on the tile.

use super::format::{CodeForm, Format, GROUPS, PAIR};
use crate::activations::Block;
use crate::simd::{Simd, each_row};

/// What a code stands above its weight as it is multiplied, if it stands `zero` above it as it is stored.
#[inline(always)]
pub(super) const fn above<S: Simd, C: CodeForm>(zero: i32) -> i32 {
    if C::BITS == 8 { zero - (128 - S::EIGHT_BIT_BIAS) } else { zero }
}

/// The sum to start a dot product with activations: what the codes stand above their weights is taken back.
#[inline(always)]
unsafe fn start<S: Simd, F: Format>(x: &Block) -> S::I {
    let [times_8, times_16, times_128] = x.minus;
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        match above::<S, F::Codes>(F::ZERO) {
            8 => S::i_splat(times_8),
            16 => S::i_splat(times_16),
            128 => S::i_splat(times_128),
            _ => S::i_zero(),
        }
    }
}

/// Products of a quantised panel over `blocks` blocks with `T` rows, whose blocks stand `step` apart.
///
/// # Safety
/// `panel` holds the blocks; each `x` points at as many activation blocks; the set's instructions exist.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, F: Format, const T: usize>(
    panel: *const u8,
    blocks: usize,
    x: [*const Block; T],
    step: usize,
) -> [S::F; T] {
    // SAFETY: all pointers stay inside what the caller guarantees.
    unsafe {
        let mut acc = [S::splat(0.0); T];
        let (mut p, mut at) = (panel, 0);
        let (scales, codes) = (F::SCALES * S::LANES, F::Codes::CODES * S::LANES);
        let ask = asks(T);
        for pair in (0..blocks).step_by(PAIR) {
            let head = p;
            prefetch::<S>(ask, p, PAIR * scales);
            p = p.add(PAIR * scales);
            for i in 0..PAIR {
                if pair + i < blocks {
                    prefetch::<S>(ask, p, codes);
                    let scales = F::scales::<S>(head.add(i * scales));
                    let block_codes = F::Codes::codes::<S>(p);
                    add_block::<S, F, T>(&mut acc, &scales, &block_codes, x.map(|x| x.add(at)));
                    (p, at) = (p.add(codes), at + step);
                }
            }
        }
        acc
    }
}

/// Whether a product of `rows` rows asks for weights before it needs them.
#[inline(always)]
pub(super) fn asks(rows: usize) -> bool {
    rows > 2 || !crate::isa::reads_ahead()
}

/// Brings what stands [`FAR`] and [`NEAR`] of the next `bytes` bytes closer, if the product [`asks`].
#[inline(always)]
pub(super) unsafe fn prefetch<S: Simd>(ask: bool, p: *const u8, bytes: usize) {
    if !ask {
        return;
    }
    for line in (0..bytes).step_by(64) {
        // SAFETY: any address may be prefetched.
        unsafe {
            S::prefetch::<2>(p.wrapping_add(FAR + line));
            S::prefetch::<1>(p.wrapping_add(NEAR + line));
        }
    }
}

/// How far ahead of use a panel is fetched from memory: the nearest cache could not wait for so many lines at once.
const FAR: usize = 8192;
/// How far ahead of use it then comes to the nearest cache.
const NEAR: usize = 1024;

/// Adds the products of a block to the sums of each row.
#[inline(always)]
unsafe fn add_block<S: Simd, F: Format, const T: usize>(
    acc: &mut [S::F; T],
    scales: &super::format::Scales<S>,
    codes: &[S::B; GROUPS],
    x: [*const Block; T],
) {
    // SAFETY: each `x` points at one activation block.
    unsafe {
        let q = x.map(|x| (*x).q.as_ptr());
        let mut dots = [S::i_zero(); T];
        each_row!(T, |t| dots[t] = start::<S, F>(&*x[t]));
        match F::Codes::BITS {
            0..=4 => S::dot_rows::<4, T>(&mut dots, codes, q),
            5 => S::dot_rows::<5, T>(&mut dots, codes, q),
            _ => S::dot_rows::<8, T>(&mut dots, codes, q),
        }
        each_row!(T, |t| acc[t] = add_dot::<S, F>(acc[t], scales, dots[t], &*x[t]));
    }
}

/// Adds one row's integer product of a block.
#[inline(always)]
pub(super) unsafe fn add_dot<S: Simd, F: Format>(
    acc: S::F,
    scales: &super::format::Scales<S>,
    dot: S::I,
    x: &Block,
) -> S::F {
    // SAFETY: lane arithmetic; the caller guarantees the instruction set.
    unsafe {
        let acc = S::fma(S::mul(S::i_to_f(dot), scales.scale), S::splat(x.d), acc);
        if F::OFFSET { S::fma(scales.offset, S::splat(x.d_sum), acc) } else { acc }
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
#[allow(clippy::needless_range_loop)] // `part` counts weights as well as sums
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
        let ask = asks(T);
        let mut at = 0;
        while at < whole {
            let p = panel.add(at * step);
            prefetch::<S>(ask, p, PARTS * step);
            for part in 0..PARTS {
                let w = W::load::<S>(p.add(part * step));
                each_row!(T, |t| acc[t][part] = S::fma(w, S::splat(*x[t].add(at + part)), acc[t][part]));
            }
            at += PARTS;
        }
        for (part, at) in (whole..k).enumerate() {
            let w = W::load::<S>(panel.add(at * step));
            for t in 0..T {
                acc[t][part] = S::fma(w, S::splat(*x[t].add(at)), acc[t][part]);
            }
        }
        let mut sums = [S::splat(0.0); T];
        each_row!(T, |t| sums[t] = S::add(S::add(acc[t][0], acc[t][1]), S::add(acc[t][2], acc[t][3])));
        sums
    }
}
