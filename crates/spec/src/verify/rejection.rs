//! Speculative sampling: keep a candidate as often as the target's law allows, and draw from what
//! is left of that law when none is kept (Leviathan et al. 2211.17192, Chen et al. 2302.01318; for
//! several candidates SpecInfer, 2305.09781).
//!
//! The token after a row is then distributed exactly as the target says, whatever was drafted, as
//! long as candidates are what they claim to be: fixed without regard to chance, or drawn from the
//! stated distribution.

use super::Coin;
use crate::sampler::Distribution;

/// What a drafter proposes to follow one row.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// Tokens that were chosen without chance. They are tried first.
    pub fixed: &'a [u32],
    /// Tokens that were drawn from `law`, in the order in which they were drawn.
    pub drawn: &'a [u32],
    /// What they were drawn from; ascending tokens, sum 1.
    pub law: &'a Distribution,
    /// Whether a drawn token could be drawn again. If not, each draw was from the rest.
    pub replacement: bool,
}

/// The token that follows a row: one of the candidates, or another if none is kept. `p` is the
/// target's distribution there, by ascending token; it is used up.
///
/// A token that is not a kept candidate differs from all candidates.
///
/// Returns `None` only when `p` is empty.
pub fn choose(p: &mut Vec<(u32, f64)>, candidates: &Candidates<'_>, coin: &mut impl Coin) -> Option<u32> {
    for &token in candidates.fixed {
        if coin.flip(weight(p, token)) {
            return Some(token);
        }
        remove(p, token);
    }
    let mut rest = Vec::new();
    let mut q = candidates.law;
    for &token in candidates.drawn {
        let (wanted, had) = (weight(p, token), weight(q, token));
        // A token that its law does not hold was not drawn from it.
        if wanted > 0.0 && had > 0.0 && coin.flip(wanted / had) {
            return Some(token);
        }
        subtract(p, 1.0, q);
        normalise(p);
        if !candidates.replacement {
            if rest.is_empty() {
                rest.extend_from_slice(candidates.law);
            }
            remove(&mut rest, token);
            q = &rest;
        }
    }
    coin.draw(p)
}

/// Probability of `token`; 0 where the distribution does not hold it.
pub(super) fn weight(law: &Distribution, token: u32) -> f64 {
    law.binary_search_by_key(&token, |&(t, _)| t).map_or(0.0, |at| law[at].1)
}

/// Takes `token` out, unless nothing would be left.
fn remove(law: &mut Vec<(u32, f64)>, token: u32) {
    if let Ok(at) = law.binary_search_by_key(&token, |&(t, _)| t)
        && law.len() > 1
    {
        law.remove(at);
        normalise(law);
    }
}

/// `max(scale * p - q, 0)`, not normalised. Where rounding leaves nothing, `p` stays as it was:
/// the two laws are the same, and no candidate of theirs is refused.
pub(super) fn subtract(p: &mut Vec<(u32, f64)>, scale: f64, q: &Distribution) {
    let mut kept = 0;
    let mut q = q.iter().copied().peekable();
    for at in 0..p.len() {
        let (token, weight) = p[at];
        while q.next_if(|&(t, _)| t < token).is_some() {}
        let taken = q.next_if(|&(t, _)| t == token).map_or(0.0, |(_, w)| w);
        let left = scale * weight - taken;
        if left > 0.0 {
            p[kept] = (token, left);
            kept += 1;
        }
    }
    if kept > 0 {
        p.truncate(kept);
    }
}

fn normalise(law: &mut [(u32, f64)]) {
    let total: f64 = law.iter().map(|&(_, w)| w).sum();
    if total > 0.0 {
        law.iter_mut().for_each(|(_, w)| *w /= total);
    }
}
