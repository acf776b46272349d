//! What a pass costs: its time by the number of its rows, and by the length of the text before.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Time of one forward pass by its number of rows, in any one unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Points", into = "Points")]
pub struct CostCurve {
    /// Entry `m - 1` is the time of `m` rows. Positive, not falling, at least one entry.
    times: Vec<f64>,
    /// Tokens of text before the passes that were measured.
    context: usize,
    /// The same for a longer text, if it was measured.
    far: Option<(usize, Vec<f64>)>,
}

/// A curve as it is written down: (rows, time) for one context or two.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Points {
    context: usize,
    points: Vec<(usize, f64)>,
    far_context: Option<usize>,
    #[serde(default)]
    far_points: Vec<(usize, f64)>,
}

impl CostCurve {
    /// A curve through measured points `(rows, time)`, straight between them, level before the
    /// first, and going on at the steepest average slope after the last. A point above a later
    /// one was disturbed, which only ever takes longer, and is lowered to it.
    ///
    /// # Errors
    /// When there is no point, rows are not increasing from 1 on, or a time is not positive and
    /// finite.
    pub fn new(points: &[(usize, f64)]) -> Result<Self> {
        Ok(Self { times: through(points)?, context: 0, far: None })
    }

    /// A curve measured after two lengths of text; between and beyond them times change in
    /// proportion to the length, but do not fall.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when `far` is not the longer text.
    pub fn by_context(near: (usize, &[(usize, f64)]), far: (usize, &[(usize, f64)])) -> Result<Self> {
        if far.0 <= near.0 {
            return Err(Error::params(format!(
                "cost curve: a context of {} tokens after one of {}; expected a longer one",
                far.0, near.0
            )));
        }
        Ok(Self { times: through(near.1)?, context: near.0, far: Some((far.0, through(far.1)?)) })
    }

    /// Time of a pass over `rows` rows that follow `context` tokens.
    pub fn time(&self, rows: usize, context: usize) -> f64 {
        let near = after(&self.times, rows);
        let Some((far_context, far)) = &self.far else { return near };
        let share = (context as f64 - self.context as f64) / (far_context - self.context) as f64;
        near + (after(far, rows) - near).max(0.0) * share.max(0.0)
    }

    /// What `rows` rows cost more than one.
    pub(crate) fn extra(&self, rows: usize, context: usize) -> Extra {
        let one = self.time(1, context);
        let time = |rows| self.time(rows, context) / one;
        Extra { measured: time(rows) - 1.0, bared: bared(rows, time) }
    }
}

/// What rows cost more than one, in times of one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Extra {
    /// On the curve.
    pub measured: f64,
    /// What they cost besides any multiple of that on a machine with the same arithmetic and a memory that is
    /// [`FASTER`] times as fast. Where memory is slow the first rows are free, and no factor on nothing makes
    /// something of it when it is fast again.
    pub bared: f64,
}

const FASTER: f64 = 1.5;
/// Enough rows for their arithmetic to be seen on any machine.
const SEEN: (usize, usize) = (8, 16);

/// See [`Extra::bared`]. `time` is the curve in times of one row. At 16 rows, which hide nothing, a factor on the curve
/// says all.
fn bared(rows: usize, time: impl Fn(usize) -> f64) -> f64 {
    let most = time(SEEN.1) - 1.0;
    let factor = if most > 0.0 { faster(SEEN.1, &time) / most } else { 0.0 };
    (faster(rows, &time) - factor * (time(rows) - 1.0)).max(0.0)
}

/// What rows cost more than one were memory faster. A pass takes what memory or what arithmetic takes, whichever is
/// longer (the roofline model; Williams, Waterman and Patterson 2009), rounded off where they are alike: the 4-norm
/// of the two. Arithmetic that hides behind memory is taken to be on the line of that which does not.
fn faster(rows: usize, time: &impl Fn(usize) -> f64) -> f64 {
    // What is left to hide of rows that are measured as free: more would be seen.
    const HIDDEN: f64 = 0.85;
    const HIDDEN_OF_ONE: (f64, f64) = (0.1, 0.6);
    let norm = |a: f64, b: f64| (a.powi(4) + b.powi(4)).sqrt().sqrt();
    let line = |rows: usize| {
        let slope = (time(SEEN.1) - time(SEEN.0)) / (SEEN.1 - SEEN.0) as f64;
        time(SEEN.0) + slope * (rows as f64 - SEEN.0 as f64)
    };
    let one = line(1).clamp(HIDDEN_OF_ONE.0, HIDDEN_OF_ONE.1);
    let arithmetic = match rows {
        0 | 1 => one,
        _ => {
            let beside_memory = ((time(rows) * norm(1.0, one)).powi(4) - 1.0).max(0.0).sqrt().sqrt();
            beside_memory.max(line(rows).min(HIDDEN))
        }
    };
    let memory = 1.0 / FASTER;
    norm(memory, arithmetic) / norm(memory, one) - 1.0
}

