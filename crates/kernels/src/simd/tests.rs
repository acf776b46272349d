//! Integer products of every set that this processor has, against sums made one by one.

use super::*;
use crate::isa::Isa;
use proptest::prelude::*;

/// Codes and activations of a block for the most lanes and rows, whatever their values.
fn block() -> impl Strategy<Value = (Vec<u8>, Vec<i8>, Vec<u8>)> {
    let codes = prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(255)], 32 * 16);
    let values = prop::collection::vec(prop_oneof![-127..=127i8, Just(-127), Just(127)], 3 * 32);
    (codes, values, prop::collection::vec(0..64u8, 32))
}

proptest! {
    #[test]
    fn products_are_exact((codes, x, scales) in block()) {
        check::<Portable>(&codes, &x, &scales);
        #[cfg(target_arch = "x86_64")]
        {
            if Isa::Avx2.available() {
                // SAFETY: the processor has the set.
                unsafe { avx2(&codes, &x, &scales) };
            }
            if Isa::AvxVnni.available() {
                // SAFETY: as above.
                unsafe { avx_vnni(&codes, &x, &scales) };
            }
            if Isa::Avx512.available() {
                // SAFETY: as above.
                unsafe { avx512(&codes, &x, &scales) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(codes: &[u8], x: &[i8], scales: &[u8]) {
    check::<Avx2<false>>(codes, x, scales);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn avx_vnni(codes: &[u8], x: &[i8], scales: &[u8]) {
    check::<Avx2<true>>(codes, x, scales);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn avx512(codes: &[u8], x: &[i8], scales: &[u8]) {
    check::<Avx512>(codes, x, scales);
}

#[inline(always)]
fn check<S: Simd>(codes: &[u8], x: &[i8], scales: &[u8]) {
    magnitudes::<S>(x);
    of_bits::<S, 4>(codes, x);
    of_bits::<S, 5>(codes, x);
    of_bits::<S, 8>(codes, x);
    scaled::<S, 4, 0, 8>(codes, x, scales);
    scaled::<S, 5, 0, 8>(codes, x, scales);
    scaled::<S, 5, 0, 4>(codes, x, scales);
    scaled::<S, 6, 4, 8>(codes, x, scales);
    scaled::<S, 8, 0, 8>(codes, x, scales);
}

/// Three rows with the plain product.
#[inline(always)]
fn of_bits<S: Simd, const BITS: u32>(codes: &[u8], x: &[i8]) {
    let (codes, bias) = (below::<BITS>(codes), bias::<S, BITS>());
    // SAFETY: the caller checked for the set; pointers stand on whole blocks.
    unsafe {
        let mut dots = [S::i_splat(7), S::i_splat(-1), S::i_zero()];
        S::dot_rows::<BITS, 3>(&mut dots, &vectors::<S>(&codes), rows(x));
        for (t, (dot, start)) in dots.into_iter().zip([7, -1, 0]).enumerate() {
            for (lane, got) in lanes::<S>(dot).into_iter().enumerate() {
                assert_eq!(got, start + product::<S>(&codes, x, t, lane, 0..8, bias), "{BITS} bits");
            }
        }
    }
}

/// Three rows with a scale for each lane, given as a byte, as the first and the second of a pair, and as both of a pair
/// of signed ones.
#[inline(always)]
fn scaled<S: Simd, const BITS: u32, const FROM: usize, const TO: usize>(
    codes: &[u8],
    x: &[i8],
    scales: &[u8],
) {
    let (codes, bias) = (below::<BITS>(codes), bias::<S, BITS>());
    let signed: Vec<i8> = scales.iter().map(|&scale| scale as i8 - 32).collect();
    // SAFETY: as above; there are two scales for each lane.
    unsafe {
        let [first, second] = S::scales_of_pairs(S::pairs_u8(scales.as_ptr()));
        let twins = S::scales_of_pairs(S::twins_i8(signed.as_ptr()));
        let value = |of: usize, lane: usize| match of {
            0 => i32::from(scales[lane]),
            1 | 2 => i32::from(scales[2 * lane + of - 1]),
            _ => i32::from(signed[lane]),
        };
        let all = [S::scales_u8(scales.as_ptr()), first, second, twins[0], twins[1]];
        for (of, scale) in all.into_iter().enumerate() {
            let mut sums = [S::i_splat(5); 3];
            S::dot_scaled_rows::<BITS, FROM, TO, 3>(&mut sums, &vectors::<S>(&codes), rows(x), scale);
            for (t, sum) in sums.into_iter().enumerate() {
                for (lane, got) in lanes::<S>(sum).into_iter().enumerate() {
                    let dot = product::<S>(&codes, x, t, lane, FROM..TO, bias);
                    assert_eq!(got, 5 + value(of, lane) * dot, "{BITS} bits, scale {of}");
                }
            }
        }
    }
}

fn below<const BITS: u32>(codes: &[u8]) -> Vec<u8> {
    codes.iter().map(|c| c & (u8::MAX >> (8 - BITS))).collect()
}

/// What the set takes back from codes of `BITS` bits by itself.
fn bias<S: Simd, const BITS: u32>() -> i32 {
    if BITS == 8 { 128 - S::EIGHT_BIT_BIAS } else { 0 }
}

fn rows(x: &[i8]) -> [*const i8; 3] {
    std::array::from_fn(|t| x[32 * t..].as_ptr())
}

#[inline(always)]
unsafe fn vectors<S: Simd>(codes: &[u8]) -> [S::B; 8] {
    // SAFETY: eight vectors of codes by contract.
    std::array::from_fn(|g| unsafe { S::b_load(codes[4 * S::LANES * g..].as_ptr()) })
}

#[inline(always)]
unsafe fn lanes<S: Simd>(v: S::I) -> Vec<i32> {
    let mut out = vec![0; S::LANES];
    // SAFETY: room for all lanes.
    unsafe { S::i_store(out.as_mut_ptr(), v) };
    out
}

/// What lane `lane` of row `t` should come to over some groups.
fn product<S: Simd>(
    codes: &[u8],
    x: &[i8],
    t: usize,
    lane: usize,
    groups: std::ops::Range<usize>,
    less: i32,
) -> i32 {
    let k = groups.flat_map(|g| (0..4).map(move |i| (g, i)));
    k.map(|(g, i)| {
        let code = i32::from(codes[4 * S::LANES * g + 4 * lane + i]);
        (code - less) * i32::from(x[32 * t + 4 * g + i])
    })
    .sum()
}

/// NaN, of either sign, is the largest magnitude in whichever lane and of whichever operand it stands.
#[inline(always)]
fn magnitudes<S: Simd>(x: &[i8]) {
    let values: [f32; 16] = std::array::from_fn(|i| f32::from(x[i]));
    let largest = |values: &[f32]| {
        // SAFETY: no set has more than 16 lanes, and the caller's processor has the set.
        unsafe {
            let (a, zero) = (S::magnitude(S::load(values.as_ptr())), S::i_zero());
            assert_eq!(S::i_max_lane(S::i_max(a, zero)), S::i_max_lane(S::i_max(zero, a)));
            f32::from_bits(S::i_max_lane(S::i_max(a, zero)) as u32)
        }
    };
    assert_eq!(largest(&values), values[..S::LANES].iter().fold(0.0f32, |max, x| max.max(x.abs())));
    for (lane, fault) in (0..S::LANES).flat_map(|lane| [(lane, f32::NAN), (lane, -f32::NAN)]) {
        let mut values = values;
        values[lane] = fault;
        assert!(largest(&values).is_nan());
    }
}
