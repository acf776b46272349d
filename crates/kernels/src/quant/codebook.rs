//! The types whose codes name an entry of a table: IQ4_NL, IQ4_XS and MXFP4.

use super::QuantError;
use crate::ElementType;

/// Values of the codes of IQ4_NL and IQ4_XS: sixteen unevenly spaced levels of a signed byte.
pub(crate) const IQ4_NL: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Values of the MXFP4 codes (E2M1: sign, two bits of exponent, one of mantissa), doubled so that
/// they are integers; [`half_power`] halves the scale in return.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the power of two that an E8M0 byte stands for: `2^(e - 128)`.
#[inline(always)]
pub(crate) fn half_power(e: u8) -> f32 {
    // The two smallest are subnormal: a mantissa bit instead of an exponent.
    let bits = match e {
        0 | 1 => 0x0020_0000 << e,
        _ => (u32::from(e) - 1) << 23,
    };
    f32::from_bits(bits)
}

/// Converts MXFP4 weights from the layout of Hugging Face checkpoints to GGUF blocks.
///
/// `packed` holds 16 bytes per block, byte `j` with element `2j` in its low and `2j + 1` in its
/// high nibble (`*_blocks`); `scales` holds one E8M0 byte per block (`*_scales`). The blocks are
/// appended to `out` in the same order.
pub fn mxfp4_from_pairs(packed: &[u8], scales: &[u8], out: &mut Vec<u8>) -> Result<(), QuantError> {
    if scales.len().checked_mul(16) != Some(packed.len()) {
        let (bytes, elements) = (packed.len() + scales.len(), scales.len().saturating_mul(32));
        return Err(QuantError::Length { ty: ElementType::Mxfp4, bytes, elements });
    }
    out.reserve(packed.len() + scales.len());
    for (pairs, &scale) in packed.as_chunks::<16>().0.iter().zip(scales) {
        let code = |i: usize| pairs[i / 2] >> (i % 2 * 4) & 15;
        out.push(scale);
        out.extend((0..16).map(|j| code(j) | code(j + 16) << 4));
    }
    Ok(())
}
