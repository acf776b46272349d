//! Element types of weights as the files store them: names, block sizes, byte counts.

/// Storage type of a weight tensor. Block formats follow the GGUF specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum ElementType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

impl ElementType {
    /// Every supported type.
    pub const ALL: [ElementType; 16] = {
        use ElementType::*;
        [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs, Mxfp4]
    };

    /// The name that GGUF tools print, e.g. `Q4_K`.
    pub const fn name(self) -> &'static str {
        use ElementType::*;
        match self {
            F32 => "F32",
            F16 => "F16",
            BF16 => "BF16",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q2K => "Q2_K",
            Q3K => "Q3_K",
            Q4K => "Q4_K",
            Q5K => "Q5_K",
            Q6K => "Q6_K",
            Iq4Nl => "IQ4_NL",
            Iq4Xs => "IQ4_XS",
            Mxfp4 => "MXFP4",
        }
    }

    /// Elements that one stored block covers.
    pub const fn block_len(self) -> usize {
        use ElementType::*;
        match self {
            F32 | F16 | BF16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Iq4Nl | Mxfp4 => 32,
            Q2K | Q3K | Q4K | Q5K | Q6K | Iq4Xs => 256,
        }
    }

    /// Bytes of one stored block.
    pub const fn block_bytes(self) -> usize {
        use ElementType::*;
        match self {
            F32 => 4,
            F16 | BF16 => 2,
            Q4_0 | Iq4Nl => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q2K => 84,
            Q3K => 110,
            Q4K => 144,
            Q5K => 176,
            Q6K => 210,
            Iq4Xs => 136,
            Mxfp4 => 17,
        }
    }

    /// Bytes of a row of `k` elements; `None` where `k` is no multiple of the block or the count overflows.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_len()) {
            return None;
        }
        (k / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether the type is stored as quantised blocks.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}
