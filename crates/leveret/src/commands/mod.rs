//! One module per command: its arguments, and what it does with them.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod convert;
pub(crate) mod golden;
pub(crate) mod inspect;
mod inspect_drafter;
pub(crate) mod list;
pub(crate) mod pull;
pub(crate) mod run;
mod sampling;
pub(crate) mod synth;
pub(crate) mod template;
pub(crate) mod tokenize;
