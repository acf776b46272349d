use super::*;
use crate::Team;

/// A layer's shape and variant with the rows of a sequence.
#[derive(Clone)]
struct Layer {
    heads: usize,
    kv_heads: usize,
    k_dim: usize,
    v_dim: usize,
    window: Option<usize>,
    sinks: Option<Vec<f32>>,
    ty: KvType,
}

impl Layer {
    fn spec(&self) -> AttentionSpec<'_> {
        AttentionSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            k_dim: self.k_dim,
            v_dim: self.v_dim,
            scale: 1.0 / (self.k_dim as f32).sqrt(),
            window: self.window,
            sinks: self.sinks.as_deref(),
        }
    }

    fn buffer(&self, capacity: usize) -> KvBuffer {
        KvBuffer::new(self.ty, self.kv_heads, self.k_dim, self.v_dim, capacity).unwrap()
    }

    /// The query, key and value that token number `i` has.
    fn token(&self, i: usize) -> [Vec<f32>; 3] {
        let row = |n, salt| noise(n, (3 * i + salt) as u64);
        let mut q = row(self.heads * self.k_dim, 0);
        q.iter_mut().for_each(|x| *x *= 4.0);
        [q, row(self.kv_heads * self.k_dim, 1), row(self.kv_heads * self.v_dim, 2)]
    }

    fn write(&self, kv: &mut KvBuffer, slot: usize, tokens: &[usize]) {
        let rows: Vec<_> = tokens.iter().map(|&i| self.token(i)).collect();
        let k: Vec<f32> = rows.iter().flat_map(|[_, k, _]| k.clone()).collect();
        let v: Vec<f32> = rows.iter().flat_map(|[_, _, v]| v.clone()).collect();
        kv.write(slot, &k, &v);
    }

    fn attend(&self, threads: usize, kv: &KvBuffer, rows: &Visible<'_>, tokens: &[usize]) -> Vec<f32> {
        let q: Vec<f32> = tokens.iter().flat_map(|&i| self.token(i)[0].clone()).collect();
        let mut out = vec![f32::NAN; rows.rows() * self.heads * self.v_dim];
        let mut scratch = AttentionScratch::default();
        let team = Team::new(threads);
        // Twice, so that memory left from a call is seen to be harmless.
        for _ in 0..2 {
            attention(&team, &self.spec(), kv, rows, &q, &mut out, &mut scratch);
        }
        out
    }

    /// The last of `tokens`, in double precision.
    fn reference(&self, kv: &KvBuffer, slots: &[usize], token: usize) -> Vec<f64> {
        let spec = self.spec();
        let [q, ..] = self.token(token);
        let first = slots.len() - self.window.unwrap_or(slots.len()).min(slots.len());
        let mut out = Vec::new();
        for head in 0..self.heads {
            let kv_head = head / (self.heads / self.kv_heads);
            let q = &q[head * self.k_dim..][..self.k_dim];
            let (mut k, mut v) = (vec![0.0; self.k_dim], vec![0.0; self.v_dim]);
            let mut sum = spec.sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
            let mut sums = vec![0.0; self.v_dim];
            for &slot in &slots[first..] {
                kv.read_k(slot, kv_head, &mut k);
                kv.read_v(slot, kv_head, &mut v);
                let dot: f64 = q.iter().zip(&k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                let score = dot * f64::from(spec.scale);
                sum += score.exp();
                sums.iter_mut().zip(&v).for_each(|(s, &v)| *s += score.exp() * f64::from(v));
            }
            out.extend(sums.iter().map(|s| s / sum));
        }
        out
    }
}

