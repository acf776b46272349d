//! The recurrence: rows in an order in which each finds its parent's state, and the step itself.

use super::state::Row;
use super::{DeltaRows, Work};
use crate::isa::simd_fn;
use crate::simd::Simd;

/// No row.
const NONE: u32 = u32::MAX;

/// One row's turn: its parent's state is in one slot, its own goes to another, or to the same where no
/// other child comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) row: u32,
    pub(super) from: u32,
    pub(super) to: u32,
}

/// Children of the rows of a tree.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// First child of each row; the last entry is the first root.
    first: Vec<u32>,
    /// Next child of the same parent.
    next: Vec<u32>,
    /// Parent's place in `first`.
    parent: Vec<u32>,
    /// Slot of each row's state, while its children come.
    slot: Vec<u32>,
    stack: Vec<u32>,
}

/// Orders the rows of a pass, and the held rows before them, depth first, children after their
/// parents. Returns the number of slots: one more than the branches that are open at once.
pub(super) fn plan(rows: &DeltaRows<'_>, links: &mut Links, steps: &mut Vec<Step>) -> usize {
    steps.clear();
    let all = rows.held + rows.rows;
    if rows.tree.is_none() {
        steps.extend((0..all as u32).map(|row| Step { row, from: 0, to: 0 }));
        return 1;
    }
    links.fill(rows, all);
    let mut slots = 1;
    links.stack.extend(Some(links.first[all]).filter(|&row| row != NONE));
    while let Some(row) = links.stack.pop() {
        let at = row as usize;
        let from = links.slot[links.parent[at] as usize];
        let to = from + u32::from(links.next[at] != NONE);
        links.slot[at] = to;
        slots = slots.max(to as usize + 1);
        steps.push(Step { row, from, to });
        // The children come before the next sibling, so slots beyond the parent's are free again then.
        let after = [links.next[at], links.first[at]];
        links.stack.extend(after.into_iter().filter(|&row| row != NONE));
    }
    slots
}

impl Links {
    fn fill(&mut self, rows: &DeltaRows<'_>, all: usize) {
        let root = all as u32;
        for list in [&mut self.first, &mut self.next, &mut self.parent, &mut self.slot] {
            list.clear();
            list.resize(all + 1, NONE);
        }
        self.slot[all] = 0;
        self.stack.clear();
        // Held rows matter only where a row of this pass descends from them.
        for i in 0..rows.rows {
            let mut row = rows.held + i;
            for ancestor in rows.ancestors(i) {
                self.parent[row] = ancestor as u32;
                row = ancestor;
            }
            self.parent[row] = root;
        }
        // From the last on, so that children stand in ascending order.
        for row in (0..all).rev().filter(|&row| self.parent[row] != NONE) {
            let parent = self.parent[row] as usize;
            self.next[row] = self.first[parent];
            self.first[parent] = row as u32;
        }
    }
}

