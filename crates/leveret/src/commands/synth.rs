//! `leveret synth`: checkpoints of random weights with the proportions of published models and
//! drafters, to measure with what cannot be fetched.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};

use crate::streams::stdout;
use crate::synth::{self, Checkpoint, Drafter, Family, Size};

/// Write a checkpoint of random weights in the proportions of a published family.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All widths, heads and layers shrink alike, and the vocabulary with their square, so that every part
keeps its share of the weights. Weights are bf16; load with --quantize to measure other types.
Drafters go to folders beside the target: hybrid-dflash for hybrid.

  leveret synth qwen3_5 --size 1b -o hybrid --with dflash,fast_mtp
  leveret bench speed hybrid --quantize q8_0
  leveret bench drafter hybrid hybrid-* --quantize q8_0")]
pub(crate) struct Args {
    /// Family whose proportions it has.
    family: Family,
    /// Parameters (300m, 1b) or bytes of weights (600mb, 2gb).
    #[arg(long)]
    size: Size,
    /// Drafters for it, to be written to folders beside its own.
    #[arg(long, value_name = "DRAFTER,…", value_delimiter = ',')]
    with: Vec<Drafter>,
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
    let wanted: Vec<Drafter> = args.with.iter().flat_map(|drafter| drafter.meant(args.family)).collect();
    // All that can be refused is refused before anything is written.
    let drafters = wanted.into_iter().map(|drafter| Ok((drafter, plan.drafter(drafter)?)));
    let drafters = drafters.collect::<Result<Vec<_>>>()?;
    put(&plan.target, &dir, args.family.name(), args.seed)?;
    for (drafter, checkpoint) in drafters {
        let mut beside = dir.clone().into_os_string();
        beside.push(format!("-{}", drafter.name()));
        put(&checkpoint, Path::new(&beside), drafter.name(), args.seed + 1)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a folder and says what it is.
fn put(checkpoint: &Checkpoint, dir: &Path, what: &str, seed: u64) -> Result<()> {
    synth::write(checkpoint, dir, seed)?;
    let count = checkpoint.parameters();
    let (count, bytes) = (HumanCount(count), HumanBytes(count * 2));
    writeln!(stdout(), "{}: {what}, {count} parameters, {bytes}", dir.display())?;
    Ok(())
}
