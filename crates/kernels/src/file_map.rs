//! Files as bytes in memory, for those who read weights: mapped, so that nothing is copied that nobody looks at.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

use memmap2::{Mmap, MmapOptions};

/// All bytes of one file.
///
/// A mapping is private and read-only. That keeps nobody else from writing to the file, which may show
/// in these bytes, or from truncating it, which ends the process (SIGBUS), as for every program that
/// maps files.
#[derive(Debug)]
pub struct FileMap(Mmap);

impl FileMap {
    /// Maps `file`, which must be a regular one.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is never written through, and we replace files by renaming, not by writing
        // in place. Another process that writes to the file in place could change bytes behind a
        // reference, which no way of mapping prevents: it is out of scope (see above).
        Ok(Self(unsafe { MmapOptions::new().map_copy_read_only(file) }?))
    }

    /// Gives the whole pages inside `range` back to the system; they are read again on access.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            // A map starts on a page boundary. Any multiple of the page size serves as a unit:
            // 64 KiB covers every system and costs at most that much per end.
            const PAGE: usize = 64 << 10;
            let start = range.start.next_multiple_of(PAGE);
            let end = range.end.min(self.len()) / PAGE * PAGE;
            if start < end {
                // SAFETY: the pages are of this mapping, which is file-backed and never written, so that they
                // come back from the file with the same content.
                let _ = unsafe {
                    self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_released_is_there_again() {
        let path = std::env::temp_dir().join(format!("leveret-map-{}", std::process::id()));
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = FileMap::new(&File::open(&path).unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        assert_eq!(*map, bytes[..]);
        for range in [0..300_000, 70_000..200_000, 0..10, 299_999..usize::MAX, 500_000..600_000] {
            map.release(range);
            assert_eq!(*map, bytes[..]);
        }
    }
}