/// Numbers in -1..1.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn layers() -> Vec<Layer> {
    let shapes = [
        (6, 2, 64, 64, KvType::F16),
        (4, 1, 20, 12, KvType::F32),
        (3, 3, 8, 16, KvType::F16),
        (14, 2, 24, 40, KvType::F32),
        (9, 1, 5, 7, KvType::F16),
    ];
    let mut layers = Vec::new();
    for (heads, kv_heads, k_dim, v_dim, ty) in shapes {
        for (window, sinks) in [(None, false), (Some(37), true), (Some(300), true)] {
            let sinks = sinks.then(|| noise(heads, 77));
            layers.push(Layer { heads, kv_heads, k_dim, v_dim, window, sinks, ty });
        }
    }
    layers
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() < 2e-6, "[{i}]: {g} for {w}");
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn chains_match_double_precision() {
    for layer in layers() {
        for (base, m) in [(0, 1), (0, 40), (15, 2), (250, 9), (256, 1), (511, 3), (700, 17)] {
            let tokens: Vec<usize> = (0..base + m).collect();
            let mut kv = layer.buffer(base + m);
            layer.write(&mut kv, 0, &tokens);
            let out = layer.attend(2, &kv, &Visible::chain(base, m), &tokens[base..]);
            for (i, out) in out.chunks(layer.heads * layer.v_dim).enumerate() {
                assert_close(out, &layer.reference(&kv, &tokens[..base + i + 1], base + i));
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    const LEN: usize = 600;
    for layer in layers() {
        let tokens: Vec<usize> = (0..LEN).collect();
        let width = layer.heads * layer.v_dim;
        let mut kv = layer.buffer(LEN);
        layer.write(&mut kv, 0, &tokens);
        let all = bits(&layer.attend(1, &kv, &Visible::chain(0, LEN), &tokens));
        for (chunk, threads) in [(LEN, 2), (LEN, 3), (101, 1), (8, 2), (3, 3), (300, 2)] {
            for base in (0..LEN).step_by(chunk) {
                if chunk < 10 && base % 90 > 2 * chunk {
                    continue;
                }
                let m = chunk.min(LEN - base);
                let out = layer.attend(threads, &kv, &Visible::chain(base, m), &tokens[base..base + m]);
                assert!(
                    bits(&out) == all[base * width..(base + m) * width],
                    "{chunk} at {base}, {threads} threads"
                );
            }
        }
        for base in [0, 1, 15, 16, 31, 255, 256, 257, 511, 512, 599] {
            // Nothing behind the row has been written here.
            let mut kv = layer.buffer(base + 1);
            layer.write(&mut kv, 0, &tokens[..base + 1]);
            for threads in [1, 2] {
                let out = layer.attend(threads, &kv, &Visible::chain(base, 1), &tokens[base..base + 1]);
                assert!(bits(&out) == all[base * width..(base + 1) * width], "alone at {base}");
            }
        }
    }
}

#[test]
fn a_tree_row_has_the_bits_of_its_path_as_a_chain() {
    // Parent of each row; row 0 is the root.
    const PARENTS: [usize; 12] = [0, 0, 0, 1, 1, 2, 4, 4, 7, 0, 8, 10];
    let mut paths: Vec<Vec<u32>> = Vec::new();
    for (row, &parent) in PARENTS.iter().enumerate() {
        let mut path = if row == 0 { Vec::new() } else { paths[parent].clone() };
        path.push(row as u32);
        paths.push(path);
    }
    let mut offsets = vec![0];
    paths.iter().for_each(|path| offsets.push(offsets[offsets.len() - 1] + path.len() as u32));
    let flat = paths.concat();

    for layer in layers() {
        for base in [0, 7, 245, 250, 256, 600] {
            let committed: Vec<usize> = (0..base).collect();
            let drafted: Vec<usize> = (0..PARENTS.len()).map(|row| 10_000 + row).collect();
            let mut kv = layer.buffer(base + drafted.len());
            layer.write(&mut kv, 0, &committed);
            layer.write(&mut kv, base, &drafted);
            let rows = Visible::tree(base, &flat, &offsets);
            let one = bits(&layer.attend(1, &kv, &rows, &drafted));
            let three = bits(&layer.attend(3, &kv, &rows, &drafted));
            assert!(one == three);
            let width = layer.heads * layer.v_dim;
            for held in [1, 5] {
                let later = Visible::tree_after(base, held, &flat, &offsets[held..]);
                let later = bits(&layer.attend(1, &kv, &later, &drafted[held..]));
                assert!(later == one[held * width..], "behind {held} rows at {base}");
            }
            for (row, path) in paths.iter().enumerate() {
                assert_eq!(rows.position(row), base + path.len() - 1);
                let path: Vec<usize> = path.iter().map(|&row| drafted[row as usize]).collect();
                let mut chain = layer.buffer(base + path.len());
                layer.write(&mut chain, 0, &committed);
                layer.write(&mut chain, base, &path);
                let out = layer.attend(1, &chain, &Visible::chain(base, path.len()), &path);
                let last = &out[out.len() - width..];
                assert!(bits(last) == one[row * width..(row + 1) * width], "row {row} at {base}");
                let slots: Vec<usize> = (0..base + path.len()).collect();
                assert_close(last, &layer.reference(&chain, &slots, drafted[row]));
            }
        }
    }
}

#[test]
fn rows_of_a_block_see_each_other() {
    for layer in layers() {
        for (base, m) in [(0, 1), (0, 40), (250, 9), (255, 2), (600, 60)] {
            let tokens: Vec<usize> = (0..base + m).collect();
            let mut kv = layer.buffer(base + m);
            layer.write(&mut kv, 0, &tokens);
            let rows = Visible::block(base, m);
            let out = layer.attend(1, &kv, &rows, &tokens[base..]);
            assert!(bits(&out) == bits(&layer.attend(3, &kv, &rows, &tokens[base..])));
            let whole = Layer { window: None, ..layer.clone() };
            for (i, out) in out.chunks(layer.heads * layer.v_dim).enumerate() {
                let far = layer.window.unwrap_or(usize::MAX);
                let seen: Vec<usize> =
                    tokens.iter().copied().filter(|j| j.abs_diff(base + i) < far).collect();
                assert_close(out, &whole.reference(&kv, &seen, base + i));
            }
        }
    }
}

#[test]
fn rows_are_stored_and_moved() {
    for layer in layers() {
        let mut kv = layer.buffer(300);
        assert_eq!(kv.capacity(), 512);
        layer.write(&mut kv, 250, &[1, 2, 3, 4, 5, 6, 7, 8]);
        kv.move_row(257, 3);
        let [_, k, v] = layer.token(8);
        let round = |x: f32| match layer.ty {
            KvType::F16 => half::f16::from_f32(x).to_f32(),
            KvType::F32 => x,
        };
        for head in 0..layer.kv_heads {
            for slot in [257, 3] {
                let (mut got_k, mut got_v) = (vec![0.0; layer.k_dim], vec![0.0; layer.v_dim]);
                kv.read_k(slot, head, &mut got_k);
                kv.read_v(slot, head, &mut got_v);
                assert!(got_k.iter().zip(&k[head * layer.k_dim..]).all(|(&g, &x)| g == round(x)));
                assert!(got_v.iter().zip(&v[head * layer.v_dim..]).all(|(&g, &x)| g == round(x)));
            }
        }
    }
    assert!(KvBuffer::new(KvType::F16, 8, 128, 128, usize::MAX).is_none());
    assert!(KvBuffer::new(KvType::F16, 8, 128, 128, usize::MAX / 4096).is_none());
    assert!(KvBuffer::new(KvType::F32, 1, 0, 1, 1).is_none());
    let mut kv = KvBuffer::new(KvType::F16, 1, 1, 1, 1).unwrap();
    kv.write(0, &[1e9], &[-1e9]);
    let mut x = [0.0];
    kv.read_v(0, 0, &mut x);
    assert_eq!(x, [-65504.0]);
}

#[test]
fn a_row_that_is_not_finite_stays_alone() {
    let layer = &layers()[0];
    let tokens: Vec<usize> = (0..20).collect();
    let mut kv = layer.buffer(20);
    layer.write(&mut kv, 0, &tokens);
    let clean = layer.attend(1, &kv, &Visible::chain(8, 12), &tokens[8..]);
    let width = layer.heads * layer.v_dim;
    kv.write(
        19,
        &vec![f32::NAN; layer.kv_heads * layer.k_dim],
        &vec![f32::NAN; layer.kv_heads * layer.v_dim],
    );
    let out = layer.attend(1, &kv, &Visible::chain(8, 12), &tokens[8..]);
    assert!(bits(&out[..11 * width]) == bits(&clean[..11 * width]));
}

#[test]
fn a_fork_has_the_rows_and_goes_on_alone() {
    for ty in [KvType::F16, KvType::F32] {
        let layer = Layer { heads: 2, kv_heads: 2, k_dim: 6, v_dim: 20, window: None, sinks: None, ty };
        let mut kv = layer.buffer(700);
        layer.write(&mut kv, 0, &(0..300).collect::<Vec<_>>());
        let mut fork = kv.fork(300).unwrap();
        layer.write(&mut fork, 299, &[900]);
        let row = |kv: &KvBuffer, slot| {
            let (mut k, mut v) = (vec![0.0; 6], vec![0.0; 20]);
            kv.read_k(slot, 1, &mut k);
            kv.read_v(slot, 1, &mut v);
            (k, v)
        };
        assert!((0..299).all(|slot| row(&fork, slot) == row(&kv, slot)));
        assert_ne!(row(&fork, 299), row(&kv, 299));
        assert_eq!(fork.capacity(), kv.capacity());
    }
}
