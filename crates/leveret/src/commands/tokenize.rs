//! `leveret tokenize`: text in, token ids out.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::run::read_text;
use crate::model;
use crate::streams::stdout;

/// Show the token ids of a text.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// The text; the default, or -, is standard input.
    #[arg(long, short, value_name = "FILE", default_value = "-", hide_default_value = true)]
    file: PathBuf,
    /// Read the spellings of special tokens as those tokens.
    #[arg(long)]
    special: bool,
    /// Begin with the token that begins a text, if the model wants one.
    #[arg(long)]
    bos: bool,
    /// A line for each token: its id, and its bytes as a JSON string.
    #[arg(long)]
    pieces: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let tokenizer = model::open(Some(&args.model))?.tokenizer()?;
    let text = read_text(&args.file)?;
    let ids = match args.bos {
        true => tokenizer.encode_prompt(&text, args.special)?,
        false => tokenizer.encode(&text, args.special)?,
    };
    let mut out = stdout();
    if args.pieces {
        for id in &ids {
            let bytes = tokenizer.token_bytes(*id).unwrap_or_default();
            let piece = serde_json::to_string(&String::from_utf8_lossy(&bytes))?;
            writeln!(out, "{id:>8}  {piece}")?;
        }
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "{}", ids.join(" "))?;
    }
    Ok(ExitCode::SUCCESS)
}
