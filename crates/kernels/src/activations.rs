//! Rows that go into a matrix product: f32 values, and the int8 blocks that quantised weights multiply.
//!
//! Blocks come in two lengths: 32 for weights with a scale for every 32, 256 for those whose smaller scales are integers,
//! so that sums over all 256 stay integers too. Each is made when a product first asks for it, or with the rows
//! themselves if products of the last rows of that width did: one parallel loop less.

use crate::isa::simd_fn;
use crate::rows::{Shared, each_row};
use crate::simd::Simd;
use crate::team::Team;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Elements of a [`Block`].
pub(crate) const BLOCK: usize = 32;
/// Elements of a [`SuperBlock`].
pub(crate) const SUPER: usize = 256;
/// Blocks that may be read behind the last one, by tiles of more rows than there are.
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
    /// `[block][row]`: what one part of the weights meets lies together.
    blocks: Vec<Block>,
    /// `[super-block][row]`.
    supers: Vec<SuperBlock>,
    has: Lengths,
    /// By width of the rows: what products have asked for since such rows were set last.
    asked: Vec<(usize, Lengths)>,
    /// Scratch of the product that holds this: where the parallel blocks of each job end.
    pub(crate) ends: Vec<usize>,
}

/// Some of the two lengths of blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lengths {
    pub(crate) short: bool,
    pub(crate) long: bool,
}

impl Lengths {
    fn any(self) -> bool {
        self.short || self.long
    }

    fn or(self, other: Self) -> Self {
        Self { short: self.short || other.short, long: self.long || other.long }
    }

    fn without(self, other: Self) -> Self {
        Self { short: self.short && !other.short, long: self.long && !other.long }
    }
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
        quantized.has = Lengths::default();
        let asked = std::mem::take(quantized.asked(cols));
        let quantizer = quantized.quantizer(rows, cols, asked);
        let values = Shared::new(&mut self.values);
        each_row(team, rows, cols, |row| {
            // SAFETY: every row is visited once, and rows do not overlap.
            let values = unsafe { values.part(row * cols, cols) };
            f(row, values);
            quantizer.row(row, values);
        });
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

    /// The rows in blocks of the lengths asked for, among others; the columns must be whole such blocks.
    pub(crate) fn quantized(&self, team: &Team, lengths: Lengths) -> MutexGuard<'_, Quantized> {
        let mut quantized = self.quantized.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = quantized.asked(self.cols);
        *asked = asked.or(lengths);
        let lacks = lengths.without(quantized.has);
        if lacks.any() {
            let quantizer = quantized.quantizer(self.rows, self.cols, lacks);
            each_row(team, self.rows, self.cols, |row| quantizer.row(row, self.row(row)));
        }
        quantized
    }
}

/// Where each of some rows is quantised to, in some lengths.
struct Quantizer {
    lengths: Lengths,
    rows: usize,
    blocks: Shared<Block>,
    supers: Shared<SuperBlock>,
}

impl Quantizer {
    /// Quantises row `row`, on one thread at most.
    fn row(&self, row: usize, values: &[f32]) {
        if self.lengths.short {
            quantize_blocks(values, &mut Column { blocks: &self.blocks, row, rows: self.rows });
        }
        if self.lengths.long {
            quantize_supers(values, &mut Column { blocks: &self.supers, row, rows: self.rows });
        }
    }
}

/// The blocks of one row.
struct Column<'a, B> {
    blocks: &'a Shared<B>,
    row: usize,
    rows: usize,
}

impl<B> Column<'_, B> {
    #[inline(always)]
    fn block(&mut self, i: usize) -> &mut B {
        // SAFETY: every row has blocks of its own, and one column.
        unsafe { &mut self.blocks.part(i * self.rows + self.row, 1)[0] }
    }
}

impl Quantized {
    /// What products of rows of this width have asked for.
    fn asked(&mut self, cols: usize) -> &mut Lengths {
        let known = self.asked.iter().position(|asked| asked.0 == cols);
        let index = known.unwrap_or_else(|| {
            self.asked.push((cols, Lengths::default()));
            self.asked.len() - 1
        });
        &mut self.asked[index].1
    }

