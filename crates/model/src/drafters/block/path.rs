//! What chooses along a path through a block, token by token: a Markov head (DSpark), a selector
//! among candidates (DFlash 2), a correction of hidden states (DFly), and a head that says how sure
//! it is. Each reads the hidden state of a slot and the token chosen before it.

use crate::layers::room;
use leveret_kernels::ops::{add_assign, rms_norm, swiglu};
use leveret_kernels::{Activations, Job, Matrix, Rows, Team, matmul};

/// The part that makes a slot's scores depend on the token before it.
#[derive(Debug)]
pub(super) enum PathPart<M = Matrix> {
    /// Slots are independent.
    None,
    Markov(Markov<M>),
    Selector(Selector<M>),
    Correction(Correction<M>),
}

/// Adds `after * mix(before[token])` to a slot's logits.
#[derive(Debug)]
pub(super) struct Markov<M = Matrix> {
    pub(super) rank: usize,
    /// `[tokens, rank]`.
    pub(super) before: M,
    pub(super) mixing: Mixing<M>,
    /// `[vocab, rank]`.
    pub(super) after: M,
}

/// What becomes of the row of the token before, by way of the slot's hidden state.
#[derive(Debug)]
pub(super) enum Mixing<M = Matrix> {
    Plain,
    /// Times `sigmoid(gate [hidden; row])`.
    Gated(M),
    /// A state along the path: `joint [state; row; hidden]` gives gate, candidate and output.
    Recurrent(M),
}

/// Rescores the best candidates of a slot: logit + `<before[token] * projection hidden, after[c]>`.
#[derive(Debug)]
pub(super) struct Selector<M = Matrix> {
    pub(super) candidates: usize,
    /// `[rank, hidden]`.
    pub(super) projection: M,
    /// `[tokens, rank]`, both.
    pub(super) before: M,
    pub(super) after: M,
}

/// Adds an MLP of hidden state and embedding of the token before to the hidden state. The head stands behind it, so
/// that it is read once for each level of a draft: no part of it is known before the token is.
#[derive(Debug)]
pub(super) struct Correction<M = Matrix> {
    pub(super) hidden_norm: Vec<f32>,
    pub(super) embedding_norm: Vec<f32>,
    pub(super) gate: M,
    pub(super) up: M,
    pub(super) down: M,
}

/// The chance that what is chosen in a slot is accepted, before the sigmoid.
#[derive(Debug)]
pub(super) struct Confidence<M = Matrix> {
    /// `[1, hidden]`, or `[1, hidden + rank]` with the Markov head's row of the token before.
    pub(super) projection: M,
    pub(super) with_token: bool,
}

impl<M> PathPart<M> {
    /// Matrices that one choice reads whole.
    pub(super) fn read(&self) -> Vec<&M> {
        match self {
            PathPart::None => Vec::new(),
            PathPart::Markov(markov) => match &markov.mixing {
                Mixing::Plain => vec![&markov.after],
                Mixing::Gated(mixing) | Mixing::Recurrent(mixing) => vec![&markov.after, mixing],
            },
            PathPart::Selector(selector) => vec![&selector.projection],
            PathPart::Correction(c) => vec![&c.gate, &c.up, &c.down],
        }
    }
}

/// Memory that these parts work in.
#[derive(Debug, Default)]
pub(super) struct PathScratch {
    x: Activations,
    rows: Vec<f32>,
    mixed: Vec<f32>,
    up: Vec<f32>,
}

/// The places of a path whose scores are wanted, all at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// Slot of each.
    pub(super) slots: &'a [usize],
    /// Token before each.
    pub(super) tokens: &'a [u32],
    /// Hidden states of all slots.
    pub(super) hidden: &'a Activations,
}

impl Places<'_> {
    fn hidden(&self, place: usize) -> &[f32] {
        self.hidden.row(self.slots[place])
    }
}

