//! Tokenizers and chat templates against their references.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use leveret_model::template::ChatTemplate;
use leveret_model::tokenizer::Tokenizer;
use leveret_model::{Files, Source};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::fixture::{ids, key, read_json};
use super::report::Report;
use crate::catalogue::Catalogue;
use crate::model::meta_text;
use crate::pull::{self, Store};

/// Models of the store by what they call themselves.
fn local_models() -> Result<BTreeMap<String, Source>> {
    let store = Store::open()?;
    let mut models = BTreeMap::new();
    for (name, _) in store.models() {
        let Ok(source) = Source::open(store.path(&name)) else { continue };
        if let Files::Gguf(gguf) = source.files() {
            models.insert(meta_text(gguf.meta(), "general.name").to_owned(), source);
        }
    }
    Ok(models)
}

/// Texts and ids of published models, which are fetched if need be.
pub(crate) fn real_tokenizers(path: &Path, report: &mut Report) -> Result<()> {
    let golden = read_json(path)?;
    let local = local_models()?;
    for (model, facts) in key(&golden, "models")?.as_object().into_iter().flatten() {
        let name = facts["name"].as_str().unwrap_or_default();
        let what = format!("tokenizer {model}");
        let tokenizer = match local.get(name) {
            Some(source) => source.tokenizer().map_err(anyhow::Error::from),
            None => fetched(name).and_then(|source| Ok(source.tokenizer()?)),
        };
        match tokenizer {
            Ok(tokenizer) => texts(&what, &tokenizer, facts, false, report)?,
            Err(error) => report.failed(&what, &format!("{error:#}")),
        }
    }
    Ok(())
}

/// The catalogue's model that calls itself `name`.
fn fetched(name: &str) -> Result<Source> {
    let catalogue = Catalogue::load()?;
    let entry = catalogue.models.iter().find(|entry| !name.is_empty() && entry.inside == name);
    let entry =
        entry.with_context(|| format!("no model in the catalogue calls itself {name:?}; leveret pull it"))?;
    Ok(Source::open(pull::resolve(Some(&entry.name))?)?)
}

/// Texts and ids of the tokenizers in the other cases, and of those cases' GGUF files.
pub(crate) fn tiny_tokenizers(path: &Path, report: &mut Report) -> Result<()> {
    let golden = read_json(path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    for (model, facts) in key(&golden, "models")?.as_object().into_iter().flatten() {
        let file = dir.join(facts["files"].as_str().unwrap_or_default());
        let folder = file.parent().unwrap_or(dir);
        let what = format!("tokenizer {model}");
        match Tokenizer::from_folder(folder) {
            Ok(tokenizer) => texts(&what, &tokenizer, facts, true, report)?,
            Err(error) => report.failed(&what, &error.to_string()),
        }
        for gguf in ggufs(&folder.with_file_name("gguf")) {
            let what =
                format!("tokenizer {model}, {}", gguf.file_name().unwrap_or_default().to_string_lossy());
            match Source::open(&gguf).and_then(|source| source.tokenizer()) {
                Ok(tokenizer) => texts(&what, &tokenizer, facts, true, report)?,
                Err(error) => report.failed(&what, &error.to_string()),
            }
        }
    }
    Ok(())
}

fn ggufs(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    let target =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("target"));
    paths.retain(target);
    paths.sort();
    paths
}

fn texts(what: &str, tokenizer: &Tokenizer, facts: &Value, special: bool, report: &mut Report) -> Result<()> {
    for group in ["plain", "special", "with_bos"] {
        let Some(cases) = facts.get(group).and_then(Value::as_array) else { continue };
        let mut wrong = Vec::new();
        for case in cases {
            let text = key(case, "text")?.as_str().unwrap_or_default();
            let expected = ids(key(case, "ids")?)?;
            let parse = case["parse_special"].as_bool().unwrap_or(special && group == "special");
            let found = match group {
                "with_bos" => tokenizer.encode_prompt(text, parse)?,
                _ => tokenizer.encode(text, parse)?,
            };
            if found != expected {
                wrong.push(format!("{text:?} gives {found:?}, expected {expected:?}"));
            }
        }
        report.count(&format!("{what} {group}"), cases.len(), &wrong);
    }
    Ok(())
}

/// Conversations and their renderings.
pub(crate) fn templates(path: &Path, report: &mut Report) -> Result<()> {
    let golden = read_json(path)?;
    let chats = key(&golden, "chats")?;
    let none = Map::new();
    let object = |name: &str| golden.get(name).and_then(Value::as_object).unwrap_or(&none);
    let mut sources = BTreeMap::new();
    for source in local_models()?.values() {
        if let Files::Gguf(gguf) = source.files() {
            let text = meta_text(gguf.meta(), "tokenizer.chat_template").to_owned();
            sources.insert(format!("{:x}", Sha256::digest(&text)), text);
        }
    }
    for (name, facts) in object("real") {
        if facts.get("rendered").is_none() {
            // A model without a template.
            continue;
        }
        let hash = facts["template_sha256"].as_str().unwrap_or_default();
        match sources.get(hash) {
            Some(text) => renderings(name, text, facts, chats, report)?,
            None => report
                .failed(&format!("template {name}"), "no model with this template is here; leveret pull"),
        }
    }
    for (name, facts) in object("own_templates") {
        renderings(name, facts["template"].as_str().unwrap_or_default(), facts, chats, report)?;
    }
    Ok(())
}

fn renderings(name: &str, text: &str, facts: &Value, chats: &Value, report: &mut Report) -> Result<()> {
    let variable = |key: &str| facts["variables"][key].as_str();
    let template = ChatTemplate::new(text, variable("bos_token"), variable("eos_token"));
    let template = template.with_context(|| format!("template {name}"))?;
    let rendered = key(facts, "rendered")?.as_object();
    let mut wrong = Vec::new();
    for (chat, expected) in rendered.into_iter().flatten() {
        let conversation = key(chats, chat)?;
        let generation = conversation["add_generation_prompt"].as_bool().unwrap_or(true);
        let tools = conversation.get("tools");
        let found = template.render(key(conversation, "messages")?, tools, generation, &Map::new());
        match (expected.as_str(), found) {
            (Some(expected), Ok(found)) if found == expected => {}
            (Some(expected), Ok(found)) => {
                wrong.push(format!("{chat} gives {found:?}, expected {expected:?}"))
            }
            (Some(_), Err(error)) => wrong.push(format!("{chat}: {error}")),
            (None, Ok(found)) => wrong.push(format!("{chat} gives {found:?}, expected an error")),
            (None, Err(_)) => {}
        }
    }
    report.count(&format!("template {name}"), rendered.map_or(0, Map::len), &wrong);
    Ok(())
}
