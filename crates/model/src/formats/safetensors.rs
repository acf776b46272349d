//! One safetensors file, mapped into memory; or one that PyTorch wrote, read as if it were.
//!
//! The header is parsed and checked by the `safetensors` crate; this module adds the mapping,
//! errors that name file and tensor, and the element types of this engine.

use super::map::FileBytes;
use super::pytorch::{self, Place};
use super::{TensorView, quoted};
use crate::{Error, Result};
use ::safetensors::tensor::{Metadata, TensorInfo};
use leveret_kernels::ElementType;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

pub use ::safetensors::Dtype;

/// The longest header that is accepted, as everywhere else.
const MAX_HEADER: u64 = 100_000_000;

/// An open safetensors file.
#[derive(Debug)]
pub struct Safetensors {
    file: FileBytes,
    directory: Directory,
}

/// Where the tensors are.
#[derive(Debug)]
enum Directory {
    /// As the header says, their data beginning at byte `data`.
    Header {
        metadata: Metadata,
        data: usize,
    },
    Pickled(BTreeMap<String, Place>),
}

/// A tensor of any element type.
#[derive(Debug, Clone, Copy)]
pub struct RawTensor<'a> {
    /// Element type as the file names it.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: &'a [usize],
    /// Exactly the bytes that shape and type call for, at any alignment.
    pub bytes: &'a [u8],
}

impl Safetensors {
    /// Maps the file at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(FileBytes::map(path.as_ref())?)
    }

    /// Maps the `pytorch_model.bin` at `path`. Nothing in it is executed.
    ///
    /// # Errors
    /// A file that is no dictionary of contiguous tensors.
    pub fn open_pickled(path: impl AsRef<Path>) -> Result<Self> {
        Self::unpickle(FileBytes::map(path.as_ref())?)
    }

    /// Reads a `pytorch_model.bin` from memory; `name` stands for the path in errors.
    ///
    /// # Errors
    /// As [`open_pickled`](Self::open_pickled).
    pub fn from_pickled_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        Self::unpickle(FileBytes::owned(name.as_ref(), bytes))
    }

    fn unpickle(file: FileBytes) -> Result<Self> {
        // Names in the file may hold anything.
        let places = pytorch::places(&file).map_err(|what| Error::format(file.path(), quoted(&what)))?;
        Ok(Self { file, directory: Directory::Pickled(places) })
    }

    /// Reads a file from memory; `name` stands for the path in errors.
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        Self::read(FileBytes::owned(name.as_ref(), bytes))
    }

    fn read(file: FileBytes) -> Result<Self> {
        let fault = |what: String| Error::format(file.path(), what);
        let len = file.len() as u64;
        let Some(first) = file.first_chunk() else {
            return Err(fault(format!("has {len} bytes; expected at least the 8 of the header length")));
        };
        let header = u64::from_le_bytes(*first);
        if header > MAX_HEADER || header > len - 8 {
            return Err(fault(format!(
                "claims a header of {header} bytes; expected at most {}: \
                 this is no safetensors file, or it is cut short",
                MAX_HEADER.min(len - 8)
            )));
        }
        let data = 8 + header as usize;
        let metadata: Metadata = serde_json::from_slice(&file[8..data])
            .map_err(|e| fault(format!("has no valid safetensors header: {}", quoted(&e.to_string()))))?;
        let (expected, found) = (metadata.data_len(), file.len() - data);
        if expected != found {
            return Err(fault(format!(
                "has {found} bytes of tensor data; its header calls for {expected}; is it cut short?"
            )));
        }
        Ok(Self { file, directory: Directory::Header { metadata, data } })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file.len() as u64
    }

    /// Names of all tensors, in the order of their data.
    pub fn names(&self) -> Vec<String> {
        match &self.directory {
            Directory::Header { metadata, .. } => metadata.offset_keys(),
            Directory::Pickled(places) => {
                let mut names: Vec<_> = places.keys().cloned().collect();
                names.sort_by_key(|name| places[name].bytes.start);
                names
            }
        }
    }

    /// The tensor `name` whatever its element type; `None` if there is no such tensor.
    pub fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        let (dtype, shape, range) = self.find(name)?;
        Some(RawTensor { dtype, shape, bytes: &self.file[range] })
    }

    /// The tensor `name`; `None` if there is no such tensor, an error if it is not F32, F16 or BF16.
    pub fn tensor(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        let Some(RawTensor { dtype, shape, bytes }) = self.raw(name) else {
            return Ok(None);
        };
        let ty = match dtype {
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::BF16,
            other => {
                let what =
                    format!("tensor `{}` has the type {other:?}; expected BF16, F16 or F32", quoted(name));
                return Err(Error::unsupported(self.path(), what));
            }
        };
        Ok(Some(TensorView { ty, shape, bytes }))
    }

    /// Lets go of the memory behind a tensor that is no longer needed (because it was repacked).
    pub fn release(&self, name: &str) {
        if let Some((_, _, range)) = self.find(name) {
            self.file.release(range);
        }
    }

    /// As [`release`](Self::release), for a part of a tensor's bytes. Bytes from elsewhere are left alone.
    pub fn release_part(&self, bytes: &[u8]) {
        self.file.release_part(bytes);
    }

    /// Type and shape of a tensor, and where its data lies: inside the file, as was checked when it
    /// was opened.
    fn find(&self, name: &str) -> Option<(Dtype, &[usize], Range<usize>)> {
        match &self.directory {
            Directory::Header { metadata, data } => {
                let TensorInfo { dtype, shape, data_offsets: (start, end) } = metadata.info(name)?;
                Some((*dtype, shape, data + start..data + end))
            }
            Directory::Pickled(places) => {
                let Place { dtype, shape, bytes } = places.get(name)?;
                Some((*dtype, shape, bytes.clone()))
            }
        }
    }
}
