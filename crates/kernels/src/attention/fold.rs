//! Joining the blocks of a query in order. A record is `[max, sum, .., sums[v_stride]]`: the largest
//! score, the sum of weights and the weighted values relative to it.

use super::block::HEADER;
use crate::isa::simd_fn;
use crate::simd::Simd;

/// A record that has seen no key.
pub(super) fn clear(record: &mut [f32]) {
    record.fill(0.0);
    record[0] = f32::NEG_INFINITY;
}

simd_fn! {
    /// Joins the next block's record to what the earlier ones gave; one that has seen no key gives nothing.
    pub(super) fn fold<S>(state: &mut [f32], part: &[f32]) {
        assert!(state.len() == part.len() && state.len() >= HEADER);
        assert!((state.len() - HEADER).is_multiple_of(S::LANES));
        if part[0] == f32::NEG_INFINITY {
            return;
        }
        if state[0] == f32::NEG_INFINITY {
            return state.copy_from_slice(part);
        }
        let max = state[0].max(part[0]);
        // SAFETY: whole vectors behind the header of both; simd_fn runs this only where the set exists.
        unsafe {
            let (old, new) = (S::splat(exp::<S>(state[0] - max)), S::splat(exp::<S>(part[0] - max)));
            for i in (HEADER..state.len()).step_by(S::LANES) {
                let scaled = S::mul(S::load(part.as_ptr().add(i)), new);
                let p = state.as_mut_ptr().add(i);
                S::store(p, S::fma(S::load(p), old, scaled));
            }
            let sum = S::fma(S::splat(state[1]), old, S::mul(S::splat(part[1]), new));
            state[1] = S::max_lane(sum);
        }
        state[0] = max;
    }
}

simd_fn! {
    /// Divides by the sum of weights, to which a sink adds `exp(sink)` and no value.
    pub(super) fn finish<S>(state: &[f32], sink: Option<f32>, out: &mut [f32]) {
        let mut factor = 1.0;
        let mut sum = state[1];
        if let Some(sink) = sink {
            let max = state[0].max(sink);
            // SAFETY: simd_fn runs this only where the set exists.
            unsafe {
                factor = exp::<S>(state[0] - max);
                sum = sum * factor + exp::<S>(sink - max);
            }
        }
        factor /= sum;
        out.iter_mut().zip(&state[HEADER..]).for_each(|(out, x)| *out = x * factor);
    }
}

/// The vector's `exp` of one number.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
unsafe fn exp<S: Simd>(x: f32) -> f32 {
    // SAFETY: the caller's contract.
    unsafe { S::max_lane(S::exp(S::splat(x))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_which_nothing_is_seen_gives_nothing() {
        let record = |max: f32, value: f32| {
            let mut record = [value; HEADER + 16];
            (record[0], record[1]) = (max, 1.0);
            record
        };
        // Zero times what is not finite is no zero.
        let nothing = record(f32::NEG_INFINITY, f32::NAN);
        let mut state = record(0.5, 2.0);
        fold(&mut state, &nothing);
        assert_eq!(state, record(0.5, 2.0));
        clear(&mut state);
        fold(&mut state, &nothing);
        assert!(state[0] == f32::NEG_INFINITY && state[1..] == [0.0; HEADER + 15]);
        fold(&mut state, &record(0.5, 2.0));
        assert_eq!(state, record(0.5, 2.0));
    }
}
