//! Codes of the 32-element blocks: a scale (and minimum) in front, then the codes.
//!
//! | type | bytes |
//! |---|---|
//! | Q4_0, IQ4_NL | `d: f16`, 16 nibble bytes |
//! | Q4_1 | `d: f16`, `m: f16`, 16 nibble bytes |
//! | Q5_0 | `d: f16`, `high: u32`, 16 nibble bytes |
//! | Q5_1 | `d: f16`, `m: f16`, `high: u32`, 16 nibble bytes |
//! | Q8_0 | `d: f16`, 32 signed bytes |
//! | MXFP4 | `e: u8`, 16 nibble bytes |
//!
//! Nibble byte `j` holds element `j` in its low half and element `j + 16` in its high half; bit
//! `i` of `high` is the fifth bit of element `i`.

/// Splits 16 bytes into 32 four-bit codes.
pub(super) fn nibbles(packed: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(16);
    for ((&byte, low), high) in packed.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// Splits a word of fifth bits and 16 nibble bytes into 32 five-bit codes.
pub(super) fn five_bits(packed: &[u8], codes: &mut [u8]) {
    nibbles(&packed[4..], codes);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (packed[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// Shifts 32 signed bytes to unsigned codes with zero at 128.
pub(super) fn bytes(packed: &[u8], codes: &mut [u8]) {
    for (&byte, code) in packed.iter().zip(codes) {
        *code = byte ^ 0x80;
    }
}
