//! Repacking: the stored rows of a panel into the order in which kernels read them, all rows at once. Words of four
//! bytes that stand at the same place of every row become one vector, on which the rest is lane arithmetic.

use super::format::{self, CodeForm, Format, PAIR, SUPER_BLOCKS, SuperFormat};
use crate::element::ElementType;
use crate::isa::simd_fn;
use crate::quant::codebook;
use crate::simd::Simd;
use std::marker::PhantomData;

/// Sizes of a packed format for panels of `lanes` rows, all in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) lanes: usize,
    /// Blocks of 32 in a pair or super-block.
    pub(crate) blocks: usize,
    pub(crate) head: usize,
    /// Where in the head the scales begin.
    pub(crate) scales_at: usize,
    /// Scales of a block.
    pub(crate) scales: usize,
    /// Codes of a block.
    pub(crate) codes: usize,
}

impl Layout {
    /// The layout of a quantised type.
    pub(crate) fn of(ty: ElementType, lanes: usize) -> Self {
        fn of<F: Format>(lanes: usize) -> Layout {
            let [scales, codes] = [F::SCALES, F::Codes::CODES].map(|bytes| bytes * lanes);
            Layout { lanes, blocks: PAIR, head: PAIR * scales, scales_at: 0, scales, codes }
        }
        fn of_super<F: SuperFormat>(lanes: usize) -> Layout {
            let [head, scales_at, scales, codes] =
                [F::HEAD, F::SCALES_AT, F::SCALES, F::Codes::CODES].map(|bytes| bytes * lanes);
            Layout { lanes, blocks: SUPER_BLOCKS, head, scales_at, scales, codes }
        }
        use ElementType as T;
        match ty {
            T::Q4_0 => of::<format::Q4_0>(lanes),
            T::Q4_1 => of::<format::Q4_1>(lanes),
            T::Q5_0 => of::<format::Q5_0>(lanes),
            T::Q5_1 => of::<format::Q5_1>(lanes),
            T::Q8_0 => of::<format::Q8_0>(lanes),
            T::Q2K => of_super::<format::Q2K>(lanes),
            T::Q3K => of_super::<format::Q3K>(lanes),
            T::Q4K => of_super::<format::Q4K>(lanes),
            T::Q5K => of_super::<format::Q5K>(lanes),
            T::Q6K => of_super::<format::Q6K>(lanes),
            T::Iq4Nl => of::<format::Iq4Nl>(lanes),
            T::Iq4Xs => of_super::<format::Iq4Xs>(lanes),
            T::Mxfp4 => of::<format::Mxfp4>(lanes),
            // Floats: one k of all rows is a head without blocks.
            T::F32 => Layout { lanes, blocks: 0, head: 4 * lanes, scales_at: 0, scales: 0, codes: 0 },
            T::F16 | T::BF16 => {
                Layout { lanes, blocks: 0, head: 2 * lanes, scales_at: 0, scales: 0, codes: 0 }
            }
        }
    }

    /// Bytes of a pair or super-block of a whole panel.
    pub(crate) fn bytes(&self) -> usize {
        self.head + self.blocks * self.codes
    }

    /// Bytes of a panel over `k` weights per row.
    pub(crate) fn panel_bytes(&self, k: usize) -> usize {
        if self.blocks == 0 {
            return k * self.head;
        }
        let blocks = k / 32;
        blocks.div_ceil(self.blocks) * self.head + blocks * self.codes
    }
}

simd_fn! {
    /// Packs a whole panel of rows of `k` weights; `stored` holds as many rows as the panel has lanes.
    pub(crate) fn pack_panel<S>(ty: ElementType, stored: &[u8], k: usize, layout: Layout, panel: &mut [u8]) {
        let row = ty.row_bytes(k).unwrap_or_default();
        assert!(
            layout.lanes == S::LANES && stored.len() == row * S::LANES && panel.len() == layout.panel_bytes(k),
            "whole rows into a whole panel"
        );
        if layout.blocks == 0 {
            return pack_floats::<S>(ty.block_bytes(), stored, panel);
        }
        // Blocks of the layout in a stored one, and stored ones in a pair or super-block.
        let stored_len = ty.block_len() / 32;
        let together = layout.blocks / stored_len;
        for i in 0..row / ty.block_bytes() {
            let unit = i / together * layout.bytes();
            let first = i % together * stored_len;
            // The head is there for all blocks of a pair, also where the second is not.
            let (scales, codes) = (layout.scales_at + first * layout.scales, layout.head + first * layout.codes);
            // SAFETY: block `i` of every row lies in `stored`, and its parts of the unit in `panel`, by the lengths
            // above; simd_fn runs this only where the set exists.
            unsafe {
                let from = stored.as_ptr().add(i * ty.block_bytes());
                let head = panel.as_mut_ptr().add(unit);
                let (scales, codes) = (head.add(scales), head.add(codes));
                pack_block(ty, &Block::<S> { from, row, head, scales, codes, block: layout.codes, set: PhantomData });
            }
        }
    }
}

