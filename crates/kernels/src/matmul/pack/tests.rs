//! Packing of whole panels against packing of one row at a time, word by word.

use super::*;
use crate::isa::Isa;
use crate::matmul::Matrix;
use crate::team::Team;

/// Random bytes are weights of any type, and cover all bits.
fn stored(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn a_panel_is_that_of_rows_packed_word_by_word() {
    let team = Team::new(2);
    let lanes = Isa::current().lanes();
    for ty in ElementType::ALL {
        // Lengths with an odd number of blocks, and of floats with some behind the last whole vector.
        let lengths = if ty.is_quantized() { [1, 2, 3].map(|n| n * ty.block_len()) } else { [1, 16, 37] };
        for (cols, rows) in
            lengths.into_iter().flat_map(|cols| [1, 7, 8, 16, 21, 64].map(|rows| (cols, rows)))
        {
            let row = ty.row_bytes(cols).unwrap();
            let bytes = stored(row * rows);
            let matrix = Matrix::pack(&team, ty, &bytes, rows, cols).unwrap();
            let layout = Layout::of(ty, lanes);
            for panel in 0..rows.div_ceil(lanes) {
                let mut expected = vec![0; layout.panel_bytes(cols)];
                for lane in 0..lanes {
                    // Lanes without a row repeat the last.
                    let stored = &bytes[(panel * lanes + lane).min(rows - 1) * row..][..row];
                    pack_row(ty, stored, layout, lane, &mut expected);
                }
                assert!(matrix.panel(panel) == expected, "{} [{rows}, {cols}] panel {panel}", ty.name());
            }
        }
    }
}

/// One row's lane in one pair or super-block of a panel, from block `first` on.
struct Lane<'a> {
    bytes: &'a mut [u8],
    layout: Layout,
    lane: usize,
    first: usize,
}

