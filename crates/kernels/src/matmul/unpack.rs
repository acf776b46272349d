//! One row back out of its lane, as f32: embedding lookups of tied heads, and the check of the packing.

use super::format::{E2M1, IQ4_NL, zero};
use super::pack::Layout;
use crate::element::ElementType;
use half::{bf16, f16};

/// Reads one lane of one pair or super-block.
struct Lane<'a> {
    bytes: &'a [u8],
    layout: Layout,
    lane: usize,
}

impl Lane<'_> {
    fn two(&self, base: usize, part: usize) -> u16 {
        let at = base + 2 * (part * self.layout.lanes + self.lane);
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn half(&self, base: usize, part: usize) -> f32 {
        f16::from_bits(self.two(base, part)).to_f32()
    }

    /// Where the scales of a block begin.
    fn scales_at(&self, block: usize) -> usize {
        self.layout.scales_at + block * self.layout.scales
    }

    fn byte_scale(&self, block: usize) -> u8 {
        self.bytes[self.scales_at(block) + self.lane]
    }

    fn half_scale(&self, block: usize, half: usize) -> u8 {
        self.bytes[self.scales_at(block) + 2 * self.lane + half]
    }

    fn minimum(&self, i: usize) -> u8 {
        self.bytes[2 * ((2 + i / 2) * self.layout.lanes + self.lane) + i % 2]
    }

    /// `bits` bits of code vector `vector`, byte `j`, from bit `shift` on.
    fn bits(&self, block: usize, vector: usize, j: usize, shift: usize, bits: u32) -> u8 {
        let codes = self.layout.head + block * self.layout.codes;
        let at = codes + 4 * (vector * self.layout.lanes + self.lane) + j;
        ((u32::from(self.bytes[at]) >> shift) & ((1 << bits) - 1)) as u8
    }

    /// Code of element `4g + j` of a block.
    fn code(&self, ty: ElementType, block: usize, g: usize, j: usize) -> u8 {
        use ElementType as T;
        let nibble = || self.bits(block, g % 4, j, 4 * (g / 4), 4);
        let pair = || self.bits(block, g / 4, j, 2 * (g % 4), 2);
        let one = |vector: usize| self.bits(block, vector, j, g, 1);
        match ty {
            T::Q5_0 | T::Q5_1 | T::Q5K => nibble() | one(4) << 4,
            T::Q6K => {
                let first = 3 * (g / 4);
                match g % 4 {
                    3 => (0..3).fold(0, |code, v| code | self.bits(block, first + v, j, 6, 2) << (2 * v)),
                    v => self.bits(block, first + v, j, 0, 6),
                }
            }
            T::Q2K => pair(),
            T::Q3K => pair() | one(2) << 2,
            T::Q8_0 => self.bits(block, g, j, 0, 8),
            T::Iq4Nl | T::Iq4Xs => IQ4_NL[usize::from(nibble())],
            T::Mxfp4 => E2M1[usize::from(nibble())],
            _ => nibble(),
        }
    }

    /// Scale and offset of the first or second half of a block.
    fn scales(&self, ty: ElementType, block: usize, half: usize) -> (f32, f32) {
        use ElementType as T;
        let base = self.scales_at(block);
        match ty {
            T::Q4_1 | T::Q5_1 => (self.half(base, 0), self.half(base, 1)),
            T::Mxfp4 => (bf16::from_bits(self.two(base, 0)).to_f32(), 0.0),
            T::Q4K | T::Q5K => (
                self.half(0, 0) * f32::from(self.byte_scale(block)),
                -(self.half(0, 1) * f32::from(self.minimum(block))),
            ),
            T::Q2K => (
                self.half(0, 0) * f32::from(self.half_scale(block, half)),
                -(self.half(0, 1) * f32::from(self.minimum(2 * block + half))),
            ),
            T::Q3K | T::Q6K => (self.half(0, 0) * f32::from(self.half_scale(block, half) as i8), 0.0),
            T::Iq4Xs => (self.half(0, 0) * f32::from(self.byte_scale(block) as i8), 0.0),
            _ => (self.half(base, 0), 0.0),
        }
    }
}

/// Writes row `lane` of a panel as f32.
pub(super) fn unpack_row(ty: ElementType, panel: &[u8], layout: Layout, lane: usize, out: &mut [f32]) {
    use ElementType as T;
    if layout.blocks == 0 {
        let size = ty.block_bytes();
        for (value, k) in out.iter_mut().zip(panel.chunks_exact(layout.head)) {
            let b = &k[size * lane..][..size];
            *value = match ty {
                T::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
                T::BF16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            };
        }
        return;
    }
    let zero = zero(ty) as f32;
    for (out, bytes) in out.chunks_mut(32 * layout.blocks).zip(panel.chunks(layout.bytes())) {
        let lane = Lane { bytes, layout, lane };
        for (i, value) in out.iter_mut().enumerate() {
            let (block, k) = (i / 32, i % 32);
            let (scale, offset) = lane.scales(ty, block, k / 16);
            *value = scale * (f32::from(lane.code(ty, block, k / 4, k % 4)) - zero) + offset;
        }
    }
}
