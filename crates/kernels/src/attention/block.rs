//! Steps of attention over one block of positions, for a few queries at once: scores, softmax weights,
//! weighted values. Every query's arithmetic is the same whatever other queries stand beside it.

use super::BLOCK;
use super::cache::{Element, Places, TILE};
use crate::isa::simd_fn;
use crate::simd::Simd;
use std::ops::Range;

/// Slots that scores are computed for at once.
pub(super) const STEP: usize = 2 * TILE;
/// Queries that share a loaded key or value, at most.
pub(super) const MAX_QUERIES: usize = 12;

/// Queries whose sums fit the registers: vectors of sixteen lanes come with twice as many.
pub(super) const fn most_queries(lanes: usize) -> usize {
    if lanes == 16 { MAX_QUERIES } else { MAX_QUERIES / 2 }
}

/// Positions whose values come to the cache ahead of those being added. Without this one row waits for memory; keys
/// come one step ahead.
const AHEAD: usize = 16;

/// Floats in front of the sums of a [`record`](self).
pub(super) const HEADER: usize = 16;

/// Keys or values as they are stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
}

/// Runs `$body` with the constant `$N` equal to `$n`, which is at most [`MAX_QUERIES`].
macro_rules! with_count {
    ($n:expr, $N:ident => $body:expr) => {
        with_count!(@ $n, $N, $body, 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $n:expr, $N:ident, $body:expr, $($count:literal)*) => {
        match $n {
            $($count => { const $N: usize = $count; $body })*
            _ => { const $N: usize = MAX_QUERIES; $body }
        }
    };
}

simd_fn! {
    /// Scores of `n` queries (`[k_dim][n]`) against whole tiles of keys: `out[i * stride + slot]`.
    /// One fused chain over `k_dim` for each score.
    pub(super) fn scores<S>(queries: &[f32], n: usize, keys: Stored<'_>, out: &mut [f32], stride: usize) {
        assert!((1..=MAX_QUERIES).contains(&n) && queries.len().is_multiple_of(n));
        // SAFETY: n is N; scores_of checks the lengths; simd_fn runs this only where the set exists.
        unsafe {
            match keys {
                Stored::F16(k) => with_count!(n, N => scores_of::<S, _, N>(queries, k, out, stride)),
                Stored::F32(k) => with_count!(n, N => scores_of::<S, _, N>(queries, k, out, stride)),
            }
        }
    }
}

/// See [`scores`].
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn scores_of<S: Simd, E: Element, const N: usize>(
    queries: &[f32],
    keys: &[E],
    out: &mut [f32],
    stride: usize,
) {
    assert!(N <= most_queries(S::LANES)); // leaves nothing to compile for larger N
    let k_dim = queries.len() / N;
    let slots = keys.len() / k_dim;
    assert!(slots.is_multiple_of(STEP) && out.len() >= (N - 1) * stride + slots);
    let step = 2 * S::LANES;
    for slot in (0..slots).step_by(step) {
        // SAFETY: a step lies within `slots`, and a tile holds k_dim * TILE elements; N queries of k_dim
        // elements; the output was checked above.
        unsafe {
            let mut sums = [[S::splat(0.0); 2]; N];
            let first = keys.as_ptr().add(slot / TILE * TILE * k_dim + slot % TILE);
            let second = slot + S::LANES;
            let second = keys.as_ptr().add(second / TILE * TILE * k_dim + second % TILE);
            let mut q = queries.as_ptr();
            let ahead = first.add(if slot + step < slots { k_dim * step } else { 0 });
            for d in 0..k_dim {
                S::prefetch::<1>(ahead.add(d * step).cast());
                let k = [E::load::<S>(first.add(d * TILE)), E::load::<S>(second.add(d * TILE))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = S::splat(*q.add(i));
                    sums[0] = S::fma(x, k[0], sums[0]);
                    sums[1] = S::fma(x, k[1], sums[1]);
                }
                q = q.add(N);
            }
            for (i, sums) in sums.into_iter().enumerate() {
                let out = out.as_mut_ptr().add(i * stride + slot);
                S::store(out, sums[0]);
                S::store(out.add(S::LANES), sums[1]);
            }
        }
    }
}

simd_fn! {
    /// Turns one query's scores of a block (`[BLOCK]`, by position) into weights `exp(score - max)` for
    /// the `visible` ones and zero up to the next vector's edge. Returns the maximum and the sum.
    pub(super) fn soften<S>(scores: &mut [f32], visible: Range<usize>) -> (f32, f32) {
        assert!(scores.len() == BLOCK && visible.start < visible.end && visible.end <= BLOCK);
        let start = visible.start / S::LANES * S::LANES;
        let end = visible.end.next_multiple_of(S::LANES);
        // SAFETY: start..end are whole vectors of `scores`; simd_fn runs this only where the set exists.
        unsafe {
            for hidden in [start..visible.start, visible.end..end] {
                scores[hidden].fill(f32::NEG_INFINITY);
            }
            let p = scores.as_mut_ptr();
            let mut max = S::splat(f32::NEG_INFINITY);
            for i in (start..end).step_by(S::LANES) {
                max = S::max(S::load(p.add(i)), max);
            }
            let max = S::max_lane(max);
            let shift = S::splat(max);
            // A hidden position adds an exact zero, so the sum's lanes depend on the visible ones alone.
            let mut sum = S::splat(0.0);
            for i in (start..end).step_by(S::LANES) {
                let weight = S::exp(S::sub(S::load(p.add(i)), shift));
                S::store(p.add(i), weight);
                sum = S::add(sum, weight);
            }
            (max, S::sum(sum))
        }
    }
}

simd_fn! {
    /// Adds `weight * value` of the positions `keys`, in order, to the sums of `n` queries: weights are
    /// `[n][BLOCK]`, values `[slot][v_stride]` from the block's first position, records
    /// `[n][HEADER + v_stride]`.
    pub(super) fn weigh<S>(weights: &[f32], n: usize, values: Stored<'_>, keys: Range<usize>, records: &mut [f32]) {
        assert!((1..=MAX_QUERIES).contains(&n) && records.len().is_multiple_of(n));
        assert!(weights.len() >= n * BLOCK && keys.end <= BLOCK);
        let v_stride = records.len() / n - HEADER;
        let at = |i| i * v_stride;
        // SAFETY: n is N; keys lie in the block; simd_fn runs this only where the set exists.
        unsafe {
            match values {
                Stored::F16(v) => with_count!(n, N => weigh_of::<S, _, N>(weights, v, keys, at, records)),
                Stored::F32(v) => with_count!(n, N => weigh_of::<S, _, N>(weights, v, keys, at, records)),
            }
        }
    }
}

simd_fn! {
    /// Like [`weigh`] for one query whose values stand in any order: `weights[i]` belongs to slot
    /// `base + path[i]` of all `values`.
    pub(super) fn weigh_path<S>(
        weights: &[f32],
        values: Stored<'_>,
        places: (Places, usize),
        base: usize,
        path: &[u32],
        record: &mut [f32],
    ) {
        assert!(weights.len() >= path.len());
        let keys = 0..path.len();
        let (places, kv_head) = places;
        let at = |i: usize| places.value(kv_head, base + path[i] as usize);
        // SAFETY: weights cover the path; simd_fn runs this only where the set exists.
        unsafe {
            match values {
                Stored::F16(v) => weigh_of::<S, _, 1>(weights, v, keys, at, record),
                Stored::F32(v) => weigh_of::<S, _, 1>(weights, v, keys, at, record),
            }
        }
    }
}

/// See [`weigh`].
///
/// # Safety
/// The processor has `S`; weights cover `keys` for each of the `N` queries. `at` gives the element of
/// `values` where a key's value starts.
#[inline(always)]
unsafe fn weigh_of<S: Simd, E: Element, const N: usize>(
    weights: &[f32],
    values: &[E],
    keys: Range<usize>,
    at: impl Fn(usize) -> usize + Copy,
    records: &mut [f32],
) {
    assert!(N <= most_queries(S::LANES)); // as above
    let stride = records.len() / N;
    let v_stride = stride - HEADER;
    assert!(stride > HEADER && v_stride.is_multiple_of(TILE));
    let last = values.len().checked_sub(v_stride);
    assert!(keys.clone().all(|i| Some(at(i)) <= last));
    let mut first = 0;
    // SAFETY: dimensions below v_stride of values that lie in the slice; the weights by contract.
    unsafe {
        // Few queries leave registers for more dimensions: there are twice as many as lanes.
        while 4 * N + 5 <= 2 * S::LANES && first + 4 * S::LANES <= v_stride {
            weigh_lanes::<S, E, N, 4>(weights, values, v_stride, keys.clone(), at, records, first);
            first += 4 * S::LANES;
        }
        while first + 2 * S::LANES <= v_stride {
            weigh_lanes::<S, E, N, 2>(weights, values, v_stride, keys.clone(), at, records, first);
            first += 2 * S::LANES;
        }
        if first < v_stride {
            weigh_lanes::<S, E, N, 1>(weights, values, v_stride, keys, at, records, first);
        }
    }
}

/// The part of [`weigh`] for the dimensions `first..first + W * LANES`.
///
/// # Safety
/// As [`weigh_of`], those dimensions lie below `v_stride`, and whole values behind each `at`.
#[inline(always)]
unsafe fn weigh_lanes<S: Simd, E: Element, const N: usize, const W: usize>(
    weights: &[f32],
    values: &[E],
    v_stride: usize,
    keys: Range<usize>,
    at: impl Fn(usize) -> usize,
    records: &mut [f32],
    first: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[S::splat(0.0); W]; N];
        let out = records.as_mut_ptr().add(HEADER + first);
        for (i, sums) in sums.iter_mut().enumerate() {
            for (w, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(out.add(i * (HEADER + v_stride) + w * S::LANES));
            }
        }
        let last = keys.end.saturating_sub(1);
        for key in keys {
            let row = values.as_ptr().add(at(key) + first);
            let ahead = values.as_ptr().add(at(last.min(key + AHEAD)) + first);
            for line in (0..W * S::LANES * size_of::<E>()).step_by(64) {
                S::prefetch::<1>(ahead.cast::<u8>().wrapping_add(line));
            }
            let mut v = [S::splat(0.0); W];
            for (w, v) in v.iter_mut().enumerate() {
                *v = E::load::<S>(row.add(w * S::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let weight = S::splat(*weights.as_ptr().add(i * BLOCK + key));
                for (v, sum) in v.iter().zip(sums) {
                    *sum = S::fma(weight, *v, *sum);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (w, sum) in sums.into_iter().enumerate() {
                S::store(out.add(i * (HEADER + v_stride) + w * S::LANES), sum);
            }
        }
    }
}
