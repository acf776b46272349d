//! How far to guess: the price rule that cuts a draft to the rows that pay for themselves.
//!
//! Long-run speed is tokens over seconds. With `lambda` the speed reached lately, a round gains by
//! a row iff its chance of acceptance is more than `lambda` times the time that it adds (a
//! renewal-reward argument; Dinkelbach 1967). Time here is what the cost curve says, in times of a
//! pass of one row; the clock may correct the curve's slope.

use crate::clock::Clock;
use crate::draft::Draft;
use crate::drafter::Worth;
use crate::error::{Error, Result};

/// Time of one forward pass by its number of rows, in any one unit.
#[derive(Debug, Clone, PartialEq)]
pub struct CostCurve {
    /// Entry `m - 1` is the time of `m` rows. Positive, not falling, at least one entry.
    times: Vec<f64>,
}

impl CostCurve {
    /// A curve through measured points `(rows, time)`, straight between them, level before the
    /// first, and going on at the steepest average slope after the last. A point below an earlier
    /// one is noise and is raised to it.
    ///
    /// # Errors
    /// When there is no point, rows are not increasing from 1 on, or a time is not positive and
    /// finite.
    pub fn new(points: &[(usize, f64)]) -> Result<Self> {
        let mut times: Vec<f64> = Vec::new();
        for &(rows, time) in points {
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
            let from = times.last().copied().unwrap_or(time);
            let to = time.max(from);
            let steps = (rows - known) as f64;
            times.extend((known + 1..=rows).map(|m| from + (to - from) * (m - known) as f64 / steps));
        }
        if times.is_empty() {
            return Err(Error::params("cost curve: no points; expected at least one"));
        }
        Ok(Self { times })
    }

    /// Time of a pass over `rows` rows.
    pub fn time(&self, rows: usize) -> f64 {
        let last = self.times.len();
        if let Some(time) = self.times.get(rows.max(1) - 1) {
            return *time;
        }
        // Beyond what was measured, arithmetic decides: never cheaper than the mean slope so far.
        let slope = match last {
            1 => self.times[0],
            _ => (self.times[last - 1] - self.times[0]) / (last - 1) as f64,
        };
        self.times[last - 1] + slope * (rows - last) as f64
    }
}

impl Default for CostCurve {
    /// What to assume before anything is measured: each row more costs an eighth of a pass, a
    /// little more than kernels made for verification take on the machines known to us.
    fn default() -> Self {
        Self { times: (0..64).map(|extra| 1.0 + 0.125 * extra as f64).collect() }
    }
}

/// Decides how much of a draft is worth verifying.
#[derive(Debug, Clone)]
pub struct Price {
    curve: CostCurve,
    clock: Clock,
    tokens: f64,
    time: f64,
    order: Vec<usize>,
    chosen: Vec<bool>,
}

/// Rounds over which speed is remembered. Long against a burst of luck, short against a change
/// of what is being written.
const MEMORY: f64 = 32.0;

impl Price {
    /// Starts from the speed of plain decoding.
    pub fn new(curve: CostCurve) -> Self {
        let (clock, order, chosen) = Default::default();
        Self { curve, clock, tokens: MEMORY, time: MEMORY, order, chosen }
    }

    /// Tokens per time of a one-row pass reached lately; never less than plain decoding's 1.
    pub fn lambda(&self) -> f64 {
        (self.tokens / self.time).max(1.0)
    }

    /// Time of a pass over `rows` rows, in times of a pass of one.
    pub fn cost(&self, rows: usize) -> f64 {
        1.0 + self.clock.stretch() * self.extra(rows)
    }

    /// What time is worth to a drafter now.
    pub fn worth(&self) -> Worth {
        // The mean over the first few rows: single steps of a measured curve are uneven.
        const ROWS: usize = 8;
        let row = (self.cost(1 + ROWS) - self.cost(1)) / ROWS as f64;
        Worth { lambda: self.lambda(), row, pass_seconds: self.clock.level() }
    }

    /// What the curve alone says that `rows` rows cost more than one.
    fn extra(&self, rows: usize) -> f64 {
        self.curve.time(rows) / self.curve.time(1) - 1.0
    }

    /// Takes note that a pass of `rows` rows committed `tokens` tokens.
    pub fn record(&mut self, rows: usize, tokens: usize) {
        self.tokens += tokens as f64 - self.tokens / MEMORY;
        self.time += self.cost(rows) - self.time / MEMORY;
    }

