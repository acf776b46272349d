//! Guesses that the text goes on as it did after the same words before: a suffix automaton over
//! prompt and output (after SAM decoding, arXiv 2411.10666), and trees by what followed how often
//! (after SuffixDecoding, arXiv 2411.04975).
//!
//! How far to trust a match is learned from the text itself. Every new token tells whether the
//! guesses at its place would have been right, drafted or not, so learning costs no row.

use super::automaton::{Place, SuffixAutomaton};
use super::grow::{Grower, Guess};
use super::hints::{HintOdds, Hints, WITHIN};
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Round};

/// Ever shorter matches that are looked at behind a node.
const LEVELS: usize = 4;
/// Of the kinds of continuation of a match, the newest that are looked at.
const KINDS: usize = 16;

/// The suffix drafter of one sequence.
#[derive(Debug)]
pub struct SuffixDrafter {
    automaton: SuffixAutomaton,
    odds: HintOdds,
    grower: Grower<Place>,
    hints: Hints,
    min_match: usize,
}

impl Default for SuffixDrafter {
    /// Matches of any length: odds and price decide, and they do so better than a fixed minimum.
    fn default() -> Self {
        Self::new(1)
    }
}

impl SuffixDrafter {
    /// A drafter that guesses only when at least `min_match` tokens are repeated.
    pub fn new(min_match: usize) -> Self {
        Self {
            automaton: SuffixAutomaton::new(),
            odds: HintOdds::new(WITHIN),
            grower: Grower::new(),
            hints: Hints::default(),
            min_match: min_match.max(1),
        }
    }

    /// Takes in the tokens that are new in the context.
    fn read(&mut self, context: &Context<'_>) {
        let text = context.tokens;
        for (at, &token) in text.iter().enumerate().skip(self.automaton.len()) {
            if at >= context.prompt_len {
                look(&self.automaton, self.automaton.repeat(), self.min_match, &mut self.hints);
                self.hints.learn(token, &mut self.odds);
            }
            self.automaton.push(token);
        }
    }
}

/// Gathers what followed `place` before, and its ever shorter suffixes.
fn look(automaton: &SuffixAutomaton, place: Place, min_match: usize, hints: &mut Hints) {
    hints.clear();
    let mut level = Some(place);
    for _ in 0..LEVELS {
        let Some(place) = level.filter(|place| place.len() >= min_match) else { return };
        hints.add(place.len(), automaton.followers(place).take(KINDS));
        if hints.is_full() {
            return;
        }
        level = automaton.shorter(place);
    }
}

impl Drafter for SuffixDrafter {
    fn name(&self) -> &str {
        "suffix"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        self.read(context);
        let Self { automaton, odds, grower, hints, min_match } = self;
        let behind = |place: Place, _: usize, guesses: &mut Vec<Guess<Place>>| {
            look(automaton, place, *min_match, hints);
            let followed =
                hints.chances(odds).map(|(token, chance)| (token, chance, automaton.follow(place, token)));
            guesses.extend(followed);
        };
        grower.grow(context, rows, automaton.repeat(), draft, behind);
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.read(&round.context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(drafter: &mut SuffixDrafter, tokens: &[u32], rows: usize) -> Draft {
        let mut draft = Draft::new();
        drafter.propose(&Context::new(tokens, tokens.len()), rows, &mut draft);
        draft
    }

    /// The path of likeliest nodes.
    fn spine(draft: &Draft) -> Vec<u32> {
        let mut path = Vec::new();
        let mut at = None;
        while let Some(token) = draft.tokens_after(at).next() {
            path.push(token);
            at = draft.child(at, token);
        }
        path
    }

    #[test]
    fn continues_a_match() {
        let mut drafter = SuffixDrafter::new(2);
        assert!(proposed(&mut drafter, &[1, 2, 3, 4, 1, 2, 5, 6, 1], 4).is_empty());
        let draft = proposed(&mut drafter, &[1, 2, 3, 4, 1, 2, 5, 6, 1, 2], 32);
        // The newer continuation first, the older beside it.
        assert_eq!(spine(&draft)[..2], [5, 6]);
        assert!(draft.child(None, 3).is_some());
        let draft = proposed(&mut drafter, &[1, 2, 3, 4, 1, 2, 5, 6, 1, 2, 3], 3);
        assert_eq!(spine(&draft), [4, 1, 2]);
    }

    #[test]
    fn goes_round_in_a_period() {
        let mut drafter = SuffixDrafter::new(1);
        assert_eq!(spine(&proposed(&mut drafter, &[9, 7, 8, 7, 8, 7, 8], 12))[..5], [7, 8, 7, 8, 7]);
    }

    #[test]
    fn what_came_more_often_is_likelier() {
        let mut drafter = SuffixDrafter::new(1);
        let draft = proposed(&mut drafter, &[1, 2, 9, 1, 2, 8, 1, 2, 7, 1, 3, 6, 1], 16);
        let chance = |token| draft.nodes()[draft.child(None, token).unwrap()].chance;
        assert!(chance(2) > chance(3));
    }

    #[test]
    fn trusts_long_matches_more() {
        let mut drafter = SuffixDrafter::new(1);
        let mut tokens: Vec<u32> = (0..50).chain(0..1).collect();
        let short = proposed(&mut drafter, &tokens, 16).nodes()[0].chance;
        tokens.extend(1..40);
        let long = proposed(&mut drafter, &tokens, 16).nodes()[0].chance;
        assert!(short < 0.5 && long > 0.9, "{short} {long}");
    }
}
