//! The tokenizer and the chat templates of a Hugging Face folder as GGUF metadata: what
//! [`super::gguf`] reads.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::json::{Merge, TokenizerJson};
use super::pretokenize::{Family, GPT2};
use super::vocab::Kind;
use super::{END_NAMES, END_NAMES_IF_SPECIAL, SPACE, Spelling, Tokenizer};
use crate::formats::gguf::Writer;
use crate::template::source;
use crate::{Error, Result};

impl Tokenizer {
    /// Adds the tokenizer and the templates of the folder `dir` to `writer`, with a token for each of
    /// the `rows` rows of the embedding. Returns what is left out and changes few texts, for people.
    ///
    /// # Errors
    /// Whatever [`from_folder`](Self::from_folder) refuses; a tokenizer that GGUF has no words for.
    pub(crate) fn write_gguf(dir: &Path, rows: usize, writer: &mut Writer) -> Result<Vec<String>> {
        let tokenizer = Self::from_folder(dir)?;
        let path = dir.join("tokenizer.json");
        let refuse = |what: String| Error::unsupported(&path, format!("cannot be written as GGUF: {what}"));
        let read = || std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error));
        let text = read()?;
        let json = TokenizerJson::parse(&path, &text)?;
        let steps: Value = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        let (normalizer, splits) = (&steps["normalizer"], &steps["pre_tokenizer"]);
        let mut notes = Vec::new();

        match tokenizer.spelling {
            Spelling::ByteLevel => {
                if *normalizer == json!({"type": "NFC"}) {
                    notes.push(
                        "text is no longer brought into the composed form (NFC) before it is tokenized"
                            .into(),
                    );
                } else if !normalizer.is_null() {
                    return Err(refuse(format!(
                        "normalizer {normalizer}; byte-level text can have none but NFC"
                    )));
                }
                let patterns = patterns(splits).map_err(&refuse)?;
                let pre = Family::with(&patterns, json.model.ignore_merges).ok_or_else(|| {
                    refuse(format!("its way to split text has no name there; named are {}", Family::known()))
                })?;
                writer.meta("tokenizer.ggml.model", "gpt2").meta("tokenizer.ggml.pre", pre);
                writer.meta("tokenizer.ggml.merges", merges(&json.model.merges));
            }
            Spelling::Spaced => {
                let prefix = space_prefix(normalizer, splits).map_err(&refuse)?;
                match tokenizer.scores(&json.model.merges) {
                    Some(scores) => {
                        writer.meta("tokenizer.ggml.model", "llama").meta("tokenizer.ggml.pre", "default");
                        writer.meta("tokenizer.ggml.scores", padded(scores, rows, |_| -1000.0));
                    }
                    None => {
                        writer.meta("tokenizer.ggml.model", "gemma4");
                        writer.meta("tokenizer.ggml.merges", merges(&json.model.merges));
                    }
                }
                writer.meta("tokenizer.ggml.add_space_prefix", prefix);
                let unknown = json.model.unk_token.as_deref().and_then(|name| tokenizer.id_of(name));
                if let Some(id) = unknown {
                    writer.meta("tokenizer.ggml.unknown_token_id", id);
                }
            }
            Spelling::Plain => {
                return Err(refuse("its decoder is neither byte-level nor SentencePiece's".into()));
            }
        }
        tokenizer.write_tokens(rows, writer);
        tokenizer.write_roles(writer).map_err(&refuse)?;
        let strict =
            |token: &Value| ["lstrip", "rstrip", "single_word"].iter().any(|key| token[*key] == true);
        if steps["added_tokens"].as_array().is_some_and(|tokens| tokens.iter().any(strict)) {
            notes.push("special tokens no longer swallow the white space beside them".into());
        }
        let templates = source::in_folder(dir)?;
        for (key, text) in [
            ("tokenizer.chat_template", templates.main),
            ("tokenizer.chat_template.tool_use", templates.tool_use),
        ] {
            if let Some(text) = text {
                writer.meta(key, text);
            }
        }
        Ok(notes)
    }

    /// Spellings and kinds by id. Ids without a token get a name of their own.
    fn write_tokens(&self, rows: usize, writer: &mut Writer) {
        let vocab = &self.model.vocab;
        let ids = 0..vocab.len().max(rows) as u32;
        let text = |id: u32| match vocab.text(id) {
            None | Some("") => format!("[PAD{id}]"),
            Some(text) => text.to_owned(),
        };
        writer.meta("tokenizer.ggml.tokens", ids.clone().map(text).collect::<Vec<_>>());
        let kinds: Vec<i32> = ids.map(|id| vocab.kind(id).to_gguf()).collect();
        writer.meta("tokenizer.ggml.token_type", kinds);
    }

    /// Tokens that begin and end texts.
    fn write_roles(&self, writer: &mut Writer) -> Result<(), String> {
        if let Some(bos) = self.bos {
            writer.meta("tokenizer.ggml.bos_token_id", bos);
        }
        if let Some(eos) = self.eos {
            writer.meta("tokenizer.ggml.eos_token_id", eos);
        }
        writer.meta("tokenizer.ggml.add_bos_token", self.adds_bos());
        let known = |id: u32| {
            let text = self.token_text(id).unwrap_or_default();
            END_NAMES.contains(&text) || END_NAMES_IF_SPECIAL.contains(&text)
        };
        let others: Vec<u32> =
            self.ends.iter().copied().filter(|id| Some(*id) != self.eos && !known(*id)).collect();
        const KEYS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
        if others.len() > KEYS.len() {
            return Err(format!(
                "replies end at {} tokens of unknown name; there are keys for 2",
                others.len()
            ));
        }
        for (key, id) in KEYS.into_iter().zip(others) {
            writer.meta(key, id);
        }
        Ok(())
    }

    /// Scores of tokens that have the same pairs join in the same order as the ranked `merges`;
    /// `None` if there are none: pairs that make one token must stand together, and every pair of
    /// tokens that makes a token must be among them.
    fn scores(&self, merges: &[Merge<'_>]) -> Option<Vec<f32>> {
        let vocab = &self.model.vocab;
        // Group and number of the pairs that make a token.
        let mut made: HashMap<u32, (usize, usize)> = HashMap::new();
        let mut last = None;
        for merge in merges {
            let id = vocab.id_of(&format!("{}{}", merge.left, merge.right))?;
            let groups = made.len();
            let entry = made.entry(id).or_insert((groups, 0));
            if entry.1 > 0 && last != Some(id) {
                return None;
            }
            entry.1 += 1;
            last = Some(id);
        }
        let joins = |id: u32| matches!(vocab.kind(id), Kind::Normal | Kind::UserDefined);
        let mut scores = vec![-1000.0; vocab.len()];
        for id in (0..vocab.len() as u32).filter(|&id| joins(id)) {
            let text = vocab.text(id).unwrap_or_default();
            let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
            let pairs = cuts.filter(|(a, b)| vocab.id_of(a).is_some() && vocab.id_of(b).is_some()).count();
            let (group, listed) = made.get(&id).copied().unwrap_or((0, 0));
            if pairs != listed {
                return None;
            }
            scores[id as usize] = -(group as f32);
        }
        Some(scores)
    }
}

