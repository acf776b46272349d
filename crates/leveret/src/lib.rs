//! The command line of Leveret: fetches models, runs them, looks into them and measures them.
//!
//! [`pull`] turns a model's name into a path, [`law`] compares bits and tokens; the commands are
//! thin around these and the engine's crates.

#![forbid(unsafe_code)]

pub mod catalogue;
mod cli;
mod commands;
mod control;
mod draft_model;
mod drafter;
pub mod law;
mod machine;
mod model;
mod plot;
mod progress;
pub mod prompts;
pub mod pull;
mod streams;
mod synth;

pub use cli::main;
