//! A head at work on one text.
//!
//! Row `t` reads token `t + 1` and the target's feature of row `t`, stands at position `t` and
//! scores token `t + 2`. Rows of the text are run once, with true features; a draft's rows stand
//! behind them in the cache and are dropped when the next draft begins.

use super::{Join, Next, Recurrent};
use crate::cache::Sequence;
use crate::drafters::{Branch, Committed, Guesser, Scores};
use crate::layers::{Context, RopeTable, RowPlan, Scratch};
use crate::target::Cache;
use crate::{Error, Result};
use leveret_kernels::ops::{rms_norm, rms_norm_heads, scale, softcap};
use leveret_kernels::{Activations, Job, Rows, matmul, par_rows};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Rows of the text that may wait for a draft to begin, and are run in one pass.
const CHUNK: usize = 256;

/// One text's state.
pub(super) struct RecurrentGuesser {
    network: Arc<Recurrent>,
    cache: Sequence,
    /// Features of the text's rows that have not been run, `[rows][taps][width]`.
    waiting: Vec<f32>,
    pass: Buffers,
    nodes: Nodes,
}

/// Rows of one pass: inputs, what is computed in between, and results.
#[derive(Default)]
struct Buffers {
    plan: RowPlan,
    ropes: Vec<RopeTable>,
    scratch: Scratch,
    tokens: Vec<u32>,
    parents: Vec<Option<usize>>,
    /// Input of the projection.
    joined: Activations,
    /// What each row knows of the row before, `[rows, width]`.
    features: Vec<f32>,
    /// Residual stream, `[rows, hidden]`.
    h: Vec<f32>,
    /// Input of the head for the rows that are scored.
    last: Activations,
    logits: Vec<f32>,
}

/// The text's last row and the draft's nodes.
#[derive(Default)]
struct Nodes {
    /// What a row behind each would read as feature, `[nodes, hidden]`.
    features: Vec<f32>,
    /// `[nodes, candidates]`; of a head with slots `[slots, candidates]`.
    logits: Vec<f32>,
    /// Logits that the text's last row brought, those of slots included.
    text_logits: usize,
    /// Nodes before each.
    depths: Vec<usize>,
}

impl RecurrentGuesser {
    pub(super) fn new(network: Arc<Recurrent>, capacity: usize) -> Result<Self> {
        let config = &network.design.config;
        // No text is longer than the target's context.
        let capacity = capacity.min(network.target.max_context);
        let cache = Sequence::new(config, network.target.kv, capacity)?;
        let ropes = config.rotations.iter().map(RopeTable::new).collect();
        let pass = Buffers { ropes, ..Buffers::default() };
        Ok(Self { network, cache, waiting: Vec::new(), pass, nodes: Nodes::default() })
    }

    /// Values that one row waits with.
    fn row_width(&self) -> usize {
        self.network.design.taps.len() * self.network.design.feature
    }

    fn waiting_rows(&self) -> usize {
        self.waiting.len() / self.row_width().max(1)
    }

    /// Runs the first `rows` of the waiting rows, and `slots` rows for tokens to come behind them.
    /// Scores the last row and the slots if `scored`.
    fn catch_up(&mut self, rows: usize, tokens: &[u32], slots: usize, scored: bool) -> Result<()> {
        let (first, all) = (self.cache.len(), rows + slots);
        self.cache.check_room(all)?;
        let Some(text) = tokens.get(first + 1..first + 1 + rows) else {
            let (found, expected) = (tokens.len(), first + 1 + rows);
            return Err(Error::request(format!("a text of {found} tokens, expected at least {expected}")));
        };
        let network = Arc::clone(&self.network);
        let pass = &mut self.pass;
        pass.tokens.clear();
        pass.tokens.extend_from_slice(text);
        if let Some(mask) = network.design.slots {
            pass.tokens.resize(all, mask.mask);
        }
        check_tokens(&network, &pass.tokens)?;
        let width = self.row_width();
        self.pass.combine(&network, &self.waiting[..rows * width], slots);
        self.pass.parents.clear();
        self.pass.parents.extend((0..all).map(|row| row.checked_sub(1)));
        let wanted = if scored { rows - 1..all } else { 0..0 };
        self.pass.run(&network, &mut self.cache, wanted);
        self.cache.set_pending((0..all).map(|row| row.checked_sub(1)));
        let path: Vec<usize> = (0..rows).collect();
        self.cache.commit(&path)?;
        self.waiting.drain(..rows * width);
        self.nodes.clear();
        if scored {
            self.nodes.keep(&network, &self.pass, rows - 1..rows);
            self.nodes.logits.extend_from_slice(&self.pass.logits);
            self.nodes.text_logits = self.nodes.logits.len();
            self.nodes.depths.push(0);
        }
        Ok(())
    }

