//! Reads what lies in a golden folder: JSON, and tensors as plain numbers.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use leveret_model::formats::Safetensors;
use leveret_model::formats::safetensors::Dtype;
use leveret_model::{KvType, LoadOptions, Model, Precision, Source};
use serde_json::Value;

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let name = || path.display().to_string();
    serde_json::from_str(&std::fs::read_to_string(path).with_context(name)?).with_context(name)
}

/// The model of a case. Its texts may be longer than what it was made for: the references do not mind.
pub(crate) fn load(source: &Source, threads: usize, precision: Precision) -> leveret_model::Result<Model> {
    let options = LoadOptions { threads, kv: KvType::F32, precision, context: None };
    let mut model = Model::load(source, &options)?;
    model.allow_context(1 << 16);
    Ok(model)
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

/// A score that stands for "no candidate" in a reference, or less.
pub(crate) const NONE: f32 = -1e29;

impl Table {
    /// The largest difference from `found`; infinite if one has more values than the other, or one is not a number.
    pub(crate) fn distance(&self, found: &[f32]) -> f32 {
        distance(found, &self.values)
    }

    /// The distance that passes, by the size of what is a score at all.
    pub(crate) fn allowed(&self) -> f32 {
        1e-3 * self.values.iter().filter(|v| **v > NONE).fold(1f32, |m, v| m.max(v.abs()))
    }
}

/// The largest difference; infinite if one has more values than the other, or one is not a number.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f32 {
    match found.len() == expected.len() {
        true => found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, greater),
        false => f32::INFINITY,
    }
}

/// The larger, where what is not a number is larger than all.
pub(crate) fn greater(a: f32, b: f32) -> f32 {
    if b.is_nan() { f32::INFINITY } else { a.max(b) }
}

/// A tensor of integers, flattened.
pub(crate) fn integers(file: &Safetensors, name: &str) -> Option<Vec<i64>> {
    let raw = file.raw(name).filter(|raw| raw.dtype == Dtype::I64)?;
    Some(raw.bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
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
