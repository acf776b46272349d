//! How a vocabulary spells bytes, and back.

use std::sync::LazyLock;

use super::vocab::Kind;

/// SentencePiece's stand-in for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// How token texts stand for the bytes of real text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's: every byte is one printable character.
    ByteLevel,
    /// SentencePiece's: [`SPACE`] is a space, `<0xAB>` a byte.
    Spaced,
    /// Texts stand for themselves.
    Plain,
}

impl Spelling {
    /// Appends the bytes that a token of this text and kind stands for.
    pub(super) fn append_bytes(self, text: &str, kind: Kind, bytes: &mut Vec<u8>) {
        match (self, kind) {
            (_, Kind::Byte) => match byte_of(text) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend(text.bytes()),
            },
            (_, Kind::Control | Kind::Unknown) => bytes.extend(text.bytes()),
            (Self::ByteLevel, Kind::Normal) => append_byte_level(text, bytes),
            (Self::Spaced, _) => bytes.extend(text.replace(SPACE, " ").bytes()),
            _ => bytes.extend(text.bytes()),
        }
    }
}

/// The byte that `<0xAB>` names.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// A text with a character outside the byte alphabet stands for itself.
fn append_byte_level(text: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in text.chars() {
        match BYTE_OF_CHAR.get(c as usize).copied().flatten() {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend(text.bytes());
                return;
            }
        }
    }
}

/// GPT-2's alphabet: printable Latin-1 bytes are their own character, the others follow from
/// U+0100 on in order.
static BYTE_OF_CHAR: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut table = [None; 0x144];
    let mut next = 0x100;
    for byte in 0..=u8::MAX {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            table[byte as usize] = Some(byte);
        } else {
            table[next] = Some(byte);
            next += 1;
        }
    }
    table
});
