//! A drafter that means harm, for checks that no drafter can change a text: random trees, the
//! longest chains, repetitions, the end of the text inside a draft, tokens that do not exist, more
//! nodes than asked for, and estimates that lie or are no numbers.

use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Round};
use crate::random::SplitMix64;

/// Guesses from a hash of its seed and the length of the text.
#[derive(Debug, Clone, Default)]
pub struct HostileDrafter {
    /// Number of token ids; guesses go beyond.
    pub vocab: u32,
    /// Tokens that end a text, to be guessed too early.
    pub end_tokens: Vec<u32>,
    /// Prompt and true output, for guesses to be right for a while and then go wrong; may be empty.
    pub truth: Vec<u32>,
    /// Whether to claim that tokens were drawn from a law that is none. That changes no text where
    /// tokens are compared; rejection and block rely on laws.
    pub false_laws: bool,
    /// Which harm is done when.
    pub seed: u64,
}

/// What one draft is like.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// The truth, with wrong branches beside it and tokens changed here and there.
    Nearly,
    /// Tokens at random in a tree of any shape.
    Random,
    /// One token, over and over, in the longest chain.
    Repeats,
    /// The truth, with the end of the text inside and the truth going on behind.
    Ended,
    /// Tokens that do not exist, among some that do.
    Outside,
    /// The truth, claimed to be drawn from a law that is none.
    Drawn,
}

const HARMS: [Harm; 6] = [Harm::Nearly, Harm::Random, Harm::Repeats, Harm::Ended, Harm::Outside, Harm::Drawn];

/// Chances from certain to impossible to absurd.
const CHANCES: [f32; 8] = [1.0, 0.9, 0.3, 0.0, -1.0, 7.0, f32::NAN, f32::INFINITY];

impl Drafter for HostileDrafter {
    fn name(&self) -> &str {
        "hostile"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        let text = context.tokens;
        let mut dice = SplitMix64::new(self.seed ^ text.len() as u64);
        let harm = HARMS[dice.below(HARMS.len())];
        // Sure of itself for a whole draft, or all over the place.
        let sure = dice.below(3) > 0;
        let size = if matches!(harm, Harm::Repeats) { rows + 3 } else { dice.below(rows + 4) };
        let chain = dice.below(3) == 0;
        let last = text.last().copied().unwrap_or_default();
        for i in 0..size {
            let chance = if sure { 1.0 } else { CHANCES[dice.below(CHANCES.len())] };
            let newest = draft.len().checked_sub(1);
            let parent = match newest {
                Some(newest) if !chain && dice.below(3) > 0 && !matches!(harm, Harm::Repeats) => {
                    dice.below(newest + 2).checked_sub(1)
                }
                _ => newest,
            };
            let depth = parent.and_then(|p| draft.nodes().get(p)).map_or(0, |node| node.depth);
            let truth = self.truth.get(text.len() + depth).copied();
            let random = dice.below(self.vocab.max(1) as usize) as u32;
            let token = match harm {
                Harm::Nearly if dice.below(8) > 0 => truth.unwrap_or(random),
                Harm::Nearly | Harm::Random => random,
                Harm::Repeats => last,
                Harm::Ended if dice.below(4) == 0 => match self.end_tokens.len() {
                    0 => random,
                    n => self.end_tokens[dice.below(n)],
                },
                Harm::Ended | Harm::Drawn => truth.unwrap_or(random),
                Harm::Outside if dice.below(2) == 0 => {
                    self.vocab.saturating_add((i as u32).wrapping_mul(0x1fff_ffff))
                }
                Harm::Outside => truth.unwrap_or(random),
            };
            if self.false_laws && matches!(harm, Harm::Drawn) && dice.below(2) == 0 {
                let law = [(token, f64::NAN), (random, -1.0)];
                draft.push_drawn(&[token, random], parent, &[chance, 1.0], &law, &mut Vec::new());
            } else {
                draft.push_from(dice.below(256) as u8, token, parent, chance);
            }
        }
    }

    fn observe(&mut self, _: &Round<'_>) {}
}
