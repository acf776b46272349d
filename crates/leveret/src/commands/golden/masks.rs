//! A target with a mask token against its reference: what rows of masks behind the text say, alone
//! and behind tokens that are being verified, and that drafts made of them leave the text as it is.

use std::path::Path;

use anyhow::Result;
use leveret_model::golden::Golden;
use leveret_model::{LogitRows, Model, Pass, Precision, Source, Target};
use leveret_spec::SamplingParams;
use leveret_spec::drafters::MaskDrafter;

use super::fixture::{Table, distance, greater, integers, load, table};
use super::report::Report;
use crate::law::check_text;

/// Compares every layout of the target, if the case is one of masks.
pub(crate) fn compare(dir: &Path, threads: usize, report: &mut Report) -> Result<()> {
    let golden = Golden::open(dir)?;
    let count = |key: &str| golden.json()[key].as_u64().map(|n| n as usize);
    let (Some(mask), Some(masks)) = (count("mask_token_id"), count("K")) else { return Ok(()) };
    if golden.tensors().raw("p0.mask_ids").is_none() {
        return Ok(());
    }
    for checkpoint in golden.checkpoints() {
        let layout = checkpoint.path.strip_prefix(dir).unwrap_or(&checkpoint.path).display().to_string();
        let source = Source::open(&checkpoint.path)?;
        let named = source.mask_token()?;
        let wrong =
            (named != Some(mask as u32)).then(|| format!("the files name {named:?}, expected {mask}"));
        report.count(&format!("{layout} mask token"), 1, &wrong.into_iter().collect::<Vec<_>>());
        let model = load(&source, threads, Precision::Float)?;
        let mut case = Case { golden: &golden, layout, model, mask: mask as u32, masks };
        for i in 0..golden.json()["prompts"].as_array().map_or(0, Vec::len) {
            case.prompt(i, report)?;
        }
    }
    Ok(())
}

struct Case<'a> {
    golden: &'a Golden,
    layout: String,
    model: Model,
    mask: u32,
    masks: usize,
}