simd_fn! {
    /// Takes one head through the pass, a vector of columns at a time: writes the accepted rows to `matrix`,
    /// then steps copies of it. A pass that is kept whole leaves its last state in `ahead`.
    pub(super) fn run_head<S>(
        work: &Work<'_>,
        head: usize,
        matrix: &mut [f32],
        ahead: &mut [f32],
        slots: &mut Vec<f32>,
        count: usize,
    ) {
        let shape = &work.shape;
        let size = shape.k_dim * S::LANES;
        assert!(matrix.len() == size * shape.v_dim.div_ceil(S::LANES));
        if slots.len() < count * size {
            slots.resize(count * size, 0.0);
        }
        for (group, stored) in matrix.chunks_exact_mut(size).enumerate() {
            let column = group * S::LANES;
            let part = S::LANES.min(shape.v_dim - column);
            slots[..size].copy_from_slice(stored);
            for &row in work.accepted {
                let row = work.kept.row(shape, row as usize, head);
                // SAFETY: slot 0 holds `k_dim` vectors, as the row's key has elements, and the row's value has `part`
                // elements from `column` on; simd_fn runs this only where the set exists.
                unsafe { step::<S>(&row, column, part, slots.as_ptr(), slots.as_mut_ptr(), None) };
            }
            if !work.accepted.is_empty() {
                stored.copy_from_slice(&slots[..size]);
            }
            for turn in work.steps {
                let row = work.tape.row(shape, turn.row as usize, head);
                let new = (turn.row as usize).checked_sub(work.held);
                let q = new.map(|new| {
                    &work.q[new * shape.k_width() + shape.key_head(head) * shape.k_dim..][..shape.k_dim]
                });
                let (from, to) = (turn.from as usize * size, turn.to as usize * size);
                assert!(from.max(to) + size <= slots.len());
                // SAFETY: as above, for the two slots; they are the same or do not overlap.
                unsafe {
                    let base = slots.as_mut_ptr();
                    let sum = step::<S>(&row, column, part, base.add(from), base.add(to), q);
                    if let Some(new) = new {
                        let at = new * shape.v_width() + head * shape.v_dim + column;
                        // These columns of this head in this row are ours alone.
                        S::store_part(work.out.part(at, part).as_mut_ptr(), sum, part);
                    }
                }
            }
            if let Some(ahead) = ahead.chunks_exact_mut(size).nth(group) {
                ahead.copy_from_slice(&slots[..size]);
            }
        }
    }
}

/// One step of one vector of columns, from the state at `from` to that at `to`, which may be the same:
/// `S' = d S + k (x) b (v - d S k)`. Returns `S' q`, zero without a query.
///
/// # Safety
/// `from` and `to` hold as many vectors as the key has elements, the value `part` elements from `column`
/// on, the query as many as the key; the processor has `S`.
#[inline(always)]
unsafe fn step<S: Simd>(
    row: &Row<'_>,
    column: usize,
    part: usize,
    from: *const f32,
    to: *mut f32,
    q: Option<&[f32]>,
) -> S::F {
    // SAFETY: the caller's promise covers every element that is touched.
    unsafe {
        let (n, k) = (row.k.len(), row.k.as_ptr());
        let decay = S::splat(row.decay);
        // Four sums in turn, so that additions do not wait for one another; which one a term goes to
        // depends on its place alone.
        let mut read = [S::splat(0.0); 4];
        for i in 0..n {
            read[i % 4] = S::fma(S::splat(*k.add(i)), S::load(from.add(i * S::LANES)), read[i % 4]);
        }
        let read = S::add(S::add(read[0], read[1]), S::add(read[2], read[3]));
        let v = S::load_part(row.v.as_ptr().add(column), part);
        let change = S::mul(S::splat(row.beta), S::sub(v, S::mul(decay, read)));
        let mut sums = [S::splat(0.0); 4];
        for i in 0..n {
            let old = S::mul(decay, S::load(from.add(i * S::LANES)));
            let new = S::fma(S::splat(*k.add(i)), change, old);
            S::store(to.add(i * S::LANES), new);
            if let Some(q) = q {
                sums[i % 4] = S::fma(S::splat(*q.as_ptr().add(i)), new, sums[i % 4]);
            }
        }
        S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))
    }
}

/// Writes the accepted rows to the matrices without running a pass.
#[cfg(test)]
pub(super) fn write_accepted(shape: &super::DeltaShape, past: &super::state::Past, matrices: &mut [f32]) {
    let size = matrices.len() / shape.v_heads;
    let nothing = super::Tape::default();
    let work = Work {
        shape: *shape,
        kept: &past.kept,
        accepted: &past.accepted,
        tape: &nothing,
        held: 0,
        steps: &[],
        q: &[],
        out: crate::rows::Shared::new(&mut []),
    };
    for (head, matrix) in matrices.chunks_exact_mut(size).enumerate() {
        run_head(&work, head, matrix, &mut [], &mut Vec::new(), 1);
    }
}
