//! Plain Rust with eight lanes: correct everywhere, the oracle for the others.

use super::Simd;
use half::{bf16, f16};

const N: usize = 8;

/// See [`Simd`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn map(a: [f32; N], f: impl Fn(f32) -> f32) -> [f32; N] {
    a.map(f)
}

#[inline(always)]
fn zip(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn shift<const RIGHT: i32>(x: u8) -> u8 {
    if RIGHT < 0 { x << -RIGHT } else { x >> RIGHT }
}

// SAFETY of the raw pointers below: the caller guarantees N elements, as the trait's contract says.
impl Simd for Portable {
    const LANES: usize = N;
    const TILE: usize = 4;
    const EIGHT_BIT_BIAS: i32 = 128;
    type F = [f32; N];
    type I = [i32; N];
    type B = [u8; 4 * N];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: N readable elements by contract.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: N writable elements by contract.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        // SAFETY: only the first n elements are read, which the caller guarantees.
        std::array::from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: only the first n elements are written, which the caller guarantees.
            unsafe { p.add(i).write(x) }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: N readable elements by contract.
        unsafe { p.cast::<[u16; N]>().read_unaligned() }.map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Self::F) {
        // SAFETY: N writable elements by contract.
        unsafe { p.cast::<[u16; N]>().write_unaligned(v.map(|x| f16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: N readable elements by contract.
        unsafe { p.cast::<[u16; N]>().read_unaligned() }.map(|b| bf16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        map(n, |n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
    #[inline(always)]
    unsafe fn magnitude(a: Self::F) -> Self::I {
        a.map(|x| x.abs().to_bits().cast_signed())
    }
    #[inline(always)]
    unsafe fn i_max(a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    unsafe fn i_max_lane(a: Self::I) -> i32 {
        a.into_iter().fold(i32::MIN, i32::max)
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> Self::I {
        [x; N]
    }
    #[inline(always)]
    unsafe fn i_zero() -> Self::I {
        [0; N]
    }
    #[inline(always)]
    unsafe fn i_store(p: *mut i32, v: Self::I) {
        // SAFETY: LANES writable elements by contract.
        unsafe { p.cast::<[i32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> Self::B {
        [x; 4 * N]
    }
    #[inline(always)]
    unsafe fn i_to_f(a: Self::I) -> Self::F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::F) {
        // SAFETY: N writable elements by contract.
        unsafe { p.cast::<[i8; N]>().write_unaligned(v.map(|x| x.round_ties_even() as i8)) }
    }
    #[inline(always)]
    unsafe fn b_load(p: *const u8) -> Self::B {
        // SAFETY: 4N readable bytes by contract.
        unsafe { p.cast::<[u8; 4 * N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn b_low(b: Self::B) -> Self::B {
        b.map(|x| x & 15)
    }
    #[inline(always)]
    unsafe fn b_high(b: Self::B) -> Self::B {
        b.map(|x| x >> 4)
    }
    #[inline(always)]
    unsafe fn b_bits<const RIGHT: i32>(b: Self::B, mask: u8) -> Self::B {
        b.map(|x| shift::<RIGHT>(x) & mask)
    }
    #[inline(always)]
    unsafe fn b_merge<const RIGHT: i32>(a: Self::B, b: Self::B, mask: u8) -> Self::B {
        std::array::from_fn(|i| (a[i] & mask) | (shift::<RIGHT>(b[i]) & !mask))
    }
    #[inline(always)]
    unsafe fn b_or_bits<const RIGHT: i32>(a: Self::B, b: Self::B, mask: u8) -> Self::B {
        std::array::from_fn(|i| a[i] | (shift::<RIGHT>(b[i]) & mask))
    }
    #[inline(always)]
    unsafe fn b_store(p: *mut u8, b: Self::B) {
        // SAFETY: 4N writable bytes by contract.
        unsafe { p.cast::<Self::B>().write_unaligned(b) }
    }
    #[inline(always)]
    unsafe fn b_flip(b: Self::B, mask: u8) -> Self::B {
        b.map(|x| x ^ mask)
    }
    #[inline(always)]
    unsafe fn b_swap<const UP: u32>(b: Self::B, mask: u32) -> Self::B {
        let swap = |x: u32| {
            let differ = (x >> UP ^ x) & mask;
            x ^ differ ^ differ << UP
        };
        std::array::from_fn(|i| {
            let lane = &b[i / 4 * 4..][..4];
            swap(u32::from_le_bytes([lane[0], lane[1], lane[2], lane[3]])).to_le_bytes()[i % 4]
        })
    }
    #[inline(always)]
    unsafe fn b_words(p: *const u8, row: usize) -> [Self::B; 4] {
        std::array::from_fn(|word| {
            // SAFETY: four words of every row by contract.
            std::array::from_fn(|i| unsafe { p.add(i / 4 * row + 4 * word + i % 4).read() })
        })
    }
    #[inline(always)]
    unsafe fn b_by_halves(b: Self::B) -> Self::B {
        std::array::from_fn(|i| b[i % (2 * N) / 2 * 4 + i / (2 * N) * 2 + i % 2])
    }
    #[inline(always)]
    unsafe fn b_by_bytes(b: Self::B) -> Self::B {
        std::array::from_fn(|i| b[i % N * 4 + i / N])
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[u8; 16], b: Self::B) -> Self::B {
        b.map(|x| table[usize::from(x & 15)])
    }
    #[inline(always)]
    unsafe fn scales_u8(p: *const u8) -> Self::I {
        // SAFETY: N readable bytes by contract.
        unsafe { p.cast::<[u8; N]>().read_unaligned().map(i32::from) }
    }
    #[inline(always)]
    unsafe fn scales_of_pairs(pairs: Self::I) -> [Self::I; 2] {
        [pairs.map(|pair| halves(pair)[0]), pairs.map(|pair| halves(pair)[1])]
    }
    #[inline(always)]
    unsafe fn dot_scaled_rows<const BITS: u32, const FROM: usize, const TO: usize, const T: usize>(
        sums: &mut [Self::I; T],
        w: &[Self::B; 8],
        x: [*const i8; T],
        scale: Self::I,
    ) {
        for (sums, x) in sums.iter_mut().zip(x) {
            // SAFETY: same contract.
            let dot = unsafe { Self::dot_codes::<BITS, FROM, TO>([0; N], w, x) };
            *sums = std::array::from_fn(|i| sums[i] + scale[i] * dot[i]);
        }
    }
    #[inline(always)]
    unsafe fn pairs_u8(p: *const u8) -> Self::I {
        // SAFETY: 2N readable bytes by contract.
        unsafe { p.cast::<[[u8; 2]; N]>().read_unaligned().map(|[a, b]| pair(i32::from(a), i32::from(b))) }
    }
    #[inline(always)]
    unsafe fn pairs_i8(p: *const i8) -> Self::I {
        // SAFETY: 2N readable bytes by contract.
        unsafe { p.cast::<[[i8; 2]; N]>().read_unaligned().map(|[a, b]| pair(i32::from(a), i32::from(b))) }
    }
    #[inline(always)]
    unsafe fn twins_i8(p: *const i8) -> Self::I {
        // SAFETY: N readable bytes by contract.
        unsafe { p.cast::<[i8; N]>().read_unaligned().map(|x| pair(i32::from(x), i32::from(x))) }
    }
    #[inline(always)]
    unsafe fn pairs_shl<const SHIFT: i32>(pairs: Self::I) -> Self::I {
        pairs.map(|both| {
            let [a, b] = halves(both);
            pair(a << SHIFT, b << SHIFT)
        })
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: Self::I, pairs: Self::I, x: *const i16) -> Self::I {
        // SAFETY: two readable values by contract.
        let x = unsafe { x.cast::<[i16; 2]>().read_unaligned() }.map(i32::from);
        std::array::from_fn(|i| {
            let [a, b] = halves(pairs[i]);
            acc[i] + a * x[0] + b * x[1]
        })
    }
    #[inline(always)]
    unsafe fn dot_codes<const BITS: u32, const FROM: usize, const TO: usize>(
        mut acc: Self::I,
        w: &[Self::B; 8],
        x: *const i8,
    ) -> Self::I {
        for (g, w) in w.iter().enumerate().take(TO).skip(FROM) {
            // SAFETY: 4 * TO readable activations by contract.
            let x = unsafe { x.add(4 * g).cast::<[i8; 4]>().read_unaligned() };
            for (r, acc) in acc.iter_mut().enumerate() {
                for j in 0..4 {
                    *acc += i32::from(w[4 * r + j]) * i32::from(x[j]);
                }
            }
        }
        acc
    }
    #[inline(always)]
    unsafe fn prefetch<const LEVEL: u32>(_p: *const u8) {}
    #[inline(always)]
    unsafe fn zero_where_below(y: Self::F, x: Self::F, bound: f32) -> Self::F {
        zip(y, x, |y, x| if x >= bound { y } else { 0.0 })
    }
}

/// Two 16-bit integers in one lane.
#[inline(always)]
fn pair(a: i32, b: i32) -> i32 {
    (a & 0xffff) | (b << 16)
}

/// The integers of a [`pair`].
#[inline(always)]
fn halves(pair: i32) -> [i32; 2] {
    [i32::from(pair as i16), pair >> 16]
}
