use super::*;
use crate::quant;
use proptest::prelude::*;

/// A cheap generator of repeatable noise.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Stored bytes of sane random weights of any type: random codes and small scales.
fn stored(ty: ElementType, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut next = noise(seed);
    let mut bytes = vec![0u8; ty.row_bytes(cols).unwrap() * rows];
    bytes.iter_mut().for_each(|b| *b = next() as u8);
    let small = |n: u64| half::f16::from_f32(0.01 + (n % 64) as f32 / 4096.0).to_bits();
    use ElementType as T;
    let (halves, unit): (&[usize], usize) = match ty {
        T::Q4_0 | T::Q5_0 | T::Q8_0 | T::Iq4Nl | T::Iq4Xs => (&[0], ty.block_bytes()),
        T::Q4_1 | T::Q5_1 | T::Q4K | T::Q5K => (&[0, 2], ty.block_bytes()),
        T::Q2K => (&[80, 82], 84),
        T::Q3K => (&[108], 110),
        T::Q6K => (&[208], 210),
        T::F16 => (&[0], 2),
        _ => (&[], ty.block_bytes()),
    };
    for block in bytes.chunks_exact_mut(unit) {
        for &at in halves {
            block[at..at + 2].copy_from_slice(&small(next()).to_le_bytes());
        }
        let value = (next() % 4096) as f32 / 8192.0 - 0.25;
        match ty {
            T::Mxfp4 => block[0] = 115 + block[0] % 8,
            T::BF16 => block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            T::F32 => block.copy_from_slice(&value.to_le_bytes()),
            T::F16 => block.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
            _ => {}
        }
    }
    bytes
}

fn inputs(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    let mut next = noise(seed);
    (0..rows * cols).map(|_| (next() % 20001) as f32 / 5000.0 - 2.0).collect()
}

