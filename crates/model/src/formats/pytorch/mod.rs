//! `pytorch_model.bin`: tensors that PyTorch has pickled into a zip archive.
//!
//! Nothing is executed: the pickle is read as a list of names and places by the few operations that
//! a plain dictionary of tensors needs, and anything else is refused or passed over. Tensors stay
//! where they are in the file.

mod pickle;
mod zip;

use super::safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;

/// Where a tensor lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

/// Finds the tensors of a whole file.
pub(super) fn places(file: &[u8]) -> Result<BTreeMap<String, Place>, String> {
    let entries = zip::entries(file)?;
    let (folder, pickled) = entries
        .iter()
        .find_map(|(name, bytes)| Some((name.strip_suffix("data.pkl")?, bytes.clone())))
        .ok_or("holds no `data.pkl`: this is no file that PyTorch saved")?;
    let order = entries.get(&format!("{folder}byteorder")).map(|bytes| &file[bytes.clone()]);
    if order.is_some_and(|order| order != b"little") {
        return Err("was saved on a big-endian machine: save it again on another".into());
    }
    let mut places = BTreeMap::new();
    for (name, tensor) in pickle::tensors(&file[pickled])? {
        let key = format!("{folder}data/{}", tensor.storage);
        let Some(storage) = entries.get(&key) else {
            return Err(format!("tensor `{name}` lies in `{key}`, which the archive lacks"));
        };
        let size = tensor.dtype.bitsize() / 8;
        let elements = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let range = elements.and_then(|elements| {
            let start = storage.start.checked_add(tensor.offset.checked_mul(size)?)?;
            let end = start.checked_add(elements.checked_mul(size)?)?;
            (end <= storage.end).then_some(start..end)
        });
        let Some(bytes) = range else {
            return Err(format!(
                "tensor `{name}` of shape {:?} is larger than its {} bytes of storage",
                tensor.shape,
                storage.len()
            ));
        };
        places.insert(name.to_owned(), Place { dtype: tensor.dtype, shape: tensor.shape, bytes });
    }
    Ok(places)
}

#[cfg(test)]
mod tests;
