//! What a drafter's own estimates are worth, learned as text goes by: the odds that a guess comes
//! true are a power of the odds that its drafter gives, times a factor for its depth (after the
//! online estimator of vLLM's adaptive verification).
//!
//! Every guess whose predecessors came true teaches, verified or not: the text tells.

use crate::draft::{Draft, Node};
use crate::odds::{Learning, Weight};

/// Depths that are told apart; the last stands for all deeper ones.
const DEPTHS: usize = 8;
/// What is expected of a drafter before it is known: that it is a little too sure of itself.
const SLOPE: f32 = 0.9;
const INTERCEPT: f32 = -0.1;
const LEARNING: Learning = Learning { least: 0.002, keep: 0.998, worth: 16.0 };

/// One model for each source of guesses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Estimator {
    sources: Vec<Source>,
}

/// log odds = slope * (the drafter's log odds) + intercept of the depth.
#[derive(Debug, Clone)]
struct Source {
    slope: Weight,
    intercepts: [Weight; DEPTHS],
}

impl Default for Source {
    fn default() -> Self {
        Self { slope: Weight::new(SLOPE), intercepts: [Weight::new(INTERCEPT); DEPTHS] }
    }
}

impl Source {
    fn chance(&self, depth: usize, score: f32) -> f32 {
        LEARNING.chance(self.slope.value * score + self.intercepts[class(depth)].value)
    }

    fn learn(&mut self, depth: usize, score: f32, came_true: bool) {
        let chance = self.chance(depth, score);
        let error = f32::from(came_true) - chance;
        let spread = chance * (1.0 - chance);
        self.slope.learn(&LEARNING, score, error, spread);
        self.intercepts[class(depth)].learn(&LEARNING, 1.0, error, spread);
    }
}

impl Estimator {
    /// Replaces the drafter's chances in `draft` by what they have been worth.
    pub(crate) fn rescore(&self, draft: &mut Draft) {
        let unknown = Source::default();
        draft.rescore(|node, given| {
            let source = self.sources.get(source(node)).unwrap_or(&unknown);
            source.chance(node.depth, LEARNING.log_odds(given))
        });
    }

    /// Learns from the tokens that came after the text that `draft` was offered for. `draft` has
    /// the drafter's own chances. `from` is the node that the text has reached already and
    /// nothing below it is known yet; the result is where it stands now, `None` if it has left the
    /// draft.
    pub(crate) fn learn(&mut self, draft: &Draft, from: Reached, tokens: &[u32]) -> Option<Reached> {
        let nodes = draft.nodes();
        let mut at = from;
        for &token in tokens {
            let mut next = None;
            let first = at.map_or(0, |node| node + 1);
            for (i, node) in nodes.iter().enumerate().skip(first) {
                if node.parent != at {
                    continue;
                }
                let above = at.map_or(1.0, |p| nodes[p].chance);
                let score = LEARNING.log_odds(if above > 0.0 { node.chance / above } else { 0.0 });
                let came_true = node.token == token;
                let index = source(node);
                if self.sources.len() <= index {
                    self.sources.resize_with(index + 1, Source::default);
                }
                self.sources[index].learn(node.depth, score, came_true);
                if came_true {
                    next = Some(i);
                }
            }
            at = Some(next?);
        }
        Some(at)
    }
}

/// A node of a draft that the text has reached; `None` for its root.
pub(crate) type Reached = Option<usize>;

fn source(node: &Node) -> usize {
    usize::from(node.origin)
}

fn class(depth: usize) -> usize {
    depth.clamp(1, DEPTHS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mix;

    fn chain(given: f32) -> Draft {
        let mut draft = Draft::new();
        let (mut parent, mut chance) = (None, 1.0);
        for token in 0..3 {
            chance *= given;
            parent = draft.push(token, parent, chance);
        }
        draft
    }

    fn estimate(estimator: &Estimator, given: f32, depth: usize) -> f32 {
        let mut draft = chain(given);
        estimator.rescore(&mut draft);
        let above = if depth > 1 { draft.nodes()[depth - 2].chance } else { 1.0 };
        draft.nodes()[depth - 1].chance / above
    }

    #[test]
    fn believes_a_drafter_until_it_is_wrong() {
        let mut estimator = Estimator::default();
        for given in [0.2, 0.5, 0.9] {
            assert!((estimate(&estimator, given, 1) - given).abs() < 0.05);
        }
        // Says 0.9 and is right one time in two at depth 1, nine times in ten below.
        for i in 0..2000 {
            let right = |depth: u64, share| mix(i * 8 + depth) % 100 < share;
            let tokens = [if right(0, 50) { 0 } else { 7 }, if right(1, 90) { 1 } else { 7 }];
            estimator.learn(&chain(0.9), None, &tokens);
        }
        let found = [1, 2].map(|depth| estimate(&estimator, 0.9, depth));
        assert!((found[0] - 0.5).abs() < 0.15 && (found[1] - 0.9).abs() < 0.07, "{found:?}");
    }

    #[test]
    fn finds_that_a_drafter_is_too_sure_of_itself() {
        let mut estimator = Estimator::default();
        for i in 0..6000 {
            let given = [0.05, 0.3, 0.7, 0.95][i as usize % 4];
            // In truth the odds are the square root of what it says.
            let odds = (given / (1.0f32 - given)).sqrt();
            let right = (mix(i) % 1000) as f32 / 1000.0 < odds / (1.0 + odds);
            estimator.learn(&chain(given), None, &[if right { 0 } else { 7 }]);
        }
        for given in [0.05f32, 0.3, 0.7, 0.95] {
            let odds = (given / (1.0 - given)).sqrt();
            let found = estimate(&estimator, given, 1);
            assert!((found - odds / (1.0 + odds)).abs() < 0.08, "{given}: {found}");
        }
    }

    #[test]
    fn follows_the_text_through_a_draft() {
        let mut estimator = Estimator::default();
        let draft = chain(0.5);
        assert_eq!(estimator.learn(&draft, None, &[0]), Some(Some(0)));
        assert_eq!(estimator.learn(&draft, Some(0), &[1, 2]), Some(Some(2)));
        assert_eq!(estimator.learn(&draft, Some(2), &[5]), None);
        assert_eq!(estimator.learn(&draft, None, &[0, 5]), None);
    }
}
