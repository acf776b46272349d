//! Rows times weights: the one entry for every number of rows and every weight type.

mod format;
mod kernel;
mod matrix;
mod pack;
mod supers;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod unpack;

pub use matrix::{Matrix, MatrixError, Packing};

use crate::activations::{Activations, BLOCK, Block, Lengths, Quantized, SUPER, SuperBlock};
use crate::element::ElementType;
use crate::isa::Isa;
use crate::rows::Shared;
use crate::simd::Simd;
use crate::team::Team;
use kernel::FloatForm;
use std::ops::Range;

/// Which rows of the activations a product takes.
#[derive(Debug, Clone)]
pub enum Rows<'a> {
    /// All of them.
    All,
    /// The rows of a range.
    Range(Range<usize>),
    /// The rows named, in this order.
    List(&'a [u32]),
}

impl Rows<'_> {
    fn len(&self, x: &Activations) -> usize {
        match self {
            Rows::All => x.rows(),
            Rows::Range(range) => range.len(),
            Rows::List(rows) => rows.len(),
        }
    }
}

/// One product of a parallel region.
#[derive(Debug)]
pub struct Job<'a> {
    /// The weights `[n, k]`.
    pub matrix: &'a Matrix,
    /// The activation rows to multiply.
    pub rows: Rows<'a>,
    /// Result `[rows, n]`, row-major, one row per activation row in the order of `rows`; narrower where only the
    /// first features are wanted, of which alone the weights are then read.
    pub out: &'a mut [f32],
    /// Whether the product is added to what `out` holds.
    pub add: bool,
}

/// A job as its blocks see it.
struct Work<'a> {
    matrix: &'a Matrix,
    x: &'a Activations,
    quantized: &'a Quantized,
    rows: &'a Rows<'a>,
    count: usize,
    out: Shared<f32>,
    /// Features of a row of `out`.
    width: usize,
    add: bool,
}

impl Work<'_> {
    fn row(&self, i: usize) -> usize {
        match self.rows {
            Rows::All => i,
            Rows::Range(range) => range.start + i,
            Rows::List(rows) => rows[i] as usize,
        }
    }
}

/// Weights that a block of the loop covers, for up to [`BLOCK_ROWS`] rows: large against the price of a claim,
/// small against the cache and against what waiting for the last one costs. More rows, fewer weights.
const BLOCK_BYTES: usize = 32 * 1024;
/// See [`BLOCK_BYTES`].
const BLOCK_ROWS: usize = 16;