/// The time of each number of rows up to the last that was measured.
fn through(points: &[(usize, f64)]) -> Result<Vec<f64>> {
    let mut times: Vec<f64> = Vec::new();
    for (i, &(rows, time)) in points.iter().enumerate() {
        if rows <= times.len() || rows > 4096 {
            return Err(Error::params(format!(
                "cost curve: {rows} rows after {}; expected increasing rows from 1 to 4096",
                times.len()
            )));
        }
        if !(time.is_finite() && time > 0.0) {
            return Err(Error::params(format!(
                "cost curve: time {time} of {rows} rows; expected a positive number"
            )));
        }
        let known = times.len();
        let to = points[i..].iter().map(|&(_, time)| time).filter(|&time| time > 0.0).fold(time, f64::min);
        let from = times.last().copied().unwrap_or(to);
        let steps = (rows - known) as f64;
        times.extend((known + 1..=rows).map(|m| from + (to - from) * (m - known) as f64 / steps));
    }
    if times.is_empty() {
        return Err(Error::params("cost curve: no points; expected at least one"));
    }
    Ok(times)
}

fn after(times: &[f64], rows: usize) -> f64 {
    let last = times.len();
    if let Some(time) = times.get(rows.max(1) - 1) {
        return *time;
    }
    // Beyond what was measured, arithmetic decides: never cheaper than the mean slope so far.
    let slope = match last {
        1 => times[0],
        _ => (times[last - 1] - times[0]) / (last - 1) as f64,
    };
    times[last - 1] + slope * (rows - last) as f64
}

impl Default for CostCurve {
    /// What to assume before anything is measured: each row more costs an eighth of a pass, a
    /// little more than kernels made for verification take on the machines known to us.
    fn default() -> Self {
        Self { times: (0..64).map(|extra| 1.0 + 0.125 * extra as f64).collect(), context: 0, far: None }
    }
}

impl TryFrom<Points> for CostCurve {
    type Error = Error;

    fn try_from(points: Points) -> Result<Self> {
        let near = (points.context, &points.points[..]);
        match points.far_context {
            Some(far) => Self::by_context(near, (far, &points.far_points)),
            None => Ok(Self { context: points.context, ..Self::new(near.1)? }),
        }
    }
}

impl From<CostCurve> for Points {
    fn from(curve: CostCurve) -> Self {
        let list = |times: &[f64]| (1..).zip(times.iter().copied()).collect();
        let (far_context, far) = curve.far.unzip();
        Self {
            context: curve.context,
            points: list(&curve.times),
            far_context,
            far_points: far.map_or_else(Vec::new, |far| list(&far)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curve_interpolates_and_never_falls() {
        let curve = CostCurve::new(&[(1, 10.0), (4, 13.0), (8, 12.0)]).unwrap();
        assert_eq!(
            [1, 2, 4, 6, 8, 15].map(|m| curve.time(m, 9)),
            [10.0, 10.0 + 2.0 / 3.0, 12.0, 12.0, 12.0, 14.0]
        );
        for bad in [&[][..], &[(0, 1.0)], &[(1, 1.0), (1, 1.0)], &[(1, f64::NAN)], &[(1, -1.0)]] {
            assert!(CostCurve::new(bad).is_err(), "{bad:?}");
        }
    }

    /// Three rows are free and others are not: arithmetic takes 0.2 a row, and were memory faster, more would be seen.
    #[test]
    fn a_faster_memory_bares_what_rows_cost() {
        let time = |memory: f64, rows: usize| memory.max(0.4 + 0.2 * rows as f64);
        let points: Vec<(usize, f64)> = (1..33).map(|rows| (rows, time(1.0, rows))).collect();
        let curve = CostCurve::new(&points).unwrap();
        let fast = |rows: usize| time(1.0 / FASTER, rows) * FASTER - 1.0;
        let factor = fast(16) / curve.extra(16, 0).measured;
        for rows in [1, 2, 3, 5, 8, 16, 32] {
            let Extra { measured, bared } = curve.extra(rows, 0);
            let found = factor * measured + bared;
            assert!(
                ((1.0 + found) / (1.0 + fast(rows)) - 1.0).abs() < 0.2,
                "{rows}: {found}, {}",
                fast(rows)
            );
        }
        let free = curve.extra(3, 0);
        assert!(free.measured == 0.0 && free.bared > 0.2, "{free:?}");
    }

    /// Where nothing hides, or nothing is seen, there is little or nothing to bare.
    #[test]
    fn nothing_is_bared_of_a_straight_curve() {
        for slope in [0.0, 1e-5, 0.125, 0.5, 1.0] {
            let points: Vec<(usize, f64)> =
                (1..33).map(|rows| (rows, 1.0 + slope * (rows - 1) as f64)).collect();
            let curve = CostCurve::new(&points).unwrap();
            for rows in [1, 2, 4, 8, 16, 32] {
                let Extra { measured, bared } = curve.extra(rows, 0);
                assert!(bared < 0.25 * (1.0 + measured), "slope {slope}, {rows} rows: {bared}");
            }
        }
    }

    #[test]
    fn longer_texts_cost_more_in_proportion() {
        let near = [(1, 10.0), (2, 11.0)];
        let curve = CostCurve::by_context((100, &near), (1100, &[(1, 15.0), (2, 21.0)])).unwrap();
        assert_eq!([0, 100, 600, 2100].map(|context| curve.time(2, context)), [11.0, 11.0, 16.0, 31.0]);
        assert!((curve.extra(2, 1100).measured - 0.4).abs() < 1e-12);
        assert!(CostCurve::by_context((100, &near), (100, &near)).is_err());
        let text = serde_json::to_string(&curve).unwrap();
        assert_eq!(serde_json::from_str::<CostCurve>(&text).unwrap(), curve);
        assert!(serde_json::from_str::<CostCurve>(&text.replace("15.0", "-15.0")).is_err());
    }
}
