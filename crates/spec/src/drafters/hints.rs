//! From what followed the text's end before to guesses of what follows now.
//!
//! A longer match says more than a shorter one, what came often more than what came once, what came
//! last more than what came long ago. How much is learned as text goes by.

use super::automaton::Follower;
use crate::odds::Odds;

/// Guesses behind a node.
const OFFERED: usize = 4;
/// Of a hint: see [`Hint::new`].
const FEATURES: usize = 7;

/// How much a hint's features mean.
pub(crate) type HintOdds = Odds<FEATURES>;

/// What mostly holds of repetitions within a text, from texts of several kinds and models.
pub(crate) const WITHIN: [f32; FEATURES] = [-1.2, 1.0, 0.25, 0.75, 0.5, -1.2, 0.0];
/// The same of repetitions of other texts.
pub(crate) const ACROSS: [f32; FEATURES] = [-1.6, 1.0, 0.25, 0.4, 0.3, -1.0, 0.0];

/// A token that has followed the text's end before.
#[derive(Debug, Clone, Copy)]
struct Hint {
    token: u32,
    features: [f32; FEATURES],
}

/// Hints for one place, the best first. Each is meant for when those before it turn out wrong.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    list: Vec<Hint>,
}

impl Hints {
    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    /// Whether no more are wanted.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= OFFERED
    }

    /// Adds the two that came most often and the one that came last after a match of `len` tokens.
    pub(crate) fn add(&mut self, len: usize, followers: impl Iterator<Item = Follower>) {
        let (mut total, mut kinds) = (0, 0);
        let mut newest: Option<Follower> = None;
        let mut most: [Option<Follower>; 2] = [None; 2];
        let rank = |f: &Option<Follower>| f.map(|f| (f.count, f.seen));
        for follower in followers {
            total += follower.count;
            kinds += 1;
            if self.list.iter().any(|hint| hint.token == follower.token) {
                continue;
            }
            if newest.is_none_or(|n| follower.seen > n.seen) {
                newest = Some(follower);
            }
            let new = Some(follower);
            if rank(&new) > rank(&most[0]) {
                most = [new, most[0]];
            } else if rank(&new) > rank(&most[1]) {
                most[1] = new;
            }
        }
        for follower in [most[0], newest, most[1]].into_iter().flatten() {
            if !self.is_full() && self.list.iter().all(|hint| hint.token != follower.token) {
                let newest = newest.is_some_and(|n| n.token == follower.token);
                let before = self.list.len();
                self.list.push(Hint::new(follower, len, total, kinds, newest, before));
            }
        }
    }

    /// The tokens and their chances, with what stands between them taken into account.
    pub(crate) fn chances(&self, odds: &HintOdds) -> impl Iterator<Item = (u32, f32)> {
        let mut left = 1.0;
        self.list.iter().map(move |hint| {
            let own = odds.chance(&hint.features);
            let chance = left * own;
            left *= 1.0 - own;
            (hint.token, chance)
        })
    }

    /// Lets `odds` learn that `token` came.
    pub(crate) fn learn(&self, token: u32, odds: &mut HintOdds) {
        for hint in &self.list {
            let came_true = hint.token == token;
            odds.learn(&hint.features, came_true);
            if came_true {
                break;
            }
        }
    }
}

impl Hint {
    /// Features: constant, length of the match, share of the occurrences that went on like this,
    /// their number, whether it was the last, whether others went on otherwise, and how many
    /// better guesses there are.
    fn new(follower: Follower, len: usize, total: u32, kinds: usize, newest: bool, before: usize) -> Self {
        let (count, total) = (follower.count as f32, total as f32);
        let share = ((count + 0.5) / (total - count + 0.5)).ln();
        let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
        let length = (len.max(1) as f32).ln();
        let features =
            [1.0, length, share, count.max(1.0).ln(), flag(newest), flag(kinds > 1), before as f32];
        Self { token: follower.token, features }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(token: u32, count: u32, seen: u32) -> Follower {
        Follower { token, count, seen }
    }

    fn tokens(hints: &Hints) -> Vec<u32> {
        hints.chances(&HintOdds::new(WITHIN)).map(|(token, _)| token).collect()
    }

    #[test]
    fn the_most_frequent_then_the_newest_then_shorter_matches() {
        let mut hints = Hints::default();
        hints.add(5, [follower(1, 2, 10), follower(2, 9, 20), follower(3, 1, 30)].into_iter());
        assert_eq!(tokens(&hints), [2, 3, 1]);
        hints.add(2, [follower(2, 99, 20), follower(7, 1, 30), follower(8, 1, 31)].into_iter());
        assert_eq!(tokens(&hints), [2, 3, 1, 8]);
        assert!(hints.is_full());
    }

    #[test]
    fn chances_are_those_of_alternatives_and_follow_what_comes() {
        let mut odds = HintOdds::new(WITHIN);
        let mut hints = Hints::default();
        hints.add(1, (0..3).map(|i| follower(i, 3 - i, i)));
        let total = |odds: &HintOdds| hints.chances(odds).map(|(_, chance)| chance).sum::<f32>();
        assert!(total(&odds) < 1.0);
        let before: Vec<f32> = hints.chances(&odds).map(|(_, chance)| chance).collect();
        for _ in 0..50 {
            hints.learn(1, &mut odds);
        }
        let after: Vec<f32> = hints.chances(&odds).map(|(_, chance)| chance).collect();
        assert!(after[1] > before[1] && after[0] < before[0], "{before:?} {after:?}");
        assert!(total(&odds) < 1.0);
    }
}
