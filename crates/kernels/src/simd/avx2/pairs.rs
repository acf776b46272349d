//! Integer products of AVX2 alone: neighbouring products are added in 16 bits, as often as codes of so many bits
//! allow, and then in 32.

use std::arch::x86_64::*;

/// [`dot_codes`](super::Simd::dot_codes).
#[inline(always)]
pub(super) unsafe fn add<const BITS: u32, const FROM: usize, const TO: usize>(
    mut acc: __m256i,
    w: &[__m256i; 8],
    x: *const i8,
) -> __m256i {
    // SAFETY: the caller guarantees 4 * TO activations and the instruction set.
    unsafe {
        if FROM == 0 && TO == 8 && BITS <= 4 {
            let low = four::<BITS, 0>(w, x);
            return _mm256_add_epi32(acc, widen(_mm256_add_epi16(low, four::<BITS, 4>(w, x))));
        }
        if FROM == 0 {
            acc = add_four::<BITS, 0>(acc, w, x, _mm256_set1_epi16(1));
        }
        if TO == 8 {
            acc = add_four::<BITS, 4>(acc, w, x, _mm256_set1_epi16(1));
        }
    }
    acc
}

/// Scales in the low halves of the lanes, copied to the high halves.
#[inline(always)]
pub(super) unsafe fn twice(scales: __m256i) -> __m256i {
    // SAFETY: the caller guarantees the instruction set.
    unsafe { _mm256_or_si256(scales, _mm256_slli_epi32::<16>(scales)) }
}

/// Adds neighbouring 16-bit sums.
#[inline(always)]
unsafe fn widen(pairs: __m256i) -> __m256i {
    // SAFETY: the caller guarantees the instruction set.
    unsafe { _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)) }
}

/// Scaled products of group `g` in 32 bits.
#[inline(always)]
unsafe fn one<const BITS: u32>(w: &[__m256i; 8], x: *const i8, g: usize, scale: __m256i) -> __m256i {
    // SAFETY: as `product`.
    unsafe { _mm256_madd_epi16(product::<BITS>(w[g], x.add(4 * g)), scale) }
}

/// Products of groups `G` and `G + 1` in 16 bits.
#[inline(always)]
unsafe fn two<const BITS: u32, const G: usize>(w: &[__m256i; 8], x: *const i8) -> __m256i {
    // SAFETY: as `product`.
    unsafe {
        let first = product::<BITS>(w[G], x.add(4 * G));
        _mm256_add_epi16(first, product::<BITS>(w[G + 1], x.add(4 * G + 4)))
    }
}

/// Products of groups `G` to `G + 3` in 16 bits.
#[inline(always)]
unsafe fn four<const BITS: u32, const G: usize>(w: &[__m256i; 8], x: *const i8) -> __m256i {
    // SAFETY: as `product`. The index of the second pair is a constant expression of the two cases of G.
    unsafe {
        let second = if G == 0 { two::<BITS, 2>(w, x) } else { two::<BITS, 6>(w, x) };
        _mm256_add_epi16(two::<BITS, G>(w, x), second)
    }
}

/// Adds the scaled products of groups `FROM` to `TO` of one row.
#[inline(always)]
pub(super) unsafe fn add_scaled<const BITS: u32, const FROM: usize, const TO: usize>(
    mut acc: __m256i,
    w: &[__m256i; 8],
    x: *const i8,
    scale: __m256i,
) -> __m256i {
    // SAFETY: the caller guarantees 4 * TO activations and the instruction set.
    unsafe {
        if FROM == 0 && TO == 8 && BITS <= 4 {
            let sums = _mm256_add_epi16(four::<BITS, 0>(w, x), four::<BITS, 4>(w, x));
            return _mm256_add_epi32(acc, _mm256_madd_epi16(sums, scale));
        }
        if FROM == 0 {
            acc = add_four::<BITS, 0>(acc, w, x, scale);
        }
        if TO == 8 {
            acc = add_four::<BITS, 4>(acc, w, x, scale);
        }
    }
    acc
}

/// Adds the products of groups `G` to `G + 3`, scaled and widened as often as codes of `BITS` bits need: pair sums with
/// activations of at most 127 fit 16 bits eight times for 4 bits, four times for 5, twice for 6, once for 8.
#[inline(always)]
unsafe fn add_four<const BITS: u32, const G: usize>(
    acc: __m256i,
    w: &[__m256i; 8],
    x: *const i8,
    scale: __m256i,
) -> __m256i {
    // SAFETY: as `product`.
    unsafe {
        if BITS <= 5 {
            _mm256_add_epi32(acc, _mm256_madd_epi16(four::<BITS, G>(w, x), scale))
        } else if BITS == 6 {
            let second = if G == 0 { two::<BITS, 2>(w, x) } else { two::<BITS, 6>(w, x) };
            let acc = _mm256_add_epi32(acc, _mm256_madd_epi16(two::<BITS, G>(w, x), scale));
            _mm256_add_epi32(acc, _mm256_madd_epi16(second, scale))
        } else {
            let low = _mm256_add_epi32(one::<BITS>(w, x, G, scale), one::<BITS>(w, x, G + 1, scale));
            let high = _mm256_add_epi32(one::<BITS>(w, x, G + 2, scale), one::<BITS>(w, x, G + 3, scale));
            _mm256_add_epi32(acc, _mm256_add_epi32(low, high))
        }
    }
}

/// Sums of neighbouring products of codes and four broadcast activations. Eight-bit codes would
/// overflow the 16-bit pair sum, so they are taken as signed (`code - 128`) with the sign moved to the
/// activation; see `EIGHT_BIT_BIAS`.
#[inline(always)]
unsafe fn product<const BITS: u32>(w: __m256i, x: *const i8) -> __m256i {
    // SAFETY: the caller guarantees four activations and the instruction set.
    unsafe {
        let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
        if BITS < 8 {
            _mm256_maddubs_epi16(w, x)
        } else {
            let signed = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed))
        }
    }
}
