//! `leveret golden`: compares this engine with a folder of reference outputs. Every number comes
//! from that folder; nothing is known here about a particular one.

mod drafter;
mod fixture;
mod masks;
mod quantised;
mod report;
mod sampling;
mod target;
mod verification;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::model::ThreadArgs;
use fixture::read_json;
use report::Report;

/// For developers: compare with a folder of reference outputs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "DIR is one case: a target (golden.json and target/), drafters for one (drafter*/), quantised files (golden.json and
model-TYPE.gguf), tokenizers and chat templates, or sampling. One line for each compared quantity;
exit code 1 if one differs, a model is not supported, or nothing could be compared."
)]
pub(crate) struct Args {
    /// Folder of the case.
    dir: PathBuf,
    #[command(flatten)]
    threads: ThreadArgs,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let dir = args.dir.as_path();
    let mut report = Report::default();
    compare(dir, args.threads.count(), &mut report)?;
    report.finish(dir)
}

/// Recognises the case by the files that are there.
fn compare(dir: &Path, threads: usize, report: &mut Report) -> Result<()> {
    let mut known = false;
    if dir.join("golden.json").is_file() {
        known = true;
        let golden = read_json(&dir.join("golden.json"))?;
        if let Some(types) = golden.get("types").and_then(|types| types.as_object()) {
            quantised::compare(dir, types, report)?;
        }
        target::compare(dir, threads, report)?;
        drafter::compare(dir, threads, report)?;
        masks::compare(dir, threads, report)?;
    }
    type Compare = fn(&Path, &mut Report) -> Result<()>;
    let parts: [(&str, Compare); 5] = [
        ("real-models.json", words::real_tokenizers),
        ("tiny-models.json", words::tiny_tokenizers),
        ("chat-templates.json", words::templates),
        ("filters.json", sampling::filters),
        ("verification.json", verification::laws),
    ];
    for (name, compare) in parts {
        let path = dir.join(name);
        if path.is_file() {
            known = true;
            compare(&path, report)?;
        }
    }
    if !known {
        bail!(
            "{}: is no golden case: expected golden.json, or a folder of tokenizers or sampling",
            dir.display()
        );
    }
    Ok(())
}
