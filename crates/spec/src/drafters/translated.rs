//! A draft model that spells text in other tokens than the target (universal assisted generation):
//! it reads the text anew in its own tokens, writes on, and what it wrote is put into the target's.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use leveret_model::drafters::{Branch, Guesser, Network};
use leveret_model::tokenizer::Tokenizer;

use super::network::{Times, stopped};
use super::reading::Reading;
use super::reliability::Reliability;
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Lessons, Round};
use crate::error::Result;
use crate::sampler::{Choice, Draw, DrawScratch};

/// Tokens of the target at the end of the text whose spelling in the other vocabulary may still
/// change as text is added.
const TAIL: usize = 32;
/// Longest continuation, in the draft model's tokens.
const DEPTH: usize = 12;

/// The drafter of one text.
pub struct TranslatedDrafter {
    guesser: Box<dyn Guesser>,
    /// Spells the target's tokens, and the draft model's.
    target: Arc<Tokenizer>,
    own: Arc<Tokenizer>,
    /// The BOS of the draft model, where its texts begin with one. It opens all that is read.
    bos: Option<u32>,
    /// Tokens of the target that are settled, and the spelling in the draft model's of those from where it began.
    settled: usize,
    text: Vec<u32>,
    reliability: Reliability,
    reading: Reading,
    /// What was guessed last: tokens and what the draft model said of each.
    guessed: Vec<(u32, f32)>,
    trouble: Option<String>,
    choices: Vec<Choice>,
    scratch: DrawScratch,
}

impl TranslatedDrafter {
    /// A drafter for a text of up to `capacity` tokens of the target.
    ///
    /// # Errors
    /// No memory for the network's caches.
    pub fn new(
        network: Arc<dyn Network>,
        capacity: usize,
        target: Arc<Tokenizer>,
        own: Arc<Tokenizer>,
    ) -> Result<Self> {
        Ok(Self {
            // The other spelling may be longer.
            guesser: network.guesser(capacity.saturating_mul(2))?,
            bos: own.bos().filter(|_| own.adds_bos()),
            target,
            own,
            settled: 0,
            text: Vec::new(),
            reliability: Reliability::default(),
            reading: Reading::default(),
            guessed: Vec::new(),
            trouble: None,
            choices: Vec::new(),
            scratch: DrawScratch::default(),
        })
    }

    /// Spells the text in the draft model's tokens, from where it is read; the end of it anew each time.
    fn spell(&mut self, tokens: &[u32]) -> Result<Vec<u32>> {
        if self.settled < self.reading.from {
            self.settled = self.reading.from;
            self.text.clear();
        }
        while tokens.len() - self.settled > 2 * TAIL {
            let end = self.boundary(tokens, self.settled + TAIL..self.settled + 2 * TAIL);
            let part = self.target.decode(&tokens[self.settled..end]);
            self.text.extend(self.own.encode(&part, true)?);
            self.settled = end;
        }
        let tail = self.target.decode(&tokens[self.settled..]);
        Ok([self.bos.as_slice(), &self.text, &self.own.encode(&tail, true)?].concat())
    }

    /// The first token in `range` that starts a word or a line: tokens rarely reach across there.
    fn boundary(&self, tokens: &[u32], range: Range<usize>) -> usize {
        let starts = |&at: &usize| self.target.decode(&tokens[at..=at]).starts_with([' ', '\n']);
        range.clone().find(starts).unwrap_or(range.end)
    }

    /// Lets the draft model write on: its tokens, and what it says of each.
    fn write_on(&mut self, text: &[u32], rows: usize) -> Result<Vec<(u32, f32)>> {
        self.guesser.begin(text)?;
        let mut written = Vec::new();
        for node in 0..rows.min(DEPTH) {
            let scores = self.guesser.scores(node);
            Draw::greedy().choices(0, &scores, 1, &mut self.scratch, &mut self.choices);
            let Some(&Choice { token, chance }) = self.choices.first() else { break };
            if self.own.is_end(token) {
                break;
            }
            written.push((token, chance));
            // Behind an unlikely token hardly anything comes true.
            if chance < 0.3 || node + 1 == rows.min(DEPTH) {
                break;
            }
            self.guesser.expand(&[Branch { parent: node, token }])?;
        }
        Ok(written)
    }

