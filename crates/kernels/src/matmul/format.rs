//! Packed formats: how weights lie in the panels that the kernels stream.
//!
//! A panel holds as many matrix rows as a vector has lanes, for all of k. It is a run of pairs of blocks of 32 weights
//! or of super-blocks of eight, each a head with all scales, then the codes of block after block, four consecutive k of
//! one row side by side. Heads fill whole vectors, so that no vector of codes lies across two cache lines. Every
//! number of a row stands in the lane of that row, so no sum ever crosses lanes.
//!
//! A weight is `scale * (code - ZERO) + offset`.

use crate::element::ElementType as T;
use crate::quant::{self, codebook};
use crate::simd::Simd;

/// Groups of four k in a block of 32.
pub(crate) const GROUPS: usize = 8;

/// Scale and offset of one block, for all rows of the panel.
pub(crate) struct Scales<S: Simd> {
    pub(crate) scale: S::F,
    pub(crate) offset: S::F,
}

/// A packed format of blocks with float scales. Byte counts are per matrix row; a panel of R rows has R times as many,
/// and the parts of a pair follow each other, each for all rows: scales of both blocks, codes of both. Of an odd number
/// of blocks the last pair lacks the second one's codes.
#[allow(clippy::missing_safety_doc)] // one contract: `p` points at a block of a whole panel
pub(crate) trait Format: 'static {
    /// Bytes of a block's scales.
    const SCALES: usize;
    /// How the codes are stored.
    type Codes: CodeForm;
    /// What a code stands above the weight it means: zero or a power of two.
    const ZERO: i32;
    /// Whether weights have an offset.
    const OFFSET: bool;

    /// The block's scales.
    unsafe fn scales<S: Simd>(p: *const u8) -> Scales<S>;
}

/// Where float scales come from.
pub(crate) trait ScaleForm: 'static {
    const SCALES: usize;
    const OFFSET: bool;
    unsafe fn scales<S: Simd>(p: *const u8) -> Scales<S>;
}

/// Where the codes come from.
#[allow(clippy::missing_safety_doc)] // one contract: `p` points at the codes of a block of a whole panel
pub(crate) trait CodeForm: 'static {
    /// Bytes of a block's codes.
    const CODES: usize;
    /// Codes are below 2^BITS.
    const BITS: u32;
    /// The block's codes.
    unsafe fn codes<S: Simd>(p: *const u8) -> [S::B; GROUPS];
}

/// A packed format of super-blocks of 256: f16 multipliers, and an integer scale for every 32 or 16 weights.
///
/// The head holds the multiplier of the scales and, where scales are not signed, that of the minima and the minima as
/// bytes, two neighbours of a row side by side; then each block's scale, or both of its scales side by side. A weight
/// is `multiplier * scale * (code - ZERO)`, less `minima's multiplier * minimum`.
pub(crate) trait SuperFormat: 'static {
    /// How the codes are stored.
    type Codes: CodeForm;
    /// Whether scales and minima stand for 16 weights, not 32.
    const SPLIT: bool;
    /// Whether scales are signed bytes and there are no minima; else both have at most six bits.
    const SIGNED: bool;
    /// What a code stands above the weight it means: zero or a power of two.
    const ZERO: i32;
    /// Bytes of a super-block's head.
    const HEAD: usize = (Self::SCALES_AT + SUPER_BLOCKS * Self::SCALES).next_multiple_of(4);
    /// Where in the head the scales begin.
    const SCALES_AT: usize = if Self::SIGNED { 2 } else { 4 + Self::MINIMA };
    /// Minima of a super-block, if scales are not signed.
    const MINIMA: usize = if Self::SPLIT { 16 } else { 8 };
    /// Bytes of a block's scales.
    const SCALES: usize = if Self::SPLIT { 2 } else { 1 };
    /// Bytes of a super-block.
    const BYTES: usize = Self::HEAD + SUPER_BLOCKS * Self::Codes::CODES;
}

/// Blocks in a super-block.
pub(crate) const SUPER_BLOCKS: usize = 8;
/// Blocks in a pair.
pub(crate) const PAIR: usize = 2;

