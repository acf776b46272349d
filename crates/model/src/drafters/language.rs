//! A language model as drafter: a small one that has the target's vocabulary, with caches of its
//! own. It reads the text and nothing of the target.

use super::{Branch, Committed, Description, Guesser, Network, Scores};
use crate::cache::Sequence;
use crate::target::{Cache, LogitRows, Pass, Target};
use crate::{Error, Model, Result};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows that are caught up on in one pass.
const CHUNK: usize = 256;

/// A model that guesses for another one.
pub struct LanguageModel {
    description: Description,
    /// Every pass uses the model's buffers, so texts take turns.
    model: Mutex<Model>,
}

impl fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanguageModel").field("description", &self.description).finish_non_exhaustive()
    }
}

impl LanguageModel {
    /// Makes a drafter of `model`, for a target with `vocab` tokens that mean the same in both as far
    /// as the smaller vocabulary goes. `bytes` is what one token reads.
    ///
    /// # Errors
    /// A drafter that knows fewer than half of the target's tokens.
    pub fn new(model: Model, vocab: usize, bytes: usize) -> Result<Self> {
        let own = model.config().vocab;
        if own * 2 < vocab {
            return Err(Error::request(format!(
                "the draft model has a vocabulary of {own} tokens and the target one of {vocab}: they are not related"
            )));
        }
        let description = Description {
            family: "model",
            dialect: model.config().family,
            taps: Vec::new(),
            depth: None,
            // Rows beyond the target's vocabulary are padding.
            vocab: own.min(vocab),
            bytes_per_step: bytes,
        };
        Ok(Self { description, model: Mutex::new(model) })
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        // A pass that panicked leaves nothing behind that the next one reads.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network for LanguageModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn guesser(self: Arc<Self>, capacity: usize) -> Result<Box<dyn Guesser>> {
        let model = self.model();
        let capacity = capacity.min(model.max_context());
        let cache = model.new_cache(capacity)?;
        drop(model);
        Ok(Box::new(LanguageGuesser {
            network: self,
            cache,
            text: Vec::new(),
            logits: Vec::new(),
            tokens: Vec::new(),
            parents: Vec::new(),
        }))
    }
}

/// A draft model at work on one text.
struct LanguageGuesser {
    network: Arc<LanguageModel>,
    cache: Sequence,
    /// Tokens whose rows are committed in the cache.
    text: Vec<u32>,
    /// Logits behind the text, then behind each branch: `[1 + branches, vocab]`.
    logits: Vec<f32>,
    /// Scratch: rows of a pass.
    tokens: Vec<u32>,
    parents: Vec<Option<usize>>,
}

impl fmt::Debug for LanguageGuesser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanguageGuesser").field("rows", &self.text.len()).finish_non_exhaustive()
    }
}

impl LanguageGuesser {
    fn keep_logits(logits: &mut Vec<f32>, model: &Model, rows: usize, vocab: usize) {
        for row in 0..rows {
            logits.extend_from_slice(&model.logits(row)[..vocab]);
        }
    }
}

impl Guesser for LanguageGuesser {
    fn observe(&mut self, _committed: &Committed<'_>) -> Result<()> {
        Ok(())
    }

    fn begin(&mut self, tokens: &[u32]) -> Result<()> {
        let network = Arc::clone(&self.network);
        let (mut model, vocab) = (network.model(), network.description.vocab);
        let known = self.text.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last row is run again where nothing is new: its logits are wanted.
        let known = known.min(tokens.len().saturating_sub(1));
        self.cache.truncate(known)?;
        self.text.truncate(known);
        self.logits.clear();
        for chunk in tokens[known..].chunks(CHUNK) {
            if let Some(token) = chunk.iter().find(|&&token| token as usize >= model.vocab_size()) {
                return Err(Error::request(format!("the draft model has no token {token}")));
            }
            let last = self.text.len() + chunk.len() == tokens.len();
            let logits = if last { LogitRows::Last } else { LogitRows::None };
            let pass = Pass { cache: &mut self.cache, tokens: chunk, parents: None, logits };
            model.forward(&mut [pass], &[])?;
            let path: Vec<usize> = (0..chunk.len()).collect();
            self.cache.commit(&path)?;
            self.text.extend_from_slice(chunk);
        }
        Self::keep_logits(&mut self.logits, &model, 1, vocab);
        Ok(())
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<()> {
        let network = Arc::clone(&self.network);
        let (mut model, vocab) = (network.model(), network.description.vocab);
        let nodes = self.logits.len() / vocab;
        if let Some((i, branch)) = branches.iter().enumerate().find(|(i, b)| b.parent >= nodes + i) {
            let parent = branch.parent;
            return Err(Error::request(format!(
                "branch {i} follows node {parent}, of {nodes} that there are"
            )));
        }
        if nodes > 1 {
            self.cache.hold();
        }
        self.tokens.clear();
        self.tokens.extend(branches.iter().map(|b| b.token));
        self.parents.clear();
        self.parents.extend(branches.iter().map(|b| b.parent.checked_sub(1)));
        let (cache, tokens, parents) = (&mut self.cache, &self.tokens, Some(&self.parents[..]));
        model.forward(&mut [Pass { cache, tokens, parents, logits: LogitRows::All }], &[])?;
        Self::keep_logits(&mut self.logits, &model, branches.len(), vocab);
        Ok(())
    }

    fn scores(&self, node: usize) -> Scores<'_> {
        let vocab = self.network.description.vocab;
        Scores { logits: &self.logits[node * vocab..][..vocab], tokens: None, confidence: None }
    }
}
