//! Products of many rows on AMX tiles: 16 rows of activations times 16 of weights at once, in integers.
//!
//! Integers are exact, so that what is made of them has the bits that vectors give.

pub(super) mod blocks;
pub(super) mod supers;

use super::{Work, store};
use crate::simd::{Avx512, Simd};
use std::arch::asm;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Most panels of a block of the loop, which share activations while these are in the cache.
pub(super) const MAX_PANELS: usize = 8;
/// Rows worked on at a time; their sums lie on the stack.
const ROWS: usize = 512;
/// Rows and columns of a tile of sums.
const SIDE: usize = 16;

/// Float sums of `ROWS` rows with one panel.
type Sums = [MaybeUninit<[f32; SIDE]>; ROWS];

/// Sets the tiles up: rows of each, none where it is not used, and their bytes.
///
/// # Safety
/// Tiles were granted; no tile has more than 16 rows of 64 bytes.
unsafe fn configure(tiles: [(usize, usize); 8]) {
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let mut config =
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    for (i, (rows, bytes)) in tiles.into_iter().enumerate() {
        // A tile that nobody uses has a shape all the same.
        (config.rows[i], config.row_bytes[i]) = (rows.max(1) as u8, bytes as u16);
    }
    // SAFETY: the configuration is 64 bytes long and, by the caller's promise, well formed.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// Writes the sums of `rows` rows from `first` on, all of which were set. Row by row: outputs of a row are neighbours,
/// those of a panel lie pages apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn store_rows(work: &Work<'_>, panels: Range<usize>, first: usize, rows: usize, sums: &[Sums]) {
    for row in 0..rows {
        for (panel, sums) in panels.clone().zip(sums) {
            // SAFETY: the caller has set these sums.
            let sum = unsafe { Avx512::load(sums[row].as_ptr().cast()) };
            store::<Avx512, 1>(work, panel, first + row, [sum]);
        }
    }
}
