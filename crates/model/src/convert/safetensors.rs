//! Writing a safetensors file as a stream.

use super::planned::{Planned, Storage, fault};
use crate::formats::safetensors::Dtype;
use crate::load::Source;
use crate::{Error, Result};
use leveret_kernels::{ElementType, Team};
use serde_json::{Map, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// What stands in front of the data of all tensors, and the length of that data.
pub(super) fn header(source: &Source, planned: &[Planned]) -> Result<(Vec<u8>, u64)> {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in planned {
        let dtype = match tensor.ty {
            Storage::Integers(dtype) => dtype,
            Storage::Floats(ElementType::F32) => Dtype::F32,
            Storage::Floats(ElementType::F16) => Dtype::F16,
            Storage::Floats(ElementType::BF16) => Dtype::BF16,
            Storage::Floats(other) => {
                let what = format!("would be {}, which safetensors files do not hold", other.name());
                return Err(fault(source, &tensor.name, &what));
            }
        };
        let start = end;
        end += (tensor.shape.iter().product::<usize>() * (dtype.bitsize() / 8)) as u64;
        let dtype = match dtype {
            Dtype::BOOL => "BOOL",
            Dtype::I32 => "I32",
            Dtype::I64 => "I64",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            _ => "F32",
        };
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert(tensor.name.clone(), entry);
    }
    let mut text = serde_json::Value::Object(entries).to_string().into_bytes();
    // Data begins at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut front = (text.len() as u64).to_le_bytes().to_vec();
    front.extend(text);
    Ok((front, end))
}

/// Writes the data of all tensors, one after the other.
pub(super) fn data(
    mut file: &File,
    path: &Path,
    planned: &[Planned],
    source: &Source,
    team: &Team,
) -> Result<()> {
    for tensor in planned {
        let bytes = tensor.bytes(source, team)?;
        file.write_all(&bytes).map_err(|error| Error::io(path, error))?;
        tensor.release(source);
    }
    Ok(())
}
