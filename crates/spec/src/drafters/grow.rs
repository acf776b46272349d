//! How a drafter without a network makes a tree: the likeliest guess first, whatever its depth.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::draft::Draft;
use crate::drafter::Context;

/// A guess that is not in the draft yet. `S` is what its drafter needs to go on behind it.
#[derive(Debug, Clone, Copy)]
struct Offer<S> {
    chance: f32,
    /// Offers of equal chance come in the order in which they were made.
    number: usize,
    parent: Option<usize>,
    token: u32,
    state: S,
}

/// A token that may follow, its chance given that all before came true, and the state behind it.
pub(crate) type Guess<S> = (u32, f32, S);

/// Memory of [`grow`](Self::grow).
#[derive(Debug)]
pub(crate) struct Grower<S> {
    offers: BinaryHeap<Offer<S>>,
    guesses: Vec<Guess<S>>,
}

/// Other drafters may agree with a guess and make it likelier: what is below the price by more than
/// this factor is given up.
const HOPE: f32 = 0.4;
/// What is less likely is never worth a row.
const LEAST: f32 = 0.004;

impl<S: Copy> Grower<S> {
    pub(crate) fn new() -> Self {
        Self { offers: BinaryHeap::new(), guesses: Vec::new() }
    }

    /// Adds up to `rows` nodes to `draft`, the likeliest first. `look(state, depth, guesses)` gives
    /// the guesses behind a node that stands at `depth`, 0 being the text, whose state is `text`.
    pub(crate) fn grow(
        &mut self,
        context: &Context<'_>,
        rows: usize,
        text: S,
        draft: &mut Draft,
        mut look: impl FnMut(S, usize, &mut Vec<Guess<S>>),
    ) {
        let least = LEAST.max(HOPE * context.worth.least_chance(0.0));
        self.offers.clear();
        let (mut at, mut state, mut depth, mut above) = (None, text, 0, 1.0);
        let mut number = 0;
        loop {
            self.guesses.clear();
            look(state, depth, &mut self.guesses);
            for &(token, chance, state) in &self.guesses {
                let chance = above * chance;
                if chance >= least {
                    number += 1;
                    self.offers.push(Offer { chance, number, parent: at, token, state });
                }
            }
            if draft.len() >= rows {
                return;
            }
            let Some(best) = self.offers.pop() else { return };
            let Some(node) = draft.push(best.token, best.parent, best.chance) else { return };
            (at, state, above) = (Some(node), best.state, best.chance);
            depth = draft.nodes()[node].depth;
        }
    }
}

impl<S> Ord for Offer<S> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.chance.total_cmp(&other.chance).then(other.number.cmp(&self.number))
    }
}

impl<S> PartialOrd for Offer<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> PartialEq for Offer<S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<S> Eq for Offer<S> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_whatever_their_depth() {
        let mut draft = Draft::new();
        let context = Context::new(&[1], 1);
        // Behind each node the token of its depth with 0.6, and one more with 0.3.
        Grower::new().grow(&context, 5, 0u32, &mut draft, |state, depth, guesses| {
            assert_eq!(state as usize, depth);
            guesses.extend([(state, 0.6, state + 1), (state + 100, 0.3, state + 1)]);
        });
        let found: Vec<_> = draft.nodes().iter().map(|n| (n.token, n.parent)).collect();
        assert_eq!(found, [(0, None), (1, Some(0)), (100, None), (2, Some(1)), (101, Some(0))]);
    }

    #[test]
    fn ends_where_guesses_are_too_unlikely() {
        let mut draft = Draft::new();
        let worth = crate::Worth { lambda: 2.0, row: 0.1, pass_seconds: 0.0, ..crate::Worth::default() };
        let context = Context { worth, ..Context::new(&[1], 1) };
        Grower::new().grow(&context, 50, (), &mut draft, |_, _, guesses| guesses.push((7, 0.5, ())));
        assert_eq!(draft.len(), 3);
    }
}
