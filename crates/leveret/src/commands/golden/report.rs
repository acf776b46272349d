//! The lines of a comparison and its outcome.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::streams::stdout;
use anyhow::{Result, bail};

/// Counts what was said.
#[derive(Debug, Default)]
pub(crate) struct Report {
    compared: usize,
    wrong: usize,
    /// Parts of the reference that nothing was compared with.
    skipped: usize,
}

impl Report {
    /// The largest difference between two tables of numbers, and the largest that passes.
    pub(crate) fn numbers(&mut self, what: &str, diff: f32, tolerance: f32) {
        // A difference that is not a number does not pass.
        let ok = diff <= tolerance;
        self.line(what, &format!("max diff {diff:.2e}, tolerance {tolerance:.2e}"), ok);
    }

    /// A number of comparisons of which `wrong` failed; `first` says how the first of them did.
    pub(crate) fn count(&mut self, what: &str, all: usize, wrong: &[String]) {
        let detail = match wrong.first() {
            None => format!("{all} equal"),
            Some(first) => format!("{} of {all} differ, first: {first}", wrong.len()),
        };
        self.line(what, &detail, wrong.is_empty() && all > 0);
    }

    /// Something that must hold and was found not to.
    pub(crate) fn failed(&mut self, what: &str, why: &str) {
        self.line(what, why, false);
    }

    /// Something in the folder that this version does not compare.
    pub(crate) fn not_yet(&mut self, what: &str, why: &str) {
        self.skipped += 1;
        say(&format!("{what:<44} not yet supported{}{why}", if why.is_empty() { "" } else { ": " }));
    }

    fn line(&mut self, what: &str, detail: &str, ok: bool) {
        self.compared += 1;
        self.wrong += usize::from(!ok);
        say(&format!("{what:<44} {detail}  {}", if ok { "ok" } else { "MISMATCH" }));
    }

    /// Exit code 1 if something differed.
    pub(crate) fn finish(&self, dir: &Path) -> Result<ExitCode> {
        let skipped = match self.skipped {
            0 => String::new(),
            count => format!("; {count} were not compared"),
        };
        match (self.compared, self.wrong) {
            (0, _) => bail!("{}: nothing in it can be compared by this version", dir.display()),
            (all, 0) => {
                say(&format!("{}: {all} quantities, all ok{skipped}", dir.display()));
                Ok(ExitCode::SUCCESS)
            }
            (all, wrong) => bail!("{}: {wrong} of {all} quantities differ{skipped}", dir.display()),
        }
    }
}

/// One line of standard output. A reader that has gone away does not stop the comparison: its
/// outcome is the exit code.
fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}