impl Lane<'_> {
    /// Sets part `part` (2 bytes a row) of the head.
    fn head(&mut self, part: usize, value: [u8; 2]) {
        let at = 2 * (part * self.layout.lanes + self.lane);
        self.bytes[at..at + 2].copy_from_slice(&value);
    }

    /// Where the scales of a block begin.
    fn scales(&self, block: usize) -> usize {
        self.layout.scales_at + (self.first + block) * self.layout.scales
    }

    /// Sets 2-byte scale `part` of a block.
    fn scale(&mut self, block: usize, part: usize, value: [u8; 2]) {
        let at = self.scales(block) + 2 * (part * self.layout.lanes + self.lane);
        self.bytes[at..at + 2].copy_from_slice(&value);
    }

    /// Sets the only 1-byte scale of a block.
    fn byte_scale(&mut self, block: usize, value: u8) {
        let at = self.scales(block) + self.lane;
        self.bytes[at] = value;
    }

    /// Sets the 1-byte scale of the first or second half of a block.
    fn half_scale(&mut self, block: usize, half: usize, value: u8) {
        let at = self.scales(block) + 2 * self.lane + half;
        self.bytes[at] = value;
    }

    /// Sets minimum `i` of the head.
    fn minimum(&mut self, i: usize, value: u8) {
        let at = 2 * ((2 + i / 2) * self.layout.lanes + self.lane) + i % 2;
        self.bytes[at] = value;
    }

    /// Sets the four bytes of this row in code vector `vector` of a block.
    fn word(&mut self, block: usize, vector: usize, value: u32) {
        let codes = self.layout.head + (self.first + block) * self.layout.codes;
        let at = codes + 4 * (vector * self.layout.lanes + self.lane);
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

fn word(bytes: &[u8], i: usize) -> u32 {
    let b = &bytes[4 * i..4 * i + 4];
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn two(bytes: &[u8], at: usize) -> [u8; 2] {
    [bytes[at], bytes[at + 1]]
}

const LOW: u32 = 0x0f0f_0f0f;

/// Packs row `lane` of a panel from its stored bytes; `panel` is the whole panel.
fn pack_row(ty: ElementType, stored: &[u8], layout: Layout, lane: usize, panel: &mut [u8]) {
    if layout.blocks == 0 {
        let size = ty.block_bytes();
        for (value, k) in stored.chunks_exact(size).zip(panel.chunks_exact_mut(layout.head)) {
            k[size * lane..][..size].copy_from_slice(value);
        }
        return;
    }
    let stored_blocks = (layout.blocks * 32 / ty.block_len()) * ty.block_bytes();
    for (stored, bytes) in stored.chunks(stored_blocks).zip(panel.chunks_mut(layout.bytes())) {
        let mut lane = Lane { bytes, layout, lane, first: 0 };
        for stored in stored.chunks_exact(ty.block_bytes()) {
            pack_block(ty, stored, &mut lane);
            lane.first += 1;
        }
    }
}

/// One stored block (32 or 256 weights) into its lane. Byte layouts of the stored blocks follow ggml.
fn pack_block(ty: ElementType, b: &[u8], lane: &mut Lane<'_>) {
    use ElementType as T;
    match ty {
        T::Q4_0 | T::Iq4Nl => {
            lane.scale(0, 0, two(b, 0));
            plain_nibbles(&b[2..], lane);
        }
        T::Q4_1 => {
            lane.scale(0, 0, two(b, 0));
            lane.scale(0, 1, two(b, 2));
            plain_nibbles(&b[4..], lane);
        }
        T::Mxfp4 => {
            lane.scale(0, 0, half_power(b[0]).to_le_bytes());
            plain_nibbles(&b[1..], lane);
        }
        T::Q5_0 => {
            lane.scale(0, 0, two(b, 0));
            fifth_bits(word(&b[2..], 0), lane);
            plain_nibbles(&b[6..], lane);
        }
        T::Q5_1 => {
            lane.scale(0, 0, two(b, 0));
            lane.scale(0, 1, two(b, 2));
            fifth_bits(word(&b[4..], 0), lane);
            plain_nibbles(&b[8..], lane);
        }
        T::Q8_0 => {
            lane.scale(0, 0, two(b, 0));
            for v in 0..8 {
                lane.word(0, v, word(&b[2..], v) ^ 0x8080_8080);
            }
        }
        T::Q4K => {
            k_scales(b, lane);
            k_nibbles(&b[16..144], lane);
        }
        T::Q5K => {
            k_scales(b, lane);
            k_nibbles(&b[48..176], lane);
            high_bits(&b[16..48], 4, lane);
        }
        T::Q6K => pack_q6_k(b, lane),
        T::Q2K => pack_q2_k(b, lane),
        T::Q3K => pack_q3_k(b, lane),
        T::Iq4Xs => pack_iq4_xs(b, lane),
        T::F32 | T::F16 | T::BF16 => {}
    }
}

/// 16 bytes: element i in the low, element i + 16 in the high nibble. The panel wants just that.
fn plain_nibbles(qs: &[u8], lane: &mut Lane<'_>) {
    for v in 0..4 {
        lane.word(0, v, word(qs, v));
    }
}

/// Bit i of `bits` is the fifth bit of element i; the panel wants bit g of byte j for element 4g + j.
fn fifth_bits(bits: u32, lane: &mut Lane<'_>) {
    let mut out = 0u32;
    for j in 0..4 {
        for g in 0..8 {
            out |= (bits >> (4 * g + j) & 1) << (8 * j + g);
        }
    }
    lane.word(0, 4, out);
}

/// Head and scales of Q4_K and Q5_K: d, dmin, then 8 scales and 8 minima of 6 bits in 12 bytes.
fn k_scales(b: &[u8], lane: &mut Lane<'_>) {
    lane.head(0, two(b, 0));
    lane.head(1, two(b, 2));
    let s = &b[4..16];
    for i in 0..4 {
        lane.byte_scale(i, s[i] & 63);
        lane.minimum(i, s[i + 4] & 63);
        lane.byte_scale(i + 4, s[i + 8] & 15 | (s[i] >> 6) << 4);
        lane.minimum(i + 4, s[i + 8] >> 4 | (s[i + 4] >> 6) << 4);
    }
}

/// 128 bytes: each 32 hold one block in their low and the next in their high nibbles.
fn k_nibbles(qs: &[u8], lane: &mut Lane<'_>) {
    for (pair, qs) in qs.chunks_exact(32).enumerate() {
        for v in 0..4 {
            let (a, b) = (word(qs, v), word(qs, v + 4));
            lane.word(2 * pair, v, a & LOW | (b & LOW) << 4);
            lane.word(2 * pair + 1, v, a >> 4 & LOW | b & !LOW);
        }
    }
}

/// 32 bytes: bit i of byte l belongs to element l of block i; goes to vector `vector`.
fn high_bits(qh: &[u8], vector: usize, lane: &mut Lane<'_>) {
    for block in 0..8 {
        let bits = (0..8).fold(0, |out, g| out | (word(qh, g) >> block & 0x0101_0101) << g);
        lane.word(block, vector, bits);
    }
}

/// Two bits of 32 elements, at `shift` in 32 bytes, into vectors `vector` and `vector + 1`.
fn bit_pairs(bytes: &[u8], shift: usize, block: usize, vector: usize, lane: &mut Lane<'_>) {
    for half in 0..2 {
        let bits =
            (0..4).fold(0, |out, g| out | (word(bytes, 4 * half + g) >> shift & 0x0303_0303) << (2 * g));
        lane.word(block, vector + half, bits);
    }
}

/// ql 128, qh 64, 16 signed scales, d.
fn pack_q6_k(b: &[u8], lane: &mut Lane<'_>) {
    lane.head(0, two(b, 208));
    for block in 0..8 {
        let (half, quarter) = (block / 4, block % 4);
        lane.half_scale(block, 0, b[192 + 2 * block]);
        lane.half_scale(block, 1, b[193 + 2 * block]);
        // Quarters 0 and 1 are the low, 2 and 3 the high nibbles of the same two runs of 32 bytes.
        let (ql, qh) = (&b[64 * half + 32 * (quarter % 2)..][..32], &b[128 + 32 * half..][..32]);
        let code = |g: usize| {
            word(ql, g) >> (4 * (quarter / 2)) & LOW | (word(qh, g) >> (2 * quarter) & 0x0303_0303) << 4
        };
        for three in 0..2 {
            let last = code(4 * three + 3);
            for v in 0..3 {
                let top = last >> (2 * v) & 0x0303_0303;
                lane.word(block, 3 * three + v, code(4 * three + v) | top << 6);
            }
        }
    }
}

/// 16 bytes of scale and minimum nibbles, 64 bytes of bit pairs, d, dmin.
fn pack_q2_k(b: &[u8], lane: &mut Lane<'_>) {
    lane.head(0, two(b, 80));
    lane.head(1, two(b, 82));
    for block in 0..8 {
        for half in 0..2 {
            let s = b[2 * block + half];
            lane.half_scale(block, half, s & 15);
            lane.minimum(2 * block + half, s >> 4);
        }
        bit_pairs(&b[16 + 32 * (block / 4)..][..32], 2 * (block % 4), block, 0, lane);
    }
}

/// 32 bytes of third bits (set: no 4 is taken off), 64 of bit pairs, 12 of 6-bit scales, d.
fn pack_q3_k(b: &[u8], lane: &mut Lane<'_>) {
    lane.head(0, two(b, 108));
    let s = &b[96..108];
    for i in 0..16 {
        let low = if i < 8 { s[i] & 15 } else { s[i - 8] >> 4 };
        let high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
        let scale = (low | high << 4) as i8 - 32;
        lane.half_scale(i / 2, i % 2, scale as u8);
    }
    for block in 0..8 {
        bit_pairs(&b[32 + 32 * (block / 4)..][..32], 2 * (block % 4), block, 0, lane);
    }
    high_bits(&b[..32], 2, lane);
}

/// d, 2-bit upper parts of 8 scales in 2 bytes, their low nibbles in 4, 8 times 16 bytes of nibbles.
fn pack_iq4_xs(b: &[u8], lane: &mut Lane<'_>) {
    lane.head(0, two(b, 0));
    for block in 0..8 {
        let low = b[4 + block / 2] >> (4 * (block % 2)) & 15;
        let high = b[2 + block / 4] >> (2 * (block % 4)) & 3;
        let scale = (low | high << 4) as i8 - 32;
        lane.byte_scale(block, scale as u8);
        for v in 0..4 {
            lane.word(block, v, word(&b[8 + 16 * block..], v));
        }
    }
}
