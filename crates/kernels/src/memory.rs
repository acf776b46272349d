//! Large zeroed buffers straight from the operating system, on huge pages where it grants them.

/// A page-aligned buffer of zeroed bytes. Pages count as memory only once they are written.
#[derive(Debug)]
pub(crate) struct Pages {
    start: *mut u8,
    len: usize,
    mapped: usize,
}

// SAFETY: the buffer is owned, like a Vec<u8>.
unsafe impl Send for Pages {}
// SAFETY: shared access is read-only.
unsafe impl Sync for Pages {}

/// Readable bytes behind the end, so that a kernel's whole-vector loads may run over.
const MARGIN: usize = 64;

impl Pages {
    /// `len` zeroed bytes, or `None` when the system refuses them.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        const HUGE: usize = 2 << 20;
        let mapped = len.checked_add(MARGIN)?.checked_next_multiple_of(4096)?;
        // Room to start on a huge page, where the buffer is worth one.
        let spare = if mapped >= HUGE { HUGE } else { 0 };
        let total = mapped.checked_add(spare)?;
        // SAFETY: an anonymous private mapping at an address of the system's choice.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                total,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return None;
        }
        let raw = raw.cast::<u8>();
        let skip = if spare == 0 { 0 } else { raw.align_offset(HUGE) };
        // SAFETY: both ends cut off lie inside the mapping just made; advice cannot harm it.
        unsafe {
            let start = raw.add(skip);
            if skip > 0 {
                libc::munmap(raw.cast(), skip);
            }
            if spare > skip {
                libc::munmap(start.add(mapped).cast(), spare - skip);
            }
            #[cfg(target_os = "linux")]
            if mapped >= HUGE {
                libc::madvise(start.cast(), mapped, libc::MADV_HUGEPAGE);
            }
            Some(Self { start, len, mapped })
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised (zeroed) bytes owned by `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `zeroed` and is unmapped once.
        unsafe {
            libc::munmap(self.start.cast(), self.mapped);
        }
    }
}
