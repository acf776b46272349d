//! Measures the cost curve of a target on this machine, in the time that is given.

use std::time::{Duration, Instant};

use leveret_model::{Cache, LogitRows, Pass, Target};

use super::CostCurve;
use crate::error::Result;

/// Sizes of passes that are timed, those first that say most. One row is what all others are compared with.
const ROWS: [usize; 13] = [1, 8, 4, 16, 2, 12, 32, 6, 1, 3, 10, 5, 14];
/// Wider passes are timed in the first turn alone: they take most of the time and vary little.
const WIDE: usize = 16;
/// Tokens of text before the first passes.
const NEAR: usize = 16;
/// Tokens of text that are worth a second curve.
const FAR: usize = 512;
/// Rows that are read at a time to get there.
const CHUNK: usize = 128;
/// Least share of the time for the second curve.
const FAR_SHARE: f64 = 0.5;

/// The time of passes over some rows of `target`, in seconds, from as many measurements as fit into
/// `budget`: at least one of each of the first few sizes. A second curve, for longer texts, is
/// measured where the target is fast enough.
///
/// The least of several times counts: whatever disturbs a pass makes it longer. And a time is no longer than that on a
/// line between those of fewer and more rows: a pass takes what memory or what arithmetic takes, so that each row costs
/// at least what the one before it did. Kernels have steps, but a curve that is too low for one is soon corrected, as
/// passes of that size are made; one that is too high keeps them from being made.
///
/// # Errors
/// A pass that the target refuses, or no memory for its cache.
pub fn measure<T: Target>(target: &mut T, budget: Duration) -> Result<CostCurve> {
    let start = Instant::now();
    let room = target.max_context().min(FAR + 3 * CHUNK);
    let mut bench = Bench { cache: target.new_cache(room)?, vocab: target.vocab_size(), room };
    bench.read(target, NEAR.min(room / 2))?;
    // The first pass of a size warms up; its time does not count.
    bench.pass(target, 1)?;
    let near_context = bench.cache.len();
    let mut near = Vec::new();
    bench.times(target, &mut near, start, budget.mul_f64(1.0 - FAR_SHARE))?;

    // Reading on costs about as much for each row as a wide pass.
    let row = near.last().map_or(f64::MAX, |&(rows, seconds)| seconds / rows as f64);
    let left = budget.saturating_sub(start.elapsed()).as_secs_f64();
    let sum: f64 = near.iter().map(|&(_, seconds)| seconds).sum();
    if near_context + FAR <= room && row * FAR as f64 + 2.0 * sum < left {
        bench.read(target, near_context + FAR)?;
        let far_context = bench.cache.len();
        let mut far = Vec::new();
        bench.times(target, &mut far, start, budget)?;
        return CostCurve::by_context((near_context, &below(&near)), (far_context, &below(&far)));
    }
    bench.times(target, &mut near, start, budget)?;
    CostCurve::new(&below(&near))
}

/// The corners of the lower convex hull of times by ascending rows.
fn below(times: &[(usize, f64)]) -> Vec<(usize, f64)> {
    let slope = |a: (usize, f64), b: (usize, f64)| (b.1 - a.1) / (b.0 - a.0) as f64;
    let mut hull: Vec<(usize, f64)> = Vec::new();
    for &point in times {
        while let [.., a, b] = hull[..] {
            if slope(a, b) < slope(b, point) {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

struct Bench<C> {
    cache: C,
    vocab: usize,
    room: usize,
}

impl<C: Cache> Bench<C> {
    /// Reads tokens until the text has `len`.
    fn read<T: Target<Cache = C>>(&mut self, target: &mut T, len: usize) -> Result<()> {
        while self.cache.len() < len {
            let rows = CHUNK.min(len - self.cache.len());
            self.forward(target, rows, LogitRows::None)?;
            self.cache.commit(&(0..rows).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Seconds of a pass that leaves the text as it is.
    fn pass<T: Target<Cache = C>>(&mut self, target: &mut T, rows: usize) -> Result<f64> {
        let start = Instant::now();
        self.forward(target, rows, LogitRows::All)?;
        let seconds = start.elapsed().as_secs_f64();
        self.cache.commit(&[])?;
        Ok(seconds)
    }

    fn forward<T: Target<Cache = C>>(
        &mut self,
        target: &mut T,
        rows: usize,
        logits: LogitRows,
    ) -> Result<()> {
        // Any tokens do; spread over the vocabulary, so that experts are chosen as in a text.
        let at = self.cache.len() as u64;
        let token = |i: u64| ((at + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % self.vocab as u64;
        let tokens: Vec<u32> = (0..rows as u64).map(|i| token(i) as u32).collect();
        let pass = Pass { cache: &mut self.cache, tokens: &tokens, parents: None, logits };
        Ok(target.forward(&mut [pass], &[])?)
    }

    /// Brings `best`, least seconds by ascending rows, further until the time is up or it has been
    /// around often enough; all sizes in turn, so that a disturbance hits all alike.
    fn times<T: Target<Cache = C>>(
        &mut self,
        target: &mut T,
        best: &mut Vec<(usize, f64)>,
        start: Instant,
        until: Duration,
    ) -> Result<()> {
        const LEAST_SIZES: usize = 4;
        const MOST_TURNS: usize = 8;
        for turn in 0..MOST_TURNS {
            for rows in ROWS {
                if self.cache.len() + rows > self.room || (turn > 0 && rows > WIDE) {
                    continue;
                }
                if start.elapsed() >= until && best.len() >= LEAST_SIZES {
                    return Ok(());
                }
                let seconds = self.pass(target, rows)?.max(1e-9);
                match best.binary_search_by_key(&rows, |&(rows, _)| rows) {
                    Ok(at) => best[at].1 = best[at].1.min(seconds),
                    Err(at) => best.insert(at, (rows, seconds)),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::HashTarget;

    #[test]
    fn a_disturbed_time_is_lowered() {
        let times = [(1, 10.0), (2, 19.0), (3, 10.5), (4, 11.0), (6, 17.0), (8, 16.0), (16, 40.0)];
        let curve = CostCurve::new(&below(&times)).unwrap();
        assert_eq!(
            [1, 2, 3, 4, 6, 8, 16].map(|m| curve.time(m, 0)),
            [10.0, 10.25, 10.5, 11.0, 13.5, 16.0, 40.0]
        );
        assert_eq!(below(&[(1, 2.0), (4, 1.0)]), [(1, 2.0), (4, 1.0)]);
        assert!(below(&[]).is_empty());
    }

    #[test]
    fn measures_whatever_there_is_room_for() {
        for context in [2, 20, 60, 4000] {
            let mut target = HashTarget::new(30, 1.0, context);
            let curve = measure(&mut target, Duration::from_millis(200)).unwrap();
            assert!(curve.time(1, 0) > 0.0);
            // The second curve is behind a long text.
            assert_eq!(target.passes.contains(&CHUNK), context == 4000, "{context}");
        }
        // Without time, the sizes that say most.
        let mut target = HashTarget::new(30, 1.0, 4000);
        measure(&mut target, Duration::ZERO).unwrap();
        assert_eq!(target.passes[2..], [1, 8, 4, 16]);
    }
}
