//! A team of threads that claim blocks of a parallel loop.
//!
//! Each thread begins with a range of neighbouring blocks of its own, so that what it reads is one stream (a tenth
//! faster than blocks in turn), and claims a share of what is left of it at a time; with none left it claims from the
//! ends of the others' ranges. A thread that the operating system does not run claims nothing, and nobody waits for it.
//! Only a block that a descheduled thread had already claimed can stall the loop; when stalls take a good part of the
//! time the team works alone for a while, so that a busy neighbour costs little. Who computes a block never shows in its
//! result.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Longest loop; more blocks than this are run as several loops.
const MAX_BLOCKS: usize = (1 << 24) - 1;
/// Turns a waiting thread spins before it looks at the clock or yields.
const SPIN: u32 = 64;
/// How long an idle helper spins before it sleeps.
const LINGER: Duration = Duration::from_micros(200);
/// A wait for claimed blocks that counts as a stall, beyond what blocks of this loop take.
const STALL: Duration = Duration::from_micros(400);
/// The team works alone for this many times the length of a stall, so stalls cost a bounded share.
const REST: u32 = 24;
/// A stall sends the team to rest only if it had worked for less than this many times its length since the one before.
/// A single one, as when the host of a virtual machine takes a processor for once, would cost far more in rest than it
/// took.
const SELDOM: u32 = 3;

type Job<'a> = &'a (dyn Fn(usize) + Sync);

/// The blocks of a thread that nobody has claimed: generation (16 bits), end (24), next block (24). On cache lines of
/// its own, as others look at it only at the end of a loop.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Unclaimed(AtomicU64);

#[derive(Debug)]
struct Shared {
    /// One for each thread, the owner's first.
    unclaimed: Vec<Unclaimed>,
    done: AtomicUsize,
    job: UnsafeCell<Option<Job<'static>>>,
    sleepers: AtomicUsize,
    quit: AtomicBool,
    /// A block has panicked on a helper, and the owner has not passed that on yet.
    panicked: AtomicBool,
    /// Helpers stand back while the owner works alone.
    resting: AtomicBool,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).finish()
    }
}

// SAFETY: `job` is written only by the owner while no block of the old loop is unfinished, and read only by
// a thread that holds a claimed, unfinished block of the loop it belongs to.
unsafe impl Sync for Shared {}
// SAFETY: as above; the closure behind `job` is `Sync`.
unsafe impl Send for Shared {}

/// Threads that share parallel loops. The thread that calls [`run`](Self::run) is one of them. A target
/// and its drafters share one team, since they never run at the same time.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<(JoinHandle<()>, Thread)>,
    /// Held while a loop is shared: whoever holds it is the owner.
    owner: Mutex<Owner>,
}

/// What only the thread that shares a loop may touch.
#[derive(Debug, Default)]
struct Owner {
    generation: u64,
    rest_until: Option<Instant>,
    /// Since when the team works together: the end of the last stall, or of the rest after it.
    together: Option<Instant>,
}

