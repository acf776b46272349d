//! An assistant at work on one text.

use super::super::{Branch, Committed, Guesser, Scores};
use super::head::Scored;
use super::{Assistant, DraftPosition};
use crate::cache::{LayerState, Sequence};
use crate::layers::{Context, RopeTable, RowPlan, Scratch, Segment, fill_normed};
use crate::target::Tap;
use crate::{Error, Result};
use leveret_kernels::attention::KvBuffer;
use leveret_kernels::ops::{argmax, scale};
use leveret_kernels::{Activations, Job, Rows, matmul};
use std::sync::Arc;

/// Rows that run together.
const MOST_ROWS: usize = 32;

#[derive(Debug)]
pub(super) struct AssistantGuesser {
    network: Arc<Assistant>,
    /// Nothing for the assistant's layers, then the target's keys and values that they read.
    cache: Sequence,
    capacity: usize,
    /// Rows taken in.
    rows: usize,
    /// Copies of the last of them in the cache, itself counted.
    copies: usize,
    /// Head's input of the last of them, `[target's hidden]`.
    last: Vec<f32>,
    /// What each node hands on, `[nodes, target's hidden]`.
    states: Vec<f32>,
    nodes: usize,
    /// Where the steps of this draft stand.
    position: DraftPosition,
    /// While positions are tried: the length of the text, and the next token as guessed from its last
    /// token and from its last row.
    tried: Option<(usize, [u32; 2])>,
    scored: Scored,
    plan: RowPlan,
    ropes: Vec<RopeTable>,
    scratch: Scratch,
    /// Input of the first product, and of the head.
    x: Activations,
    z: Activations,
    h: Vec<f32>,
}

impl AssistantGuesser {
    pub(super) fn new(network: Arc<Assistant>, capacity: usize) -> Result<Self> {
        let target = &network.target;
        let mut cache = Sequence::new(&network.config, target.kv, capacity)?;
        for &layer in &network.shared {
            let a = &target.config.layers[layer].attention;
            let slots = capacity.saturating_add(MOST_ROWS);
            let kv = KvBuffer::new(target.kv, a.kv_heads, a.k_dim, a.v_dim, slots).ok_or_else(|| {
                Error::request(format!(
                    "no memory for {capacity} rows of a drafter: ask for a shorter context"
                ))
            })?;
            cache.layers.push(LayerState::Attention(kv));
        }
        Ok(Self {
            cache,
            capacity,
            rows: 0,
            copies: 0,
            last: vec![0.0; target.config.hidden],
            states: Vec::new(),
            nodes: 0,
            position: DraftPosition::LastToken,
            tried: None,
            scored: Scored::default(),
            plan: RowPlan::default(),
            ropes: network.config.rotations.iter().map(RopeTable::new).collect(),
            scratch: Scratch::default(),
            x: Activations::default(),
            z: Activations::default(),
            h: Vec::new(),
            network,
        })
    }

    /// Adds a node for each of `branches`, whose parents are there; the root's parent is the text.
    fn step(&mut self, tokens: &[(u32, Option<usize>)]) -> Result<()> {
        let Self { network, last, states, plan, ropes, scratch, x, z, h, .. } = self;
        let Assistant { target, config, weights, .. } = &**network;
        let (team, outer, vocab) = (&*target.team, target.config.hidden, target.config.vocab);
        if let Some((token, _)) = tokens.iter().find(|(token, _)| *token as usize >= vocab) {
            return Err(Error::request(format!("the target has no token {token}")));
        }
        x.fill(team, tokens.len(), 2 * outer, |row, out| {
            let (token, parent) = tokens[row];
            let (embedding, state) = out.split_at_mut(outer);
            target.embedding.row(token as usize, embedding);
            scale(embedding, target.config.embedding_scale);
            state.copy_from_slice(parent.map_or(last, |parent| &states[parent * outer..][..outer]));
        });
        h.resize(tokens.len() * config.hidden, 0.0);
        matmul(team, x, &mut [Job { matrix: &weights.before, rows: Rows::All, out: &mut *h, add: false }]);

        let position = match self.position {
            DraftPosition::LastToken | DraftPosition::Measured => self.rows,
            DraftPosition::LastRow => self.rows - 1,
        };
        ropes.iter_mut().for_each(|rope| rope.only(position));
        plan.positions.clear();
        plan.positions.resize(tokens.len(), position as u32);
        // A row of a pass sees what is before the pass, and its own place. So each stands in the place
        // of the last processed row, of which the others have a copy behind it: all see the same.
        let base = self.rows - 1;
        for kv in self.cache.layers.iter_mut().filter_map(LayerState::kv) {
            (self.copies.max(1)..tokens.len()).for_each(|copy| kv.move_row(base, base + copy));
        }
        self.copies = self.copies.max(tokens.len());
        plan.segments.clear();
        plan.segments.push(Segment {
            first: 0,
            rows: tokens.len(),
            base,
            held: 0,
            tree: Some((0, 0)),
            whole: false,
        });
        plan.paths.clear();
        plan.paths.extend(0..tokens.len() as u32);
        plan.offsets.clear();
        plan.offsets.extend(0..=tokens.len() as u32);
        let context = Context { team, config, ropes, rows: plan };
        for (i, layer) in weights.layers.iter().enumerate() {
            layer.run(&context, i, &mut &mut self.cache, h, scratch);
        }
        fill_normed(team, z, h, &weights.norm, config.norm_eps);
        weights.head.score(team, z, vocab, &mut self.scored);
        let first = states.len();
        states.resize(first + tokens.len() * outer, 0.0);
        let out = &mut states[first..];
        matmul(team, z, &mut [Job { matrix: &weights.after, rows: Rows::All, out, add: false }]);
        self.nodes += tokens.len();
        Ok(())
    }

