//! The assistant's head: all tokens, or those of the clusters whose centres score best.

use crate::layers::room;
use leveret_kernels::ops::top_k;
use leveret_kernels::{Activations, Job, Matrix, Rows, Team, matmul};

/// What scores tokens.
#[derive(Debug)]
pub(super) enum DraftHead<M = Matrix> {
    /// `[vocab, hidden]`.
    Full(M),
    /// Tokens in clusters of one size, of which the best few are read.
    Clusters(Clusters<M>),
}

/// A table in parts, each with a centre that tells whether it is worth reading.
#[derive(Debug)]
pub(super) struct Clusters<M = Matrix> {
    /// `[clusters, hidden]`.
    pub(super) centres: M,
    /// The rows of each cluster's tokens.
    pub(super) parts: Vec<M>,
    /// Tokens of all clusters, one after the other.
    pub(super) tokens: Box<[u32]>,
    /// Clusters that a row reads.
    pub(super) used: usize,
}

impl<M> DraftHead<M> {
    /// Tokens that a row gets scores for; `vocab` is how many there are.
    pub(super) fn width(&self, vocab: usize) -> usize {
        match self {
            DraftHead::Full(_) => vocab,
            DraftHead::Clusters(clusters) => clusters.used * clusters.size(),
        }
    }
}

impl<M> Clusters<M> {
    /// Tokens of one cluster.
    pub(super) fn size(&self) -> usize {
        self.tokens.len() / self.parts.len()
    }
}

/// Scores of some rows.
#[derive(Debug, Default)]
pub(super) struct Scored {
    /// `[rows, width]`.
    pub(super) logits: Vec<f32>,
    /// Tokens of the logits; empty where they are all in order.
    pub(super) tokens: Vec<u32>,
    centres: Vec<f32>,
}

impl Scored {
    pub(super) fn clear(&mut self) {
        self.logits.clear();
        self.tokens.clear();
    }
}

impl DraftHead {
    /// Adds the scores of all rows of `x`.
    pub(super) fn score(&self, team: &Team, x: &Activations, vocab: usize, scored: &mut Scored) {
        let (first, width) = (scored.logits.len(), self.width(vocab));
        scored.logits.resize(first + x.rows() * width, 0.0);
        let mut out = &mut scored.logits[first..];
        let clusters = match self {
            DraftHead::Full(matrix) => {
                return matmul(team, x, &mut [Job { matrix, rows: Rows::All, out, add: false }]);
            }
            DraftHead::Clusters(clusters) => clusters,
        };
        let (count, size) = (clusters.parts.len(), clusters.size());
        let centres = room(&mut scored.centres, x.rows() * count);
        let job = Job { matrix: &clusters.centres, rows: Rows::All, out: &mut *centres, add: false };
        matmul(team, x, &mut [job]);
        let mut jobs = Vec::with_capacity(x.rows() * clusters.used);
        for (row, centres) in centres.chunks_exact(count).enumerate() {
            for cluster in top_k(centres, clusters.used) {
                let (part, rest) = out.split_at_mut(size);
                out = rest;
                let matrix = &clusters.parts[cluster];
                jobs.push(Job { matrix, rows: Rows::Range(row..row + 1), out: part, add: false });
                scored.tokens.extend_from_slice(&clusters.tokens[cluster * size..][..size]);
            }
        }
        matmul(team, x, &mut jobs);
    }
}
