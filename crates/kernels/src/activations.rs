//! Rows that go into a matrix product: f32 values, and the int8 blocks that quantised weights multiply.
//!
//! Blocks come in two lengths, each made when the first product asks for it: 32 for weights with a scale for
//! every 32, 256 for those whose smaller scales are integers, so that sums over all 256 stay integers too.

use crate::isa::simd_fn;
use crate::rows::{Shared, par_rows};
use crate::simd::Simd;
use crate::team::Team;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Elements of a [`Block`].
pub(crate) const BLOCK: usize = 32;
/// Elements of a [`SuperBlock`].
pub(crate) const SUPER: usize = 256;
/// Super-blocks that may be read behind the last one, by tiles of more rows than there are.
pub(crate) const SPARE: usize = 32;

/// 32 activations of one row as int8 with their scale and sums: one cache line.
///
/// Element `i` stands for `d * q[i]`, `d = max|x| / 127`. The sums serve weights that are stored higher than they
/// are, or have an offset: `sum (w + c) x = sum w x + c sum x`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Block {
    pub(crate) q: [i8; BLOCK],
    /// Scale.
    pub(crate) d: f32,
    /// Scale times the sum of `q`.
    pub(crate) d_sum: f32,
    /// Sum of `q`, negated, times 8, 16 and 128.
    pub(crate) minus: [i32; 3],
}

/// 256 activations of one row as int8, as [`Block`].
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct SuperBlock {
    pub(crate) q: [i8; SUPER],
    /// Sums of each 16 of `q`, negated.
    pub(crate) minus_16: [i16; SUPER / 16],
    /// Sums of each 32 of `q`, negated.
    pub(crate) minus_32: [i16; SUPER / 32],
    /// Scale.
    pub(crate) d: f32,
}

const EMPTY: Block = Block { q: [0; BLOCK], d: 0.0, d_sum: 0.0, minus: [0; 3] };
const EMPTY_SUPER: SuperBlock =
    SuperBlock { q: [0; SUPER], minus_16: [0; SUPER / 16], minus_32: [0; SUPER / 32], d: 0.0 };

/// Input rows of a matrix product. The buffers are kept from call to call and only ever grow.
#[derive(Debug, Default)]
pub struct Activations {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
    quantized: Mutex<Quantized>,
}

/// The blocks made so far of the rows that stand in [`Activations`].
#[derive(Debug, Default)]
pub(crate) struct Quantized {
    /// `[row][block]`.
    blocks: Vec<Block>,
    /// `[super-block][row]`: what one part of the weights meets lies together.
    supers: Vec<SuperBlock>,
    has_blocks: bool,
    has_supers: bool,
}

impl Activations {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `rows` rows of `cols` values: `f(row, out)` writes one row. Rows are independent, and many rows are shared
    /// out over the team.
    pub fn fill(&mut self, team: &Team, rows: usize, cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        if self.values.len() < rows * cols {
            self.values.resize(rows * cols, 0.0);
        }
        (self.rows, self.cols) = (rows, cols);
        let quantized = self.quantized.get_mut().unwrap_or_else(PoisonError::into_inner);
        (quantized.has_blocks, quantized.has_supers) = (false, false);
        if cols > 0 {
            par_rows(
                team,
                (&mut self.values[..rows * cols], cols),
                (&mut [] as &mut [u8], 0),
                |row, out, _| {
                    f(row, out);
                },
            );
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The f32 values of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[..self.rows * self.cols][row * self.cols..][..self.cols]
    }

    /// The rows in blocks, of which those asked for are there; the columns must be whole such blocks.
    pub(crate) fn quantized(&self, team: &Team, blocks: bool, supers: bool) -> MutexGuard<'_, Quantized> {
        let mut quantized = self.quantized.lock().unwrap_or_else(PoisonError::into_inner);
        let q = &mut *quantized;
        if blocks && !q.has_blocks {
            let per_row = self.cols / BLOCK;
            if q.blocks.len() < self.rows * per_row {
                q.blocks.resize(self.rows * per_row, EMPTY);
            }
            par_rows(
                team,
                (&mut q.blocks[..self.rows * per_row], per_row),
                (&mut [] as &mut [u8], 0),
                |row, out, _| {
                    quantize_row(self.row(row), out);
                },
            );
            q.has_blocks = true;
        }
        if supers && !q.has_supers {
            let total = self.rows * (self.cols / SUPER);
            if q.supers.len() < total + SPARE {
                q.supers.resize(total + SPARE, EMPTY_SUPER);
            }
            let out = Shared::new(&mut q.supers);
            team.run(self.rows, |row| {
                for (i, values) in self.row(row).chunks_exact(SUPER).enumerate() {
                    // SAFETY: every row has super-blocks of its own, and is visited once.
                    let out = unsafe { out.part(i * self.rows + row, 1) };
                    quantize_super(values, &mut out[0]);
                }
            });
            q.has_supers = true;
        }
        quantized
    }
}

