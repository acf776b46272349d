//! The drafters of this crate, one file each, and what several of them share.

mod automaton;
mod composite;
mod network;
mod odds;
#[cfg(test)]
pub(crate) mod random;
mod rates;
mod reliability;
mod suffix;

pub use automaton::{Repeat, SuffixAutomaton};
pub use composite::{Composite, MOST_PARTS};
pub use network::NetworkDrafter;
pub use suffix::SuffixDrafter;
