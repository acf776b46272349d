//! `leveret convert`: what it writes computes what the original computes.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{fails, leveret, stderr, stdout};
use leveret_model::golden::{Closeness, Golden};
use leveret_model::{ElementType, LoadOptions, LogitRows, Model, Pass, Precision, Source, Target};

const CASES: [&str; 14] = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma3",
    "ministral3",
    "mistral-sliding",
    "mask-token",
    "qwen3-moe",
    "gpt-oss",
    "gemma4-e",
    "gemma4-31b",
    "gemma4-26b-a4b",
    "qwen35",
    "qwen35-moe",
];

/// A golden folder; `None` where there are none.
fn golden(case: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden").join(case);
    assert!(dir.exists() || std::env::var_os("CI").is_none(), "{} is missing", dir.display());
    dir.exists().then_some(dir)
}

fn convert(from: &Path, to: &Path, ty: &str) -> Output {
    let output = leveret().arg("convert").args([from, to]).args(["--type", ty]).output().unwrap();
    assert!(output.status.success(), "{}: {}", from.display(), stderr(&output));
    output
}

fn options(precision: Precision) -> LoadOptions {
    LoadOptions { threads: 2, precision, ..LoadOptions::default() }
}

/// Logits of every row of some 40 tokens.
fn logits(path: &Path, tokens: &[u32]) -> Vec<u32> {
    logits_in(Precision::AsStored, path, tokens)
}

fn logits_in(precision: Precision, path: &Path, tokens: &[u32]) -> Vec<u32> {
    let source = Source::open(path).unwrap();
    let mut model = Model::load(&source, &options(precision)).unwrap();
    let mut cache = model.new_cache(tokens.len()).unwrap();
    let pass = Pass { cache: &mut cache, tokens, parents: None, logits: LogitRows::All };
    model.forward(&mut [pass], &[]).unwrap();
    let rows = (0..tokens.len()).flat_map(|row| model.logits(row).iter().map(|x| x.to_bits()));
    rows.collect()
}

#[test]
fn unrounded_weights_give_the_same_bits() {
    for case in CASES {
        let Some(folder) = golden(case).map(|dir| dir.join("target")) else { return };
        let dir = tempfile::tempdir().unwrap();
        let (file, again) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
        convert(&folder, &file, "bf16");
        let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 360 + 8).collect();
        let (ours, theirs) = (logits(&folder, &tokens), logits(&file, &tokens));
        assert!(ours == theirs, "{case}");
        // From GGUF to GGUF in the same type nothing changes at all.
        convert(&file, &again, "bf16");
        assert!(logits(&again, &tokens) == theirs, "{case}");
    }
}

/// Weights are rounded alike whether a file has them so or loading does it; rows of heads that stand in
/// another order in the file find their places whatever the type of their blocks.
#[test]
fn quantised_files_give_the_bits_of_quantising_at_load() {
    for case in CASES.into_iter().filter(|case| !case.starts_with("qwen35")) {
        let Some(folder) = golden(case).map(|dir| dir.join("target")) else { return };
        let dir = tempfile::tempdir().unwrap();
        let tokens: Vec<u32> = (0..40).map(|i| i * 29 % 360 + 8).collect();
        for (name, ty) in [("q8_0", ElementType::Q8_0), ("q4_0", ElementType::Q4_0)] {
            let file = dir.path().join(format!("{name}.gguf"));
            convert(&folder, &file, name);
            let at_load = logits_in(Precision::Quantize(ty), &folder, &tokens);
            assert!(logits(&file, &tokens) == at_load, "{case} {name}");
        }
    }
}

#[test]
fn every_type_agrees_with_the_reference() {
    for case in CASES {
        let Some(dir) = golden(case) else { return };
        let golden = Golden::open(&dir).unwrap();
        for (ty, closeness) in
            [("bf16", Closeness::Exact), ("f32", Closeness::Exact), ("q8_0", Closeness::Rounded)]
        {
            // Experts, sums of many parts: what rounding does there is compared above.
            if ty == "q8_0" && !CASES[..6].contains(&case) {
                continue;
            }
            let out = tempfile::tempdir().unwrap();
            let file = out.path().join("model.gguf");
            convert(&dir.join("target"), &file, ty);
            let options = LoadOptions { kv: leveret_model::KvType::F32, ..options(Precision::Float) };
            let mut model = Model::load(&Source::open(&file).unwrap(), &options).unwrap();
            for found in golden.compare(&mut model, None, closeness).unwrap() {
                // States are of small scale; rounding the weights may move them further.
                assert!(
                    found.passes() || ty == "q8_0" && found.quantity.ends_with("states"),
                    "{case} {ty}: {found}"
                );
            }
        }
    }
}