    /// The target's tokens for what was written, each as likely as the parts that spell it.
    fn translate(&self, tokens: &[u32], written: &[(u32, f32)]) -> Result<Vec<(u32, f32)>> {
        let tail = &tokens[tokens.len().saturating_sub(TAIL).max(self.settled)..];
        let before = self.target.decode(tail);
        let ids: Vec<u32> = written.iter().map(|&(token, _)| token).collect();
        let after = self.own.decode(&ids);
        let whole = self.target.encode(&format!("{before}{after}"), true)?;
        // Where the text so far would be spelled in another way together with what follows, the
        // target has already decided otherwise.
        let mut new = match whole.strip_prefix(tail) {
            Some(new) => new.to_vec(),
            None => self.target.encode(&after, true)?,
        };
        // The last token may be the beginning of a longer one.
        if new.len() > 1 {
            new.pop();
        }
        let ends: Vec<usize> = (1..=ids.len()).map(|n| self.own.decode(&ids[..n]).len()).collect();
        let (mut length, mut used) = (0, 0);
        let translated = new.iter().map(|&token| {
            length += self.target.decode(&[token]).len();
            let mut chance = 1.0;
            while used < written.len() && (used == 0 || ends[used - 1] < length) {
                chance *= written[used].1;
                used += 1;
            }
            (token, chance)
        });
        Ok(translated.collect())
    }

    fn guess(&mut self, context: &Context<'_>, rows: usize) -> Result<()> {
        let text = self.spell(context.tokens)?;
        // Special tokens alone spell nothing.
        if text.is_empty() {
            return Ok(());
        }
        let written = self.write_on(&text, rows)?;
        self.guessed = self.translate(context.tokens, &written)?;
        Ok(())
    }

    /// Compares the last guesses with the text that followed them.
    fn learn(&mut self, tokens: &[u32]) {
        if self.guessed.is_empty() || tokens.len() <= self.reading.after {
            return;
        }
        let mut gained = 0;
        let came = &tokens[self.reading.after..];
        for (depth, (&(guess, own), &token)) in self.guessed.iter().zip(came).enumerate() {
            self.reliability.record(depth, 0, own, guess == token);
            if guess != token {
                break;
            }
            gained += 1;
        }
        self.reading.gained(gained);
        self.guessed.clear();
    }
}

impl Drafter for TranslatedDrafter {
    fn name(&self) -> &str {
        "model"
    }

    fn seconds(&self) -> Option<f64> {
        self.reading.seconds()
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        if self.trouble.is_some() || rows == 0 {
            return;
        }
        let tokens = context.tokens.len();
        // Each draft reads all that there is; counted in the target's tokens, so that none need be spelled for it.
        let unread = tokens - self.reading.after.min(tokens);
        if !self.reading.may_draft(tokens, unread, &context.worth) {
            return;
        }
        self.guessed.clear();
        let start = Instant::now();
        if let Err(error) = self.guess(context, rows) {
            self.trouble = Some(stopped(self.name(), &error));
        }
        self.reading.took(start.elapsed().as_secs_f64());
        let (mut parent, mut chance) = (None, 1.0);
        for (depth, &(token, own)) in self.guessed.iter().take(rows).enumerate() {
            chance *= self.reliability.chance(depth, 0, own);
            parent = draft.push(token, parent, chance);
        }
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.learn(round.context.tokens);
    }

    fn lessons(&self) -> Option<Lessons> {
        Some(Lessons::new(Times { reading: self.reading.lessons(), step: None }))
    }

    fn remember(&mut self, lessons: &Lessons) {
        lessons.of::<Times>().into_iter().for_each(|times| self.reading.remember(times.reading));
    }

    fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

impl fmt::Debug for TranslatedDrafter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TranslatedDrafter").field("settled", &self.settled).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