/// Rows of floats of `size` bytes: each k of all rows side by side.
#[inline(always)]
fn pack_floats<S: Simd>(size: usize, stored: &[u8], panel: &mut [u8]) {
    let row = stored.len() / S::LANES;
    let whole = row / 16 * 16;
    for at in (0..whole).step_by(16) {
        // SAFETY: bytes `at..at + 16` of every row lie in `stored`, and as many for all rows in `panel`, which is as
        // long; the caller guarantees the instruction set.
        unsafe {
            let to = panel.as_mut_ptr().add(at * S::LANES);
            for (i, words) in S::b_words(stored.as_ptr().add(at), row).into_iter().enumerate() {
                let words = if size == 2 { S::b_by_halves(words) } else { words };
                S::b_store(to.add(4 * i * S::LANES), words);
            }
        }
    }
    for at in (whole..row).step_by(size) {
        for lane in 0..S::LANES {
            let to = at * S::LANES + size * lane;
            panel[to..to + size].copy_from_slice(&stored[lane * row + at..][..size]);
        }
    }
}

/// A stored block (32 or 256 weights) of every row, and where its parts go.
struct Block<S> {
    /// The block of the first row.
    from: *const u8,
    /// Bytes from there to that of the next row.
    row: usize,
    head: *mut u8,
    /// Scales of the first block of 32.
    scales: *mut u8,
    /// Codes of the first block of 32.
    codes: *mut u8,
    /// Bytes of a block's codes.
    block: usize,
    set: PhantomData<S>,
}

// Methods are unsafe because places that they are given must lie in the stored block and in the packed one, and because
// the instruction set must exist: `pack_block` alone calls them.
#[allow(clippy::missing_safety_doc)]
impl<S: Simd> Block<S> {
    /// Four vectors: the words from byte `at` on.
    #[inline(always)]
    unsafe fn words(&self, at: usize) -> [S::B; 4] {
        // SAFETY: 16 bytes of the block from `at` on.
        unsafe { S::b_words(self.from.add(at), self.row) }
    }

    /// Eight vectors: the words from byte `at` on.
    #[inline(always)]
    unsafe fn eight_words(&self, at: usize) -> [S::B; 8] {
        // SAFETY: 32 bytes of the block from `at` on.
        let ([a, b, c, d], [e, f, g, h]) = unsafe { (self.words(at), self.words(at + 16)) };
        [a, b, c, d, e, f, g, h]
    }

    /// Two bytes of each row, as `make` makes them of the row's block, one row after the other.
    #[inline(always)]
    unsafe fn twos(&self, to: *mut u8, make: impl Fn(*const u8) -> [u8; 2]) {
        for lane in 0..S::LANES {
            // SAFETY: every row's block, and room for two bytes a row.
            unsafe { to.add(2 * lane).cast::<[u8; 2]>().write(make(self.from.add(lane * self.row))) }
        }
    }

    /// Bytes `at` and `at + 1` of each row to the head's or the scales' beginning.
    #[inline(always)]
    unsafe fn scale(&self, to: *mut u8, at: usize) {
        // SAFETY: two bytes of the block from `at` on.
        unsafe { self.twos(to, |block| block.add(at).cast::<[u8; 2]>().read()) }
    }

    /// Vector `i` from `to` on.
    #[inline(always)]
    unsafe fn put(&self, to: *mut u8, i: usize, v: S::B) {
        // SAFETY: the packed block has vector `i`.
        unsafe { S::b_store(to.add(4 * S::LANES * i), v) }
    }

