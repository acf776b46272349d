//! Tokens in the colour of where they came from.

use std::collections::VecDeque;
use std::io::{self, Write};

use leveret_spec::Detokenizer;

use super::dialogue::Shown;

/// Foreground colours of the terminal for the sources of guesses; the model itself has none.
const COLOURS: [(u8, &str); 6] =
    [(32, "green"), (36, "cyan"), (33, "yellow"), (35, "magenta"), (34, "blue"), (31, "red")];

/// Colours a stream of text, token by token.
///
/// What a step adds as text may end within a token (it may be the start of a stop string) or hold
/// several, so the tokens' own texts wait here until the session has said them.
pub(super) struct Colours {
    detokenizer: Box<dyn Detokenizer>,
    waiting: VecDeque<(Option<u8>, String)>,
    /// Sources seen, with the number of their tokens.
    seen: Vec<(String, u8, usize)>,
    own: usize,
}

impl Colours {
    pub(super) fn new(detokenizer: Box<dyn Detokenizer>) -> Self {
        Self { detokenizer, waiting: VecDeque::new(), seen: Vec::new(), own: 0 }
    }

    /// Writes the text of a step.
    pub(super) fn write(
        &mut self,
        step: &Shown<'_>,
        name: &dyn Fn(u8) -> String,
        out: &mut impl Write,
    ) -> io::Result<()> {
        for (&token, &origin) in step.tokens.iter().zip(&step.origins) {
            let mut piece = String::new();
            self.detokenizer.push(token, &mut piece);
            self.waiting.push_back((origin, piece));
            match origin {
                None => self.own += 1,
                Some(origin) => self.count(origin, name),
            }
        }
        if step.ended {
            let mut rest = String::new();
            self.detokenizer.finish(&mut rest);
            self.waiting.push_back((None, rest));
        }
        let mut text: &str = &step.text;
        while let Some((origin, piece)) = self.waiting.front_mut() {
            let common = piece.len().min(text.len());
            if text.is_empty() && !piece.is_empty() {
                break;
            }
            let (now, later) = text.split_at(text.floor_char_boundary(common));
            paint(*origin, now, out)?;
            text = later;
            if now.len() < piece.len() {
                piece.drain(..now.len());
                break;
            }
            self.waiting.pop_front();
        }
        out.write_all(text.as_bytes())
    }

    fn count(&mut self, origin: u8, name: &dyn Fn(u8) -> String) {
        match self.seen.iter_mut().find(|(_, known, _)| *known == origin) {
            Some((_, _, tokens)) => *tokens += 1,
            None => self.seen.push((name(origin), origin, 1)),
        }
    }

    /// Who wrote how much, in colour or with the colours' names.
    pub(super) fn legend(&self, coloured: bool) -> String {
        let mut legend = format!("; model {}", self.own);
        for (name, origin, tokens) in &self.seen {
            let (code, colour) = COLOURS[usize::from(*origin) % COLOURS.len()];
            legend += &match coloured {
                true => format!(", \x1b[{code}m{name} {tokens}\x1b[0m"),
                false => format!(", {name} ({colour}) {tokens}"),
            };
        }
        legend
    }
}

fn paint(origin: Option<u8>, text: &str, out: &mut impl Write) -> io::Result<()> {
    match origin {
        Some(origin) if !text.is_empty() => {
            let (code, _) = COLOURS[usize::from(origin) % COLOURS.len()];
            write!(out, "\x1b[{code}m{text}\x1b[0m")
        }
        _ => out.write_all(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(token: u32, text: &mut String) {
        text.push_str(["a", "bc", "", "é"][token as usize]);
    }

    #[test]
    fn text_that_lags_behind_keeps_the_colours_of_its_tokens() {
        let mut colours = Colours::new(Box::new(letters));
        let mut out = Vec::new();
        let mut step = |tokens: &[u32], origins: &[Option<u8>], text: &str, ended: bool| {
            let shown =
                Shown { tokens: tokens.to_vec(), origins: origins.to_vec(), text: text.into(), ended };
            colours.write(&shown, &|origin| format!("drafter {origin}"), &mut out).unwrap();
        };
        // "b" comes out, "c" is held back.
        step(&[0, 1], &[None, Some(0)], "ab", false);
        step(&[2, 3], &[Some(0), Some(1)], "cé", true);
        assert_eq!(colours.legend(false), "; model 1, drafter 0 (green) 2, drafter 1 (cyan) 1");
        assert_eq!(String::from_utf8(out).unwrap(), "a\x1b[32mb\x1b[0m\x1b[32mc\x1b[0m\x1b[36mé\x1b[0m");
    }
}
