//! Recurrent layers in a decoder: committing k of m rows is the same as k plain steps, whatever comes
//! after; what a state cannot do is refused; both dialects of the projections are one model.

mod common;

use leveret_model::convert::{self, ConvertOptions};
use leveret_model::formats::Safetensors;
use leveret_model::{
    Cache, ElementType, KvType, LoadOptions, LogitRows, Model, Pass, Precision, Sequence, Source, Target,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn load(path: &Path, threads: usize) -> Model {
    let source = Source::open(path).unwrap();
    Model::load(&source, &LoadOptions { threads, ..LoadOptions::default() }).unwrap()
}

fn checkpoints() -> Vec<PathBuf> {
    let layouts = ["qwen35", "qwen35-moe"].map(|case| {
        [common::golden(case).join("target"), common::golden(case).join("gguf/target-bf16.gguf")]
    });
    layouts.into_iter().flatten().collect()
}

/// Logits of the rows of one pass, as bits.
fn pass(
    model: &mut Model,
    cache: &mut Sequence,
    tokens: &[u32],
    parents: Option<&[Option<usize>]>,
) -> Vec<Vec<u32>> {
    let pass = Pass { cache, tokens, parents, logits: LogitRows::All };
    model.forward(&mut [pass], &[]).unwrap();
    (0..tokens.len()).map(|row| model.logits(row).iter().map(|x| x.to_bits()).collect()).collect()
}

/// Tokens one by one, all committed.
fn plainly(model: &mut Model, cache: &mut Sequence, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut rows = Vec::new();
    for token in tokens {
        rows.extend(pass(model, cache, &[*token], None));
        cache.commit(&[0]).unwrap();
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Rounds of random length, of which a random part is kept; then plain steps show the state.
    #[test]
    fn rounds_leave_what_plain_steps_leave(
        which in 0usize..4,
        threads in 1usize..4,
        start in 1usize..12,
        rounds in prop::collection::vec((1usize..12, any::<prop::sample::Index>(), any::<bool>()), 1..6),
        seed in any::<u32>(),
    ) {
        let mut model = load(&checkpoints()[which], threads);
        let vocab = model.vocab_size() as u32;
        let token = |i: usize| (seed.wrapping_add(i as u32).wrapping_mul(2_654_435_761) >> 7) % vocab;
        let text: Vec<u32> = (0..80).map(token).collect();
        let (mut drafted, mut plain) = (model.new_cache(100).unwrap(), model.new_cache(100).unwrap());
        let reference = plainly(&mut model, &mut plain, &text);
        plainly(&mut model, &mut drafted, &text[..start]);
        let mut at = start;
        for (m, keep, tree) in rounds {
            // The text, with rows of another text behind the part that is kept.
            let k = keep.index(m + 1);
            let mut rows: Vec<u32> = (0..m).map(|i| if i < k { text[at + i] } else { token(1000 + i) }).collect();
            let mut path: Vec<usize> = (0..k).collect();
            let mut parents: Vec<Option<usize>> = (0..m).map(|row| row.checked_sub(1)).collect();
            if tree {
                // A wrong child of the root before all others.
                rows.insert(0, token(2000));
                path.iter_mut().for_each(|row| *row += 1);
                parents = std::iter::once(None)
                    .chain((0..m).map(|row| (row > 0).then_some(row)))
                    .collect();
            }
            let found = pass(&mut model, &mut drafted, &rows, Some(&parents));
            for (i, &row) in path.iter().enumerate() {
                prop_assert!(found[row] == reference[at + i], "row {} of {}", i, m);
            }
            drafted.commit(&path).unwrap();
            at += k;
        }
        let rest = plainly(&mut model, &mut drafted, &text[at..]);
        prop_assert!(rest == reference[at..]);
    }
}

#[test]
fn going_back() {
    let mut model = load(&checkpoints()[0], 1);
    let text: Vec<u32> = (1..100).collect();
    let mut cache = model.new_cache(100).unwrap();
    let reference = plainly(&mut model, &mut cache, &text[..12]);
    let refusal = cache.truncate(5).unwrap_err().to_string();
    assert!(refusal.contains("from 12 rows to 5") && refusal.contains("truncate to 0"), "{refusal}");
    assert_eq!(cache.len(), 12);
    // The last commit's rows, as long as no pass has come.
    cache.truncate(11).unwrap();
    assert!(pass(&mut model, &mut cache, &text[11..12], None) == reference[11..12]);
    assert!(cache.truncate(10).is_err());
    cache.truncate(0).unwrap();
    assert!(plainly(&mut model, &mut cache, &text[..12]) == reference);

    // A long chunk without logits is kept whole or not at all.
    cache.truncate(0).unwrap();
    for keep in [0, 90] {
        let tokens = &text[..90];
        let pass = Pass { cache: &mut cache, tokens, parents: None, logits: LogitRows::Last };
        model.forward(&mut [pass], &[]).unwrap();
        let refusal = cache.commit(&[0, 1]).unwrap_err().to_string();
        assert!(refusal.contains("2 rows of 90") && refusal.contains("tape"), "{refusal}");
        cache.commit(&(0..keep).collect::<Vec<_>>()).unwrap();
    }
    assert!(
        pass(&mut model, &mut cache, &[7], None) == {
            let mut plain = model.new_cache(100).unwrap();
            plainly(&mut model, &mut plain, &text[..90]);
            pass(&mut model, &mut plain, &[7], None)
        }
    );
}

/// Neither a fork nor what it came from shows that there is the other.
#[test]
fn a_fork_goes_on_alone() {
    for case in ["llama", "gemma4-e", "qwen35"] {
        let mut model = load(&common::golden(case).join("target"), 1);
        let (text, other): (Vec<u32>, Vec<u32>) = ((1..40).collect(), (60..80).collect());
        let mut plain = |tokens: &[u32]| {
            let mut cache = model.new_cache(100).unwrap();
            plainly(&mut model, &mut cache, tokens)
        };
        let (on, aside) = (plain(&text), plain(&[&text[..12], &other[..]].concat()));
        let mut cache = model.new_cache(100).unwrap();
        plainly(&mut model, &mut cache, &text[..12]);
        // What is not committed is not the fork's.
        pass(&mut model, &mut cache, &[5, 6], None);
        let mut fork = cache.fork().unwrap();
        assert!(fork.len() == 12 && fork.commit(&[0]).is_err());
        cache.commit(&[]).unwrap();
        assert!(plainly(&mut model, &mut fork, &other[..10]) == aside[12..22], "{case}");
        assert!(plainly(&mut model, &mut cache, &text[12..]) == on[12..], "{case}");
        assert!(plainly(&mut model, &mut fork, &other[10..]) == aside[22..], "{case}");
    }
}

#[test]
fn states_are_counted() {
    let options = LoadOptions::default();
    for (path, layers) in checkpoints().iter().zip([6, 6, 3, 3]) {
        let source = Source::open(path).unwrap();
        let config = source.config().unwrap();
        assert_eq!(config.layers.iter().filter(|layer| layer.delta.is_some()).count(), layers);
        let delta = config.layers.iter().find_map(|layer| layer.delta).unwrap().shape;
        let least = layers * 4 * (delta.v_heads * delta.k_dim * delta.v_dim + 3 * delta.channels());
        let footprint = source.footprint(&options).unwrap();
        assert!(footprint.state_bytes >= least as u64, "{footprint:?}");
        // Keys and values of attending layers only.
        let attending = config.layers.len() - layers;
        let a = &config.layers[config.layers.len() - 1].attention;
        let values = attending * a.kv_heads * (a.k_dim + a.v_dim);
        assert_eq!(footprint.cache_bytes_per_position, 2 * values as u64);
    }
}

/// Rewrites the projections as Qwen3-Next has them: key head by key head in two tensors.
#[test]
fn projections_named_together() {
    let target = common::golden("qwen35-moe/target");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(target.join("config.json")).unwrap()).unwrap();
    let stored = Safetensors::open(target.join("model.safetensors")).unwrap();
    let text = &mut config["text_config"];
    let size = |key: &str| text[key].as_u64().unwrap() as usize;
    let (hk, hv) = (size("linear_num_key_heads"), size("linear_num_value_heads"));
    let (dk, dv) = (size("linear_key_head_dim"), size("linear_value_head_dim"));
    let per = hv / hk;
    text["model_type"] = json!("qwen3_next");

    let names = stored.names();
    let mut tensors: Vec<(String, Vec<usize>, safetensors::Dtype, Vec<u8>)> = Vec::new();
    for name in names.iter().filter(|name| !name.starts_with("mtp.")) {
        let raw = stored.raw(name).unwrap();
        let rows = |name: &str, from: usize, count: usize| -> Vec<u8> {
            let raw = stored.raw(name).unwrap();
            let row = raw.bytes.len() / raw.shape[0];
            raw.bytes[from * row..(from + count) * row].to_vec()
        };
        let sibling = |part: &str| name.replace("in_proj_qkv.", part).replace("in_proj_b.", part);
        if name.contains("in_proj_qkv.") {
            let z = sibling("in_proj_z.");
            let bytes = (0..hk).flat_map(|g| {
                let values = 2 * hk * dk + g * per * dv;
                [
                    rows(name, g * dk, dk),
                    rows(name, hk * dk + g * dk, dk),
                    rows(name, values, per * dv),
                    rows(&z, g * per * dv, per * dv),
                ]
                .concat()
            });
            let shape = vec![hk * (2 * dk + 2 * per * dv), raw.shape[1]];
            tensors.push((sibling("in_proj_qkvz."), shape, raw.dtype, bytes.collect()));
        } else if name.contains("in_proj_b.") {
            let a = sibling("in_proj_a.");
            let bytes = (0..hk).flat_map(|g| [rows(name, g * per, per), rows(&a, g * per, per)].concat());
            tensors.push((sibling("in_proj_ba."), vec![2 * hv, raw.shape[1]], raw.dtype, bytes.collect()));
        } else if !name.contains("in_proj_z.") && !name.contains("in_proj_a.") {
            tensors.push((name.clone(), raw.shape.to_vec(), raw.dtype, raw.bytes.to_vec()));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, shape, dtype, bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();

    let tokens: Vec<u32> = (0..20).map(|i| i * 17 % 384).collect();
    let (mut split, mut joined) = (load(&target, 1), load(dir.path(), 1));
    assert_eq!(joined.config().family, "qwen3_next");
    let mut caches = [split.new_cache(20).unwrap(), joined.new_cache(20).unwrap()];
    assert!(
        pass(&mut split, &mut caches[0], &tokens, None) == pass(&mut joined, &mut caches[1], &tokens, None)
    );

    // As GGUF, which has an architecture of its own for it.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(target.join(name), dir.path().join(name)).unwrap();
    }
    let file = dir.path().join("next.gguf");
    let options = ConvertOptions { ty: ElementType::BF16, threads: 1, target: None };
    convert::to_gguf(&Source::open(dir.path()).unwrap(), &file, &options).unwrap();
    let mut written = load(&file, 1);
    assert_eq!(written.config().family, "qwen3_next");
    let mut cache = written.new_cache(20).unwrap();
    caches[1] = joined.new_cache(20).unwrap();
    assert!(
        pass(&mut written, &mut cache, &tokens, None) == pass(&mut joined, &mut caches[1], &tokens, None)
    );
}

/// llama.cpp puts value heads that share a key head apart; in memory they stand as in the folder.
#[test]
fn both_formats_give_the_same_bits() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 360 + 8).collect();
    for pair in checkpoints().chunks(2) {
        let logits = [&pair[0], &pair[1]].map(|path| {
            let mut model = load(path, 2);
            let mut cache = model.new_cache(tokens.len()).unwrap();
            pass(&mut model, &mut cache, &tokens, None)
        });
        assert!(logits[0] == logits[1], "{}", pair[1].display());
    }
}