impl Quantized {
    /// The blocks of a row of `per_row` blocks.
    pub(crate) fn blocks(&self, row: usize, per_row: usize) -> &[Block] {
        &self.blocks[row * per_row..][..per_row]
    }

    /// The super-blocks from `row` of the first on; the next one of the same row stands as many further as there are
    /// rows, and [`SPARE`] stand behind the last.
    pub(crate) fn supers(&self, row: usize) -> &[SuperBlock] {
        &self.supers[row..]
    }
}

simd_fn! {
    /// Quantises `values` (whole blocks) block by block.
    fn quantize_row<S>(values: &[f32], blocks: &mut [Block]) {
        for (x, block) in values.chunks_exact(BLOCK).zip(blocks) {
            let mut sums = [0i32];
            block.d = quantize::<S>(x, &mut block.q, &mut sums);
            block.minus = [8, 16, 128].map(|times| -times * sums[0]);
            block.d_sum = block.d * sums[0] as f32;
        }
    }
}

simd_fn! {
    /// Quantises 256 values.
    fn quantize_super<S>(values: &[f32], block: &mut SuperBlock) {
        let mut sums = [0i32; SUPER / 16];
        block.d = quantize::<S>(values, &mut block.q, &mut sums);
        block.minus_16 = sums.map(|sum| -sum as i16);
        block.minus_32 = std::array::from_fn(|i| -(sums[2 * i] + sums[2 * i + 1]) as i16);
    }
}

/// Writes the codes of `x` and their sums over parts of equal length (16 or 32); returns the scale.
#[inline(always)]
fn quantize<S: Simd>(x: &[f32], q: &mut [i8], sums: &mut [i32]) -> f32 {
    debug_assert!(x.len() == q.len() && x.len().is_multiple_of(16 * sums.len()));
    let vectors = x.len() / S::LANES;
    // SAFETY: `x` and `q` are a whole number of vectors long.
    let d = unsafe {
        let mut largest = S::splat(0.0);
        for v in 0..vectors {
            largest = S::max(largest, S::abs(S::load(x.as_ptr().add(v * S::LANES))));
        }
        let largest = S::max_lane(largest);
        // Not finite or so small that its inverse is not finite: the block counts as zero, or carries
        // the fault on in `d`, which is then not finite either.
        let inverse =
            if largest > f32::MIN_POSITIVE * 128.0 && largest.is_finite() { 127.0 / largest } else { 0.0 };
        for v in 0..vectors {
            let scaled = S::mul(S::load(x.as_ptr().add(v * S::LANES)), S::splat(inverse));
            S::store_i8(q.as_mut_ptr().add(v * S::LANES), scaled);
        }
        largest / 127.0
    };
    let per_sum = x.len() / sums.len();
    for (sum, part) in sums.iter_mut().zip(q.chunks_exact(per_sum)) {
        // The vector unit's own dot product, with weights of one, gives the sum in all lanes.
        let mut lanes = [0i32; 16];
        // SAFETY: 16 or 32 activations; no set has more than 16 lanes.
        unsafe {
            let ones = [S::b_splat(1); 8];
            let dot = if per_sum == 16 {
                S::dot_codes::<4, 0, 4>(S::i_zero(), &ones, part.as_ptr())
            } else {
                S::dot_codes::<4, 0, 8>(S::i_zero(), &ones, part.as_ptr())
            };
            S::i_store(lanes.as_mut_ptr(), dot);
        }
        *sum = lanes[0];
    }
    d
}
