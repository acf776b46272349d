//! A language model as drafter: a small one with caches of its own, which reads the text and nothing
//! of the target. One trained with mask tokens guesses a whole block in one pass (PARD, arXiv
//! 2504.18583).

use super::{Branch, Committed, Description, Guesser, Network, Scores};
use crate::cache::Sequence;
use crate::target::{Cache, LogitRows, Pass, Target};
use crate::{Error, Model, Result};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows that are caught up on in one pass.
const CHUNK: usize = 256;
/// Most rows of text in a pass that looks behind nodes too: logits are then made of all of them.
const FEW: usize = 4;

/// A model that guesses for another one.
pub struct LanguageModel {
    description: Description,
    /// Stands for each token that is to be guessed, where the model was trained for it.
    mask: Option<u32>,
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
            bytes_along: 0,
            kv_values: model.config().kv_values_read(),
        };
        Ok(Self { description, mask: None, model: Mutex::new(model) })
    }

    /// Lets the model guess `depth` tokens at once, from rows of the token `mask` behind the text.
    ///
    /// # Errors
    /// A mask that is not in the model's vocabulary, or no depth.
    pub fn with_mask(mut self, mask: u32, depth: usize) -> Result<Self> {
        let own = self.model().config().vocab;
        if mask as usize >= own || depth == 0 {
            return Err(Error::request(format!(
                "mask token {mask} for drafts of {depth}, in a vocabulary of {own} tokens"
            )));
        }
        self.mask = Some(mask);
        self.description.family = "pard";
        self.description.depth = Some(depth);
        Ok(self)
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
            wanted: usize::MAX,
            scored: 0,
            text: Vec::new(),
            pending: Vec::new(),
            logits: Vec::new(),
            slots: Vec::new(),
            tokens: Vec::new(),
            parents: Vec::new(),
            path: Vec::new(),
        }))
    }
}

/// A draft model at work on one text.
struct LanguageGuesser {
    network: Arc<LanguageModel>,
    cache: Sequence,
    /// Tokens that scores are wanted of, and those that the draft's rows have scores of: the first of the vocabulary.
    wanted: usize,
    scored: usize,
    /// Tokens whose rows are committed in the cache.
    text: Vec<u32>,
    /// Rows behind those, with their parents among themselves: the last of the text, then the nodes of the draft. What
    /// becomes text is kept.
    pending: Vec<(u32, Option<usize>)>,
    /// Logits behind the text, then behind each branch, or at each mask: `[rows, scored]`.
    logits: Vec<f32>,
    /// Which of these rows belongs to each node.
    slots: Vec<usize>,
    /// Scratch: rows of a pass.
    tokens: Vec<u32>,
    parents: Vec<Option<usize>>,
    path: Vec<usize>,
}

impl fmt::Debug for LanguageGuesser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanguageGuesser").field("rows", &self.text.len()).finish_non_exhaustive()
    }
}

impl LanguageGuesser {
    fn keep_logits(&mut self, model: &Model, rows: Range<usize>) {
        for row in rows {
            self.logits.extend_from_slice(&model.logits(row)[..self.scored]);
        }
    }

    /// Runs `chunk`, text that is followed by `masks` rows to guess at, and keeps the rows of text.
    fn read(&mut self, model: &mut Model, chunk: &[u32], masks: usize, logits: LogitRows) -> Result<()> {
        self.tokens.clear();
        self.tokens.extend_from_slice(chunk);
        if let Some(mask) = self.network.mask {
            self.tokens.extend(std::iter::repeat_n(mask, masks));
        }
        let pass = Pass { cache: &mut self.cache, tokens: &self.tokens, parents: None, logits };
        model.forward(&mut [pass], &[])?;
        self.path.clear();
        self.path.extend(0..chunk.len());
        self.cache.commit(&self.path)?;
        self.text.extend_from_slice(chunk);
        Ok(())
    }

    /// Keeps the rows of the last draft that `tokens` goes on with, and drops what it does not begin with. The last
    /// token's row is run again where it is there: its logits are wanted.
    fn settle(&mut self, tokens: &[u32]) -> Result<()> {
        let before_last = &tokens[..tokens.len().saturating_sub(1)];
        if let Some(new) = before_last.strip_prefix(&self.text[..]) {
            let (mut at, pending) = (None, &self.pending);
            self.path.clear();
            self.path.extend(new.iter().map_while(|token| {
                at = pending.iter().position(|row| *row == (*token, at));
                at
            }));
            // A recurrent state may not have kept the way there; then the rows are run again.
            if self.cache.commit(&self.path).is_ok() {
                self.text.extend_from_slice(&new[..self.path.len()]);
            }
        }
        self.pending.clear();
        let mut known = self.text.iter().zip(before_last).take_while(|(a, b)| a == b).count();
        if self.cache.truncate(known).is_err() {
            // A recurrent state cannot go back so far: the text is read again.
            known = 0;
            self.cache.truncate(known)?;
        }
        self.text.truncate(known);
        Ok(())
    }

