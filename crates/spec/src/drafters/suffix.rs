//! Guesses that the text goes on as it did after the same words before: a suffix automaton over
//! prompt and output (after SAM decoding, arXiv 2411.10666).
//!
//! How far to trust a match is learned from the text itself. Every new token tells whether the
//! guess at its place would have been right, drafted or not, so learning costs no row.

use super::automaton::{Repeat, SuffixAutomaton};
use super::rates::Rates;
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Round};

/// The suffix drafter of one sequence.
#[derive(Debug)]
pub struct SuffixDrafter {
    automaton: SuffixAutomaton,
    rates: Rates,
    min_match: usize,
}

impl Default for SuffixDrafter {
    /// Matches of any length: rates and price decide, and they do so better than a fixed minimum.
    fn default() -> Self {
        Self::new(1)
    }
}

impl SuffixDrafter {
    /// A drafter that guesses only when at least `min_match` tokens are repeated.
    pub fn new(min_match: usize) -> Self {
        Self { automaton: SuffixAutomaton::new(), rates: Rates::default(), min_match: min_match.max(1) }
    }

    /// Takes in the tokens that are new in the context.
    fn read(&mut self, context: &Context<'_>) {
        let text = context.tokens;
        for at in self.automaton.len()..text.len() {
            let Repeat { len, next } = self.automaton.repeat();
            if at >= context.prompt_len && len > 0 {
                self.rates.record(len, text[next] == text[at]);
            }
            self.automaton.push(text[at]);
        }
    }
}

impl Drafter for SuffixDrafter {
    fn name(&self) -> &str {
        "suffix"
    }

    /// The continuation of the longest repeated suffix as a chain. With every token that comes
    /// true the match is one longer, so a guess's chance is the product of the rates on its way.
    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        self.read(context);
        let Repeat { len, next } = self.automaton.repeat();
        if len < self.min_match {
            return;
        }
        // Where the earlier occurrence runs into the end of the text, the text is taken to be
        // periodic: the draft goes on with its own beginning.
        let continuation = context.tokens[next..].iter().cycle();
        let mut parent = None;
        let mut chance = 1.0;
        for (depth, &token) in continuation.take(rows).enumerate() {
            chance *= self.rates.rate(len + depth);
            parent = draft.push(token, parent, chance);
        }
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.read(&round.context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(drafter: &mut SuffixDrafter, tokens: &[u32], rows: usize) -> Vec<u32> {
        let mut draft = Draft::new();
        drafter.propose(&Context::new(tokens, tokens.len()), rows, &mut draft);
        assert!(draft.is_chain());
        draft.nodes().iter().map(|node| node.token).collect()
    }

    #[test]
    fn continues_the_most_recent_match() {
        let mut drafter = SuffixDrafter::new(2);
        assert_eq!(proposed(&mut drafter, &[1, 2, 3, 4, 1, 2, 5, 6, 1], 4), [0; 0]);
        assert_eq!(proposed(&mut drafter, &[1, 2, 3, 4, 1, 2, 5, 6, 1, 2], 4), [5, 6, 1, 2]);
        assert_eq!(proposed(&mut drafter, &[1, 2, 3, 4, 1, 2, 5, 6, 1, 2, 3], 3), [4, 1, 2]);
    }

    #[test]
    fn goes_round_in_a_period() {
        let mut drafter = SuffixDrafter::new(1);
        assert_eq!(proposed(&mut drafter, &[9, 7, 8, 7, 8], 5), [7, 8, 7, 8, 7]);
    }

    #[test]
    fn trusts_long_matches_more() {
        let mut drafter = SuffixDrafter::new(1);
        let mut tokens: Vec<u32> = (0..50).chain(0..1).collect();
        let mut draft = Draft::new();
        let mut first = |drafter: &mut SuffixDrafter, tokens: &[u32]| {
            draft.clear();
            drafter.propose(&Context::new(tokens, 50), 16, &mut draft);
            draft.nodes()[0].chance
        };
        let short = first(&mut drafter, &tokens);
        tokens.extend(1..40);
        let long = first(&mut drafter, &tokens);
        assert!(short < 0.2 && long > 0.9, "{short} {long}");
    }
}
