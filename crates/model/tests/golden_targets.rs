//! Every golden target in every layout: logits, states and the greedy continuation.

mod common;

use leveret_model::golden::Closeness;
use leveret_model::{KvType, LoadOptions, Model, Precision, Source};
use std::fmt::Write;

/// Compares every checkpoint; returns a line per mismatch.
fn compare_all(options: LoadOptions, closeness: Closeness, skip: impl Fn(&str) -> bool) -> String {
    let mut faults = String::new();
    for golden in common::goldens() {
        for checkpoint in golden.checkpoints() {
            let name = checkpoint.path.display().to_string();
            if skip(&name) {
                continue;
            }
            let compared = Source::open(&checkpoint.path)
                .and_then(|source| Model::load(&source, &options))
                .and_then(|mut model| golden.compare(&mut model, checkpoint.quantized.as_deref(), closeness));
            match compared {
                Err(error) => writeln!(faults, "{name}: {error}").unwrap(),
                Ok(results) => {
                    assert!(!results.is_empty(), "{name}: nothing was compared");
                    for result in results {
                        println!("{name}: {result}");
                        if !result.passes() {
                            writeln!(faults, "{name}: {result}").unwrap();
                        }
                    }
                }
            }
        }
    }
    faults
}

#[test]
fn float_arithmetic_is_exact() {
    let options = LoadOptions { threads: 2, kv: KvType::F32, precision: Precision::Float, context: None };
    let faults = compare_all(options, Closeness::Exact, |_| false);
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn default_arithmetic_is_close() {
    let options = LoadOptions { threads: 2, ..LoadOptions::default() };
    // Rounded activations may send a row of a tiny random mixture to other experts.
    let faults = compare_all(options, Closeness::Rounded, |name| name.contains("mxfp4"));
    assert!(faults.is_empty(), "{faults}");
}
