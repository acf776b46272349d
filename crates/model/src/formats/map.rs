//! The bytes of one file, mapped into memory or owned; the only `unsafe` of this crate.

use crate::{Error, Result};
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// A whole file as a byte slice.
///
/// A mapping is private and read-only. That keeps nobody else from writing to the file, which may show
/// in these bytes, or from truncating it, which ends the process (SIGBUS), as for every program that
/// maps files.
#[derive(Debug)]
pub(super) struct FileBytes {
    path: PathBuf,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Mapped(Mmap),
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
        // SAFETY: the map is never written through, and we replace files by renaming, not by writing
        // in place. Another process that writes to the file in place could change bytes behind a
        // reference, which no way of mapping prevents: it is out of scope (see above).
        let map = unsafe { MmapOptions::new().map_copy_read_only(&file) }.map_err(io)?;
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
        #[cfg(unix)]
        if let Data::Mapped(map) = &self.data {
            // A map starts on a page boundary. Any multiple of the page size serves as a unit:
            // 64 KiB covers every system and costs at most that much per end.
            const PAGE: usize = 64 << 10;
            let start = range.start.next_multiple_of(PAGE);
            let end = range.end / PAGE * PAGE;
            if start < end {
                // SAFETY: the mapping is file-backed and never written, so dropped pages come
                // back from the file with the same content.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
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
