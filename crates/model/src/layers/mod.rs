//! The parts that decoders are composed of, each written once for every family.
//!
//! A part holds its weights and works on the residual stream `[rows, hidden]` of a pass; what it
//! needs in between lies in the [`Scratch`] that all layers share.

mod attention;
mod delta;
mod experts;
mod layer;
mod mlp;
mod per_layer;
mod rope;

pub(crate) use attention::Attention;
pub(crate) use delta::Delta;
pub(crate) use experts::{Beside, Experts, Shared};
pub(crate) use layer::{Layer, Mixer};
pub(crate) use mlp::{Gated, Mlp, MlpKind};
pub(crate) use per_layer::{PerLayerGate, PerLayerInputs};
pub(crate) use rope::RopeTable;

use crate::cache::Sequence;
use crate::config::Config;
use crate::target::Cache;
use leveret_kernels::attention::{AttentionScratch, Visible};
use leveret_kernels::delta::DeltaScratch;
use leveret_kernels::ops::{add_assign, rms_norm, rms_norm_heads};
use leveret_kernels::{Activations, Job, Matrix, Rows, Team, matmul, par_rows};

/// Norms before a block and, in some families, after it.
#[derive(Debug)]
pub(crate) struct NormWeights {
    /// Empty if the block does not read the residual stream.
    pub(crate) before: Vec<f32>,
    pub(crate) after: Option<Vec<f32>>,
}

/// What every layer of a pass reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) team: &'a Team,
    pub(crate) config: &'a Config,
    pub(crate) ropes: &'a [RopeTable],
    pub(crate) rows: &'a RowPlan,
}

/// The rows of a pass: which sequence each belongs to, where it stands, what it sees.
#[derive(Debug, Default)]
pub(crate) struct RowPlan {
    /// Position of each row.
    pub(crate) positions: Vec<u32>,
    pub(crate) segments: Vec<Segment>,
    /// Paths and offsets of all trees, one after the other, numbered within their segments.
    pub(crate) paths: Vec<u32>,
    pub(crate) offsets: Vec<u32>,
    /// Rows of a segment that is no tree see all its rows, not only those before them.
    pub(crate) mutual: bool,
}

/// The rows of one sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    /// Its first row in the pass, and their number.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    /// Committed rows before them.
    pub(crate) base: usize,
    /// Rows behind these that are held though not committed; the segment's own stand behind them.
    pub(crate) held: usize,
    /// Where its paths and offsets begin, if the rows are a tree.
    pub(crate) tree: Option<(usize, usize)>,
    /// A long stretch of a prompt, kept whole or not at all.
    pub(crate) whole: bool,
}

impl RowPlan {
    /// Forgets all rows.
    pub(crate) fn clear(&mut self) {
        self.positions.clear();
        self.segments.clear();
        self.paths.clear();
        self.offsets.clear();
    }

    /// Adds the next `rows` rows of `cache`, behind its committed and held ones: a chain, or a tree
    /// with these parents.
    pub(crate) fn add(&mut self, cache: &Sequence, rows: usize, parents: Option<&[Option<usize>]>) {
        let (first, base, held) = (self.positions.len(), cache.len(), cache.held());
        let branching = parents.filter(|parents| held > 0 || !is_chain(parents));
        let tree =
            branching.map(|parents| self.add_tree(cache.held_parents().chain(parents.iter().copied())));
        match tree {
            Some((_, offset)) => {
                for row in held..held + rows {
                    let depth = self.offsets[offset + row + 1] - self.offsets[offset + row] - 1;
                    self.positions.push(base as u32 + depth);
                }
            }
            None => self.positions.extend((base..base + rows).map(|p| p as u32)),
        }
        self.segments.push(Segment { first, rows, base, held, tree, whole: false });
    }

    /// Makes sure that `ropes` have the position of every row.
    pub(crate) fn reach(&self, ropes: &mut [RopeTable]) {
        let positions = self.positions.iter().max().map_or(0, |&last| last as usize + 1);
        ropes.iter_mut().for_each(|rope| rope.extend(positions));
    }