impl Team {
    /// A team of `threads` (at least one), the caller included.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            unclaimed: (0..threads).map(|_| Unclaimed::default()).collect(),
            done: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            sleepers: AtomicUsize::new(0),
            quit: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            resting: AtomicBool::new(false),
        });
        let helpers = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                // A thread that the system refuses to start only makes the team smaller.
                let handle = std::thread::Builder::new()
                    .name(format!("leveret-{i}"))
                    .spawn(move || help(&shared, i))
                    .ok()?;
                let thread = handle.thread().clone();
                Some((handle, thread))
            })
            .collect();
        Self { shared, helpers, owner: Mutex::default() }
    }

    /// Physical cores as far as the system tells, the default size of a team.
    pub fn default_threads() -> usize {
        physical_cores().unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
    }

    /// Threads in the team.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `f(0), f(1), … f(blocks - 1)`, each once, on whichever thread claims it, and returns when all are
    /// done. While another loop runs, one that `f` itself or another thread started, the caller works alone.
    ///
    /// # Panics
    /// If `f` does on any thread, after all threads have left the loop.
    pub fn run(&self, blocks: usize, f: impl Fn(usize) + Sync) {
        if self.helpers.is_empty() || blocks < 2 {
            return (0..blocks).for_each(f);
        }
        let mut owner = match self.owner.try_lock() {
            Ok(owner) => owner,
            // A loop that panicked has been seen to its end, and the next one starts afresh.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..blocks).for_each(f),
        };
        if self.rests(&mut owner) {
            return (0..blocks).for_each(f);
        }
        for first in (0..blocks).step_by(MAX_BLOCKS) {
            self.share(&mut owner, MAX_BLOCKS.min(blocks - first), &|i| f(first + i));
        }
    }

    fn share(&self, owner: &mut Owner, blocks: usize, f: Job<'_>) {
        let shared = &*self.shared;
        owner.generation = (owner.generation + 1) & 0xffff;
        let generation = owner.generation;
        shared.done.store(0, Relaxed);
        // SAFETY: all blocks of the loop before are done, so nobody reads `job`; the lifetime is made 'static only
        // until this call returns, and it returns after the last block is done.
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<Job<'_>, Job<'static>>(f));
        }
        let threads = self.threads();
        for (i, range) in shared.unclaimed.iter().take(threads).enumerate() {
            let (next, end) = (blocks * i / threads, blocks * (i + 1) / threads);
            range.0.store(generation << 48 | (end as u64) << 24 | next as u64, Release);
        }
        // Pairs with the fence of a helper about to sleep: either it sees the new blocks or we see it asleep.
        std::sync::atomic::fence(SeqCst);
        if shared.sleepers.load(Relaxed) > 0 {
            self.helpers.iter().for_each(|(_, thread)| thread.unpark());
        }
        let start = Instant::now();
        let mut own = 0;
        let mut panic = None;
        while let Some(claimed) = shared.claim(0) {
            own += claimed.len();
            // A panic may unwind only after the helpers have left the closure.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| claimed.for_each(f))) {
                panic = Some(payload);
            }
        }
        if shared.done.fetch_add(own, AcqRel) + own < blocks {
            let block = start.elapsed() / own.max(1) as u32;
            self.wait(owner, blocks, STALL + block * 3);
        }
        // Ordered by `done`, which the helper counted up afterwards.
        let elsewhere = shared.panicked.load(Relaxed);
        if elsewhere {
            shared.panicked.store(false, Relaxed);
        }
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
        assert!(!elsewhere, "a block of a parallel loop panicked on a helper thread, which has said why");
    }

    /// Waits for blocks that helpers have claimed; a longer wait than `stall` sends the team to rest.
    fn wait(&self, owner: &mut Owner, blocks: usize, stall: Duration) {
        let mut turns = 0u32;
        let mut since = None;
        while self.shared.done.load(Acquire) < blocks {
            std::hint::spin_loop();
            turns += 1;
            if turns.is_multiple_of(SPIN) {
                let since = since.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_micros(30) {
                    std::thread::yield_now();
                }
            }
        }
        let Some(since) = since else { return };
        let waited = since.elapsed();
        if waited > stall && owner.stalls_too_often(since, waited) {
            self.shared.resting.store(true, Relaxed);
        }
    }

    /// Whether the team still rests after a stall.
    fn rests(&self, owner: &mut Owner) -> bool {
        match owner.rest_until {
            Some(time) if Instant::now() < time => true,
            Some(time) => {
                owner.rest_until = None;
                owner.together = Some(time);
                self.shared.resting.store(false, Relaxed);
                false
            }
            None => false,
        }
    }
}

