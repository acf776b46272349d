use super::*;

fn row(n: usize, seed: u64, range: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0) * range
        })
        .collect()
}

#[track_caller]
fn assert_close(got: &[f32], want: impl Fn(usize) -> f64, relative: f64) {
    for (i, &g) in got.iter().enumerate() {
        let w = want(i);
        let error = (f64::from(g) - w).abs();
        assert!(error <= relative * w.abs() + 1e-30, "[{i}]: {g} for {w}");
    }
}

const LENGTHS: [usize; 9] = [1, 2, 7, 8, 15, 16, 33, 100, 1536];

#[test]
fn norms() {
    for n in LENGTHS {
        let (x, w) = (row(n, 1, 3.0), row(n, 2, 1.0));
        let square: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        let inv = 1.0 / (square / n as f64 + 1e-5).sqrt();
        let mut out = vec![0.0; n];
        rms_norm(&x, &w, 1e-5, &mut out);
        assert_close(&out, |i| f64::from(x[i]) * inv * f64::from(w[i]), 1e-6);
        // Two heads are normed as each alone.
        let mut heads = [x.clone(), x.clone()].concat();
        rms_norm_heads(&mut heads, &w, 1e-5);
        assert_eq!(heads, [out.clone(), out].concat());
        let mut plain = x.clone();
        rms_norm_unweighted(&mut plain, n, 1e-5);
        assert_close(&plain, |i| f64::from(x[i]) * inv, 1e-6);
    }
}

#[test]
fn sums() {
    for n in LENGTHS {
        let (x, y) = (row(n, 3, 1.0), row(n, 4, 1.0));
        let mut z = x.clone();
        add_assign(&mut z, &y);
        assert!((0..n).all(|i| z[i] == x[i] + y[i]));
        scale(&mut z, 0.3);
        assert!((0..n).all(|i| z[i] == (x[i] + y[i]) * 0.3));
        let mut z = x.clone();
        add_scaled(&mut z, &y, 0.7);
        assert!((0..n).all(|i| z[i] == y[i].mul_add(0.7, x[i])));
    }
}

#[test]
fn activations() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for (n, range) in LENGTHS.into_iter().flat_map(|n| [(n, 0.01), (n, 4.0), (n, 30.0)]) {
        let (gate, up) = (row(n, 5, range), row(n, 6, range));
        let (g, u) = (|i: usize| f64::from(gate[i]), |i: usize| f64::from(up[i]));
        let mut out = vec![0.0; n];
        swiglu(&gate, &up, &mut out);
        assert_close(&out, |i| g(i) * sigmoid(g(i)) * u(i), 1e-6);
        geglu_tanh(&gate, &up, &mut out);
        // The exponent's own rounding is amplified by its size, up to 88.
        assert_close(
            &out,
            |i| {
                let z = (2.0 / std::f64::consts::PI).sqrt() * (g(i) + 0.044715 * g(i).powi(3));
                let gelu = g(i) * sigmoid((2.0 * z).max(-87.9));
                if 2.0 * z < -80.0 { f64::from(out[i]) } else { gelu * u(i) }
            },
            2e-5,
        );
        swiglu_clamped(&gate, &up, 1.702, 7.0, &mut out);
        assert_close(
            &out,
            |i| {
                let (g, u) = (g(i).min(7.0), u(i).clamp(-7.0, 7.0));
                (u + 1.0) * g * sigmoid(f64::from(1.702f32) * g)
            },
            3e-6,
        );
        let mut x = gate.clone();
        softcap(&mut x, 5.0);
        assert_close(&x, |i| 5.0 * (g(i) / 5.0).tanh(), 1e-6);
    }
}

#[test]
fn rope_turns_pairs() {
    for (dim, rot) in [(2, 1), (12, 6), (20, 5), (64, 32), (128, 64), (80, 20)] {
        let x = row(dim, 7, 1.0);
        let angles = row(rot, 8, 3.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let turn = |a: usize, b: usize, i: usize| {
            let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
            let (a, b) = (f64::from(x[a]), f64::from(x[b]));
            (a * c - b * s, a * s + b * c)
        };
        let mut half = x.clone();
        rope_half(&mut half, &cos, &sin);
        for i in 0..rot {
            let (a, b) = turn(i, i + rot, i);
            assert!((f64::from(half[i]) - a).abs() < 3e-7 && (f64::from(half[i + rot]) - b).abs() < 3e-7);
        }
        assert_eq!(half[2 * rot..], x[2 * rot..]);
    }
}

#[test]
fn probabilities() {
    for n in LENGTHS {
        let x = row(n, 9, 20.0);
        let sum: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((f64::from(log_sum_exp(&x)) - sum.ln()).abs() < 1e-5);
        let mut p = x.clone();
        softmax(&mut p);
        assert_close(&p, |i| f64::from(x[i]).exp() / sum, 5e-6);
    }
    assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
    softmax(&mut []);
}

#[test]
fn selection() {
    for n in LENGTHS {
        let mut x = row(n, 10, 1.0);
        x.iter_mut().for_each(|x| *x = (*x * 4.0).round()); // many ties
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| x[b].total_cmp(&x[a])); // stable
        let x: Vec<f32> = x.iter().map(|x| x + 0.0).collect();
        assert_eq!(argmax(&x).1, x[order[0]]);
        assert_eq!(argmax(&x).0, x.iter().position(|&v| v == x[order[0]]).unwrap());
        for k in [0, 1, 3, n, n + 2] {
            let top = top_k(&x, k);
            let mut want: Vec<usize> = (0..n).collect();
            want.sort_by(|&a, &b| x[b].partial_cmp(&x[a]).unwrap());
            want.truncate(k);
            assert_eq!(top, want);
        }
    }
    assert_eq!(argmax(&[]), (0, f32::NEG_INFINITY));
    assert_eq!(argmax(&[f32::NAN, 1.0, f32::NAN, 2.0]), (3, 2.0));
    assert_eq!(top_k(&[f32::NAN, 1.0, f32::NAN, 2.0], 3), [3, 1, 0]);
}

#[test]
fn gates() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for n in LENGTHS {
        let (x, gate, w) = (row(2 * n, 21, 2.0), row(2 * n, 22, 5.0), row(n, 23, 1.0));
        let mut out = x.clone();
        mul_sigmoid(&mut out, &gate);
        assert_close(&out, |i| f64::from(x[i]) * sigmoid(f64::from(gate[i])), 1e-6);
        let mut normed = x.clone();
        rms_norm_heads(&mut normed, &w, 1e-6);
        rms_norm_gated(&x, &w, &gate, 1e-6, &mut out);
        let silu = |i: usize| f64::from(gate[i]) * sigmoid(f64::from(gate[i]));
        assert_close(&out, |i| f64::from(normed[i]) * silu(i), 1e-6);
    }
}
