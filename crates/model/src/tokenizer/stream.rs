//! Text from tokens as they come, never with half a character.
//!
//! A character may be spread over several tokens. Its bytes are held back until it is complete or
//! can no longer become one, so that the pieces, put together, are exactly the decoded whole.

use super::Tokenizer;

/// Turns token ids into text piece by piece.
///
/// ```no_run
/// # fn show(tokenizer: &leveret_model::tokenizer::Tokenizer, ids: &[u32]) {
/// let mut stream = leveret_model::tokenizer::StreamDecoder::new();
/// for id in ids {
///     print!("{}", stream.push(tokenizer, *id));
/// }
/// print!("{}", stream.finish());
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    /// The start of a character that is not complete; at most three bytes between calls.
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// A decoder at the start of a text. Special tokens are left out.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one token and gives the text that is now complete, often one word, sometimes
    /// nothing. Ids beyond the vocabulary (padding rows of a model's head) give nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if !tokenizer.is_special(id) {
            tokenizer.append_bytes(id, &mut self.pending);
        }
        self.take_complete()
    }

    /// Ends the text: U+FFFD for what was left of a torn character, else nothing. The decoder is
    /// then as new.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut taken = 0;
        while let Err(error) = std::str::from_utf8(&self.pending[taken..]) {
            let Some(invalid) = error.error_len() else {
                // Unfinished, not invalid: everything before it is text.
                let end = taken + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&self.pending[taken..end]));
                self.pending.drain(..end);
                return text;
            };
            let end = taken + error.valid_up_to() + invalid;
            text.push_str(&String::from_utf8_lossy(&self.pending[taken..end]));
            taken = end;
        }
        text.push_str(&String::from_utf8_lossy(&self.pending[taken..]));
        self.pending.clear();
        text
    }
}
