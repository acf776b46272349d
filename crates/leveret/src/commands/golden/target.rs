//! A target against its reference: logits, residual stream and hidden states of given texts, and
//! the greedy continuation, for every layout in the folder.

use std::path::Path;

use anyhow::Result;
use leveret_model::golden::{Checkpoint, Closeness, Golden};
use leveret_model::{Error, Files, Precision, Source};
use leveret_spec::SamplingParams;

use super::fixture;
use super::report::Report;
use crate::law::{CONTROLS, DRAFTERS, Plain};

/// Compares every checkpoint of the case's own target.
pub(crate) fn compare(dir: &Path, threads: usize, report: &mut Report) -> Result<()> {
    let golden = Golden::open(dir)?;
    for checkpoint in golden.checkpoints() {
        let layout = checkpoint.path.strip_prefix(dir).unwrap_or(&checkpoint.path).display().to_string();
        match compare_checkpoint(&golden, &checkpoint, &layout, threads, report) {
            Ok(()) => {}
            Err(error @ Error::Unsupported { .. }) if is_of_other_type(&checkpoint.path) => {
                report.not_yet(&layout, &error.to_string());
            }
            Err(error) => report.failed(&layout, &error.to_string()),
        }
    }
    Ok(())
}

/// Whether the file has tensors of a type that is not decoded.
fn is_of_other_type(path: &Path) -> bool {
    let source = Source::open(path);
    let Ok(Files::Gguf(gguf)) = source.as_ref().map(Source::files) else { return false };
    gguf.tensors().any(|tensor| tensor.ty.element().is_none() && tensor.ty.integer().is_none())
}

fn compare_checkpoint(
    golden: &Golden,
    checkpoint: &Checkpoint,
    layout: &str,
    threads: usize,
    report: &mut Report,
) -> Result<(), Error> {
    let source = Source::open(&checkpoint.path)?;
    let quantized = checkpoint.quantized.as_deref();
    let mut model = fixture::load(&source, threads, Precision::Float)?;
    for found in golden.compare(&mut model, quantized, Closeness::Exact)? {
        report.numbers(&format!("{layout} {}", found.quantity), found.worst, found.allowed);
    }
    if quantized.is_some() {
        let mut model = fixture::load(&source, threads, Precision::AsStored)?;
        for found in golden.compare(&mut model, quantized, Closeness::Rounded)? {
            report.numbers(
                &format!("{layout} {}, int8 activations", found.quantity),
                found.worst,
                found.allowed,
            );
        }
        return Ok(());
    }
    // The same continuation with drafters that fill every pass.
    for (i, prompt) in golden.json()["prompts"].as_array().into_iter().flatten().enumerate() {
        let Ok(ids) = fixture::ids(&prompt["prompt_ids"]) else { continue };
        let params = SamplingParams { max_tokens: Some(32), ..SamplingParams::default() };
        let plain = match Plain::write(&mut model, &ids, &params, &[]) {
            Ok(plain) => plain,
            Err(error) => {
                report.failed(&format!("{layout} p{i}.greedy"), &error.to_string());
                continue;
            }
        };
        for (name, control) in DRAFTERS.into_iter().zip(CONTROLS.into_iter().cycle().skip(i)) {
            let what = format!("{layout} p{i}.greedy, drafter {name}");
            match plain.compare(&mut model, plain.drafter(name), control, &what) {
                Ok(seen) => report.count(&what, seen.tokens, &[]),
                Err(error) => report.failed(&what, &error.to_string()),
            }
        }
    }
    Ok(())
}
