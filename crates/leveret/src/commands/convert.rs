//! `leveret convert`: the files of a model or drafter written anew in another format or type.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use indicatif::HumanBytes;
use leveret_model::convert::ConvertOptions;
use leveret_model::{ElementType, Team, convert};

use crate::cli::Usage;
use crate::model;
use crate::streams::{stdout, tell};

/// Write a model or a drafter as a GGUF file, or a drafter for vLLM.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
From a Hugging Face folder of any family, the layers that guess in it included, or from another
GGUF file. Drafters are written in llama.cpp's layout where it has one. An OUT without ending is a
folder: a drafter in the layout of speculators, which vLLM reads. What the new format cannot say is
refused.

  leveret convert hf:Qwen/Qwen3-0.6B qwen3.gguf
  leveret convert qwen3.gguf small.gguf --type q4_k
  leveret convert hf:yuhuili/EAGLE3-LLaMA3.1-Instruct-8B eagle3.gguf --target hf:OWNER/LLAMA
  leveret convert eagle3.gguf eagle3-vllm --target hf:OWNER/LLAMA")]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// File that ends in .gguf, or folder.
    out: PathBuf,
    /// What to write; by the form of OUT otherwise.
    #[arg(long, value_enum)]
    layout: Option<Layout>,
    /// Of a drafter, the model that it was made for: its tokenizer goes into the file, and drafters
    /// that do not say which of its layers they read need it.
    #[arg(long, value_name = "MODEL")]
    target: Option<String>,
    /// Type of the matrices; rows that are no whole number of its blocks become q8_0 or stay.
    #[arg(long = "type", value_name = "TYPE", value_parser = model::one_of(&model::WRITTEN), default_value = "bf16")]
    ty: ElementType,
    /// Write over files that are there.
    #[arg(long)]
    overwrite: bool,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// One file, as llama.cpp reads it.
    Gguf,
    /// A folder for a drafter, as vLLM reads it.
    Speculators,
}

impl Layout {
    /// The one asked for, or what the name of the output looks like.
    fn of(args: &Args) -> Result<Self> {
        let out = args.out.display();
        let ending = args.out.extension();
        match args.layout {
            Some(Self::Speculators) => Ok(Self::Speculators),
            None if ending.is_none() || args.out.is_dir() => Ok(Self::Speculators),
            _ if ending.is_some_and(|ending| ending == "gguf") => Ok(Self::Gguf),
            _ => {
                let what = "must end in .gguf; a folder for vLLM has no ending, or --layout speculators";
                Err(Usage(format!("{out}: the file to write {what}")).into())
            }
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (out, layout) = (args.out.display(), Layout::of(args)?);
    let taken = match layout {
        Layout::Gguf => args.out.exists(),
        Layout::Speculators => args.out.join("config.json").exists() || args.out.is_file(),
    };
    if taken && !args.overwrite {
        return Err(Usage(format!("{out} exists: choose another name, or give --overwrite")).into());
    }
    let source = model::open(Some(&args.model))?;
    let target = args.target.as_deref().map(|name| model::open(Some(name))).transpose()?;
    let options = ConvertOptions { ty: args.ty, threads: Team::default_threads(), target: target.as_ref() };
    let verifier = args.target.as_deref().map(|name| name.trim_start_matches("hf:"));
    let done = match layout {
        Layout::Gguf => convert::to_gguf(&source, &args.out, &options)?,
        Layout::Speculators => convert::to_speculators(&source, verifier, &args.out, &options)?,
    };
    if let Some(note) = model::note_of(&source) {
        tell!("{note}");
    }
    done.notes.iter().for_each(|note| tell!("{note}"));
    writeln!(stdout(), "{out}: {} tensors, {}", done.tensors, HumanBytes(done.bytes))?;
    Ok(ExitCode::SUCCESS)
}
