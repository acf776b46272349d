//! The inner product over super-blocks: sums of 256 products with integer scales are integers, made in any order, and
//! only then floats.
//!
//! For each output: over super-blocks in order, `acc = fma(scaled, activation scale, acc)`, where `scaled` is the
//! multiplier times the integer sum, plus the minima's multiplier times the (negative) sum of minima. The order
//! depends on the format alone, never on the tile, nor on which unit made the integers.

use super::format::{CodeForm, GROUPS, SUPER_BLOCKS, SuperFormat};
use super::kernel::{above, asks, prefetch};
use crate::activations::SuperBlock;
use crate::simd::{Simd, each_row};

/// Products of a panel over `supers` super-blocks with `T` rows, whose super-blocks stand `step` apart.
///
/// # Safety
/// `panel` holds the super-blocks; each `x` points at as many of activations; the set's instructions exist.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, F: SuperFormat, const T: usize>(
    panel: *const u8,
    supers: usize,
    x: [*const SuperBlock; T],
    step: usize,
) -> [S::F; T] {
    // SAFETY: all pointers stay inside what the caller guarantees.
    unsafe {
        let mut acc = [S::splat(0.0); T];
        let mut p = panel;
        // Written out eight times the loop would lack registers.
        let blocks = std::hint::black_box(SUPER_BLOCKS);
        let ask = asks(T);
        for at in (0..supers).map(|i| i * step) {
            let mut sums = [S::i_zero(); T];
            let scales = p.add(F::SCALES_AT * S::LANES);
            let mut block = p.add(F::HEAD * S::LANES);
            prefetch::<S>(ask, p, F::HEAD * S::LANES);
            for b in 0..blocks {
                prefetch::<S>(ask, block, F::Codes::CODES * S::LANES);
                let codes = F::Codes::codes::<S>(block);
                let scales = Scales::<S>::load::<F>(scales.add(b * F::SCALES * S::LANES));
                add_block::<S, F, T>(&mut sums, &codes, &scales, x.map(|x| x.add(at)), b);
                block = block.add(F::Codes::CODES * S::LANES);
            }
            let head = Head::<S>::load::<F>(p);
            each_row!(T, |t| acc[t] = head.add::<F>(acc[t], sums[t], &*x[t].add(at)));
            p = block;
        }
        acc
    }
}

/// Scales of a block.
pub(super) struct Scales<S: Simd> {
    /// For the first and the second half.
    pub(super) scale: [S::I; 2],
    /// Both as pairs, times what codes stand too high.
    zero: S::I,
}

impl<S: Simd> Scales<S> {
    #[inline(always)]
    pub(super) unsafe fn load<F: SuperFormat>(p: *const u8) -> Self {
        // SAFETY: the caller points at the scales of a block.
        unsafe {
            let pairs = match (F::SPLIT, F::SIGNED) {
                (false, false) => return Self { scale: [S::scales_u8(p); 2], zero: S::i_zero() },
                (false, true) => S::twins_i8(p.cast()),
                (true, false) => S::pairs_u8(p),
                (true, true) => S::pairs_i8(p.cast()),
            };
            let zero = match above::<S, F::Codes>(F::ZERO) {
                4 => S::pairs_shl::<2>(pairs),
                32 => S::pairs_shl::<5>(pairs),
                128 => S::pairs_shl::<7>(pairs),
                _ => pairs,
            };
            Self { scale: S::scales_of_pairs(pairs), zero }
        }
    }
}

/// Adds the scaled products of block `b` to the sums of each row.
#[inline(always)]
unsafe fn add_block<S: Simd, F: SuperFormat, const T: usize>(
    sums: &mut [S::I; T],
    codes: &[S::B; GROUPS],
    scales: &Scales<S>,
    x: [*const SuperBlock; T],
    b: usize,
) {
    // SAFETY: a super-block of activations holds block `b`.
    unsafe {
        let q = x.map(|x| (*x).q.as_ptr().add(32 * b));
        let [first, second] = scales.scale;
        if F::SPLIT {
            match F::Codes::BITS {
                0..=5 => {
                    S::dot_scaled_rows::<5, 0, 4, T>(sums, codes, q, first);
                    S::dot_scaled_rows::<5, 4, 8, T>(sums, codes, q, second);
                }
                _ => {
                    S::dot_scaled_rows::<6, 0, 4, T>(sums, codes, q, first);
                    S::dot_scaled_rows::<6, 4, 8, T>(sums, codes, q, second);
                }
            }
        } else {
            match F::Codes::BITS {
                0..=4 => S::dot_scaled_rows::<4, 0, 8, T>(sums, codes, q, first),
                5 => S::dot_scaled_rows::<5, 0, 8, T>(sums, codes, q, first),
                6 => S::dot_scaled_rows::<6, 0, 8, T>(sums, codes, q, first),
                _ => S::dot_scaled_rows::<8, 0, 8, T>(sums, codes, q, first),
            }
        }
        if above::<S, F::Codes>(F::ZERO) != 0 {
            each_row!(T, |t| sums[t] =
                S::dot_pairs(sums[t], scales.zero, (*x[t]).minus_16.as_ptr().add(2 * b)));
        }
    }
}

/// The head of a super-block.
pub(super) struct Head<S: Simd> {
    scale: S::F,
    minimum: S::F,
    /// Minima in pairs; those there are come first.
    minima: [S::I; 8],
}

impl<S: Simd> Head<S> {
    #[inline(always)]
    pub(super) unsafe fn load<F: SuperFormat>(p: *const u8) -> Self {
        // SAFETY: the caller points at a head.
        unsafe {
            let scale = S::load_f16(p.cast());
            let mut minima = [S::i_zero(); 8];
            if F::SIGNED {
                return Self { scale, minimum: S::splat(0.0), minima };
            }
            for (i, pair) in minima.iter_mut().enumerate().take(F::MINIMA / 2) {
                *pair = S::pairs_u8(p.add((4 + 2 * i) * S::LANES));
            }
            Self { scale, minimum: S::load_f16(p.cast::<u16>().add(S::LANES)), minima }
        }
    }

    /// Adds the integer sum of a super-block to the float sum of a row.
    #[inline(always)]
    pub(super) unsafe fn add<F: SuperFormat>(&self, acc: S::F, sum: S::I, x: &SuperBlock) -> S::F {
        // SAFETY: activations have a sum for each minimum.
        unsafe {
            let mut scaled = S::mul(self.scale, S::i_to_f(sum));
            if !F::SIGNED {
                let minus = if F::SPLIT { x.minus_16.as_ptr() } else { x.minus_32.as_ptr() };
                let mut low = S::i_zero();
                for (i, &pair) in self.minima.iter().enumerate().take(F::MINIMA / 2) {
                    low = S::dot_pairs(low, pair, minus.add(2 * i));
                }
                scaled = S::fma(self.minimum, S::i_to_f(low), scaled);
            }
            S::fma(scaled, S::splat(x.d), acc)
        }
    }
}
