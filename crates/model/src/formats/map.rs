//! The bytes of one file, mapped into memory or owned.

use crate::{Error, Result};
use leveret_kernels::FileMap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// A whole file as a byte slice.
#[derive(Debug)]
pub(super) struct FileBytes {
    path: PathBuf,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Mapped(FileMap),
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps the regular file at `path`.
    pub(super) fn map(path: &Path) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let file = File::open(path).map_err(io)?;
        let found = file.metadata().map_err(io)?;
        if !found.is_file() {
            let kind = if found.is_dir() { "a folder" } else { "not a regular file" };
            return Err(Error::format(path, format!("is {kind}; expected a file")));
        }
        let map = FileMap::new(&file).map_err(io)?;
        Ok(Self { path: path.into(), data: Data::Mapped(map) })
    }

    /// Takes bytes that are already in memory; `path` only names them in errors.
    pub(super) fn owned(path: &Path, bytes: Vec<u8>) -> Self {
        Self { path: path.into(), data: Data::Owned(bytes) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the whole pages inside `range` back to the system; they are read again on access.
    pub(super) fn release(&self, range: Range<usize>) {
        if let Data::Mapped(map) = &self.data {
            map.release(range);
        }
    }

    /// As [`release`](Self::release), if `bytes` is a part of this file.
    pub(super) fn release_part(&self, bytes: &[u8]) {
        let Some(start) = (bytes.as_ptr() as usize).checked_sub(self.as_ptr() as usize) else { return };
        if start.checked_add(bytes.len()).is_some_and(|end| end <= self.len()) {
            self.release(start..start + bytes.len());
        }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map) => map,
            Data::Owned(bytes) => bytes,
        }
    }
}
