//! Integer products of AVX-VNNI: four products of bytes are added in 32 bits by one instruction.

use std::arch::x86_64::*;

/// [`dot_codes`](super::Simd::dot_codes).
#[inline(always)]
pub(super) unsafe fn add<const FROM: usize, const TO: usize>(
    mut acc: __m256i,
    w: &[__m256i; 8],
    x: *const i8,
) -> __m256i {
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

/// Adds the scaled products of groups `FROM` to `TO` of one row.
#[inline(always)]
pub(super) unsafe fn add_scaled<const FROM: usize, const TO: usize>(
    acc: __m256i,
    w: &[__m256i; 8],
    x: *const i8,
    scale: __m256i,
) -> __m256i {
    // SAFETY: as `add`.
    unsafe {
        let dot = add::<FROM, TO>(_mm256_setzero_si256(), w, x);
        _mm256_add_epi32(acc, _mm256_mullo_epi32(dot, scale))
    }
}

/// Adds the products of group `g`.
#[inline(always)]
unsafe fn group(acc: __m256i, w: &[__m256i; 8], x: *const i8, g: usize) -> __m256i {
    // SAFETY: the caller guarantees 4 * (g + 1) activations and the instruction set.
    unsafe {
        let x = _mm256_set1_epi32(x.add(4 * g).cast::<i32>().read_unaligned());
        _mm256_dpbusd_avx_epi32(acc, w[g], x)
    }
}
