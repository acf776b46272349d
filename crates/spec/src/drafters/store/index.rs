//! Texts side by side, and an order of their positions by which the longest match of a text's end
//! is found: sorted by the tokens before them, read backwards.

use std::cmp::Ordering;

use crate::drafters::automaton::Follower;

/// Stands before each text.
pub(super) const START: u32 = u32::MAX;
/// Tokens before a position that are compared; a longer match counts as one of this length.
pub(super) const DEPTH: usize = 32;
/// Occurrences that are looked at, spread over all there are.
const LOOKED_AT: usize = 48;

/// Earlier texts, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Index {
    pub(super) tokens: Vec<u32>,
    /// Every position but those of [`START`], by what stands before it.
    pub(super) order: Vec<u32>,
}

impl Index {
    /// Adds `text`, unless it is there already, and then lets go of the oldest texts until at most
    /// `most` tokens are left, the newest text apart.
    pub(super) fn add(&mut self, text: &[u32], most: usize) {
        let usable = |text: &[u32]| !text.is_empty() && !text.contains(&START);
        if !usable(text) || self.texts().any(|known| known == text) {
            return;
        }
        self.evict(most.saturating_sub(text.len() + 1));
        let first = self.tokens.len() + 1;
        self.tokens.push(START);
        self.tokens.extend_from_slice(text);
        let mut new: Vec<u32> = (first..self.tokens.len()).map(|at| at as u32).collect();
        new.sort_unstable_by(|&a, &b| self.compare(a, b));
        let mut order = Vec::with_capacity(self.order.len() + new.len());
        let mut from = 0;
        for at in new {
            let rest = &self.order[from..];
            let to = from + rest.partition_point(|&known| self.compare(known, at).is_lt());
            order.extend_from_slice(&self.order[from..to]);
            order.push(at);
            from = to;
        }
        order.extend_from_slice(&self.order[from..]);
        self.order = order;
    }

    /// The texts, oldest first.
    pub(super) fn texts(&self) -> impl Iterator<Item = &[u32]> {
        self.tokens.split(|&token| token == START).filter(|text| !text.is_empty())
    }

    /// Lets go of the oldest texts until at most `most` tokens are left.
    fn evict(&mut self, most: usize) {
        let excess = self.tokens.len().saturating_sub(most);
        if excess == 0 {
            return;
        }
        let starts = self.tokens[excess..].iter().position(|&token| token == START);
        let gone = starts.map_or(self.tokens.len(), |at| excess + at);
        self.tokens.drain(..gone);
        // No comparison goes beyond the start of a text, so what is left is in order.
        self.order.retain_mut(|at| {
            let stays = *at as usize >= gone;
            *at = at.wrapping_sub(gone as u32);
            stays
        });
    }

    /// Compares what stands before two positions, backwards, then the positions.
    fn compare(&self, a: u32, b: u32) -> Ordering {
        self.against(&self.tokens[..b as usize], a).0.reverse().then(a.cmp(&b))
    }

    /// How `context` compares with what stands before `at`, and how many tokens they share.
    fn against(&self, context: &[u32], at: u32) -> (Ordering, usize) {
        let before = self.tokens.get(..at as usize).unwrap_or_default();
        let mut shared = 0;
        for (a, b) in context.iter().rev().zip(before.iter().rev()).take(DEPTH) {
            match a.cmp(b) {
                Ordering::Equal if *a == START => break,
                Ordering::Equal => shared += 1,
                unequal => return (unequal, shared),
            }
        }
        (Ordering::Equal, shared)
    }

    /// Where the end of `context` occurs: the order's range of the longest match, and its length.
    pub(super) fn longest(&self, context: &[u32]) -> Match {
        let at = self.order.partition_point(|&at| self.against(context, at).0.is_gt());
        let shared = |i: usize| self.order.get(i).map_or(0, |&at| self.against(context, at).1);
        let len = shared(at).max(at.checked_sub(1).map_or(0, shared));
        self.around(context, at, len)
    }

    /// The next longer range, of a shorter match; `None` beyond a match of one token.
    pub(super) fn shorter(&self, context: &[u32], found: &Match) -> Option<Match> {
        let shared = |i: usize| self.order.get(i).map_or(0, |&at| self.against(context, at).1);
        let len = shared(found.to).max(found.from.checked_sub(1).map_or(0, shared));
        // What was taken to match in full may go on equal beyond the depth.
        (len > 0 && len < found.len).then(|| self.around(context, found.from, len))
    }

