//! Networks that guess for a target: heads and small models that read its features.
//!
//! A published checkpoint in any dialect becomes one [`Network`]; each text being written has a
//! [`Guesser`] of it. A guesser only turns prefixes into scores of the next token. Which of them
//! become a draft, a chain or a tree, is decided once for all in `leveret-spec`.

mod assistant;
mod block;
mod fit;
mod kinds;
mod language;
mod recurrent;
mod vocabulary;

use crate::Result;
use crate::config::Config;
use crate::target::Tap;
use leveret_kernels::attention::KvType;
use leveret_kernels::{Matrix, Team};
use std::fmt::Debug;
use std::sync::Arc;

pub use assistant::{AssistantOptions, DraftPosition, DraftWindow};
pub(crate) use assistant::{CENTRES_KEY, GGUF as ASSISTANT_GGUF, ORDER_KEY, Plan as AssistantPlan};
pub(crate) use block::{BlockConfig, BlockNames, Shapes, causal_where_unsaid};
pub use kinds::{DraftOptions, describe, load, recognise};
pub(crate) use kinds::{Structure, structure};
pub use language::LanguageModel;
pub(crate) use recurrent::{Design, Join, Names, Next};
pub(crate) use vocabulary::{MapRule, integers, token_map};

/// What a drafter may use of the target that it guesses for: its threads, its embedding and its
/// head.
#[derive(Debug, Clone)]
pub struct TargetParts {
    pub(crate) team: Arc<Team>,
    pub(crate) config: Arc<Config>,
    /// `[vocab, hidden]`, without the factor on embedding rows.
    pub(crate) embedding: Arc<Matrix>,
    /// `[vocab, hidden]`, without the softcap on logits.
    pub(crate) head: Arc<Matrix>,
    pub(crate) kv: KvType,
    pub(crate) max_context: usize,
}

impl TargetParts {
    /// What the target is composed of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The threads that the target runs on.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// What must be known of the target to say what a drafter is.
    pub fn facts(&self) -> TargetFacts {
        TargetFacts { config: Arc::clone(&self.config), head_bytes: self.head.bytes() }
    }
}

/// What must be known of a target to say what a drafter for it is, without either being loaded.
#[derive(Debug, Clone)]
pub struct TargetFacts {
    /// What the target is composed of.
    pub config: Arc<Config>,
    /// Bytes of its head, which drafters without one of their own read.
    pub head_bytes: usize,
}

/// What a network is, for messages, `inspect` and control.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Kind of network: `eagle3`, `mtp`, `dflash`, `gemma4-assistant`, `model`.
    pub family: &'static str,
    /// Layout of the files it came from: `speculators`, `z-lab`, `gguf`.
    pub dialect: &'static str,
    /// Features of the target that it reads, in the order in which it joins them.
    pub taps: Vec<Tap>,
    /// Most tokens that a draft can be deep; `None` where it is chained at will.
    pub depth: Option<usize>,
    /// Tokens that it can propose: the target's vocabulary, or a part of it.
    pub vocab: usize,
    /// Bytes of weights that one draft step reads; the whole block counts as one step.
    pub bytes_per_step: usize,
    /// Bytes of weights that each further token along a block's path reads; 0 where the block's pass
    /// is all.
    pub bytes_along: usize,
    /// Values of keys and values that a step reads for each row of the text, windows aside.
    pub kv_values: usize,
}

/// A loaded drafter, for any number of texts.
pub trait Network: Debug + Send + Sync {
    /// What it is.
    fn description(&self) -> &Description;

    /// A guesser for a new text of up to `capacity` tokens, drafts included.
    ///
    /// # Errors
    /// No memory for its caches.
    fn guesser(self: Arc<Self>, capacity: usize) -> Result<Box<dyn Guesser>>;
}

/// The features of rows that the target has processed.
pub trait Features {
    /// Value at `tap` for row `row` of the target's last pass.
    fn feature(&self, tap: Tap, row: usize) -> &[f32];
}

