//! Weight blocks as files store them: exact decoding, taking apart for repackers, encoding.
//!
//! Every block format is described once, as codes and scales ([`packing`], [`unpack_codes`],
//! [`unpack_scales`]); [`dequantize`] is that description evaluated, and is the reference that
//! fast kernels are tested against. Portable code only.
//!
//! Element `i` of a block, in group `g = i / group_len`, has the value
//! `(d * scales[g]) * point(codes[i]) + m * mins[g]`
//! where `point(c)` is `codebook[c]` or `c - offset`. Products are exact in `f32` for every finite
//! block, so at most the last addition rounds.

pub(crate) mod codebook;
mod encode;
mod kquants;
mod legacy;

pub use codebook::mxfp4_from_pairs;
pub use encode::quantize;

use crate::ElementType;
use half::{bf16, f16};

/// Elements of the largest block.
pub const MAX_BLOCK_LEN: usize = 256;

/// What all blocks of a quantised type have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Elements that share one scale: 16 or 32.
    pub group_len: usize,
    /// Bits of a code; codes are `0..1 << code_bits`.
    pub code_bits: u32,
    /// Code of the value zero, for types without a codebook.
    pub offset: u8,
    /// Value of each code, for types that look codes up.
    pub codebook: Option<&'static [i8; 16]>,
    /// Whether `m * mins[g]` is added; without it [`Scales::m`] is zero.
    pub has_min: bool,
}

/// The packing of a quantised type; `None` for F32, F16 and BF16.
pub const fn packing(ty: ElementType) -> Option<Packing> {
    use ElementType::*;
    match ty {
        F32 | F16 | BF16 => None,
        Q4_0 => linear(32, 4, 8, false),
        Q4_1 => linear(32, 4, 0, true),
        Q5_0 => linear(32, 5, 16, false),
        Q5_1 => linear(32, 5, 0, true),
        Q8_0 => linear(32, 8, 128, false),
        Q2K => linear(16, 2, 0, true),
        Q3K => linear(16, 3, 4, false),
        Q4K => linear(32, 4, 0, true),
        Q5K => linear(32, 5, 0, true),
        Q6K => linear(16, 6, 32, false),
        Iq4Nl | Iq4Xs => table(&codebook::IQ4_NL),
        Mxfp4 => table(&codebook::E2M1_DOUBLED),
    }
}

const fn linear(group_len: usize, code_bits: u32, offset: u8, has_min: bool) -> Option<Packing> {
    Some(Packing { group_len, code_bits, offset, codebook: None, has_min })
}

const fn table(values: &'static [i8; 16]) -> Option<Packing> {
    Some(Packing { group_len: 32, code_bits: 4, offset: 0, codebook: Some(values), has_min: false })
}

/// The scales of one block; only the first `block_len / group_len` entries are meaningful.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Scale of the block. An `f16` in the file, for MXFP4 a power of two.
    pub d: f32,
    /// Scale of the group minima: an `f16`, already negated where the format subtracts it.
    pub m: f32,
    /// Scale of each group in units of `d`.
    pub scales: [i8; 16],
    /// Minimum of each group in units of `m`.
    pub mins: [u8; 16],
}

impl Scales {
    /// One scale and one minimum for the whole block.
    fn single(d: f32, m: f32) -> Self {
        let mut one = Self { d, m, scales: [0; 16], mins: [0; 16] };
        one.scales[0] = 1;
        one.mins[0] = 1;
        one
    }
}

/// Takes the codes out of one block, in element order, as unsigned bytes.
///
/// Formats with signed codes are shifted by [`Packing::offset`] (Q8_0: the stored byte + 128).
///
/// # Panics
/// If `ty` is not quantised, or `block` or `codes` is not exactly one block long.
pub fn unpack_codes(ty: ElementType, block: &[u8], codes: &mut [u8]) {
    use ElementType::*;
    assert_eq!(block.len(), ty.block_bytes(), "bytes of one {} block", ty.name());
    assert_eq!(codes.len(), ty.block_len(), "codes of one {} block", ty.name());
    match ty {
        F32 | F16 | BF16 => panic!("{} has no codes", ty.name()),
        Q4_0 | Iq4Nl => legacy::nibbles(&block[2..], codes),
        Q4_1 => legacy::nibbles(&block[4..], codes),
        Mxfp4 => legacy::nibbles(&block[1..], codes),
        Q5_0 => legacy::five_bits(&block[2..], codes),
        Q5_1 => legacy::five_bits(&block[4..], codes),
        Q8_0 => legacy::bytes(&block[2..], codes),
        Q2K => kquants::q2_codes(block, codes),
        Q3K => kquants::q3_codes(block, codes),
        Q4K => kquants::q4_codes(block, codes),
        Q5K => kquants::q5_codes(block, codes),
        Q6K => kquants::q6_codes(block, codes),
        Iq4Xs => kquants::iq4_xs_codes(block, codes),
    }
}

