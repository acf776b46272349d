//! How steep the cost curve really is: a running fit of measured passes, since a neighbour on the
//! machine, memory that is faster or slower than it was, a long context or a curve from elsewhere make a row dearer or
//! cheaper than assumed.
//!
//! Rows also cost in the passes after them: wide arithmetic slows a processor's clock for some milliseconds, so that
//! where passes are short a pass of one row takes up to a tenth longer just after a wide one.

use super::cost::Extra;
use super::shape::Shape;

/// Least squares, with fading memory, of the seconds of passes over what the curve says that they, and those before
/// them, cost more than one row, and over what they would cost besides were memory faster. Only ratios to the level are
/// used, so the curve's unit does not matter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// Faded sums over passes of the products of any two of: 1, what the curve says of the pass, what a faster memory
    /// bares of it, what passes before it have left to it, its seconds.
    sums: [[f64; 5]; 5],
    /// What the passes so far leave to the next one.
    wake: f64,
    /// What follows from the sums; `None` before there is anything to fit.
    fit: Option<Fit>,
    /// What the fit misses.
    shape: Shape,
}

/// Seconds of a pass: `level + slope * measured + bared * bared + after * wake`.
#[derive(Debug, Clone, Copy)]
struct Fit {
    level: f64,
    slope: f64,
    bared: f64,
    after: f64,
}

/// What a pass keeps of its weight with each newer one.
const KEEP: f64 = 0.97;
/// For each of slope, bared and after: the spread of what it is a factor of, summed over passes, at which
/// measurements count as much as the curve, which says that the first is the level and the others are nothing. For
/// the first it is about that of one pass of 1 row and one of 5.
const TRUST: [f64; 3] = [0.1, 0.1, 0.3];
/// What a pass leaves to the next one of its own and of what it was left.
const LINGER: f64 = 0.6;
/// Bounds of the correction.
const RANGE: (f64, f64) = (0.2, 5.0);

impl Clock {
    /// Takes note of a pass of `rows` rows. `extra` is its time on the curve beyond one row's.
    pub(crate) fn record(&mut self, extra: Extra, rows: usize, seconds: f64) {
        if seconds.is_nan() || seconds <= 0.0 {
            return;
        }
        let (wake, mut seconds) = (self.wake, seconds);
        self.wake = LINGER * (wake + extra.measured);
        if let Some(fit) = self.fit {
            let (expected, missed) = (fit.seconds(extra, wake), self.shape.rest(rows));
            // The machine was busy elsewhere: believe it only so far.
            seconds = seconds.min(2.0 * expected);
            self.shape.learn(rows, (seconds - expected) / fit.level);
            // No pass is faster than one of one row by chance: what was seen before was not normal.
            if seconds < 0.5 * fit.level {
                self.sums = Default::default();
            }
            // The fit is for the rest; and no time is mostly shape.
            seconds = (seconds - missed * fit.level).max(0.3 * seconds);
        }
        let new = [1.0, extra.measured, extra.bared, wake, seconds];
        for (row, a) in self.sums.iter_mut().zip(new) {
            for (sum, b) in row.iter_mut().zip(new) {
                *sum = *sum * KEEP + a * b;
            }
        }
        self.fit = self.solve();
    }

    /// What a pass of `rows` rows costs beyond one of one row, in times of it, where the curve says `extra`. Goes back
    /// to the curve as measurements fade.
    pub(crate) fn extra(&self, extra: Extra, rows: usize) -> f64 {
        let Some(Fit { level, slope, bared, after }) = self.fit else { return extra.measured };
        let stretch = (slope + after * LINGER / (1.0 - LINGER)) / level;
        let fitted =
            stretch.clamp(RANGE.0, RANGE.1) * extra.measured + (bared / level).min(RANGE.1) * extra.bared;
        (fitted + self.shape.rest(rows)).max(0.0)
    }

    /// Seconds of a pass of one row; 0 before anything was measured.
    pub(crate) fn level(&self) -> f64 {
        self.fit.map_or(0.0, |fit| fit.level)
    }

    /// Whether enough passes were seen for the level to say something.
    pub(crate) fn knows(&self) -> bool {
        const ENOUGH: f64 = 12.0;
        self.sums[0][0] >= ENOUGH
    }

    /// The least squares of which nothing that cannot be negative is so.
    fn solve(&self) -> Option<Fit> {
        let [n, measured, _, _, seconds] = self.sums[0];
        if n < 1.0 {
            return None;
        }
        // Where the curve is right, slope and level are the same.
        let expected = seconds / (n + measured);
        let spread = |a: usize, b: usize| self.sums[a][b] - self.sums[0][a] * self.sums[0][b] / n;
        let mut left = [true; 3];
        let factors = loop {
            // Equations of the factors that are left; the others are 0.
            let row = |i: usize| {
                let of = |j: usize| if left[i] && left[j] { spread(i + 1, j + 1) } else { 0.0 };
                let mut row = [of(0), of(1), of(2), if left[i] { spread(i + 1, 4) } else { 0.0 }];
                row[i] += TRUST[i];
                row
            };
            let mut equations = [row(0), row(1), row(2)];
            equations[0][3] += TRUST[0] * expected;
            let factors = solved(equations);
            match (1..3).filter(|&i| factors[i] < 0.0).min_by(|&a, &b| factors[a].total_cmp(&factors[b])) {
                Some(worst) => left[worst] = false,
                None => break factors,
            }
        };
        let rows: f64 = (0..3).map(|i| self.sums[0][i + 1] * factors[i]).sum();
        let level = (seconds - rows) / n;
        let [slope, bared, after] = factors;
        let curve = Fit { level: expected, slope: expected, bared: 0.0, after: 0.0 };
        Some(if level > 0.0 { Fit { level, slope, bared, after } } else { curve })
    }
}

