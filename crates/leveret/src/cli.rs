//! Arguments in, exit code out: 0 done, 1 an error, 2 a command line or an environment that cannot be understood.
//! Errors are one line on standard error.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use leveret_kernels::Isa;

use crate::commands::{bench, chat, convert, golden, inspect, list, pull, run, synth, template, tokenize};
use crate::streams::{reader_left, tell};

/// Exit code of a command line that cannot be understood.
const USAGE: u8 = 2;

/// Lossless speculative decoding: the text of your model, sooner.
#[derive(Debug, Parser)]
#[command(name = "leveret", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  leveret run \"Explain what a leveret is.\"
  leveret run --model qwen2.5-coder-1.5b --prompt-file task.txt --output json
  leveret chat --show-drafts
  leveret pull hf:Qwen/Qwen3-0.6B
  leveret inspect model.gguf
  leveret bench speed smollm2 --json speed.json

MODEL is a name that `leveret list` shows, hf:OWNER/REPO[/FILE], a .gguf file, or a folder of a
Hugging Face model. Named models are kept in $LEVERET_HOME/models, else in leveret/models of the
cache folder ($XDG_CACHE_HOME or ~/.cache); those of hf: in the hub's own cache.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the text that follows a prompt.
    Run(Box<run::Args>),
    /// Talk with a model.
    Chat(Box<chat::Args>),
    /// Fetch a model, or go on with an interrupted fetch.
    Pull(pull::Args),
    /// Show the models that have a name and those that are here.
    List(list::Args),
    /// Show what a model is, and the memory it needs.
    Inspect(inspect::Args),
    /// Convert a model or drafter to GGUF, or a drafter to the layout that vLLM reads.
    Convert(convert::Args),
    /// Show the token ids of a text.
    Tokenize(tokenize::Args),
    /// Show a conversation in the model's chat format.
    Template(template::Args),
    /// Measure speed, or check that speculation changes no text.
    Bench(bench::Args),
    /// For developers: compare with a folder of reference outputs.
    Golden(golden::Args),
    /// Write a checkpoint of random weights in the proportions of a published family.
    Synth(synth::Args),
}

impl Command {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(args) => run::run(&args),
            Self::Chat(args) => chat::run(&args),
            Self::Pull(args) => pull::run(&args),
            Self::List(args) => list::run(&args),
            Self::Inspect(args) => inspect::run(&args),
            Self::Convert(args) => convert::run(&args),
            Self::Tokenize(args) => tokenize::run(&args),
            Self::Template(args) => template::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Golden(args) => golden::run(&args),
            Self::Synth(args) => synth::run(&args),
        }
    }
}

/// A command line that parses and yet makes no sense.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match parse(std::env::args_os()) {
        Ok(cli) => finish(start(cli)),
        Err(code) => code,
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    Isa::requested().map_err(Usage)?;
    cli.command.run()
}

/// Parses, or answers for `--help`, `--version` and mistakes.
fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, ExitCode> {
    Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nothing can be said to a reader that has gone away.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            tell!("{}", one_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    })
}

/// Clap's message without its usage block: what is wrong, and its tip if it has one.
fn one_line(message: &str) -> String {
    let told = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told = told.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    format!("{} (see --help)", told.collect::<Vec<_>>().join(" "))
}

/// The exit code, and for an error its one line.
fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    if reader_left(&error) {
        return ExitCode::SUCCESS;
    }
    let message = format!("{error:#}");
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    tell!("error: {}", lines.join(" "));
    match error.downcast_ref::<Usage>() {
        Some(_) => ExitCode::from(USAGE),
        None => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let error = Cli::try_parse_from(["leveret", "pull", "--nonsense"]).unwrap_err();
        let line = one_line(&error.to_string());
        assert!(line.starts_with("error: unexpected argument '--nonsense'"), "{line}");
        assert!(!line.contains('\n') && !line.contains("Usage"), "{line}");
    }
}
