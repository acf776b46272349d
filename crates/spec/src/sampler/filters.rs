//! Top-k, top-p and min-p: which tokens may be drawn, found in O(vocabulary) without sorting it.

use std::cmp::Ordering;

use super::elementary::{exp, ln};

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) token: u32,
    pub(crate) logit: f32,
}

/// Greater logit first; of equals the lower id.
pub(super) fn descending(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

/// The three cuts, in this order. Each keeps at least the likeliest token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filters {
    /// Tokens to keep; 0 for all.
    pub(crate) top_k: usize,
    /// Mass to keep, as the smallest set of likeliest tokens that has it; 1 for all.
    pub(crate) top_p: f64,
    /// Least probability, relative to the likeliest token's; 0 for all.
    pub(crate) min_p: f64,
    /// One over the temperature.
    pub(crate) scale: f64,
}

impl Filters {
    /// Whether every token survives in a vocabulary of `vocab`.
    pub(crate) fn keep_all(&self, vocab: usize) -> bool {
        (self.top_k == 0 || self.top_k >= vocab) && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    /// Writes the survivors of `row` to `list`, in no particular order. `max` is the greatest
    /// logit. Logits of minus infinity and NaN never survive.
    pub(crate) fn apply(&self, row: &[f32], max: f32, list: &mut Vec<Candidate>) {
        let limited = self.top_k > 0 && self.top_k < row.len();
        if limited {
            select(row, self.top_k, list);
        }
        if self.top_p < 1.0 {
            if limited {
                let need = self.share(self.mass(list, max));
                self.nucleus(list, max, need);
            } else {
                self.nucleus_of_row(row, max, list);
            }
        }
        if self.min_p > 0.0 {
            // p >= min_p * p_max, in logits. Rounding in f64 keeps the likeliest: ln(min_p) <= 0.
            let least = (f64::from(max) + ln(self.min_p.max(f64::MIN_POSITIVE)) / self.scale) as f32;
            if limited || self.top_p < 1.0 {
                list.retain(|c| c.logit >= least);
            } else {
                list.clear();
                list.extend(candidates(row).filter(|c| c.logit >= least));
            }
        }
    }

    /// Writes the distribution that `row`, whose greatest logit is `max`, stands for to `out`: the places of what
    /// survives, ascending, and their probabilities. `list` is scratch.
    pub(crate) fn law(&self, row: &[f32], max: f32, list: &mut Vec<Candidate>, out: &mut Vec<(u32, f64)>) {
        let weight = |logit: f32| f64::from(exp((f64::from(logit - max) * self.scale) as f32));
        out.clear();
        if self.keep_all(row.len()) {
            out.extend((0..).zip(row).map(|(place, &logit)| (place, weight(logit))));
        } else {
            self.apply(row, max, list);
            list.sort_unstable_by_key(|c| c.token);
            out.extend(list.iter().map(|c| (c.token, weight(c.logit))));
        }
        let total: f64 = out.iter().map(|&(_, w)| w).sum();
        out.iter_mut().for_each(|(_, w)| *w /= total);
    }

    /// Logit relative to the likeliest token's, over temperature: 0 or less.
    fn depth(&self, logit: f32, max: f32) -> f32 {
        // A temperature next to 0 must not make 0 times infinity of the likeliest.
        (logit - max) * (self.scale as f32).min(f32::MAX)
    }

    /// Probability relative to the likeliest token's, as a whole number of 2^-40: sums are exact,
    /// so they do not depend on the order in which a selection leaves its elements.
    fn weight(&self, logit: f32, max: f32) -> u64 {
        whole(exp(self.depth(logit, max)))
    }

    fn mass(&self, list: &[Candidate], max: f32) -> u64 {
        list.iter().map(|c| self.weight(c.logit, max)).sum()
    }

    /// The mass to reach out of `total`.
    fn share(&self, total: u64) -> u64 {
        (self.top_p * total as f64).ceil() as u64
    }

    /// Nucleus of a whole row. A histogram of mass over logits tells how far down it reaches at
    /// most, and only the tokens down to there are compared with each other.
    fn nucleus_of_row(&self, row: &[f32], max: f32, list: &mut Vec<Candidate>) {
        // Sixteen bins to a nat. The last begins where weights are zero, and takes all the rest.
        const BINS: usize = 28 * 16;
        let bin = |depth: f32| (depth * -16.0).min((BINS - 1) as f32) as i32;
        let mut masses = [0; BINS];
        for block in row.chunks(64) {
            let mut bins = [0; 64];
            let mut shares = [0.0; 64];
            for ((&x, b), share) in block.iter().zip(&mut bins).zip(&mut shares) {
                let depth = self.depth(x, max);
                (*b, *share) = (bin(depth), exp(depth));
            }
            for (&b, &share) in bins.iter().zip(&shares) {
                masses[b as usize] += whole(share);
            }
        }
        let need = self.share(masses.iter().sum());
        let mut above = 0;
        let reached = masses.iter().position(|mass| {
            above += mass;
            above >= need
        });
        let last = reached.unwrap_or(BINS - 1) as i32;
        list.clear();
        list.extend(
            candidates(row).filter(|c| c.logit > f32::NEG_INFINITY && bin(self.depth(c.logit, max)) <= last),
        );
        self.nucleus(list, max, need);
    }

    /// Cuts `list` to its likeliest tokens that together reach `need`: a quickselect by mass.
    fn nucleus(&self, list: &mut Vec<Candidate>, max: f32, need: u64) {
        // list[..lo] are likelier than list[lo..hi], which are likelier than the rest; the mass
        // `above` of list[..lo] does not reach `need`.
        let (mut lo, mut hi) = (0, list.len());
        let mut above = 0;
        while hi - lo > 1 {
            let middle = (hi - lo) / 2;
            list[lo..hi].select_nth_unstable_by(middle, descending);
            let mass = self.mass(&list[lo..lo + middle], max);
            if above + mass >= need {
                hi = lo + middle;
            } else {
                above += mass;
                lo += middle;
            }
        }
        list.truncate(hi);
    }
}

/// A number from 0 to 1 in units of 2^-40.
fn whole(share: f32) -> u64 {
    (share * (1u64 << 40) as f32) as i64 as u64
}

/// All tokens of a row with their logits.
fn candidates(row: &[f32]) -> impl Iterator<Item = Candidate> {
    row.iter().zip(0u32..).map(|(&logit, token)| Candidate { token, logit })
}

/// Writes the `count` greatest elements of `row` to `list`, unordered, minus infinity left out.
///
/// One pass that gathers what beats the count-th best so far, thinned by a partial selection
/// whenever twice as many have gathered.
pub(super) fn select(row: &[f32], count: usize, list: &mut Vec<Candidate>) {
    list.clear();
    if count == 0 {
        return;
    }
    let full = count.saturating_mul(2).saturating_add(64);
    let mut least = f32::NEG_INFINITY;
    for candidate in candidates(row) {
        if candidate.logit > least {
            list.push(candidate);
            if list.len() == full {
                list.select_nth_unstable_by(count - 1, descending);
                list.truncate(count);
                // Later ids lose a tie, so from here on only what is greater can enter.
                least = list[count - 1].logit;
            }
        }
    }
    if list.len() > count {
        list.select_nth_unstable_by(count - 1, descending);
        list.truncate(count);
    }
}

/// The greatest element of `row`, NaN left aside; minus infinity when there is none.
pub(super) fn maximum(row: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = greater(*lane, x);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| greater(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against sorting the row and reading the definitions off.
        #[test]
        fn cuts_as_sorting_does(
            row in proptest::collection::vec(
                prop_oneof![4 => -8f32..8.0, 1 => Just(1.5f32), 1 => Just(f32::NEG_INFINITY)], 1..900),
            top_k in prop_oneof![Just(0usize), 1usize..50, 1usize..900],
            top_p in prop_oneof![Just(1.0f64), 0.01f64..1.0],
            min_p in prop_oneof![Just(0.0f64), 0.001f64..1.0],
            scale in 0.2f64..3.0,
        ) {
            let max = maximum(&row);
            prop_assume!(max.is_finite());
            let filters = Filters { top_k, top_p, min_p, scale };
            let mut list = Vec::new();
            filters.apply(&row, max, &mut list);

            let mut sorted: Vec<_> = candidates(&row).filter(|c| c.logit > f32::NEG_INFINITY).collect();
            sorted.sort_by(descending);
            if top_k > 0 {
                sorted.truncate(top_k);
            }
            if top_p < 1.0 {
                let need = filters.share(filters.mass(&sorted, max));
                let mut mass = 0;
                let reached = sorted.iter().position(|c| {
                    mass += filters.weight(c.logit, max);
                    mass >= need
                });
                sorted.truncate(reached.map_or(sorted.len(), |last| last + 1));
            }
            if min_p > 0.0 {
                let least = (f64::from(max) + ln(min_p) / scale) as f32;
                sorted.retain(|c| c.logit >= least);
            }
            if !filters.keep_all(row.len()) {
                list.sort_by(descending);
                prop_assert_eq!(list, sorted);
            }
        }
    }

    #[test]
    fn maximum_skips_nan() {
        let mut row = vec![f32::NAN; 40];
        assert_eq!(maximum(&row), f32::NEG_INFINITY);
        row[33] = -2.0;
        row[5] = -3.0;
        assert_eq!(maximum(&row), -2.0);
    }
}
