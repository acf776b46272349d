//! Rows that go into a matrix product: f32 values, and the int8 blocks that quantised weights multiply.

use crate::isa::simd_fn;
use crate::rows::par_rows;
use crate::team::Team;

/// Elements that share one activation scale.
pub(crate) const BLOCK: usize = 32;

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
    /// Scale times the sums of the first and the second 16 of `q`.
    pub(crate) d_halves: [f32; 2],
    /// Sum of `q`, negated.
    pub(crate) minus: i32,
    /// Sums of the first and the second 16 of `q`, negated.
    pub(crate) minus_halves: [i32; 2],
}

const EMPTY: Block =
    Block { q: [0; BLOCK], d: 0.0, d_sum: 0.0, d_halves: [0.0; 2], minus: 0, minus_halves: [0; 2] };

/// Input rows of a matrix product. The buffers are kept from call to call and only ever grow.
#[derive(Debug, Default)]
pub struct Activations {
    values: Vec<f32>,
    blocks: Vec<Block>,
    rows: usize,
    cols: usize,
}

impl Activations {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `rows` rows of `cols` values: `f(row, out)` writes one row, of which int8 blocks are made right after.
    /// Rows are independent, and many rows are shared out over the team.
    pub fn fill(&mut self, team: &Team, rows: usize, cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        let per_row = cols.div_ceil(BLOCK);
        if self.values.len() < rows * cols {
            self.values.resize(rows * cols, 0.0);
        }
        if self.blocks.len() < rows * per_row {
            self.blocks.resize(rows * per_row, EMPTY);
        }
        (self.rows, self.cols) = (rows, cols);
        if cols == 0 {
            return;
        }
        let whole = cols.is_multiple_of(BLOCK);
        par_rows(
            team,
            (&mut self.values[..rows * cols], cols),
            (&mut self.blocks[..rows * per_row], per_row),
            |row, values, blocks| {
                f(row, values);
                // Every quantised type has whole blocks, so other widths only ever meet float weights.
                if whole {
                    quantize_row(values, blocks);
                }
            },
        );
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

    /// The int8 blocks of a row.
    pub(crate) fn blocks(&self, row: usize) -> &[Block] {
        let per_row = self.cols.div_ceil(BLOCK);
        &self.blocks[row * per_row..][..per_row]
    }
}

simd_fn! {
    /// Quantises `values` (whole blocks) block by block.
    fn quantize_row<S>(values: &[f32], blocks: &mut [Block]) {
        for (x, block) in values.chunks_exact(BLOCK).zip(blocks) {
            quantize_block::<S>(x, block);
        }
    }
}

#[inline(always)]
fn quantize_block<S: crate::simd::Simd>(x: &[f32], block: &mut Block) {
    let vectors = BLOCK / S::LANES;
    // SAFETY: `x` has BLOCK values and `q` BLOCK bytes, both a whole number of vectors.
    unsafe {
        let mut largest = S::splat(0.0);
        for v in 0..vectors {
            largest = S::max(largest, S::abs(S::load(x.as_ptr().add(v * S::LANES))));
        }
        let largest = S::max_lane(largest);
        let d = largest / 127.0;
        // Not finite or so small that its inverse is not finite: the block counts as zero, or carries
        // the fault on in `d`, which is then not finite either.
        let inverse =
            if largest > f32::MIN_POSITIVE * 128.0 && largest.is_finite() { 127.0 / largest } else { 0.0 };
        for v in 0..vectors {
            let scaled = S::mul(S::load(x.as_ptr().add(v * S::LANES)), S::splat(inverse));
            S::store_i8(block.q.as_mut_ptr().add(v * S::LANES), scaled);
        }
        block.d = d;
    }
    // The vector unit's own dot product, with weights of one, gives every sum in all lanes.
    let mut sums = [[0i32; 16]; 2];
    // SAFETY: 32 activations; no set has more than 16 lanes.
    unsafe {
        let ones = [S::b_splat(1); 8];
        let q = block.q.as_ptr();
        S::i_store(sums[0].as_mut_ptr(), S::dot_codes::<4, 0, 4>(S::i_zero(), &ones, q));
        S::i_store(sums[1].as_mut_ptr(), S::dot_codes::<4, 4, 8>(S::i_zero(), &ones, q));
    }
    let halves = [sums[0][0], sums[1][0]];
    block.minus_halves = halves.map(|sum| -sum);
    block.minus = -(halves[0] + halves[1]);
    block.d_halves = halves.map(|sum| block.d * sum as f32);
    block.d_sum = block.d * (halves[0] + halves[1]) as f32;
}