/// Blocks of columns that reach across heads leave the columns of the last projection as they are stored.
#[test]
fn blocks_across_heads() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 360 + 8).collect();
    let folder = &checkpoints()[0];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("blocks.gguf");
    let options = ConvertOptions { ty: ElementType::Q8_0, threads: 1, target: None };
    convert::to_gguf(&Source::open(folder).unwrap(), &file, &options).unwrap();
    let logits = |path: &Path, precision| {
        let options = LoadOptions { threads: 1, precision, ..LoadOptions::default() };
        let mut model = Model::load(&Source::open(path).unwrap(), &options).unwrap();
        let mut cache = model.new_cache(tokens.len()).unwrap();
        let bits = pass(&mut model, &mut cache, &tokens, None);
        bits.concat().into_iter().map(f32::from_bits).collect::<Vec<_>>()
    };
    let (exact, blocks) = (logits(folder, Precision::AsStored), logits(&file, Precision::AsStored));
    let floats = logits(&file, Precision::Float);
    let distance = |other: &[f32]| {
        let off: f32 = exact.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum();
        (off / exact.iter().map(|a| a * a).sum::<f32>()).sqrt()
    };
    // Columns in another order than their inputs would be off by more than rounding.
    let rounding = distance(&logits(folder, Precision::Quantize(ElementType::Q8_0)));
    for found in [distance(&blocks), distance(&floats)] {
        assert!(found < 2.0 * rounding && rounding < 0.4, "{found}, rounding alone {rounding}");
    }
}

#[test]
fn quantised_at_load() {
    for path in checkpoints() {
        let source = Source::open(&path).unwrap();
        let precision = Precision::Quantize(ElementType::Q8_0);
        let options = LoadOptions { threads: 1, precision, kv: KvType::F16, ..LoadOptions::default() };
        let mut model = Model::load(&source, &options).unwrap();
        let mut cache = model.new_cache(8).unwrap();
        pass(&mut model, &mut cache, &[1, 2, 3], None);
        assert!(model.logits(2).iter().all(|x| x.is_finite()));
    }
}
