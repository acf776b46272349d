//! GGUF files, versions 2 and 3, little-endian, in one file or split.
//!
//! Files are mapped, not read. Opening checks every length, offset and name against the bytes
//! that are there, so that later look-ups cannot fail on the file's structure; only tensors of a
//! type that this engine does not decode are refused when they are asked for.

mod cursor;
mod header;
mod meta;
mod split;
mod types;
mod value;
mod write;

pub use meta::Meta;
pub use types::TypeId;
pub use value::{Array, FromValue, Value};
pub use write::{Body, MetaValue, Writer};

use super::TensorView;
use super::map::FileBytes;
use super::safetensors::RawTensor;
use crate::{Error, Result};
use header::{Directory, Header};
use leveret_kernels::ElementType;
use split::Split;
use std::path::Path;
use std::sync::Arc;

/// An open GGUF model.
#[derive(Debug)]
pub struct Gguf {
    parts: Vec<Arc<FileBytes>>,
    meta: Meta,
    tensors: Vec<Placed>,
    /// Indices of `tensors`, sorted by name.
    by_name: Vec<usize>,
}

/// A tensor and the part that holds it.
#[derive(Debug)]
struct Placed {
    part: usize,
    directory: Directory,
}

/// What the directory of a file says about one tensor.
#[derive(Debug, Clone, Copy)]
pub struct TensorInfo<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Row-major shape, outermost dimension first.
    pub shape: &'a [usize],
    /// Type in the file, decodable or not.
    pub ty: TypeId,
    /// Length of the data; `None` for types of unknown size.
    pub bytes: Option<usize>,
}

impl Gguf {
    /// Opens the model at `path`; for a split model that of any one part.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = Arc::new(FileBytes::map(path)?);
        let header = Header::read(&file)?;
        let Some(split) = Split::of(&header.meta)? else {
            return Self::assemble(vec![(file, header)]);
        };
        let mut own = Some((file, header));
        let mut parts = Vec::new();
        for (index, path) in (0..).zip(split.paths(path)?) {
            let (file, header) = match own.take_if(|_| index == split.index) {
                Some(own) => own,
                None => {
                    let file = Arc::new(FileBytes::map(&path)?);
                    let header = Header::read(&file)?;
                    (file, header)
                }
            };
            split.check_part(index, &header)?;
            parts.push((file, header));
        }
        Self::assemble(parts)
    }

    /// Reads a model in one file from memory; `name` stands for the path in errors.
    pub fn from_bytes(name: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        let file = Arc::new(FileBytes::owned(name.as_ref(), bytes));
        let header = Header::read(&file)?;
        if let Some(split) = Split::of(&header.meta)? {
            let what = format!("is one of {} parts; expected a model in one file", split.count);
            return Err(Error::format(file.path(), what));
        }
        Self::assemble(vec![(file, header)])
    }

    /// Joins the parts. The first has the metadata of the model.
    fn assemble(parts: Vec<(Arc<FileBytes>, Header)>) -> Result<Self> {
        let mut files = Vec::new();
        let mut metas = Vec::new();
        let mut tensors = Vec::new();
        for (part, (file, header)) in parts.into_iter().enumerate() {
            files.push(file);
            metas.push(header.meta);
            let placed = |directory| Placed { part, directory };
            tensors.extend(header.tensors.into_iter().map(placed));
        }
        let meta = metas.swap_remove(0);
        split::check_total(&meta, tensors.len())?;
        let by_name = sorted_unique(&tensors, |t| &t.directory.name)
            .map_err(|name| Error::format(meta.path(), format!("tensor `{name}` stands there twice")))?;
        Ok(Self { parts: files, meta, tensors, by_name })
    }

    /// The metadata; of a split model that of the first part.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The tensor `name`; `None` if there is no such tensor, an error if its type is not supported.
    pub fn tensor(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        let Some(Placed { part, directory }) = self.find(name) else {
            return Ok(None);
        };
        let Some(ty) = directory.ty.element() else {
            let what = format!(
                "tensor `{name}` has the type {}; supported are {}: quantise the model to one of them",
                directory.ty,
                ElementType::ALL.map(ElementType::name).join(" ")
            );
            return Err(Error::unsupported(self.parts[*part].path(), what));
        };
        let (shape, bytes) = (directory.shape(), &self.parts[*part][directory.bytes.clone()]);
        Ok(Some(TensorView { ty, shape, bytes }))
    }

    /// The tensor `name` if it is one of integers.
    pub fn integers(&self, name: &str) -> Option<RawTensor<'_>> {
        let Placed { part, directory } = self.find(name)?;
        let bytes = &self.parts[*part][directory.bytes.clone()];
        Some(RawTensor { dtype: directory.ty.integer()?, shape: directory.shape(), bytes })
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|Placed { directory, .. }| TensorInfo {
            name: &directory.name,
            shape: directory.shape(),
            ty: directory.ty,
            bytes: directory.ty.row_bytes(1).map(|_| directory.bytes.len()),
        })
    }

    /// Lets go of the memory behind a tensor that is no longer needed (because it was repacked).
    /// Its pages are read from the file again if it is used all the same.
    pub fn release(&self, name: &str) {
        if let Some(Placed { part, directory }) = self.find(name) {
            self.parts[*part].release(directory.bytes.clone());
        }
    }

    /// As [`release`](Self::release), for a part of a tensor's bytes. Bytes from elsewhere are left alone.
    pub fn release_part(&self, bytes: &[u8]) {
        self.parts.iter().for_each(|part| part.release_part(bytes));
    }

    /// Size of all parts in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|file| file.len() as u64).sum()
    }

    /// The files of the model, in order of the split.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts.iter().map(|file| file.path())
    }

    fn find(&self, name: &str) -> Option<&Placed> {
        let key = |&i: &usize| (*self.tensors[i].directory.name).cmp(name);
        let found = self.by_name.binary_search_by(key).ok()?;
        Some(&self.tensors[self.by_name[found]])
    }
}

/// Indices of `items` sorted by name, or the name that two of them share.
fn sorted_unique<T>(items: &[T], name: impl Fn(&T) -> &str) -> Result<Vec<usize>, &str> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&i| name(&items[i]));
    let twice = order.windows(2).find(|pair| name(&items[pair[0]]) == name(&items[pair[1]]));
    match twice {
        Some(pair) => Err(name(&items[pair[0]])),
        None => Ok(order),
    }
}

#[cfg(test)]
mod tests;