fn product(team: &Team, matrix: &Matrix, x: &[f32]) -> Vec<f32> {
    let (cols, mut acts) = (matrix.cols(), Activations::new());
    let rows = x.len() / cols;
    acts.fill(team, rows, cols, |r, out| out.copy_from_slice(&x[r * cols..][..cols]));
    let mut out = vec![f32::NAN; rows * matrix.rows()];
    matmul(team, &acts, &mut [Job { matrix, rows: Rows::All, out: &mut out, add: false }]);
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn unpacking_gives_the_dequantised_row_for_every_type() {
    let team = Team::new(2);
    for ty in ElementType::ALL {
        let (rows, cols) = (21, 512);
        let bytes = stored(ty, rows, cols, 3);
        let matrix = Matrix::pack(&team, ty, &bytes, rows, cols).unwrap();
        let (mut expected, mut row) = (vec![0.0; rows * cols], vec![0.0; cols]);
        quant::dequantize(ty, &bytes, &mut expected).unwrap();
        for r in 0..rows {
            matrix.row(r, &mut row);
            for (k, (a, b)) in row.iter().zip(&expected[r * cols..]).enumerate() {
                assert!(
                    (a - b).abs() <= 1e-6 * b.abs().max(1e-3),
                    "{} row {r} element {k}: {a} for {b}",
                    ty.name()
                );
            }
        }
    }
}

#[test]
fn products_are_close_to_those_of_the_dequantised_weights() {
    let team = Team::new(2);
    for ty in ElementType::ALL {
        let (rows, cols, m) = (37, 768, 11);
        let bytes = stored(ty, rows, cols, 5);
        let x = inputs(m, cols, 7);
        let matrix = Matrix::pack(&team, ty, &bytes, rows, cols).unwrap();
        let mut w = vec![0.0; rows * cols];
        quant::dequantize(ty, &bytes, &mut w).unwrap();
        let out = product(&team, &matrix, &x);
        for (i, &got) in out.iter().enumerate() {
            let (t, r) = (i / rows, i % rows);
            let pairs = || x[t * cols..][..cols].iter().zip(&w[r * cols..][..cols]);
            let exact: f64 = pairs().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let size: f64 = pairs().map(|(a, b)| (f64::from(*a) * f64::from(*b)).powi(2)).sum::<f64>().sqrt();
            // int8 activations err by up to 1/254 of the block's largest, at random.
            let allowed = if ty.is_quantized() { 0.02 } else { 1e-5 } * size;
            assert!(
                (f64::from(got) - exact).abs() <= allowed,
                "{} [{t},{r}]: {got} for {exact} +- {allowed}",
                ty.name()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The law: bits of a row do not depend on the rows beside it, nor on threads, job or range.
    #[test]
    fn a_row_has_the_same_bits_in_every_product(
        which in 0..ElementType::ALL.len(), rows in 1usize..70, supers in 1usize..4, m in 1usize..40, seed in any::<u64>(),
    ) {
        let ty = ElementType::ALL[which];
        let cols = if ty.is_quantized() { supers * ty.block_len() } else { 7 * supers + m };
        let bytes = stored(ty, rows, cols, seed);
        let x = inputs(m, cols, !seed);
        let (alone, three) = (Team::new(1), Team::new(3));
        let matrix = Matrix::pack(&three, ty, &bytes, rows, cols).unwrap();
        let all = product(&three, &matrix, &x);
        for t in 0..m {
            let one = product(&alone, &matrix, &x[t * cols..][..cols]);
            prop_assert_eq!(bits(&one), bits(&all[t * rows..][..rows]), "{} row {}", ty.name(), t);
        }
        let mut acts = Activations::new();
        acts.fill(&three, m, cols, |r, out| out.copy_from_slice(&x[r * cols..][..cols]));
        let list: Vec<u32> = (0..m as u32).rev().collect();
        let (mut a, mut b) = (vec![0.0; m * rows], vec![1.0; (m - m / 2) * rows]);
        matmul(&three, &acts, &mut [
            Job { matrix: &matrix, rows: Rows::List(&list), out: &mut a, add: false },
            Job { matrix: &matrix, rows: Rows::Range(m / 2..m), out: &mut b, add: true },
        ]);
        for t in 0..m {
            prop_assert_eq!(bits(&a[(m - 1 - t) * rows..][..rows]), bits(&all[t * rows..][..rows]));
        }
        let sums: Vec<f32> = all[m / 2 * rows..].iter().map(|x| 1.0 + x).collect();
        prop_assert_eq!(bits(&b), bits(&sums));
        // The first features alone.
        let few = 1 + seed as usize % rows;
        let mut narrow = vec![0.0; m * few];
        matmul(&three, &acts, &mut [Job { matrix: &matrix, rows: Rows::All, out: &mut narrow, add: false }]);
        for t in 0..m {
            prop_assert_eq!(bits(&narrow[t * few..][..few]), bits(&all[t * rows..][..few]), "{} of {}", few, rows);
        }
    }
}

/// Every number of rows that has a kernel of its own, and the first that has not.
#[test]
fn each_number_of_rows_gives_the_bits_of_single_rows() {
    let rows = 37;
    let (alone, two) = (Team::new(1), Team::new(2));
    for ty in ElementType::ALL {
        // Of blocks an odd number, and more than tiles hold ready at once.
        let cols = if ty.block_len() == BLOCK { 35 * BLOCK } else { 512 };
        let matrix = Matrix::pack(&two, ty, &stored(ty, rows, cols, 13), rows, cols).unwrap();
        let x = inputs(33, cols, 17);
        let single: Vec<Vec<u32>> = x.chunks(cols).map(|x| bits(&product(&alone, &matrix, x))).collect();
        for m in 2..=33 {
            let all = bits(&product(&two, &matrix, &x[..m * cols]));
            assert_eq!(all, single[..m].concat(), "{} in a pass of {m} rows", ty.name());
        }
    }
}

/// More rows than are worked on at a time, which tiles do where there are any.
#[test]
fn rows_of_a_long_prompt_have_the_bits_of_single_rows() {
    let (rows, cols, m) = (150, 512, 549);
    let (alone, two) = (Team::new(1), Team::new(2));
    use ElementType as T;
    for ty in [T::Q2K, T::Q4K, T::Q6K, T::Iq4Xs, T::Q4_1, T::Q5_0, T::Q8_0, T::Mxfp4] {
        let matrix = Matrix::pack(&two, ty, &stored(ty, rows, cols, 9), rows, cols).unwrap();
        let x = inputs(m, cols, 11);
        let all = product(&two, &matrix, &x);
        for t in [0, 1, 15, 16, 31, 32, 300, 511, 512, 530, m - 1] {
            let one = product(&alone, &matrix, &x[t * cols..][..cols]);
            assert_eq!(bits(&one), bits(&all[t * rows..][..rows]), "{} row {t}", ty.name());
        }
    }
}

#[test]
fn a_wrong_size_is_an_error() {
    let team = Team::new(1);
    let error = Matrix::pack(&team, ElementType::Q4_0, &[0; 17], 1, 32).unwrap_err();
    assert_eq!(error, MatrixError::Bytes { found: 17, expected: 18 });
    let error = Matrix::pack(&team, ElementType::Q4K, &[], 1, 100).unwrap_err();
    assert_eq!(error, MatrixError::Width { ty: ElementType::Q4K, cols: 100 });
    assert!(matches!(
        Matrix::pack(&team, ElementType::F32, &[], usize::MAX, 8),
        Err(MatrixError::Memory { .. } | MatrixError::Bytes { .. })
    ));
}
