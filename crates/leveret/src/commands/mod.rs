//! One module per command: its arguments, and what it does with them.

pub(crate) mod list;
pub(crate) mod pull;
