//! Where a model keeps its templates.

use std::path::Path;

use serde_json::Value;

use crate::formats::gguf::Meta;
use crate::{Error, Result};

/// The texts of a model's templates.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) main: Option<String>,
    pub(crate) tool_use: Option<String>,
}

/// The templates in the metadata of a GGUF file.
pub(super) fn in_gguf(meta: &Meta) -> Result<Sources> {
    let get = |key| meta.get::<&str>(key).map(|text| text.map(Into::into));
    Ok(Sources { main: get("tokenizer.chat_template")?, tool_use: get("tokenizer.chat_template.tool_use")? })
}

/// The templates of a Hugging Face folder: files of their own, else those in
/// `tokenizer_config.json`, as one text or as a list of named ones.
pub(crate) fn in_folder(dir: &Path) -> Result<Sources> {
    if let Some(main) = read(&dir.join("chat_template.jinja"))? {
        let tool_use = read(&dir.join("additional_chat_templates").join("tool_use.jinja"))?;
        return Ok(Sources { main: Some(main), tool_use });
    }
    let path = dir.join("tokenizer_config.json");
    let Some(text) = read(&path)? else { return Ok(Sources::default()) };
    let config: Value = serde_json::from_str(&text)
        .map_err(|error| Error::format(&path, format!("not valid JSON: {error}")))?;
    Ok(in_config(&config["chat_template"]))
}

fn in_config(entry: &Value) -> Sources {
    let Value::Array(named) = entry else {
        return Sources { main: entry.as_str().map(Into::into), tool_use: None };
    };
    let get = |name: &str| {
        let entry = named.iter().find(|entry| entry["name"] == name)?;
        entry["template"].as_str().map(Into::into)
    };
    Sources { main: get("default"), tool_use: get("tool_use") }
}

fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Turns the tags that mark an assistant's words for training, which change nothing in the text,
/// into conditions that hold, which treat white space alike.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        let word_at = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let word_len = tag[word_at..].find(|c: char| !c.is_ascii_alphabetic());
        let (open, after) = tag.split_at(word_at);
        let (word, after) = after.split_at(word_len.unwrap_or(after.len()));
        result.push_str(before);
        result.push_str(open);
        result.push_str(match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            other => other,
        });
        rest = after;
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_keep_their_white_space_control() {
        let source = "a{%- generation %}b{{ generation }}{%endgeneration -%}{% generations %}{%";
        let wanted = "a{%- if true %}b{{ generation }}{%endif -%}{% generations %}{%";
        assert_eq!(without_generation_tags(source), wanted);
    }

    #[test]
    fn named_templates() {
        let list = serde_json::json!([
            {"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}
        ]);
        let sources = in_config(&list);
        assert_eq!(sources.main.as_deref(), Some("a"));
        assert_eq!(sources.tool_use.as_deref(), Some("b"));
        assert_eq!(in_config(&"c".into()).main.as_deref(), Some("c"));
        assert!(in_config(&Value::Null).main.is_none());
    }
}
