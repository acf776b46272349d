//! The rule of one session at work: which token follows a row of the pass.

use serde::{Deserialize, Serialize};

use super::block::Chain;
use super::rejection::Candidates;
use super::{KeyedCoin, block, rejection};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::sampler::{Noise, Sampler};

/// How a draft is verified. No rule changes the law of a text, and only the first keeps the text
/// itself. Greedy decoding has one rule, and does not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accept {
    /// A token is accepted iff it is the one that plain decoding draws: same seed, same text.
    #[default]
    Match,
    /// Speculative sampling, for trees without replacement. Texts follow the target's law, but
    /// which text it is depends on the drafts.
    Rejection,
    /// Block verification of drawn chains, and rejection of everything else. As there, texts
    /// depend on the drafts.
    Block,
}

/// Decides token by token, in the order of the text.
#[derive(Debug)]
pub(crate) struct Judge {
    accept: Accept,
    seed: u64,
    coin: KeyedCoin,
    /// Tokens that a block has settled, the last first.
    settled: Vec<u32>,
    /// Scratch: the target's distribution at one row.
    p: Vec<(u32, f64)>,
    /// Scratch: what is proposed after one row.
    fixed: Vec<u32>,
}

impl Judge {
    pub(crate) fn new(accept: Accept, seed: u64) -> Self {
        let coin = KeyedCoin::new(Noise::new(seed, 0));
        Self { accept, seed, coin, settled: Vec::new(), p: Vec::new(), fixed: Vec::new() }
    }

    /// Opens the round that follows a text of `len` tokens. Every round has numbers of its own:
    /// what came of one may depend on all that were used in it.
    pub(crate) fn begin<'a>(
        &mut self,
        len: usize,
        draft: &Draft,
        sampler: &mut Sampler,
        logits: impl Fn(usize) -> &'a [f32],
    ) -> Result<()> {
        self.settled.clear();
        self.coin = KeyedCoin::new(Noise::new(self.seed, len as u64));
        if self.accept == Accept::Block && draft.has_draws() && draft.is_chain() {
            let mark = sampler.mark();
            let settled = self.settle(draft, sampler, logits);
            sampler.restore(mark);
            settled?;
        }
        Ok(())
    }

    /// Judges a chain as a whole.
    fn settle<'a>(
        &mut self,
        draft: &Draft,
        sampler: &mut Sampler,
        logits: impl Fn(usize) -> &'a [f32],
    ) -> Result<()> {
        let tokens: Vec<u32> = draft.nodes().iter().map(|node| node.token).collect();
        let (mut p, mut q) = (Vec::new(), Vec::new());
        for row in 0..=tokens.len() {
            let mut law = Vec::new();
            sampler.distribution(logits(row), &mut law)?;
            p.push(law);
            let Some(&token) = tokens.get(row) else { break };
            sampler.push(token);
            let draws = draft.draws_after(row.checked_sub(1));
            q.push(draws.map_or_else(|| vec![(token, 1.0)], |draws| draws.law.clone()));
        }
        let (kept, token) = block::choose(&Chain { tokens: &tokens, q: &q, p: &p }, &mut self.coin);
        self.settled.push(token.ok_or_else(nothing_left)?);
        self.settled.extend(tokens[..kept].iter().rev());
        Ok(())
    }

    /// The token that follows `node` of the draft, or the text when there is none. `logits` are
    /// those of its row, and `sampler` has all tokens before.
    pub(crate) fn token(
        &mut self,
        draft: &Draft,
        node: Option<usize>,
        sampler: &mut Sampler,
        logits: &[f32],
    ) -> Result<u32> {
        if self.accept == Accept::Match {
            return sampler.sample(logits);
        }
        if let Some(token) = self.settled.pop() {
            return Ok(token);
        }
        sampler.distribution(logits, &mut self.p)?;
        self.fixed.clear();
        let draws = draft.draws_after(node);
        if draws.is_none() {
            self.fixed.extend(draft.tokens_after(node));
        }
        let candidates = Candidates {
            fixed: &self.fixed,
            drawn: draws.map_or(&[], |draws| &draws.tokens),
            law: draws.map_or(&[], |draws| &draws.law),
            replacement: false,
        };
        rejection::choose(&mut self.p, &candidates, &mut self.coin).ok_or_else(nothing_left)
    }
}

fn nothing_left() -> Error {
    Error::Logits("no token survives the sampling parameters".into())
}
