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
    pub(crate) rows: usize,
    pub(crate) values: Vec<f32>,
}

/// A tensor of `f32`, if there is one of this name.
pub(crate) fn table(file: &Safetensors, name: &str) -> Result<Option<Table>> {
    let Some(raw) = file.raw(name) else { return Ok(None) };
    if raw.bytes.len() != 4 * raw.shape.iter().product::<usize>() {
        bail!("{}: tensor {name} is {:?}, expected F32", file.path().display(), raw.dtype);
    }
    let values = raw.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Ok(Some(Table { rows: raw.shape.first().copied().unwrap_or(0), values }))
}
