//! One pass: how rows and blocks become work for the team, and a tile's way through its blocks.

use super::block::{HEADER, MAX_QUERIES, STEP, Stored, most_queries, scores, soften, weigh, weigh_path};
use super::cache::KvType;
use super::fold::{clear, finish, fold};
use super::{AttentionSpec, BLOCK, KvBuffer, Visible};
use crate::Team;
use crate::rows::Shared;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Queries of one kv head that go through the blocks together, about.
const TILE_QUERIES: usize = 48;

/// Memory that [`attention`] works in; it grows to what the largest call needs and stays.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    workers: Vec<Mutex<Worker>>,
    records: Vec<f32>,
}

/// Attention of the rows in `rows` over the keys and values in `kv`, in which the rows' own are already
/// written: `q` is `[rows][heads * k_dim]`, `out` is `[rows][heads * v_dim]`.
///
/// # Panics
/// If lengths, heads or dimensions do not fit together, or the rows lie beyond the buffer.
pub fn attention(
    team: &Team,
    spec: &AttentionSpec<'_>,
    kv: &KvBuffer,
    rows: &Visible<'_>,
    q: &[f32],
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let pass = Pass::new(spec, kv, rows, q, out);
    if rows.rows() == 0 {
        return;
    }
    // Too few tiles to keep the team busy: the blocks are shared out too, and folded afterwards.
    let split = team.threads() > 1 && pass.tiles() < 2 * team.threads() && pass.blocks().len() > 1;
    pass.run(team, split, scratch);
}

/// What all workers of a pass read.
struct Pass<'a> {
    spec: &'a AttentionSpec<'a>,
    kv: &'a KvBuffer,
    rows: &'a Visible<'a>,
    q: &'a [f32],
    out: Shared<f32>,
    /// Query heads of one kv head.
    group: usize,
    /// Rows of a tile.
    tile_rows: usize,
}

/// Rows of a pass, seen by one kv head.
struct Tile {
    kv_head: usize,
    rows: Range<usize>,
}

/// One worker's memory. Records are `[HEADER + v_stride]`, see [`super::fold`].
#[derive(Debug, Default)]
struct Worker {
    /// Scaled queries of a tile: groups of `n`, each `[k_dim][n]`.
    queries: Vec<f32>,
    /// Scores, then weights, of one group in one block: `[n][BLOCK]`.
    scores: Vec<f32>,
    /// Scores of one group against the slots of a tree's rows.
    tree: Vec<f32>,
    /// Records of one group in one block.
    parts: Vec<f32>,
    /// Records of a tile's queries over the blocks so far.
    states: Vec<f32>,
}

impl<'a> Pass<'a> {
    fn new(
        spec: &'a AttentionSpec<'a>,
        kv: &'a KvBuffer,
        rows: &'a Visible<'a>,
        q: &'a [f32],
        out: &'a mut [f32],
    ) -> Self {
        let at = kv.at;
        assert!(
            (spec.kv_heads, spec.k_dim, spec.v_dim) == (at.kv_heads, at.k_dim, at.v_dim),
            "attention of another shape than its buffer"
        );
        assert!(spec.heads > 0 && spec.heads.is_multiple_of(spec.kv_heads));
        assert!(spec.sinks.is_none_or(|sinks| sinks.len() == spec.heads));
        assert!(
            rows.base() <= at.capacity && rows.uncommitted() <= at.capacity - rows.base(),
            "rows beyond the buffer"
        );
        assert_eq!(q.len(), rows.rows() * spec.heads * spec.k_dim);
        assert_eq!(out.len(), rows.rows() * spec.heads * spec.v_dim);
        let group = spec.heads / spec.kv_heads;
        Self {
            spec,
            kv,
            rows,
            q,
            out: Shared::new(out),
            group,
            tile_rows: (TILE_QUERIES / group).clamp(1, rows.rows().max(1)),
        }
    }

    fn tiles(&self) -> usize {
        self.rows.rows().div_ceil(self.tile_rows) * self.spec.kv_heads
    }

    /// The last rows, which see most, come first.
    fn tile(&self, index: usize) -> Tile {
        let last = (self.tiles() - 1 - index) / self.spec.kv_heads;
        let first = last * self.tile_rows;
        Tile {
            kv_head: index % self.spec.kv_heads,
            rows: first..(first + self.tile_rows).min(self.rows.rows()),
        }
    }

