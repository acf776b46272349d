//! The integer sums of super-blocks on tiles.
//!
//! A weight's code times its scale has more than eight bits, so it is taken in two parts, each of which multiplies
//! the activations as bytes: `sum = low + (high << SHIFT)`. Integers are exact, so the sums and with them all outputs
//! have the bits that [`supers`](super::super::supers) gives.

use super::super::Work;
use super::super::format::{CodeForm, SUPER_BLOCKS, SuperFormat};
use super::super::kernel::prefetch;
use super::super::supers::{Head, Scales};
use super::{MAX_PANELS, ROWS, SIDE, Sums, configure, store_rows};
use crate::activations::SuperBlock;
use crate::simd::{Avx512, Simd};
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows from which on tiles are faster: weights are split once for all rows.
pub(in super::super) const MIN_ROWS: usize = 13;
/// Tiles over the inputs of a super-block.
const STEPS: usize = 4;

/// Low sums and high sums of a tile of rows, then those of a second.
type TileSums = [[[i32; SIDE]; SIDE]; 4];

/// Tiles of weights and of sums of one panel.
#[repr(C, align(64))]
struct Buffers {
    /// 64 bytes of each of 16 rows, inputs in groups of four: low parts, then high parts.
    weights: [[[u8; 1024]; STEPS]; 2],
    /// Low and high sums of two tiles of rows, and those of the two tiles before.
    sums: [TileSums; 2],
}

/// All rows of the work, which are neighbours, with panels of weights; at most [`MAX_PANELS`].
///
/// # Safety
/// The processor has AVX-512 with VNNI, and [`tiles`](crate::isa::tiles) were granted.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in super::super) unsafe fn run<F: SuperFormat>(work: &Work<'_>, panels: Range<usize>) {
    let supers = work.matrix.cols() / 256;
    let mut sums: [Sums; MAX_PANELS] = [const { [const { MaybeUninit::uninit() }; ROWS] }; MAX_PANELS];
    let mut buffers = Buffers { weights: [[[0; 1024]; STEPS]; 2], sums: [[[[0; SIDE]; SIDE]; 4]; 2] };
    let panels = panels.start..panels.end.min(panels.start + MAX_PANELS);
    for first in (0..work.count).step_by(ROWS) {
        let rows = (work.count - first).min(ROWS);
        for sums in &mut sums[..panels.len()] {
            sums[..rows].fill(MaybeUninit::new([0.0; SIDE]));
        }
        // SAFETY: the caller's promise; every panel holds `supers` super-blocks, and so do the activations.
        unsafe {
            // 0 to 3 hold sums, 4 and 5 activations of two times up to 16 rows, 6 and 7 weights.
            let [a, b] = sides(rows);
            configure([a, a, b, b, a, b, SIDE, SIDE].map(|rows| (rows, 64)));
            for at in 0..supers {
                let x = &work.quantized.supers(at * work.x.rows() + work.row(first));
                for (panel, sums) in panels.clone().zip(&mut sums) {
                    let p = work.matrix.panel(panel)[at * F::BYTES * SIDE..].as_ptr();
                    add_super::<F>(p, x, &mut sums[..rows], &mut buffers);
                }
            }
            asm!("tilerelease", options(nostack, nomem));
            store_rows(work, panels.clone(), first, rows, &sums);
        }
    }
}

/// Up to two tiles of rows have as many as there are; of more, the last ones may have too many.
fn sides(rows: usize) -> [usize; 2] {
    if rows <= 2 * SIDE { [rows.min(SIDE), rows.saturating_sub(SIDE)] } else { [SIDE; 2] }
}

