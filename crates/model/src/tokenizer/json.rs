//! `tokenizer.json` as it is written.
//!
//! The vocabulary and the merges are hundreds of thousands of strings: they are borrowed from the
//! file's text, and only the small components go through the `tokenizers` crate's own types.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

use crate::{Error, Result};

/// The parts of `tokenizer.json` that are used.
#[derive(Deserialize)]
pub(super) struct TokenizerJson<'a> {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedJson>,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) post_processor: Option<serde_json::Value>,
    pub(super) decoder: Option<serde_json::Value>,
    #[serde(borrow)]
    pub(super) model: ModelJson<'a>,
}

/// A BPE model.
#[derive(Deserialize)]
pub(super) struct ModelJson<'a> {
    pub(super) unk_token: Option<String>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    #[serde(borrow)]
    pub(super) vocab: Entries<'a>,
    #[serde(borrow)]
    pub(super) merges: Vec<Merge<'a>>,
}

/// A token matched before the model sees the text.
#[derive(Deserialize)]
pub(super) struct AddedJson {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Tokens and ids in the order of the file.
pub(super) struct Entries<'a>(pub(super) Vec<(Text<'a>, u32)>);

/// Two tokens that join, written as `"left right"` or `["left", "right"]`.
pub(super) struct Merge<'a> {
    pub(super) left: Cow<'a, str>,
    pub(super) right: Cow<'a, str>,
}

impl<'a> TokenizerJson<'a> {
    /// Parses the text of the file at `path`.
    pub(super) fn parse(path: &Path, text: &'a str) -> Result<Self> {
        let json: Self = serde_json::from_str(text).map_err(|error| match other_type(text) {
            Some(other) => unsupported(path, &format!("model type {other:?}")),
            None => Error::format(path, format!("not a usable tokenizer: {error}")),
        })?;
        let model = &json.model;
        let affix = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
        if affix.into_iter().flatten().any(|affix| !affix.is_empty()) {
            return Err(unsupported(path, "a BPE model with word prefixes or suffixes"));
        }
        Ok(json)
    }
}

fn unsupported(path: &Path, what: &str) -> Error {
    Error::unsupported(path, format!("{what} is not supported; supported is BPE without affixes"))
}

/// The model's type where it is not BPE, for a better message than that of the parser.
fn other_type(text: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let name = json.get("model")?.get("type")?.as_str()?;
    (name != "BPE").then(|| name.into())
}

impl From<AddedJson> for AddedToken {
    fn from(json: AddedJson) -> Self {
        AddedToken::from(json.content, json.special)
            .single_word(json.single_word)
            .lstrip(json.lstrip)
            .rstrip(json.rstrip)
            .normalized(json.normalized)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Vec<(Text<'de>, u32)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from token to id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Map).map(Entries)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge as \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Merge<'de>, E> {
                let (left, right) = cut(text)?;
                Ok(Merge { left: Cow::Borrowed(left), right: Cow::Borrowed(right) })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Merge<'de>, E> {
                let (left, right) = cut(text)?;
                Ok(Merge { left: left.to_owned().into(), right: right.to_owned().into() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge<'de>, A::Error> {
                let mut next = |at| {
                    seq.next_element::<Text<'de>>()?
                        .ok_or_else(|| de::Error::invalid_length(at, &"two tokens"))
                };
                let (left, right) = (next(0)?.0, next(1)?.0);
                match seq.next_element::<de::IgnoredAny>()? {
                    None => Ok(Merge { left, right }),
                    Some(_) => Err(de::Error::custom("a merge joins two tokens, not more")),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

fn cut<E: de::Error>(text: &str) -> Result<(&str, &str), E> {
    let invalid = || E::custom(format_args!("merge {text:?} is not two tokens and a space"));
    text.split_once(' ').ok_or_else(invalid)
}