    /// Takes note that a pass of `rows` rows took `seconds`, and corrects the slope of the curve.
    /// Without such notes what is drafted follows from text and curve alone.
    pub fn time(&mut self, rows: usize, seconds: f64) {
        self.clock.record(self.extra(rows), seconds);
    }

    /// Keeps the nodes of `draft` that earn the most at the present price, possibly none. `base`
    /// is the number of rows that the pass has anyway.
    ///
    /// For each size the best nodes are those of the greatest chance, and since a node is never
    /// more likely than its parent they form a tree. So one walk down that order finds the best
    /// size, for a cost curve of any shape.
    ///
    /// What was drawn must not be looked at by the decision whether to verify it,
    /// so a draft of draws stays as it is: its drafter has paid attention to the price.
    pub fn trim(&mut self, draft: &mut Draft, base: usize) {
        if draft.has_draws() {
            return;
        }
        let nodes = draft.nodes();
        self.order.clear();
        self.order.extend(0..nodes.len());
        // Of equals, the earlier: a parent comes before its child.
        self.order.sort_unstable_by(|&a, &b| nodes[b].chance.total_cmp(&nodes[a].chance).then(a.cmp(&b)));

        let lambda = self.lambda();
        let stretch = self.clock.stretch();
        let idle = self.extra(base);
        let (mut hope, mut best, mut size) = (0.0, 0.0, 0);
        for (i, &node) in self.order.iter().enumerate() {
            hope += f64::from(nodes[node].chance);
            let gain = hope - lambda * stretch * (self.extra(base + i + 1) - idle);
            if gain > best {
                (best, size) = (gain, i + 1);
            }
        }
        self.chosen.clear();
        self.chosen.resize(nodes.len(), false);
        for &node in &self.order[..size] {
            self.chosen[node] = true;
        }
        draft.retain(|i, _| self.chosen[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(chances: &[f32]) -> Draft {
        let mut draft = Draft::new();
        let mut parent = None;
        for (i, &chance) in chances.iter().enumerate() {
            parent = draft.push(i as u32, parent, chance);
        }
        draft
    }

    #[test]
    fn curve_interpolates_and_never_falls() {
        let curve = CostCurve::new(&[(1, 10.0), (4, 13.0), (8, 12.0)]).unwrap();
        assert_eq!([1, 2, 4, 6, 8, 15].map(|m| curve.time(m)), [10.0, 11.0, 13.0, 13.0, 13.0, 16.0]);
        for bad in [&[][..], &[(0, 1.0)], &[(1, 1.0), (1, 1.0)], &[(1, f64::NAN)], &[(1, -1.0)]] {
            assert!(CostCurve::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_row_must_be_worth_its_time() {
        let mut price = Price::new(CostCurve::new(&[(1, 1.0), (17, 5.0)]).unwrap());
        let mut draft = chain(&[0.9, 0.5, 0.26, 0.24, 0.1]);
        price.trim(&mut draft, 1);
        assert_eq!(draft.len(), 3);
        let mut poor = chain(&[0.2, 0.2]);
        price.trim(&mut poor, 1);
        assert!(poor.is_empty());
    }

    #[test]
    fn a_step_of_the_curve_is_climbed_when_what_lies_behind_pays() {
        let mut price = Price::new(CostCurve::new(&[(1, 1.0), (2, 2.0), (8, 2.0)]).unwrap());
        let mut draft = chain(&[0.9; 7]);
        price.trim(&mut draft, 1);
        assert_eq!(draft.len(), 7);
    }

    #[test]
    fn the_clock_corrects_the_curve() {
        let mut price = Price::new(CostCurve::default());
        for i in 0..100 {
            let rows = 1 + i % 9;
            price.time(rows, 0.07 * (1.0 + 0.4 * (rows - 1) as f64));
        }
        assert!((price.cost(9) - 4.2).abs() < 0.3, "{}", price.cost(9));
        let mut draft = chain(&[0.9, 0.5, 0.3]);
        price.trim(&mut draft, 1);
        assert_eq!(draft.len(), 2);
    }

    #[test]
    fn price_rises_with_speed() {
        let mut price = Price::new(CostCurve::default());
        assert_eq!(price.lambda(), 1.0);
        for _ in 0..200 {
            price.record(5, 5);
        }
        assert!((price.lambda() - 5.0 / 1.5).abs() < 0.1);
    }
}
