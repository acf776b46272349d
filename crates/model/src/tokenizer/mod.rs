//! Text to token ids and back.
//!
//! A [`Tokenizer`] is built from a GGUF file's metadata ([`GgufVocab`]) or from a Hugging Face
//! folder. Added tokens, normalizers and pre-tokenizers are those of the `tokenizers` crate; the
//! vocabulary and the merging are ours, because they are most of the time a start takes.

mod folder;
mod gguf;
mod json;
mod merge;
mod pretokenize;
mod spelling;
mod stream;
mod vocab;
mod write;

use tokenizers::{
    AddedToken, AddedVocabulary, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizer,
    PreTokenizerWrapper,
};

pub use gguf::GgufVocab;
pub use stream::StreamDecoder;

use crate::{Error, Result};
use merge::MergeModel;
use spelling::{SPACE, Spelling};
use vocab::Kind;

/// A model's tokenizer. It can be shared between threads.
#[derive(Debug)]
pub struct Tokenizer {
    model: MergeModel,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    /// Tokens that are matched in text before anything else, special ones included.
    added: AddedVocabulary,
    /// The same, with special ones left as ordinary text.
    added_plain: AddedVocabulary,
    spelling: Spelling,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Sorted, without repetition.
    ends: Vec<u32>,
    add_bos: bool,
}

/// What the two kinds of sources have in common.
struct Parts {
    model: MergeModel,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    /// The added tokens with their options; `None` makes them from the kinds in the vocabulary.
    added: Option<Vec<AddedToken>>,
    spelling: Spelling,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Ids after which the model has nothing more to say, to which known names are added.
    ends: Vec<u32>,
    add_bos: bool,
}

/// Names of tokens that end a turn or a text in published models.
const END_NAMES: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|endofturn|>",
    "<|END_OF_TURN_TOKEN|>",
];

/// Further such names, which in some vocabularies are ordinary text.
const END_NAMES_IF_SPECIAL: &[&str] = &["</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|EOT|>"];

impl Tokenizer {
    fn assemble(mut parts: Parts) -> Result<Self, String> {
        let ends = find_ends(&mut parts);
        let vocab = &parts.model.vocab;
        let tokens = parts.added.take().unwrap_or_else(|| {
            let ids = vocab.ids_where(|kind| kind.is_hidden() || kind == Kind::UserDefined);
            let token = |id| {
                let text = vocab.text(id).unwrap_or_default();
                AddedToken::from(text, vocab.kind(id).is_hidden()).normalized(false)
            };
            ids.map(token).collect()
        });
        let mut added = AddedVocabulary::new();
        added
            .add_tokens(tokens, &parts.model, parts.normalizer.as_ref())
            .map_err(|error| format!("added tokens: {error}"))?;
        let mut added_plain = added.clone();
        added_plain.set_encode_special_tokens(true);
        Ok(Self {
            model: parts.model,
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            added,
            added_plain,
            spelling: parts.spelling,
            bos: parts.bos,
            eos: parts.eos,
            ends,
            add_bos: parts.add_bos,
        })
    }

    /// The token ids of `text`, without BOS. With `parse_special`, the spellings of special
    /// tokens in the text become those tokens; without, they are text like any other.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express, or that is too long for a pattern.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let added = if parse_special { &self.added } else { &self.added_plain };
        let failed = |error: &dyn std::fmt::Display| {
            Error::request(format!("cannot tokenize {} bytes of text: {error}", text.len()))
        };
        let mut pieces = added.extract_and_normalize(self.normalizer.as_ref(), text);
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(|error| failed(&error))?;
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        for (piece, _, token) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            match token {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => self.model.encode(piece, &mut ids).map_err(|error| failed(&error))?,
            }
        }
        Ok(ids)
    }

    /// The ids of a whole prompt: [`encode`](Self::encode), with BOS in front if the model wants
    /// one and the text does not bring it along.
    ///
    /// # Errors
    /// As for `encode`.
    pub fn encode_prompt(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, parse_special)?;
        if let Some(bos) = self.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of `ids` as a continuation: special tokens left out, nothing trimmed, U+FFFD for
    /// bytes that are no text.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        for id in ids.iter().filter(|id| !self.is_special(**id)) {
            self.append_bytes(*id, &mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that `id` stands for, which need not be whole characters; a special token's
    /// spelling. `None` beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.token_text(id)?;
        self.append_bytes(id, &mut bytes);
        Some(bytes)
    }

    fn append_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        if let Some(text) = self.token_text(id) {
            self.spelling.append_bytes(text, self.model.vocab.kind(id), bytes);
        }
    }

    /// The spelling of `id` in the vocabulary, not the text it stands for.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.model.vocab.text(id)
    }

    /// The id of the token with this spelling.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.model.vocab.id_of(text)
    }

    /// Number of ids, the highest id plus one. A model's head may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.model.vocab.len()
    }

    /// Whether generation stops at `id`.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// All ids at which generation stops, in order.
    pub fn end_ids(&self) -> &[u32] {
        &self.ends
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that the file names as the end of a text; see also [`end_ids`](Self::end_ids).
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether prompts start with BOS.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether `id` is a mark of structure that is not shown.
    pub fn is_special(&self, id: u32) -> bool {
        self.model.vocab.kind(id).is_hidden()
    }
}

/// Adds the ends that are known by name to those the source names, and makes all of them special.
fn find_ends(parts: &mut Parts) -> Vec<u32> {
    let vocab = &mut parts.model.vocab;
    let mut ends = std::mem::take(&mut parts.ends);
    ends.extend(END_NAMES.iter().filter_map(|name| vocab.id_of(name)));
    let special = |id: &u32| matches!(vocab.kind(*id), Kind::Control | Kind::UserDefined);
    let names = END_NAMES_IF_SPECIAL.iter().filter_map(|name| vocab.id_of(name));
    ends.extend(names.filter(special));
    // In the harmony format <|end|> closes a message, after which the turn goes on.
    if let (Some(_), Some(_), Some(end)) =
        (vocab.id_of("<|return|>"), vocab.id_of("<|call|>"), vocab.id_of("<|end|>"))
    {
        ends.retain(|id| *id != end);
    }
    ends.sort_unstable();
    ends.dedup();
    for id in &ends {
        vocab.set_kind(*id, Kind::Control);
    }
    ends
}
