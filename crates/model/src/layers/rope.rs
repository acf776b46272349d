//! Cosines and sines of positions, computed once for each.

use crate::config::Rotation;
use leveret_kernels::ops::rope_half;

/// The angles of one kind of rotation for positions `0..len`.
#[derive(Debug)]
pub(crate) struct RopeTable {
    frequencies: Vec<f32>,
    magnitude: f32,
    /// The position that values begin with.
    first: usize,
    /// `[positions][cosines, sines]`.
    values: Vec<f32>,
}

impl RopeTable {
    pub(crate) fn new(rotation: &Rotation) -> Self {
        let (frequencies, magnitude) = rotation.frequencies();
        Self { frequencies, magnitude, first: 0, values: Vec::new() }
    }

    /// Makes sure that positions below `positions` are there. Angles are `f32` products, as in the
    /// implementation that models are trained with.
    pub(crate) fn extend(&mut self, positions: usize) {
        let pairs = self.frequencies.len();
        let known = self.values.len() / (2 * pairs);
        if positions <= known {
            return;
        }
        self.values.reserve((positions - known) * 2 * pairs);
        self.add(known..positions);
    }

    /// Keeps `position` alone, for those who stand at one at a time.
    pub(crate) fn only(&mut self, position: usize) {
        self.first = position;
        self.values.clear();
        self.add(position..position + 1);
    }

    fn add(&mut self, positions: std::ops::Range<usize>) {
        for position in positions {
            let angles = self.frequencies.iter().map(|f| f64::from(position as f32 * f));
            let magnitude = self.magnitude;
            self.values.extend(angles.clone().map(|a| a.cos() as f32 * magnitude));
            self.values.extend(angles.map(|a| a.sin() as f32 * magnitude));
        }
    }

    /// Rotates each head of `heads` (`[heads][head_dim]`) to `position`.
    pub(crate) fn rotate(&self, heads: &mut [f32], head_dim: usize, position: usize) {
        let pairs = self.frequencies.len();
        let (cos, sin) = self.values[(position - self.first) * 2 * pairs..][..2 * pairs].split_at(pairs);
        for head in heads.chunks_exact_mut(head_dim) {
            rope_half(head, cos, sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;

    #[test]
    fn a_table_that_grows_holds_what_one_made_at_once_holds() {
        let rotation = Rotation { base: 1e4, dims: 8, interleaved: false, scaling: RopeScaling::None };
        let table = |steps: &[usize]| {
            let mut table = RopeTable::new(&rotation);
            steps.iter().for_each(|&positions| table.extend(positions));
            table.values
        };
        assert_eq!(table(&[1, 2, 7, 3, 20]), table(&[20]));
        // No more than what was reached: a text in a long context begins at once.
        assert_eq!(table(&[3]).len(), 3 * 8);
    }
}
