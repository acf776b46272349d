//! A tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file.
//!
//! The values arrive checked for type only; their lengths, ids and merges are checked here.

use std::path::Path;

use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::merge::{Fallback, MergeModel, Rule};
use super::pretokenize::Family;
use super::vocab::{Kind, Vocab};
use super::{Parts, SPACE, Spelling, Tokenizer};
use crate::formats::gguf::Meta;
use crate::{Error, Result};

/// The tokenizer metadata of a GGUF file. Only `model` and `tokens` are required; which of the
/// others must be there depends on `model`.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab<'a> {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE), `llama` (SentencePiece) or `gemma4`
    /// (ranked merges over SentencePiece spelling).
    pub model: &'a str,
    /// `tokenizer.ggml.pre`: name of the pre-tokenizer family.
    pub pre: Option<&'a str>,
    /// `tokenizer.ggml.tokens`: spelling by id.
    pub tokens: Vec<&'a str>,
    /// `tokenizer.ggml.scores`, one per token; needed by `llama`.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.token_type`, one per token.
    pub token_types: Option<Vec<u32>>,
    /// `tokenizer.ggml.merges`, `left right` by rank; needed by `gpt2` and `gemma4`.
    pub merges: Option<Vec<&'a str>>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

impl<'a> GgufVocab<'a> {
    /// Collects the `tokenizer.ggml.*` entries; the texts stay where they are.
    ///
    /// # Errors
    /// A required entry is missing, or one has another type than it should.
    pub fn read(meta: &'a Meta) -> Result<Self> {
        Ok(Self {
            model: meta.require("tokenizer.ggml.model")?,
            pre: meta.get("tokenizer.ggml.pre")?,
            tokens: meta.require("tokenizer.ggml.tokens")?,
            scores: meta.get("tokenizer.ggml.scores")?,
            token_types: meta.get("tokenizer.ggml.token_type")?,
            merges: meta.get("tokenizer.ggml.merges")?,
            bos: meta.get("tokenizer.ggml.bos_token_id")?,
            eos: meta.get("tokenizer.ggml.eos_token_id")?,
            eot: meta.get("tokenizer.ggml.eot_token_id")?,
            eom: meta.get("tokenizer.ggml.eom_token_id")?,
            unknown: meta.get("tokenizer.ggml.unknown_token_id")?,
            add_bos: meta.get("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: meta.get("tokenizer.ggml.add_space_prefix")?,
        })
    }
}

impl Tokenizer {
    /// Builds the tokenizer of an open GGUF file.
    ///
    /// # Errors
    /// As for [`GgufVocab::read`] and [`from_gguf_vocab`](Self::from_gguf_vocab).
    pub fn from_gguf(meta: &Meta) -> Result<Self> {
        Self::from_gguf_vocab(meta.path(), &GgufVocab::read(meta)?)
    }