    /// The range around `at` that shares `len` tokens with `context`.
    fn around(&self, context: &[u32], at: usize, len: usize) -> Match {
        if len == 0 {
            return Match { from: 0, to: 0, len: 0 };
        }
        let end = &context[context.len().saturating_sub(len)..];
        let inside = |&at: &u32| self.against(end, at).1 == end.len();
        let (before, after) = self.order.split_at(at);
        let from = before.partition_point(|at| !inside(at));
        let to = at + after.partition_point(inside);
        Match { from, to, len }
    }

    /// What followed at the occurrences, with counts; the newest text's was last.
    pub(super) fn followers(&self, found: &Match, out: &mut Vec<Follower>) {
        out.clear();
        let range = self.order.get(found.from..found.to).unwrap_or_default();
        let step = range.len().div_ceil(LOOKED_AT).max(1);
        for &at in range.iter().step_by(step) {
            let Some(&token) = self.tokens.get(at as usize) else { continue };
            match out.iter_mut().find(|f| f.token == token) {
                Some(f) => {
                    f.count += 1;
                    f.seen = f.seen.max(at);
                }
                None => out.push(Follower { token, count: 1, seen: at }),
            }
        }
    }
}

/// A range of the order whose positions stand behind the same `len` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) len: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0u32..3, 1..40)
    }

    /// Length of the longest match of the context's end that something follows, and what does.
    fn brute_force(texts: &[Vec<u32>], context: &[u32], below: usize) -> (usize, Vec<(u32, u32)>) {
        let shared = |text: &[u32], at: usize| {
            let pairs = text[..at].iter().rev().zip(context.iter().rev()).take(DEPTH);
            pairs.take_while(|(a, b)| a == b).count()
        };
        let places = || texts.iter().flat_map(|text| (0..text.len()).map(move |at| (text, at)));
        let len = places().map(|(text, at)| shared(text, at)).filter(|&len| len < below).max().unwrap_or(0);
        let mut found: Vec<(u32, u32)> = Vec::new();
        for (text, at) in places().filter(|&(text, at)| shared(text, at) >= len) {
            match found.iter_mut().find(|f| f.0 == text[at]) {
                Some(f) => f.1 += 1,
                None => found.push((text[at], 1)),
            }
        }
        found.sort_unstable();
        (len, found)
    }

    proptest! {
        #[test]
        fn finds_the_longest_match_and_what_followed(
            texts in proptest::collection::vec(text(), 0..8),
            context in proptest::collection::vec(0u32..3, 1..50),
            most in 20usize..400,
        ) {
            let mut index = Index::default();
            for text in &texts {
                index.add(text, most);
                prop_assert!(index.tokens.len() <= most.max(text.len() + 1));
                prop_assert!(index.order.is_sorted_by(|&a, &b| index.compare(a, b).is_lt()));
                prop_assert_eq!(index.order.len() + index.texts().count(), index.tokens.len());
            }
            // What is left are the newest of the texts, in their order.
            let kept: Vec<Vec<u32>> = index.texts().map(<[u32]>::to_vec).collect();
            let mut rest = texts.iter();
            prop_assert!(kept.iter().all(|text| rest.any(|t| t == text)));
            prop_assert!(texts.last().is_none_or(|last| kept.contains(last)));

            let mut found = index.longest(&context);
            let mut below = usize::MAX;
            let mut out = Vec::new();
            loop {
                let (len, expected) = brute_force(&kept, &context, below);
                prop_assert_eq!(found.len, len);
                if len == 0 {
                    break;
                }
                index.followers(&found, &mut out);
                let mut followers: Vec<(u32, u32)> = out.iter().map(|f| (f.token, f.count)).collect();
                followers.sort_unstable();
                if found.to - found.from <= LOOKED_AT {
                    prop_assert_eq!(followers, expected);
                }
                below = len;
                match index.shorter(&context, &found) {
                    Some(shorter) => found = shorter,
                    None => found = Match { from: 0, to: 0, len: 0 },
                }
            }
        }

        #[test]
        fn a_broken_order_gives_nothing_worse_than_wrong_guesses(
            tokens in proptest::collection::vec(prop_oneof![0u32..4, Just(START)], 0..60),
            order in proptest::collection::vec(0u32..70, 0..60),
            context in proptest::collection::vec(0u32..4, 0..40),
        ) {
            let mut index = Index { tokens, order };
            let found = index.longest(&context);
            index.followers(&found, &mut Vec::new());
            index.shorter(&context, &found);
            index.add(&[1, 2, 3], 50);
        }
    }
}
