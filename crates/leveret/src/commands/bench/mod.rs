//! `leveret bench`: measurements, and the check that no measurement is bought with another text.

pub(crate) mod drafter;
pub(crate) mod law;
pub(crate) mod speculate;
pub(crate) mod speed;

use std::process::ExitCode;

/// Measure speed, or check that speculation changes no text.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Decode, prefill, the time of a pass by its rows, and the share of memory bandwidth reached.
    Speed(speed::Args),
    /// What a step of each drafter takes beside a pass of its target, in bytes read and in time.
    Drafter(drafter::Args),
    /// Compare speculation with plain decoding, prompt by prompt.
    Speculate(Box<speculate::Args>),
    /// Check that logits and tokens are identical for every size of pass, chunk, number of threads and drafter.
    Law(law::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.bench {
        Bench::Speed(args) => speed::run(args),
        Bench::Drafter(args) => drafter::run(args),
        Bench::Speculate(args) => speculate::run(args),
        Bench::Law(args) => law::run(args),
    }
}
