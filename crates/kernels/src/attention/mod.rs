//! Attention of the rows of a pass over one layer's cached keys and values.
//!
//! Logical positions are cut into fixed blocks from position 0. Each (row, head, block) gives a record of
//! its own, and a row's records are folded in order. So a row's arithmetic depends on its path alone:
//! not on the other rows, on which slots its path occupies, or on how blocks are shared out.

mod block;
mod cache;
mod fold;
mod pass;
mod visible;

pub use cache::{KvBuffer, KvType};
pub use pass::{AttentionScratch, attention};
pub use visible::Visible;

/// Positions in a block.
const BLOCK: usize = 256;

/// Shape and variant of a layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSpec<'a> {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values; query head `h` reads `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a query and a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// A query at position `p` sees keys from `p - window + 1` on; `None` sees all.
    pub window: Option<usize>,
    /// One logit per head that joins the softmax's denominator only.
    pub sinks: Option<&'a [f32]>,
}

#[cfg(test)]
mod tests;
