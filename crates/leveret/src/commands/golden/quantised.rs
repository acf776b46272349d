//! Quantised files: exact values of their blocks, and the logits of a model made of them.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use leveret_kernels::quant::dequantize;
use leveret_model::formats::Safetensors;
use leveret_model::{Error, Files, KvType, LoadOptions, Model, Precision, Source};
use serde_json::{Map, Value};

use super::fixture::{key, table, tokens};
use super::report::{Report, Worst};
use super::target::{FULL, QUANTISED, greedy, logits};

/// Compares each file `model-TYPE.gguf` of the case, and the file they were all made from.
pub(crate) fn compare(dir: &Path, types: &Map<String, Value>, threads: usize, report: &mut Report) -> Result<()> {
    let golden = Safetensors::open(dir.join("golden.safetensors"))?;
    let seq = tokens(&golden, "p0.seq_ids")?.ok_or_else(|| anyhow!("golden.safetensors: no p0.seq_ids"))?;
    let float = |precision| LoadOptions { threads, kv: KvType::F32, precision, context: None };

    let original = dir.join("model-bf16.gguf");
    if let (true, Some(expected)) = (original.is_file(), table(&golden, "p0.logits")?) {
        let mut model = Model::load(&Source::open(&original)?, &float(Precision::Float))?;
        report.numbers("bf16 logits", logits(&mut model, &seq, &expected, FULL)?);
    }
    for (ty, facts) in types {
        let path = dir.join(format!("model-{}.gguf", ty.to_lowercase()));
        let source = match Source::open(&path) {
            Ok(source) => source,
            Err(error) => {
                report.failed(ty, &error.to_string());
                continue;
            }
        };
        if !blocks(dir, ty, &source, facts, report)? {
            continue;
        }
        let Some(expected) = table(&golden, &format!("{ty}.logits"))? else { continue };
        let mut model = Model::load(&source, &float(Precision::Float))?;
        report.numbers(&format!("{ty} logits"), logits(&mut model, &seq, &expected, FULL)?);
        if let Some(ids) = tokens(&golden, &format!("{ty}.greedy_ids"))? {
            let count = key(facts, "greedy_ids")?.as_array().map_or(0, Vec::len).min(ids.len());
            let (prompt, continuation) = ids.split_at(ids.len() - count);
            let found = greedy(&mut model, prompt, count, None)?;
            report.ids(&format!("{ty} greedy"), continuation, &found);
        }
        let mut model = Model::load(&source, &float(Precision::AsStored))?;
        let what = format!("{ty} logits, int8 activations");
        report.numbers(&what, logits(&mut model, &seq, &expected, QUANTISED)?);
    }
    Ok(())
}

/// Exact values of the tensors that the case names. False if the type is not supported.
fn blocks(dir: &Path, ty: &str, source: &Source, facts: &Value, report: &mut Report) -> Result<bool> {
    let Files::Gguf(gguf) = source.files() else { return Ok(false) };
    let expected = Safetensors::open(dir.join(format!("dequant-{}.safetensors", ty.to_lowercase())))?;
    let names = key(facts, "dequantised")?.as_object().into_iter().flat_map(Map::keys);
    for name in names {
        let what = format!("{ty} values of {name}");
        let view = match gguf.tensor(name) {
            Ok(Some(view)) => view,
            Ok(None) => {
                report.failed(&what, "no such tensor");
                continue;
            }
            Err(error @ Error::Unsupported { .. }) => {
                report.not_yet(ty, &error.to_string());
                return Ok(false);
            }
            Err(error) => {
                report.failed(&what, &error.to_string());
                continue;
            }
        };
        let Some(expected) = table(&expected, name)? else {
            report.failed(&what, "no such tensor in the golden file");
            continue;
        };
        // Of some tensors the golden file has the first rows only.
        let bytes_per_row = view.bytes.len() / view.shape.first().copied().unwrap_or(1).max(1);
        let bytes = &view.bytes[..(bytes_per_row * expected.rows().len()).min(view.bytes.len())];
        let mut found = vec![0.0; expected.values.len()];
        dequantize(view.ty, bytes, &mut found).with_context(|| what.clone())?;
        let mut worst = Worst::default();
        worst.rows(&expected.values, &found, f32::MIN_POSITIVE);
        report.numbers(&what, worst);
    }
    Ok(true)
}
