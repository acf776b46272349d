//! What stands before the tensor data of one file: magic, counts, metadata, tensor directory.

use super::cursor::Cursor;
use super::meta::Meta;
use super::types::TypeId;
use crate::formats::map::FileBytes;
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// Dimensions that a tensor can have.
const MAX_DIMS: usize = 4;

/// Where tensor data is aligned to if the file does not say.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// The parsed front of one file, every claim checked against the file's length.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) meta: Meta,
    pub(super) tensors: Vec<Directory>,
}

/// One line of the tensor directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) name: Box<str>,
    pub(super) ty: TypeId,
    dims: [usize; MAX_DIMS],
    n_dims: usize,
    /// Where the data lies in the file; empty for a type of unknown size.
    pub(super) bytes: Range<usize>,
}

impl Directory {
    /// Row-major shape, outermost dimension first (the file has it the other way round).
    pub(super) fn shape(&self) -> &[usize] {
        &self.dims[..self.n_dims]
    }
}

impl Header {
    pub(super) fn read(file: &Arc<FileBytes>) -> Result<Self> {
        Self::parse(file).map_err(|what| Error::format(file.path(), what))
    }

    fn parse(file: &Arc<FileBytes>) -> Result<Self, String> {
        let mut cursor = Cursor::new(file, 0);
        check_magic_and_version(&mut cursor)?;
        // A directory line has at least a name length, one dimension, a type and an offset; an
        // entry of metadata a key length, a type and one byte.
        let n_tensors = cursor.count(8 + 4 + 8 + 4 + 8, "tensor count")?;
        let n_entries = cursor.count(8 + 4 + 1, "metadata count")?;
        let meta = Meta::read(file, &mut cursor, n_entries)?;
        let alignment = alignment(&meta)?;

        let mut tensors = Vec::new();
        let mut offsets = Vec::new();
        for i in 0..n_tensors {
            let (tensor, offset) = read_tensor(&mut cursor, i)?;
            if offset % alignment != 0 {
                return Err(format!(
                    "tensor `{}` starts at offset {offset}, which is no multiple of the alignment {alignment}",
                    tensor.name
                ));
            }
            tensors.push(tensor);
            offsets.push(offset);
        }
        let data = (cursor.at as u64).next_multiple_of(alignment);
        for (tensor, offset) in tensors.iter_mut().zip(offsets) {
            place(tensor, data, offset, file.len())?;
        }
        check_overlaps(&tensors)?;
        Ok(Self { meta, tensors })
    }
}

fn check_magic_and_version(cursor: &mut Cursor<'_>) -> Result<(), String> {
    let magic: [u8; 4] = cursor.array("the magic")?;
    if &magic != b"GGUF" {
        return Err(format!(
            "starts with \"{}\"; expected \"GGUF\": this is no GGUF file",
            magic.escape_ascii()
        ));
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        v if matches!(v.swap_bytes(), 1..=3) => Err(format!(
            "is a big-endian GGUF file (version {}); expected little-endian: convert it again",
            v.swap_bytes()
        )),
        v => Err(format!("is GGUF version {v}; expected 2 or 3: convert the model again")),
    }
}

fn alignment(meta: &Meta) -> Result<u64, String> {
    let key = "general.alignment";
    let alignment = match meta.value(key) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(super::Value::Unsigned(v)) => v,
        Some(other) => return Err(format!("metadata `{key}` is {other}; expected u32")),
    };
    if !alignment.is_power_of_two() || alignment > 1 << 30 {
        return Err(format!("metadata `{key}` is {alignment}; expected a power of two up to 2^30"));
    }
    Ok(alignment)
}

/// Reads directory line `i` and the offset of its data.
fn read_tensor(cursor: &mut Cursor<'_>, i: usize) -> Result<(Directory, u64), String> {
    let name = cursor.name(&format!("name of tensor {i}"))?;
    let what = format!("tensor `{name}`");
    let n_dims = cursor.u32(&what)? as usize;
    if n_dims == 0 || n_dims > MAX_DIMS {
        return Err(format!("{what} has {n_dims} dimensions; expected 1 to {MAX_DIMS}"));
    }
    let mut dims = [0; MAX_DIMS];
    for d in (0..n_dims).rev() {
        let size = cursor.u64(&what)?;
        dims[d] = usize::try_from(size)
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| format!("{what} has a dimension of {size}"))?;
    }
    let ty = TypeId(cursor.u32(&what)?);
    let offset = cursor.u64(&what)?;
    let tensor = Directory { name: name.into(), ty, dims, n_dims, bytes: 0..0 };
    Ok((tensor, offset))
}

/// Computes where the tensor's data lies and checks that it is inside the file.
fn place(tensor: &mut Directory, data: u64, offset: u64, file_len: usize) -> Result<(), String> {
    let (name, shape) = (&tensor.name, tensor.shape());
    let row = shape[shape.len() - 1];
    let size = match tensor.ty.row_bytes(row) {
        // Without its size only the start can be checked; reading it is refused when asked for.
        None => 0,
        Some(row_bytes) => {
            let rows = shape[..shape.len() - 1].iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            let row_bytes = row_bytes.map_err(|block| {
                format!(
                    "tensor `{name}` of type {} has rows of {row}; expected a multiple of {block}",
                    tensor.ty
                )
            })?;
            rows.and_then(|rows| rows.checked_mul(row_bytes))
                .ok_or_else(|| format!("tensor `{name}` of shape {shape:?} is larger than memory"))?
        }
    };
    let start = data.checked_add(offset);
    let end = start.and_then(|start| start.checked_add(size as u64));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len as u64 => {
            tensor.bytes = start as usize..end as usize;
            Ok(())
        }
        _ => Err(format!(
            "tensor `{name}` takes {size} bytes at offset {offset} of the data at byte {data}, \
             but the file ends at byte {file_len}; is it cut short?"
        )),
    }
}

fn check_overlaps(tensors: &[Directory]) -> Result<(), String> {
    let mut by_start: Vec<&Directory> = tensors.iter().collect();
    by_start.sort_by_key(|t| (t.bytes.start, t.bytes.end));
    for pair in by_start.windows(2) {
        if pair[0].bytes.end > pair[1].bytes.start {
            return Err(format!(
                "tensors `{}` and `{}` overlap (bytes {:?} and {:?})",
                pair[0].name, pair[1].name, pair[0].bytes, pair[1].bytes
            ));
        }
    }
    Ok(())
}
