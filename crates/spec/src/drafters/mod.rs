//! The drafters of this crate, one file each, and what several of them share.

mod automaton;
#[cfg(test)]
pub(crate) mod random;
mod rates;
mod suffix;

pub use automaton::{Repeat, SuffixAutomaton};
pub use suffix::SuffixDrafter;
