//! How steep the cost curve really is: a running fit of measured passes, since a neighbour on the
//! machine, a long context or a curve from elsewhere make a row dearer or cheaper than assumed.
//!
//! Rows also cost in the passes after them: wide arithmetic slows a processor's clock for some milliseconds, so that
//! where passes are short a pass of one row takes up to a tenth longer just after a wide one.

/// Least squares, with fading memory, of seconds over what the curve says a pass costs more than
/// one row, and over the same of the passes before. Only ratios to the level are used, so the curve's unit does not
/// matter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    sums: Sums,
    /// What the passes so far leave to the next one.
    wake: f64,
}

/// Faded sums over passes of products of: 1, x of the pass itself, z of those before it, y its seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    n: f64,
    x: f64,
    z: f64,
    y: f64,
    xx: f64,
    xz: f64,
    zz: f64,
    xy: f64,
    zy: f64,
}

/// Seconds of a pass: `level + slope * x + after * z`.
#[derive(Debug, Clone, Copy)]
struct Fit {
    level: f64,
    slope: f64,
    after: f64,
}

/// What a pass keeps of its weight with each newer one.
const KEEP: f64 = 0.97;
/// Spread of x, summed over passes, at which measurements count as much as the curve: about that
/// of one pass of 1 row and one of 7.
const TRUST: f64 = 0.3;
/// The same of z, about which the curve says that it costs nothing.
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
        let (x, z, mut y) = (extra, self.wake, seconds);
        self.wake = LINGER * (z + x);
        if let Some(fit) = self.fit() {
            // The machine was busy elsewhere: believe it only so far.
            y = y.min(2.0 * (fit.level + fit.slope * x + fit.after * z));
            // No pass is faster than one of one row by chance: what was seen before was not normal.
            if y < 0.5 * fit.level {
                self.sums = Sums::default();
            }
        }
        self.sums.add(x, z, y);
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
        self.sums.n >= ENOUGH
    }

    /// `None` before there is anything to fit.
    fn fit(&self) -> Option<Fit> {
        let Sums { n, x, z, y, xx, xz, zz, xy, zy } = self.sums;
        if n < 1.0 {
            return None;
        }
        // Where the curve is right, slope and level are the same.
        let expected = y / (n + x);
        let covariance = |ab: f64, a: f64, b: f64| ab - a * b / n;
        let (xx, zz, xz) = (covariance(xx, x, x) + TRUST, covariance(zz, z, z) + TRUST_AFTER, covariance(xz, x, z));
        let (xy, zy) = (covariance(xy, x, y) + TRUST * expected, covariance(zy, z, y));
        let after = ((xx * zy - xz * xy) / (xx * zz - xz * xz)).max(0.0);
        let slope = (xy - xz * after) / xx;
        let level = (y - slope * x - after * z) / n;
        Some(if level > 0.0 {
            Fit { level, slope, after }
        } else {
            Fit { level: expected, slope: expected, after: 0.0 }
        })
    }
}

impl Sums {
    fn add(&mut self, x: f64, z: f64, y: f64) {
        let new = Self { n: 1.0, x, z, y, xx: x * x, xz: x * z, zz: z * z, xy: x * y, zy: z * y };
        let keep = |old: f64, new: f64| old * KEEP + new;
        *self = Self {
            n: keep(self.n, new.n),
            x: keep(self.x, new.x),
            z: keep(self.z, new.z),
            y: keep(self.y, new.y),
            xx: keep(self.xx, new.xx),
            xz: keep(self.xz, new.xz),
            zz: keep(self.zz, new.zz),
            xy: keep(self.xy, new.xy),
            zy: keep(self.zy, new.zy),
        };
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
            let extra = if crate::testing::mix(i) % 4 == 0 { 1.0 } else { 0.0 };
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
