//! The integer sums of blocks of 32 on tiles, which become floats block by block.

use super::super::Work;
use super::super::format::{CodeForm, Format, PAIR};
use super::super::kernel::{add_dot, prefetch};
use super::{MAX_PANELS, ROWS, SIDE, Sums, configure, store_rows};
use crate::activations::{BLOCK, Block};
use crate::simd::{Avx512, Simd, each_row};
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows from which on tiles are faster.
pub(in super::super) const MIN_ROWS: usize = 13;
/// Panels that share activations while these are in the nearest cache.
const TOGETHER: usize = 4;
/// Blocks of all panels together whose weights stand ready for all rows: they fit the nearest cache.
const READY: usize = 32;
/// Blocks of weights that stand ready where one tile takes all rows: the next one's and its own.
const RING: usize = 2;

/// Signed weights of a block, four inputs of 16 rows side by side.
#[repr(C, align(64))]
struct Weights([[i8; 64]; BLOCK / 4]);

/// Integer sums of a tile of rows.
#[repr(C, align(64))]
struct Dots([[i32; SIDE]; SIDE]);

struct Buffers {
    /// Each is written before it is read.
    weights: [MaybeUninit<Weights>; READY],
    /// Sums of a tile of rows for a block, and those for the block before.
    dots: [Dots; 2],
}

/// All rows of the work, which are neighbours, with panels of weights; at most [`MAX_PANELS`].
///
/// # Safety
/// The processor has AVX-512 with VNNI, and [`tiles`](crate::isa::tiles) were granted.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in super::super) unsafe fn run<F: Format>(work: &Work<'_>, panels: Range<usize>) {
    let mut sums: [Sums; MAX_PANELS] = [const { [const { MaybeUninit::uninit() }; ROWS] }; MAX_PANELS];
    let mut buffers = Buffers {
        weights: [const { MaybeUninit::uninit() }; READY],
        dots: [const { Dots([[0; SIDE]; SIDE]) }; 2],
    };
    // Panels of few rows are streamed one after the other.
    let together = if work.count <= 2 * SIDE { 1 } else { TOGETHER };
    let panels = panels.start..panels.end.min(panels.start + MAX_PANELS);
    for first in (0..work.count).step_by(ROWS) {
        let rows = (work.count - first).min(ROWS);
        for sums in &mut sums[..panels.len()] {
            sums[..rows.next_multiple_of(SIDE)].fill(MaybeUninit::new([0.0; SIDE]));
        }
        // SAFETY: the caller's promise.
        unsafe {
            // Twice sums, activations of a whole tile of rows; the same of the last one; weights.
            let last = rows % SIDE;
            let [whole, last] = [SIDE, last].map(|rows| [(rows, 64), (rows, 64), (rows, BLOCK)]);
            configure([whole[0], whole[1], whole[2], last[0], last[1], last[2], (BLOCK / 4, 64), (0, 64)]);
            for at in (0..panels.len()).step_by(together) {
                let these = panels.start + at..panels.end.min(panels.start + at + together);
                multiply::<F>(work, these, first, rows, &mut sums[at..], &mut buffers);
            }
            asm!("tilerelease", options(nostack, nomem));
            store_rows(work, panels.clone(), first, rows, &sums);
        }
    }
}

/// Adds the products of `rows` rows from `first` on with up to [`TOGETHER`] panels.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<F: Format>(
    work: &Work<'_>,
    panels: Range<usize>,
    first: usize,
    rows: usize,
    sums: &mut [Sums],
    buffers: &mut Buffers,
) {
    let (blocks, step) = (work.matrix.cols() / BLOCK, work.x.rows());
    // Weights that no second tile wants are not kept.
    let (chunk, ready) = if rows <= SIDE {
        (blocks.max(1), RING)
    } else {
        let ready = READY / panels.len().next_power_of_two();
        (ready, ready)
    };
    for at in (0..blocks).step_by(chunk) {
        for row in (0..rows).step_by(SIDE) {
            let weights = buffers.weights.chunks_exact_mut(ready);
            for ((panel, sums), weights) in panels.clone().zip(&mut *sums).zip(weights) {
                let part = Part {
                    panel: work.matrix.panel(panel)[at / PAIR * pair_bytes::<F>()..].as_ptr(),
                    blocks: (blocks - at).min(chunk),
                    x: work.quantized.blocks(at * step + work.row(first + row)).as_ptr(),
                    step,
                    unpack: row == 0,
                };
                let sums = &mut sums[row..row + SIDE];
                // SAFETY: the panel holds the blocks, and so do the activations, behind whose last spare ones stand;
                // the sums of whole tiles were set.
                unsafe {
                    match (rows - row).min(SIDE).div_ceil(4) {
                        1 => part.add::<F, 4>(sums, weights, &mut buffers.dots),
                        2 => part.add::<F, 8>(sums, weights, &mut buffers.dots),
                        3 => part.add::<F, 12>(sums, weights, &mut buffers.dots),
                        _ if rows - row < SIDE => part.add::<F, 15>(sums, weights, &mut buffers.dots),
                        _ => part.add::<F, 16>(sums, weights, &mut buffers.dots),
                    }
                }
            }
        }
    }
}

/// Bytes of two blocks of a panel.
const fn pair_bytes<F: Format>() -> usize {
    PAIR * (F::SCALES + F::Codes::CODES) * SIDE
}

