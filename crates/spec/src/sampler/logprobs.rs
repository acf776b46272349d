//! Log-probabilities of emitted tokens.
//!
//! They are the target's own: the log-softmax of its raw logits, before bias, penalties,
//! temperature and cuts. So they say what the model thinks whatever the sampler does, and are the
//! same bits with any drafter.

use serde::Serialize;

use super::elementary::{ln, sum_exp};
use super::filters::{Candidate, descending, maximum, select};

/// Log-probabilities at one position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprobs {
    /// Token that was chosen.
    pub token: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The likeliest tokens with theirs, likeliest first, of equals the lower id first.
    pub top: Vec<(u32, f32)>,
}

/// Log-probabilities of `token` and of the `count` likeliest tokens in a row of raw logits.
pub(super) fn logprobs(row: &[f32], token: u32, count: usize, scratch: &mut Vec<Candidate>) -> TokenLogprobs {
    let max = maximum(row);
    // At least 1, from the greatest itself.
    let total = f64::from(max) + ln(sum_exp(row, max).max(1.0));
    let logprob = |logit: f32| (f64::from(logit) - total) as f32;
    select(row, count, scratch);
    scratch.sort_unstable_by(descending);
    TokenLogprobs {
        token,
        logprob: row.get(token as usize).map_or(f32::NEG_INFINITY, |&x| logprob(x)),
        top: scratch.iter().map(|c| (c.token, logprob(c.logit))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax() {
        let row = [1.0f32, 3.0, 2.0, 3.0];
        let found = logprobs(&row, 2, 2, &mut Vec::new());
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let expected = |x: f32| f64::from(x) - sum.ln();
        assert!((f64::from(found.logprob) - expected(2.0)).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3]);
        assert!((f64::from(found.top[0].1) - expected(3.0)).abs() < 1e-6);
    }
}
