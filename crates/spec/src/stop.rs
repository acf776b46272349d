//! Stop strings, found in the stream of text whatever the tokens that spell it.

/// Releases text as it comes, except what may be the start of a stop string.
#[derive(Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    /// Text that is not released yet: the start of a stop string, as far as can be seen.
    held: String,
}

impl StopStrings {
    /// A stream that ends before the first of `strings`; empty ones are ignored.
    pub fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { strings, held: String::new() }
    }

    /// Takes in `text` and appends to `out` what can be released. True when a stop string is
    /// complete: `out` then ends where it begins, and the stream is over.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.strings.is_empty() {
            out.push_str(text);
            return false;
        }
        self.held.push_str(text);
        if let Some(start) = self.strings.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            out.push_str(&self.held[..start]);
            self.held.clear();
            return true;
        }
        let open = self.strings.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let safe = self.held.len() - open;
        out.push_str(&self.held[..safe]);
        self.held.drain(..safe);
        false
    }

    /// Releases what is held back: the text has ended otherwise.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

/// Bytes of the longest end of `text` that begins `stop` without completing it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    let fits = |&n: &usize| text.as_bytes()[text.len() - n..] == stop.as_bytes()[..n];
    (1..=longest).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the text is cut into pieces, it ends before the stop string that is complete
        /// first, and nothing released is ever taken back.
        #[test]
        fn as_if_searched_at_once(
            pieces in proptest::collection::vec("[abé]{0,3}", 0..12),
            strings in proptest::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let mut stream = StopStrings::new(&strings);
            let mut out = String::new();
            let stopped = pieces.iter().any(|piece| stream.push(piece, &mut out));
            if !stopped {
                stream.finish(&mut out);
            }
            let mut seen = String::new();
            let mut expected = None;
            for piece in &pieces {
                seen.push_str(piece);
                expected = strings.iter().filter_map(|s| seen.find(s.as_str())).min();
                if expected.is_some() {
                    break;
                }
            }
            prop_assert_eq!(stopped, expected.is_some());
            prop_assert_eq!(&out, &seen[..expected.unwrap_or(seen.len())]);
        }
    }
}
