//! Moves weights that got small pages at load to huge ones afterwards, a little after each pass.
//!
//! Not in the background: the system holds a lock of the whole process while it moves a page. A thread that has to wait
//! for a processor meanwhile, because all of them compute, keeps every other one waiting that touches new memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::memory::Mapping;

/// Mappings that are to be moved, with the next page of each.
static WAITING: Mutex<VecDeque<(Weak<Mapping>, usize)>> = Mutex::new(VecDeque::new());
/// Whether there may be any.
static ANY: AtomicBool = AtomicBool::new(false);

/// Share of the time of passes that goes into it.
const SHARE: f64 = 0.06;
/// Most seconds that are saved up.
const MOST: f64 = 0.02;

/// Has the mapping moved to huge pages by and by.
pub(crate) fn settle(mapping: &Arc<Mapping>) {
    if let Ok(mut waiting) = WAITING.lock() {
        waiting.push_back((Arc::downgrade(mapping), 0));
        ANY.store(true, Relaxed);
    }
}

/// Moves weights to the pages that they will stay on, for no longer than `patience`, but at least one page; for
/// measurements of steady speed. Returns whether all are there.
pub fn settle_for(patience: Duration) -> bool {
    if !ANY.load(Relaxed) {
        return true;
    }
    // Somebody else is at it.
    let Ok(mut waiting) = WAITING.try_lock() else { return false };
    let start = Instant::now();
    while let Some((mapping, page)) = waiting.front_mut() {
        // Weights that are gone, were moved to the end or cannot be.
        let more = mapping.upgrade().is_some_and(|mapping| mapping.collapse(*page));
        *page += 1;
        if !more {
            waiting.pop_front();
        } else if start.elapsed() >= patience {
            return false;
        }
    }
    ANY.store(false, Relaxed);
    true
}

/// The time that one model's passes give to it.
#[derive(Debug, Default)]
pub struct Settling {
    /// Seconds that may be spent; negative when the last page took longer.
    credit: f64,
}

impl Settling {
    /// Spends its share of the `time` of a pass at the end of that pass: at the next one's, a narrow pass would seem to
    /// take what is due to a wide one before it.
    pub fn after(&mut self, time: Duration) {
        self.credit = (self.credit + SHARE * time.as_secs_f64()).min(MOST);
        if self.credit > 0.0 && ANY.load(Relaxed) {
            let start = Instant::now();
            settle_for(Duration::from_secs_f64(self.credit));
            self.credit -= start.elapsed().as_secs_f64();
        }
    }
}
