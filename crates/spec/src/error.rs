//! The one error type of this crate.

/// Why a session could not be started or stepped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter is out of its range. The message names it, the value and the range.
    #[error("{0}")]
    Params(String),
    /// Prompt and context do not fit together.
    #[error("{0}")]
    Context(String),
    /// No token can follow: all are banned, or the target's logits are not numbers.
    #[error("{0}")]
    Logits(String),
    /// The target refused a pass.
    #[error(transparent)]
    Target(#[from] leveret_model::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn params(what: impl Into<String>) -> Self {
        Self::Params(what.into())
    }
}