/// Multiplies, all jobs in one parallel region. Each output is one fixed sequence of operations over k, whatever
/// the other rows, jobs and threads.
///
/// # Panics
/// When shapes do not fit: a programming error, not one of input.
pub fn matmul(team: &Team, x: &Activations, jobs: &mut [Job<'_>]) {
    let threads = team.threads();
    let mut lengths = Lengths::default();
    for job in jobs.iter() {
        assert_eq!(job.matrix.cols(), x.cols(), "activations of another width than the weights");
        let len = job.matrix.element_type().block_len();
        lengths.short |= len == BLOCK;
        lengths.long |= len == SUPER;
    }
    let mut quantized = x.quantized(team, lengths);
    let mut ends = std::mem::take(&mut quantized.ends);
    ends.clear();
    let mut blocks = 0;
    for job in jobs.iter() {
        let count = count(&job.rows, x);
        let plan = Plan::new(threads, job, count);
        assert_eq!(job.out.len(), count * plan.width, "output of another size than rows x features");
        assert!(plan.width <= job.matrix.rows(), "output of more features than the matrix has");
        blocks += plan.blocks;
        ends.push(blocks);
    }
    let x_quantized = &*quantized;
    let jobs = Shared::new(jobs);
    team.run(blocks, |block| {
        // SAFETY: blocks only read the jobs; what they write lies behind the `out` pointers, in panels of their own.
        let jobs: &[Job<'_>] = unsafe { jobs.all() };
        let index = ends.partition_point(|&end| end <= block);
        let job = &jobs[index];
        let plan = Plan::new(threads, job, job.rows.len(x));
        let first = (block + plan.blocks - ends[index]) * plan.panels;
        let Plan { rows: count, width, tiles, .. } = plan;
        let panels = first..(first + plan.panels).min(job.matrix.panels_of(width));
        let out = Shared::behind(&job.out);
        let work = Work {
            matrix: job.matrix,
            x,
            quantized: x_quantized,
            rows: &job.rows,
            count,
            out,
            width,
            add: job.add,
        };
        run_panels(&work, panels, tiles);
    });
    quantized.ends = ends;
}

/// The number of rows, which must all exist.
fn count(rows: &Rows<'_>, x: &Activations) -> usize {
    match rows {
        Rows::All => {}
        Rows::Range(range) => assert!(range.end <= x.rows(), "row range beyond the activations"),
        Rows::List(rows) => {
            assert!(rows.iter().all(|&r| (r as usize) < x.rows()), "row number beyond the activations");
        }
    }
    rows.len(x)
}

/// How a job is cut into blocks.
#[derive(Clone, Copy)]
struct Plan {
    rows: usize,
    /// Features that are wanted.
    width: usize,
    /// Whether it runs on tiles.
    tiles: bool,
    /// Panels of a block.
    panels: usize,
    blocks: usize,
}

impl Plan {
    fn new(threads: usize, job: &Job<'_>, rows: usize) -> Self {
        let (matrix, width) = (job.matrix, job.out.len() / rows.max(1));
        let panels = matrix.panels_of(width);
        let tiles = on_tiles(job, rows);
        let bytes = if tiles { BLOCK_BYTES } else { BLOCK_BYTES * BLOCK_ROWS / rows.max(BLOCK_ROWS) };
        let mut per_block = (bytes / matrix.panel_bytes().max(1)).max(1);
        #[cfg(target_arch = "x86_64")]
        if tiles {
            // Many rows: as many panels as may share them, if that leaves some blocks for each thread.
            let shared = if rows > 4 * BLOCK_ROWS { panels / (4 * threads) } else { per_block };
            per_block = shared.clamp(1, tiles::MAX_PANELS);
        }
        let blocks = if rows == 0 { 0 } else { panels.div_ceil(per_block) };
        Self { rows, width, tiles, panels: per_block, blocks }
    }
}

/// Whether tiles serve a job: for quantised weights and enough rows that are neighbours.
fn on_tiles(job: &Job<'_>, rows: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    if !matches!(job.rows, Rows::List(_)) {
        let least = match job.matrix.element_type().block_len() {
            BLOCK => tiles::blocks::MIN_ROWS,
            SUPER => tiles::supers::MIN_ROWS,
            _ => return false,
        };
        return rows >= least && crate::isa::tiles();
    }
    let _ = (job, rows);
    false
}

/// Picks the kernel compiled for the weight type and instruction set.
fn run_panels(work: &Work<'_>, panels: Range<usize>, tiles: bool) {
    use ElementType as T;
    use format as f;
    match work.matrix.element_type() {
        T::F32 => float::<kernel::F32>(work, panels),
        T::F16 => float::<kernel::F16>(work, panels),
        T::BF16 => float::<kernel::BF16>(work, panels),
        T::Q4_0 => in_blocks::<f::Q4_0>(work, panels, tiles),
        T::Q4_1 => in_blocks::<f::Q4_1>(work, panels, tiles),
        T::Q5_0 => in_blocks::<f::Q5_0>(work, panels, tiles),
        T::Q5_1 => in_blocks::<f::Q5_1>(work, panels, tiles),
        T::Q8_0 => in_blocks::<f::Q8_0>(work, panels, tiles),
        T::Iq4Nl => in_blocks::<f::Iq4Nl>(work, panels, tiles),
        T::Mxfp4 => in_blocks::<f::Mxfp4>(work, panels, tiles),
        T::Q2K => in_supers::<f::Q2K>(work, panels, tiles),
        T::Q3K => in_supers::<f::Q3K>(work, panels, tiles),
        T::Q4K => in_supers::<f::Q4K>(work, panels, tiles),
        T::Q5K => in_supers::<f::Q5K>(work, panels, tiles),
        T::Q6K => in_supers::<f::Q6K>(work, panels, tiles),
        T::Iq4Xs => in_supers::<f::Iq4Xs>(work, panels, tiles),
    }
}

/// Defines a function that multiplies on tiles or on vectors.
macro_rules! tiles_or_vectors {
    ($name:ident, $bound:path, $tiles:ident, $vectors:ident) => {
        fn $name<F: $bound>(work: &Work<'_>, panels: Range<usize>, tiles: bool) {
            #[cfg(target_arch = "x86_64")]
            if tiles {
                // SAFETY: tiles are granted only where the processor has them and AVX-512.
                return unsafe { tiles::$tiles::run::<F>(work, panels) };
            }
            let _ = tiles;
            $vectors::<F>(work, panels);
        }
    };
}
tiles_or_vectors!(in_blocks, format::Format, blocks, quantized);
tiles_or_vectors!(in_supers, format::SuperFormat, supers, on_vectors);

/// Compiles `$body::<S, F>` for each instruction set and calls the one in use.
macro_rules! per_isa {
    ($name:ident, $bound:path, $body:ident) => {
        fn $name<F: $bound>(work: &Work<'_>, panels: Range<usize>) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2<F: $bound>(work: &Work<'_>, panels: Range<usize>) {
                $body::<crate::simd::Avx2<false>, F>(work, panels);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
            fn avx_vnni<F: $bound>(work: &Work<'_>, panels: Range<usize>) {
                $body::<crate::simd::Avx2<true>, F>(work, panels);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            fn avx512<F: $bound>(work: &Work<'_>, panels: Range<usize>) {
                $body::<crate::simd::Avx512, F>(work, panels);
            }
            match Isa::current() {
                // SAFETY: `Isa::current` names only sets that this processor has.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2::<F>(work, panels) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::AvxVnni => unsafe { avx_vnni::<F>(work, panels) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => unsafe { avx512::<F>(work, panels) },
                _ => $body::<crate::simd::Portable, F>(work, panels),
            }
        }
    };
}
per_isa!(quantized, format::Format, quantized_panels);
per_isa!(on_vectors, format::SuperFormat, super_panels);
per_isa!(float, FloatForm, float_panels);

/// Calls `$tile::<$n>` for as many rows as are left, at most `$most`, and steps on.
macro_rules! each_tile {
    ($i:ident, $count:expr, $most:expr, $call:ident) => {
        while $i < $count {
            let tile = ($count - $i).min($most);
            match tile {
                1 => $call!(1),
                2 => $call!(2),
                3 => $call!(3),
                4 => $call!(4),
                5 => $call!(5),
                6 => $call!(6),
                7 => $call!(7),
                8 => $call!(8),
                9 => $call!(9),
                10 => $call!(10),
                11 => $call!(11),
                _ => $call!(12),
            }
            $i += tile.min(12);
        }
    };
}

#[inline(always)]
fn quantized_panels<S: Simd, F: format::Format>(work: &Work<'_>, panels: Range<usize>) {
    let mut i = 0;
    macro_rules! tile {
        ($n:literal) => {
            if $n <= S::TILE {
                quantized_tile::<S, F, $n>(work, panels.clone(), i);
            }
        };
    }
    each_tile!(i, work.count, S::TILE, tile);
}

/// Rows `i .. i + T` times the panels.
#[inline(always)]
fn quantized_tile<S: Simd, F: format::Format, const T: usize>(
    work: &Work<'_>,
    panels: Range<usize>,
    i: usize,
) {
    debug_assert_eq!(work.matrix.layout.lanes, S::LANES);
    let (blocks, step) = (work.matrix.cols() / BLOCK, work.x.rows());
    let x: [*const Block; T] = std::array::from_fn(|t| work.quantized.blocks(work.row(i + t)).as_ptr());
    for panel in panels {
        // SAFETY: a panel holds `blocks` blocks, a row that many activation blocks; `S` was checked for.
        let sums = unsafe { kernel::tile::<S, F, T>(work.matrix.panel(panel).as_ptr(), blocks, x, step) };
        store::<S, T>(work, panel, i, sums);
    }
}

#[inline(always)]
fn super_panels<S: Simd, F: format::SuperFormat>(work: &Work<'_>, panels: Range<usize>) {
    let mut i = 0;
    macro_rules! tile {
        ($n:literal) => {
            if $n <= S::TILE {
                super_tile::<S, F, $n>(work, panels.clone(), i);
            }
        };
    }
    each_tile!(i, work.count, S::TILE, tile);
}

/// Rows `i .. i + T` times the panels.
#[inline(always)]
fn super_tile<S: Simd, F: format::SuperFormat, const T: usize>(
    work: &Work<'_>,
    panels: Range<usize>,
    i: usize,
) {
    debug_assert_eq!(work.matrix.layout.lanes, S::LANES);
    let (supers, step) = (work.matrix.cols() / SUPER, work.x.rows());
    let x: [*const SuperBlock; T] = std::array::from_fn(|t| work.quantized.supers(work.row(i + t)).as_ptr());
    for panel in panels {
        // SAFETY: a panel holds `supers` super-blocks, a row that many of activations; `S` was checked for.
        let sums = unsafe { supers::tile::<S, F, T>(work.matrix.panel(panel).as_ptr(), supers, x, step) };
        store::<S, T>(work, panel, i, sums);
    }
}

#[inline(always)]
fn float_panels<S: Simd, W: FloatForm>(work: &Work<'_>, panels: Range<usize>) {
    // Four sums for each row of a tile.
    let most = if S::LANES == 16 { 4 } else { 2 };
    let mut i = 0;
    macro_rules! tile {
        ($n:literal) => {
            if $n <= most {
                float_tile::<S, W, $n>(work, panels.clone(), i);
            }
        };
    }
    each_tile!(i, work.count, most, tile);
}

/// Rows `i .. i + T` times the panels.
#[inline(always)]
fn float_tile<S: Simd, W: FloatForm, const T: usize>(work: &Work<'_>, panels: Range<usize>, i: usize) {
    debug_assert_eq!(work.matrix.layout.lanes, S::LANES);
    let k = work.matrix.cols();
    let x: [*const f32; T] = std::array::from_fn(|t| work.x.row(work.row(i + t)).as_ptr());
    for panel in panels {
        // SAFETY: a panel holds `k` weights a row, a row `k` values; `S` was checked for.
        let sums = unsafe { kernel::float_tile::<S, W, T>(work.matrix.panel(panel).as_ptr(), k, x) };
        store::<S, T>(work, panel, i, sums);
    }
}

/// Writes the sums of a panel for rows `i ..`.
#[inline(always)]
fn store<S: Simd, const T: usize>(work: &Work<'_>, panel: usize, i: usize, sums: [S::F; T]) {
    let n = work.width;
    let first = panel * S::LANES;
    let lanes = (n - first).min(S::LANES);
    for (t, mut sum) in sums.into_iter().enumerate() {
        // SAFETY: outputs of this panel for this row, which no other block writes; the bias is padded to whole
        // panels.
        unsafe {
            let out = work.out.part((i + t) * n + first, lanes).as_mut_ptr();
            if let Some(bias) = work.matrix.bias() {
                sum = S::add(sum, S::load(bias.as_ptr().add(first)));
            }
            if work.add {
                sum = S::add(S::load_part(out, lanes), sum);
            }
            if lanes == S::LANES {
                S::store(out, sum);
            } else {
                S::store_part(out, sum, lanes);
            }
        }
    }
}
