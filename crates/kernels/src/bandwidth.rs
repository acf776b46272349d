//! How fast this machine streams memory: the limit that decoding is measured against.

use crate::isa::simd_fn;
use crate::memory::Pages;
use crate::rows::Shared;
use crate::team::Team;
use std::time::Instant;

/// More than any cache holds.
const BYTES: usize = 1 << 30;
/// As much as a block of a matrix product reads.
const BLOCK: usize = 64 * 1024;

/// A gibibyte to read again and again.
///
/// What a machine streams differs from one second to the next, so it is measured in turns with what it limits.
#[derive(Debug)]
pub struct MemoryStream {
    pages: Pages,
}

impl MemoryStream {
    /// `None` when the memory is refused.
    pub fn new(team: &Team) -> Option<Self> {
        let mut pages = Pages::zeroed(BYTES)?;
        let words = Shared::new(pages.bytes_mut());
        // Untouched pages are all one page of zeros, which no memory bus would see.
        team.run(BYTES / BLOCK, |block| {
            // SAFETY: blocks do not overlap and each is visited once.
            unsafe { words.part(block * BLOCK, BLOCK) }.fill(1);
        });
        Some(Self { pages })
    }

    /// Bytes a second that the team reads now, in one pass with the access pattern of a matrix product.
    pub fn bytes_per_second(&self, team: &Team) -> f64 {
        let bytes = self.pages.bytes();
        let start = Instant::now();
        team.run(BYTES / BLOCK, |block| {
            std::hint::black_box(read(&bytes[block * BLOCK..][..BLOCK]));
        });
        BYTES as f64 / start.elapsed().as_secs_f64()
    }
}

simd_fn! {
    /// Reads all of `bytes` (a whole number of kibibytes); the result only keeps the reads alive.
    fn read<S>(bytes: &[u8]) -> f32 {
        let step = 4 * S::LANES;
        let mut p = bytes.as_ptr();
        // SAFETY: four vectors are at most 256 bytes, of which `bytes` holds a whole number; a prefetch may point
        // anywhere.
        unsafe {
            let mut sums = [S::splat(0.0); 4];
            let ask = !crate::isa::reads_ahead();
            for _ in 0..bytes.len() / (4 * step) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    if ask {
                        S::prefetch::<2>(p.wrapping_add(2048 + i * step));
                    }
                    *sum = S::max(*sum, S::load(p.add(i * step).cast()));
                }
                p = p.add(4 * step);
            }
            S::max_lane(S::max(S::max(sums[0], sums[1]), S::max(sums[2], sums[3])))
        }
    }
}
