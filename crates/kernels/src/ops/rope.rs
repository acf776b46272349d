//! Rotary positions. The tables come from the model: any scaling of frequencies or amplitudes is
//! already in them.

use crate::isa::simd_fn;

simd_fn! {
    /// Rotates the pairs `(head[i], head[i + n])` for `i < n = cos.len()` (NeoX, halves); elements from
    /// `2 n` on stay.
    ///
    /// # Panics
    /// If `sin` and `cos` differ in length, or `head` is shorter than `2 n`.
    pub fn rope_half<S>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
        let n = cos.len();
        assert!(sin.len() == n && head.len() >= 2 * n);
        let (low, high) = head.split_at_mut(n);
        let (low, high) = (low.as_mut_ptr(), high.as_mut_ptr());
        for i in (0..n).step_by(S::LANES) {
            let part = S::LANES.min(n - i);
            // SAFETY: i + part <= n, the length of all four; simd_fn runs this only where the set exists.
            unsafe {
                let (x, y) = (S::load_part(low.add(i), part), S::load_part(high.add(i), part));
                let c = S::load_part(cos.as_ptr().add(i), part);
                let s = S::load_part(sin.as_ptr().add(i), part);
                S::store_part(low.add(i), S::sub(S::mul(x, c), S::mul(y, s)), part);
                S::store_part(high.add(i), S::fma(x, s, S::mul(y, c)), part);
            }
        }
    }
}