    /// Positions that a row sees.
    fn seen(&self, row: usize) -> Range<usize> {
        self.rows.seen(row, self.spec.window)
    }

    /// Blocks that any of the rows sees.
    fn blocks_of(&self, rows: Range<usize>) -> Range<usize> {
        let blocks = rows.map(|row| {
            let seen = self.seen(row);
            (seen.start / BLOCK, seen.end.div_ceil(BLOCK))
        });
        let (first, end) = blocks.fold((usize::MAX, 0), |a, b| (a.0.min(b.0), a.1.max(b.1)));
        first.min(end)..end
    }

    fn blocks(&self) -> Range<usize> {
        self.blocks_of(0..self.rows.rows())
    }

    /// What a row sees of a block, counted from the block's first position; empty if nothing.
    fn seen_in(&self, row: usize, block: usize) -> Range<usize> {
        let seen = self.seen(row);
        let first = block * BLOCK;
        let end = seen.end.saturating_sub(first).min(BLOCK);
        seen.start.saturating_sub(first).min(end)..end
    }

    fn stride(&self) -> usize {
        HEADER + self.kv.at.v_stride
    }

    /// Slots that cover a tree's rows.
    fn tree_slots(&self) -> Range<usize> {
        let base = self.rows.base();
        base / STEP * STEP..(base + self.rows.uncommitted()).next_multiple_of(STEP)
    }