impl Owner {
    /// Takes note of a stall of length `waited` that began at `since`: whether the team shall rest.
    fn stalls_too_often(&mut self, since: Instant, waited: Duration) -> bool {
        let worked = self.together.map(|together| since.saturating_duration_since(together));
        let now = since + waited;
        self.together = Some(now);
        let rest = worked.is_some_and(|worked| worked < waited * SELDOM);
        if rest {
            self.rest_until = Some(now + waited * REST);
        }
        rest
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Release);
        for (handle, thread) in self.helpers.drain(..) {
            thread.unpark();
            // A helper outlives the panics of its blocks, and has none of its own.
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// Takes some of the next blocks of thread `me`, or else of the last ones of another, if there are any.
    fn claim(&self, me: usize) -> Option<Range<usize>> {
        self.unclaimed[me].claim(End::Front).or_else(|| {
            let others = self.unclaimed[me + 1..].iter().chain(&self.unclaimed[..me]);
            others.into_iter().find_map(|other| other.claim(End::Back))
        })
    }

    fn has_work(&self) -> bool {
        self.unclaimed.iter().any(|range| !is_empty(range.0.load(Acquire)))
    }
}

/// The 24 bits of the next block.
const LOW: u64 = 0xff_ffff;

fn is_empty(word: u64) -> bool {
    word & LOW >= word >> 24 & LOW
}

/// The part that a claim takes of what is left: less than another thread would mind to wait for, enough that claims,
/// at which reading ahead pauses, are few.
const SHARE: u64 = 4;

/// From where blocks are taken.
#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl Unclaimed {
    /// Takes the first or the last share of the blocks.
    fn claim(&self, from: End) -> Option<Range<usize>> {
        let mut word = self.0.load(Acquire);
        while !is_empty(word) {
            let (next, end) = (word & LOW, word >> 24 & LOW);
            let count = ((end - next) / SHARE).max(1);
            let (first, rest) = match from {
                End::Front => (next, word + count),
                End::Back => (end - count, word - (count << 24)),
            };
            match self.0.compare_exchange_weak(word, rest, AcqRel, Acquire) {
                Ok(_) => return Some(first as usize..(first + count) as usize),
                Err(now) => word = now,
            }
        }
        None
    }
}

/// A helper's life: claim, else spin a while, else sleep.
fn help(shared: &Shared, me: usize) {
    let mut idle_since: Option<Instant> = None;
    let mut turns = 0u32;
    while !shared.quit.load(Acquire) {
        if let Some(claimed) = shared.claim(me) {
            // SAFETY: the claimed blocks are unfinished, so the loop it belongs to is the current one and `job` stays
            // what the owner published before that loop's blocks.
            let job = unsafe { (*shared.job.get()).as_ref().map(|job| *job) };
            if let Some(job) = job {
                let count = claimed.len();
                // A panic must not leave the owner waiting for these blocks for ever, nor go unnoticed: what they
                // were to write is not there.
                if catch_unwind(AssertUnwindSafe(|| claimed.for_each(job))).is_err() {
                    shared.panicked.store(true, Relaxed);
                }
                shared.done.fetch_add(count, AcqRel);
            }
            idle_since = None;
            turns = 0;
            continue;
        }
        std::hint::spin_loop();
        turns += 1;
        if !turns.is_multiple_of(SPIN) {
            continue;
        }
        let since = *idle_since.get_or_insert_with(Instant::now);
        if shared.resting.load(Relaxed) || since.elapsed() > LINGER {
            shared.sleepers.fetch_add(1, SeqCst);
            std::sync::atomic::fence(SeqCst);
            if !shared.has_work() && !shared.quit.load(Acquire) {
                std::thread::park_timeout(Duration::from_millis(200));
            }
            shared.sleepers.fetch_sub(1, SeqCst);
            idle_since = None;
        }
    }
}

