//! Drafters written in other layouts and read back: the same scores, bit for bit, whichever way they
//! went.

mod common;

use common::checkpoint;
use common::heads::{load, target_at};
use common::text::Text;
use leveret_model::convert::{self, ConvertOptions};
use leveret_model::drafters::Branch;
use leveret_model::{ElementType, Error, LogitRows, Model, Pass, Source, Target};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Files of a drafter, its target, and whether speculators has a layout for its kind.
const CASES: [(&str, &str, bool); 20] = [
    ("eagle1/drafter", "eagle1/target", true),
    ("eagle3/drafter-specforge", "eagle3/target", true),
    ("eagle3/drafter-safeailab", "eagle3/target", true),
    ("eagle3/drafter-speculators", "eagle3/target", true),
    ("eagle3-spec-nbr/drafter-speculators", "eagle3/target", true),
    ("eagle3-spec-3.1/drafter-speculators", "eagle3/target", true),
    ("eagle3-spec-inputnorm/drafter-speculators", "eagle3/target", true),
    ("p-eagle/drafter-speculators", "eagle3/target", true),
    ("mistral-eagle/drafter", "mistral-eagle/target", false),
    ("dflash/drafter", "dflash/target", true),
    ("dflash-sliding/drafter", "dflash/target", true),
    ("dflash2/drafter", "dflash/target", true),
    ("dspark/drafter", "dflash/target", true),
    ("dspark-gated/drafter", "dflash/target", true),
    ("dspark-rnn/drafter", "dflash/target", true),
    ("gemma4-e/assistant", "gemma4-e/target", false),
    ("gemma4-31b/assistant", "gemma4-31b/target", false),
    ("gemma4-26b-a4b/assistant", "gemma4-26b-a4b/target", false),
    ("qwen35/target", "qwen35/target", false),
    ("qwen35-moe/target", "qwen35-moe/target", false),
];

/// Tokens of the text, and of the draft behind it.
const TEXT: usize = 40;
const DRAFT: usize = 4;

/// A chain of greedy guesses behind texts of several lengths, and the bits of all scores.
fn drafts(path: &Path, model: &mut Model) -> (Vec<u32>, Vec<u32>) {
    let network = load(path, model).unwrap_or_else(|error| panic!("{error}"));
    let text = Text::new(model, TEXT, &network.description().taps);
    let depth = network.description().depth.unwrap_or(DRAFT).min(DRAFT);
    let (mut ids, mut bits) = (Vec::new(), Vec::new());
    for n in [1, 13, TEXT - 1] {
        let mut guesser = text.begun(&network, n);
        for node in 0..depth {
            let scores = guesser.scores(node);
            bits.extend(scores.logits.iter().chain(&scores.confidence).map(|x| x.to_bits()));
            let best =
                (0..scores.logits.len()).max_by(|&a, &b| scores.logits[a].total_cmp(&scores.logits[b]));
            let token = scores.token(best.unwrap());
            ids.push(token);
            if node + 1 < depth {
                guesser.expand(&[Branch { parent: node, token }]).unwrap();
            }
        }
    }
    (ids, bits)
}

/// Writes `from` to `to`: a GGUF file, or a folder.
fn convert_as(ty: ElementType, from: &Path, to: &Path, target: &Path) -> leveret_model::Result<()> {
    let (source, target) = (Source::open(from)?, Source::open(target)?);
    let options = ConvertOptions { ty, threads: 1, target: Some(&target) };
    match to.extension() {
        Some(_) => convert::to_gguf(&source, to, &options),
        None => convert::to_speculators(&source, Some("owner/target"), to, &options),
    }
    .map(|_| ())
}

