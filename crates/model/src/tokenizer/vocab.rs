//! The vocabulary: id to text, text to id, and what kind of token each id is.
//!
//! All texts lie in one string and the index holds ids only, so that a table of a quarter of a
//! million tokens is built in a few allocations: loading it is part of every start.

use std::hash::{BuildHasher, RandomState};

/// What a token stands for. The numbers are those of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ordinary text.
    Normal,
    /// The token for text that has no other token.
    Unknown,
    /// A mark of structure: matched in text only when asked for, never shown.
    Control,
    /// Text that is always one token, matched before anything else.
    UserDefined,
    /// A place without a meaning.
    Unused,
    /// One byte, spelt `<0xAB>`.
    Byte,
}

impl Kind {
    /// The kind of a `token_type` number; numbers that nobody defined count as unused.
    pub(super) fn from_gguf(number: u32) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }

    /// The number of this kind in `token_type`.
    pub(super) fn to_gguf(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }

    /// Whether tokens of this kind are kept out of shown text.
    pub(super) fn is_hidden(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// Texts and kinds by id, ids by text. Texts are unique; an empty text is a hole and not indexed.
#[derive(Debug)]
pub(super) struct Vocab {
    texts: String,
    /// End of text `id` in `texts`; it starts where the one before ends.
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Open addressing: high half the hash, low half id + 1, zero for a free slot.
    slots: Vec<u64>,
    hasher: RandomState,
    longest: usize,
}

impl Vocab {
    /// Builds the table. `kinds` has one entry per text.
    ///
    /// # Errors
    /// No texts, too much text, or a text that occurs twice.
    pub(super) fn new(texts: &[impl AsRef<str>], kinds: Vec<Kind>) -> Result<Self, String> {
        let bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
        if texts.is_empty() {
            return Err("the vocabulary is empty".into());
        }
        if bytes > u32::MAX as usize || texts.len() >= u32::MAX as usize / 4 {
            return Err(format!("{} tokens with {bytes} bytes are too many", texts.len()));
        }
        let mut vocab = Self {
            texts: String::with_capacity(bytes),
            ends: Vec::with_capacity(texts.len()),
            kinds,
            slots: vec![0; (texts.len() * 2).next_power_of_two()],
            hasher: RandomState::new(),
            longest: 0,
        };
        for (id, text) in texts.iter().map(AsRef::as_ref).enumerate() {
            vocab.texts.push_str(text);
            vocab.ends.push(vocab.texts.len() as u32);
            vocab.longest = vocab.longest.max(text.len());
            if !text.is_empty() {
                vocab.index(id as u32, text)?;
            }
        }
        Ok(vocab)
    }

    fn index(&mut self, id: u32, text: &str) -> Result<(), String> {
        let slot = self.find(text);
        if self.slots[slot.at] != 0 {
            let first = self.slots[slot.at] as u32 - 1;
            return Err(format!("token {text:?} occurs twice, as {first} and as {id}"));
        }
        self.slots[slot.at] = (slot.hash << 32) | u64::from(id + 1);
        Ok(())
    }

    /// The slot that holds `text`, or the free one where it belongs.
    fn find(&self, text: &str) -> Slot {
        let hash = self.hasher.hash_one(text.as_bytes());
        let mask = self.slots.len() - 1;
        // The position takes the low bits and the stored tag the high ones.
        let tag = hash >> 32;
        let mut at = hash as usize & mask;
        // Ends: the table is at most half full.
        loop {
            let slot = self.slots[at];
            if slot == 0 || (slot >> 32 == tag && self.text(slot as u32 - 1) == Some(text)) {
                return Slot { at, hash: tag };
            }
            at = (at + 1) & mask;
        }
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the longest text.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The text of `id` as the vocabulary spells it.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        Some(&self.texts[start..end])
    }

    /// The kind of `id`; [`Kind::Unused`] beyond the end.
    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    /// Changes the kind of `id`, which must exist.
    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        self.kinds[id as usize] = kind;
    }

    /// The id of exactly this text.
    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        (self.slots[self.find(text).at] as u32).checked_sub(1)
    }

    /// Like [`id_of`](Self::id_of), trying `guess` and the id after it first.
    pub(super) fn id_near(&self, guess: u32, text: &str) -> Option<u32> {
        let near = [guess, guess + 1].into_iter().find(|id| self.text(*id) == Some(text));
        near.filter(|_| !text.is_empty()).or_else(|| self.id_of(text))
    }

    /// All ids of the kinds that `keep` accepts.
    pub(super) fn ids_where(&self, keep: impl Fn(Kind) -> bool) -> impl Iterator<Item = u32> {
        let kinds = self.kinds.iter().enumerate();
        kinds.filter(move |(_, kind)| keep(**kind)).map(|(id, _)| id as u32)
    }
}

struct Slot {
    at: usize,
    hash: u64,
}