    /// Scores the token after the text, whose last is `last`, from where a draft is to stand.
    fn open(&mut self, last: u32, position: DraftPosition) -> Result<()> {
        self.clear();
        self.position = position;
        self.step(&[(last, None)])
    }

    /// The likeliest token after the text.
    fn likeliest(&self) -> u32 {
        let scores = self.scores(0);
        scores.token(argmax(scores.logits).0)
    }

    fn clear(&mut self) {
        self.nodes = 0;
        self.states.clear();
        self.scored.clear();
    }
}

impl Guesser for AssistantGuesser {
    fn observe(&mut self, committed: &Committed<'_>) -> Result<()> {
        let (first, rows) = (committed.first, committed.rows.len());
        if first != self.rows {
            return Err(Error::request(format!(
                "rows from {first} on do not follow the {} that the drafter knows",
                self.rows
            )));
        }
        if rows > self.capacity - self.rows {
            let capacity = self.capacity;
            return Err(Error::request(format!("the drafter has room for {capacity} rows")));
        }
        let network = &self.network;
        let buffers = &mut self.cache.layers[network.config.layers.len()..];
        for (buffer, &layer) in buffers.iter_mut().zip(&network.shared) {
            let LayerState::Attention(kv) = buffer else { continue };
            for (i, &row) in committed.rows.iter().enumerate() {
                let keys = committed.features.feature(Tap::Keys(layer), row);
                let values = committed.features.feature(Tap::Values(layer), row);
                kv.write(first + i, keys, values);
            }
        }
        if let Some(&row) = committed.rows.last() {
            self.last.copy_from_slice(committed.features.feature(Tap::Final, row));
        }
        self.rows += rows;
        self.copies = 0;
        self.clear();
        Ok(())
    }

    fn begin(&mut self, tokens: &[u32]) -> Result<()> {
        let Some((&last, before)) = tokens.split_last() else {
            return Err(Error::request("a draft behind no text"));
        };
        if before.len() != self.rows || self.rows == 0 {
            let (rows, needed) = (self.rows, before.len().max(1));
            return Err(Error::request(format!("the drafter knows {rows} rows of the text, of {needed}")));
        }
        let trial = &self.network.trial;
        if let Some((len, [token, row])) = self.tried.filter(|(len, _)| *len < tokens.len()) {
            trial.record(token == tokens[len], row == tokens[len]);
            self.tried = None;
        }
        if let Some(position) = trial.chosen() {
            return self.open(last, position);
        }
        self.open(last, DraftPosition::LastRow)?;
        let row = self.likeliest();
        self.open(last, DraftPosition::LastToken)?;
        self.tried = Some((tokens.len(), [self.likeliest(), row]));
        Ok(())
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<()> {
        let mut rest = branches;
        while let Some(next) = rest.first() {
            let known = rest.iter().take_while(|branch| branch.parent < self.nodes).count();
            if known == 0 {
                let (parent, nodes) = (next.parent, self.nodes);
                return Err(Error::request(format!("a branch follows node {parent}, of {nodes}")));
            }
            let known = known.min(MOST_ROWS);
            let rows: Vec<_> = rest[..known].iter().map(|b| (b.token, Some(b.parent))).collect();
            self.step(&rows)?;
            rest = &rest[known..];
        }
        Ok(())
    }

    fn scores(&self, node: usize) -> Scores<'_> {
        let width = self.network.weights.head.width(self.network.target.config.vocab);
        let Scored { logits, tokens, .. } = &self.scored;
        let part = node * width..(node + 1) * width;
        let tokens = (!tokens.is_empty()).then(|| &tokens[part.clone()]);
        Scores { logits: &logits[part], tokens, confidence: None }
    }

    fn trace(&self, name: &str) -> Option<Vec<f32>> {
        match name {
            "u" => return Some(self.last.clone()),
            "next_u" => return Some(self.states.clone()),
            _ => {}
        }
        let (part, kind) = name.split_once('.')?;
        let part = ["k", "v"].iter().position(|&known| known == part)?;
        let windowed = ["full_attention", "sliding_attention"].iter().position(|&known| known == kind)? == 1;
        let layers = &self.network.target.config.layers;
        let place =
            self.network.shared.iter().position(|&l| layers[l].attention.window.is_some() == windowed)?;
        let LayerState::Attention(kv) = self.cache.layers.get(self.network.config.layers.len() + place)?
        else {
            return None;
        };
        let dim = if part == 0 { kv.k_dim() } else { kv.v_dim() };
        let mut values = vec![0.0; self.rows * kv.kv_heads() * dim];
        for (i, out) in values.chunks_exact_mut(dim).enumerate() {
            let (row, head) = (i / kv.kv_heads(), i % kv.kv_heads());
            if part == 0 { kv.read_k(row, head, out) } else { kv.read_v(row, head, out) }
        }
        Some(values)
    }
}
