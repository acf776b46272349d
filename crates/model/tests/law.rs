//! Row invariance of the decoder over every golden family: features as well as logits, both cache
//! types, random trees, passes over several sequences. Larger models and sampled texts are checked
//! by the tests of the `leveret` crate.

mod common;

use leveret_model::{Cache, KvType, LoadOptions, LogitRows, Model, Pass, Sequence, Source, Tap, Target};

/// Rows before those that are compared: across windows, and across an attention block.
const PREFIX: usize = 70;
const TAIL: usize = 34;

/// Logits and features of one row, as bits.
type Row = Vec<u32>;

struct Subject {
    model: Model,
    taps: Vec<Tap>,
}

impl Subject {
    fn new(source: &Source, kv: KvType, threads: usize) -> Self {
        let mut model = Model::load(source, &LoadOptions { threads, kv, ..LoadOptions::default() }).unwrap();
        let layers = model.config().layers.len();
        let ends = [Tap::Final, Tap::Residual(0), Tap::Residual(layers / 2), Tap::Residual(layers)];
        // Some layers share a cache or have none.
        let mut cache = model.new_cache(1).unwrap();
        let mut has = |tap: &Tap| {
            let pass = Pass { cache: &mut cache, tokens: &[0], parents: None, logits: LogitRows::None };
            model.forward(&mut [pass], &[*tap]).is_ok()
        };
        let cached = [
            (0..layers).map(Tap::Keys).find(&mut has).unwrap(),
            (0..layers).rev().map(Tap::Values).find(&mut has).unwrap(),
        ];
        let taps = [&ends[..], &cached].concat();
        Self { model, taps }
    }

    fn cache(&self) -> Sequence {
        self.model.new_cache(PREFIX + 2 * TAIL).unwrap()
    }

    fn pass(&mut self, cache: &mut Sequence, tokens: &[u32], parents: Option<&[Option<usize>]>) -> Vec<Row> {
        let pass = Pass { cache, tokens, parents, logits: LogitRows::All };
        self.model.forward(&mut [pass], &self.taps).unwrap();
        (0..tokens.len()).map(|row| self.row(row, row)).collect()
    }

    fn row(&self, logits: usize, row: usize) -> Row {
        let features = (0..self.taps.len()).flat_map(|tap| self.model.feature(tap, row));
        self.model.logits(logits).iter().chain(features).map(|x| x.to_bits()).collect()
    }

    /// Rows of `tokens` in passes of `m`, all committed.
    fn chain(&mut self, cache: &mut Sequence, tokens: &[u32], m: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        for chunk in tokens.chunks(m) {
            rows.extend(self.pass(cache, chunk, None));
            cache.commit(&(0..chunk.len()).collect::<Vec<_>>()).unwrap();
        }
        rows
    }
}

/// A generator that is the same everywhere.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[test]
fn rows_do_not_depend_on_the_pass() {
    let mut seen = 0;
    for golden in common::goldens() {
        for checkpoint in golden.checkpoints() {
            let Ok(source) = Source::open(&checkpoint.path) else { continue };
            if source.footprint(&LoadOptions::default()).is_err() {
                continue;
            }
            for kv in [KvType::F16, KvType::F32] {
                check(&source, kv);
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} checkpoints");
}

fn check(source: &Source, kv: KvType) {
    let mut subject = Subject::new(source, kv, 1);
    let mut noise = Noise(7);
    let vocab = subject.model.vocab_size();
    let tokens: Vec<u32> = (0..PREFIX + TAIL).map(|_| noise.below(vocab) as u32).collect();
    let reference = {
        let mut cache = subject.cache();
        subject.chain(&mut cache, &tokens, 1)
    };
    let same = |found: &[Row], first: usize, what: &str| {
        for (i, row) in found.iter().enumerate() {
            assert!(row == &reference[first + i], "{} {kv:?}: {what}, row {i}", source.path().display());
        }
    };
    for threads in [1, 2, 3] {
        let mut subject = Subject::new(source, kv, threads);
        for m in [2, 3, 5, 8, 13, 32, PREFIX + TAIL] {
            let mut cache = subject.cache();
            let rows = subject.chain(&mut cache, &tokens, m);
            same(&rows, 0, &format!("{threads} threads, passes of {m}"));
        }
        for _ in 0..3 {
            check_tree(&mut subject, &tokens, &reference, &mut noise);
        }
        check_together(&mut subject, &tokens, &reference);
    }
}

/// A random tree with the text hidden on one of its paths; the path is committed and gone on from.
fn check_tree(subject: &mut Subject, tokens: &[u32], reference: &[Row], noise: &mut Noise) {
    let vocab = subject.model.vocab_size();
    let mut cache = subject.cache();
    subject.chain(&mut cache, &tokens[..PREFIX], 64);
    let (mut rows, mut parents, mut path) = (Vec::new(), Vec::new(), Vec::<usize>::new());
    while path.len() < 8 {
        if noise.below(3) == 0 {
            parents.push(path.last().copied());
            path.push(rows.len());
            rows.push(tokens[PREFIX + path.len() - 1]);
        } else {
            parents.push(noise.below(rows.len() + 1).checked_sub(1));
            rows.push(noise.below(vocab) as u32);
        }
    }
    let found = subject.pass(&mut cache, &rows, Some(&parents));
    for (depth, &row) in path.iter().enumerate() {
        assert!(found[row] == reference[PREFIX + depth], "row {row} of the tree {parents:?}");
    }
    cache.commit(&path).unwrap();
    let after = subject.chain(&mut cache, &tokens[PREFIX + path.len()..], 5);
    assert!(after == reference[PREFIX + path.len()..], "after the tree {parents:?}, {path:?}");
}

/// Three sequences at different places in one pass, one of them a tree.
fn check_together(subject: &mut Subject, tokens: &[u32], reference: &[Row]) {
    let (mut a, mut b, mut c) = (subject.cache(), subject.cache(), subject.cache());
    subject.chain(&mut a, &tokens[..PREFIX], 64);
    subject.chain(&mut b, &tokens[..9], 4);
    let tree = [tokens[9], tokens[9], tokens[10]];
    let parents = [None, None, Some(1)];
    let mut passes = [
        Pass { cache: &mut a, tokens: &tokens[PREFIX..PREFIX + 4], parents: None, logits: LogitRows::Last },
        Pass { cache: &mut b, tokens: &tree, parents: Some(&parents), logits: LogitRows::All },
        Pass { cache: &mut c, tokens: &tokens[..20], parents: None, logits: LogitRows::None },
    ];
    subject.model.forward(&mut passes, &subject.taps).unwrap();
    assert!(subject.row(0, 3) == reference[PREFIX + 3]);
    assert!(subject.row(1, 4) == reference[9]);
    assert!(subject.row(2, 5) == reference[9]);
    assert!(subject.row(3, 6) == reference[10]);
    c.commit(&(0..20).collect::<Vec<_>>()).unwrap();
    let rows = subject.chain(&mut c, &tokens[20..40], 7);
    assert!(rows == reference[20..40]);
}
