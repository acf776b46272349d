//! What the user sees while bytes arrive: a bar on a terminal, a few plain lines elsewhere.
//! Always on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::streams::tell;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of one download, in bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    label: String,
    total: u64,
    at: u64,
    /// When the last plain line was written; `None` on a terminal.
    line: Option<Instant>,
}

impl Progress {
    /// Starts at 0 of `total` bytes.
    pub(crate) fn new(label: &str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "{msg} [{wide_bar:.cyan/dim}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label.to_owned());
        if !terminal {
            tell!("{label}: {}", HumanBytes(total));
        }
        Self { bar, label: label.to_owned(), total, at: 0, line: (!terminal).then(Instant::now) }
    }

    /// Moves to `at` bytes from the start.
    pub(crate) fn set(&mut self, at: u64) {
        self.at = at.min(self.total);
        self.bar.set_position(self.at);
        if self.line.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            tell!("{}: {} of {}", self.label, HumanBytes(self.at), HumanBytes(self.total));
            self.line = Some(Instant::now());
        }
    }

    /// Moves on by `bytes`.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.set(self.at + bytes);
    }

    /// Bytes so far.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Names what is being done now.
    pub(crate) fn label(&mut self, label: &str) {
        if self.label != label {
            label.clone_into(&mut self.label);
            self.bar.set_message(self.label.clone());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Progress of a measurement, in steps of about equal length.
#[derive(Debug)]
pub(crate) struct Steps {
    bar: ProgressBar,
    label: String,
    /// When the last plain line was written; `None` on a terminal.
    line: Option<Instant>,
}

impl Steps {
    /// Starts at 0 of `total` steps.
    pub(crate) fn new(label: &str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "{msg:30!} [{wide_bar:.cyan/dim}] {pos}/{len} {elapsed} gone, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label.to_owned());
        Self { bar, label: label.to_owned(), line: (!terminal).then(Instant::now) }
    }

    /// Names what is being done now.
    pub(crate) fn label(&mut self, label: &str) {
        label.clone_into(&mut self.label);
        self.bar.set_message(self.label.clone());
    }

    /// Moves on by `steps`.
    pub(crate) fn add(&mut self, steps: u64) {
        self.bar.inc(steps);
        if self.line.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            let (at, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let left = self.bar.elapsed().mul_f64(total.saturating_sub(at) as f64 / at.max(1) as f64);
            tell!("{}: {at} of {total}, {} left", self.label, HumanDuration(left));
            self.line = Some(Instant::now());
        }
    }

    /// Leaves out `steps` that turned out not to be needed.
    pub(crate) fn skip(&mut self, steps: u64) {
        let total = self.bar.length().unwrap_or(0);
        self.bar.set_length(total.saturating_sub(steps));
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
