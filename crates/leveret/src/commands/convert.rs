//! `leveret convert`: a model's files written anew in another format or type.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use indicatif::HumanBytes;
use leveret_model::{ElementType, Team, convert};

use crate::cli::Usage;
use crate::model;

/// Write a model as a GGUF file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
From a Hugging Face folder (llama, mistral, qwen2, qwen3, gemma3) or from another GGUF file of any
family. What GGUF cannot say about a model is refused.

  leveret convert hf:Qwen/Qwen3-0.6B qwen3.gguf
  leveret convert qwen3.gguf small.gguf --type q4_k")]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// File to write; it ends in .gguf.
    out: PathBuf,
    /// Type of the matrices; rows that are no whole number of its blocks become q8_0 or stay.
    #[arg(long = "type", value_enum, default_value = "bf16")]
    ty: Type,
    /// Write over a file that is there.
    #[arg(long)]
    overwrite: bool,
}

/// Type of the matrices in the new file.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_k")]
    Q4K,
    Bf16,
    F32,
}

impl Type {
    fn element(self) -> ElementType {
        match self {
            Self::Q8_0 => ElementType::Q8_0,
            Self::Q4_0 => ElementType::Q4_0,
            Self::Q4K => ElementType::Q4K,
            Self::Bf16 => ElementType::BF16,
            Self::F32 => ElementType::F32,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let out = args.out.display();
    if args.out.extension().is_none_or(|extension| extension != "gguf") {
        return Err(Usage(format!("{out}: the file to write must end in .gguf")).into());
    }
    if args.out.exists() && !args.overwrite {
        return Err(Usage(format!("{out} exists: choose another name, or give --overwrite")).into());
    }
    let source = model::open(Some(&args.model))?;
    let done = convert::to_gguf(&source, &args.out, args.ty.element(), Team::default_threads())?;
    if let Some(note) = model::note_of(&source) {
        eprintln!("{note}");
    }
    done.notes.iter().for_each(|note| eprintln!("{note}"));
    writeln!(std::io::stdout(), "{out}: {} tensors, {}", done.tensors, HumanBytes(done.bytes))?;
    Ok(ExitCode::SUCCESS)
}
