//! Picking from a row of logits: the best one, or the best few of a small row.

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
/// the lowest index, NaN comes last. Allocates; meant for small rows such as a router's.
pub fn top_k(x: &[f32], k: usize) -> Vec<usize> {
    let better = |&a: &usize, &b: &usize| {
        let (x, y) = (x[a], x[b]);
        y.partial_cmp(&x).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan())).then(a.cmp(&b))
    };
    let mut order: Vec<usize> = (0..x.len()).collect();
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, better);
    }
    order.truncate(k);
    order.sort_unstable_by(better);
    order
}
