//! The lines of a comparison and its outcome.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

/// Counts what was said.
#[derive(Debug, Default)]
pub(crate) struct Report {
    compared: usize,
    wrong: usize,
}

/// The place where numbers differ most, as a share of what may differ.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Worst {
    diff: f32,
    tolerance: f32,
}

impl Worst {
    /// Takes in one pair of rows; a difference may be `relative` of the largest expected value, or
    /// of 1 if that is less.
    pub(crate) fn rows(&mut self, expected: &[f32], found: &[f32], relative: f32) {
        let scale = expected.iter().fold(1f32, |max, x| max.max(x.abs()));
        let diff = match expected.len() == found.len() {
            true => expected.iter().zip(found).fold(0f32, |max, (a, b)| {
                let diff = (a - b).abs();
                // A NaN must not get lost in the maximum.
                if diff.is_nan() { f32::INFINITY } else { max.max(diff) }
            }),
            false => f32::INFINITY,
        };
        let tolerance = relative * scale;
        if self.tolerance == 0.0 || diff / tolerance > self.diff / self.tolerance {
            *self = Self { diff, tolerance };
        }
    }
}

impl Report {
    /// The largest difference of two tables of numbers.
    pub(crate) fn numbers(&mut self, what: &str, worst: Worst) {
        let Worst { diff, tolerance } = worst;
        let ok = diff <= tolerance;
        self.line(what, &format!("max diff {diff:.2e}, tolerance {tolerance:.2e}"), ok);
    }

    /// Two lists of ids.
    pub(crate) fn ids(&mut self, what: &str, expected: &[u32], found: &[u32]) {
        let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
        let ok = expected == found;
        let detail = match ok {
            true => format!("{} equal", expected.len()),
            false => format!("first difference at {same} of {}: {:?}, expected {:?}", expected.len(), found.get(same), expected.get(same)),
        };
        self.line(what, &detail, ok);
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
    pub(crate) fn not_yet(&self, what: &str, why: &str) {
        println!("{what:<44} not yet supported{}{why}", if why.is_empty() { "" } else { ": " });
    }

    fn line(&mut self, what: &str, detail: &str, ok: bool) {
        self.compared += 1;
        self.wrong += usize::from(!ok);
        println!("{what:<44} {detail}  {}", if ok { "ok" } else { "MISMATCH" });
    }

    /// Exit code 1 if something differed.
    pub(crate) fn finish(&self, dir: &Path) -> Result<ExitCode> {
        match (self.compared, self.wrong) {
            (0, _) => bail!("{}: nothing in it can be compared by this version", dir.display()),
            (all, 0) => {
                println!("{}: {all} quantities, all ok", dir.display());
                Ok(ExitCode::SUCCESS)
            }
            (all, wrong) => bail!("{}: {wrong} of {all} quantities differ", dir.display()),
        }
    }
}
