//! From a row of logits to a token: bias, penalties, temperature, top-k, top-p, min-p, then the
//! keyed draw. Greedy decoding is temperature 0.
//!
//! The token at a position depends on the row, the text before it and the parameters, and on
//! nothing else; verification rests on that.

mod draw;
mod elementary;
mod filters;
mod logprobs;
mod noise;
mod params;
mod penalties;

use crate::error::{Error, Result};
use filters::{Filters, maximum};
use penalties::Penalties;

pub(crate) use draw::likeliest;
pub(crate) use filters::Candidate;

pub use draw::{Choice, Draw, DrawScratch};
pub use logprobs::TokenLogprobs;
pub use noise::Noise;
pub use params::SamplingParams;

/// Probabilities of tokens, by ascending token; tokens that are not listed have none.
pub type Distribution = [(u32, f64)];

/// Draws the tokens of one sequence.
#[derive(Debug)]
pub struct Sampler {
    seed: u64,
    greedy: bool,
    filters: Filters,
    bias: Vec<(u32, f32)>,
    penalties: Option<Penalties>,
    /// Tokens in the text so far: the position of the next.
    position: u64,
    /// Scratch: a row with bias and penalties.
    row: Vec<f32>,
    /// Scratch: what survives the filters.
    list: Vec<Candidate>,
}

impl Sampler {
    /// A sampler for the text that continues `prompt`, in a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// When a parameter is out of range, or a bias names a token outside the vocabulary.
    pub fn new(params: &SamplingParams, vocab: usize, prompt: &[u32]) -> Result<Self> {
        params.validate()?;
        if let Some((&token, _)) = params.logit_bias.last_key_value()
            && token as usize >= vocab
        {
            return Err(Error::params(format!(
                "logit_bias: token {token} is outside the vocabulary of {vocab} tokens"
            )));
        }
        Ok(Self {
            seed: params.seed,
            greedy: params.temperature == 0.0,
            filters: params.filters(),
            bias: params.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect(),
            penalties: Penalties::new(params, prompt),
            position: prompt.len() as u64,
            row: Vec::new(),
            list: Vec::new(),
        })
    }

    /// The token that follows the text so far, given the target's logits there. The text stays as
    /// it is: see [`push`](Self::push).
    ///
    /// # Errors
    /// When no token can be drawn: all are banned, or the logits are not finite numbers.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let row = adjusted(&self.bias, self.penalties.as_ref(), logits, &mut self.row);
        let max = finite_maximum(row)?;
        let scale = self.filters.scale;
        let noise = Noise::new(self.seed, self.position);
        let token = if self.greedy {
            row.iter().zip(0..).find(|&(&x, _)| x == max).map(|(_, token)| token)
        } else if self.filters.keep_all(row.len()) {
            noise.pick_row(row, max, scale)
        } else {
            self.filters.apply(row, max, &mut self.list);
            noise.pick(self.list.iter().map(|c| (c.token, c.logit)), max, scale)
        };
        // The likeliest token survives every cut, so there is one.
        token.ok_or_else(|| Error::Logits("no token survives the sampling parameters".into()))
    }

    /// Makes `token` part of the text.
    pub fn push(&mut self, token: u32) {
        self.position += 1;
        if let Some(penalties) = &mut self.penalties {
            penalties.push(token);
        }
    }

    /// The state of the text, to come back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark { position: self.position, penalties: self.penalties.clone() }
    }

    /// Forgets the tokens pushed since `mark`.
    pub(crate) fn restore(&mut self, mark: Mark) {
        (self.position, self.penalties) = (mark.position, mark.penalties);
    }

    /// Writes the distribution that [`sample`](Self::sample) draws from to `out`: the tokens that
    /// may be drawn, by ascending id, and their probabilities.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn distribution(&mut self, logits: &[f32], out: &mut Vec<(u32, f64)>) -> Result<()> {
        out.clear();
        if self.greedy {
            out.push((self.sample(logits)?, 1.0));
            return Ok(());
        }
        let row = adjusted(&self.bias, self.penalties.as_ref(), logits, &mut self.row);
        let max = finite_maximum(row)?;
        self.filters.law(row, max, &mut self.list, out);
        Ok(())
    }

    /// Log-probabilities of `token` and the `count` likeliest tokens under the raw `logits`.
    pub fn logprobs(&mut self, logits: &[f32], token: u32, count: usize) -> TokenLogprobs {
        logprobs::logprobs(logits, token, count, &mut self.list)
    }
}

/// How far a text was: see [`Sampler::mark`].
#[derive(Debug)]
pub(crate) struct Mark {
    position: u64,
    penalties: Option<Penalties>,
}

/// The row with bias and penalties; the given one when there are none.
fn adjusted<'a>(
    bias: &[(u32, f32)],
    penalties: Option<&Penalties>,
    logits: &'a [f32],
    scratch: &'a mut Vec<f32>,
) -> &'a [f32] {
    if bias.is_empty() && penalties.is_none() {
        return logits;
    }
    scratch.clear();
    scratch.extend_from_slice(logits);
    for &(token, bias) in bias {
        if let Some(logit) = scratch.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if let Some(penalties) = penalties {
        penalties.apply(scratch);
    }
    scratch
}

fn finite_maximum(row: &[f32]) -> Result<f32> {
    let max = maximum(row);
    if max.is_finite() {
        return Ok(max);
    }
    Err(Error::Logits(format!(
        "the greatest of {} logits is {max}: every token is banned by logit_bias, or the model's \
         numbers overflow",
        row.len()
    )))
}

#[cfg(test)]
mod tests;
