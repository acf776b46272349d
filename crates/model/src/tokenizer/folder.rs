//! A tokenizer from a Hugging Face folder.
//!
//! `tokenizer.json` says how to tokenize; which tokens begin and end a text is spread over
//! `tokenizer_config.json`, `generation_config.json` and `config.json`.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::gguf::byte_tokens;
use super::json::{AddedJson, ModelJson, TokenizerJson};
use super::merge::{Fallback, MergeModel, Rule};
use super::spelling::byte_of;
use super::vocab::{Kind, Vocab};
use super::{Parts, Spelling, Tokenizer};
use crate::{Error, Result};

/// Ids from here on are taken for a fault: no published vocabulary is near it, and the tables are
/// as long as the highest id.
const MAX_IDS: u32 = 1 << 21;

impl Tokenizer {
    /// Builds a tokenizer from the Hugging Face folder `dir`.
    ///
    /// # Errors
    /// `tokenizer.json` is missing, malformed, contradictory, or of a kind other than BPE.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Err(Error::format(
                &path,
                "not found; a model folder needs tokenizer.json (tokenizer.model alone is not \
                 read: convert it with transformers' save_pretrained)",
            ));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
        let json = TokenizerJson::parse(&path, &text)?;
        let roles = Roles::read(dir)?;
        assemble(json, &roles).map_err(|what| Error::format(&path, what))
    }
}

fn assemble(json: TokenizerJson<'_>, roles: &Roles) -> Result<Tokenizer, String> {
    let spelling = spelling(&json);
    let model = model(&json.model, &json.added_tokens)?;
    let vocab = &model.vocab;
    let id = |name: &Option<String>| vocab.id_of(name.as_deref()?);

    let leading = json.post_processor.as_ref().and_then(leading_special);
    let bos = id(&roles.bos_token).or(roles.bos_id).or_else(|| vocab.id_of(leading?));
    let bos = bos.filter(|bos| (*bos as usize) < vocab.len());
    let template_adds_bos = leading.is_some_and(|name| vocab.id_of(name) == bos);
    let eos = id(&roles.eos_token).or(roles.eos_ids.first().copied());
    let ends = roles.eos_ids.iter().copied().chain(eos);
    Tokenizer::assemble(Parts {
        bos,
        eos,
        ends: ends.filter(|id| (*id as usize) < vocab.len()).collect(),
        add_bos: roles.add_bos.unwrap_or(template_adds_bos),
        spelling,
        model,
        normalizer: json.normalizer,
        pre_tokenizer: json.pre_tokenizer,
        added: Some(json.added_tokens.into_iter().map(Into::into).collect()),
    })
}

fn model(json: &ModelJson<'_>, added: &[AddedJson]) -> Result<MergeModel, String> {
    let (texts, kinds) = tokens(json, added)?;
    let vocab = Vocab::new(&texts, kinds).map_err(|what| format!("model.vocab: {what}"))?;
    let pairs: Vec<_> = json.merges.iter().map(|merge| (&*merge.left, &*merge.right)).collect();
    let rule = Rule::ranked(&vocab, &pairs).map_err(|what| format!("model.merges: {what}"))?;
    let fallback = Fallback {
        bytes: if json.byte_fallback { byte_tokens(&vocab) } else { None },
        unknown: json.unk_token.as_deref().and_then(|name| vocab.id_of(name)),
        fuse: json.fuse_unk,
    };
    Ok(MergeModel { vocab, rule, fallback, whole_words: json.ignore_merges })
}

