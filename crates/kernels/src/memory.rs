//! Large zeroed buffers straight from the operating system, on huge pages where it grants them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::settle::settle;

/// A buffer of zeroed bytes that starts on a cache line. Pages count as memory only once they are written.
#[derive(Debug)]
pub(crate) struct Pages {
    mapping: Arc<Mapping>,
    /// Where in the mapping the buffer begins.
    offset: usize,
    len: usize,
    huge: Huge,
}

/// Address space of ours, given back when the last owner goes.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut u8,
    bytes: usize,
    /// Whether small buffers are cut from it.
    shared: bool,
}

/// When a buffer gets huge pages. A virtual machine may have to get each from its host first, which takes ten times as
/// long as an ordinary one; without them streaming costs a fifth more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Huge {
    /// As it is written.
    AtOnce,
    /// As it is written, as long as the system is quick about it; what is left after the load, for which somebody
    /// waits (`settle.rs`).
    IfQuick,
}

// SAFETY: the buffer is owned, like a Vec<u8>.
unsafe impl Send for Mapping {}
// SAFETY: shared access is read-only, and parts that are written have one owner each; advice does not change content.
unsafe impl Sync for Mapping {}

const HUGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// Readable bytes behind the end, so that a kernel's whole-vector loads may run over.
const MARGIN: usize = 64;

/// Buffers smaller than a huge page share mappings of this size.
const POOL: usize = 8 * HUGE;

/// What the system may take for a huge page to be quick: clearing it takes a third of this.
const QUICK: Duration = Duration::from_millis(1);

/// Huge pages that it was slow about; after a few nobody asks any more.
static SLOW: AtomicUsize = AtomicUsize::new(0);

/// The mapping that small buffers are cut from, with the bytes of it in use; one for each way of paging.
static POOLS: [Mutex<(Weak<Mapping>, usize)>; 2] = [const { Mutex::new((Weak::new(), 0)) }; 2];

impl Pages {
    /// `len` zeroed bytes on huge pages from the start, or `None` when the system refuses them.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let mapping = Mapping::new(len.checked_add(MARGIN)?)?;
        mapping.advise_huge();
        Some(Self { mapping: Arc::new(mapping), offset: 0, len, huge: Huge::AtOnce })
    }

    /// `len` zeroed bytes for weights, which stay long and are many: small ones lie side by side in shared mappings.
    /// `None` when the system refuses them.
    pub(crate) fn for_weights(len: usize, huge: Huge) -> Option<Self> {
        let bytes = len.checked_add(MARGIN)?.checked_next_multiple_of(64)?;
        if bytes >= HUGE {
            return Some(Self { mapping: Mapping::paged(bytes, huge)?, offset: 0, len, huge });
        }
        let Ok(mut pool) = POOLS[huge as usize].lock() else {
            return Some(Self { mapping: Mapping::paged(bytes, huge)?, offset: 0, len, huge });
        };
        let current = pool.0.upgrade().filter(|mapping| pool.1 + bytes <= mapping.bytes);
        let (mapping, offset) = match current {
            Some(mapping) => (mapping, pool.1),
            None => (Mapping::pool(huge)?, 0),
        };
        *pool = (Arc::downgrade(&mapping), offset + bytes);
        Some(Self { mapping, offset, len, huge })
    }

    /// Says that part `range` of a buffer for weights is written next.
    pub(crate) fn prepare(&mut self, range: Range<usize>) {
        // Small buffers share a mapping that was prepared as a whole.
        if self.huge == Huge::IfQuick && !self.mapping.shared && !self.mapping.grant(range) {
            self.huge = Huge::AtOnce;
            settle(&self.mapping);
        }
    }

    /// Has the system find memory for part `range`, which is written next, in one call: it takes longer page by page, as
    /// writes come upon them.
    pub(crate) fn populate(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            let first = (self.offset + range.start) & !(PAGE - 1);
            let end = (self.offset + range.end).min(self.mapping.bytes);
            // SAFETY: advice on a range of a mapping of ours, which changes no content. Kernels before 5.14 refuse it.
            unsafe {
                let start = self.mapping.start.add(first);
                libc::madvise(start.cast(), end.saturating_sub(first), libc::MADV_POPULATE_WRITE);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised (zeroed) bytes owned by `self`.
        unsafe { std::slice::from_raw_parts(self.mapping.start.add(self.offset), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively borrowed; no other buffer has these bytes of the mapping.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start.add(self.offset), self.len) }
    }
}