/// Solution of three equations, the last column being what they are equal to. Squares and something more on the
/// diagonal make them positive definite, so that no row needs to be exchanged.
fn solved(mut equations: [[f64; 4]; 3]) -> [f64; 3] {
    for pivot in 0..3 {
        let row = equations[pivot].map(|x| x / equations[pivot][pivot]);
        for (i, other) in equations.iter_mut().enumerate() {
            let times = other[pivot];
            *other = if i == pivot { row } else { [0, 1, 2, 3].map(|j| other[j] - times * row[j]) };
        }
    }
    equations.map(|row| row[3])
}

impl Fit {
    fn seconds(&self, extra: Extra, wake: f64) -> f64 {
        self.level + self.slope * extra.measured + self.bared * extra.bared + self.after * wake
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::CostCurve;

    /// Passes of 1 to 16 rows on a curve that rises by an eighth a row; `seconds` is the machine.
    fn run(clock: &mut Clock, passes: u64, seconds: impl Fn(u64, f64) -> f64) {
        for i in 0..passes {
            let rows = 1 + crate::testing::mix(i) as usize % 16;
            let extra = straight(rows);
            clock.record(extra, rows, seconds(i, extra.measured));
        }
    }

    /// On that curve, of a machine on which nothing hides behind memory.
    fn straight(rows: usize) -> Extra {
        Extra { measured: (rows - 1) as f64 / 8.0, bared: 0.0 }
    }

    /// Factor on a curve's rise.
    fn stretch(clock: &Clock) -> f64 {
        clock.extra(straight(9), 9)
    }

    #[test]
    fn finds_the_slope_in_any_unit() {
        for (level, slope) in [(1.0, 1.0), (0.02, 0.06), (300.0, 100.0)] {
            let mut clock = Clock::default();
            assert_eq!(stretch(&clock), 1.0);
            run(&mut clock, 100, |_, x| level + slope * x);
            assert!((stretch(&clock) / (slope / level) - 1.0).abs() < 0.15, "{}", stretch(&clock));
        }
    }

    /// Wide passes that make those after them slower cost that too, and do not make one row look dear.
    #[test]
    fn what_wide_passes_leave_behind_counts() {
        let (mut clock, mut wake) = (Clock::default(), 0.0);
        for i in 0..200 {
            let rows = if crate::testing::mix(i).is_multiple_of(4) { 9 } else { 1 };
            let extra = straight(rows);
            clock.record(extra, rows, 3.0 + 1.5 * extra.measured + 0.5 * wake);
            wake = LINGER * (wake + extra.measured);
        }
        assert!((clock.level() / 3.0 - 1.0).abs() < 0.03, "{}", clock.level());
        let all = (1.5 + 0.5 * LINGER / (1.0 - LINGER)) / 3.0;
        assert!((stretch(&clock) / all - 1.0).abs() < 0.1, "{} for {all}", stretch(&clock));
    }

    /// A curve of slow memory, on which four rows are free, and passes on the same machine with memory 1.4 times as
    /// fast; then the other way round.
    #[test]
    fn follows_memory_that_changes_its_speed() {
        let time = |memory: f64, rows: usize| f64::max(memory, 6.0 + 5.0 * rows as f64);
        let points = |memory| (1..33).map(|rows| (rows, time(memory, rows))).collect::<Vec<_>>();
        for (then, now) in [(31.0, 22.0), (22.0, 31.0)] {
            let curve = CostCurve::new(&points(then)).unwrap();
            let mut clock = Clock::default();
            for i in 0..100 {
                let rows = 1 + crate::testing::mix(i) as usize % 6;
                clock.record(curve.extra(rows, 0), rows, time(now, rows));
            }
            assert!((clock.level() / now - 1.0).abs() < 0.05, "{}", clock.level());
            for rows in 2..9 {
                let (found, truth) = (clock.extra(curve.extra(rows, 0), rows), time(now, rows) / now - 1.0);
                assert!(
                    ((1.0 + found) / (1.0 + truth) - 1.0).abs() < 0.2,
                    "{rows} rows: {found} for {truth}"
                );
            }
        }
    }

    #[test]
    fn a_slow_start_and_hiccups_do_little() {
        let mut clock = Clock::default();
        run(&mut clock, 60, |i, x| (1.0 + 0.5 * x) * if i == 0 || i % 13 == 5 { 9.0 } else { 1.0 });
        assert!((0.3..0.8).contains(&stretch(&clock)), "{}", stretch(&clock));
    }

    #[test]
    fn passes_of_one_size_say_nothing_of_the_slope() {
        let mut clock = Clock::default();
        for rows in [1, 17] {
            (0..50).for_each(|_| clock.record(straight(rows), rows, 3.0));
            assert!(rows > 1 || (stretch(&clock) - 1.0).abs() < 1e-6, "{}", stretch(&clock));
        }
        // Two sizes that take the same time: rows are free.
        assert!(stretch(&clock) < 0.3, "{}", stretch(&clock));
        (0..300).for_each(|_| clock.record(straight(1), 1, 3.0));
        assert!(stretch(&clock) > 0.9, "what is not measured any more is forgotten");
    }
}
