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

/// A reference without some of its parts, or with parts that do not fit, differs; nothing breaks.
#[test]
fn a_damaged_reference_is_told_of() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    for (case, names, instead) in [
        ("eagle1", "p0.all_draft_ids", "p0.all_draft_idx"),
        ("eagle1", "p1.round_n", "p1.round_m"),
        ("mask-token", "p0.round_n", "p0.round_m"),
    ] {
        let folder = golden.join(case);
        if !folder.is_dir() {
            assert!(std::env::var_os("CI").is_none(), "{} is missing", folder.display());
            return;
        }
        let damaged = tempfile::tempdir().unwrap();
        let tensors = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let length = u64::from_le_bytes(tensors[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8_lossy(&tensors[8..8 + length]).replace(names, instead);
        let renamed = [&tensors[..8], header.as_bytes(), &tensors[8 + length..]].concat();
        std::fs::write(damaged.path().join("golden.safetensors"), renamed).unwrap();
        std::fs::copy(folder.join("golden.json"), damaged.path().join("golden.json")).unwrap();
        for part in ["target", "drafter"].iter().filter(|part| folder.join(part).is_dir()) {
            std::fs::create_dir(damaged.path().join(part)).unwrap();
            for file in std::fs::read_dir(folder.join(part)).unwrap().flatten() {
                std::fs::copy(file.path(), damaged.path().join(part).join(file.file_name())).unwrap();
            }
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        let output = command.args(["golden", "--threads", "2"]).arg(damaged.path()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{case} without {names}: {error}");
        assert!(error.contains("differ"), "{case} without {names}: {error}");
    }
}
