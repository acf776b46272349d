//! What a session did and where its time went.

use serde::Serialize;

/// Counts and seconds of one session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the output, an end-of-text token not among them.
    pub tokens: usize,
    /// Passes after the prompt. The first token of output comes with the prompt's last pass.
    pub rounds: usize,
    /// Tokens that all rounds together committed; [`tau`](Self::tau) is their mean.
    pub committed: usize,
    /// Rows that drafts took up.
    pub drafted: usize,
    /// Of these, the rows whose token was taken.
    pub accepted: usize,
    /// Time for the prompt, the draw of the first token included.
    pub prompt_seconds: f64,
    /// Time for all rounds.
    pub decode_seconds: f64,
    /// Of that, time in the drafter and the price rule.
    pub draft_seconds: f64,
    /// Time in the target's passes.
    pub forward_seconds: f64,
    /// Time for drawing tokens, and their text.
    pub sample_seconds: f64,
    /// Time for committing the accepted rows.
    pub commit_seconds: f64,
}

impl Stats {
    /// Tokens per round; 0 before the first.
    pub fn tau(&self) -> f64 {
        ratio(self.committed as f64, self.rounds as f64)
    }

    /// Tokens per second of decoding, the prompt and the token that comes with it left out.
    pub fn tokens_per_second(&self) -> f64 {
        ratio(self.committed as f64, self.decode_seconds)
    }

    /// Tokens of prompt per second.
    pub fn prompt_tokens_per_second(&self) -> f64 {
        ratio(self.prompt_tokens as f64, self.prompt_seconds)
    }

    /// Share of the drafted rows that was accepted.
    pub fn acceptance(&self) -> f64 {
        ratio(self.accepted as f64, self.drafted as f64)
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