    /// Code vectors of block `block`, from vector `first` on.
    #[inline(always)]
    unsafe fn codes<const N: usize>(&self, block: usize, first: usize, vectors: [S::B; N]) {
        for (i, v) in vectors.into_iter().enumerate() {
            // SAFETY: the packed block has these vectors.
            unsafe { self.put(self.codes.add(block * self.block), first + i, v) }
        }
    }
}

/// Packs one stored block of every row. Byte layouts of the stored blocks follow ggml.
///
/// # Safety
/// `b` points at blocks of type `ty` and at room for them in their packed layout; the set's instructions exist.
#[inline(always)]
unsafe fn pack_block<S: Simd>(ty: ElementType, b: &Block<S>) {
    use ElementType as T;
    // SAFETY: places are those of the type's stored and packed layouts.
    unsafe {
        match ty {
            // 16 bytes with element i in the low and i + 16 in the high nibble: just what the panel wants.
            T::Q4_0 | T::Iq4Nl => {
                b.scale(b.scales, 0);
                b.codes(0, 0, b.words(2));
            }
            T::Q4_1 => {
                b.put(b.scales, 0, S::b_by_halves(b.words(0)[0]));
                b.codes(0, 0, b.words(4));
            }
            T::Mxfp4 => {
                b.twos(b.scales, |block| half_power(block.read()).to_le_bytes());
                b.codes(0, 0, b.words(1));
            }
            T::Q5_0 => {
                b.scale(b.scales, 0);
                b.codes(0, 0, b.words(6));
                b.codes(0, 4, [fifth_bits::<S>(b.words(2)[0])]);
            }
            T::Q5_1 => {
                let [scales, bits, ..] = b.words(0);
                b.put(b.scales, 0, S::b_by_halves(scales));
                b.codes(0, 0, b.words(8));
                b.codes(0, 4, [fifth_bits::<S>(bits)]);
            }
            T::Q8_0 => {
                b.scale(b.scales, 0);
                for (v, codes) in b.eight_words(2).into_iter().enumerate() {
                    b.codes(0, v, [S::b_flip(codes, 0x80)]);
                }
            }
            T::Q4K => {
                k_scales(b);
                k_nibbles(b, 16);
            }
            T::Q5K => {
                k_scales(b);
                k_nibbles(b, 48);
                high_bits(b, 16, 4);
            }
            T::Q6K => pack_q6_k(b),
            T::Q2K => pack_q2_k(b),
            T::Q3K => pack_q3_k(b),
            T::Iq4Xs => pack_iq4_xs(b),
            T::F32 | T::F16 | T::BF16 => {}
        }
    }
}

/// Exchanges what two vectors have in the high part of `a` and in the low part of `b`; parts are the halves of
/// runs of `2 * RIGHT` bits, `low` masks the low ones. Of vectors whose number differs in one bit it makes those
/// whose elements differ in it.
macro_rules! cross {
    ($right:literal, $low:literal, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        (S::b_merge::<{ -$right }>(a, b, $low), S::b_merge::<$right>(b, a, !$low))
    }};
}

/// Bit i of a row's word is the fifth bit of element i; the panel wants bit g of byte j for element 4g + j. Numbers of
/// bits go from 4g + j to 8j + g by exchanging two of their digits at a time.
#[inline(always)]
unsafe fn fifth_bits<S: Simd>(v: S::B) -> S::B {
    // SAFETY: lane arithmetic.
    unsafe {
        let v = S::b_swap::<14>(v, 0x0000_cccc);
        let v = S::b_swap::<7>(v, 0x00aa_00aa);
        let v = S::b_swap::<2>(v, 0x0c0c_0c0c);
        S::b_swap::<1>(v, 0x2222_2222)
    }
}

/// [`codebook::half_power`] as bf16, which holds every power of two of `f32`.
#[inline(always)]
fn half_power(e: u8) -> u16 {
    (codebook::half_power(e).to_bits() >> 16) as u16
}