/// Rows of the target that have become text.
#[derive(Clone, Copy)]
pub struct Committed<'a> {
    /// The text so far. It has at least one token more than rows have been processed.
    pub tokens: &'a [u32],
    /// Position of the first of these rows in the text.
    pub first: usize,
    /// Where the rows stand in the target's last pass, in the order of the text.
    pub rows: &'a [usize],
    /// Their features at the network's taps.
    pub features: &'a dyn Features,
}

impl Debug for Committed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committed")
            .field("first", &self.first)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// A node of the draft that a guesser is asked to look behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// The node before it: 0 is the committed text, `i` the `i`-th branch since [`Guesser::begin`],
    /// counted from 1.
    pub parent: usize,
    /// Its token.
    pub token: u32,
}

/// Scores of the token that follows a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores<'a> {
    /// Logit of each candidate.
    pub logits: &'a [f32],
    /// Target token id of each candidate; `None` when it is the index. Tokens
    /// that are not listed have probability zero.
    pub tokens: Option<&'a [u32]>,
    /// The chance that the token it would choose here is accepted, given that all before are, where
    /// the network has a head that says so.
    pub confidence: Option<f32>,
}

impl Scores<'_> {
    /// Target token of candidate `index`.
    pub fn token(&self, index: usize) -> u32 {
        self.tokens.map_or(index as u32, |tokens| tokens[index])
    }
}

/// A network at work on one text.
///
/// The target processes rows and [`observe`](Self::observe) is told of those that became text,
/// without gaps. [`begin`](Self::begin) then opens a draft after the text's last token, which is
/// chosen but not processed; [`expand`](Self::expand) looks behind nodes that the caller has
/// picked. Both may be left out in any round, and no text depends on what they give.
pub trait Guesser: Debug + Send {
    /// Takes in committed rows. Work that only a draft needs is put off until one begins.
    ///
    /// # Errors
    /// Rows that do not follow those before, or no room.
    fn observe(&mut self, committed: &Committed<'_>) -> Result<()>;

    /// Tokens that a draft after a text of `tokens` tokens would have to read first; 0 where they are read as they come.
    fn unread(&self, _tokens: usize) -> usize {
        0
    }

    /// Says that scores of the first `tokens` tokens of the vocabulary are enough for the drafts to come. A network
    /// with a token map, or whose head is no table of all tokens, need not care.
    fn score_first(&mut self, tokens: usize) {
        let _ = tokens;
    }

    /// Opens a draft after `tokens`, the text; all but its last token have been observed. Scores of
    /// node 0, the token after the text, can be read then. A network that reads the text itself, which
    /// [`unread`](Self::unread) tells, may be given the end of it as if it were all.
    ///
    /// # Errors
    /// Rows are missing, or there is no room.
    fn begin(&mut self, tokens: &[u32]) -> Result<()>;

    /// Whether nodes of one pass may follow one another: it needs no more of a node than the tokens up to it.
    fn reads_ahead(&self) -> bool {
        false
    }

    /// Opens a draft and adds nodes, all in one pass where that can be.
    ///
    /// # Errors
    /// As [`begin`](Self::begin) and [`expand`](Self::expand).
    fn begin_with(&mut self, tokens: &[u32], branches: &[Branch]) -> Result<()> {
        self.begin(tokens)?;
        if branches.is_empty() { Ok(()) } else { self.expand(branches) }
    }

    /// Adds nodes, in one pass where the network needs one. Their parents were added before, or stand before them in
    /// `branches` where the network [reads ahead](Self::reads_ahead).
    ///
    /// # Errors
    /// A parent that does not exist, a node deeper than the network can guess, or no room.
    fn expand(&mut self, branches: &[Branch]) -> Result<()>;

    /// Scores of the token after `node`, numbered as in [`Branch::parent`].
    ///
    /// # Panics
    /// If the node does not exist.
    fn scores(&self, node: usize) -> Scores<'_>;

    /// Values inside the network during the last draft, row by row, by the name that reference
    /// outputs have for them. For comparison only; `None` where nothing of that name is kept.
    fn trace(&self, _name: &str) -> Option<Vec<f32>> {
        None
    }
}
