//! What a recurrent layer keeps of one sequence.

use super::{DeltaInputs, DeltaRows, DeltaShape, MAX_TAPS};
use crate::isa::Isa;

/// State of one recurrent layer and one sequence.
#[derive(Clone)]
pub struct DeltaState {
    shape: DeltaShape,
    /// Matrices after the committed rows, less the accepted ones of `past`, which are still to be
    /// written: `[v_heads][groups of lanes][k_dim][lanes]`.
    pub(super) matrices: Vec<f32>,
    /// The same after a pass that is kept whole or not at all. Empty until there is one.
    pub(super) ahead: Vec<f32>,
    ahead_window: Vec<f32>,
    /// Whether the last pass was such a one.
    whole: bool,
    /// Rows since the last commit.
    pub(super) pending: Tape,
    pub(super) past: Past,
}

/// The committed rows that the next rows look back on.
#[derive(Clone)]
pub(super) struct Past {
    channels: usize,
    /// The last inputs before the accepted rows, a ring of `taps - 1` rows.
    window: Vec<f32>,
    /// Slot of the latest.
    latest: usize,
    /// Rows of the last committed pass.
    pub(super) kept: Tape,
    /// Which of them the matrices lack, in order.
    pub(super) accepted: Vec<u32>,
}

/// What rows would write: as much as stepping a state needs, and the inputs that later rows look at.
#[derive(Debug, Clone, Default)]
pub(super) struct Tape {
    /// Before the convolution, `[rows][channels]`. Left out for rows that are kept whole.
    pub(super) inputs: Vec<f32>,
    /// `[rows][k_width]`.
    pub(super) k: Vec<f32>,
    /// `[rows][v_width]`.
    pub(super) v: Vec<f32>,
    /// Decay and strength `[rows][v_heads][2]`.
    pub(super) gates: Vec<f32>,
}

/// One row of a tape for one head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) decay: f32,
    pub(super) beta: f32,
}

/// Columns that a matrix of `v_dim` takes in memory: whole vectors.
pub(super) fn columns(v_dim: usize) -> usize {
    v_dim.next_multiple_of(Isa::current().lanes())
}

impl DeltaState {
    /// The state before any row. `None` if a size is zero, odd or too large for memory.
    pub fn new(shape: DeltaShape) -> Option<Self> {
        let DeltaShape { k_heads, v_heads, k_dim, v_dim, taps, .. } = shape;
        if [k_heads, v_heads, k_dim, v_dim].contains(&0)
            || v_heads % k_heads != 0
            || !(2..=MAX_TAPS).contains(&taps)
        {
            return None;
        }
        let columns = v_dim.checked_next_multiple_of(Isa::current().lanes())?;
        let matrices = zeros(v_heads.checked_mul(k_dim)?.checked_mul(columns)?)?;
        let channels = shape.channels();
        let window = zeros(channels.checked_mul(taps - 1)?)?;
        let past = Past { channels, window, latest: 0, kept: Tape::default(), accepted: Vec::new() };
        let (ahead, ahead_window, pending) = (Vec::new(), Vec::new(), Tape::default());
        Some(Self { shape, matrices, ahead, ahead_window, whole: false, pending, past })
    }

    /// Bytes that a new state takes; passes add tapes and, for long prompts, a second state.
    pub fn bytes_of(shape: &DeltaShape) -> usize {
        let values = shape.v_heads * shape.k_dim * columns(shape.v_dim) + (shape.taps - 1) * shape.channels();
        values * size_of::<f32>()
    }

    /// Bytes taken now.
    pub fn bytes(&self) -> usize {
        let values = [&self.matrices, &self.ahead, &self.ahead_window, &self.past.window];
        let values: usize = values.into_iter().map(Vec::capacity).sum();
        values * size_of::<f32>() + self.pending.bytes() + self.past.kept.bytes()
    }

    /// Whether `path` can be committed as far as this state is concerned: all of the last pass or nothing
    /// of it where it was declared so.
    pub fn can_commit(&self, path: &[usize], rows: usize) -> bool {
        !self.whole || path.is_empty() || path.len() == rows
    }

    /// Keeps the rows `path` since the last commit, numbered as in [`DeltaRows`], and drops the others.
    /// They must be a path, and the last pass must have been followed by no other.
    pub fn commit(&mut self, path: &[usize]) {
        if path.is_empty() {
            // What was kept before stays to be written.
        } else if self.whole {
            std::mem::swap(&mut self.matrices, &mut self.ahead);
            std::mem::swap(&mut self.past.window, &mut self.ahead_window);
            self.past.latest = self.shape.taps - 2;
        } else {
            std::mem::swap(&mut self.past.kept, &mut self.pending);
            self.past.accepted.clear();
            self.past.accepted.extend(path.iter().map(|&row| row as u32));
        }
        self.whole = false;
    }