impl Case<'_> {
    fn prompt(&mut self, i: usize, report: &mut Report) -> Result<()> {
        let golden = self.golden;
        let tensors = golden.tensors();
        let ids = |name: &str| -> Vec<u32> {
            let found = integers(tensors, &format!("p{i}.{name}")).unwrap_or_default();
            found.into_iter().map(|id| id as u32).collect()
        };
        let says = |layout: &str, name: &str| format!("{layout} p{i}.{name}");
        let (tokens, rounds) = (ids("seq_ids"), ids("round_n"));
        let (expected, width) = (ids("mask_ids"), self.masks + 1);
        let logits = table(tensors, &format!("p{i}.mask_logits"))?;
        let confidence = table(tensors, &format!("p{i}.confidence"))?;
        // Damaged, or of another number of masks.
        let rows = rounds.len() * width;
        let confident = confidence.as_ref().is_none_or(|table| table.values.len() == rows);
        let placed = rounds.iter().all(|&n| n > 0 && n as usize <= tokens.len());
        if expected.len() != rows || !confident || !placed {
            let why = format!("expected {width} rows at each of {} places in the text", rounds.len());
            report.failed(&says(&self.layout, "mask_ids"), &why);
            return Ok(());
        }
        let (mut diffs, mut wrong, mut wrong_rounds) = ([0f32; 2], Vec::new(), Vec::new());
        for (r, &n) in rounds.iter().enumerate() {
            let n = n as usize;
            let mut text = tokens[..n.min(tokens.len())].to_vec();
            text.resize(n + self.masks, self.mask);
            let rows = self.rows(&text, n - 1)?;
            if let Some(logits) = logits.as_ref().filter(|table| r < table.rows) {
                diffs[0] = rows.iter().enumerate().fold(diffs[0], |worst, (k, row)| {
                    greater(
                        worst,
                        distance(row, slice(logits, logits.values.len() / logits.rows, r, width, k)),
                    )
                });
            }
            let best: Vec<u32> = rows.iter().map(|row| largest(row).0 as u32).collect();
            let wanted = &expected[r * width..(r + 1) * width];
            if best != wanted {
                wrong.push(format!("after {n} rows: {best:?}, expected {wanted:?}"));
            }
            if let Some(confidence) = &confidence {
                let found: Vec<f32> = rows.iter().map(|row| share(row)).collect();
                diffs[1] =
                    greater(diffs[1], distance(&found, &confidence.values[r * width..(r + 1) * width]));
            }
            let recorded = golden.json()["prompts"][i]["rounds"][r]["accepted_masks"].as_u64();
            let truth = tokens.get(n + 1..).unwrap_or_default();
            let accepted = best[1..].iter().zip(truth).take_while(|(a, b)| a == b).count() as u64;
            if recorded.is_some_and(|recorded| recorded != accepted) {
                wrong_rounds.push(format!("round {r} accepts {accepted}, recorded {recorded:?}"));
            }
        }
        report.numbers(
            &says(&self.layout, "mask_logits"),
            diffs[0],
            logits.as_ref().map_or(0.0, Table::allowed),
        );
        report.count(&says(&self.layout, "mask_ids"), rounds.len(), &wrong);
        report.numbers(&says(&self.layout, "confidence"), diffs[1], 1e-3);
        report.count(&says(&self.layout, "accepted"), rounds.len(), &wrong_rounds);

        let input = ids("verify_input");
        if let Some(expected) = table(tensors, &format!("p{i}.verify_logits"))? {
            let rows = self.rows(&input, input.len().saturating_sub(expected.rows))?;
            let diff = expected.distance(&rows.concat());
            report.numbers(&says(&self.layout, "verify_logits"), diff, expected.allowed());
        }

        let start = golden.json()["prompts"][i]["prompt_len"].as_u64().unwrap_or(1) as usize;
        let Some(prompt) = tokens.get(..start).filter(|prompt| !prompt.is_empty()) else {
            let why = format!("{start}, expected a place in the text of {} tokens", tokens.len());
            report.failed(&says(&self.layout, "prompt_len"), &why);
            return Ok(());
        };
        for branching in [true, false] {
            for temperature in [0.0, 0.8] {
                let drafter = Some(Box::new(MaskDrafter::new(self.mask, self.masks, branching)) as _);
                let params =
                    SamplingParams { temperature, max_tokens: Some(32), ..SamplingParams::default() };
                let form = if branching { "several places" } else { "one line" };
                let what = format!("{} p{i} text, masks in {form}, temperature {temperature}", self.layout);
                match check_text(&mut self.model, prompt, &params, drafter, &[], &what) {
                    Ok(seen) => report.count(&what, seen.tokens, &[]),
                    Err(error) => report.failed(&what, &error.to_string()),
                }
            }
        }
        Ok(())
    }

    /// Logits of the rows of a text from `first` on.
    fn rows(&mut self, text: &[u32], first: usize) -> Result<Vec<Vec<f32>>> {
        let mut cache = self.model.new_cache(text.len())?;
        let pass = Pass { cache: &mut cache, tokens: text, parents: None, logits: LogitRows::All };
        self.model.forward(&mut [pass], &[])?;
        Ok((first..text.len()).map(|row| self.model.logits(row).to_vec()).collect())
    }
}

/// Row `k` of round `r` in a table of rounds of `rows` rows.
fn slice(table: &Table, round: usize, r: usize, rows: usize, k: usize) -> &[f32] {
    let width = round / rows;
    table.values.get(r * round + k * width..).and_then(|rest| rest.get(..width)).unwrap_or_default()
}

fn largest(row: &[f32]) -> (usize, f32) {
    row.iter()
        .copied()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, x)| if x > best.1 { (i, x) } else { best })
}

/// Probability of the likeliest token.
fn share(row: &[f32]) -> f32 {
    let max = largest(row).1;
    1.0 / row.iter().map(|x| (x - max).exp()).sum::<f32>()
}