macro_rules! scale_form {
    ($(#[$meta:meta])* $name:ident, scales $scales:literal, offset $offset:literal, |$p:ident| $make:expr) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub(crate) struct $name;
        impl ScaleForm for $name {
            const SCALES: usize = $scales;
            const OFFSET: bool = $offset;
            #[inline(always)]
            unsafe fn scales<S: Simd>($p: *const u8) -> Scales<S> {
                // SAFETY: the caller points at block scales of this form.
                unsafe {
                    let (scale, offset) = $make;
                    Scales { scale, offset }
                }
            }
        }
    };
}

scale_form!(
    /// One f16 scale per block.
    D, scales 2, offset false, |p| (S::load_f16(p.cast()), S::splat(0.0))
);
scale_form!(
    /// One bf16 scale per block, which holds any power of two that an E8M0 byte means.
    Power, scales 2, offset false, |p| (S::load_bf16(p.cast()), S::splat(0.0))
);
scale_form!(
    /// An f16 scale and an f16 offset per block.
    DM, scales 4, offset true, |p| (S::load_f16(p.cast()), S::load_f16(p.cast::<u16>().add(S::LANES)))
);

macro_rules! code_form {
    ($(#[$meta:meta])* $name:ident, bytes $bytes:literal, bits $bits:literal, |$p:ident| $code:expr) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub(crate) struct $name;
        impl CodeForm for $name {
            const CODES: usize = $bytes;
            const BITS: u32 = $bits;
            #[inline(always)]
            unsafe fn codes<S: Simd>($p: *const u8) -> [S::B; GROUPS] {
                // SAFETY: the caller points at block codes of this form.
                unsafe { $code }
            }
        }
    };
}

/// Vector `i` of a block's codes.
#[inline(always)]
unsafe fn vector<S: Simd>(p: *const u8, i: usize) -> S::B {
    // SAFETY: the caller's block holds vector `i`.
    unsafe { S::b_load(p.add(4 * S::LANES * i)) }
}

/// Nibbles: vector `i` holds group `i` in its low and group `i + 4` in its high halves.
#[inline(always)]
unsafe fn nibbles<S: Simd>(p: *const u8) -> [S::B; GROUPS] {
    // SAFETY: four vectors by contract.
    unsafe {
        let v = [vector::<S>(p, 0), vector::<S>(p, 1), vector::<S>(p, 2), vector::<S>(p, 3)];
        [
            S::b_low(v[0]),
            S::b_low(v[1]),
            S::b_low(v[2]),
            S::b_low(v[3]),
            S::b_high(v[0]),
            S::b_high(v[1]),
            S::b_high(v[2]),
            S::b_high(v[3]),
        ]
    }
}

/// Bit `g` of every byte of `v` as bit `TO` of group `g`, added to `codes`.
macro_rules! add_one_bit {
    ($codes:expr, $v:expr, $to:literal) => {{
        let (c, v): ([S::B; GROUPS], S::B) = ($codes, $v);
        [
            S::b_or_bits::<{ -$to }>(c[0], v, 1 << $to),
            S::b_or_bits::<{ 1 - $to }>(c[1], v, 1 << $to),
            S::b_or_bits::<{ 2 - $to }>(c[2], v, 1 << $to),
            S::b_or_bits::<{ 3 - $to }>(c[3], v, 1 << $to),
            S::b_or_bits::<{ 4 - $to }>(c[4], v, 1 << $to),
            S::b_or_bits::<{ 5 - $to }>(c[5], v, 1 << $to),
            S::b_or_bits::<{ 6 - $to }>(c[6], v, 1 << $to),
            S::b_or_bits::<{ 7 - $to }>(c[7], v, 1 << $to),
        ]
    }};
}

/// Bit pairs: groups 0 to 3 in the first vector, 4 to 7 in the second, lowest first.
#[inline(always)]
unsafe fn pairs<S: Simd>(p: *const u8) -> [S::B; GROUPS] {
    // SAFETY: two vectors by contract.
    unsafe {
        let (a, b) = (vector::<S>(p, 0), vector::<S>(p, 1));
        [
            S::b_bits::<0>(a, 3),
            S::b_bits::<2>(a, 3),
            S::b_bits::<4>(a, 3),
            S::b_bits::<6>(a, 3),
            S::b_bits::<0>(b, 3),
            S::b_bits::<2>(b, 3),
            S::b_bits::<4>(b, 3),
            S::b_bits::<6>(b, 3),
        ]
    }
}

/// Six bits: of each three vectors the low six bits are a group each, and the top two together a fourth.
#[inline(always)]
unsafe fn sixes<S: Simd>(p: *const u8) -> [S::B; GROUPS] {
    // SAFETY: six vectors by contract.
    unsafe {
        let v = [
            vector::<S>(p, 0),
            vector::<S>(p, 1),
            vector::<S>(p, 2),
            vector::<S>(p, 3),
            vector::<S>(p, 4),
            vector::<S>(p, 5),
        ];
        [
            S::b_bits::<0>(v[0], 63),
            S::b_bits::<0>(v[1], 63),
            S::b_bits::<0>(v[2], 63),
            fourth::<S>(v[0], v[1], v[2]),
            S::b_bits::<0>(v[3], 63),
            S::b_bits::<0>(v[4], 63),
            S::b_bits::<0>(v[5], 63),
            fourth::<S>(v[3], v[4], v[5]),
        ]
    }
}

/// The group that the top two bits of three vectors make, lowest first.
#[inline(always)]
unsafe fn fourth<S: Simd>(a: S::B, b: S::B, c: S::B) -> S::B {
    // SAFETY: lane arithmetic.
    unsafe {
        let ab = S::b_merge::<4>(S::b_bits::<6>(a, 3), b, 3);
        S::b_bits::<0>(S::b_merge::<2>(ab, c, 15), 63)
    }
}

code_form!(
    /// Four bits.
    U4, bytes 16, bits 4, |p| nibbles::<S>(p)
);
code_form!(
    /// Four bits, then the fifth of all groups in one vector.
    U5, bytes 20, bits 5, |p| add_one_bit!(nibbles::<S>(p), vector::<S>(p, 4), 4)
);
code_form!(
    /// Six bits.
    U6, bytes 24, bits 6, |p| sixes::<S>(p)
);
code_form!(
    /// Two bits.
    U2, bytes 8, bits 2, |p| pairs::<S>(p)
);
code_form!(
    /// Two bits, then the third of all groups in one vector.
    U3, bytes 12, bits 3, |p| add_one_bit!(pairs::<S>(p), vector::<S>(p, 2), 2)
);
code_form!(
    /// Whole bytes.
    U8, bytes 32, bits 8, |p| [
        vector::<S>(p, 0), vector::<S>(p, 1), vector::<S>(p, 2), vector::<S>(p, 3),
        vector::<S>(p, 4), vector::<S>(p, 5), vector::<S>(p, 6), vector::<S>(p, 7),
    ]
);
code_form!(
    /// Four bits that index the IQ4_NL values, each 128 higher.
    Nl4, bytes 16, bits 8, |p| lookup::<S>(&IQ4_NL, nibbles::<S>(p))
);
code_form!(
    /// Four bits that index the E2M1 values, doubled and each 16 higher.
    E2m1, bytes 16, bits 5, |p| lookup::<S>(&E2M1, nibbles::<S>(p))
);

/// IQ4_NL's values plus 128.
pub(crate) const IQ4_NL: [u8; 16] = raised(&codebook::IQ4_NL, T::Iq4Nl);
/// E2M1's values doubled, plus 16.
pub(crate) const E2M1: [u8; 16] = raised(&codebook::E2M1_DOUBLED, T::Mxfp4);

/// The panel's code of the value zero: the file's, and for types that look codes up what makes their signed values
/// unsigned codes.
pub(crate) const fn zero(ty: T) -> i32 {
    match (ty, quant::packing(ty)) {
        (T::Iq4Nl | T::Iq4Xs, _) => 128,
        (T::Mxfp4, _) => 16,
        (_, Some(packing)) => packing.offset as i32,
        (_, None) => 0,
    }
}

/// A table of signed values as unsigned codes of `ty`, which fit a byte.
const fn raised(values: &[i8; 16], ty: T) -> [u8; 16] {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = (values[i] as i32 + zero(ty)) as u8;
        i += 1;
    }
    codes
}

#[inline(always)]
unsafe fn lookup<S: Simd>(table: &[u8; 16], mut codes: [S::B; GROUPS]) -> [S::B; GROUPS] {
    for code in &mut codes {
        // SAFETY: lane arithmetic; nibbles are below 16.
        *code = unsafe { S::b_lookup(table, *code) };
    }
    codes
}

/// A scale form with a code form.
#[derive(Debug)]
pub(crate) struct Packed<A, C, const ZERO: i32>(std::marker::PhantomData<(A, C)>);

impl<A: ScaleForm, C: CodeForm, const ZERO: i32> Format for Packed<A, C, ZERO> {
    const SCALES: usize = A::SCALES;
    type Codes = C;
    const ZERO: i32 = ZERO;
    const OFFSET: bool = A::OFFSET;

    #[inline(always)]
    unsafe fn scales<S: Simd>(p: *const u8) -> Scales<S> {
        // SAFETY: same contract.
        unsafe { A::scales::<S>(p) }
    }
}

/// A code form with integer scales.
#[derive(Debug)]
pub(crate) struct Super<C, const SPLIT: bool, const SIGNED: bool, const ZERO: i32>(
    std::marker::PhantomData<C>,
);

impl<C: CodeForm, const SPLIT: bool, const SIGNED: bool, const ZERO: i32> SuperFormat
    for Super<C, SPLIT, SIGNED, ZERO>
{
    type Codes = C;
    const SPLIT: bool = SPLIT;
    const SIGNED: bool = SIGNED;
    const ZERO: i32 = ZERO;
}

pub(crate) type Q4_0 = Packed<D, U4, { zero(T::Q4_0) }>;
pub(crate) type Q4_1 = Packed<DM, U4, { zero(T::Q4_1) }>;
pub(crate) type Q5_0 = Packed<D, U5, { zero(T::Q5_0) }>;
pub(crate) type Q5_1 = Packed<DM, U5, { zero(T::Q5_1) }>;
pub(crate) type Q8_0 = Packed<D, U8, { zero(T::Q8_0) }>;
pub(crate) type Iq4Nl = Packed<D, Nl4, { zero(T::Iq4Nl) }>;
pub(crate) type Mxfp4 = Packed<Power, E2m1, { zero(T::Mxfp4) }>;
pub(crate) type Q2K = Super<U2, true, false, { zero(T::Q2K) }>;
pub(crate) type Q3K = Super<U3, true, true, { zero(T::Q3K) }>;
pub(crate) type Q4K = Super<U4, false, false, { zero(T::Q4K) }>;
pub(crate) type Q5K = Super<U5, false, false, { zero(T::Q5K) }>;
pub(crate) type Q6K = Super<U6, true, true, { zero(T::Q6K) }>;
pub(crate) type Iq4Xs = Super<Nl4, false, true, { zero(T::Iq4Xs) }>;
