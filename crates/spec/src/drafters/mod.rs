//! The drafters of this crate, one file each, and what several of them share.

mod ahead;
mod automaton;
mod breadth;
mod composite;
mod grow;
mod hints;
mod hostile;
mod mask;
mod network;
mod pace;
mod prediction;
mod reading;
mod recycle;
mod reliability;
pub mod store;
mod suffix;
mod translated;

pub use automaton::{Follower, Place, SuffixAutomaton};
pub use composite::Composite;
pub use hostile::HostileDrafter;
pub use mask::MaskDrafter;
pub use network::{NetworkDrafter, network_lessons};
pub use prediction::PredictionDrafter;
pub use recycle::RecycleDrafter;
pub use store::{Store, StoreDrafter};
pub use suffix::SuffixDrafter;
pub use translated::TranslatedDrafter;
