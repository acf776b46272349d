//! Picking from a row of logits: the best one, or the best few.

use super::softmax::largest;
use crate::isa::simd_fn;

/// Index and value of the largest element; ties go to the lowest index, NaN never wins. An empty
/// row gives `(0, -inf)`.
pub fn argmax(x: &[f32]) -> (usize, f32) {
    let max = largest_of(x);
    let index = x.iter().position(|&v| v == max).unwrap_or(0);
    (index, max)
}

simd_fn! {
    fn largest_of<S>(x: &[f32]) -> f32 {
        // SAFETY: simd_fn runs this only where the set exists.
        unsafe { largest::<S>(x) }
    }
}

/// Indices of the `k` largest elements (all of them if there are fewer), largest first; ties go to
/// the lowest index, NaN comes last. Allocates; meant for few of many.
pub fn top_k(x: &[f32], k: usize) -> Vec<usize> {
    const BLOCK: usize = 64;
    let k = k.min(x.len());
    // Later elements must be larger to take a place.
    let beats = |a: f32, b: f32| a > b || (b.is_nan() && !a.is_nan());
    let mut best: Vec<usize> = Vec::with_capacity(k + 1);
    let insert = |best: &mut Vec<usize>, i: usize| {
        best.insert(best.partition_point(|&other| !beats(x[i], x[other])), i);
    };
    (0..k).for_each(|i| insert(&mut best, i));
    let Some(&last) = best.last() else { return best };
    let mut least = x[last];
    for (block, first) in x[k..].chunks(BLOCK).zip((k..).step_by(BLOCK)) {
        // Few blocks hold one, and this looks at a block at once.
        if !block.iter().fold(least.is_nan(), |any, &v| any | (v > least)) {
            continue;
        }
        for (i, &v) in (first..).zip(block) {
            if beats(v, least) {
                best.pop();
                insert(&mut best, i);
                least = x[best[k - 1]];
            }
        }
    }
    best
}