fn product(team: &Team, x: &Activations, matrix: &Matrix, out: &mut [f32], add: bool) {
    matmul(team, x, &mut [Job { matrix, rows: Rows::All, out, add }]);
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Markov {
    /// Whether a state runs along the path.
    pub(super) fn recurrent(&self) -> bool {
        matches!(self.mixing, Mixing::Recurrent(_))
    }

    /// Adds the biases of all places to `logits` `[places, vocab]`. `states` `[places, rank]` holds
    /// the state before each place, and then behind it.
    pub(super) fn add(
        &self,
        team: &Team,
        places: &Places<'_>,
        states: &mut [f32],
        logits: &mut [f32],
        s: &mut PathScratch,
    ) {
        let (count, rank, hidden) = (places.slots.len(), self.rank, places.hidden.cols());
        let rows = room(&mut s.rows, count * rank);
        let all = rows.chunks_exact_mut(rank).zip(places.tokens);
        all.for_each(|(row, &token)| self.before.row(token as usize, row));
        match &self.mixing {
            Mixing::Plain => {}
            Mixing::Gated(gate) => {
                s.x.fill(team, count, hidden + rank, |i, out| {
                    out[..hidden].copy_from_slice(places.hidden(i));
                    out[hidden..].copy_from_slice(&rows[i * rank..][..rank]);
                });
                let gates = room(&mut s.mixed, count * rank);
                product(team, &s.x, gate, gates, false);
                rows.iter_mut().zip(gates).for_each(|(row, gate)| *row *= sigmoid(*gate));
            }
            Mixing::Recurrent(joint) => {
                s.x.fill(team, count, 2 * rank + hidden, |i, out| {
                    out[..rank].copy_from_slice(&states[i * rank..][..rank]);
                    out[rank..2 * rank].copy_from_slice(&rows[i * rank..][..rank]);
                    out[2 * rank..].copy_from_slice(places.hidden(i));
                });
                let mixed = room(&mut s.mixed, count * 3 * rank);
                product(team, &s.x, joint, mixed, false);
                for (i, mixed) in mixed.chunks_exact(3 * rank).enumerate() {
                    for d in 0..rank {
                        let keep = sigmoid(mixed[d]);
                        let state = &mut states[i * rank + d];
                        *state = keep * *state + (1.0 - keep) * mixed[rank + d].tanh();
                        rows[i * rank + d] = mixed[2 * rank + d].tanh();
                    }
                }
            }
        }
        s.x.fill(team, count, rank, |i, out| out.copy_from_slice(&rows[i * rank..][..rank]));
        product(team, &s.x, &self.after, logits, true);
    }
}

impl Confidence {
    /// Confidences of all places; `markov` reads the token before where that is wanted.
    pub(super) fn measure(
        &self,
        team: &Team,
        markov: Option<&Markov>,
        places: &Places<'_>,
        out: &mut [f32],
        s: &mut PathScratch,
    ) {
        let hidden = places.hidden.cols();
        s.x.fill(team, places.slots.len(), self.projection.cols(), |i, x| {
            let (state, row) = x.split_at_mut(hidden);
            state.copy_from_slice(places.hidden(i));
            if let Some(markov) = markov.filter(|_| self.with_token) {
                markov.before.row(places.tokens[i] as usize, row);
            }
        });
        product(team, &s.x, &self.projection, out, false);
    }
}

impl Selector {
    /// Scores of the candidates of each place: `base` are their logits, `projected` `[slots, rank]`
    /// the projected hidden states.
    pub(super) fn score(
        &self,
        places: &Places<'_>,
        candidates: &[u32],
        base: &[f32],
        projected: &[f32],
        out: &mut [f32],
        s: &mut PathScratch,
    ) {
        let (rank, many) = (self.projection.rows(), self.candidates);
        let wanted = room(&mut s.rows, rank);
        let row = room(&mut s.mixed, rank);
        for (i, out) in out.chunks_exact_mut(many).enumerate() {
            let slot = places.slots[i];
            self.before.row(places.tokens[i] as usize, wanted);
            wanted.iter_mut().zip(&projected[slot * rank..]).for_each(|(w, p)| *w *= p);
            for (c, out) in out.iter_mut().enumerate() {
                self.after.row(candidates[slot * many + c] as usize, row);
                let pair: f32 = wanted.iter().zip(&*row).map(|(w, r)| w * r).sum();
                *out = base[slot * many + c] + pair;
            }
        }
    }
}

impl Correction {
    /// Sets `s` up with the corrected hidden states of all places, as input of the head;
    /// `embeddings` `[places, hidden]` are those of the tokens before.
    pub(super) fn correct<'s>(
        &self,
        team: &Team,
        places: &Places<'_>,
        embeddings: &[f32],
        eps: f32,
        s: &'s mut PathScratch,
    ) -> &'s Activations {
        let (count, hidden, width) = (places.slots.len(), places.hidden.cols(), self.gate.rows());
        s.x.fill(team, count, 2 * hidden, |i, x| {
            let (state, embedding) = x.split_at_mut(hidden);
            rms_norm(places.hidden(i), &self.hidden_norm, eps, state);
            rms_norm(&embeddings[i * hidden..][..hidden], &self.embedding_norm, eps, embedding);
        });
        let (gate, up) = (room(&mut s.mixed, count * width), room(&mut s.up, count * width));
        product(team, &s.x, &self.gate, gate, false);
        product(team, &s.x, &self.up, up, false);
        let part = |i: usize| i * width..(i + 1) * width;
        s.x.fill(team, count, width, |i, out| swiglu(&gate[part(i)], &up[part(i)], out));
        let rows = room(&mut s.rows, count * hidden);
        product(team, &s.x, &self.down, rows, false);
        let rows = &*rows;
        s.x.fill(team, count, hidden, |i, out| {
            out.copy_from_slice(places.hidden(i));
            add_assign(out, &rows[i * hidden..][..hidden]);
        });
        &s.x
    }
}
