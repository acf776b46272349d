//! Exact values of quantised blocks.

use std::path::Path;

use anyhow::{Context, Result};
use leveret_kernels::quant::dequantize;
use leveret_model::formats::Safetensors;
use leveret_model::{Error, Files, Source};
use serde_json::{Map, Value};

use super::fixture::{key, table};
use super::report::Report;

/// Compares tensors of each file `model-TYPE.gguf` with `dequant-TYPE.safetensors`.
pub(crate) fn compare(dir: &Path, types: &Map<String, Value>, report: &mut Report) -> Result<()> {
    for (ty, facts) in types {
        let file =
            |prefix: &str, extension: &str| dir.join(format!("{prefix}-{}.{extension}", ty.to_lowercase()));
        let expected = Safetensors::open(file("dequant", "safetensors"))?;
        let source = match Source::open(file("model", "gguf")) {
            Ok(source) => source,
            Err(error) => {
                report.failed(ty, &error.to_string());
                continue;
            }
        };
        for name in key(facts, "dequantised")?.as_object().into_iter().flat_map(Map::keys) {
            tensor(ty, name, &source, &expected, report)?;
        }
    }
    Ok(())
}

fn tensor(ty: &str, name: &str, source: &Source, expected: &Safetensors, report: &mut Report) -> Result<()> {
    let what = format!("{ty} values of {name}");
    let Files::Gguf(gguf) = source.files() else { return Ok(()) };
    let view = match gguf.tensor(name) {
        Ok(Some(view)) => view,
        Ok(None) => {
            report.failed(&what, "no such tensor");
            return Ok(());
        }
        Err(error @ Error::Unsupported { .. }) => {
            report.not_yet(&what, &error.to_string());
            return Ok(());
        }
        Err(error) => {
            report.failed(&what, &error.to_string());
            return Ok(());
        }
    };
    let Some(expected) = table(expected, name)? else {
        report.failed(&what, "no such tensor in the golden file");
        return Ok(());
    };
    // Of some tensors the golden file has the first rows only.
    let bytes_per_row = view.bytes.len() / view.shape.first().copied().unwrap_or(1).max(1);
    let bytes = &view.bytes[..(bytes_per_row * expected.rows).min(view.bytes.len())];
    let mut found = vec![0.0; expected.values.len()];
    dequantize(view.ty, bytes, &mut found).with_context(|| what.clone())?;
    let pairs = expected.values.iter().zip(&found);
    // What is not a number must not get lost in the maximum.
    let diff = pairs
        .map(|(a, b)| (a - b).abs())
        .fold(0f32, |max, d| if d.is_nan() { f32::INFINITY } else { max.max(d) });
    report.numbers(&what, diff, 0.0);
    Ok(())
}
