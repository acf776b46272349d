//! A GGUF file as it is, but for the type of its matrices.

use super::meta::file_type;
use super::planned::{Origin, Planned, Rows, Storage, missing_in, stored};
use crate::formats::gguf::{Gguf, MetaValue, TypeId, Writer};
use crate::weights::fitting;
use crate::{Error, Result};
use leveret_kernels::ElementType;
use std::io;

/// All that the file says but how it lies on disk.
pub(super) fn meta(gguf: &Gguf, ty: ElementType, writer: &mut Writer) -> Result<()> {
    for (key, value) in gguf.meta().iter() {
        if matches!(key, "general.file_type" | "general.alignment") || key.starts_with("split.") {
            continue;
        }
        let Some(value) = MetaValue::copied(value) else {
            let what = format!("metadata `{key}` is of a kind that cannot be written again");
            return Err(Error::unsupported(gguf.meta().path(), what));
        };
        writer.meta(key, value);
    }
    writer.meta("general.file_type", file_type(ty));
    Ok(())
}

/// Its tensors, matrices as `ty`. Routers and convolutions stay as they are: rounding them would
/// show, and they are small.
pub(super) fn tensors(gguf: &Gguf, ty: ElementType) -> Result<Vec<Planned>> {
    const KEPT: [&str; 5] = ["ffn_gate_inp", "conv", "rope_freqs", "ssm_beta", "ssm_alpha"];
    let plan = |name: &str| {
        if let Some(raw) = gguf.integers(name) {
            let (shape, ty) = (raw.shape.into(), Storage::Integers(raw.dtype));
            return Ok(Planned { name: name.into(), shape, ty, origin: Origin::Copy(name.into()) });
        }
        let Some(tensor) = gguf.tensor(name)? else { return Err(missing_in(gguf.meta().path(), name)) };
        let matrix = tensor.shape.len() > 1 && name.ends_with(".weight");
        let ty = match matrix && !KEPT.iter().any(|kept| name.contains(kept)) {
            true => fitting(ty, stored(&tensor)),
            false => tensor.ty,
        };
        let (shape, origin) = (tensor.shape.into(), Origin::Rows(Rows::of(name)));
        Ok(Planned { name: name.into(), shape, ty: Storage::Floats(ty), origin })
    };
    gguf.tensors().map(|tensor| plan(tensor.name)).collect()
}

/// Enters a tensor in the directory of a new file.
pub(super) fn enter(tensor: &Planned, writer: &mut Writer) -> io::Result<()> {
    let Planned { name, shape, ty, .. } = tensor;
    match *ty {
        Storage::Floats(ty) => writer.tensor(name, ty, shape).map(|_| ()),
        Storage::Integers(dtype) => {
            let Some(id) = TypeId::of_integers(dtype) else {
                let what = format!("tensor `{name}`: integers of type {dtype:?} cannot be stored");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            };
            let bytes = shape.iter().product::<usize>() * (dtype.bitsize() / 8);
            writer.integers(name, id, shape, bytes);
            Ok(())
        }
    }
}
