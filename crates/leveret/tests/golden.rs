//! Every recorded case through `leveret golden`, the command that others run on cases of their own.

use std::path::Path;
use std::process::Command;

#[test]
fn every_case_agrees_with_its_reference() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        assert!(std::env::var_os("CI").is_none(), "{} is missing", dir.display());
        return;
    };
    let mut cases: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.retain(|case| case.join("golden.json").is_file());
    cases.sort();
    assert!(!cases.is_empty());
    for case in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        let output = command.args(["golden", "--threads", "2"]).arg(&case).output().unwrap();
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let wrong: Vec<&str> = said.lines().filter(|line| line.ends_with("MISMATCH")).collect();
        assert!(output.status.success(), "{}: {error}\n{}", case.display(), wrong.join("\n"));
    }
}

/// A copy of a case, its golden tensors with what `change` makes of their header and values; `None` without goldens.
fn changed(case: &str, change: impl FnOnce(&mut String, &mut [u8])) -> Option<tempfile::TempDir> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden").join(case);
    if !folder.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "{} is missing", folder.display());
        return None;
    }
    let copy = tempfile::tempdir().unwrap();
    let tensors = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let length = u64::from_le_bytes(tensors[..8].try_into().unwrap()) as usize;
    let mut header = String::from_utf8_lossy(&tensors[8..8 + length]).into_owned();
    let mut values = tensors[8 + length..].to_vec();
    change(&mut header, &mut values);
    let tensors = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &values].concat();
    std::fs::write(copy.path().join("golden.safetensors"), tensors).unwrap();
    std::fs::copy(folder.join("golden.json"), copy.path().join("golden.json")).unwrap();
    let parts = ["target", "target-mxfp4", "drafter"];
    for part in parts.iter().filter(|part| folder.join(part).is_dir()) {
        std::fs::create_dir(copy.path().join(part)).unwrap();
        for file in std::fs::read_dir(folder.join(part)).unwrap().flatten() {
            std::fs::copy(file.path(), copy.path().join(part).join(file.file_name())).unwrap();
        }
    }
    Some(copy)
}

/// Changes the configuration of a part of such a copy.
fn configure(dir: &Path, part: &str, key: &str, value: serde_json::Value) {
    let path = dir.join(part).join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(&path, config.to_string()).unwrap();
}

/// Exit code, standard output and standard error.
fn compared(dir: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    let output = command.args(["golden", "--threads", "2"]).arg(dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A reference without some of its parts, or with parts that do not fit, differs; nothing breaks.
#[test]
fn a_damaged_reference_is_told_of() {
    let renamed: [(&str, &[[&str; 2]]); 4] = [
        ("eagle1", &[["p0.all_draft_ids", "p0.all_draft_idx"]]),
        ("eagle1", &[["p1.round_n", "p1.round_m"]]),
        ("mask-token", &[["p0.round_n", "p0.round_m"]]),
        ("dflash", &[["p0.features", "p0.featurex"], ["p1.features", "p0.features"]]),
    ];
    for (case, names) in renamed {
        let rename = |header: &mut String, _: &mut [u8]| {
            names.iter().for_each(|[name, instead]| *header = header.replace(name, instead));
        };
        let Some(damaged) = changed(case, rename) else { return };
        let (code, _, error) = compared(damaged.path());
        assert_eq!(code, Some(1), "{case} with {names:?}: {error}");
        assert!(error.contains("differ"), "{case} with {names:?}: {error}");
    }
}

/// A folder's drafter has scores for those tokens that its reference has scores for.
#[test]
fn a_score_that_the_reference_lacks_differs() {
    let lacking = changed("eagle1", |header, values| {
        let header: serde_json::Value = serde_json::from_str(header).unwrap();
        let first = header["p0.draft_logits"]["data_offsets"][0].as_u64().unwrap() as usize;
        values[first..first + 4].copy_from_slice(&(-1e30f32).to_le_bytes());
    });
    let Some(lacking) = lacking else { return };
    let (code, said, _) = compared(lacking.path());
    assert_eq!(code, Some(1), "{said}");
}

/// What a case asks for and this engine does not have is no success, and the reason is told.
#[test]
fn what_is_not_supported_fails() {
    let rope = serde_json::json!({"rope_type": "longrope", "factor": 2.0});
    for (case, part, key, value, why) in [
        ("gpt-oss", "target", "rope_scaling", rope, "longrope"),
        ("eagle1", "drafter", "hidden_act", "relu".into(), "relu"),
    ] {
        let Some(copy) = changed(case, |_, _| ()) else { return };
        configure(copy.path(), part, key, value);
        let (code, said, error) = compared(copy.path());
        assert_eq!(code, Some(1), "{case}: {said}{error}");
        assert!(said.lines().any(|line| line.contains(why) && line.ends_with("MISMATCH")), "{case}: {said}");
    }
}

/// The reference runs on behind the context that a configuration names.
#[test]
fn texts_may_be_longer_than_the_context() {
    let Some(copy) = changed("mistral-sliding", |_, _| ()) else { return };
    configure(copy.path(), "target", "max_position_embeddings", 16.into());
    let (code, said, error) = compared(copy.path());
    assert_eq!(code, Some(0), "{said}{error}");
}
