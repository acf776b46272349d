//! Against the plain formula in `f64`, and the laws: any pass gives the bits of single rows, and keeping
//! `k` of `m` rows leaves the bits of `k` single rows.

use super::*;

const SHAPES: [DeltaShape; 4] = [
    DeltaShape { k_heads: 2, v_heads: 4, k_dim: 16, v_dim: 16, taps: 4 },
    DeltaShape { k_heads: 2, v_heads: 6, k_dim: 24, v_dim: 40, taps: 4 },
    DeltaShape { k_heads: 3, v_heads: 3, k_dim: 7, v_dim: 5, taps: 2 },
    DeltaShape { k_heads: 1, v_heads: 2, k_dim: 33, v_dim: 17, taps: 8 },
];

/// Numbers that look random and are the same everywhere.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next() as f32 / (1u64 << 30) as f32 - 1.0).collect()
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
}

/// A layer with weights, and the inputs of some rows.
struct Subject {
    shape: DeltaShape,
    conv: Vec<f32>,
    rates: Vec<f32>,
    dt_bias: Vec<f32>,
    mixed: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Subject {
    fn new(shape: DeltaShape, rows: usize) -> Self {
        let mut noise = Noise(5);
        Self {
            shape,
            conv: noise.floats(shape.taps * shape.channels()),
            rates: noise.floats(shape.v_heads).iter().map(|x| -(2.0 * x).exp()).collect(),
            dt_bias: noise.floats(shape.v_heads),
            mixed: noise.floats(rows * shape.channels()),
            a: noise.floats(rows * shape.v_heads),
            b: noise.floats(rows * shape.v_heads),
        }
    }

    fn state(&self) -> DeltaState {
        DeltaState::new(self.shape).unwrap()
    }

    /// Outputs of the rows whose inputs are `inputs`, in one pass.
    fn pass(
        &self,
        team: &Team,
        state: &mut DeltaState,
        inputs: &[usize],
        held: usize,
        parents: Option<&[Option<usize>]>,
        whole: bool,
    ) -> Vec<Vec<u32>> {
        let gather = |values: &[f32], width: usize| -> Vec<f32> {
            inputs.iter().flat_map(|&i| values[i * width..][..width].to_vec()).collect()
        };
        let (mixed, a, b) = (
            gather(&self.mixed, self.shape.channels()),
            gather(&self.a, self.shape.v_heads),
            gather(&self.b, self.shape.v_heads),
        );
        let (mut paths, mut offsets) = (Vec::new(), vec![0]);
        for mut row in held..held + inputs.len() {
            let Some(parents) = parents else { break };
            let mut path = vec![row as u32];
            while let Some(parent) = parents[row] {
                path.push(parent as u32);
                row = parent;
            }
            paths.extend(path.into_iter().rev());
            offsets.push(paths.len() as u32);
        }
        let tree = parents.map(|_| (&paths[..], &offsets[..]));
        let rows = DeltaRows { rows: inputs.len(), held, tree, whole };
        let mut out = vec![0.0; inputs.len() * self.shape.v_width()];
        let spec =
            DeltaSpec { shape: self.shape, conv: &self.conv, rates: &self.rates, dt_bias: &self.dt_bias };
        let inputs = DeltaInputs { mixed: &mixed, a: &a, b: &b };
        delta(team, &spec, state, &rows, &inputs, &mut out, &mut DeltaScratch::default());
        out.chunks_exact(self.shape.v_width()).map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
    }

    /// Each of the rows `inputs` alone, committed.
    fn single(&self, inputs: impl IntoIterator<Item = usize>) -> (DeltaState, Vec<Vec<u32>>) {
        let (team, mut state) = (Team::new(1), self.state());
        let mut out = Vec::new();
        for i in inputs {
            out.extend(self.pass(&team, &mut state, &[i], 0, None, false));
            state.commit(&[0]);
        }
        (state, out)
    }
}

fn bits(state: &mut DeltaState) -> (Vec<u32>, Vec<u32>) {
    let (matrices, window) = state.settled();
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect();
    (bits(matrices), bits(&window))
}

#[test]
fn rows_follow_the_formula() {
    for shape in SHAPES {
        let subject = Subject::new(shape, 12);
        let (_, found) = subject.single(0..12);
        let expected = plainly(&subject, 12);
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                let found = f64::from(f32::from_bits(found));
                assert!((found - expected).abs() < 2e-5, "{shape:?} row {row} [{i}]: {found} for {expected}");
            }
        }
    }
}

/// The definition, in `f64`.
fn plainly(subject: &Subject, rows: usize) -> Vec<Vec<f64>> {
    let shape = subject.shape;
    let (channels, kw, dk, dv) = (shape.channels(), shape.k_width(), shape.k_dim, shape.v_dim);
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let mut states = vec![vec![0.0f64; dk * dv]; shape.v_heads];
    let mut outputs = Vec::new();
    for row in 0..rows {
        let mixed: Vec<f64> = (0..channels)
            .map(|c| {
                let tap = |tap: usize| {
                    let source = (row + tap + 1).checked_sub(shape.taps);
                    let x = source.map_or(0.0, |source| f64::from(subject.mixed[source * channels + c]));
                    x * f64::from(subject.conv[tap * channels + c])
                };
                silu((0..shape.taps).map(tap).sum())
            })
            .collect();
        let unit = |x: &[f64]| -> Vec<f64> {
            let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
            x.iter().map(|x| x / length).collect()
        };
        let mut output = Vec::new();
        for (head, state) in states.iter_mut().enumerate() {
            let group = head / (shape.v_heads / shape.k_heads);
            let q = unit(&mixed[group * dk..][..dk]);
            let k = unit(&mixed[kw + group * dk..][..dk]);
            let v = &mixed[2 * kw + head * dv..][..dv];
            let at = row * shape.v_heads + head;
            let step = (f64::from(subject.a[at]) + f64::from(subject.dt_bias[head])).exp().ln_1p();
            let decay = (f64::from(subject.rates[head]) * step).exp();
            let beta = 1.0 / (1.0 + (-f64::from(subject.b[at])).exp());
            state.iter_mut().for_each(|s| *s *= decay);
            for (j, v) in v.iter().enumerate() {
                let read: f64 = (0..dk).map(|i| state[i * dv + j] * k[i]).sum();
                (0..dk).for_each(|i| state[i * dv + j] += k[i] * beta * (v - read));
                let sum: f64 = (0..dk).map(|i| state[i * dv + j] * q[i]).sum();
                output.push(sum / (dk as f64).sqrt());
            }
        }
        outputs.push(output);
    }
    outputs
}

