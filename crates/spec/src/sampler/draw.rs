//! A drafter's view of the sampler: which tokens the draw at a position would fall on, if the
//! target's scores were the drafter's.
//!
//! Target and drafter use the same keyed noise, so a guess comes true far more often than by two
//! independent draws (Daliri et al. 2025, arXiv 2408.07978).

use leveret_model::drafters::Scores;

use super::elementary::{exp, sum_exp};
use super::filters::{Candidate, Filters, descending, maximum};
use super::noise::Noise;
use super::params::SamplingParams;
use crate::draft::Draft;
use crate::verify::{Coin, KeyedCoin};

/// How the tokens of a text are drawn, penalties left out.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    seed: u64,
    greedy: bool,
    filters: Filters,
    /// Whether verification makes use of laws: see [`wants_laws`](Self::wants_laws).
    laws: bool,
    /// Whether several draws for one place are of use to it.
    trees: bool,
}

/// A token that the draw may fall on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Token id of the target.
    pub token: u32,
    /// Estimated chance that the draw falls on it, by the drafter's own scores.
    pub chance: f32,
}

/// Memory of [`Draw::choices`].
#[derive(Debug, Default)]
pub struct DrawScratch {
    list: Vec<Candidate>,
}

/// Likeliest tokens among which runners-up are looked for.
const POOL: usize = 32;

/// With the noise known, what stays uncertain is how far the target's scores are from the
/// drafter's: differences of perturbed scores count this much more than differences of logits.
const SHARPNESS: f32 = 1.5;

impl Draw {
    /// The draw of greedy decoding: the likeliest token.
    pub fn greedy() -> Self {
        Self::new(&SamplingParams::default())
    }

    /// The draw of a sampler with these parameters.
    pub fn new(params: &SamplingParams) -> Self {
        let (greedy, filters) = (params.temperature == 0.0, params.filters());
        Self { seed: params.seed, greedy, filters, laws: false, trees: false }
    }

    /// The draws of a drafter in the round that follows `len` tokens, where verification is not by
    /// matching. They must be independent of the sampler's, and of those of other rounds.
    pub(crate) fn of_round(self, len: usize, trees: bool) -> Self {
        Self { seed: Noise::new(self.seed, len as u64).seed(), laws: !self.greedy, trees, ..self }
    }

    /// Whether tokens had better be drawn, by [`propose`](Self::propose), than guessed from
    /// [`choices`](Self::choices): verification is by rejection or block.
    pub fn wants_laws(&self) -> bool {
        self.laws
    }

    /// Draws up to `count` tokens from `scores` without replacement, and adds them to `draft` after
    /// `parent` together with their law. Their indices go to `added`, see [`Draft::push_drawn`].
    ///
    /// `chance(rank, own)` estimates how likely the draw of that rank is accepted, given that the
    /// parent is, or says that it is not worth a row; `own` is what the law says of it. It comes to
    /// know the law alone, and not the token, as it must.
    pub fn propose(
        &self,
        scores: &Scores<'_>,
        count: usize,
        draft: &mut Draft,
        parent: Option<usize>,
        mut chance: impl FnMut(usize, f32) -> Option<f32>,
        added: &mut Vec<usize>,
    ) {
        let law = self.law(scores);
        // Each place has numbers of its own, also where two are equally deep.
        let mut coin = KeyedCoin::new(Noise::new(self.seed, draft.draws().len() as u64));
        let (mut rest, mut tokens, mut chances) = (law.clone(), Vec::new(), Vec::new());
        let above = parent.map_or(1.0, |node| draft.nodes()[node].chance);
        // Two laws that are as sharp as this have at least so much in common, by and large.
        let sharpness = law.iter().map(|&(_, w)| w).fold(0.0, f64::max);
        let common = 0.5 * (1.0 + sharpness as f32);
        let mut open = 1.0;
        for rank in 0..if self.trees { count } else { count.min(1) } {
            let Some(chance) = chance(rank, open * common) else { break };
            let Some(token) = coin.draw(&rest) else { break };
            rest.retain(|&(t, _)| t != token);
            tokens.push(token);
            chances.push(above * chance);
            open *= 1.0 - common;
        }
        draft.push_drawn(&tokens, parent, &chances, &law, added);
    }

    /// The distribution over the target's tokens that these scores stand for.
    fn law(&self, scores: &Scores<'_>) -> Vec<(u32, f64)> {
        let max = maximum(scores.logits);
        if !max.is_finite() {
            return Vec::new();
        }
        let mut law = Vec::new();
        self.filters.law(scores.logits, max, &mut Vec::new(), &mut law);
        law.retain(|&(_, w)| w > 0.0);
        law.iter_mut().for_each(|(place, _)| *place = scores.token(*place as usize));
        law.sort_unstable_by_key(|&(token, _)| token);
        law
    }