    /// Adds nodes whose parents have been run.
    fn expand_known(&mut self, network: &Recurrent, branches: &[Branch]) -> Result<()> {
        let (nodes, width) = (self.nodes.depths.len(), network.design.config.hidden);
        let pass = &mut self.pass;
        pass.tokens.clear();
        pass.tokens.extend(branches.iter().map(|branch| branch.token));
        check_tokens(network, &pass.tokens)?;
        // Of all the draft's rows, before any is held: what is refused leaves the draft as it was.
        self.cache.check_room(nodes.saturating_sub(1) + branches.len())?;
        if nodes > 1 {
            self.cache.hold();
        }
        pass.features.clear();
        for branch in branches {
            pass.features.extend_from_slice(&self.nodes.features[branch.parent * width..][..width]);
            self.nodes.depths.push(self.nodes.depths[branch.parent] + 1);
        }
        pass.parents.clear();
        pass.parents.extend(branches.iter().map(|branch| branch.parent.checked_sub(1)));
        pass.run(network, &mut self.cache, 0..branches.len());
        self.cache.set_pending(branches.iter().map(|branch| branch.parent.checked_sub(1)));
        self.nodes.keep(network, &self.pass, 0..branches.len());
        self.nodes.logits.extend_from_slice(&self.pass.logits);
        Ok(())
    }

    /// Refuses a parent that there is not.
    fn check_parents(&self, branches: &[Branch]) -> Result<()> {
        let nodes = self.nodes.depths.len();
        match branches.iter().enumerate().find(|(i, branch)| branch.parent >= nodes + i) {
            None => Ok(()),
            Some((i, branch)) => Err(Error::request(format!(
                "branch {i} follows node {}, of {nodes} that there are",
                branch.parent
            ))),
        }
    }
}

fn check_tokens(network: &Recurrent, tokens: &[u32]) -> Result<()> {
    let rows = network.embedding().rows();
    match tokens.iter().find(|&&token| token as usize >= rows) {
        None => Ok(()),
        Some(token) => {
            Err(Error::request(format!("token id {token}, but the drafter's embedding has {rows} rows")))
        }
    }
}

impl Guesser for RecurrentGuesser {
    fn observe(&mut self, committed: &Committed<'_>) -> Result<()> {
        let expected = self.cache.len() + self.waiting_rows();
        if committed.first != expected {
            let found = committed.first;
            return Err(Error::request(format!(
                "rows from position {found} on were committed, expected {expected}"
            )));
        }
        let network = Arc::clone(&self.network);
        for &row in committed.rows {
            for &tap in &network.design.taps {
                let feature = committed.features.feature(tap, row);
                let (found, expected) = (feature.len(), network.design.feature);
                if found != expected {
                    return Err(Error::request(format!(
                        "{tap:?} of row {row} has {found} values, expected {expected}"
                    )));
                }
                self.waiting.extend_from_slice(feature);
            }
        }
        // One row at least waits on: a draft begins with its scores.
        while self.waiting_rows() > CHUNK {
            self.catch_up(CHUNK, committed.tokens, 0, false)?;
        }
        Ok(())
    }

    fn begin(&mut self, tokens: &[u32]) -> Result<()> {
        let (rows, waiting) = (tokens.len().saturating_sub(1), self.waiting_rows());
        let known = self.cache.len() + waiting;
        if rows != known || rows == 0 {
            return Err(Error::request(format!(
                "a draft behind {rows} rows was asked for, but {known} are known, and it needs one at least"
            )));
        }
        if waiting > 0 {
            let free = self.cache.capacity().saturating_sub(rows);
            let slots = self.network.design.slots.map_or(0, |slots| (slots.count - 1).min(free));
            return self.catch_up(waiting, tokens, slots, true);
        }
        self.cache.truncate(rows)?;
        self.nodes.truncate(self.network.design.config.hidden);
        Ok(())
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<()> {
        self.check_parents(branches)?;
        let network = Arc::clone(&self.network);
        if network.design.slots.is_some() {
            return self.nodes.look_up(branches, network.head().rows());
        }
        // A row reads what its parent's pass has left, so that a child waits for the next one.
        let mut rest = branches;
        while !rest.is_empty() {
            let nodes = self.nodes.depths.len();
            let known = rest.iter().take_while(|branch| branch.parent < nodes).count();
            let (level, deeper) = rest.split_at(known);
            self.expand_known(&network, level)?;
            rest = deeper;
        }
        Ok(())
    }

    fn scores(&self, node: usize) -> Scores<'_> {
        let network = &self.network;
        let width = network.head().rows();
        let row = if network.design.slots.is_some() { self.nodes.depths[node] } else { node };
        let logits = &self.nodes.logits[row * width..][..width.min(network.design.vocab)];
        Scores { logits, tokens: network.weights.tokens.as_deref(), confidence: None }
    }

