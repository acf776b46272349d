//! The program under test, and what its tests have in common.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;
use std::process::{Command, Output};

/// The program without settings of the user's that would change what it does; models are where the user has them.
pub(crate) fn leveret() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "LEVERET_CATALOGUE", "XDG_CACHE_HOME"] {
        command.env_remove(name);
    }
    // Tests leave no answers behind, and guess from none.
    command.env("LEVERET_STORE", "off");
    command
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs it and checks the form of a failure: the exit code, nothing on standard output, one last
/// line that starts with `error:`, and no panic. Returns that line.
pub(crate) fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(output.stdout.is_empty(), "standard output: {}", stdout(&output));
    let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{told}");
    assert_eq!(told.lines().last(), errors.first().copied(), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    errors[0].to_owned()
}

/// Writes an executable shell script.
pub(crate) fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