/// Head and scales of Q4_K and Q5_K: d, dmin, then 8 scales and 8 minima of 6 bits in 12 bytes.
#[inline(always)]
unsafe fn k_scales<S: Simd>(b: &Block<S>) {
    // SAFETY: the caller's block begins so, and its packed head has two vectors more than minima.
    unsafe {
        let [d, scales, minima, last] = b.words(0);
        let more = [
            S::b_or_bits::<2>(S::b_low(last), scales, 0x30),
            S::b_or_bits::<2>(S::b_high(last), minima, 0x30),
        ];
        b.put(b.head, 0, S::b_by_halves(d));
        b.put(b.head, 1, S::b_by_halves(S::b_bits::<0>(minima, 63)));
        b.put(b.head, 2, S::b_by_halves(more[1]));
        b.put(b.scales, 0, S::b_by_bytes(S::b_bits::<0>(scales, 63)));
        b.put(b.scales, 1, S::b_by_bytes(more[0]));
    }
}

/// 128 bytes: each 32 hold one block in their low and the next in their high nibbles.
#[inline(always)]
unsafe fn k_nibbles<S: Simd>(b: &Block<S>, at: usize) {
    for pair in 0..4 {
        // SAFETY: the caller's block has 128 bytes from `at` on, and its packed one four vectors of nibbles a block.
        unsafe {
            let (first, second) = (b.words(at + 32 * pair), b.words(at + 32 * pair + 16));
            for v in 0..4 {
                let (low, high) = cross!(4, 0x0f, first[v], second[v]);
                b.codes(2 * pair, v, [low]);
                b.codes(2 * pair + 1, v, [high]);
            }
        }
    }
}

/// 32 bytes: bit i of byte l belongs to element l of block i; goes to vector `vector`.
#[inline(always)]
unsafe fn high_bits<S: Simd>(b: &Block<S>, at: usize, vector: usize) {
    // SAFETY: the caller's block has 32 bytes from `at` on, and its packed one such a vector in every block.
    unsafe {
        let mut v = b.eight_words(at);
        for i in [0, 1, 2, 3] {
            (v[i], v[i + 4]) = cross!(4, 0x0f, v[i], v[i + 4]);
        }
        for i in [0, 1, 4, 5] {
            (v[i], v[i + 2]) = cross!(2, 0x33, v[i], v[i + 2]);
        }
        for i in [0, 2, 4, 6] {
            (v[i], v[i + 1]) = cross!(1, 0x55, v[i], v[i + 1]);
        }
        for (block, bits) in v.into_iter().enumerate() {
            b.codes(block, vector, [bits]);
        }
    }
}

/// 64 bytes: two bits of byte l in each half belong to element l of one of four blocks; go to the first two vectors.
#[inline(always)]
unsafe fn bit_pairs<S: Simd>(b: &Block<S>, at: usize) {
    for run in 0..4 {
        // SAFETY: the caller's block has 64 bytes from `at` on, and its packed one two vectors of pairs in every block.
        unsafe {
            let mut v = b.words(at + 16 * run);
            for i in [0, 1] {
                (v[i], v[i + 2]) = cross!(4, 0x0f, v[i], v[i + 2]);
            }
            for i in [0, 2] {
                (v[i], v[i + 1]) = cross!(2, 0x33, v[i], v[i + 1]);
            }
            for (i, pairs) in v.into_iter().enumerate() {
                b.codes(4 * (run / 2) + i, run % 2, [pairs]);
            }
        }
    }
}

/// ql 128, qh 64, 16 signed scales, d.
#[inline(always)]
unsafe fn pack_q6_k<S: Simd>(b: &Block<S>) {
    // SAFETY: these places are in the caller's block.
    unsafe {
        b.scale(b.head, 208);
        for (i, scales) in b.words(192).into_iter().enumerate() {
            b.put(b.scales, i, S::b_by_halves(scales));
        }
        for half in 0..2 {
            // Quarters 0 and 1 are the low, 2 and 3 the high nibbles of the same two runs of 32 bytes.
            let mut tops = b.eight_words(128 + 32 * half);
            for quarter in 0..2 {
                let nibbles = b.eight_words(64 * half + 32 * quarter);
                let (mut low, mut high) = (nibbles, nibbles);
                for g in 0..8 {
                    low[g] = S::b_or_bits::<-4>(S::b_low(nibbles[g]), tops[g], 0x30);
                    high[g] = S::b_or_bits::<0>(S::b_high(nibbles[g]), tops[g], 0x30);
                    // Those of the quarters that come next.
                    tops[g] = S::b_bits::<2>(tops[g], 0x33);
                }
                six_bits(b, 4 * half + quarter, &low);
                six_bits(b, 4 * half + quarter + 2, &high);
            }
        }
    }
}

