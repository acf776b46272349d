//! `leveret pull`: makes a model local and says where it is.

use crate::streams::stdout;
use std::io::Write;
use std::process::ExitCode;

/// Fetch a model, or go on with an interrupted fetch.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A name that `leveret list` shows, hf:OWNER/REPO[/FILE], or the path of a .gguf file to keep.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    for model in &args.models {
        let path = crate::pull::pull(model)?;
        writeln!(stdout(), "{}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