    /// Runs the rows from `first` on of those pending, with logits of all, behind those that ran before.
    fn run(&mut self, model: &mut Model, first: usize) -> Result<()> {
        if first > 0 {
            self.cache.hold();
        }
        self.tokens.clear();
        self.tokens.extend(self.pending[first..].iter().map(|(token, _)| token));
        self.parents.clear();
        self.parents.extend(self.pending[first..].iter().map(|(_, parent)| parent));
        let (cache, tokens, parents) = (&mut self.cache, &self.tokens, Some(&self.parents[..]));
        model.forward(&mut [Pass { cache, tokens, parents, logits: LogitRows::All }], &[])
    }

    /// Checks that every branch follows a node that there is, or another before it.
    fn check(&self, branches: &[Branch]) -> Result<()> {
        let nodes = self.slots.len();
        match branches.iter().enumerate().find(|(i, b)| b.parent >= nodes + i) {
            None => Ok(()),
            Some((i, Branch { parent, .. })) => {
                Err(Error::request(format!("branch {i} follows node {parent}, of {nodes} that there are")))
            }
        }
    }

    /// Puts nodes behind the pending rows.
    fn add(&mut self, branches: &[Branch]) -> Result<()> {
        self.check(branches)?;
        // Node 0 is the last row of text, pending or not; all others are pending.
        let nodes = self.slots.len();
        let text = self.pending.len() + 1 - nodes;
        self.pending.extend(branches.iter().map(|b| (b.token, (text + b.parent).checked_sub(1))));
        self.slots.extend(nodes..nodes + branches.len());
        Ok(())
    }
}

impl Guesser for LanguageGuesser {
    fn observe(&mut self, _committed: &Committed<'_>) -> Result<()> {
        Ok(())
    }

    fn unread(&self, tokens: usize) -> usize {
        tokens.saturating_sub(self.text.len())
    }

    fn score_first(&mut self, tokens: usize) {
        self.wanted = tokens;
    }

    fn begin(&mut self, tokens: &[u32]) -> Result<()> {
        self.begin_with(tokens, &[])
    }

    fn reads_ahead(&self) -> bool {
        self.network.mask.is_none()
    }

    fn begin_with(&mut self, tokens: &[u32], branches: &[Branch]) -> Result<()> {
        let network = Arc::clone(&self.network);
        let mut model = network.model();
        self.scored = self.wanted.min(network.description.vocab);
        model.score_first(self.scored);
        if tokens.is_empty() {
            return Err(Error::request("a draft needs a text to follow"));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= model.vocab_size()) {
            return Err(Error::request(format!("the draft model has no token {token}")));
        }
        self.settle(tokens)?;
        self.logits.clear();
        self.slots.clear();
        let new = &tokens[self.text.len()..];
        let (early, last) = new.split_at(new.len().saturating_sub(1) / CHUNK * CHUNK);
        for chunk in early.chunks(CHUNK) {
            self.read(&mut model, chunk, 0, LogitRows::None)?;
        }
        match network.mask {
            Some(_) => {
                let free = self.cache.capacity().saturating_sub(tokens.len());
                let masks = (network.description.depth.unwrap_or(1) - 1).min(free);
                self.read(&mut model, last, masks, LogitRows::All)?;
                self.keep_logits(&model, last.len() - 1..last.len() + masks);
                self.slots.push(0);
            }
            None if last.len() <= FEW => {
                self.pending.extend(last.iter().enumerate().map(|(row, &token)| (token, row.checked_sub(1))));
                self.slots.push(0);
                self.add(branches)?;
                self.run(&mut model, 0)?;
                self.keep_logits(&model, last.len() - 1..self.pending.len());
                return Ok(());
            }
            None => {
                self.read(&mut model, last, 0, LogitRows::Last)?;
                self.keep_logits(&model, 0..1);
                self.slots.push(0);
            }
        }
        drop(model);
        if branches.is_empty() { Ok(()) } else { self.expand(branches) }
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<()> {
        let network = Arc::clone(&self.network);
        if network.mask.is_some() {
            self.check(branches)?;
            let depth = self.logits.len() / self.scored.max(1);
            for branch in branches {
                let slot = self.slots[branch.parent] + 1;
                if slot >= depth {
                    return Err(Error::request(format!("a draft of {} from {depth} masks", slot + 1)));
                }
                self.slots.push(slot);
            }
            return Ok(());
        }
        let mut model = network.model();
        model.score_first(self.scored);
        let first = self.pending.len();
        self.add(branches)?;
        self.run(&mut model, first)?;
        self.keep_logits(&model, 0..branches.len());
        Ok(())
    }

    fn scores(&self, node: usize) -> Scores<'_> {
        let (slot, scored) = (self.slots[node], self.scored);
        Scores { logits: &self.logits[slot * scored..][..scored], tokens: None, confidence: None }
    }
}
