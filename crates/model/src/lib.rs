//! From model files to a runnable target.
//!
//! Data flows one way: a file in [`formats`] gives metadata and tensor bytes; `config` turns
//! metadata into one descriptor; `target` composes layers over `leveret-kernels`. Tokenizer
//! and chat template stand beside that path and know nothing of the network.

#![forbid(unsafe_code)]

mod arch;
mod cache;
pub mod config;
pub mod convert;
mod decoder;
pub mod drafters;
mod error;
mod footprint;
pub mod formats;
pub mod golden;
mod layers;
mod load;
mod target;
pub mod template;
pub mod tokenizer;
mod weights;

pub use arch::supported_architectures;
pub use cache::Sequence;
pub use config::Config;
pub use decoder::Model;
pub use error::{Error, Result};
pub use footprint::Footprint;
pub use leveret_kernels::attention::KvType;
pub use leveret_kernels::{ElementType, Team};
pub use load::{Files, LoadOptions, SetAside, Source};
pub use target::{Cache, LogitRows, Pass, Tap, Target};
pub use weights::Precision;