    /// Committed rows that can still be taken back: they are not written yet.
    pub fn revocable(&self) -> usize {
        self.past.accepted.len()
    }

    /// Takes back the last `rows` committed rows, of which there are no more than
    /// [`revocable`](Self::revocable).
    pub fn revoke(&mut self, rows: usize) {
        let left = self.past.accepted.len().saturating_sub(rows);
        self.past.accepted.truncate(left);
        self.whole = false;
    }

    /// Back to before any row.
    pub fn reset(&mut self) {
        self.matrices.fill(0.0);
        self.past.window.fill(0.0);
        self.past.accepted.clear();
        self.whole = false;
    }

    /// Makes room for the rows of a pass.
    pub(super) fn prepare(&mut self, rows: &DeltaRows<'_>) {
        self.whole = rows.whole;
        if rows.whole {
            self.ahead.resize(self.matrices.len(), 0.0);
            self.ahead_window.resize(self.past.window.len(), 0.0);
        }
    }

    /// After a pass: the accepted rows are written, and the window moves on.
    pub(super) fn finish(&mut self, rows: &DeltaRows<'_>, inputs: &DeltaInputs<'_>) {
        self.past.catch_up();
        if rows.whole {
            let first = inputs.mixed.len() - self.ahead_window.len();
            self.ahead_window.copy_from_slice(&inputs.mixed[first..]);
        }
    }

    /// The committed state with nothing left to be written, for tests: matrices without padding, window
    /// from the oldest row on.
    #[cfg(test)]
    pub(super) fn settled(&mut self) -> (&[f32], Vec<f32>) {
        super::steps::write_accepted(&self.shape, &self.past, &mut self.matrices);
        self.past.catch_up();
        let rows = (0..self.shape.taps - 1).rev().flat_map(|back| self.past.row(back).to_vec());
        (&self.matrices, rows.collect())
    }
}

impl std::fmt::Debug for DeltaState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaState").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl Past {
    /// Input of the committed row that stands `back` rows before the last one; zeros before the first.
    pub(super) fn row(&self, back: usize) -> &[f32] {
        let accepted = self.accepted.len();
        if back < accepted {
            let row = self.accepted[accepted - 1 - back] as usize;
            return &self.kept.inputs[row * self.channels..][..self.channels];
        }
        let slots = self.window.len() / self.channels;
        let slot = (self.latest + slots - (back - accepted) % slots) % slots;
        &self.window[slot * self.channels..][..self.channels]
    }

    /// Moves the accepted rows into the window and forgets them: the matrices have them.
    fn catch_up(&mut self) {
        let slots = self.window.len() / self.channels;
        let first = self.accepted.len().saturating_sub(slots);
        for &row in &self.accepted[first..] {
            self.latest = (self.latest + 1) % slots;
            let input = &self.kept.inputs[row as usize * self.channels..][..self.channels];
            self.window[self.latest * self.channels..][..self.channels].copy_from_slice(input);
        }
        self.accepted.clear();
    }
}

impl Tape {
    /// Room for `rows` rows, without their inputs if they are kept whole; what is there stays.
    pub(super) fn reserve(&mut self, shape: &DeltaShape, rows: usize, whole: bool) {
        let grow = |values: &mut Vec<f32>, width: usize| values.resize(values.len().max(rows * width), 0.0);
        if !whole {
            grow(&mut self.inputs, shape.channels());
        }
        grow(&mut self.k, shape.k_width());
        grow(&mut self.v, shape.v_width());
        grow(&mut self.gates, 2 * shape.v_heads);
    }

    fn bytes(&self) -> usize {
        let values = [&self.inputs, &self.k, &self.v, &self.gates];
        values.into_iter().map(Vec::capacity).sum::<usize>() * size_of::<f32>()
    }

    /// Row `row` for value head `head`.
    pub(super) fn row(&self, shape: &DeltaShape, row: usize, head: usize) -> Row<'_> {
        let gates = (row * shape.v_heads + head) * 2;
        Row {
            k: &self.k[row * shape.k_width() + shape.key_head(head) * shape.k_dim..][..shape.k_dim],
            v: &self.v[row * shape.v_width() + head * shape.v_dim..][..shape.v_dim],
            decay: self.gates[gates],
            beta: self.gates[gates + 1],
        }
    }
}

/// Zeros, or `None` when there is no memory for them.
fn zeros(len: usize) -> Option<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).ok()?;
    values.resize(len, 0.0);
    Some(values)
}