    /// Whether the likeliest token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.greedy
    }

    /// Writes to `out` the `count` tokens that the draw at `position` (as in [`Noise::new`]) would
    /// most likely fall on, best first; fewer when there are not so many.
    pub fn choices(
        &self,
        position: u64,
        scores: &Scores<'_>,
        count: usize,
        scratch: &mut DrawScratch,
        out: &mut Vec<Choice>,
    ) {
        out.clear();
        let max = maximum(scores.logits);
        if count == 0 || !max.is_finite() {
            return;
        }
        let list = &mut scratch.list;
        if self.greedy {
            likeliest(scores.logits, count, list);
            let total = sum_exp(scores.logits, max) as f32;
            out.extend(list.iter().map(|c| Choice {
                token: scores.token(c.token as usize),
                chance: exp(c.logit - max) / total,
            }));
            return;
        }
        // Noise belongs to the target's token ids, the filters do not look at ids.
        let noise = Noise::new(self.seed, position);
        let mut surprise = None;
        if self.filters.keep_all(scores.logits.len()) {
            likeliest(scores.logits, POOL.max(count), list);
            // Of all tokens the noise may lift one that is not among the likeliest.
            if scores.tokens.is_none() {
                surprise = noise.pick_row(scores.logits, max, self.filters.scale);
            }
        } else {
            self.filters.apply(scores.logits, max, list);
        }
        if let Some(token) = surprise.filter(|token| list.iter().all(|c| c.token != *token)) {
            list.push(Candidate { token, logit: scores.logits[token as usize] });
        }
        for c in list.iter_mut() {
            c.token = scores.token(c.token as usize);
            let depth = f64::from(c.logit - max) * self.filters.scale;
            c.logit = (depth + noise.gumbel(c.token)) as f32;
        }
        list.sort_unstable_by(descending);
        let Some(&Candidate { logit: best, .. }) = list.first() else { return };
        let weight = |c: &Candidate| exp((c.logit - best) * SHARPNESS);
        let total: f32 = list.iter().map(weight).sum();
        out.extend(list.iter().take(count).map(|c| Choice { token: c.token, chance: weight(c) / total }));
    }
}

/// Writes the `count` greatest of `row` to `list`, in descending order; of equals the lower token
/// first. Minus infinity and what is not a number are left out.
///
/// Few blocks hold one of the greatest, and their maximum tells.
pub(crate) fn likeliest(row: &[f32], count: usize, list: &mut Vec<Candidate>) {
    const BLOCK: usize = 64;
    list.clear();
    let mut least = f32::NEG_INFINITY;
    for (block, first) in row.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        if maximum(block) <= least {
            continue;
        }
        for (&logit, token) in block.iter().zip(first..) {
            if logit > least {
                let at = list.partition_point(|c| c.logit >= logit);
                if list.len() == count {
                    list.pop();
                }
                list.insert(at, Candidate { token, logit });
                if list.len() == count {
                    least = list[count - 1].logit;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Sampler;
    use proptest::prelude::*;

    fn choices(draw: &Draw, position: u64, logits: &[f32], count: usize) -> Vec<Choice> {
        let (mut scratch, mut out) = (DrawScratch::default(), Vec::new());
        let scores = Scores { logits, tokens: None, confidence: None };
        draw.choices(position, &scores, count, &mut scratch, &mut out);
        out
    }

    #[test]
    fn greedy_choices_are_the_likeliest_tokens_with_their_probabilities() {
        let found = choices(&Draw::greedy(), 0, &[0.0, 3.0, f32::NEG_INFINITY, 1.0, 3.0], 3);
        assert_eq!(found.iter().map(|c| c.token).collect::<Vec<_>>(), [1, 4, 3]);
        let total = 1.0 + 2.0 * 3f32.exp() + 1f32.exp();
        assert!((found[0].chance - 3f32.exp() / total).abs() < 1e-5);
        assert!((found[2].chance - 1f32.exp() / total).abs() < 1e-5);
        assert!(choices(&Draw::greedy(), 0, &[f32::NEG_INFINITY; 3], 3).is_empty());
    }

    proptest! {
        #[test]
        fn the_likeliest_are_those_of_a_sorted_row(
            row in proptest::collection::vec(
                prop_oneof![(-9i8..9).prop_map(f32::from), Just(f32::NEG_INFINITY), Just(f32::NAN)], 0..400),
            count in 1usize..20,
        ) {
            let mut list = Vec::new();
            likeliest(&row, count, &mut list);
            let mut sorted: Vec<(f32, u32)> = row.iter().copied().zip(0..).collect();
            sorted.retain(|(logit, _)| *logit > f32::NEG_INFINITY);
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
            sorted.truncate(count);
            prop_assert_eq!(list.iter().map(|c| (c.logit, c.token)).collect::<Vec<_>>(), sorted);
        }

        /// A drafter whose scores are the target's guesses every draw.
        #[test]
        fn the_first_choice_is_the_sampler_s(
            logits in proptest::collection::vec(-6f32..6.0, 1..200),
            seed: u64, temperature in 0f32..2.0, top_k in 0usize..50, top_p in 0.05f32..1.0,
            prompt in 1usize..9,
        ) {
            let params = SamplingParams { seed, temperature, top_k, top_p, ..SamplingParams::default() };
            let prompt = vec![0; prompt];
            let mut sampler = Sampler::new(&params, logits.len(), &prompt).unwrap();
            let found = choices(&Draw::new(&params), prompt.len() as u64, &logits, 4);
            prop_assert_eq!(found[0].token, sampler.sample(&logits).unwrap());
            prop_assert!(found.iter().map(|c| c.chance).sum::<f32>() < 1.001);
        }
    }
}
