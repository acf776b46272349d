//! How far to guess: the rules that choose a part of what was offered.

use std::fmt;
use std::str::FromStr;

use crate::draft::Node;

/// How it is decided how much of a draft is verified. The text form is that of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Control {
    /// What its chance of acceptance is worth must pay for a row: speed is tokens over seconds, and a row that gains
    /// more of the one than the other costs at the going rate raises it (a renewal-reward argument; Dinkelbach 1967).
    /// Stretches of a text differ in what can be guessed, and each has to be written in any case, so the going rate is
    /// that of the round itself. Where guesses have lost of late, none are made but for rare probes.
    #[default]
    Price,
    /// As many rows as this in every round, if so many are offered.
    Fixed(usize),
    /// As deep as every token has at least this chance, given what precedes it.
    PMin(f32),
    /// The same, without a pause where guesses have lost.
    Ratio,
}

impl FromStr for Control {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || "expected price, ratio, fixed:N (such as fixed:4) or pmin:P (such as pmin:0.6)".into();
        match text.split_once(':') {
            None if text == "price" => Ok(Self::Price),
            None if text == "ratio" => Ok(Self::Ratio),
            Some(("fixed", rows)) => rows.parse().map(Self::Fixed).map_err(|_| expected()),
            Some(("pmin", least)) => match least.parse() {
                Ok(least) if (0.0..=1.0).contains(&least) => Ok(Self::PMin(least)),
                _ => Err(expected()),
            },
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Price => f.write_str("price"),
            Self::Fixed(rows) => write!(f, "fixed:{rows}"),
            Self::PMin(least) => write!(f, "pmin:{least}"),
            Self::Ratio => f.write_str("ratio"),
        }
    }
}

impl Control {
    /// How many of the likeliest nodes to keep, given their chances in falling order. `cost(n)` is the time of a pass
    /// with `n` nodes in one-row passes.
    ///
    /// For each size the best nodes are those of the greatest chance, and since a node is never
    /// more likely than its parent they form a tree. So one walk down that order finds the best
    /// size, for a cost of any shape.
    pub(super) fn size(
        self,
        chances: impl ExactSizeIterator<Item = f32>,
        cost: impl Fn(usize) -> f64,
    ) -> usize {
        let all = chances.len();
        match self {
            Self::Fixed(rows) => return rows.min(all),
            Self::PMin(_) => return all,
            Self::Price | Self::Ratio => {}
        }
        let (mut hope, mut best, mut size) = (0.0, 1.0 / cost(0), 0);
        for (i, chance) in chances.enumerate() {
            hope += f64::from(chance);
            let speed = (1.0 + hope) / cost(i + 1);
            if speed > best {
                (best, size) = (speed, i + 1);
            }
        }
        size
    }

    /// Whether a node may stay for its own sake; `above` is the chance of what precedes it.
    pub(super) fn allows(self, node: &Node, above: f32) -> bool {
        match self {
            Self::PMin(least) => node.chance >= least * above,
            _ => true,
        }
    }

    /// Whether it goes on alike whatever guesses cost and gain.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::Fixed(_) | Self::PMin(_))
    }

    /// Whether the rule looks at costs, and so at chances that are right on average.
    pub(super) fn counts_costs(self) -> bool {
        matches!(self, Self::Price | Self::Ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["price", "ratio", "fixed:4", "fixed:0", "pmin:0.6"] {
            assert_eq!(name.parse::<Control>().unwrap().to_string(), name);
        }
        for name in ["", "fixed", "fixed:x", "pmin:2", "price:1", "pmin:nan"] {
            assert!(name.parse::<Control>().unwrap_err().contains("pmin:P"), "{name}");
        }
    }

    #[test]
    fn each_rule_has_its_size() {
        let chances = [0.9f32, 0.5, 0.26, 0.24, 0.1];
        let size = |control: Control| control.size(chances.iter().copied(), |n| 1.0 + 0.25 * n as f64);
        let two = [Control::Price, Control::Ratio].map(size);
        assert_eq!(two, [2, 2], "2.4 / 1.5 beats 1.9 / 1.25 and 2.66 / 1.75");
        assert_eq!((size(Control::Fixed(4)), size(Control::Fixed(9))), (4, 5));
    }

    #[test]
    fn a_step_of_the_cost_is_climbed_when_what_lies_behind_pays() {
        let chances: Vec<f32> = (1..8).map(|depth| 0.9f32.powi(depth)).collect();
        let size = Control::Price.size(chances.into_iter(), |n| if n == 0 { 1.0 } else { 2.0 });
        assert_eq!(size, 7);
    }
}