impl Mapping {
    /// At least `bytes` zeroed bytes, from a huge page's boundary on if they are worth one.
    fn new(bytes: usize) -> Option<Self> {
        let mapped = bytes.checked_next_multiple_of(PAGE)?;
        // Room to start on a huge page.
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
        // SAFETY: both ends cut off lie inside the mapping just made.
        unsafe {
            let start = raw.add(skip);
            if skip > 0 {
                libc::munmap(raw.cast(), skip);
            }
            if spare > skip {
                libc::munmap(start.add(mapped).cast(), spare - skip);
            }
            Some(Self { start, bytes: mapped, shared: false })
        }
    }

    /// A mapping of one buffer that gets huge pages as `huge` says, as parts of it are prepared.
    fn paged(bytes: usize, huge: Huge) -> Option<Arc<Self>> {
        let mapping = Self::new(bytes)?;
        if huge == Huge::AtOnce {
            mapping.advise_huge();
        }
        Some(Arc::new(mapping))
    }

    /// A mapping for small buffers, prepared as a whole.
    fn pool(huge: Huge) -> Option<Arc<Self>> {
        let mut mapping = Self::new(POOL)?;
        mapping.shared = true;
        let mapping = Arc::new(mapping);
        match huge {
            Huge::AtOnce => mapping.advise_huge(),
            Huge::IfQuick if !mapping.grant(0..POOL) => settle(&mapping),
            Huge::IfQuick => {}
        }
        Some(mapping)
    }

    /// Lets the system use huge pages from now on.
    fn advise_huge(&self) {
        #[cfg(target_os = "linux")]
        if self.bytes >= HUGE {
            // SAFETY: advice on a mapping of ours.
            unsafe { libc::madvise(self.start.cast(), self.bytes, libc::MADV_HUGEPAGE) };
        }
    }

    /// Gets huge pages for a range that nobody has written yet, or says that the system is slow about them.
    fn grant(&self, range: Range<usize>) -> bool {
        const PATIENCE: usize = 3;
        let first = range.start.next_multiple_of(HUGE);
        // A page that only begins here is granted here.
        let end = range.end.next_multiple_of(HUGE).min(self.bytes);
        if first.saturating_add(HUGE) > end {
            return true;
        }
        if SLOW.load(Relaxed) >= PATIENCE {
            return false;
        }
        #[cfg(target_os = "linux")]
        // SAFETY: advice on a range of a mapping of ours, and a zero written over a zero that nobody else has.
        unsafe {
            let start = self.start.add(first);
            libc::madvise(start.cast(), end - first, libc::MADV_HUGEPAGE);
            let began = Instant::now();
            start.write_volatile(0);
            if began.elapsed() > QUICK {
                SLOW.fetch_add(1, Relaxed);
                libc::madvise(start.cast(), end - first, libc::MADV_NOHUGEPAGE);
                return false;
            }
        }
        true
    }

    /// Moves huge page `page` of the mapping, which is in use, onto such a one. False where there is none, or the system
    /// refuses.
    pub(crate) fn collapse(&self, page: usize) -> bool {
        if page == 0 {
            self.advise_huge();
        }
        if page >= self.bytes / HUGE {
            return false;
        }
        #[cfg(target_os = "linux")]
        // SAFETY: the range lies in the mapping, and collapsing changes no content. Kernels before 6.1 refuse it and do
        // the same more slowly by themselves.
        return unsafe { libc::madvise(self.start.add(page * HUGE).cast(), HUGE, libc::MADV_COLLAPSE) } == 0;
        #[cfg(not(target_os = "linux"))]
        false
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and is unmapped once.
        unsafe {
            libc::munmap(self.start.cast(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settle::{Settling, settle_for};

    #[test]
    fn what_was_written_stays_when_it_is_moved() {
        let mut pages = Pages::for_weights(9 << 20, Huge::IfQuick).unwrap();
        pages.bytes_mut().iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 251) as u8);
        settle(&pages.mapping);
        let mut settling = Settling::default();
        settling.after(Duration::from_secs(1));
        // Other tests may be at it at the same time.
        while !settle_for(Duration::from_secs(1)) {}
        assert!(pages.bytes().iter().enumerate().all(|(i, &byte)| byte == (i % 251) as u8));
    }
}
