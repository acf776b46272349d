//! From model files to a runnable target.
//!
//! Data flows one way: a file in [`formats`] gives metadata and tensor bytes; `config` turns
//! metadata into one descriptor; `target` composes layers over `leveret-kernels`. Tokenizer
//! and chat template stand beside that path and know nothing of the network.

mod error;
pub mod formats;
pub mod template;
pub mod tokenizer;
mod target;

pub use error::{Error, Result};
pub use target::{Cache, LogitRows, Pass, Tap, Target};
