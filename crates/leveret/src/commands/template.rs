//! `leveret template`: a conversation in the model's chat format.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

use super::run::read_text;
use crate::model::{self, Words};
use crate::streams::stdout;

/// Show a conversation in the model's chat format.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "FILE holds a JSON array of messages ({\"role\", \"content\"}), or an object with the keys
messages, tools and add_generation_prompt; its other keys are variables of the template."
)]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// The conversation; - for standard input.
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// End after the last message instead of where the model's turn begins.
    #[arg(long)]
    no_generation_prompt: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let source = model::open(Some(&args.model))?;
    let template = Words::open(&source)?.template;
    let template = template.ok_or_else(|| anyhow!("{}: has no chat template", source.path().display()))?;
    let name = args.messages.display().to_string();
    let value: Value = serde_json::from_str(&read_text(&args.messages)?).with_context(|| name.clone())?;
    let mut variables = match value {
        Value::Array(_) => Map::from_iter([("messages".to_owned(), value)]),
        Value::Object(object) => object,
        _ => bail!("{name}: expected an array of messages, or an object with the key messages"),
    };
    let messages = variables.remove("messages").ok_or_else(|| anyhow!("{name}: has no key messages"))?;
    let tools = variables.remove("tools").filter(|tools| !tools.is_null());
    let asked = variables.remove("add_generation_prompt").and_then(|value| value.as_bool());
    let generation = asked.unwrap_or(true) && !args.no_generation_prompt;
    let text = template.render(&messages, tools.as_ref(), generation, &variables)?;
    stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
