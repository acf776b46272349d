//! A hostile drafter for tests: arbitrary trees and chains, right and wrong guesses mixed, tokens
//! outside the vocabulary, more nodes than asked for, and estimates that lie.

use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Round};
use crate::testing::mix;

/// Guesses from a hash of its seed and the length of the text.
#[derive(Debug)]
pub(crate) struct RandomDrafter {
    pub(crate) seed: u64,
    pub(crate) vocab: u32,
    /// The true text, for some of the guesses to be right for long.
    pub(crate) oracle: Vec<u32>,
}

impl Drafter for RandomDrafter {
    fn name(&self) -> &str {
        "random"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        let mut state = mix(self.seed ^ context.tokens.len() as u64);
        let mut below = |n: u64| {
            state = mix(state);
            state % n
        };
        let chain = below(3) == 0;
        let size = below(rows as u64 + 4);
        for _ in 0..size {
            let last = draft.len().checked_sub(1);
            let parent = match last {
                Some(last) if !chain && below(3) > 0 => (below(last as u64 + 2) as usize).checked_sub(1),
                _ => last,
            };
            let depth = parent.map_or(0, |p| draft.nodes()[p].depth);
            let truth = self.oracle.get(context.tokens.len() + depth);
            let token = match truth {
                Some(&token) if below(8) > 0 => token,
                _ => below(u64::from(self.vocab) + 1) as u32,
            };
            draft.push(token, parent, 1.0 - below(4) as f32 * 0.01);
        }
    }

    fn observe(&mut self, _: &Round<'_>) {}
}
