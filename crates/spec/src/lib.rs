//! One round of speculative decoding: draft, verify, sample, commit.
//!
//! A [`Session`] writes one text. Each step a [`Drafter`] proposes a [`Draft`], control
//! keeps what pays for its rows, the target runs once over all of them, and [`verify()`] walks the
//! draft with the [`Sampler`], whose choice at a position depends on the text before it alone. So
//! the text is the same with any drafter and with none; only its speed differs.

#![forbid(unsafe_code)]

mod control;
mod draft;
mod drafter;
pub mod drafters;
mod error;
mod odds;
mod random;
mod sampler;
mod session;
mod stats;
mod stop;
#[cfg(test)]
mod testing;
pub mod verify;

pub use control::{Control, CostCurve, Experience, measure};
pub use draft::{Draft, Draws, Node};
pub use drafter::{Context, Drafter, Lessons, PassRows, Probe, Round, Worth};
pub use error::{Error, Result};
pub use random::{SplitMix64, mix};
pub use sampler::{Choice, Distribution, Draw, DrawScratch, Noise, Sampler, SamplingParams, TokenLogprobs};
pub use session::{Belief, Detokenizer, FinishReason, Options, Request, Session, Step};
pub use stats::{RoundStats, Seconds, Stats};
pub use stop::StopStrings;
pub use verify::{Accept, verify};
