//! `leveret synth` and what is measured with it.

mod common;

use std::path::Path;

use common::{fails, leveret, stderr, stdout};
use serde_json::Value;

/// A target and drafters of a few million weights.
fn synth(family: &str, with: &str, dir: &Path) {
    let mut command = leveret();
    command.args(["synth", family, "--size", "3m", "--with", with, "-o"]).arg(dir.join("model"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn drafters_fit_their_target_and_are_measured_beside_it() {
    let home = tempfile::tempdir().unwrap();
    synth("qwen3_5", "fast_mtp,eagle3,dflash", home.path());
    let model = home.path().join("model");
    let drafters = ["fast_mtp", "eagle3", "dflash"].map(|name| home.path().join(format!("model-{name}")));
    for drafter in &drafters {
        let mut command = leveret();
        command.arg("inspect").arg(drafter).arg("--json").arg("--target").arg(&model);
        let output = command.output().unwrap();
        let found: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        assert_eq!(found["drafter"]["target"]["fits"], true, "{found}");
    }
    let mut command = leveret();
    command.args(["bench", "drafter"]).arg(&model).args(&drafters);
    command.args(["--rounds", "2", "--text", "20", "--temperature", "0.7", "--json", "-"]);
    let output = command.output().unwrap();
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let pass = found["pass"]["bytes"].as_u64().unwrap();
    let found = found["drafters"].as_array().unwrap();
    let names: Vec<&str> = found.iter().map(|d| d["drafter"].as_str().unwrap()).collect();
    assert_eq!(names, ["own", "model-fast_mtp", "model-eagle3", "model-dflash"]);
    let bytes: Vec<u64> = found.iter().map(|d| d["bytes"].as_u64().unwrap()).collect();
    // Five layers of a block drafter are more than there are here.
    assert!(bytes[..3].iter().all(|&bytes| bytes < pass), "{bytes:?} of {pass}");
    // The same layer with a part of the vocabulary.
    assert!(bytes[1] < bytes[0], "{bytes:?}");
    let figures = ["ms", "share_of_bytes", "share_of_time", "pass_of_rows_ms", "time_over_bytes"];
    for drafter in found {
        figures.iter().for_each(|key| assert!(drafter[key].as_f64().unwrap() > 0.0, "{key}: {drafter}"));
    }

    let mut command = leveret();
    command.args(["bench", "drafter"]).arg(&model).args(&drafters[..1]);
    let table = stdout(&command.args(["--rounds", "1", "--text", "20"]).output().unwrap());
    assert!(table.contains("model-fast_mtp") && table.contains("time / bytes"), "{table}");
}

#[test]
fn what_cannot_be_made_or_measured() {
    let home = tempfile::tempdir().unwrap();
    let mut command = leveret();
    command.args(["synth", "llama", "--size", "3m", "--with", "assistant", "-o"]).arg(home.path().join("a"));
    assert!(fails(&mut command, 1).contains("none for llama"));
    assert!(!home.path().join("a").exists());
    synth("llama", "eagle3", home.path());
    let model = home.path().join("model");
    let error = fails(leveret().args(["bench", "drafter"]).arg(&model), 1);
    assert!(error.contains("name a drafter"), "{error}");
    let error = fails(
        leveret()
            .args(["bench", "drafter", "--text", "40000"])
            .args([&model, &home.path().join("model-eagle3")]),
        1,
    );
    assert!(error.contains("--text"), "{error}");
}