#[test]
fn text_becomes_the_same_tokens() {
    for case in CASES {
        let Some(folder) = golden(case).map(|dir| dir.join("target")) else { return };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        convert(&folder, &file, "q8_0");
        let (ours, theirs) = (Source::open(&folder).unwrap(), Source::open(&file).unwrap());
        let (a, b) = (ours.tokenizer().unwrap(), theirs.tokenizer().unwrap());
        for text in [
            "the cat in the hat",
            " 12 345\n\n  x",
            "\u{fc}ber \u{4e2d}\u{6587} \u{1f600}",
            "<|eot_id|><eos>hi",
        ] {
            for special in [false, true] {
                let ids = a.encode_prompt(text, special).unwrap();
                assert_eq!(ids, b.encode_prompt(text, special).unwrap(), "{case} {text:?}");
                assert_eq!(a.decode(&ids), b.decode(&ids), "{case} {text:?}");
            }
        }
        assert_eq!(a.end_ids(), b.end_ids());
        assert_eq!(a.bos(), b.bos());
        let template = |source: &Source, words| source.chat_template(words).unwrap().is_some();
        assert_eq!(template(&ours, &a), template(&theirs, &b), "{case}");
    }
}

#[test]
fn what_a_format_cannot_say_is_refused_and_leaves_nothing() {
    for (files, out, told) in [
        ("gemma3-custom/target", "out.gguf", "query scale"),
        ("mistral-eagle/drafter", "out", "no layout for drafters of family mistral-eagle"),
        ("gemma4-e/assistant", "out", "no layout for drafters of family gemma4-assistant"),
        ("llama/target", "out", "holds no drafter"),
        // It does not say which layers it reads.
        ("eagle3/drafter-safeailab", "out.gguf", "--target"),
    ] {
        let Some(folder) = golden(files) else { return };
        let dir = tempfile::tempdir().unwrap();
        let error = fails(leveret().arg("convert").arg(&folder).arg(dir.path().join(out)), 1);
        assert!(error.contains(told), "{files}: {error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{files}");
    }
}

#[test]
fn a_drafter_for_others() {
    let Some(dir) = golden("eagle3") else { return };
    let out = tempfile::tempdir().unwrap();
    let (file, folder) = (out.path().join("drafter.gguf"), out.path().join("drafter"));
    let target = dir.join("target");
    let drafter = dir.join("drafter-safeailab");
    let with = |from: &Path, to: &Path| {
        let output = leveret().arg("convert").args([from, to]).arg("--target").arg(&target).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    with(&drafter, &file);
    // The target's tokenizer is in it.
    let written = Source::open(&file).unwrap().tokenizer().unwrap();
    let of_target = Source::open(&target).unwrap().tokenizer().unwrap();
    let text = "the cat in the hat";
    assert_eq!(written.encode_prompt(text, true).unwrap(), of_target.encode_prompt(text, true).unwrap());
    with(&file, &folder);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["speculators_model_type"], "eagle3");
    assert_eq!(config["speculators_config"]["verifier"]["name_or_path"], target.to_str().unwrap());
    let again = fails(leveret().arg("convert").args([&file, &folder]), 2);
    assert!(again.contains("--overwrite"), "{again}");
    let output = leveret().arg("convert").args([&file, &folder]).arg("--overwrite").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}

#[test]
fn a_file_that_is_there_stays() {
    let Some(folder) = golden("qwen2").map(|dir| dir.join("target")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.gguf");
    std::fs::write(&file, "mine").unwrap();
    let error = fails(leveret().arg("convert").args([&folder, &file]), 2);
    assert!(error.contains("--overwrite"), "{error}");
    let wrong = fails(leveret().arg("convert").arg(&folder).arg(dir.path().join("out.bin")), 2);
    assert!(wrong.contains(".gguf"), "{wrong}");
    let output = leveret().arg("convert").args([&folder, &file]).arg("--overwrite").output().unwrap();
    assert!(stdout(&output).contains("tensors"), "{}", stderr(&output));
}
