//! What a session is asked for, what it is told of the model, and what a step answers.

use std::fmt;

use serde::Serialize;

use crate::control::{Control, CostCurve};
use crate::drafter::Drafter;
use crate::sampler::{SamplingParams, TokenLogprobs};
use crate::stats::RoundStats;
use crate::verify::Accept;

/// Turns tokens into text, one after the other.
pub trait Detokenizer: Send {
    /// Appends the text that `token` completes, possibly none.
    fn push(&mut self, token: u32, text: &mut String);

    /// Appends what is left when no token follows.
    fn finish(&mut self, _text: &mut String) {}
}

impl<F: FnMut(u32, &mut String) + Send> Detokenizer for F {
    fn push(&mut self, token: u32, text: &mut String) {
        self(token, text);
    }
}

/// What to write.
pub struct Request {
    /// Token ids to continue; at least one.
    pub prompt: Vec<u32>,
    /// How to draw, and when to end.
    pub params: SamplingParams,
    /// Source of guesses; `None` for plain decoding. The text is the same with any.
    pub drafter: Option<Box<dyn Drafter>>,
    /// Makes text of the tokens; `None` when only ids are wanted. Stop strings need one.
    pub text: Option<Box<dyn Detokenizer>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt)
            .field("params", &self.params)
            .field("drafter", &self.drafter.as_ref().map(|d| d.name()))
            .finish_non_exhaustive()
    }
}

/// What holds for any request to a model.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most tokens of prompt and output together; the model's own limit holds besides.
    pub context: usize,
    /// Most rows of prompt in one pass; at least 1.
    pub prefill_chunk: usize,
    /// Most rows of a draft. With the row that a pass has anyway, the default fills two tiles of 16.
    pub max_draft: usize,
    /// Tokens that end the text. They are not part of the output.
    pub end_tokens: Vec<u32>,
    /// Time of a pass by its rows, for the decision how far to guess.
    pub cost: CostCurve,
    /// Whether measured passes correct the curve's slope. Without, what is drafted, and so every
    /// count in [`Stats`], follows from text and curve alone.
    pub follow_clock: bool,
    /// How drafts are verified.
    pub accept: Accept,
    /// How it is decided how much of a draft is verified.
    pub control: Control,
    /// Lossy: tokens that masks say with confidence become text without being verified. There is no
    /// draft then.
    pub believe: Option<Belief>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            context: 4096,
            prefill_chunk: 512,
            max_draft: 31,
            end_tokens: Vec::new(),
            cost: CostCurve::default(),
            follow_clock: true,
            accept: Accept::Match,
            control: Control::Price,
            believe: None,
        }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended it, or a stop string was met.
    Stop,
    /// The limit of tokens is reached, or the context is full.
    Length,
}

/// What one step added.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Tokens of output; none while the prompt is being read. Those that spell a stop string are
    /// among them.
    pub tokens: &'a [u32],
    /// Text that is certain: what may yet turn out to be the start of a stop string, or is half
    /// a character, comes with a later step.
    pub text: &'a str,
    /// Log-probabilities of `tokens`, if they were asked for.
    pub logprobs: &'a [TokenLogprobs],
    /// For each of `tokens` the source of the guess that it was, or `None` where the target itself
    /// wrote it; see [`Session::origin_name`](super::Session::origin_name).
    pub origins: &'a [Option<u8>],
    /// Set by the step that ends the text; later steps add nothing.
    pub finish: Option<FinishReason>,
    /// The round that was run; `None` while the prompt is being read, and after the end.
    pub round: Option<RoundStats>,
}

/// Masks whose guesses become text unverified where the model is sure enough of them (ConfAdapt, arXiv
/// 2602.06019). This is lossy: the text is another than the model's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Belief {
    /// Token id of the mask.
    pub token: u32,
    /// Masks in a pass.
    pub rows: usize,
    /// Least probability of the likeliest token.
    pub confidence: f32,
}