    /// Builds a tokenizer from the metadata of the GGUF file at `path` (named in errors).
    ///
    /// # Errors
    /// Metadata that is missing, of the wrong length or contradictory; a tokenizer model or
    /// pre-tokenizer that is not supported.
    pub fn from_gguf_vocab(path: &Path, meta: &GgufVocab<'_>) -> Result<Self> {
        let invalid = |what: String| Error::format(path, what);
        let family = family(path, meta)?;
        let vocab = vocab(meta).map_err(invalid)?;
        check_ids(meta, vocab.len()).map_err(invalid)?;

        let rule = match meta.model {
            "llama" => scored(&vocab, meta),
            _ => ranked(&vocab, meta),
        }
        .map_err(invalid)?;
        let spelling = match meta.model {
            "gpt2" => Spelling::ByteLevel,
            _ => Spelling::Spaced,
        };
        let fallback = match spelling {
            Spelling::Spaced => Fallback { bytes: byte_tokens(&vocab), unknown: meta.unknown, fuse: true },
            _ => Fallback::default(),
        };
        let (normalizer, pre_tokenizer) = text_steps(meta, spelling, family)
            .map_err(|error| invalid(format!("tokenizer.ggml.pre: {error}")))?;

        let whole_words = family.is_some_and(|family| family.whole_words);
        let add_bos = meta.add_bos.unwrap_or(match family {
            Some(family) => family.add_bos,
            None => true,
        });
        Tokenizer::assemble(Parts {
            model: MergeModel { vocab, rule, fallback, whole_words },
            normalizer,
            pre_tokenizer,
            added: None,
            spelling,
            bos: meta.bos,
            eos: meta.eos,
            ends: [meta.eos, meta.eot, meta.eom].into_iter().flatten().collect(),
            add_bos,
        })
        .map_err(invalid)
    }
}

/// The pre-tokenizer family; `None` for the models that merge unsplit text.
fn family(path: &Path, meta: &GgufVocab<'_>) -> Result<Option<&'static Family>> {
    match meta.model {
        "gpt2" => {
            let name = meta.pre.unwrap_or_default();
            let unsupported = || {
                Error::unsupported(
                    path,
                    format!(
                        "tokenizer.ggml.pre is {name:?}; supported are {}. A folder with \
                         tokenizer.json needs no such name",
                        Family::known()
                    ),
                )
            };
            Family::named(name).map(Some).ok_or_else(unsupported)
        }
        "llama" | "gemma4" => Ok(None),
        other => Err(Error::unsupported(
            path,
            format!("tokenizer.ggml.model is {other:?}; supported are gpt2, llama, gemma4"),
        )),
    }
}

fn vocab(meta: &GgufVocab<'_>) -> Result<Vocab, String> {
    let tokens = meta.tokens.len();
    let kinds = match &meta.token_types {
        Some(types) if types.len() != tokens => {
            return Err(wrong_length("token_type", types.len(), tokens));
        }
        Some(types) => types.iter().map(|number| Kind::from_gguf(*number)).collect(),
        None => vec![Kind::Normal; tokens],
    };
    Vocab::new(&meta.tokens, kinds).map_err(|what| format!("tokenizer.ggml.tokens: {what}"))
}

fn check_ids(meta: &GgufVocab<'_>, tokens: usize) -> Result<(), String> {
    let named = [
        ("bos", meta.bos),
        ("eos", meta.eos),
        ("eot", meta.eot),
        ("eom", meta.eom),
        ("unknown", meta.unknown),
    ];
    for (name, id) in named {
        if let Some(id) = id.filter(|id| *id as usize >= tokens) {
            return Err(format!(
                "tokenizer.ggml.{name}_token_id is {id}, but the vocabulary has {tokens} tokens"
            ));
        }
    }
    Ok(())
}

fn scored(vocab: &Vocab, meta: &GgufVocab<'_>) -> Result<Rule, String> {
    match &meta.scores {
        Some(scores) if scores.len() == vocab.len() => Ok(Rule::scored(vocab, scores)),
        Some(scores) => Err(wrong_length("scores", scores.len(), vocab.len())),
        None => Err(missing("scores", meta.model)),
    }
}

fn ranked(vocab: &Vocab, meta: &GgufVocab<'_>) -> Result<Rule, String> {
    let merges = meta.merges.as_ref().ok_or_else(|| missing("merges", meta.model))?;
    let field = |what| format!("tokenizer.ggml.merges: {what}");
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        // The separator is the first space that is not the first character.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let space = merge[first..]
            .find(' ')
            .ok_or_else(|| field(format!("merge {rank} is {merge:?}; expected two tokens and a space")))?;
        pairs.push((&merge[..first + space], &merge[first + space + 1..]));
    }
    Rule::ranked(vocab, &pairs).map_err(field)
}

fn wrong_length(field: &str, found: usize, tokens: usize) -> String {
    format!("tokenizer.ggml.{field} has {found} entries; expected {tokens}, one per token")
}

fn missing(field: &str, model: &str) -> String {
    format!("tokenizer.ggml.{field} is missing; tokenizer model {model:?} needs it")
}

/// The tokens `<0x00>` to `<0xFF>`, if all are there.
pub(super) fn byte_tokens(vocab: &Vocab) -> Option<Box<[u32; 256]>> {
    let mut tokens = Box::new([0; 256]);
    for (byte, token) in tokens.iter_mut().enumerate() {
        *token = vocab.id_of(&format!("<0x{byte:02X}>"))?;
    }
    Some(tokens)
}

/// What happens to text before merging.
fn text_steps(
    meta: &GgufVocab<'_>,
    spelling: Spelling,
    family: Option<&Family>,
) -> tokenizers::Result<(Option<NormalizerWrapper>, Option<PreTokenizerWrapper>)> {
    if let Some(family) = family {
        return Ok((None, Some(family.pre_tokenizer()?)));
    }
    debug_assert_eq!(spelling, Spelling::Spaced);
    let spaces = NormalizerWrapper::Replace(Replace::new(" ", SPACE)?);
    let prefix = meta.add_space_prefix.unwrap_or(meta.model == "llama");
    let normalizer = match prefix {
        true => NormalizerWrapper::Sequence(Sequence::new(vec![
            NormalizerWrapper::Prepend(Prepend::new(SPACE.into())),
            spaces,
        ])),
        false => spaces,
    };
    Ok((Some(normalizer), None))
}
