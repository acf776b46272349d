//! How much of the vocabulary drafts need scores of. Tokenizers number common tokens first, so that most texts need a
//! small part, and the head is a good part of what a small network reads (after FR-Spec, arXiv 2502.14856, with the
//! text itself in place of a list made beforehand).

/// Parts that are considered: halves of halves, this many times.
const HALVINGS: usize = 3;
/// Tokens over which the text is remembered.
const MEMORY: f32 = 200.0;
/// Share of the text that may lie beyond the part: there a draft goes wrong.
const BEYOND: f32 = 0.04;

/// What part of a vocabulary a text uses.
#[derive(Debug, Clone)]
pub(crate) struct Breadth {
    vocab: usize,
    /// Tokens of the text that were counted.
    counted: usize,
    /// Shares of the text beyond half of the vocabulary, a quarter and so on, the latest tokens above all.
    beyond: [f32; HALVINGS],
    weight: f32,
}

impl Breadth {
    /// For a vocabulary of `vocab` tokens.
    pub(crate) fn new(vocab: usize) -> Self {
        Self { vocab, counted: 0, beyond: [0.0; HALVINGS], weight: 0.0 }
    }

    /// The number of tokens, the first of the vocabulary, among which nearly all of the text's are.
    pub(crate) fn of(&mut self, text: &[u32]) -> usize {
        for &token in text.get(self.counted..).unwrap_or_default() {
            self.weight += 1.0 - self.weight / MEMORY;
            for (i, beyond) in self.beyond.iter_mut().enumerate() {
                *beyond += f32::from(u8::from(token as usize >= self.vocab >> (i + 1))) - *beyond / MEMORY;
            }
        }
        self.counted = text.len();
        let enough = self.beyond.iter().take_while(|&&beyond| beyond <= BEYOND * self.weight).count();
        self.vocab >> enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_broad_as_the_text() {
        let mut breadth = Breadth::new(800);
        let mut text = vec![99; 100];
        assert_eq!(breadth.of(&text), 100);
        text.extend([150; 10]);
        assert_eq!(breadth.of(&text), 200);
        text.extend([799; 40]);
        assert_eq!(breadth.of(&text), 800);
        text.extend([3; 1500]);
        assert_eq!(breadth.of(&text), 100);
        assert_eq!(Breadth::new(800).of(&[]), 100);
    }
}
