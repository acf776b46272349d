//! Folders of goldens, read to be changed and written elsewhere.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;
use std::path::Path;

/// Name, type, shape and bytes of every tensor.
pub(crate) type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// Configuration and tensors of a folder.
pub(crate) fn read(dir: &Path) -> (Value, Tensors) {
    let config = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    (config, read_tensors(&dir.join("model.safetensors")))
}

/// Writes such a folder.
pub(crate) fn write(dir: &Path, config: &Value, tensors: &Tensors) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let tensors = tensors.iter().map(|(name, ty, shape, bytes)| (name.as_str(), *ty, &shape[..], &bytes[..]));
    write_tensors(&dir.join("model.safetensors"), tensors);
}

/// The tensors of a file.
pub(crate) fn read_tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let own = |(name, view): (String, TensorView<'_>)| {
        (name, view.dtype(), view.shape().to_vec(), view.data().to_vec())
    };
    file.tensors().into_iter().map(own).collect()
}

/// Writes a file of tensors.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>,
) {
    let view = |(name, ty, shape, bytes): (&'a str, Dtype, &[usize], &'a [u8])| {
        (name, TensorView::new(ty, shape.to_vec(), bytes).unwrap())
    };
    serialize_to_file(tensors.map(view), None, path).unwrap();
}

/// Makes numbers of a bf16 matrix with so many columns no numbers, except in the rows `kept`.
pub(crate) fn poison(bytes: &mut [u8], cols: usize, kept: &[u32]) {
    let rows = bytes.chunks_exact_mut(2 * cols).zip(0..).filter(|(_, row)| !kept.contains(row));
    rows.for_each(|(row, _)| row.copy_from_slice(&half_bytes(&vec![f32::NAN; cols])));
}

/// Values of bf16 as bytes.
pub(crate) fn half_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
}