/// Texts and kinds by id, of the model's own and the added tokens.
fn tokens<'a>(
    json: &'a ModelJson<'_>,
    added: &'a [AddedJson],
) -> Result<(Vec<Cow<'a, str>>, Vec<Kind>), String> {
    let own = json.vocab.0.iter().map(|(text, id)| (&*text.0, *id));
    let ids = own.clone().map(|(_, id)| id).chain(added.iter().map(|token| token.id));
    let highest = ids.max().ok_or("the vocabulary is empty")?;
    if highest >= MAX_IDS {
        return Err(format!("token id {highest} is out of range; expected ids below {MAX_IDS}"));
    }
    let mut texts = vec![Cow::Borrowed(""); highest as usize + 1];
    let mut kinds = vec![Kind::Unused; texts.len()];
    let mut place = |id: u32, text: &'a str, kind| {
        let held = &mut texts[id as usize];
        if !held.is_empty() && held != text {
            return Err(format!("id {id} is given to both {held:?} and {text:?}"));
        }
        *held = Cow::Borrowed(text);
        kinds[id as usize] = kind;
        Ok(())
    };
    for (text, id) in own {
        let is_byte = json.byte_fallback && byte_of(text).is_some();
        place(id, text, if is_byte { Kind::Byte } else { Kind::Normal })?;
    }
    for token in added {
        let kind = if token.special { Kind::Control } else { Kind::UserDefined };
        place(token.id, &token.content, kind)?;
    }
    Ok((texts, kinds))
}

/// Which spelling the decoder undoes.
fn spelling(json: &TokenizerJson<'_>) -> Spelling {
    let names = |value: &Value, wanted: &[&str]| {
        let mut found = false;
        visit_types(value, &mut |name| found |= wanted.contains(&name));
        found
    };
    match &json.decoder {
        Some(decoder) if names(decoder, &["ByteLevel"]) => Spelling::ByteLevel,
        Some(decoder) if names(decoder, &["ByteFallback", "Metaspace", "Replace"]) => Spelling::Spaced,
        _ => Spelling::Plain,
    }
}

/// Calls `seen` with every `type` in a component and the components it is a sequence of.
fn visit_types<'v>(value: &'v Value, seen: &mut impl FnMut(&'v str)) {
    if let Some(name) = value.get("type").and_then(Value::as_str) {
        seen(name);
    }
    let nested = value.get("decoders").and_then(Value::as_array);
    for inner in nested.into_iter().flatten() {
        visit_types(inner, seen);
    }
}

/// The special token that a post-processor's template puts in front of a text.
fn leading_special(processor: &Value) -> Option<&str> {
    if let Some(nested) = processor.get("processors").and_then(Value::as_array) {
        return nested.iter().find_map(leading_special);
    }
    processor.get("single")?.get(0)?.get("SpecialToken")?.get("id")?.as_str()
}

/// Which tokens begin and end texts, from the files beside `tokenizer.json`.
#[derive(Debug, Default)]
struct Roles {
    bos_token: Option<String>,
    eos_token: Option<String>,
    add_bos: Option<bool>,
    bos_id: Option<u32>,
    eos_ids: Vec<u32>,
}

impl Roles {
    fn read(dir: &Path) -> Result<Self> {
        let tokenizer = read_json(&dir.join("tokenizer_config.json"))?;
        let generation = read_json(&dir.join("generation_config.json"))?;
        let config = read_json(&dir.join("config.json"))?;
        let of_model = |key| ids(&generation[key]).or(ids(&config[key]));
        let of_text = |key| of_model(key).or(ids(&config["text_config"][key]));
        Ok(Self {
            bos_token: token_name(&tokenizer["bos_token"]),
            eos_token: token_name(&tokenizer["eos_token"]),
            add_bos: tokenizer["add_bos_token"].as_bool(),
            bos_id: of_text("bos_token_id").and_then(|ids| ids.first().copied()),
            eos_ids: of_text("eos_token_id").unwrap_or_default(),
        })
    }
}

/// A JSON file, or null if there is none.
fn read_json(path: &Path) -> Result<Value> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| Error::format(path, format!("not valid JSON: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// A token given by its text, or by an object with its text as `content`.
fn token_name(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(Into::into)
}

/// One id or a list of them; negative numbers stand for none.
fn ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => Some(list.iter().filter_map(id).collect()),
        value => id(value).map(|id| vec![id]),
    }
}
