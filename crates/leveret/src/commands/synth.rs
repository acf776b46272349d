//! `leveret synth`: a checkpoint of random weights with the proportions of a published model, to
//! measure with what cannot be fetched.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};

use crate::synth::{self, Family, Size};

/// Write a checkpoint of random weights in the proportions of a published family.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All widths, heads and layers shrink alike, and the vocabulary with their square, so that every part
keeps its share of the weights. Weights are bf16; load with --quantize to measure other types.

  leveret synth qwen3_5 --size 1b -o hybrid
  leveret bench speed hybrid --quantize q8_0")]
pub(crate) struct Args {
    /// Family whose proportions it has.
    family: Family,
    /// Parameters (300m, 1b) or bytes of weights (600mb, 2gb).
    #[arg(long)]
    size: Size,
    /// Folder to write; FAMILY-SIZE by default.
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of the weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let name = || format!("{}-{}", args.family.name(), args.size.text).into();
    let dir = args.out.clone().unwrap_or_else(name);
    let plan = synth::plan(args.family, &args.size);
    synth::write(&plan, &dir, args.seed)?;
    let (count, bytes) = (plan.parameters(), plan.parameters() * 2);
    writeln!(
        std::io::stdout(),
        "{}: {}, {} parameters, {}",
        dir.display(),
        args.family.name(),
        HumanCount(count),
        HumanBytes(bytes)
    )?;
    Ok(ExitCode::SUCCESS)
}
