//! The state of one sequence: per layer what it has to look back on.
//!
//! Slot `i` holds committed row `i`; the rows of a pass stand behind the committed ones until
//! `commit` moves the accepted path down and forgets the rest. Recurrent layers keep a tape of the
//! last pass instead of slots.

use crate::config::{Config, KvSource};
use crate::target::Cache;
use crate::{Error, Result};
use leveret_kernels::attention::{KvBuffer, KvType};
use leveret_kernels::delta::DeltaState;

/// Parent of a row that follows the committed ones directly.
const ROOT: u32 = u32::MAX;

/// State of one sequence.
#[derive(Debug)]
pub struct Sequence {
    len: usize,
    capacity: usize,
    /// Parent of each row of the last pass, and of the held ones before it, until they are committed.
    parents: Vec<u32>,
    /// Rows at the front of `parents` that the next pass follows.
    held: usize,
    pub(crate) layers: Vec<LayerState>,
}

/// What one layer keeps.
#[derive(Debug)]
pub(crate) enum LayerState {
    /// Keys and values of every row.
    Attention(KvBuffer),
    /// What all rows together have left behind.
    Delta(Box<DeltaState>),
    /// Nothing: the layer reads what another one keeps.
    Nothing,
}

impl LayerState {
    /// Its keys and values, if it has any.
    pub(crate) fn kv(&mut self) -> Option<&mut KvBuffer> {
        match self {
            LayerState::Attention(kv) => Some(kv),
            _ => None,
        }
    }
}

fn no_memory(rows: usize) -> Error {
    Error::request(format!("no memory for a cache of {rows} rows: ask for a shorter context"))
}

impl Sequence {
    /// An empty sequence with room for `capacity` rows.
    pub(crate) fn new(config: &Config, kv: KvType, capacity: usize) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::request("a cache for 0 rows was asked for, expected at least 1"));
        }
        let layer = |layer: &crate::config::LayerConfig| {
            let a = &layer.attention;
            let state = match (&layer.delta, a.source) {
                (Some(delta), _) => {
                    DeltaState::new(delta.shape).map(|state| LayerState::Delta(Box::new(state)))
                }
                (None, KvSource::Layer(_)) => Some(LayerState::Nothing),
                (None, _) => {
                    KvBuffer::new(kv, a.kv_heads, a.k_dim, a.v_dim, capacity).map(LayerState::Attention)
                }
            };
            state.ok_or_else(|| no_memory(capacity))
        };
        let layers = config.layers.iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { len: 0, capacity, parents: Vec::new(), held: 0, layers })
    }

    /// A sequence of its own that begins with the committed rows of this one.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn fork(&self) -> Result<Self> {
        let layer = |layer: &LayerState| match layer {
            LayerState::Attention(kv) => kv.fork(self.len).map(LayerState::Attention),
            LayerState::Delta(state) => Some(LayerState::Delta(state.clone())),
            LayerState::Nothing => Some(LayerState::Nothing),
        };
        let layers =
            self.layers.iter().map(layer).collect::<Option<_>>().ok_or_else(|| no_memory(self.capacity))?;
        Ok(Self { len: self.len, capacity: self.capacity, parents: Vec::new(), held: 0, layers })
    }

    /// Bytes that the full cache takes.
    pub fn bytes(&self) -> usize {
        let bytes = |layer: &LayerState| match layer {
            LayerState::Attention(kv) => kv.bytes(),
            LayerState::Delta(state) => state.bytes(),
            LayerState::Nothing => 0,
        };
        self.layers.iter().map(bytes).sum()
    }

    /// The states of recurrent layers.
    fn recurrent(&self) -> impl Iterator<Item = &DeltaState> {
        self.layers.iter().filter_map(|layer| match layer {
            LayerState::Delta(state) => Some(&**state),
            _ => None,
        })
    }

    /// Checks that `rows` more rows fit.
    pub(crate) fn check_room(&self, rows: usize) -> Result<()> {
        if rows <= self.capacity - self.len - self.held {
            return Ok(());
        }
        let (len, capacity) = (self.len + self.held, self.capacity);
        Err(Error::request(format!(
            "context overflow: {len} rows are cached and {rows} more were asked for, but the cache has room for {capacity}; \
             shorten the prompt or ask for a longer context"
        )))
    }

    /// Keeps the rows that are not committed for the next pass, which stands behind them: its parents
    /// are then required, and number all rows since the last commit. So a draft tree grows level by
    /// level. A pass without this drops them.
    pub fn hold(&mut self) {
        self.held = self.parents.len();
    }

    /// Rows held for the next pass.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Parents of the held rows.
    pub(crate) fn held_parents(&self) -> impl Iterator<Item = Option<usize>> {
        self.parents[..self.held].iter().map(|&parent| (parent != ROOT).then_some(parent as usize))
    }

    /// Notes the rows of a pass that was written behind the committed and held ones.
    pub(crate) fn set_pending(&mut self, parents: impl Iterator<Item = Option<usize>>) {
        self.parents.truncate(self.held);
        self.held = 0;
        self.parents.extend(parents.map(|parent| parent.map_or(ROOT, |p| p as u32)));
    }
}

impl Cache for Sequence {
    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn commit(&mut self, path: &[usize]) -> Result<()> {
        let mut parent = ROOT;
        for &row in path {
            if self.parents.get(row) != Some(&parent) {
                let rows = self.parents.len();
                return Err(Error::request(format!(
                    "commit of rows {path:?}: row {row} does not continue the path in the last pass of {rows} rows"
                )));
            }
            parent = row as u32;
        }
        let rows = self.parents.len();
        if !self.recurrent().all(|state| state.can_commit(path, rows)) {
            let kept = path.len();
            return Err(Error::request(format!(
                "commit of {kept} rows of {rows}: recurrent layers keep no tape of so long a pass without all logits, so all of it is kept or none"
            )));
        }
        for layer in &mut self.layers {
            match layer {
                // Parents precede children, so the path ascends and no row overwrites one still to be moved.
                LayerState::Attention(kv) => {
                    let moved = path.iter().enumerate().filter(|&(i, &row)| row != i);
                    moved.for_each(|(i, &row)| kv.move_row(self.len + row, self.len + i));
                }
                LayerState::Delta(state) => state.commit(path),
                LayerState::Nothing => {}
            }
        }
        self.len += path.len();
        self.parents.clear();
        self.held = 0;
        Ok(())
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        if len > self.len {
            return Err(Error::request(format!(
                "truncation to {len} rows, but only {} are committed",
                self.len
            )));
        }
        let dropped = self.len - len;
        if len > 0 && self.recurrent().any(|state| state.revocable() < dropped) {
            let now = self.len;
            return Err(Error::request(format!(
                "truncation from {now} rows to {len}: recurrent layers can take back only rows of the last commit, and only before the next pass; \
                 truncate to 0 and run the rows again"
            )));
        }
        for layer in &mut self.layers {
            match layer {
                LayerState::Delta(state) if len == 0 => state.reset(),
                LayerState::Delta(state) => state.revoke(dropped),
                LayerState::Attention(_) | LayerState::Nothing => {}
            }
        }
        self.len = len;
        self.parents.clear();
        self.held = 0;
        Ok(())
    }
}
