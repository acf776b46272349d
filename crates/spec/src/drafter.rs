//! What a drafter is: a source of guesses that reads the text and proposes what may follow.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use leveret_model::Tap;
use leveret_model::drafters::Features;

use crate::draft::Draft;
use crate::sampler::Draw;

/// The text that a drafter may read, and what guesses are worth at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Prompt and output so far. The last token is chosen, but has not been a row of a pass yet.
    pub tokens: &'a [u32],
    /// Number of tokens at the front that are the prompt.
    pub prompt_len: usize,
    /// How tokens are drawn, for drafters that guess the draw and not only the distribution.
    pub draw: Draw,
    /// What time is worth.
    pub worth: Worth,
    /// What others have guessed already, for those that find their own guesses one after another: they may look behind
    /// these in advance.
    pub guessed: Option<&'a Draft>,
}

impl<'a> Context<'a> {
    /// The context of a greedy text at a price of nothing.
    pub fn new(tokens: &'a [u32], prompt_len: usize) -> Self {
        Self { tokens, prompt_len, draw: Draw::greedy(), worth: Worth::default(), guessed: None }
    }
}

/// What time is worth, for drafters whose guesses take some.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Worth {
    /// Tokens written in the time of a one-row pass at the present speed.
    pub lambda: f64,
    /// Time that one row more adds to a pass, in times of a one-row pass.
    pub row: f64,
    /// Seconds of a one-row pass; 0 while unknown.
    pub pass_seconds: f64,
    /// Least chance of a token, given what precedes it, that is asked for.
    pub least_given: f32,
    /// Tokens by which a draft that takes time is expected to gain more than it takes, besides what must be read for it.
    pub gain: f64,
    /// Drafts that take time have been losing some: nothing of them will be verified, and they had better wait.
    pub parked: bool,
}

impl Worth {
    /// The least chance of acceptance that pays for a row and `seconds` of drafting.
    pub fn least_chance(&self, seconds: f64) -> f32 {
        let drafting = if self.pass_seconds > 0.0 { seconds / self.pass_seconds } else { 0.0 };
        (self.lambda * (self.row + drafting)) as f32
    }
}

/// Rows that a drafter wants in a pass besides its draft, for what the target says there. They follow a
/// node and one another, no other row sees them, and they never become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Node that the first of them follows; `None` for the committed text.
    pub after: Option<usize>,
    /// Token of each of them.
    pub token: u32,
    /// Their number.
    pub rows: usize,
}

/// The rows of a pass of the target and what they gave.
pub trait PassRows: Features {
    /// Token of each row.
    fn tokens(&self) -> &[u32];

    /// Logits of the token after `row`, if they were computed.
    fn logits(&self, row: usize) -> Option<&[f32]>;

    /// Rows that the drafter had asked for besides; they stand behind the draft's, in this order.
    fn probes(&self) -> &[Probe] {
        &[]
    }
}

/// What came of a pass: a chunk of the prompt that was read, or a round.
#[derive(Clone, Copy)]
pub struct Round<'a> {
    /// The text, with what the pass added.
    pub context: Context<'a>,
    /// Number of tokens that it added.
    pub new: usize,
    /// What was verified; may be empty. Node `i` was row `base + i` of the pass.
    pub draft: &'a Draft,
    /// Rows in front of the draft's.
    pub base: usize,
    /// Position in the text of the first row that was committed.
    pub first: usize,
    /// The committed rows, in the order of the text.
    pub rows: &'a [usize],
    /// All rows of the pass, with features at the drafter's taps.
    pub pass: &'a dyn PassRows,
}

impl Round<'_> {
    /// The rows that were asked for behind the last row that was committed.
    pub fn probed(&self) -> Range<usize> {
        let mut first = self.base + self.draft.len();
        for probe in self.pass.probes() {
            let behind = probe.after.map_or(self.base.checked_sub(1), |node| Some(self.base + node));
            if behind.is_some() && behind == self.rows.last().copied() {
                return first..first + probe.rows;
            }
            first += probe.rows;
        }
        first..first
    }
}

impl fmt::Debug for Round<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Round")
            .field("context", &self.context)
            .field("new", &self.new)
            .field("draft", &self.draft)
            .field("base", &self.base)
            .field("first", &self.first)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// What a drafter has learned that holds for the next text as well. Only its own kind knows what that is.
#[derive(Clone)]
pub struct Lessons(Arc<dyn Any + Send + Sync>);

impl Lessons {
    /// Lessons that [`of`](Self::of) the same type finds.
    pub fn new<T: Any + Send + Sync>(lessons: T) -> Self {
        Self(Arc::new(lessons))
    }

    /// The lessons of this type; `None` where they are another drafter's.
    pub fn of<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Lessons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lessons").finish_non_exhaustive()
    }
}

/// A source of guesses. It reads the context and returns tokens and estimates, so by its type it
/// can change the speed of a session but not its text.
///
/// A drafter belongs to one sequence, whose text only grows. It may be asked at any time, or not
/// at all; it must not rely on being asked every round. It is told of every pass, though.
pub trait Drafter: Send {
    /// Name for statistics and messages.
    fn name(&self) -> &str;

    /// Name of the source that proposed the nodes whose [`origin`](crate::Node::origin) is `index`.
    /// A drafter with one source is that source.
    fn origin(&self, index: u8) -> &str {
        let _ = index;
        self.name()
    }

    /// Seconds that a proposal takes, for those that compute something, and `None` until that is known; 0 for those
    /// whose time does not count beside a pass.
    fn seconds(&self) -> Option<f64> {
        Some(0.0)
    }

    /// Features of the target that [`observe`](Self::observe) wants to read.
    fn taps(&self) -> &[Tap] {
        &[]
    }

    /// Writes up to `rows` nodes into `draft`, which comes empty. More are cut off by the caller.
    ///
    /// Estimates should be honest: control keeps a node iff its chance pays for its row. They may
    /// depend on the text so far only.
    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft);

    /// Asks for up to `rows` rows behind nodes of `draft`, which is what will be verified. More are
    /// cut off by the caller.
    fn probe(&mut self, context: &Context<'_>, draft: &Draft, rows: usize, probes: &mut Vec<Probe>) {
        let _ = (context, draft, rows, probes);
    }

    /// Learns from a pass.
    fn observe(&mut self, round: &Round<'_>);

    /// What it has learned that the next text need not teach again: what its own work takes, not what texts are like.
    fn lessons(&self) -> Option<Lessons> {
        None
    }

    /// Goes on from what one of its kind has learned from other texts. It has not been asked before.
    fn remember(&mut self, lessons: &Lessons) {
        let _ = lessons;
    }

    /// Its name and why it has stopped guessing, if something went wrong. The text goes on without it.
    fn trouble(&self) -> Option<&str> {
        None
    }
}
