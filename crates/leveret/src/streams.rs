//! Standard output and standard error of the process. Either may have a reader that leaves early: one who has seen
//! enough of the output ends the program, and not with an error; nobody needs to listen to what is told beside it.

use std::fmt;
use std::io::{self, IsTerminal, StdoutLock, Write};

/// Tells the user one line on standard error, whether or not anyone listens.
macro_rules! tell {
    ($($what:tt)*) => { $crate::streams::tell_line(format_args!($($what)*)) };
}
pub(crate) use tell;

/// See [`tell!`].
pub(crate) fn tell_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Standard error; what cannot be written there is lost without a word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listener;

impl Write for Listener {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output. When its reader has left, writing fails as [`reader_left`] knows.
#[derive(Debug)]
pub(crate) struct Output(StdoutLock<'static>);

/// Standard output, for this thread alone while it is held.
pub(crate) fn stdout() -> Output {
    Output(io::stdout().lock())
}

impl Output {
    pub(crate) fn is_terminal(&self) -> bool {
        self.0.is_terminal()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(marked)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(marked)
    }
}

/// The reader of standard output has left: another broken pipe, as of a download, is an error like all others.
#[derive(Debug)]
struct ReaderLeft;

impl fmt::Display for ReaderLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of standard output has left")
    }
}

impl std::error::Error for ReaderLeft {}

fn marked(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, ReaderLeft),
        _ => error,
    }
}

/// Whether all that went wrong is that the reader of standard output has left.
pub(crate) fn reader_left(error: &anyhow::Error) -> bool {
    let mut errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| error.get_ref().is_some_and(|inner| inner.is::<ReaderLeft>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn only_the_reader_of_the_output_may_leave() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let left = |error: io::Error| reader_left(&Err::<(), _>(error).context("told").unwrap_err());
        assert!(left(marked(broken())));
        assert!(!left(broken()), "a connection");
        assert!(!left(marked(io::ErrorKind::StorageFull.into())));
    }
}