/// Adds the products of one super-block of a panel.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_super<F: SuperFormat>(
    p: *const u8,
    x: &[SuperBlock],
    sums: &mut [MaybeUninit<[f32; SIDE]>],
    buffers: &mut Buffers,
) {
    // SAFETY: `p` points at a super-block of the panel; spare super-blocks stand behind the last of `x`.
    unsafe {
        split::<F>(p, &mut buffers.weights);
        let head = Head::<Avx512>::load::<F>(p);
        // The sums of two tiles become floats while the next two are being made.
        let pairs = sums.len().div_ceil(2 * SIDE);
        for pair in 0..=pairs {
            let first = pair * 2 * SIDE;
            let two = sums.len() > first + SIDE;
            macro_rules! quarter {
                ($step:literal) => {
                    if pair < pairs {
                        let to = &raw mut buffers.sums[pair % 2];
                        multiply::<F, $step>(x.as_ptr().add(first), two, &buffers.weights, to);
                    }
                    if pair > 0 {
                        let before = first - 2 * SIDE + $step * QUARTER;
                        let rows = before.min(sums.len())..(before + QUARTER).min(sums.len());
                        let tiles = &buffers.sums[(pair - 1) % 2];
                        add_rows::<F>(&head, tiles, $step * QUARTER, &x[rows.clone()], &mut sums[rows]);
                    }
                };
            }
            quarter!(0);
            quarter!(1);
            quarter!(2);
            quarter!(3);
        }
    }
}

/// Rows of two tiles that are turned into floats after each step.
const QUARTER: usize = 2 * SIDE / STEPS;

/// Adds the integer sums from row `at` of two tiles on to the float sums of rows.
#[inline(always)]
unsafe fn add_rows<F: SuperFormat>(
    head: &Head<Avx512>,
    tiles: &TileSums,
    at: usize,
    x: &[SuperBlock],
    sums: &mut [MaybeUninit<[f32; SIDE]>],
) {
    let (low, high) = (&tiles[at / SIDE * 2], &tiles[at / SIDE * 2 + 1]);
    for (i, (x, sum)) in x.iter().zip(sums).enumerate() {
        let row = at % SIDE + i;
        // SAFETY: the caller has AVX-512; a quarter lies in one tile of rows; the sums were set before.
        unsafe {
            let [low, high] = [low, high].map(|tile| _mm512_load_si512(tile[row].as_ptr().cast()));
            let high = if F::SIGNED { _mm512_slli_epi32::<8>(high) } else { _mm512_slli_epi32::<3>(high) };
            let sum = sum.as_mut_ptr().cast::<f32>();
            Avx512::store(sum, head.add::<F>(Avx512::load(sum), _mm512_add_epi32(low, high), x));
        }
    }
}

/// Splits the products of codes and scales of the super-block at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn split<F: SuperFormat>(p: *const u8, out: &mut [[[u8; 1024]; STEPS]; 2]) {
    // SAFETY: the caller points at a whole super-block.
    unsafe {
        prefetch::<Avx512>(true, p, F::HEAD * SIDE);
        let (scales, codes) = (p.add(F::SCALES_AT * SIDE), p.add(F::HEAD * SIDE));
        for block in 0..SUPER_BLOCKS {
            let (p, codes) =
                (scales.add(block * F::SCALES * SIDE), codes.add(block * F::Codes::CODES * SIDE));
            prefetch::<Avx512>(true, codes, F::Codes::CODES * SIDE);
            let codes = F::Codes::codes::<Avx512>(codes);
            let scales = Scales::<Avx512>::load::<F>(p).scale.map(|scale| {
                let low = _mm512_and_si512(scale, _mm512_set1_epi32(0xffff));
                _mm512_or_si512(low, _mm512_slli_epi32::<16>(scale))
            });
            for (group, &code) in codes.iter().enumerate() {
                let scale = scales[group / 4];
                let (low, high) =
                    if F::SIGNED { split_signed::<F>(code, scale) } else { split_unsigned(code, scale) };
                let at = 64 * (8 * (block % 2) + group);
                _mm512_store_si512(out[0][block / 2].as_mut_ptr().add(at).cast(), low);
                _mm512_store_si512(out[1][block / 2].as_mut_ptr().add(at).cast(), high);
            }
        }
    }
}

