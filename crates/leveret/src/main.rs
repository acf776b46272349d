//! The `leveret` program. Everything lies in the library beside it, so that tests can reach it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    leveret::main()
}
