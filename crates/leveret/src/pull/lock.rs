//! One writer per model: an advisory lock on a file beside it.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::streams::tell;
use anyhow::{Context, Result};

/// Held while a model is being fetched; released when dropped, and by the system when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, waiting for another process if it must, and says so once.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                tell!("{}: another process is fetching this model; waiting for it", path.display());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| path.display().to_string()),
        }
        file.lock().with_context(|| path.display().to_string())?;
        Ok(Self { _file: file })
    }
}
