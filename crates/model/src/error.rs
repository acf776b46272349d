//! The one error type of this crate. Every message names the file, tensor or field, what was
//! found, what was expected and, where there is something to do, what to do.

use std::path::{Path, PathBuf};

/// Why a model, tokenizer, template or request could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read, map or write.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// File that was being read or written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file's bytes contradict its format.
    #[error("{path}: {what}", path = .path.display())]
    Format {
        /// File that holds the fault.
        path: PathBuf,
        /// What was found and what was expected.
        what: String,
    },
    /// The file is well formed, but asks for something this engine does not have.
    #[error("{path}: {what}", path = .path.display())]
    Unsupported {
        /// File that asks for it.
        path: PathBuf,
        /// What is missing, and what is supported.
        what: String,
    },
    /// A call that cannot be carried out: a context overflow, a bad token id, a bad message.
    #[error("{0}")]
    Request(String),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A fault of format in `path`.
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().into(), what: what.into() }
    }

    /// Something `path` asks for that is not supported.
    pub fn unsupported(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.as_ref().into(), what: what.into() }
    }

    /// An operating-system error met at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().into(), source }
    }

    /// A call that cannot be carried out.
    pub fn request(what: impl Into<String>) -> Self {
        Self::Request(what.into())
    }
}