fn convert(from: &Path, to: &Path, target: &Path) {
    convert_as(ElementType::BF16, from, to, target).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn there_and_back() {
    for (drafter, target, in_speculators) in CASES {
        let (drafter, target) = (common::golden(drafter), common::golden(target));
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| -> PathBuf { dir.path().join(name) };
        let mut model = target_at(&target);
        let original = drafts(&drafter, &mut model);
        let mut same = |path: &Path, way: &str| {
            let (ids, bits) = drafts(path, &mut model);
            assert_eq!(ids, original.0, "{}: {way}", drafter.display());
            assert!(bits == original.1, "{}: {way}", drafter.display());
        };
        convert(&drafter, &at("a.gguf"), &target);
        same(&at("a.gguf"), "as GGUF");
        if !in_speculators {
            let refused = convert_as(ElementType::BF16, &drafter, &at("no"), &target);
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
            continue;
        }
        convert(&at("a.gguf"), &at("b"), &target);
        same(&at("b"), "as GGUF, then for speculators");
        convert(&at("b"), &at("c.gguf"), &target);
        same(&at("c.gguf"), "and as GGUF again");
        convert_as(ElementType::F32, &drafter, &at("d"), &target).unwrap();
        convert(&at("d"), &at("e.gguf"), &target);
        same(&at("e.gguf"), "for speculators in 32 bits, then as GGUF");
    }
}

/// A file without the key says of every kind what was meant.
#[test]
fn rows_of_sliding_layers_see_as_before() {
    let target = common::golden("dflash/target");
    let mut all = Vec::new();
    for case in ["dflash-sliding", "dflash2", "dspark"] {
        for causal in [false, true] {
            let (mut config, tensors) = checkpoint::read(&common::golden(case).join("drafter"));
            config["layer_types"] = ["sliding_attention"; 3].as_slice().into();
            config["sliding_window"] = 10.into();
            config["use_sliding_window"] = true.into();
            config["is_causal"] = causal.into();
            let dir = tempfile::tempdir().unwrap();
            checkpoint::write(dir.path(), &config, &tensors);
            let file = dir.path().join("a.gguf");
            convert(dir.path(), &file, &target);
            let mut model = target_at(&target);
            let found = drafts(&file, &mut model);
            assert!(found == drafts(dir.path(), &mut model), "{case}, causal {causal}");
            all.push(found.1);
        }
        assert!(all[all.len() - 1] != all[all.len() - 2], "{case}");
    }
}

/// What llama.cpp's converter has written becomes what it was made from.
#[test]
fn from_files_of_llama_cpp() {
    for (case, target) in
        [("eagle3", "eagle3"), ("dflash", "dflash"), ("dflash-sliding", "dflash"), ("dspark", "dflash")]
    {
        let target = common::golden(target).join("target");
        let file = common::golden(case).join("gguf/drafter-bf16.gguf");
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        convert(&file, &out, &target);
        let mut model = target_at(&target);
        assert!(drafts(&file, &mut model) == drafts(&out, &mut model), "{case}");
    }
}

#[test]
fn quantised_drafters_guess() {
    for (drafter, target, _) in CASES.into_iter().filter(|(drafter, ..)| !drafter.starts_with("qwen35")) {
        let (drafter, target) = (common::golden(drafter), common::golden(target));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.gguf");
        convert_as(ElementType::Q8_0, &drafter, &file, &target).unwrap();
        let mut model = target_at(&target);
        let (ids, original) = (drafts(&file, &mut model).0, drafts(&drafter, &mut model).0);
        let equal = ids.iter().zip(&original).filter(|(a, b)| a == b).count();
        assert!(equal * 2 > ids.len(), "{}: {equal} of {}", drafter.display(), ids.len());
    }
}

/// Gemma 4's full layers turn a part of each head, which GGUF says in a tensor; they need not.
#[test]
fn full_layers_that_turn_whole_heads() {
    let target = "gemma4-31b/target";
    let (mut config, tensors) = checkpoint::read(&common::golden(target));
    let text = match config.get("text_config") {
        Some(_) => &mut config["text_config"],
        None => &mut config,
    };
    text["rope_parameters"]["full_attention"] = json!({"rope_type": "default", "rope_theta": 1e6});
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), &config, &tensors);
    let file = common::as_gguf(dir.path(), target, ElementType::BF16);
    let logits = |path: &Path| -> Vec<u32> {
        let mut model = target_at(path);
        let tokens: Vec<u32> = (3..33).collect();
        let mut cache = model.new_cache(tokens.len()).unwrap();
        let pass = Pass { cache: &mut cache, tokens: &tokens, parents: None, logits: LogitRows::All };
        model.forward(&mut [pass], &[]).unwrap();
        (0..30).flat_map(|row| model.logits(row).iter().map(|x| x.to_bits())).collect()
    };
    let found = logits(&file);
    assert!(found == logits(dir.path()));
    assert!(found != logits(&common::golden(target)));
}
