//! Large zeroed buffers straight from the operating system, on huge pages where it grants them.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::Duration;

/// A page-aligned buffer of zeroed bytes. Pages count as memory only once they are written.
#[derive(Debug)]
pub(crate) struct Pages {
    mapping: Arc<Mapping>,
    len: usize,
}

/// Address space of ours, given back when the last owner goes.
#[derive(Debug)]
struct Mapping {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the buffer is owned, like a Vec<u8>.
unsafe impl Send for Mapping {}
// SAFETY: shared access is read-only; advice does not change content.
unsafe impl Sync for Mapping {}

const HUGE: usize = 2 << 20;

/// Readable bytes behind the end, so that a kernel's whole-vector loads may run over.
const MARGIN: usize = 64;

impl Pages {
    /// `len` zeroed bytes on huge pages from the start, or `None` when the system refuses them.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let pages = Self::zeroed_small(len)?;
        pages.mapping.advise_huge();
        Some(pages)
    }

    /// `len` zeroed bytes on ordinary pages, or `None` when the system refuses them. For what is filled at once while
    /// somebody waits: a virtual machine may have to get every huge page from its host first, which takes ten times
    /// as long. See [`settle`](Self::settle).
    pub(crate) fn zeroed_small(len: usize) -> Option<Self> {
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
            Some(Self { mapping: Arc::new(Mapping { start, bytes: mapped }), len })
        }
    }

    /// Has the filled buffer moved to huge pages in the background, once no other buffer has been settled for a while.
    pub(crate) fn settle(&self) {
        static SETTLER: LazyLock<Option<Mutex<Sender<Weak<Mapping>>>>> = LazyLock::new(|| {
            let (sender, receiver) = channel();
            let spawned =
                std::thread::Builder::new().name("leveret-pages".into()).spawn(move || collapse(&receiver));
            spawned.ok().map(|_| Mutex::new(sender))
        });
        if self.mapping.bytes < HUGE {
            return;
        }
        if let Some(Ok(sender)) = SETTLER.as_ref().map(Mutex::lock) {
            // Without the thread the buffer stays as it is: slower to stream, no less right.
            let _ = sender.send(Arc::downgrade(&self.mapping));
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised (zeroed) bytes owned by `self`.
        unsafe { std::slice::from_raw_parts(self.mapping.start, self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start, self.len) }
    }
}

impl Mapping {
    /// Lets the system use huge pages from now on.
    fn advise_huge(&self) {
        #[cfg(target_os = "linux")]
        if self.bytes >= HUGE {
            // SAFETY: advice on a mapping of ours.
            unsafe { libc::madvise(self.start.cast(), self.bytes, libc::MADV_HUGEPAGE) };
        }
    }

    /// Moves the whole huge pages of the mapping onto such, one at a time.
    fn collapse(&self) {
        self.advise_huge();
        #[cfg(target_os = "linux")]
        for at in (0..self.bytes / HUGE).map(|page| page * HUGE) {
            // SAFETY: the range lies in the mapping, and collapsing changes no content. Kernels before 6.1 refuse it
            // and do the same more slowly by themselves.
            if unsafe { libc::madvise(self.start.add(at).cast(), HUGE, libc::MADV_COLLAPSE) } != 0 {
                break;
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `zeroed_small` and is unmapped once.
        unsafe {
            libc::munmap(self.start.cast(), self.bytes);
        }
    }
}

/// Collapses what comes in, after half a second in which nothing came: when a load is over and its reader served.
fn collapse(incoming: &Receiver<Weak<Mapping>>) {
    let mut waiting = Vec::new();
    while let Ok(first) = incoming.recv() {
        waiting.push(first);
        loop {
            match incoming.recv_timeout(Duration::from_millis(500)) {
                Ok(mapping) => waiting.push(mapping),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        waiting.drain(..).filter_map(|mapping| mapping.upgrade()).for_each(|mapping| mapping.collapse());
    }
}