/// Products with the low three and the high three bits of scales: at most 31 * 7, so both bytes of 16 bits are
/// multiplied at once.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split_unsigned(code: __m512i, scale: __m512i) -> (__m512i, __m512i) {
    let low = _mm512_and_si512(scale, _mm512_set1_epi16(7));
    (_mm512_mullo_epi16(code, low), _mm512_mullo_epi16(code, _mm512_srli_epi16::<3>(scale)))
}

/// Low bytes (unsigned) and high bytes (signed) of 16-bit products of scales with the weights that codes mean.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split_signed<F: SuperFormat>(code: __m512i, scale: __m512i) -> (__m512i, __m512i) {
    let (zero, even) = (_mm512_set1_epi16(F::ZERO as i16), _mm512_set1_epi16(0xff));
    let a = _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_and_si512(code, even), zero), scale);
    let b = _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_srli_epi16::<8>(code), zero), scale);
    (
        _mm512_ternarylogic_epi32::<0xca>(even, a, _mm512_slli_epi16::<8>(b)),
        _mm512_ternarylogic_epi32::<0xca>(even, _mm512_srli_epi16::<8>(a), b),
    )
}

/// One step of `multiply` on one or two tiles of rows.
macro_rules! step {
    ($high:literal, one) => {
        concat!(
            "tileloadd tmm4, [{x} + {x_step}*1]\n",
            "tileloadd tmm6, [{w} + {w_step}*1]\n",
            "tdpbsud tmm0, tmm4, tmm6\n",
            "tileloadd tmm7, [{w} + {w_step}*1 + 4096]\n",
            $high, " tmm1, tmm4, tmm7\n",
            "/* {y} */",
        )
    };
    ($high:literal, two) => {
        concat!(
            step!($high, one), "\n",
            "tileloadd tmm5, [{y} + {x_step}*1]\n",
            "tdpbsud tmm2, tmm5, tmm6\n",
            $high, " tmm3, tmm5, tmm7\n",
        )
    };
    ($high:literal, $tiles:ident, $x:expr, $w:expr) => {
        asm!(
            step!($high, $tiles),
            x = in(reg) $x,
            y = in(reg) $x.byte_add(SIDE * size_of::<SuperBlock>()),
            x_step = in(reg) size_of::<SuperBlock>(),
            w = in(reg) $w,
            w_step = in(reg) 64usize,
            options(nostack, readonly),
        )
    };
}

/// Adds the products of 64 inputs of one or two tiles of rows to tiles 0 to 3; the first step clears these before, the
/// last one writes them out. The compiler uses no tiles itself, so they keep what they hold from step to step.
#[inline(always)]
unsafe fn multiply<F: SuperFormat, const STEP: usize>(
    x: *const SuperBlock,
    two: bool,
    weights: &[[[u8; 1024]; STEPS]; 2],
    to: *mut TileSums,
) {
    // SAFETY: the caller guarantees rows (or spare ones) for the tiles, which were configured for 64-byte rows.
    unsafe {
        if STEP == 0 {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
        let (x, w) = (x.cast::<u8>().add(64 * STEP), weights[0][STEP].as_ptr());
        match (F::SIGNED, two) {
            (false, false) => step!("tdpbsud", one, x, w),
            (false, true) => step!("tdpbsud", two, x, w),
            (true, false) => step!("tdpbssd", one, x, w),
            (true, true) => step!("tdpbssd", two, x, w),
        }
        if STEP + 1 == STEPS {
            asm!(
                "tilestored [{to} + {step}*1], tmm0",
                "tilestored [{to} + {step}*1 + 1024], tmm1",
                "tilestored [{to} + {step}*1 + 2048], tmm2",
                "tilestored [{to} + {step}*1 + 3072], tmm3",
                to = in(reg) to,
                step = in(reg) 64usize,
                options(nostack),
            );
        }
    }
}
