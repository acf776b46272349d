//! The rows of a pass as the session lays them out, and as drafters see them afterwards.

use leveret_model::drafters::Features;
use leveret_model::{LogitRows, Tap, Target};

use crate::drafter::{PassRows, Probe};

/// The rows of one pass: `base` rows that must be processed, then the draft's nodes, then probes.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) tokens: Vec<u32>,
    /// Empty for a chain.
    pub(super) parents: Vec<Option<usize>>,
    pub(super) base: usize,
    pub(super) logits: LogitRows,
    pub(super) probes: Vec<Probe>,
}

/// The rows of the pass that the target has just run.
pub(super) struct LastPass<'a, T> {
    pub(super) target: &'a T,
    pub(super) plan: &'a Plan,
    pub(super) taps: &'a [Tap],
}

impl<T: Target> Features for LastPass<'_, T> {
    fn feature(&self, tap: Tap, row: usize) -> &[f32] {
        let index = self.taps.iter().position(|t| *t == tap);
        index.map_or(&[], |index| self.target.feature(index, row))
    }
}

impl<T: Target> PassRows for LastPass<'_, T> {
    fn tokens(&self) -> &[u32] {
        &self.plan.tokens
    }

    fn logits(&self, row: usize) -> Option<&[f32]> {
        let rows = self.plan.tokens.len();
        match self.plan.logits {
            LogitRows::All if row < rows => Some(self.target.logits(row)),
            LogitRows::Last if row + 1 == rows => Some(self.target.logits(0)),
            _ => None,
        }
    }

    fn probes(&self) -> &[Probe] {
        &self.plan.probes
    }
}
