//! Block verification: a chain of draws is judged as a whole, from its end (Sun et al.
//! 2403.10444). Exact like token-by-token rejection, and on average it keeps at least as much: a
//! token that alone would have been refused may be kept for what follows it.

use super::Coin;
use super::rejection::{subtract, weight};
use crate::sampler::Distribution;

/// A drafted chain and both sides' distributions along it.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// What each token was drawn from; one entry for a token that was fixed without chance.
    pub q: &'a [Vec<(u32, f64)>],
    /// What the target says at each token's place, and after the last.
    pub p: &'a [Vec<(u32, f64)>],
}

/// How many tokens of the chain are kept, and the token that follows these. Every distribution is
/// by ascending token and sums to 1.
///
/// The token is `None` only when the target's distribution at its place is empty.
pub fn choose(chain: &Chain<'_>, coin: &mut impl Coin) -> (usize, Option<u32>) {
    let Chain { tokens, q, p } = *chain;
    let len = tokens.len().min(q.len()).min(p.len().saturating_sub(1));
    // reach[i]: how far the target's probability of the first i tokens is covered by the drafter's.
    let mut reach = vec![1.0f64];
    for i in 0..len {
        let (wanted, had) = (weight(&p[i], tokens[i]), weight(&q[i], tokens[i]));
        let ratio = if had > 0.0 { wanted / had } else { 0.0 };
        reach.push((reach[i] * ratio).min(1.0));
    }
    let certain = Vec::new();
    for kept in (0..=len).rev() {
        // What is still the target's after `kept` tokens: all of it at the end of the chain.
        let taken = if kept < len { &q[kept] } else { &certain };
        let excess = excess(p.get(kept).unwrap_or(&certain), reach[kept], taken);
        let chance = if kept < len { excess / (excess + 1.0 - reach[kept]) } else { reach[kept] };
        // Nothing precedes an empty chain that could be refused.
        if kept == 0 || coin.flip(chance) {
            let mut left = p.get(kept).cloned().unwrap_or_default();
            subtract(&mut left, reach[kept], taken);
            return (kept, coin.draw(&left));
        }
    }
    (0, None)
}

/// Sum of `max(scale * p - q, 0)`.
fn excess(p: &Distribution, scale: f64, q: &Distribution) -> f64 {
    let mut q = q.iter().copied().peekable();
    let mut sum = 0.0;
    for &(token, weight) in p {
        while q.next_if(|&(t, _)| t < token).is_some() {}
        let taken = q.next_if(|&(t, _)| t == token).map_or(0.0, |(_, w)| w);
        sum += (scale * weight - taken).max(0.0);
    }
    sum
}