    /// Makes room for the blocks of rows, which are there once every row has been quantised.
    fn quantizer(&mut self, rows: usize, cols: usize, lengths: Lengths) -> Quantizer {
        fn grow<B: Copy>(blocks: &mut Vec<B>, count: usize, empty: B) {
            if blocks.len() < count + SPARE {
                blocks.resize(count + SPARE, empty);
            }
        }
        if lengths.short {
            grow(&mut self.blocks, rows * (cols / BLOCK), EMPTY);
        }
        if lengths.long {
            grow(&mut self.supers, rows * (cols / SUPER), EMPTY_SUPER);
        }
        self.has = self.has.or(lengths);
        let (blocks, supers) = (Shared::new(&mut self.blocks), Shared::new(&mut self.supers));
        Quantizer { lengths, rows, blocks, supers }
    }

    /// The blocks from number `at` on: `row` of the first one for a row's first. The next one of the same row stands as
    /// many further as there are rows, and [`SPARE`] stand behind the last.
    pub(crate) fn blocks(&self, at: usize) -> &[Block] {
        &self.blocks[at..]
    }

    /// The super-blocks, as [`blocks`](Self::blocks).
    pub(crate) fn supers(&self, at: usize) -> &[SuperBlock] {
        &self.supers[at..]
    }
}

simd_fn! {
    /// Quantises a row by 32 values.
    fn quantize_blocks<S>(values: &[f32], out: &mut Column<'_, Block>) {
        for (i, x) in values.chunks_exact(BLOCK).enumerate() {
            let (block, mut sums) = (out.block(i), [0i32]);
            block.d = quantize::<S>(x, &mut block.q, &mut sums);
            block.minus = [8, 16, 128].map(|times| -times * sums[0]);
            block.d_sum = block.d * sums[0] as f32;
        }
    }
}

simd_fn! {
    /// Quantises a row by 256 values.
    fn quantize_supers<S>(values: &[f32], out: &mut Column<'_, SuperBlock>) {
        for (i, x) in values.chunks_exact(SUPER).enumerate() {
            let (block, mut sums) = (out.block(i), [0i32; SUPER / 16]);
            block.d = quantize::<S>(x, &mut block.q, &mut sums);
            block.minus_16 = sums.map(|sum| -sum as i16);
            block.minus_32 = std::array::from_fn(|i| -(sums[2 * i] + sums[2 * i + 1]) as i16);
        }
    }
}

/// Writes the codes of `x` and their sums over parts of equal length (16 or 32); returns the scale.
#[inline(always)]
fn quantize<S: Simd>(x: &[f32], q: &mut [i8], sums: &mut [i32]) -> f32 {
    debug_assert!(x.len() == q.len() && x.len().is_multiple_of(16 * sums.len()));
    let vectors = x.len() / S::LANES;
    // SAFETY: `x` and `q` are a whole number of vectors long.
    let d = unsafe {
        // As integers, of which NaN is the largest: a maximum of floats would forget it.
        let mut largest = S::i_zero();
        for v in 0..vectors {
            largest = S::i_max(largest, S::magnitude(S::load(x.as_ptr().add(v * S::LANES))));
        }
        let largest = f32::from_bits(S::i_max_lane(largest).cast_unsigned());
        // So small that its inverse is not finite, or not finite: the block counts as zero, or carries
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_shows_in_the_scale_wherever_it_stands() {
        let team = Team::new(1);
        let both = Lengths { short: true, long: true };
        for place in [0, 1, 15, 16, 31, 100, SUPER - 1] {
            for fault in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = Activations::new();
                x.fill(&team, 1, SUPER, |_, row| {
                    row.fill(0.5);
                    row[place] = fault;
                });
                let blocks = x.quantized(&team, both);
                assert!(!blocks.supers(0)[0].d.is_finite(), "{fault} at {place}");
                for (i, block) in blocks.blocks(0)[..SUPER / BLOCK].iter().enumerate() {
                    let faulty = !block.d.is_finite() && !block.d_sum.is_finite();
                    assert_eq!(faulty, i == place / BLOCK, "{fault} at {place}, block {i}");
                }
            }
        }
    }
}