/// The codes of one block: each fourth group lies in the free bits of the three before.
#[inline(always)]
unsafe fn six_bits<S: Simd>(b: &Block<S>, block: usize, codes: &[S::B; 8]) {
    for three in 0..2 {
        let [x, y, z, last] =
            [codes[4 * three], codes[4 * three + 1], codes[4 * three + 2], codes[4 * three + 3]];
        // SAFETY: six vectors of codes a block.
        unsafe {
            let (x, y) = (S::b_or_bits::<-6>(x, last, 0xc0), S::b_or_bits::<-4>(y, last, 0xc0));
            b.codes(block, 3 * three, [x, y, S::b_or_bits::<-2>(z, last, 0xc0)]);
        }
    }
}

/// 16 bytes of scale and minimum nibbles, 64 bytes of bit pairs, d, dmin.
#[inline(always)]
unsafe fn pack_q2_k<S: Simd>(b: &Block<S>) {
    // SAFETY: these places are in the caller's block, and its packed head has nine vectors.
    unsafe {
        b.put(b.head, 0, S::b_by_halves(b.words(68)[3]));
        for (i, both) in b.words(0).into_iter().enumerate() {
            b.put(b.scales, i, S::b_by_halves(S::b_low(both)));
            b.put(b.head, 1 + i, S::b_by_halves(S::b_high(both)));
        }
        bit_pairs(b, 16);
    }
}

/// 32 bytes of third bits (set: no 4 is taken off), 64 of bit pairs, 12 of 6-bit scales, d.
#[inline(always)]
unsafe fn pack_q3_k<S: Simd>(b: &Block<S>) {
    // SAFETY: these places are in the caller's block, and its packed head has four vectors of scales.
    unsafe {
        b.scale(b.head, 108);
        let [_, x, y, tops] = b.words(92);
        let scales = [
            S::b_or_bits::<-4>(S::b_low(x), tops, 0x30),
            S::b_or_bits::<-2>(S::b_low(y), tops, 0x30),
            S::b_or_bits::<0>(S::b_high(x), tops, 0x30),
            S::b_or_bits::<2>(S::b_high(y), tops, 0x30),
        ];
        for (i, scales) in scales.into_iter().enumerate() {
            b.put(b.scales, i, S::b_by_halves(less_32::<S>(scales)));
        }
        bit_pairs(b, 32);
        high_bits(b, 0, 2);
    }
}

/// Six bits, less 32: the highest is the other way round, and the sign.
#[inline(always)]
unsafe fn less_32<S: Simd>(v: S::B) -> S::B {
    // SAFETY: lane arithmetic.
    unsafe {
        let v = S::b_flip(v, 0x20);
        S::b_or_bits::<-2>(S::b_or_bits::<-1>(v, v, 0x40), v, 0x80)
    }
}

/// d, upper two bits of 8 scales, their low nibbles, and for each block 16 bytes of nibbles, which are just what the
/// panel wants.
#[inline(always)]
unsafe fn pack_iq4_xs<S: Simd>(b: &Block<S>) {
    // SAFETY: these places are in the caller's block, and its packed head has two vectors of scales.
    unsafe {
        b.scale(b.head, 0);
        let [tops, nibbles, ..] = b.words(0);
        // Byte i of both is to have what belongs to scales i and i + 4: as of [`fifth_bits`], numbers of nibbles, and
        // of pairs of bits, have their digits exchanged. Pairs, the upper half of their word, become high nibbles.
        let nibbles = S::b_swap::<4>(S::b_swap::<8>(nibbles, 0x0000_ff00), 0x00f0_00f0);
        let tops = S::b_swap::<6>(S::b_swap::<12>(tops, 0x0000_f0f0), 0x00cc_00cc);
        let scales = [
            S::b_or_bits::<0>(S::b_low(nibbles), tops, 0x30),
            S::b_or_bits::<2>(S::b_high(nibbles), tops, 0x30),
        ];
        for (i, scales) in scales.into_iter().enumerate() {
            b.put(b.scales, i, S::b_by_bytes(less_32::<S>(scales)));
        }
        for block in 0..SUPER_BLOCKS {
            b.codes(block, 0, b.words(8 + 16 * block));
        }
    }
}

#[cfg(test)]
mod tests;
