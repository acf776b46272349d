//! AVX-512 F/BW/DQ/VL with VNNI: sixteen lanes.

use super::{Simd, each_row};
use std::arch::x86_64::*;

/// See [`Simd`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512;

impl Simd for Avx512 {
    const LANES: usize = 16;
    const TILE: usize = 12;
    const EIGHT_BIT_BIAS: i32 = 128;
    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm512_maskz_loadu_ps(first_lanes(n), p) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize) {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm512_mask_storeu_ps(p, first_lanes(n), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Self::F) {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::F) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
                _mm512_cvtps_epi32(n),
                _mm512_set1_epi32(127),
            )))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    unsafe fn max_lane(a: Self::F) -> f32 {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn magnitude(a: Self::F) -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_castps_si512(_mm512_abs_ps(a)) }
    }
    #[inline(always)]
    unsafe fn i_max(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_max_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn i_max_lane(a: Self::I) -> i32 {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_reduce_max_epi32(a) }
    }
    #[inline(always)]
    unsafe fn i_store(p: *mut i32, v: Self::I) {
        // SAFETY: LANES writable elements by contract.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn i_to_f(a: Self::I) -> Self::F {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::F) {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v))) }
    }
    #[inline(always)]
    unsafe fn b_load(p: *const u8) -> Self::B {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn b_low(b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_and_si512(b, _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn b_high(b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(b), _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn i_zero() -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn b_bits<const RIGHT: i32>(b: Self::B, mask: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_and_si512(shift::<RIGHT>(b), _mm512_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn b_merge<const RIGHT: i32>(a: Self::B, b: Self::B, mask: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(mask as i8), a, shift::<RIGHT>(b)) }
    }
    #[inline(always)]
    unsafe fn b_or_bits<const RIGHT: i32>(a: Self::B, b: Self::B, mask: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_ternarylogic_epi32::<0xf8>(a, shift::<RIGHT>(b), _mm512_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn b_store(p: *mut u8, b: Self::B) {
        // SAFETY: the caller guarantees the room behind the pointer and the instruction set.
        unsafe { _mm512_storeu_si512(p.cast(), b) }
    }
    #[inline(always)]
    unsafe fn b_flip(b: Self::B, mask: u8) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_xor_si512(b, _mm512_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn b_swap<const UP: u32>(b: Self::B, mask: u32) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let differ = _mm512_xor_si512(_mm512_srli_epi32::<UP>(b), b);
            let differ = _mm512_and_si512(differ, _mm512_set1_epi32(mask as i32));
            _mm512_xor_si512(_mm512_xor_si512(b, differ), _mm512_slli_epi32::<UP>(differ))
        }
    }
    #[inline(always)]
    unsafe fn b_words(p: *const u8, row: usize) -> [Self::B; 4] {
        // SAFETY: the caller guarantees 16 bytes of 16 rows and the instruction set.
        unsafe {
            // Each quarter has every fourth row, so that exchanging words inside of quarters is all there is to do.
            let (a, b) = (every_fourth(p, row), every_fourth(p.add(row), row));
            let (c, d) = (every_fourth(p.add(2 * row), row), every_fourth(p.add(3 * row), row));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }
    #[inline(always)]
    unsafe fn b_by_halves(b: Self::B) -> Self::B {
        const ORDER: [u16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                order[i] = (i % 16 * 2 + i / 16) as u16;
                i += 1;
            }
            order
        };
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), b) }
    }
    #[inline(always)]
    unsafe fn b_by_bytes(b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(words, _mm512_shuffle_epi8(b, _mm512_broadcast_i32x4(order)))
        }
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[u8; 16], b: Self::B) -> Self::B {
        // SAFETY: the caller guarantees the elements behind the pointer and the instruction set.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), b) }
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
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, _mm512_set1_ps(bound)), y) }
    }
    #[inline(always)]
    unsafe fn scales_u8(p: *const u8) -> Self::I {
        // SAFETY: the caller guarantees the bytes and the instruction set.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn scales_of_pairs(pairs: Self::I) -> [Self::I; 2] {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { [_mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(pairs)), _mm512_srai_epi32::<16>(pairs)] }
    }
    #[inline(always)]
    unsafe fn dot_rows<const BITS: u32, const T: usize>(
        dots: &mut [Self::I; T],
        w: &[Self::B; 8],
        x: [*const i8; T],
    ) {
        // SAFETY: same contract.
        unsafe { groups::<0, 8, T>(dots, w, x) }
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
            let mut dots = [Self::i_zero(); T];
            groups::<FROM, TO, T>(&mut dots, w, x);
            each_row!(T, |t| sums[t] = _mm512_add_epi32(sums[t], _mm512_mullo_epi32(dots[t], scale)));
        }
    }
    #[inline(always)]
    unsafe fn pairs_u8(p: *const u8) -> Self::I {
        // SAFETY: the caller guarantees the bytes and the instruction set.
        unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn pairs_i8(p: *const i8) -> Self::I {
        // SAFETY: the caller guarantees the bytes and the instruction set.
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn twins_i8(p: *const i8) -> Self::I {
        // SAFETY: the caller guarantees the bytes and the instruction set.
        unsafe {
            let low = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()));
            _mm512_mask_blend_epi16(0x5555_5555, _mm512_slli_epi32::<16>(low), low)
        }
    }
    #[inline(always)]
    unsafe fn pairs_shl<const SHIFT: i32>(pairs: Self::I) -> Self::I {
        // SAFETY: the caller guarantees the instruction set.
        unsafe { _mm512_sll_epi16(pairs, _mm_cvtsi32_si128(SHIFT)) }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: Self::I, pairs: Self::I, x: *const i16) -> Self::I {
        // SAFETY: the caller guarantees two values and the instruction set.
        unsafe { _mm512_dpwssd_epi32(acc, pairs, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn dot_codes<const BITS: u32, const FROM: usize, const TO: usize>(
        mut acc: Self::I,
        w: &[Self::B; 8],
        x: *const i8,
    ) -> Self::I {
        // SAFETY: the caller guarantees 4 * TO activations and the instruction set.
        unsafe {
            if FROM == 0 {
                acc = group(group(group(group(acc, w, x, 0), w, x, 1), w, x, 2), w, x, 3);
            }
            if TO == 8 {
                acc = group(group(group(group(acc, w, x, 4), w, x, 5), w, x, 6), w, x, 7);
            }
        }
        acc
    }
}

/// Mask of the first `n` lanes.
#[inline(always)]
fn first_lanes(n: usize) -> __mmask16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// 16 bytes at `p` of every fourth of 16 rows.
#[inline(always)]
unsafe fn every_fourth(p: *const u8, row: usize) -> __m512i {
    // SAFETY: the caller guarantees the bytes and the instruction set.
    unsafe {
        let v = _mm512_castsi128_si512(_mm_loadu_si128(p.cast()));
        let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(p.add(4 * row).cast()));
        let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(p.add(8 * row).cast()));
        _mm512_inserti32x4::<3>(v, _mm_loadu_si128(p.add(12 * row).cast()))
    }
}

