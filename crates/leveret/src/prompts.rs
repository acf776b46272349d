//! Prompt files as the benchmarks publish them: one JSON object a line.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One prompt of a file.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Its id in the file.
    pub name: String,
    /// The first turn, or the text to continue.
    pub text: String,
    /// Whether it is to be continued as it stands (HumanEval) and not answered.
    pub raw: bool,
}

/// Reads a file of `{"turns": […]}` (Spec-Bench, MT-Bench, code edits) or `{"prompt": …}`
/// (HumanEval) lines.
///
/// # Errors
/// A file that cannot be read, or a line of another form.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompts: Vec<Prompt> = lines
        .map(|(i, line)| prompt(i, line).with_context(|| format!("{}, line {}", path.display(), i + 1)))
        .collect::<Result<_>>()?;
    if prompts.is_empty() {
        bail!("{}: holds no prompts", path.display());
    }
    Ok(prompts)
}

fn prompt(line: usize, text: &str) -> Result<Prompt> {
    let value: Value = serde_json::from_str(text)?;
    let name = match value.get("question_id").or_else(|| value.get("task_id")) {
        Some(Value::String(id)) => id.clone(),
        Some(id) => id.to_string(),
        None => (line + 1).to_string(),
    };
    if let Some(turn) = value["turns"].get(0).and_then(Value::as_str) {
        return Ok(Prompt { name, text: turn.to_owned(), raw: false });
    }
    match value["prompt"].as_str() {
        Some(text) => Ok(Prompt { name, text: text.to_owned(), raw: true }),
        None => bail!("expected an object with \"turns\" (an array of texts) or \"prompt\" (a text)"),
    }
}
