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
