//! What can be read of a session between steps.

use std::fmt;

use leveret_model::Target;

use super::{FinishReason, Session};
use crate::control::Experience;
use crate::draft::Draft;
use crate::sampler::TokenLogprobs;
use crate::stats::Stats;

impl<T: Target> Session<T> {
    /// Prompt and output.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Output so far.
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Text of the output so far, as far as it is certain; empty without a detokenizer.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Log-probabilities of the output so far, if they were asked for.
    pub fn logprobs(&self) -> &[TokenLogprobs] {
        &self.logprobs
    }

    /// For each token of output the source of the guess that it was; see [`Step::origins`].
    pub fn origins(&self) -> &[Option<u8>] {
        &self.origins
    }

    /// Name of a source of guesses, as it stands in [`origins`](Self::origins).
    pub fn origin_name(&self, origin: u8) -> &str {
        self.drafter.as_ref().map_or("", |drafter| drafter.origin(origin))
    }

    /// Why the text has ended; `None` while it has not.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// What was verified in the last round; empty before the first.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The cache: its rows are the first tokens of [`tokens`](Self::tokens). A later text that
    /// begins with the same tokens can go on from it, cut to what they share.
    pub fn into_cache(self) -> T::Cache {
        self.cache
    }

    /// Seconds of a one-row pass at the start of a text, as passes were timed of late; `None` before there were enough.
    pub fn pass_seconds(&self) -> Option<f64> {
        self.control.level()
    }

    /// What was learned of machine and drafter so far: see [`with_experience`](Self::with_experience).
    pub fn experience(&self) -> Experience {
        let drafter = self.drafter.as_ref().and_then(|drafter| drafter.lessons());
        self.control.experience().clone().with_lessons(drafter)
    }

    /// Which drafter has stopped guessing, and why, if something went wrong with one. The text is the same.
    pub fn trouble(&self) -> Option<&str> {
        self.drafter.as_deref()?.trouble()
    }

    /// Counts and times so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl<T: Target> fmt::Debug for Session<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("prompt_len", &self.prompt_len)
            .field("output", &self.output())
            .field("finish", &self.finish)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