#[test]
fn keeping_some_rows_is_stepping_them() {
    for shape in SHAPES {
        let (first, m) = (5, 9);
        let subject = Subject::new(shape, first + m + 3);
        let (_, reference) = subject.single(0..first + m + 3);
        for threads in [1, 3] {
            let team = Team::new(threads);
            for kept in 0..=m {
                let (mut state, _) = subject.single(0..first);
                let inputs: Vec<usize> = (first..first + m).collect();
                let out = subject.pass(&team, &mut state, &inputs, 0, None, false);
                assert!(out == reference[first..first + m], "{shape:?}, {threads} threads");
                state.commit(&(0..kept).collect::<Vec<_>>());
                let (mut plain, _) = subject.single(0..first + kept);
                // Going on from it, in a pass that is dropped, and then as if that had not been.
                let next: Vec<usize> = (first + kept..first + kept + 3).collect();
                for _ in 0..2 {
                    let out = subject.pass(&team, &mut state, &next, 0, None, false);
                    assert!(out == reference[first + kept..][..3], "{shape:?}, {kept} of {m}");
                    state.commit(&[]);
                }
                assert!(bits(&mut state) == bits(&mut plain), "{shape:?}: {kept} of {m} rows");
            }
        }
    }
}

#[test]
fn trees_are_their_paths() {
    let mut noise = Noise(11);
    for shape in SHAPES {
        let subject = Subject::new(shape, 40);
        for round in 0..12 {
            let team = Team::new(1 + round % 3);
            let (mut state, _) = subject.single(0..4);
            let n = 1 + noise.below(14);
            let parents: Vec<Option<usize>> = (0..n).map(|row| noise.below(row + 1).checked_sub(1)).collect();
            let inputs: Vec<usize> = (0..n).map(|_| noise.below(40)).collect();
            let path = |mut row: usize| {
                let mut path = vec![row];
                while let Some(parent) = parents[row] {
                    path.insert(0, parent);
                    row = parent;
                }
                path
            };
            // Grown in two passes, the second behind the first.
            let held = noise.below(n);
            let mut out = Vec::new();
            if held > 0 {
                out = subject.pass(&team, &mut state, &inputs[..held], 0, Some(&parents[..held]), false);
            }
            out.extend(subject.pass(&team, &mut state, &inputs[held..], held, Some(&parents), false));
            for (row, found) in out.iter().enumerate() {
                let text = (0..4).chain(path(row).into_iter().map(|row| inputs[row]));
                let (_, expected) = subject.single(text);
                assert!(Some(found) == expected.last(), "{shape:?}: row {row} of {parents:?}, {held} held");
            }
            let kept = path(noise.below(n));
            state.commit(&kept);
            let (mut plain, _) = subject.single((0..4).chain(kept.iter().map(|&row| inputs[row])));
            assert!(bits(&mut state) == bits(&mut plain), "{shape:?}: {kept:?} of {parents:?}");
        }
    }
}

#[test]
fn whole_passes_and_taking_back() {
    for shape in SHAPES {
        let subject = Subject::new(shape, 30);
        let team = Team::new(2);
        let (_, reference) = subject.single(0..30);
        let (mut state, _) = subject.single(0..3);
        let inputs: Vec<usize> = (3..20).collect();
        // Dropped, then kept.
        subject.pass(&team, &mut state, &inputs, 0, None, true);
        assert!(!state.can_commit(&[0], 17) && state.can_commit(&[], 17));
        state.commit(&[]);
        assert!(subject.pass(&team, &mut state, &inputs, 0, None, true) == reference[3..20]);
        state.commit(&(0..17).collect::<Vec<_>>());
        assert!(subject.pass(&team, &mut state, &[20, 21, 22], 0, None, false) == reference[20..23]);
        state.commit(&[0, 1, 2]);
        assert_eq!(state.revocable(), 3);
        state.revoke(2);
        assert!(subject.pass(&team, &mut state, &[21, 22], 0, None, false) == reference[21..23]);
        state.commit(&[0]);
        let (mut plain, _) = subject.single(0..22);
        assert!(bits(&mut state) == bits(&mut plain), "{shape:?}");
        state.reset();
        assert!(subject.pass(&team, &mut state, &[0, 1], 0, None, false) == reference[..2]);
    }
}

#[test]
fn impossible_shapes() {
    let good = SHAPES[0];
    for shape in [
        DeltaShape { k_heads: 0, ..good },
        DeltaShape { v_heads: 3, ..good },
        DeltaShape { v_dim: 0, ..good },
        DeltaShape { taps: 1, ..good },
        DeltaShape { taps: MAX_TAPS + 1, ..good },
        DeltaShape { k_dim: usize::MAX / 4, ..good },
        DeltaShape { k_dim: 1 << 22, v_dim: 1 << 22, ..good },
    ] {
        assert!(DeltaState::new(shape).is_none(), "{shape:?}");
    }
}
