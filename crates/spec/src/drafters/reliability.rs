//! How far a network's own probabilities can be believed: what came true against what it said, by
//! depth and by rank among the guesses behind one node, learned as text goes by.

/// Depths that are told apart; deeper ones count as the last.
const DEPTHS: usize = 8;
/// Ranks that are told apart: the first guess and all others.
const RANKS: usize = 2;
/// Expected hits that the network's own word is worth.
const TRUST: f32 = 3.0;
/// What an observation keeps of its weight with each newer one of its class.
const KEEP: f32 = 0.98;
/// No guess is certain.
const CEILING: f32 = 0.99;

/// Running ratios, one for each class.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reliability {
    /// (came true, expected), faded.
    seen: [[(f32, f32); RANKS]; DEPTHS],
}

impl Reliability {
    /// The chance that a guess comes true for which the network says `own`, given that the nodes
    /// before it do. `depth` and `rank` count from 0.
    pub(crate) fn chance(&self, depth: usize, rank: usize, own: f32) -> f32 {
        let (hits, expected) = self.seen[depth.min(DEPTHS - 1)][rank.min(RANKS - 1)];
        (own * (hits + TRUST) / (expected + TRUST)).clamp(0.0, CEILING)
    }

    /// Takes note of one such guess.
    pub(crate) fn record(&mut self, depth: usize, rank: usize, own: f32, came_true: bool) {
        let (hits, expected) = &mut self.seen[depth.min(DEPTHS - 1)][rank.min(RANKS - 1)];
        *hits = *hits * KEEP + f32::from(came_true);
        *expected = *expected * KEEP + own;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn believes_what_comes_true() {
        let mut reliability = Reliability::default();
        assert_eq!(reliability.chance(0, 0, 0.5), 0.5);
        for i in 0..200 {
            reliability.record(0, 0, 0.4, i % 10 < 8);
            reliability.record(3, 1, 0.4, i % 10 == 0);
        }
        assert!((reliability.chance(0, 0, 0.4) - 0.8).abs() < 0.08);
        assert!((reliability.chance(3, 2, 0.4) - 0.1).abs() < 0.06);
        assert_eq!(reliability.chance(1, 0, 0.4), 0.4);
        assert!(reliability.chance(0, 0, 0.9) <= CEILING);
    }
}
