//! A target against its reference: logits, residual stream and hidden states of given texts, and
//! the greedy continuation.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use leveret_model::formats::Safetensors;
use leveret_model::{Cache, Error, KvType, LoadOptions, LogitRows, Model, Pass, Precision, Source, Tap, Target};
use leveret_spec::drafters::SuffixDrafter;
use leveret_spec::{CostCurve, Drafter, Options, Request, SamplingParams, Session};
use serde_json::Value;

use super::fixture::{key, table, tokens};
use super::report::{Report, Worst};

/// Largest difference in full precision, relative to the largest value of a row.
pub(crate) const FULL: f32 = 1e-3;
/// The same where activations are quantised for quantised weights.
pub(crate) const QUANTISED: f32 = 5e-2;

/// Compares every layout of the case's own target.
pub(crate) fn compare(dir: &Path, golden: &Value, threads: usize, report: &mut Report) -> Result<()> {
    let other = golden.get("target").and_then(Value::as_str).filter(|path| *path != "target");
    if let Some(path) = other {
        println!("the target of this case is compared in its own folder, {path}");
    } else {
        let file = Safetensors::open(dir.join("golden.safetensors"))?;
        for path in layouts(dir)? {
            compare_layout(dir, &path, golden, &file, threads, report)?;
        }
    }
    let mut names: Vec<String> = std::fs::read_dir(dir)?.flatten().map(|f| f.file_name().to_string_lossy().into()).collect();
    names.sort();
    for name in names.iter().filter(|name| name.starts_with("drafter") || name.starts_with("assistant")) {
        report.not_yet(name, "");
    }
    if key(golden, "prompts")?.get(0).is_some_and(|prompt| prompt.get("rounds").is_some()) {
        report.not_yet("mask-token rounds", "");
    }
    Ok(())
}

/// Folders and files that hold the target: `target*/` and `gguf/target*.gguf`.
fn layouts(dir: &Path) -> Result<Vec<PathBuf>> {
    let starts = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("target"));
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(starts).collect()
    };
    let mut paths: Vec<PathBuf> = list(dir).into_iter().filter(|path| path.is_dir()).collect();
    paths.extend(list(&dir.join("gguf")).into_iter().filter(|path| path.extension().is_some_and(|e| e == "gguf")));
    paths.sort();
    Ok(paths)
}

fn compare_layout(
    dir: &Path,
    path: &Path,
    golden: &Value,
    file: &Safetensors,
    threads: usize,
    report: &mut Report,
) -> Result<()> {
    let layout = path.strip_prefix(dir).unwrap_or(path).display().to_string();
    let options = LoadOptions { threads, kv: KvType::F32, precision: Precision::Float, context: None };
    let source = match Source::open(path).and_then(|source| source.config().map(|_| source)) {
        Ok(source) => source,
        Err(error @ Error::Unsupported { .. }) => {
            report.not_yet(&layout, &error.to_string());
            return Ok(());
        }
        Err(error) => {
            report.failed(&layout, &error.to_string());
            return Ok(());
        }
    };
    let mut model = match Model::load(&source, &options) {
        Ok(model) => model,
        Err(error) => {
            report.failed(&layout, &error.to_string());
            return Ok(());
        }
    };
    let prompts = key(golden, "prompts")?.as_array().map_or(0, Vec::len);
    for i in 0..prompts {
        let prompt = &golden["prompts"][i];
        let what = |quantity: &str| format!("{layout} p{i} {quantity}");
        let seq = tokens(file, &format!("p{i}.seq_ids"))?.ok_or_else(|| anyhow!("golden.safetensors: no p{i}.seq_ids"))?;
        let states = table(file, &format!("p{i}.states"))?;
        let last = table(file, &format!("p{i}.final"))?;

        let layers = states.as_ref().map_or(0, |states| states.shape[0]);
        let mut taps: Vec<Tap> = (0..layers).map(Tap::Residual).collect();
        taps.extend(last.iter().map(|_| Tap::Final));
        let mut cache = model.new_cache(seq.len())?;
        let pass = Pass { cache: &mut cache, tokens: &seq, parents: None, logits: LogitRows::All };
        model.forward(&mut [pass], &taps)?;

        if let Some(logits) = table(file, &format!("p{i}.logits"))? {
            let mut worst = Worst::default();
            logits.rows().enumerate().for_each(|(row, expected)| worst.rows(expected, model.logits(row), FULL));
            report.numbers(&what("logits"), worst);
        }
        if let Some(states) = &states {
            for (k, state) in states.values.chunks_exact(seq.len() * states.width()).enumerate() {
                report.numbers(&what(&format!("state {k}")), features(&model, k, state, states.width()));
            }
        }
        if let Some(last) = &last {
            report.numbers(&what("final"), features(&model, layers, &last.values, last.width()));
        }
        let prompt_len = key(prompt, "prompt_len")?.as_u64().unwrap_or(0) as usize;
        let (start, expected) = seq.split_at_checked(prompt_len).ok_or_else(|| anyhow!("golden.json: prompt_len of p{i}"))?;
        report.ids(&what("greedy"), expected, &greedy(&mut model, start, expected.len(), None)?);
        let drafter: Box<dyn Drafter> = Box::new(SuffixDrafter::default());
        let found = greedy(&mut model, start, expected.len(), Some(drafter))?;
        report.ids(&what("greedy, suffix drafter"), expected, &found);
    }
    Ok(())
}

/// Compares the `tap`-th feature of the last pass; the scale is that of the whole table.
fn features(model: &Model, tap: usize, expected: &[f32], width: usize) -> Worst {
    let rows = expected.len() / width.max(1);
    let found: Vec<f32> = (0..rows).flat_map(|row| model.feature(tap, row).iter().copied()).collect();
    let mut worst = Worst::default();
    worst.rows(expected, &found, FULL);
    worst
}

/// `count` greedy tokens after `prompt`, none of which ends the text.
pub(crate) fn greedy(
    model: &mut Model,
    prompt: &[u32],
    count: usize,
    drafter: Option<Box<dyn Drafter>>,
) -> Result<Vec<u32>> {
    let params = SamplingParams { max_tokens: Some(count), ..SamplingParams::default() };
    let request = Request { prompt: prompt.to_vec(), params, drafter, text: None };
    let cost = CostCurve::new(&[(1, 1.0), (64, 1.0 + 1e-9)])?;
    let mut session = Session::new(model, request, Options { cost, ..Options::default() })?;
    session.run(model)?;
    Ok(session.output().to_vec())
}

/// Logits of every row of `seq`, compared.
pub(crate) fn logits(model: &mut Model, seq: &[u32], expected: &super::fixture::Table, relative: f32) -> Result<Worst> {
    let mut cache = model.new_cache(seq.len())?;
    model.forward(&mut [Pass { cache: &mut cache, tokens: seq, parents: None, logits: LogitRows::All }], &[])?;
    let mut worst = Worst::default();
    for (row, expected) in expected.rows().enumerate() {
        worst.rows(expected, model.logits(row), relative);
    }
    cache.commit(&[])?;
    Ok(worst)
}
