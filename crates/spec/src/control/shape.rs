//! Where the cost curve has another shape than passes: what each number of rows takes besides what
//! [`clock`](super::clock) makes of the curve. A curve that was measured in two seconds, while something else ran for
//! some of them, has steps where there are none and none where there are.

/// Faded means of what passes of each number of rows took beyond what was expected, in times of one row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// By rows: weight and weighted sum.
    seen: Vec<(f64, f64)>,
}

/// Most rows that are told apart.
const MOST: usize = 32;
/// What a pass keeps of its weight with each newer one of any number of rows.
const KEEP: f64 = 0.99;
/// Passes of nothing unexpected that are taken to have been seen.
const TRUST: f64 = 2.0;

impl Shape {
    /// Takes note that a pass of `rows` rows took `rest` beyond what was expected without this.
    pub(crate) fn learn(&mut self, rows: usize, rest: f64) {
        self.seen.resize(MOST + 1, (0.0, 0.0));
        for (weight, sum) in &mut self.seen {
            *weight *= KEEP;
            *sum *= KEEP;
        }
        // One row is what all are measured by.
        if (2..=MOST).contains(&rows) {
            self.seen[rows].0 += 1.0;
            self.seen[rows].1 += rest;
        }
    }

    /// What a pass of `rows` rows takes besides. Other numbers of rows say something too, the less the further off
    /// they are: 8 of 9 half as much as 9, 4 of 5 a quarter.
    pub(crate) fn rest(&self, rows: usize) -> f64 {
        if rows < 2 {
            return 0.0;
        }
        let like = |other: usize| (rows.min(other) as f64 / rows.max(other) as f64).powi(6);
        let seen = self.seen.iter().enumerate().filter(|(_, (weight, _))| *weight > 1e-3);
        let add = |(weight, sum), (other, (w, s)): (usize, &(f64, f64))| {
            (weight + like(other) * w, sum + like(other) * s)
        };
        let (weight, sum) = seen.fold((TRUST, 0.0), add);
        sum / weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_steps_and_forgets_them() {
        let mut shape = Shape::default();
        let step = |rows| if (5..9).contains(&rows) { 0.4 } else { 0.0 };
        for i in 0..300 {
            let rows = 1 + crate::testing::mix(i) as usize % 12;
            shape.learn(rows, step(rows));
        }
        assert_eq!(shape.rest(1), 0.0);
        for rows in [2, 3, 6, 7, 12] {
            assert!((shape.rest(rows) - step(rows)).abs() < 0.15, "{rows}: {}", shape.rest(rows));
        }
        assert!(shape.rest(40).abs() < 0.05, "far from all that was seen");
        (0..600).for_each(|_| shape.learn(1, 0.0));
        assert!(shape.rest(6) < 0.05, "{}", shape.rest(6));
    }
}
