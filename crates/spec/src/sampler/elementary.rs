//! `ln` and `exp` from additions, multiplications and divisions alone, which IEEE 754 fixes to the
//! bit. The platform's own may differ in the last bit between systems, and a sampled text hangs
//! on that bit.

use std::f64::consts::{LN_2, SQRT_2};

/// Natural logarithm of a positive, finite, normal number; error below 2 ulp.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if mantissa > SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 atanh(s) with |s| < 0.172: the series to s^21 reaches double precision.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut series = 0.0;
    for odd in (3..=21).rev().step_by(2) {
        series = (series + 1.0 / f64::from(odd)) * square;
    }
    exponent as f64 * LN_2 + 2.0 * (s + s * series)
}

/// Exponential of a number that is not positive; relative error below 3e-7, zero below -87 and for
/// NaN. Free of branches, so that loops over it vectorise.
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, and leaves it in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few enough bits that its product with `k` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let inside = x > -87.0;
    let x = if inside { x } else { 0.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = x - k * LN_2_HIGH - k * LN_2_LOW;
    let mut series = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    // 2^k times the series, by adding k to the exponent. The series is above 0.7, so nothing
    // underflows.
    let power = rounded.to_bits().wrapping_sub(ROUND.to_bits()) << 23;
    if inside { f32::from_bits(series.to_bits().wrapping_add(power)) } else { 0.0 }
}

/// Sum of `exp(x - max)` over a row whose greatest element is `max`, in one fixed order.
pub(crate) fn sum_exp(row: &[f32], max: f32) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane += f64::from(exp(x - max));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(exp(x - max))).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agree_with_the_platform() {
        let mut x = 1e-300f64;
        while x < 1e300 {
            let expected = x.ln();
            assert!((ln(x) - expected).abs() <= 4e-16 * expected.abs().max(1.0), "ln {x}");
            x *= 1.37;
        }
        for i in 0..9000 {
            let x = -0.01 * i as f32;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs();
            assert!(error <= 3e-7 * expected + 1e-37, "exp {x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(ln(1.0), 0.0);
    }
}
