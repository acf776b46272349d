//! How steep the cost curve really is: a running fit of measured passes, since a neighbour on the
//! machine, a long context or a curve from elsewhere make a row dearer or cheaper than assumed.

/// Least squares, with fading memory, of seconds over what the curve says a pass costs more than
/// one row. Only the ratio of slope to level is used, so the curve's unit does not matter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    /// Faded sums over passes: of 1, x, y, x², xy.
    sums: [f64; 5],
}

/// What a pass keeps of its weight with each newer one.
const KEEP: f64 = 0.97;
/// Spread of x, summed over passes, at which measurements count as much as the curve: about that
/// of one pass of 1 row and one of 7.
const TRUST: f64 = 0.3;
/// Bounds of the correction.
const RANGE: (f64, f64) = (0.2, 5.0);

impl Clock {
    /// Takes note of a pass. `extra` is its time on the curve beyond one row's, in times of one row.
    pub(crate) fn record(&mut self, extra: f64, seconds: f64) {
        if seconds.is_nan() || seconds <= 0.0 {
            return;
        }
        let mut y = seconds;
        if let Some((level, slope)) = self.fit() {
            // The machine was busy elsewhere: believe it only so far.
            y = y.min(2.0 * (level + slope * extra));
            // No pass is faster than one of one row by chance: what was seen before was not normal.
            if y < 0.5 * level {
                self.sums = [0.0; 5];
            }
        }
        let new = [1.0, extra, y, extra * extra, extra * y];
        for (sum, new) in self.sums.iter_mut().zip(new) {
            *sum = *sum * KEEP + new;
        }
    }

    /// Factor on the curve's rise beyond one row. Goes back to 1 as measurements fade.
    pub(crate) fn stretch(&self) -> f64 {
        self.fit().map_or(1.0, |(level, slope)| (slope / level).clamp(RANGE.0, RANGE.1))
    }

    /// Seconds of a pass of one row; 0 before anything was measured.
    pub(crate) fn level(&self) -> f64 {
        self.fit().map_or(0.0, |(level, _)| level)
    }

    /// Whether enough passes were seen for the level to say something.
    pub(crate) fn knows(&self) -> bool {
        const ENOUGH: f64 = 12.0;
        self.sums[0] >= ENOUGH
    }

    /// (level, slope) in seconds; `None` before there is anything to fit.
    fn fit(&self) -> Option<(f64, f64)> {
        let [n, x, y, _, xy] = self.sums;
        if n < 1.0 {
            return None;
        }
        // Where the curve is right, slope and level are the same.
        let expected = y / (n + x);
        let slope = (xy - x * y / n + TRUST * expected) / (self.spread() + TRUST);
        let level = (y - slope * x) / n;
        Some(if level > 0.0 { (level, slope) } else { (expected, expected) })
    }

    /// Sum over passes of the squared distance of x from its mean.
    fn spread(&self) -> f64 {
        let [n, x, _, xx, _] = self.sums;
        (xx - x * x / n.max(1.0)).max(0.0)
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
