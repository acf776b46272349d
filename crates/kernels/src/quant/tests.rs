//! Layout, totality and encoding quality; equality with reference files is tested in
//! `leveret-model`, which reads the files.

use super::*;
use proptest::prelude::*;

const QUANTIZED: [ElementType; 13] = {
    use ElementType::*;
    [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs, Mxfp4]
};

fn decoded(ty: ElementType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
    dequantize(ty, bytes, &mut out).unwrap();
    out
}

/// Sum of 12 uniforms: close enough to a normal for comparing encoders.
fn weights(n: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.04).collect()
}

fn relative_error(ty: ElementType) -> f32 {
    let x = weights(256 * 64);
    let mut bytes = Vec::new();
    quantize(ty, &x, &mut bytes).unwrap();
    let y = decoded(ty, &bytes);
    let noise: f32 = x.iter().zip(&y).map(|(a, b)| (a - b).powi(2)).sum();
    (noise / x.iter().map(|v| v * v).sum::<f32>()).sqrt()
}

#[test]
fn encoders_are_accurate() {
    // On this data, plain rounding gives 0.00530, 0.0850 and (with scales that are not rounded to
    // six bits) 0.0779.
    for (ty, most) in [(ElementType::Q8_0, 0.0054), (ElementType::Q4_0, 0.081), (ElementType::Q4K, 0.073)] {
        let found = relative_error(ty);
        assert!(found < most, "{} {found}", ty.name());
    }
}

#[test]
fn encoders_keep_simple_blocks() {
    for ty in [ElementType::Q8_0, ElementType::Q4_0, ElementType::Q4K] {
        for value in [0.0f32, 1.0, -1.0, 0.375] {
            let mut bytes = Vec::new();
            quantize(ty, &[value; 512], &mut bytes).unwrap();
            for v in decoded(ty, &bytes) {
                assert!((v - value).abs() <= 4e-3 * value.abs(), "{} {value} {v}", ty.name());
            }
        }
    }
}

#[test]
fn lengths_are_checked() {
    let mut out = [0.0; 32];
    let error = dequantize(ElementType::Q4_0, &[0; 17], &mut out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "17 bytes of Q4_0 do not encode 32 elements (a block is 32 elements in 18 bytes)"
    );
    assert!(dequantize(ElementType::Q4K, &[0; 18], &mut out).is_err());
    assert!(dequantize(ElementType::F32, &[0; 127], &mut out).is_err());
    assert!(quantize(ElementType::Q4K, &[0.0; 32], &mut Vec::new()).is_err());
    assert!(quantize(ElementType::Q6K, &[0.0; 256], &mut Vec::new()).is_err());
    assert!(mxfp4_from_pairs(&[0; 17], &[0], &mut Vec::new()).is_err());
}

#[test]
fn powers_of_two_reach_the_subnormals() {
    assert_eq!(codebook::half_power(0), 2f32.powi(-128));
    assert_eq!(codebook::half_power(1), 2f32.powi(-127));
    assert_eq!(codebook::half_power(2), 2f32.powi(-126));
    assert_eq!(codebook::half_power(128), 1.0);
    assert_eq!(codebook::half_power(255), 2f32.powi(127));
}

#[test]
fn mxfp4_pairs_keep_element_order() {
    let packed: Vec<u8> = (0..16).map(|j| ((2 * j) % 16) | (((2 * j + 1) % 16) << 4)).collect();
    let mut bytes = Vec::new();
    mxfp4_from_pairs(&packed, &[129], &mut bytes).unwrap();
    let expected: Vec<f32> = (0..32).map(|i| f32::from(codebook::E2M1_DOUBLED[i % 16]) * 2.0).collect();
    assert_eq!(decoded(ElementType::Mxfp4, &bytes), expected);
}

proptest! {
    #[test]
    fn any_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 256)) {
        for ty in QUANTIZED {
            let block = &bytes[..ty.block_bytes()];
            let packing = packing(ty).unwrap();
            let mut codes = vec![0; ty.block_len()];
            unpack_codes(ty, block, &mut codes);
            prop_assert!(codes.iter().all(|&c| u32::from(c) < 1 << packing.code_bits));
            decoded(ty, block);
        }
    }

    #[test]
    fn any_values_encode(values in proptest::collection::vec(any::<f32>(), 256)) {
        for ty in [ElementType::Q8_0, ElementType::Q4_0, ElementType::Q4K] {
            let mut bytes = Vec::new();
            quantize(ty, &values, &mut bytes).unwrap();
            prop_assert_eq!(Some(bytes.len()), ty.row_bytes(256));
        }
    }
}