/// Distinct (package, core) pairs of the machine, from Linux's topology files; no more than the processors that this
/// process may use.
fn physical_cores() -> Option<usize> {
    let usable = std::thread::available_parallelism().ok()?.get();
    let mut cores = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let topology = entry.path().join("topology");
        let read = |name| std::fs::read_to_string(topology.join(name)).ok();
        if let (Some(package), Some(core)) = (read("physical_package_id"), read("core_id")) {
            cores.insert((package, core));
        }
    }
    (!cores.is_empty()).then_some(cores.len().min(usable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_runs_once() {
        for threads in [1, 2, 3, 5] {
            let team = Team::new(threads);
            for blocks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..blocks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    team.run(blocks, |i| {
                        counts[i].fetch_add(1, Relaxed);
                    });
                }
                assert!(counts.iter().all(|c| c.load(Relaxed) == 50));
            }
        }
    }

    /// One block goes on until all are done that its thread has not claimed together with it. So a loop comes to its
    /// end only if others take the rest of the slow thread's range, wherever in the range the slow block lies.
    #[test]
    fn others_take_the_blocks_of_a_slow_thread() {
        const THREADS: usize = 3;
        const RANGE: usize = 100;
        for slow in (0..THREADS)
            .flat_map(|thread| [thread * RANGE, thread * RANGE + RANGE / 2, (thread + 1) * RANGE - 1])
        {
            // A new team, as one that had to wait may rest.
            let team = Team::new(THREADS);
            let counts: Vec<AtomicUsize> = (0..THREADS * RANGE).map(|_| AtomicUsize::new(0)).collect();
            let (done, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let others = counts.len() - RANGE / SHARE as usize;
            // Far beyond what it takes, for a test that fails in place of one that hangs.
            let deadline = Instant::now() + Duration::from_secs(60);
            team.run(counts.len(), |i| {
                counts[i].fetch_add(1, Relaxed);
                if i == slow {
                    while done.load(Acquire) < others && Instant::now() < deadline {
                        std::thread::yield_now();
                    }
                    seen.store(done.load(Acquire), Relaxed);
                } else {
                    // Unequal among each other too.
                    (0..i % 7 * 1000).for_each(|_| std::hint::spin_loop());
                }
                done.fetch_add(1, AcqRel);
            });
            assert!(counts.iter().all(|count| count.load(Relaxed) == 1), "slow block {slow}");
            assert!(seen.into_inner() >= others, "slow block {slow}: the others waited for its thread");
        }
    }

    #[test]
    fn one_stall_is_forgiven_and_many_are_not() {
        let (mut owner, ms) = (Owner::default(), Duration::from_millis);
        let start = Instant::now();
        assert!(!owner.stalls_too_often(start, ms(40)), "the first of all");
        assert!(!owner.stalls_too_often(start + ms(240), ms(40)), "it had worked for 200 ms");
        assert!(owner.stalls_too_often(start + ms(283), ms(3)), "for 3 ms");
        assert_eq!(owner.rest_until, Some(start + ms(286 + 72)));
        // After the rest the neighbour is still there.
        owner.together = owner.rest_until.take();
        assert!(owner.stalls_too_often(start + ms(360), ms(3)));
        owner.together = owner.rest_until.take();
        assert!(!owner.stalls_too_often(start + ms(600), ms(3)), "gone");
    }

    #[test]
    fn a_panic_on_any_thread_is_passed_on_and_the_team_goes_on() {
        let caller = std::thread::current().id();
        for owners in [true, false] {
            // A new team, as one that had to wait may rest.
            let team = Team::new(3);
            let run = || {
                let deadline = Instant::now() + Duration::from_secs(60);
                let panicked = AtomicBool::new(false);
                team.run(60, |_| {
                    if (std::thread::current().id() == caller) == owners && !panicked.swap(true, AcqRel) {
                        panic!("as the test wants");
                    }
                    // Until the others have had a block.
                    while !panicked.load(Acquire) && Instant::now() < deadline {
                        std::thread::yield_now();
                    }
                });
            };
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "by the owner: {owners}");
            let sum = AtomicUsize::new(0);
            team.run(100, |i| {
                sum.fetch_add(i, Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn a_loop_within_a_loop_runs() {
        let team = Team::new(2);
        let sum = AtomicUsize::new(0);
        team.run(10, |_| {
            team.run(10, |i| {
                sum.fetch_add(i, Relaxed);
            });
        });
        assert_eq!(sum.load(Relaxed), 450);
    }

    #[test]
    fn helpers_wake_after_sleep() {
        let team = Team::new(2);
        for _ in 0..3 {
            std::thread::sleep(LINGER * 20);
            let sum = AtomicUsize::new(0);
            team.run(100, |i| {
                sum.fetch_add(i, Relaxed);
            });
            assert_eq!(sum.load(Relaxed), 4950);
        }
    }
}
