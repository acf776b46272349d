//! Vectors of f32 and packed int8 products, one trait over three instruction sets.
//!
//! Kernels are written once over [`Simd`]. Methods are `unsafe` because they run instructions that
//! the caller must have checked for (see `simd_fn!`), and because loads and stores take raw
//! pointers: the caller guarantees `LANES` readable or writable elements.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// The body for each row of a tile, written out: a loop would keep the sums in memory.
macro_rules! each_row {
    ($count:ident, |$t:ident| $body:expr) => {
        each_row!(@ $count, $t, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $count:ident, $t:ident, $body:expr, $($row:literal)*) => {{
        $(if $count > $row {
            let $t = $row;
            $body;
        })*
    }};
}
pub(crate) use each_row;

/// An instruction set's vectors. All methods are exact or correctly rounded per lane; `fma` is
/// fused in every set.
#[allow(clippy::missing_safety_doc)] // one contract for all methods, stated on the module
pub(crate) trait Simd: Copy + 'static {
    /// What [`dot_codes`](Self::dot_codes) has added to every signed weight of an eight-bit format (stored as
    /// weight + 128): 128 where it multiplies the stored codes, 0 where it takes them back first.
    const EIGHT_BIT_BIAS: i32;
    /// f32 lanes in a vector.
    const LANES: usize;
    /// Rows of activations that share the codes of a block once they are unpacked. As measured: more sums than there
    /// are registers cost less than unpacking again.
    const TILE: usize;
    /// `LANES` f32.
    type F: Copy;
    /// `LANES` i32.
    type I: Copy;
    /// `4 * LANES` bytes.
    type B: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Loads the first `n` lanes (`n <= LANES`), zero behind them.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F;
    /// Stores the first `n` lanes (`n <= LANES`).
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize);
    /// Loads IEEE half-precision values.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Stores rounded to half precision, nearest even.
    unsafe fn store_f16(p: *mut u16, v: Self::F);
    /// Loads bfloat16 values.
    unsafe fn load_bf16(p: *const u16) -> Self::F;

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, one rounding.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Rounds to the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^n` for integer-valued `n` in -126..=127.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// Sum of the lanes, in a fixed tree order.
    unsafe fn sum(a: Self::F) -> f32;
    /// Largest lane.
    unsafe fn max_lane(a: Self::F) -> f32;

    unsafe fn i_splat(x: i32) -> Self::I;
    unsafe fn i_zero() -> Self::I;
    /// Bits of the lanes without their signs: in the order of the magnitudes, NaN above all.
    unsafe fn magnitude(a: Self::F) -> Self::I;
    unsafe fn i_max(a: Self::I, b: Self::I) -> Self::I;
    /// Largest lane.
    unsafe fn i_max_lane(a: Self::I) -> i32;
    unsafe fn i_store(p: *mut i32, v: Self::I);
    unsafe fn i_to_f(a: Self::I) -> Self::F;
    /// Rounds to nearest even and stores as i8; lanes must lie in -128..=127.
    unsafe fn store_i8(p: *mut i8, v: Self::F);

    unsafe fn b_splat(x: u8) -> Self::B;
    /// Loads `4 * LANES` bytes.
    unsafe fn b_load(p: *const u8) -> Self::B;
    /// Low nibble of every byte.
    unsafe fn b_low(b: Self::B) -> Self::B;
    /// High nibble of every byte, shifted down.
    unsafe fn b_high(b: Self::B) -> Self::B;
    /// Bits of `b` under `mask` in every byte, after 16-bit lanes were shifted right, or left where `RIGHT` is
    /// negative. Bits that cross a byte must lie outside the mask.
    unsafe fn b_bits<const RIGHT: i32>(b: Self::B, mask: u8) -> Self::B;
    /// `a`'s bits under `mask` and the shifted `b`'s bits elsewhere; shift as [`b_bits`](Self::b_bits).
    unsafe fn b_merge<const RIGHT: i32>(a: Self::B, b: Self::B, mask: u8) -> Self::B;
    /// `a | b`'s bits under `mask` after the shift.
    unsafe fn b_or_bits<const RIGHT: i32>(a: Self::B, b: Self::B, mask: u8) -> Self::B;
    /// `4 * LANES` bytes to `p`.
    unsafe fn b_store(p: *mut u8, b: Self::B);
    /// `b` with the bits under `mask` of every byte the other way round.
    unsafe fn b_flip(b: Self::B, mask: u8) -> Self::B;
    /// Exchanges in every lane the bits under `mask` with those `UP` above them.
    unsafe fn b_swap<const UP: u32>(b: Self::B, mask: u32) -> Self::B;
    /// The four words at `p` of as many rows as there are lanes, `row` bytes apart: word `i` of each in vector `i`.
    unsafe fn b_words(p: *const u8, row: usize) -> [Self::B; 4];
    /// The low halves of all lanes side by side, then the high ones.
    unsafe fn b_by_halves(b: Self::B) -> Self::B;
    /// The lowest bytes of all lanes side by side, then the second ones, the third, the fourth.
    unsafe fn b_by_bytes(b: Self::B) -> Self::B;
    /// `table[b]` for bytes below 16.
    unsafe fn b_lookup(table: &[u8; 16], b: Self::B) -> Self::B;

    /// `acc + sum over g in FROM..TO of w[g] . x[4g..4g+4]`, lane by lane: lane `r` of `w[g]` holds four unsigned
    /// codes of matrix row `r`, multiplied by four signed activations. `BITS` bounds the codes
    /// (codes < 2^BITS), which lets sets without a wide product accumulate in 16 bits. Exact
    /// integers, so any order gives the same value.
    unsafe fn dot_codes<const BITS: u32, const FROM: usize, const TO: usize>(
        acc: Self::I,
        w: &[Self::B; 8],
        x: *const i8,
    ) -> Self::I;

    /// `LANES` unsigned bytes as scales for [`dot_scaled_rows`](Self::dot_scaled_rows).
    unsafe fn scales_u8(p: *const u8) -> Self::I;
    /// The scales of [`dot_scaled_rows`](Self::dot_scaled_rows) in the first and in the second of each pair.
    unsafe fn scales_of_pairs(pairs: Self::I) -> [Self::I; 2];
    /// [`dot_codes`](Self::dot_codes) for `T` rows of activations, in the order that keeps the multipliers busiest.
    #[inline(always)]
    unsafe fn dot_rows<const BITS: u32, const T: usize>(
        dots: &mut [Self::I; T],
        w: &[Self::B; 8],
        x: [*const i8; T],
    ) {
        // SAFETY: same contract.
        unsafe { each_row!(T, |t| dots[t] = Self::dot_codes::<BITS, 0, 8>(dots[t], w, x[t])) }
    }
    /// Adds `scale * dot` to the sum of each row, the dot product as of [`dot_codes`](Self::dot_codes); in an order
    /// as [`dot_rows`](Self::dot_rows).
    unsafe fn dot_scaled_rows<const BITS: u32, const FROM: usize, const TO: usize, const T: usize>(
        sums: &mut [Self::I; T],
        w: &[Self::B; 8],
        x: [*const i8; T],
        scale: Self::I,
    );
    /// `2 * LANES` unsigned bytes, as a pair of 16-bit integers in every lane.
    unsafe fn pairs_u8(p: *const u8) -> Self::I;
    /// `2 * LANES` signed bytes, as a pair of 16-bit integers in every lane.
    unsafe fn pairs_i8(p: *const i8) -> Self::I;
    /// `LANES` signed bytes, each as both of a pair of 16-bit integers.
    unsafe fn twins_i8(p: *const i8) -> Self::I;
    /// Both of every pair, shifted left.
    unsafe fn pairs_shl<const SHIFT: i32>(pairs: Self::I) -> Self::I;
    /// `acc + pair.0 * x[0] + pair.1 * x[1]`.
    unsafe fn dot_pairs(acc: Self::I, pairs: Self::I, x: *const i16) -> Self::I;

    /// Brings the cache line at `p` into the cache of level `LEVEL`, 1 or 2; `p` need not be valid.
    unsafe fn prefetch<const LEVEL: u32>(p: *const u8);

    /// `exp(x)`, relative error below 2e-7 for x in -87..=88; 0 below, clamped above.
    /// Cody-Waite reduction by ln 2 and a degree-6 polynomial.
    #[inline(always)]
    unsafe fn exp(x: Self::F) -> Self::F {
        // SAFETY: only lane arithmetic.
        unsafe {
            let clamped = Self::max(Self::min(x, Self::splat(88.0)), Self::splat(-87.0));
            let n = Self::round(Self::mul(clamped, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(n, Self::splat(-0.693_145_75), clamped);
            let r = Self::fma(n, Self::splat(-1.428_606_8e-6), r);
            let mut p = Self::splat(1.0 / 720.0);
            for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                p = Self::fma(p, r, Self::splat(c));
            }
            let y = Self::mul(p, Self::pow2(n));
            Self::zero_where_below(y, x, -87.0)
        }
    }

    /// `y` where `x >= bound`, else 0.
    unsafe fn zero_where_below(y: Self::F, x: Self::F, bound: f32) -> Self::F;
}