    fn run(&self, team: &Team, split: bool, scratch: &mut AttentionScratch) {
        let blocks = self.blocks();
        let (tiles, parts) = (self.tiles(), if split { blocks.len() } else { 1 });
        let queries = self.rows.rows() * self.spec.heads;
        if split {
            grow(&mut scratch.records, queries * blocks.len() * self.stride());
        }
        let threads = team.threads().min(tiles * parts);
        while scratch.workers.len() < threads {
            scratch.workers.push(Mutex::default());
        }
        let (workers, records) = (&scratch.workers, Shared::new(&mut scratch.records));

        // Each worker claims items until none is left, so that it can keep its memory.
        let next = AtomicUsize::new(0);
        team.run(threads, |worker| {
            let mut worker = workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let item = next.fetch_add(1, Relaxed);
                if item >= tiles * parts {
                    break;
                }
                let tile = self.tile(item / parts);
                if split {
                    self.one_block(&tile, &blocks, blocks.start + item % parts, records, &mut worker);
                } else {
                    self.all_blocks(&tile, &mut worker);
                }
            }
        });
        if split {
            self.join(team, blocks, records);
        }
    }

    /// A tile from its first block to its output.
    fn all_blocks(&self, tile: &Tile, worker: &mut Worker) {
        let stride = self.stride();
        let count = tile.rows.len() * self.group;
        self.load_queries(tile, worker);
        grow(&mut worker.states, count * stride);
        worker.states[..count * stride].chunks_exact_mut(stride).for_each(clear);
        for block in self.blocks_of(tile.rows.clone()) {
            for queries in groups(count) {
                self.block(tile, queries.clone(), block, worker);
                for (i, query) in queries.enumerate() {
                    let part = &worker.parts[i * stride..][..stride];
                    fold(&mut worker.states[query * stride..][..stride], part);
                }
            }
        }
        for query in 0..count {
            let (row, head) = self.query(tile, query);
            self.emit(row, head, &worker.states[query * stride..][..stride]);
        }
    }

    /// A tile's records of one block, left for [`join`](Self::join).
    fn one_block(
        &self,
        tile: &Tile,
        blocks: &Range<usize>,
        block: usize,
        records: Shared<f32>,
        worker: &mut Worker,
    ) {
        if !self.blocks_of(tile.rows.clone()).contains(&block) {
            return;
        }
        let stride = self.stride();
        self.load_queries(tile, worker);
        for queries in groups(tile.rows.len() * self.group) {
            self.block(tile, queries.clone(), block, worker);
            for (i, query) in queries.enumerate() {
                let (row, head) = self.query(tile, query);
                let index = (row * self.spec.heads + head) * blocks.len() + block - blocks.start;
                // SAFETY: only this item writes the record of this query and block.
                let record = unsafe { records.part(index * stride, stride) };
                record.copy_from_slice(&worker.parts[i * stride..][..stride]);
            }
        }
    }

    /// Folds each query's records in order.
    fn join(&self, team: &Team, blocks: Range<usize>, records: Shared<f32>) {
        let stride = self.stride();
        let heads = self.spec.heads;
        // About 16 K floats are worth waking a thread for.
        let rows = (16_384 / (heads * blocks.len() * stride)).max(1);
        team.run(self.rows.rows().div_ceil(rows), |chunk| {
            for row in chunk * rows..((chunk + 1) * rows).min(self.rows.rows()) {
                for head in 0..heads {
                    let first = (row * heads + head) * blocks.len();
                    // SAFETY: only this item touches the records of this row.
                    let all = unsafe { records.part(first * stride, blocks.len() * stride) };
                    let seen = self.blocks_of(row..row + 1);
                    let from = (seen.start - blocks.start) * stride;
                    let (state, rest) = all[from..(seen.end - blocks.start) * stride].split_at_mut(stride);
                    if state[0] == f32::NEG_INFINITY {
                        clear(state);
                    }
                    rest.chunks_exact(stride).for_each(|part| fold(state, part));
                    self.emit(row, head, state);
                }
            }
        });
    }

    /// Writes a query's output from its finished record.
    fn emit(&self, row: usize, head: usize, state: &[f32]) {
        let v_dim = self.spec.v_dim;
        // SAFETY: one item alone finishes this row and head.
        let out = unsafe { self.out.part((row * self.spec.heads + head) * v_dim, v_dim) };
        finish(state, self.spec.sinks.map(|sinks| sinks[head]), out);
    }

    /// Row and head of a tile's query.
    fn query(&self, tile: &Tile, query: usize) -> (usize, usize) {
        (tile.rows.start + query / self.group, tile.kv_head * self.group + query % self.group)
    }

    /// Copies a tile's queries, scaled, in the order that [`scores`] reads them.
    fn load_queries(&self, tile: &Tile, worker: &mut Worker) {
        let k_dim = self.spec.k_dim;
        let count = tile.rows.len() * self.group;
        grow(&mut worker.queries, count * k_dim);
        for queries in groups(count) {
            let n = queries.len();
            let packed = &mut worker.queries[queries.start * k_dim..queries.end * k_dim];
            for (i, query) in queries.enumerate() {
                let (row, head) = self.query(tile, query);
                let q = &self.q[(row * self.spec.heads + head) * k_dim..][..k_dim];
                for (x, q) in packed[i..].iter_mut().step_by(n).zip(q) {
                    *x = q * self.spec.scale;
                }
            }
        }
    }

    /// Records of a group of a tile's queries in one block, left in `worker.parts`.
    fn block(&self, tile: &Tile, queries: Range<usize>, block: usize, worker: &mut Worker) {
        let (n, stride, k_dim) = (queries.len(), self.stride(), self.spec.k_dim);
        let first = block * BLOCK;
        let row = |i: usize| tile.rows.start + (queries.start + i) / self.group;
        let mut seen: [Range<usize>; MAX_QUERIES] = Default::default();
        for (i, seen) in seen[..n].iter_mut().enumerate() {
            *seen = self.seen_in(row(i), block);
        }
        let seen = &seen[..n];
        let direct = self.rows.direct().saturating_sub(first).min(BLOCK);

        grow(&mut worker.scores, n * BLOCK);
        grow(&mut worker.parts, MAX_QUERIES * stride);
        let packed = &worker.queries[queries.start * k_dim..queries.end * k_dim];
        let start = seen.iter().map(|s| s.start).min().unwrap_or(0) / STEP * STEP;
        let end = seen.iter().map(|s| s.end).max().unwrap_or(0).min(direct);
        let end = end.next_multiple_of(STEP);
        if start < end {
            let keys = self.keys(tile.kv_head, first + start..first + end);
            scores(packed, n, keys, &mut worker.scores[start..], BLOCK);
        }
        if seen.iter().any(|s| s.end > direct) {
            self.tree_scores(tile, packed, seen, first, row, &mut worker.tree, &mut worker.scores);
        }

        let parts = &mut worker.parts[..n * stride];
        for ((part, scores), seen) in
            parts.chunks_exact_mut(stride).zip(worker.scores.chunks_exact_mut(BLOCK)).zip(seen)
        {
            clear(part);
            if !seen.is_empty() {
                (part[0], part[1]) = soften(scores, seen.clone());
            }
        }

        // Values that all queries see are loaded once for all; the ragged ends once for each.
        let at = self.kv.at;
        let value = at.value(tile.kv_head, first);
        let values = self.values(value..value + BLOCK * at.v_stride);
        let common_start = seen.iter().map(|s| s.start).max().unwrap_or(0);
        let common_end = seen.iter().map(|s| s.end).min().unwrap_or(0).min(direct);
        let common = common_start..common_end.max(common_start);
        for before in [true, false] {
            for (i, seen) in seen.iter().enumerate() {
                let end = seen.end.min(direct);
                let keys = match before {
                    true => seen.start..common.start.min(end),
                    false => common.end.max(seen.start)..end,
                };
                let part = &mut parts[i * stride..][..stride];
                if !keys.is_empty() {
                    weigh(&worker.scores[i * BLOCK..], 1, values, keys, part);
                }
                let beyond = seen.start.max(direct)..seen.end;
                if let (false, false, Some(path)) = (before, beyond.is_empty(), self.rows.path(row(i))) {
                    let base = self.rows.base();
                    let path = &path[first + beyond.start - base..first + beyond.end - base];
                    let weights = &worker.scores[i * BLOCK + beyond.start..];
                    weigh_path(
                        weights,
                        self.values(0..at.value(0, at.capacity)),
                        (at, tile.kv_head),
                        base,
                        path,
                        part,
                    );
                }
            }
            if before && !common.is_empty() {
                weigh(&worker.scores, n, values, common.clone(), parts);
            }
        }
    }

    /// Scores of the positions that stand in a tree's slots: computed slot by slot as all others, then
    /// put in the order of each row's path.
    #[allow(clippy::too_many_arguments)]
    fn tree_scores(
        &self,
        tile: &Tile,
        packed: &[f32],
        seen: &[Range<usize>],
        first: usize,
        row: impl Fn(usize) -> usize,
        tree: &mut Vec<f32>,
        scores_out: &mut [f32],
    ) {
        let (slots, base) = (self.tree_slots(), self.rows.base());
        grow(tree, seen.len() * slots.len());
        for block in slots.start / BLOCK..slots.end.div_ceil(BLOCK) {
            let part = slots.start.max(block * BLOCK)..slots.end.min((block + 1) * BLOCK);
            let out = &mut tree[part.start - slots.start..];
            scores(packed, seen.len(), self.keys(tile.kv_head, part), out, slots.len());
        }
        for (i, seen) in seen.iter().enumerate() {
            let path = self.rows.path(row(i)).unwrap_or_default();
            for j in seen.start.max(base.saturating_sub(first))..seen.end {
                let slot = base + path[first + j - base] as usize;
                scores_out[i * BLOCK + j] = tree[i * slots.len() + slot - slots.start];
            }
        }
    }

    /// Keys of whole tiles in one block.
    fn keys(&self, kv_head: usize, slots: Range<usize>) -> Stored<'_> {
        let first = self.kv.at.key(kv_head, slots.start);
        let range = first..first + slots.len() * self.kv.at.k_dim;
        match self.kv.ty {
            KvType::F16 => Stored::F16(&self.kv.keys()[range]),
            KvType::F32 => Stored::F32(&self.kv.keys()[range]),
        }
    }

    /// Elements of the values.
    fn values(&self, range: Range<usize>) -> Stored<'_> {
        match self.kv.ty {
            KvType::F16 => Stored::F16(&self.kv.values()[range]),
            KvType::F32 => Stored::F32(&self.kv.values()[range]),
        }
    }
}

/// Cuts `count` queries into groups of nearly equal size that fit the kernels.
fn groups(count: usize) -> impl Iterator<Item = Range<usize>> {
    let most = most_queries(crate::Isa::current().lanes());
    let groups = count.div_ceil(most);
    (0..groups).map(move |i| count * i / groups..count * (i + 1) / groups)
}

fn grow(memory: &mut Vec<f32>, len: usize) {
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
}
