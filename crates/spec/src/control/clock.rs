//! How steep the cost curve really is: a running fit of measured passes, since a neighbour on the
//! machine, a long context or a curve from elsewhere make a row dearer or cheaper than assumed.
//!
//! Rows also cost in the passes after them: wide arithmetic slows a processor's clock for some milliseconds, so that
//! where passes are short a pass of one row takes up to a tenth longer just after a wide one.

/// Least squares, with fading memory, of the seconds of passes over what the curve says that they, and those before
/// them, cost more than one row. Only ratios to the level are used, so the curve's unit does not matter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// Faded sums over passes of the products of any two of: 1, what the curve says of the pass, what those before it
    /// have left to it, its seconds.
    sums: [[f64; 4]; 4],
    /// What the passes so far leave to the next one.
    wake: f64,
}

/// Seconds of a pass: `level + slope * extra + after * wake`.
#[derive(Debug, Clone, Copy)]
struct Fit {
    level: f64,
    slope: f64,
    after: f64,
}

/// What a pass keeps of its weight with each newer one.
const KEEP: f64 = 0.97;
/// Spread of what the curve says, summed over passes, at which measurements count as much as the curve: about that
/// of one pass of 1 row and one of 7.
const TRUST: f64 = 0.3;
/// The same of what passes leave behind, of which the curve says that it costs nothing.
const TRUST_AFTER: f64 = 0.3;
/// What a pass leaves to the next one of its own and of what it was left.
const LINGER: f64 = 0.6;
/// Bounds of the correction.
const RANGE: (f64, f64) = (0.2, 5.0);

impl Clock {
    /// Takes note of a pass. `extra` is its time on the curve beyond one row's, in times of one row.
    pub(crate) fn record(&mut self, extra: f64, seconds: f64) {
        if seconds.is_nan() || seconds <= 0.0 {
            return;
        }
        let (wake, mut seconds) = (self.wake, seconds);
        self.wake = LINGER * (wake + extra);
        if let Some(fit) = self.fit() {
            // The machine was busy elsewhere: believe it only so far.
            seconds = seconds.min(2.0 * (fit.level + fit.slope * extra + fit.after * wake));
            // No pass is faster than one of one row by chance: what was seen before was not normal.
            if seconds < 0.5 * fit.level {
                self.sums = Default::default();
            }
        }
        let new = [1.0, extra, wake, seconds];
        for (row, a) in self.sums.iter_mut().zip(new) {
            for (sum, b) in row.iter_mut().zip(new) {
                *sum = *sum * KEEP + a * b;
            }
        }
    }

    /// Factor on the curve's rise beyond one row. Goes back to 1 as measurements fade.
    pub(crate) fn stretch(&self) -> f64 {
        let all = |fit: Fit| (fit.slope + fit.after * LINGER / (1.0 - LINGER)) / fit.level;
        self.fit().map_or(1.0, |fit| all(fit).clamp(RANGE.0, RANGE.1))
    }

    /// Seconds of a pass of one row; 0 before anything was measured.
    pub(crate) fn level(&self) -> f64 {
        self.fit().map_or(0.0, |fit| fit.level)
    }

    /// Whether enough passes were seen for the level to say something.
    pub(crate) fn knows(&self) -> bool {
        const ENOUGH: f64 = 12.0;
        self.sums[0][0] >= ENOUGH
    }

    /// `None` before there is anything to fit.
    fn fit(&self) -> Option<Fit> {
        let [n, x, z, y] = self.sums[0];
        if n < 1.0 {
            return None;
        }
        // Where the curve is right, slope and level are the same.
        let expected = y / (n + x);
        let spread = |a: usize, b: usize| self.sums[a][b] - self.sums[0][a] * self.sums[0][b] / n;
        let (xx, zz, xz) = (spread(1, 1) + TRUST, spread(2, 2) + TRUST_AFTER, spread(1, 2));
        let (xy, zy) = (spread(1, 3) + TRUST * expected, spread(2, 3));
        let after = ((xx * zy - xz * xy) / (xx * zz - xz * xz)).max(0.0);
        let slope = (xy - xz * after) / xx;
        let level = (y - slope * x - after * z) / n;
        let curve = Fit { level: expected, slope: expected, after: 0.0 };
        Some(if level > 0.0 { Fit { level, slope, after } } else { curve })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes of 1 to 16 rows on a curve that rises by an eighth a row; `seconds` is the machine.
    fn run(clock: &mut Clock, passes: u64, seconds: impl Fn(u64, f64) -> f64) {
        for i in 0..passes {
            let extra = (crate::testing::mix(i) % 16) as f64 / 8.0;
            clock.record(extra, seconds(i, extra));
        }
    }

    #[test]
    fn finds_the_slope_in_any_unit() {
        for (level, slope) in [(1.0, 1.0), (0.02, 0.06), (300.0, 100.0)] {
            let mut clock = Clock::default();
            assert_eq!(clock.stretch(), 1.0);
            run(&mut clock, 100, |_, x| level + slope * x);
            assert!((clock.stretch() / (slope / level) - 1.0).abs() < 0.15, "{}", clock.stretch());
        }
    }

    /// Wide passes that make those after them slower cost that too, and do not make one row look dear.
    #[test]
    fn what_wide_passes_leave_behind_counts() {
        let (mut clock, mut wake) = (Clock::default(), 0.0);
        for i in 0..200 {
            let extra = if crate::testing::mix(i).is_multiple_of(4) { 1.0 } else { 0.0 };
            clock.record(extra, 3.0 + 1.5 * extra + 0.5 * wake);
            wake = LINGER * (wake + extra);
        }
        assert!((clock.level() / 3.0 - 1.0).abs() < 0.03, "{}", clock.level());
        let all = (1.5 + 0.5 * LINGER / (1.0 - LINGER)) / 3.0;
        assert!((clock.stretch() / all - 1.0).abs() < 0.1, "{} for {all}", clock.stretch());
    }

    #[test]
    fn a_slow_start_and_hiccups_do_little() {
        let mut clock = Clock::default();
        run(&mut clock, 60, |i, x| (1.0 + 0.5 * x) * if i == 0 || i % 13 == 5 { 9.0 } else { 1.0 });
        assert!((0.3..0.8).contains(&clock.stretch()), "{}", clock.stretch());
    }

    #[test]
    fn passes_of_one_size_say_nothing_of_the_slope() {
        let mut clock = Clock::default();
        for extra in [0.0, 2.0] {
            (0..50).for_each(|_| clock.record(extra, 3.0));
            assert!(extra > 0.0 || (clock.stretch() - 1.0).abs() < 1e-6, "{}", clock.stretch());
        }
        // Two sizes that take the same time: rows are free.
        assert!(clock.stretch() < 0.3, "{}", clock.stretch());
        (0..300).for_each(|_| clock.record(0.0, 3.0));
        assert!(clock.stretch() > 0.9, "what is not measured any more is forgotten");
    }
}
