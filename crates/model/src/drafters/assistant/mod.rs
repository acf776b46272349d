//! Gemma 4's assistant: a few layers without keys or values of their own, which read those that the
//! target keeps and hand their output on from token to token.
//!
//! All steps of a draft stand at the same position and see the same keys. So a node is made of its
//! token and what its parent handed on, and there is nothing to take back. The target's keys and
//! values are copied as its rows become text: its own cache may go on to the next pass meanwhile.

mod guesser;
mod head;
mod load;
mod trial;

use super::kinds::{Kind, Runner};
use super::{Description, Guesser, Network, TargetParts};
use crate::Result;
use crate::config::Config;
use crate::layers::Layer;
use guesser::AssistantGuesser;
use head::DraftHead;
use leveret_kernels::Matrix;
pub(crate) use load::{CENTRES_KEY, GGUF, ORDER_KEY, Plan};
pub(super) use load::{describe, load, plan};
use std::sync::Arc;
use trial::Trial;

pub(super) const KIND: Kind = Kind { family: FAMILY, matches: load::matches, runner: Runner::Assistant };

const FAMILY: &str = "gemma4-assistant";

/// Where conventions about these drafters disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AssistantOptions {
    /// Where all steps of a draft stand.
    pub position: DraftPosition,
    /// What sliding layers see.
    pub window: DraftWindow,
}

/// The position of all steps of a draft behind `n` processed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DraftPosition {
    /// The one under which more tokens come true: both are tried in the first rounds, while drafts
    /// are made at the last token.
    #[default]
    Measured,
    /// `n`: that of the last token, which is not processed (transformers, llama.cpp).
    LastToken,
    /// `n - 1`: that of the last processed row (vLLM, SGLang).
    LastRow,
}

/// The last processed rows that a sliding layer with the window `w` sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DraftWindow {
    /// `w - 1`: those that a row of the target would see from the place of the last token (llama.cpp).
    #[default]
    Ordinary,
    /// `w + 1` (transformers).
    Wider,
}

/// A loaded assistant.
#[derive(Debug)]
struct Assistant {
    description: Description,
    target: TargetParts,
    trial: Trial,
    /// Its layers. Each reads the cache that stands as far behind these as [`shared`](Self::shared)
    /// says.
    config: Config,
    weights: Weights,
    /// Layers of the target whose keys and values are read: a sliding one, then a full one, where
    /// the assistant has such layers.
    shared: Vec<usize>,
}

/// Its weights; `M` is a packed matrix.
#[derive(Debug)]
struct Weights<M = Matrix> {
    /// `[hidden, 2 * target's hidden]`: reads a token's embedding and the state handed on.
    before: M,
    layers: Vec<Layer<M>>,
    norm: Vec<f32>,
    /// `[target's hidden, hidden]`: makes the state to be handed on.
    after: M,
    head: DraftHead<M>,
}

impl Network for Assistant {
    fn description(&self) -> &Description {
        &self.description
    }

    fn guesser(self: Arc<Self>, capacity: usize) -> Result<Box<dyn Guesser>> {
        Ok(Box::new(AssistantGuesser::new(self, capacity)?))
    }
}