/// Shifts 16-bit lanes right, or left where `RIGHT` is negative.
#[inline(always)]
unsafe fn shift<const RIGHT: i32>(b: __m512i) -> __m512i {
    // SAFETY: the caller guarantees the instruction set.
    unsafe {
        let count = _mm_cvtsi32_si128(RIGHT.abs());
        if RIGHT < 0 { _mm512_sll_epi16(b, count) } else { _mm512_srl_epi16(b, count) }
    }
}

/// Adds the products of group `g`.
#[inline(always)]
unsafe fn group(acc: __m512i, w: &[__m512i; 8], x: *const i8, g: usize) -> __m512i {
    // SAFETY: the caller guarantees 4 * (g + 1) activations and the instruction set.
    unsafe { _mm512_dpbusd_epi32(acc, w[g], _mm512_set1_epi32(x.add(4 * g).cast::<i32>().read_unaligned())) }
}

/// Rows up to which the products of each are added in two sums: of more rows the others fill the time.
const FEW: usize = 4;

/// Adds the products of groups `FROM` to `TO`, each group for all rows before the next: eight products one behind the
/// other would wait for each other.
#[inline(always)]
unsafe fn groups<const FROM: usize, const TO: usize, const T: usize>(
    dots: &mut [__m512i; T],
    w: &[__m512i; 8],
    x: [*const i8; T],
) {
    macro_rules! add {
        ($($g:literal to $sums:ident),*) => {
            $(if FROM <= $g && $g < TO {
                each_row!(T, |t| $sums[t] = in_order(group($sums[t], w, x[t], $g)));
            })*
        };
    }
    // SAFETY: the caller guarantees 4 * TO activations of each row and the instruction set.
    unsafe {
        if T <= FEW && TO - FROM == 8 {
            let mut more = [_mm512_setzero_si512(); T];
            add!(0 to dots, 4 to more, 1 to dots, 5 to more, 2 to dots, 6 to more, 3 to dots, 7 to more);
            each_row!(T, |t| dots[t] = _mm512_add_epi32(dots[t], more[t]));
        } else {
            add!(0 to dots, 1 to dots, 2 to dots, 3 to dots, 4 to dots, 5 to dots, 6 to dots, 7 to dots);
        }
    }
}

/// Keeps the compiler from moving what makes `v` across what makes others.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(mut v: __m512i) -> __m512i {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}
