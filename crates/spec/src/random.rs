//! SplitMix64 (Steele, Lea and Flood 2014): numbers that look random and are a function of a key, for keyed noise,
//! for resampling and for made-up weights.

/// Odd, with no short pattern of bits: the golden ratio in 64 bits.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of numbers. Equal seeds give equal streams.
#[derive(Debug, Clone)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The stream of a seed; 0 is as good as any.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// The next number below `n`, each about equally often; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }
}

/// Stafford's 13th variant of the MurmurHash3 finaliser, as in SplitMix64: a bijection in which
/// every input bit flips about half of the output bits.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of the authors' program for the seed 1234567.
    #[test]
    fn the_stream_is_the_published_one() {
        let mut stream = SplitMix64::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([stream.bits(), stream.bits(), stream.bits()], expected);
    }

    #[test]
    fn numbers_stay_below() {
        let mut stream = SplitMix64::new(0);
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[stream.below(5)] += 1);
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
        assert_eq!(stream.below(0), 0);
    }
}
