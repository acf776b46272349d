//! Reads what lies in a golden folder: JSON, and tensors as plain numbers.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use leveret_model::formats::Safetensors;
use serde_json::Value;

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let name = || path.display().to_string();
    serde_json::from_str(&std::fs::read_to_string(path).with_context(name)?).with_context(name)
}

/// A key that must be there.
pub(crate) fn key<'a>(value: &'a Value, key: &str) -> Result<&'a Value> {
    value.get(key).ok_or_else(|| anyhow!("golden file: has no key {key:?}"))
}

/// An array of token ids.
pub(crate) fn ids(value: &Value) -> Result<Vec<u32>> {
    serde_json::from_value(value.clone()).context("golden file: expected token ids")
}

/// Rows of numbers.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Table {
    /// Length of the innermost dimension.
    pub(crate) fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(0).max(1)
    }

    /// The innermost rows, in order.
    pub(crate) fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.width())
    }
}

/// A tensor of `f32`, if there is one of this name.
pub(crate) fn table(file: &Safetensors, name: &str) -> Result<Option<Table>> {
    let Some(raw) = file.raw(name) else { return Ok(None) };
    if raw.bytes.len() != 4 * raw.shape.iter().product::<usize>() {
        bail!("{}: tensor {name} is {:?}, expected F32", file.path().display(), raw.dtype);
    }
    let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    Ok(Some(Table { shape: raw.shape.to_vec(), values: raw.bytes.chunks_exact(4).map(number).collect() }))
}

/// A tensor of `i64` token ids, if there is one of this name.
pub(crate) fn tokens(file: &Safetensors, name: &str) -> Result<Option<Vec<u32>>> {
    let Some(raw) = file.raw(name) else { return Ok(None) };
    if raw.bytes.len() != 8 * raw.shape.iter().product::<usize>() {
        bail!("{}: tensor {name} is {:?}, expected I64", file.path().display(), raw.dtype);
    }
    let number = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let token = |b: &[u8]| {
        u32::try_from(number(b)).with_context(|| format!("{}: {name} holds a negative id", file.path().display()))
    };
    raw.bytes.chunks_exact(8).map(token).collect::<Result<_>>().map(Some)
}