    /// Adds the path of every row of a tree; returns where its paths and offsets begin.
    fn add_tree(&mut self, parents: impl Iterator<Item = Option<usize>>) -> (usize, usize) {
        let (path, offset) = (self.paths.len(), self.offsets.len());
        self.offsets.push(0);
        for (row, parent) in parents.enumerate() {
            if let Some(parent) = parent {
                let of_parent = path + self.offsets[offset + parent] as usize
                    ..path + self.offsets[offset + parent + 1] as usize;
                self.paths.extend_from_within(of_parent);
            }
            self.paths.push(row as u32);
            self.offsets.push((self.paths.len() - path) as u32);
        }
        (path, offset)
    }

    /// What the rows of `segment` see.
    pub(crate) fn visible(&self, segment: &Segment) -> Visible<'_> {
        match self.paths(segment) {
            None if self.mutual => Visible::block(segment.base, segment.rows),
            None => Visible::chain(segment.base, segment.rows),
            Some((paths, offsets)) => Visible::tree_after(segment.base, segment.held, paths, offsets),
        }
    }

    /// Ancestors of the rows of `segment`, where these are a tree: paths, and where each row's begins.
    pub(crate) fn paths(&self, segment: &Segment) -> Option<(&[u32], &[u32])> {
        let (path, offset) = segment.tree?;
        let offsets = &self.offsets[offset + segment.held..][..=segment.rows];
        let len = offsets[segment.rows] as usize;
        Some((&self.paths[path..path + len], offsets))
    }
}

fn is_chain(parents: &[Option<usize>]) -> bool {
    parents.iter().enumerate().all(|(row, parent)| *parent == row.checked_sub(1))
}

/// Memory between the steps of a layer. Grows to what the largest pass needs and stays.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) x: Activations,
    pub(crate) inner: Activations,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) heads: Vec<f32>,
    pub(crate) out: Vec<f32>,
    pub(crate) attention: AttentionScratch,
    pub(crate) delta: DeltaScratch,
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    pub(crate) routes: experts::Routes,
    /// Sum of a dense MLP and the experts beside it; output of a shared expert.
    pub(crate) both: Vec<f32>,
    /// Inputs of the layers for each row, `[rows][layers][width]`.
    pub(crate) per_layer: Vec<f32>,
}

/// The caches of a pass, in the order of its segments.
pub(crate) trait Caches {
    fn get(&mut self, segment: usize) -> &mut Sequence;
}

/// A pass over one sequence alone.
impl Caches for &mut Sequence {
    fn get(&mut self, _segment: usize) -> &mut Sequence {
        self
    }
}

/// The first `len` values of `buffer`, grown if it is shorter. Their content is left over.
pub(crate) fn room<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// Sets `x` to the normed rows of the residual stream `h`.
pub(crate) fn fill_normed(team: &Team, x: &mut Activations, h: &[f32], weight: &[f32], eps: f32) {
    let width = weight.len();
    x.fill(team, h.len() / width, width, |row, out| rms_norm(&h[row * width..][..width], weight, eps, out));
}

/// Adds the product to the residual stream, by way of the block's second norm if it has one.
pub(crate) fn project(
    context: &Context<'_>,
    x: &Activations,
    matrix: &Matrix,
    after: Option<&[f32]>,
    out: &mut Vec<f32>,
    h: &mut [f32],
) {
    let Some(weight) = after else {
        return matmul(context.team, x, &mut [Job { matrix, rows: Rows::All, out: h, add: true }]);
    };
    let out = room(out, h.len());
    matmul(context.team, x, &mut [Job { matrix, rows: Rows::All, out, add: false }]);
    add_normed(context, out, weight, h);
}

/// `h += norm(out)`, row by row; `out` is used up.
pub(crate) fn add_normed(context: &Context<'_>, out: &mut [f32], weight: &[f32], h: &mut [f32]) {
    let (width, eps) = (weight.len(), context.config.norm_eps);
    par_rows(context.team, (h, width), (out, width), |_, h, out| {
        rms_norm_heads(out, weight, eps);
        add_assign(h, out);
    });
}