/// Takes the scales out of one block.
///
/// # Panics
/// If `ty` is not quantised, or `block` is not exactly one block long.
pub fn unpack_scales(ty: ElementType, block: &[u8]) -> Scales {
    use ElementType::*;
    assert_eq!(block.len(), ty.block_bytes(), "bytes of one {} block", ty.name());
    match ty {
        F32 | F16 | BF16 => panic!("{} has no scales", ty.name()),
        Q4_0 | Q5_0 | Q8_0 | Iq4Nl => Scales::single(half_at(block, 0), 0.0),
        Q4_1 | Q5_1 => Scales::single(half_at(block, 0), half_at(block, 2)),
        Mxfp4 => Scales::single(codebook::half_power(block[0]), 0.0),
        Q2K => kquants::q2_scales(block),
        Q3K => kquants::q3_scales(block),
        Q4K | Q5K => kquants::q45_scales(block),
        Q6K => kquants::q6_scales(block),
        Iq4Xs => kquants::iq4_xs_scales(block),
    }
}

/// Decodes `bytes` into `out`, which must hold exactly as many elements as the bytes encode.
///
/// Any byte content is accepted: non-finite scales give non-finite values.
pub fn dequantize(ty: ElementType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    if ty.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(QuantError::Length { ty, bytes: bytes.len(), elements: out.len() });
    }
    match ty {
        ElementType::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            out.iter_mut().zip(words).for_each(|(o, w)| *o = f32::from_le_bytes(*w));
        }
        ElementType::F16 => {
            let (words, _) = bytes.as_chunks::<2>();
            out.iter_mut().zip(words).for_each(|(o, w)| *o = f16::from_le_bytes(*w).to_f32());
        }
        ElementType::BF16 => {
            let (words, _) = bytes.as_chunks::<2>();
            out.iter_mut().zip(words).for_each(|(o, w)| *o = bf16::from_le_bytes(*w).to_f32());
        }
        _ => {
            let blocks = bytes.chunks_exact(ty.block_bytes());
            for (block, out) in blocks.zip(out.chunks_exact_mut(ty.block_len())) {
                decode_block(ty, block, out);
            }
        }
    }
    Ok(())
}

/// Evaluates the formula of the module documentation for one block of a quantised type.
fn decode_block(ty: ElementType, block: &[u8], out: &mut [f32]) {
    let Some(packing) = packing(ty) else { return };
    let mut codes = [0; MAX_BLOCK_LEN];
    let codes = &mut codes[..ty.block_len()];
    unpack_codes(ty, block, codes);
    let Scales { d, m, scales, mins } = unpack_scales(ty, block);
    let groups = out.chunks_exact_mut(packing.group_len).zip(codes.chunks_exact(packing.group_len));
    for (g, (out, codes)) in groups.enumerate() {
        let d = d * f32::from(scales[g]);
        let m = m * f32::from(mins[g]);
        let pairs = out.iter_mut().zip(codes);
        if let Some(table) = packing.codebook {
            pairs.for_each(|(o, &c)| *o = d * f32::from(table[usize::from(c & 15)]));
        } else if packing.has_min {
            pairs.for_each(|(o, &c)| *o = d * f32::from(c) + m);
        } else {
            let offset = i16::from(packing.offset);
            pairs.for_each(|(o, &c)| *o = d * f32::from(i16::from(c) - offset));
        }
    }
}

/// The little-endian `f16` at `block[at..at + 2]`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Why a buffer could not be decoded or encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuantError {
    /// The number of bytes does not encode that number of elements.
    Length {
        /// Type of the bytes.
        ty: ElementType,
        /// Bytes found.
        bytes: usize,
        /// Elements asked for.
        elements: usize,
    },
    /// The number of elements is no multiple of the block length.
    Partial {
        /// Type asked for.
        ty: ElementType,
        /// Elements found.
        elements: usize,
    },
    /// There is no encoder for the type.
    NoEncoder(ElementType),
}

impl std::fmt::Display for QuantError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Length { ty, bytes, elements } => write!(
                f,
                "{bytes} bytes of {} do not encode {elements} elements (a block is {} elements in {} bytes)",
                ty.name(),
                ty.block_len(),
                ty.block_bytes()
            ),
            Self::Partial { ty, elements } => write!(
                f,
                "{elements} elements cannot be stored as {}: expected a multiple of {}",
                ty.name(),
                ty.block_len()
            ),
            Self::NoEncoder(ty) => {
                write!(f, "cannot quantize to {}: expected Q8_0, Q4_0 or Q4_K", ty.name())
            }
        }
    }
}

impl std::error::Error for QuantError {}

#[cfg(test)]
mod tests;
