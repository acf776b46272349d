//! The gated delta rule (Gated DeltaNet): recurrent layers whose whole past is one matrix per head.
//!
//! Every row is one step from the state of its parent, by one formula, whether it is read with a prompt,
//! decoded or verified. A pass never writes the committed state: it works on copies of a few columns
//! that stay in the cache, and keeps on a tape what each row would write. The rows that are kept are
//! written when the next pass has the state in hand anyway, so rejected rows cost nothing.

mod conv;
mod state;
mod steps;
#[cfg(test)]
mod tests;

pub use state::DeltaState;

use crate::rows::Shared;
use crate::team::Team;
use state::Tape;
use std::cell::RefCell;
use steps::Step;

/// Most rows that one convolution looks at.
pub const MAX_TAPS: usize = 8;

/// Sizes of one recurrent layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of queries and keys.
    pub k_heads: usize,
    /// Heads of values, each with a state; a multiple of `k_heads`, of which as many neighbours share a key head.
    pub v_heads: usize,
    /// Elements of a query and a key: rows of a state.
    pub k_dim: usize,
    /// Elements of a value: columns of a state.
    pub v_dim: usize,
    /// Rows that the convolution looks at, the current one included: 2 to [`MAX_TAPS`].
    pub taps: usize,
}

impl DeltaShape {
    /// Width of all queries, and of all keys.
    pub fn k_width(&self) -> usize {
        self.k_heads * self.k_dim
    }

    /// Width of all values, and of the output.
    pub fn v_width(&self) -> usize {
        self.v_heads * self.v_dim
    }

    /// Width of what the convolution mixes: queries, keys, values.
    pub fn channels(&self) -> usize {
        2 * self.k_width() + self.v_width()
    }

    /// The key head that a value head reads.
    fn key_head(&self, v_head: usize) -> usize {
        v_head / (self.v_heads / self.k_heads)
    }
}

/// Shape and weights of one recurrent layer.
#[derive(Debug, Clone, Copy)]
pub struct DeltaSpec<'a> {
    /// Sizes.
    pub shape: DeltaShape,
    /// Convolution `[taps][channels]`, the oldest row's weights first.
    pub conv: &'a [f32],
    /// Rate at which states decay with their time steps, `[v_heads]`, negative.
    pub rates: &'a [f32],
    /// Added to time steps before their softplus, `[v_heads]`.
    pub dt_bias: &'a [f32],
}

/// What the rows of a pass bring, as they leave their projections.
#[derive(Debug, Clone, Copy)]
pub struct DeltaInputs<'a> {
    /// Queries, keys, values `[rows][channels]`.
    pub mixed: &'a [f32],
    /// Time steps `[rows][v_heads]`.
    pub a: &'a [f32],
    /// Strengths of writing, before the sigmoid, `[rows][v_heads]`.
    pub b: &'a [f32],
}

/// The rows of one pass over one sequence.
#[derive(Debug, Clone, Copy)]
pub struct DeltaRows<'a> {
    /// Their number.
    pub rows: usize,
    /// Rows of earlier passes since the last commit that these may follow. Rows are numbered from the
    /// first of them.
    pub held: usize,
    /// Ancestors since the last commit, root first, itself last: those of the `i`-th row of this pass
    /// stand in `.0` from `.1[i]` to `.1[i + 1]`. Absent: each row follows the one before.
    pub tree: Option<(&'a [u32], &'a [u32])>,
    /// The rows will all be kept or none, so they need no tape. For chains without held rows.
    pub whole: bool,
}

impl<'a> DeltaRows<'a> {
    /// Ancestors of the `i`-th row of this pass, nearest first.
    fn ancestors(&self, i: usize) -> impl Iterator<Item = usize> + use<'a> {
        let (path, chain) = match self.tree {
            Some((paths, offsets)) => (&paths[offsets[i] as usize..offsets[i + 1] as usize], 0),
            None => (&[][..], self.held + i),
        };
        path.iter().rev().skip(1).map(|&row| row as usize).chain((0..chain).rev())
    }
}

/// Memory of a pass, shared by all layers.
#[derive(Debug, Default)]
pub struct DeltaScratch {
    /// Queries `[rows][k_width]`.
    q: Vec<f32>,
    /// Rows that need no tape.
    whole: Tape,
    steps: Vec<Step>,
    links: steps::Links,
}

thread_local! {
    /// Copies of the columns that a thread works on: one for each open branch.
    static COLUMNS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs the rows of a pass: convolution, then one step of each head's state for each row. Writes
/// `[rows][v_width]` outputs, before their norm and gate. Rows kept of the pass before become part of
/// the state on the way; the rows of this one wait for [`DeltaState::commit`].
///
/// # Panics
/// If the lengths do not fit the shape: a programming error.
pub fn delta(
    team: &Team,
    spec: &DeltaSpec<'_>,
    state: &mut DeltaState,
    rows: &DeltaRows<'_>,
    inputs: &DeltaInputs<'_>,
    out: &mut [f32],
    scratch: &mut DeltaScratch,
) {
    let shape = spec.shape;
    assert!(spec.conv.len() == shape.taps * shape.channels() && (2..=MAX_TAPS).contains(&shape.taps));
    assert!(spec.rates.len() == shape.v_heads && spec.dt_bias.len() == shape.v_heads);
    assert!(inputs.mixed.len() == rows.rows * shape.channels() && out.len() == rows.rows * shape.v_width());
    assert!(inputs.a.len() == rows.rows * shape.v_heads && inputs.b.len() == inputs.a.len());
    assert!(!rows.whole || (rows.held == 0 && rows.tree.is_none() && rows.rows >= MAX_TAPS));
    if rows.rows == 0 {
        return;
    }
    let slots = steps::plan(rows, &mut scratch.links, &mut scratch.steps);
    scratch.q.resize(scratch.q.len().max(rows.rows * shape.k_width()), 0.0);
    state.prepare(rows);
    let tape = if rows.whole { &mut scratch.whole } else { &mut state.pending };
    tape.reserve(&shape, rows.held + rows.rows, rows.whole);
    conv::run(team, spec, rows, inputs, &state.past, tape, &mut scratch.q);

    let work = Work {
        shape,
        kept: &state.past.kept,
        accepted: &state.past.accepted,
        tape: if rows.whole { &scratch.whole } else { &state.pending },
        held: rows.held,
        steps: &scratch.steps,
        q: &scratch.q,
        out: Shared::new(out),
    };
    let size = shape.k_dim * state::columns(shape.v_dim);
    let (matrices, ahead) = (Shared::new(&mut state.matrices), Shared::new(&mut state.ahead));
    team.run(shape.v_heads, |head| {
        // SAFETY: each head is visited once and its parts overlap no other's.
        let (matrix, ahead) = unsafe {
            (
                matrices.part(head * size, size),
                if rows.whole { ahead.part(head * size, size) } else { &mut [] },
            )
        };
        COLUMNS.with_borrow_mut(|columns| steps::run_head(&work, head, matrix, ahead, columns, slots));
    });
    state.finish(rows, inputs);
}

/// What the blocks of a pass share.
struct Work<'a> {
    shape: DeltaShape,
    /// Rows that the state lacks, and which of them: they are written first.
    kept: &'a Tape,
    accepted: &'a [u32],
    /// Rows since the last commit, the first `held` of them from earlier passes.
    tape: &'a Tape,
    held: usize,
    steps: &'a [Step],
    q: &'a [f32],
    out: Shared<f32>,
}