    fn trace(&self, name: &str) -> Option<Vec<f32>> {
        let (pass, design) = (&self.pass, &self.network.design);
        match name {
            // Those of the last pass alone are kept.
            "combined" => {
                let rows = self.cache.len().min(pass.h.len() / design.config.hidden);
                pass.features.get(..rows * design.config.hidden).map(<[f32]>::to_vec)
            }
            "prefill_out" => {
                let mut out = pass.h.clone();
                if let (Next::Normed, Some(norm)) = (design.next, &self.network.weights.final_norm) {
                    let rows = out.chunks_exact_mut(design.config.hidden);
                    rows.for_each(|row| rms_norm_heads(row, norm, design.config.norm_eps));
                }
                Some(out)
            }
            "chain_out" => Some(self.nodes.features.clone()),
            _ => None,
        }
    }
}

impl Nodes {
    fn clear(&mut self) {
        self.features.clear();
        self.logits.clear();
        self.depths.clear();
    }

    /// Drops all nodes but the text's last row.
    fn truncate(&mut self, width: usize) {
        self.features.truncate(width);
        self.logits.truncate(self.text_logits);
        self.depths.truncate(1);
    }

    /// Notes nodes whose scores are known already, by their depth.
    fn look_up(&mut self, branches: &[Branch], candidates: usize) -> Result<()> {
        let slots = self.logits.len() / candidates;
        for branch in branches {
            let depth = self.depths[branch.parent] + 1;
            if depth >= slots {
                return Err(Error::request(format!(
                    "a node behind {depth} others, but this drafter guesses {slots} tokens"
                )));
            }
            self.depths.push(depth);
        }
        Ok(())
    }

    /// Adds what rows of a pass give to the rows behind them.
    fn keep(&mut self, network: &Recurrent, pass: &Buffers, rows: Range<usize>) {
        let width = network.design.config.hidden;
        match network.design.next {
            Next::Residual => {
                self.features.extend_from_slice(&pass.h[rows.start * width..rows.end * width]);
            }
            // The first scored row is the first that is kept.
            Next::Normed => (0..rows.len()).for_each(|i| self.features.extend_from_slice(pass.last.row(i))),
        }
    }
}

impl Buffers {
    /// Sets the features of the pass from those of the target: projected and followed by those of
    /// `slots`, or as they are.
    fn combine(&mut self, network: &Recurrent, taps: &[f32], slots: usize) {
        let (design, weights) = (&network.design, &network.weights);
        let Join::Beside { .. } = design.join else {
            self.features.clear();
            self.features.extend_from_slice(taps);
            return;
        };
        let (width, inputs, eps) = (design.config.hidden, weights.fc.cols(), design.config.norm_eps);
        let rows = taps.len() / inputs;
        let mask = weights.mask_hidden.as_deref().filter(|_| slots > 0);
        let team = &network.target.team;
        self.joined.fill(team, rows + usize::from(mask.is_some()), inputs, |row, out| {
            match mask {
                Some(mask) if row == rows => out.copy_from_slice(mask),
                _ => out.copy_from_slice(&taps[row * inputs..][..inputs]),
            }
            let mut rest = out;
            for norm in &weights.feature_norms {
                let (part, after) = rest.split_at_mut(norm.len().min(rest.len()));
                rms_norm_heads(part, norm, eps);
                rest = after;
            }
        });
        self.features.clear();
        self.features.resize(self.joined.rows() * width, 0.0);
        let out = &mut self.features[..];
        matmul(team, &self.joined, &mut [Job { matrix: &weights.fc, rows: Rows::All, out, add: false }]);
        for _ in 1..slots {
            self.features.extend_from_within(rows * width..(rows + 1) * width);
        }
    }