fn merges(merges: &[Merge<'_>]) -> Vec<String> {
    merges.iter().map(|merge| format!("{} {}", merge.left, merge.right)).collect()
}

fn padded<T>(mut values: Vec<T>, len: usize, more: impl Fn(usize) -> T) -> Vec<T> {
    values.extend((values.len()..len).map(more));
    values
}

/// The patterns that a byte-level pre-tokenizer splits text by, one after the other.
fn patterns(step: &Value) -> Result<Vec<String>, String> {
    let refuse = || Err(format!("pre-tokenizer {step}"));
    match step["type"].as_str() {
        Some("Sequence") => {
            let steps = step["pretokenizers"].as_array().into_iter().flatten();
            Ok(steps.map(patterns).collect::<Result<Vec<_>, _>>()?.concat())
        }
        Some("Split") if step["behavior"] == "Isolated" && step["invert"] != true => {
            match step["pattern"]["Regex"].as_str() {
                Some(pattern) => Ok(vec![pattern.into()]),
                None => refuse(),
            }
        }
        Some("Digits") if step["individual_digits"] == true => Ok(vec![r"\p{N}".into()]),
        Some("ByteLevel") if step["add_prefix_space"] != true => Ok(match step["use_regex"] {
            Value::Bool(false) => Vec::new(),
            _ => vec![GPT2.into()],
        }),
        _ => refuse(),
    }
}

/// Whether a SentencePiece spelling puts a space before the text.
fn space_prefix(normalizer: &Value, splits: &Value) -> Result<bool, String> {
    // Spaces have been replaced by then, so that there is nothing to split at.
    let idle = splits.is_null() || (splits["type"] == "Split" && splits["pattern"] == json!({"String": " "}));
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    if !idle {
        Err(format!("pre-tokenizer {splits}"))
    } else if *normalizer == replace {
        Ok(false)
    } else if normalizer["type"] == "Sequence" && normalizer["normalizers"] == json!([prepend, replace]) {
        Ok(true)
    } else {
        Err(format!("normalizer {normalizer}"))
    }
}
