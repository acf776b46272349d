//! What a target is to the rest of the engine: rows in, logits and features out.
//!
//! Only the trait and its plain data live here, so that rounds, samplers and drafters can be
//! tested against a table-driven target without any network.

use crate::Result;

/// A place in the network whose value a drafter may read for every row of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tap {
    /// Hidden state after the final norm: the head's input. Width: hidden size.
    Final,
    /// Residual stream after `k` decoder layers; 0 is the embedding output (scaled, where the
    /// model scales it), the number of layers is the value before the final norm. Width: hidden size.
    Residual(usize),
    /// Keys of a layer as its attention sees them, after norm and rotation. Width: key-value heads
    /// times key width.
    Keys(usize),
    /// Values of a layer. Width: key-value heads times value width.
    Values(usize),
}

/// Rows of a pass whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// No row: a prompt chunk that is not the last.
    None,
    /// The last row only.
    Last,
    /// Every row: a verification pass.
    All,
}

/// The rows of one sequence in a forward pass.
#[derive(Debug)]
pub struct Pass<'a, C> {
    /// Cache of the sequence. The pass writes its rows behind the committed ones; they count
    /// only once [`Cache::commit`] has named them.
    pub cache: &'a mut C,
    /// Token of each row.
    pub tokens: &'a [u32],
    /// Parent of each row: `None` is the last committed row, `Some(j)` row `j` of this pass with
    /// `j` smaller than the row's own index. Absent: a chain, each row the child of the one before.
    pub parents: Option<&'a [Option<usize>]>,
    /// Rows whose logits are wanted.
    pub logits: LogitRows,
}

/// The state that one sequence keeps between passes.
pub trait Cache: Send {
    /// Committed rows.
    fn len(&self) -> usize;

    /// Whether nothing has been committed.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows that fit in all, those of an uncommitted pass included.
    fn capacity(&self) -> usize;

    /// Keeps the rows `path` of the last pass, in this order, each the child of the one before,
    /// and drops the others. An empty path drops all.
    ///
    /// # Errors
    /// When `path` is not a path of the last pass from a child of the last committed row.
    fn commit(&mut self, path: &[usize]) -> Result<()>;

    /// Forgets all committed rows from `len` on.
    ///
    /// # Errors
    /// When fewer rows are committed, or the state cannot be cut there.
    fn truncate(&mut self, len: usize) -> Result<()>;
}

/// A model that can run passes. Logits of a row are the same bits whatever else is in the pass.
pub trait Target {
    /// State of one sequence.
    type Cache: Cache;

    /// Number of token ids; length of a logits row.
    fn vocab_size(&self) -> usize;

    /// Positions that the model was made for.
    fn max_context(&self) -> usize;

    /// An empty cache with room for `capacity` rows, draft rows included.
    ///
    /// # Errors
    /// When `capacity` is more than the model or memory allows.
    fn new_cache(&self, capacity: usize) -> Result<Self::Cache>;

    /// Runs one forward pass over the rows of all `passes`. A pass may hold any number of rows.
    /// Results stay readable through [`logits`](Self::logits) and [`feature`](Self::feature)
    /// until the next pass.
    ///
    /// # Errors
    /// A token id outside the vocabulary, malformed parents, or more rows than a cache has room for.
    fn forward(&mut self, passes: &mut [Pass<'_, Self::Cache>], taps: &[Tap]) -> Result<()>;

    /// Logits `[vocab_size]` of the `index`-th row that asked for them in the last pass, counted
    /// over all sequences in order.
    fn logits(&self, index: usize) -> &[f32];

    /// Value at the `tap`-th of the asked taps for row `row` of the last pass, counted over all
    /// sequences in order.
    fn feature(&self, tap: usize, row: usize) -> &[f32];
}