    /// Takes all rows through the layers, and the rows `wanted` through the head.
    fn run(&mut self, network: &Recurrent, cache: &mut Sequence, wanted: Range<usize>) {
        let (design, weights) = (&network.design, &network.weights);
        let (team, config) = (&*network.target.team, &design.config);
        self.plan.clear();
        self.plan.add(cache, self.tokens.len(), Some(&self.parents));
        self.plan.reach(&mut self.ropes);
        self.join(network);
        let mut caches = cache;
        for (i, layer) in weights.layers.iter().enumerate() {
            let context = Context { team, config, ropes: &self.ropes, rows: &self.plan };
            if i == 0 && config.reads_given(0) {
                layer.run_on_given(&context, i, &mut caches, &mut self.h, &mut self.scratch);
            } else {
                layer.run(&context, i, &mut caches, &mut self.h, &mut self.scratch);
            }
        }
        self.score(network, wanted);
    }

    /// Sets the residual stream, and what the first attention reads if that is something else.
    fn join(&mut self, network: &Recurrent) {
        let (design, weights) = (&network.design, &network.weights);
        let (team, config, eps) = (&*network.target.team, &design.config, design.config.norm_eps);
        let (rows, width) = (self.tokens.len(), config.hidden);
        let (tokens, features, embedding) = (&self.tokens, &self.features, network.embedding());
        let embed = |row: usize, out: &mut [f32]| {
            embedding.row(tokens[row] as usize, out);
            if config.embedding_scale != 1.0 {
                scale(out, config.embedding_scale);
            }
            if let Some(norm) = &weights.embedding_norm {
                rms_norm_heads(out, norm, eps);
            }
        };
        let feature_width = features.len() / rows.max(1);
        let recall = |row: usize, out: &mut [f32]| {
            let feature = &features[row * feature_width..][..feature_width];
            match &weights.hidden_norm {
                Some(norm) => rms_norm(feature, norm, eps, out),
                None => out.copy_from_slice(feature),
            }
        };
        self.h.clear();
        self.h.resize(rows * width, 0.0);
        match design.join {
            Join::Beside { normed_residual } => {
                self.scratch.x.fill(team, rows, 2 * width, |row, out| {
                    let (token, feature) = out.split_at_mut(width);
                    embed(row, token);
                    recall(row, feature);
                });
                if normed_residual {
                    let x = &self.scratch.x;
                    let stream = self.h.chunks_exact_mut(width).enumerate();
                    stream.for_each(|(row, out)| out.copy_from_slice(&x.row(row)[width..]));
                } else {
                    self.h.copy_from_slice(features);
                }
            }
            Join::Projected { hidden_first } => {
                self.joined.fill(team, rows, width + feature_width, |row, out| {
                    let (first, second) = out.split_at_mut(if hidden_first { feature_width } else { width });
                    let (token, feature) = if hidden_first { (second, first) } else { (first, second) };
                    embed(row, token);
                    recall(row, feature);
                });
                let job = Job { matrix: &weights.fc, rows: Rows::All, out: &mut self.h, add: false };
                matmul(team, &self.joined, &mut [job]);
                if config.reads_given(0) {
                    let h = &self.h;
                    let copy = |row: usize, out: &mut [f32]| out.copy_from_slice(&h[row * width..][..width]);
                    self.scratch.x.fill(team, rows, width, copy);
                }
            }
        }
    }

    /// Logits of the rows `wanted`.
    fn score(&mut self, network: &Recurrent, wanted: Range<usize>) {
        let (design, weights, head) = (&network.design, &network.weights, network.head());
        let (team, width) = (&*network.target.team, design.config.hidden);
        let h = &self.h[wanted.start * width..wanted.end * width];
        self.last.fill(team, wanted.len(), width, |row, out| {
            let stream = &h[row * width..][..width];
            match &weights.final_norm {
                Some(norm) => rms_norm(stream, norm, design.config.norm_eps, out),
                None => out.copy_from_slice(stream),
            }
        });
        self.logits.resize(wanted.len() * head.rows(), 0.0);
        let out = &mut self.logits[..];
        matmul(team, &self.last, &mut [Job { matrix: head, rows: Rows::All, out, add: false }]);
        if let Some(cap) = design.config.final_softcap {
            let rows = (&mut self.logits[..], head.rows());
            par_rows(team, rows, (&mut [] as &mut [f32], 0), |_, row, _| softcap(row, cap));
        }
    }
}

impl fmt::Debug for RecurrentGuesser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecurrentGuesser")
            .field("family", &self.network.design.family)
            .field("rows", &self.cache.len())
            .field("waiting", &self.waiting_rows())
            .field("nodes", &self.nodes.depths.len())
            .finish_non_exhaustive()
    }
}