/// Some blocks of a panel with a tile of rows.
struct Part {
    /// The first of the panel's blocks, which begins a pair.
    panel: *const u8,
    blocks: usize,
    /// The first block of the first row.
    x: *const Block,
    /// From a block to the next one of the same row.
    step: usize,
    /// Whether the weights are to be unpacked first.
    unpack: bool,
}

impl Part {
    /// Adds the products of `T` rows: 16 of a whole tile, fewer of the last one, which has as many or a few less. The two
    /// have registers of their own.
    #[inline(always)]
    unsafe fn add<F: Format, const T: usize>(
        &self,
        sums: &mut [MaybeUninit<[f32; SIDE]>],
        weights: &mut [MaybeUninit<Weights>],
        dots: &mut [Dots; 2],
    ) {
        // A power of two, as many as are multiplied or, in turns, fewer.
        let ring = weights.len() - 1;
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [Avx512::splat(0.0); T];
            each_row!(T, |t| acc[t] = Avx512::load(sums[t].as_ptr().cast()));
            if self.unpack {
                self.unpack_block::<F>(0, &mut weights[0]);
            }
            // While a block is multiplied, the weights of the next one are unpacked, the sums of the one before are
            // written and those of the one before that become floats: none waits for what was just written.
            for block in 0..self.blocks + 2 {
                if self.unpack && block + 1 < self.blocks {
                    self.unpack_block::<F>(block + 1, &mut weights[(block + 1) & ring]);
                }
                if block < self.blocks {
                    product::<T>(self.x.add(block * self.step), &weights[block & ring], block % 2);
                }
                if 0 < block && block <= self.blocks {
                    write::<T>(&mut dots[(block - 1) % 2], (block - 1) % 2);
                }
                if let Some(done) = block.checked_sub(2) {
                    let scales = F::scales::<Avx512>(self.head::<F>(done));
                    let (x, dots) = (self.x.add(done * self.step), &dots[done % 2]);
                    each_row!(T, |t| {
                        let dot = _mm512_load_si512(dots.0[t].as_ptr().cast());
                        acc[t] = add_dot::<Avx512, F>(acc[t], &scales, dot, &*x.add(t));
                    });
                }
            }
            each_row!(T, |t| Avx512::store(sums[t].as_mut_ptr().cast(), acc[t]));
        }
    }

    /// Scales of a block.
    #[inline(always)]
    unsafe fn head<F: Format>(&self, block: usize) -> *const u8 {
        // SAFETY: the panel holds the block.
        unsafe { self.panel.add(block / PAIR * pair_bytes::<F>() + block % PAIR * F::SCALES * SIDE) }
    }

    /// Writes the weights of a block.
    #[inline(always)]
    unsafe fn unpack_block<F: Format>(&self, block: usize, out: &mut MaybeUninit<Weights>) {
        let (scales, codes) = (F::SCALES * SIDE, F::Codes::CODES * SIDE);
        // SAFETY: the panel holds the block.
        unsafe {
            let pair = self.panel.add(block / PAIR * pair_bytes::<F>());
            if block.is_multiple_of(PAIR) {
                prefetch::<Avx512>(true, pair, PAIR * scales);
            }
            let p = pair.add(PAIR * scales + block % PAIR * codes);
            prefetch::<Avx512>(true, p, codes);
            let zero = _mm512_set1_epi8(F::ZERO as i8);
            let out = out.as_mut_ptr().cast::<__m512i>();
            for (group, code) in F::Codes::codes::<Avx512>(p).into_iter().enumerate() {
                let weights = if F::ZERO == 0 { code } else { _mm512_sub_epi8(code, zero) };
                _mm512_store_si512(out.add(group), weights);
            }
        }
    }
}

/// Multiplies a block with a whole tile of rows or with the last one, into the first or the second of its sums. The
/// compiler uses no tiles itself.
#[inline(always)]
unsafe fn product<const T: usize>(x: *const Block, weights: &MaybeUninit<Weights>, to: usize) {
    macro_rules! product {
        ($sums:literal, $x:literal) => {
            asm!(
                concat!("tilezero ", $sums),
                concat!("tileloadd ", $x, ", [{x} + {line}*1]"),
                "tileloadd tmm6, [{w} + {line}*1]",
                concat!("tdpbssd ", $sums, ", ", $x, ", tmm6"),
                x = in(reg) x,
                w = in(reg) weights.as_ptr(),
                line = in(reg) size_of::<Block>(),
                options(nostack, readonly),
            )
        };
    }
    // SAFETY: rows follow each other line by line, as do weights; the tiles were configured.
    unsafe {
        match (T == SIDE, to) {
            (true, 0) => product!("tmm0", "tmm2"),
            (true, _) => product!("tmm1", "tmm2"),
            (false, 0) => product!("tmm3", "tmm5"),
            (false, _) => product!("tmm4", "tmm5"),
        }
    }
}

/// Writes the first or the second sums of a tile of rows.
#[inline(always)]
unsafe fn write<const T: usize>(dots: &mut Dots, from: usize) {
    macro_rules! write {
        ($sums:literal) => {
            asm!(
                concat!("tilestored [{to} + {line}*1], ", $sums),
                to = in(reg) dots.0.as_mut_ptr(),
                line = in(reg) size_of::<[i32; SIDE]>(),
                options(nostack),
            )
        };
    }
    // SAFETY: sums follow each other line by line; the tiles were configured.
    unsafe {
        match (T == SIDE, from) {
            (true, 0) => write!("tmm0"),
            (true, _) => write!("tmm1"),
            (false, 0) => write!("tmm3"),
            (false, _) => write!("tmm4"),
        }
    }
}
