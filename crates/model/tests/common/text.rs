//! A text with what drafters read of it.

use leveret_model::drafters::{Committed, Features, Guesser, Network};
use leveret_model::{LogitRows, Model, Pass, Tap, Target};
use std::sync::Arc;

/// A text and its features.
pub(crate) struct Text {
    pub(crate) tokens: Vec<u32>,
    taps: Vec<Tap>,
    values: Vec<Vec<Vec<f32>>>,
}

impl Features for Text {
    fn feature(&self, tap: Tap, row: usize) -> &[f32] {
        &self.values[self.taps.iter().position(|&t| t == tap).unwrap()][row]
    }
}

impl Text {
    pub(crate) fn new(model: &mut Model, len: usize, taps: &[Tap]) -> Self {
        let vocab = model.vocab_size() as u32;
        Self::of(model, (0..len as u32).map(|i| (i * 53 + 7) % vocab).collect(), taps)
    }

    pub(crate) fn of(model: &mut Model, tokens: Vec<u32>, taps: &[Tap]) -> Self {
        let len = tokens.len();
        let mut cache = model.new_cache(len).unwrap();
        let pass = Pass { cache: &mut cache, tokens: &tokens, parents: None, logits: LogitRows::None };
        model.forward(&mut [pass], taps).unwrap();
        let rows = |tap| (0..len).map(|row| model.feature(tap, row).to_vec()).collect();
        Self { values: (0..taps.len()).map(rows).collect(), taps: taps.to_vec(), tokens }
    }

    pub(crate) fn observe(
        &self,
        guesser: &mut dyn Guesser,
        first: usize,
        to: usize,
    ) -> leveret_model::Result<()> {
        let rows: Vec<usize> = (first..to).collect();
        guesser.observe(&Committed { tokens: &self.tokens, first, rows: &rows, features: self })
    }

    /// A guesser that has read the first `n` rows at once and begun.
    pub(crate) fn begun(&self, network: &Arc<dyn Network>, n: usize) -> Box<dyn Guesser> {
        let mut guesser = Arc::clone(network).guesser(self.tokens.len() + 20).unwrap();
        self.observe(&mut *guesser, 0, n).unwrap();
        guesser.begin(&self.tokens[..=n]).unwrap();
        guesser
    }
}
