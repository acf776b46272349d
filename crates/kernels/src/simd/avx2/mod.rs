//! AVX2 with FMA and F16C: eight lanes. Integer products are made by it alone or by AVX-VNNI.

mod pairs;
mod vnni;

use super::{Simd, each_row};
use std::arch::x86_64::*;

/// See [`Simd`]. With `VNNI` the processor has AVX-VNNI too; the results are the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>;

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const TILE: usize = 8;
    const EIGHT_BIT_BIAS: i32 = if VNNI { 128 } else { 0 };
    type F = __m256;
    type I = __m256i;
    type B = __m256i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm256_maskload_ps(p, first_lanes(n)) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize) {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm256_maskstore_ps(p, first_lanes(n), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Self::F) {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))))
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
                _mm256_cvtps_epi32(n),
                _mm256_set1_epi32(127),
            )))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        }
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
        }
    }
    #[inline(always)]
    unsafe fn magnitude(a: Self::F) -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_castps_si256(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a)) }
    }
    #[inline(always)]
    unsafe fn i_max(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_max_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn i_max_lane(a: Self::I) -> i32 {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let half = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let pair = _mm_max_epi32(half, _mm_unpackhi_epi64(half, half));
            _mm_cvtsi128_si32(_mm_max_epi32(pair, _mm_shuffle_epi32::<1>(pair)))
        }
    }
    #[inline(always)]
    unsafe fn i_store(p: *mut i32, v: Self::I) {
        // SAFETY: LANES writable elements by contract.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn i_to_f(a: Self::I) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::F) {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe {
            let wide = _mm256_cvtps_epi32(v);
            let short = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
            _mm_storel_epi64(p.cast(), _mm_packs_epi16(short, short))
        }
    }
    #[inline(always)]
    unsafe fn b_load(p: *const u8) -> Self::B {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn b_low(b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_and_si256(b, _mm256_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn b_high(b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(b), _mm256_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn i_zero() -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn b_bits<const RIGHT: i32>(b: Self::B, mask: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_and_si256(shift::<RIGHT>(b), _mm256_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn b_merge<const RIGHT: i32>(a: Self::B, b: Self::B, mask: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let mask = _mm256_set1_epi8(mask as i8);
            _mm256_or_si256(_mm256_and_si256(a, mask), _mm256_andnot_si256(mask, shift::<RIGHT>(b)))
        }
    }
    #[inline(always)]
    unsafe fn b_or_bits<const RIGHT: i32>(a: Self::B, b: Self::B, mask: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_or_si256(a, _mm256_and_si256(shift::<RIGHT>(b), _mm256_set1_epi8(mask as i8))) }
    }
    #[inline(always)]
    unsafe fn b_store(p: *mut u8, b: Self::B) {
        // SAFETY: the caller guarantees the room behind the pointer and the instruction set.
        unsafe { _mm256_storeu_si256(p.cast(), b) }
    }
    #[inline(always)]
    unsafe fn b_flip(b: Self::B, mask: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_xor_si256(b, _mm256_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn b_swap<const UP: u32>(b: Self::B, mask: u32) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let count = _mm_cvtsi32_si128(UP as i32);
            let differ = _mm256_xor_si256(_mm256_srl_epi32(b, count), b);
            let differ = _mm256_and_si256(differ, _mm256_set1_epi32(mask as i32));
            _mm256_xor_si256(_mm256_xor_si256(b, differ), _mm256_sll_epi32(differ, count))
        }
    }
    #[inline(always)]
    unsafe fn b_words(p: *const u8, row: usize) -> [Self::B; 4] {
        // SAFETY: the caller guarantees 16 bytes of 8 rows and the instruction set.
        unsafe {
            // Each half has every fourth row, so that exchanging words inside of halves is all there is to do.
            let (a, b) = (every_fourth(p, row), every_fourth(p.add(row), row));
            let (c, d) = (every_fourth(p.add(2 * row), row), every_fourth(p.add(3 * row), row));
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }
    #[inline(always)]
    unsafe fn b_by_halves(b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
            let halves = _mm256_shuffle_epi8(b, _mm256_broadcastsi128_si256(order));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(halves)
        }
    }
    #[inline(always)]
    unsafe fn b_by_bytes(b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = _mm256_shuffle_epi8(b, _mm256_broadcastsi128_si256(order));
            _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        }
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[u8; 16], b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), b) }
    }
    #[inline(always)]
    unsafe fn prefetch<const LEVEL: u32>(p: *const u8) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe {
            match LEVEL {
                1 => _mm_prefetch::<_MM_HINT_T0>(p.cast()),
                _ => _mm_prefetch::<_MM_HINT_T1>(p.cast()),
            }
        }
    }
    #[inline(always)]
    unsafe fn zero_where_below(y: Self::F, x: Self::F, bound: f32) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_and_ps(y, _mm256_cmp_ps::<_CMP_GE_OQ>(x, _mm256_set1_ps(bound))) }
    }
    #[inline(always)]
    unsafe fn scales_u8(p: *const u8) -> Self::I {
        // SAFETY: the caller guarantees the bytes and the instruction set.
        unsafe {
            let scales = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            if VNNI { scales } else { pairs::twice(scales) }
        }
    }
    #[inline(always)]
    unsafe fn scales_of_pairs(pairs: Self::I) -> [Self::I; 2] {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            if VNNI {
                let first = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(pairs));
                return [first, _mm256_srai_epi32::<16>(pairs)];
            }
            let first = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
            [pairs::twice(first), pairs::twice(_mm256_srli_epi32::<16>(pairs))]
        }
    }
    #[inline(always)]
    unsafe fn dot_scaled_rows<const BITS: u32, const FROM: usize, const TO: usize, const T: usize>(
        sums: &mut [Self::I; T],
        w: &[Self::B; 8],
        x: [*const i8; T],
        scale: Self::I,
    ) {
        // SAFETY: same contract.
        unsafe {
            if VNNI {
                each_row!(T, |t| sums[t] = vnni::add_scaled::<FROM, TO>(sums[t], w, x[t], scale));
            } else {
                each_row!(T, |t| sums[t] = pairs::add_scaled::<BITS, FROM, TO>(sums[t], w, x[t], scale));
            }
        }
    }
    #[inline(always)]
    unsafe fn pairs_u8(p: *const u8) -> Self::I {
        // SAFETY: the caller guarantees the bytes and the instruction set.
        unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn pairs_i8(p: *const i8) -> Self::I {
        // SAFETY: the caller guarantees the bytes and the instruction set.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn twins_i8(p: *const i8) -> Self::I {
        // SAFETY: the caller guarantees the bytes and the instruction set.
        unsafe {
            let bytes = _mm_loadl_epi64(p.cast());
            _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(bytes, bytes))
        }
    }
    #[inline(always)]
    unsafe fn pairs_shl<const SHIFT: i32>(pairs: Self::I) -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm256_slli_epi16::<SHIFT>(pairs) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: Self::I, pairs: Self::I, x: *const i16) -> Self::I {
        // SAFETY: the caller guarantees two values and the instruction set.
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, x))
        }
    }
    #[inline(always)]
    unsafe fn dot_codes<const BITS: u32, const FROM: usize, const TO: usize>(
        acc: Self::I,
        w: &[Self::B; 8],
        x: *const i8,
    ) -> Self::I {
        // SAFETY: same contract.
        unsafe {
            if VNNI { vnni::add::<FROM, TO>(acc, w, x) } else { pairs::add::<BITS, FROM, TO>(acc, w, x) }
        }
    }
}

/// Mask of the first `n` lanes.
#[inline(always)]
fn first_lanes(n: usize) -> __m256i {
    // SAFETY: lane arithmetic of the instruction set that every caller has.
    unsafe {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
    }
}

/// 16 bytes at `p` of every fourth of 8 rows.
#[inline(always)]
unsafe fn every_fourth(p: *const u8, row: usize) -> __m256i {
    // SAFETY: the caller guarantees the bytes and the instruction set.
    unsafe {
        let first = _mm256_castsi128_si256(_mm_loadu_si128(p.cast()));
        _mm256_inserti128_si256::<1>(first, _mm_loadu_si128(p.add(4 * row).cast()))
    }
}

/// Shifts 16-bit lanes right, or left where `RIGHT` is negative.
#[inline(always)]
unsafe fn shift<const RIGHT: i32>(b: __m256i) -> __m256i {
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let count = _mm_cvtsi32_si128(RIGHT.abs());
        if RIGHT < 0 { _mm256_sll_epi16(b, count) } else { _mm256_srl_epi16(b, count) }
    }
}
