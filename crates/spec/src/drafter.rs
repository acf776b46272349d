//! What a drafter is: a source of guesses that reads the text and proposes what may follow.

use crate::draft::Draft;

/// The text that a drafter may read.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Prompt and output so far. The last token is chosen, but has not been a row of a pass yet.
    pub tokens: &'a [u32],
    /// Number of tokens at the front that are the prompt.
    pub prompt_len: usize,
}

/// A source of guesses. It reads the context and returns tokens and estimates, so by its type it
/// can change the speed of a session but not its text.
///
/// A drafter belongs to one sequence, whose text only grows. It may be asked at any time, or not
/// at all; it must not rely on being asked every round.
pub trait Drafter: Send {
    /// Name for statistics and messages.
    fn name(&self) -> &str;

    /// Writes up to `rows` nodes into `draft`, which comes empty. More are cut off by the caller.
    ///
    /// Estimates should be honest: control keeps a node iff its chance pays for its row. They may
    /// depend on the text so far only.
    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft);

    /// Learns from a round. The last `new` tokens of the context are those that the round added;
    /// `draft` is what was verified and may be empty.
    fn observe(&mut self, context: &Context<'_>, new: usize, draft: &Draft);
}
