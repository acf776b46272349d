//! Codes and scales of the 256-element super-blocks.
//!
//! | type | bytes |
//! |---|---|
//! | Q2_K | `scales[16]`, `qs[64]`, `d: f16`, `dmin: f16` |
//! | Q3_K | `high[32]`, `qs[64]`, `scales[12]`, `d: f16` |
//! | Q4_K | `d: f16`, `dmin: f16`, `scales[12]`, `qs[128]` |
//! | Q5_K | `d: f16`, `dmin: f16`, `scales[12]`, `high[32]`, `qs[128]` |
//! | Q6_K | `ql[128]`, `qh[64]`, `scales[16]` (signed), `d: f16` |
//! | IQ4_XS | `d: f16`, `high: u16`, `low[4]`, `qs[128]` |
//!
//! Codes lie in planes of 32 elements: byte `l` of a 32-byte run holds element `l` of several
//! successive planes, the lowest bits belonging to the first. IQ4_XS
//! has eight runs of 16 nibble bytes, as those of a 32-element block.

use super::{Scales, half_at, legacy};

/// Two-bit codes: four planes in each of two 32-byte runs.
fn two_bits(qs: &[u8], codes: &mut [u8]) {
    for (plane, codes) in codes.chunks_exact_mut(32).enumerate() {
        let run = &qs[plane / 4 * 32..][..32];
        let shift = plane % 4 * 2;
        run.iter().zip(codes).for_each(|(&byte, code)| *code = byte >> shift & 3);
    }
}

/// Four-bit codes: two planes in each of four 32-byte runs.
fn four_bits(qs: &[u8], codes: &mut [u8]) {
    for (plane, codes) in codes.chunks_exact_mut(32).enumerate() {
        let run = &qs[plane / 2 * 32..][..32];
        let shift = plane % 2 * 4;
        run.iter().zip(codes).for_each(|(&byte, code)| *code = byte >> shift & 15);
    }
}

/// Adds one more bit per code: bit `plane` of byte `l` belongs to element `l` of that plane.
fn add_high_bit(high: &[u8], weight: u8, codes: &mut [u8]) {
    for (plane, codes) in codes.chunks_exact_mut(32).enumerate() {
        high.iter().zip(codes).for_each(|(&byte, code)| *code |= (byte >> plane & 1) * weight);
    }
}

pub(super) fn q2_codes(block: &[u8], codes: &mut [u8]) {
    two_bits(&block[16..80], codes);
}

pub(super) fn q3_codes(block: &[u8], codes: &mut [u8]) {
    two_bits(&block[32..96], codes);
    add_high_bit(&block[..32], 4, codes);
}

pub(super) fn q4_codes(block: &[u8], codes: &mut [u8]) {
    four_bits(&block[16..], codes);
}

pub(super) fn q5_codes(block: &[u8], codes: &mut [u8]) {
    four_bits(&block[48..], codes);
    add_high_bit(&block[16..48], 16, codes);
}

/// Q6_K stores each half of 128 elements as four planes: `ql` holds planes 0 and 1 in its low
/// nibbles and 2 and 3 in its high ones, `qh` two upper bits of all four.
pub(super) fn q6_codes(block: &[u8], codes: &mut [u8]) {
    for (plane, codes) in codes.chunks_exact_mut(32).enumerate() {
        let (half, plane) = (plane / 4, plane % 4);
        let low = &block[half * 64 + plane % 2 * 32..][..32];
        let high = &block[128 + half * 32..][..32];
        for ((&low, &high), code) in low.iter().zip(high).zip(codes) {
            *code = low >> (plane / 2 * 4) & 15 | (high >> (plane * 2) & 3) << 4;
        }
    }
}

pub(super) fn iq4_xs_codes(block: &[u8], codes: &mut [u8]) {
    let runs = block[8..].chunks_exact(16);
    runs.zip(codes.chunks_exact_mut(32)).for_each(|(run, codes)| legacy::nibbles(run, codes));
}

/// Scale in the low nibble, minimum in the high one.
pub(super) fn q2_scales(block: &[u8]) -> Scales {
    Scales {
        d: half_at(block, 80),
        m: -half_at(block, 82),
        scales: std::array::from_fn(|g| (block[g] & 15).cast_signed()),
        mins: std::array::from_fn(|g| block[g] >> 4),
    }
}

/// Sixteen six-bit scales, stored with 32 added: low four bits in the nibbles of the first eight
/// bytes, upper two in the last four.
pub(super) fn q3_scales(block: &[u8]) -> Scales {
    let packed = &block[96..108];
    let scale = |g: usize| {
        let low = packed[g % 8] >> (g / 8 * 4) & 15;
        let high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
        (low | high << 4).cast_signed() - 32
    };
    Scales { d: half_at(block, 108), m: 0.0, scales: std::array::from_fn(scale), mins: [0; 16] }
}

/// Eight six-bit scales and minima. The first four of each are the low six bits of a byte; the
/// others have their low nibbles in the last four bytes and their upper bits atop the first eight.
pub(super) fn q45_scales(block: &[u8]) -> Scales {
    let packed = &block[4..16];
    let mut result = Scales { d: half_at(block, 0), m: -half_at(block, 2), scales: [0; 16], mins: [0; 16] };
    for g in 0..4 {
        let (scale, min, both) = (packed[g], packed[g + 4], packed[g + 8]);
        result.scales[g] = (scale & 63).cast_signed();
        result.mins[g] = min & 63;
        result.scales[g + 4] = (both & 15 | scale >> 6 << 4).cast_signed();
        result.mins[g + 4] = both >> 4 | min >> 6 << 4;
    }
    result
}

pub(super) fn q6_scales(block: &[u8]) -> Scales {
    Scales {
        d: half_at(block, 208),
        m: 0.0,
        scales: std::array::from_fn(|g| block[192 + g].cast_signed()),
        mins: [0; 16],
    }
}

/// Eight six-bit scales, stored with 32 added: low four bits in the nibbles of four bytes, upper two
/// in the word before them, in the same order.
pub(super) fn iq4_xs_scales(block: &[u8]) -> Scales {
    let (high, low) = (&block[2..4], &block[4..8]);
    let mut result = Scales { d: half_at(block, 0), m: 0.0, scales: [0; 16], mins: [0; 16] };
    for g in 0..8 {
        let scale = low[g / 2] >> (g % 2 * 4) & 15 | (high[g / 4] >> (g % 4 * 2) & 3) << 4;
        result.scales[g] = scale.cast_signed() - 32;
    }
    result
}
