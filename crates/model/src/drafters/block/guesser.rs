//! A block drafter at work on one text.
//!
//! Committed rows leave keys and values in the cache, nothing else; those of a block are written
//! behind them and forgotten. So there is nothing to roll back, and a draft follows from the text.

use super::conv::{self, ConvScratch};
use super::path::{PathPart, PathScratch, Places};
use super::{BlockNetwork, Guesser};
use crate::cache::Sequence;
use crate::drafters::{Branch, Committed, Scores};
use crate::layers::{Caches, Context, Mixer, RopeTable, RowPlan, Scratch, fill_normed, room};
use crate::target::Cache;
use crate::{Error, Result};
use leveret_kernels::ops::{add_scaled, rms_norm, rms_norm_heads, scale, softcap, top_k};
use leveret_kernels::{Activations, Job, Matrix, Rows, Team, matmul, par_rows};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Rows whose features wait at most until a draft needs them.
const WAITING: usize = 256;

/// See the [module](self).
pub(super) struct BlockGuesser {
    network: Arc<BlockNetwork>,
    /// Keys and values of the rows whose features do not wait any more.
    cache: Sequence,
    ropes: Vec<RopeTable>,
    /// Features of the rows behind those in the cache, `[rows, taps * target hidden]`.
    waiting: Vec<f32>,
    plan: RowPlan,
    scratch: Scratch,
    conv: ConvScratch,
    features: Activations,
    /// What the last rows that stopped waiting are to the layers, `[rows, hidden]`.
    context: Vec<f32>,
    mixture: Vec<f32>,
    /// Residual stream of the block.
    h: Vec<f32>,
    /// Hidden states of the slots, after the final norm.
    hidden: Activations,
    /// Logits of the slots, `[slots, vocab]`; of a corrected head, nothing.
    base: Vec<f32>,
    tree: Tree,
}

/// The nodes that were looked behind, the text first, and their scores.
#[derive(Default)]
struct Tree {
    slots: Vec<usize>,
    /// Logits behind each node, where slots are not independent: `[nodes, width]`.
    logits: Vec<f32>,
    /// State of a recurrent Markov head behind each node, `[nodes, rank]`.
    states: Vec<f32>,
    /// Confidence behind each node, before and after the sigmoid.
    confidence_logits: Vec<f32>,
    confidence: Vec<f32>,
    /// Candidates of each slot, their logits and projected hidden states, for a selector.
    candidates: Vec<u32>,
    candidate_logits: Vec<f32>,
    projected: Vec<f32>,
    /// Scratch: tokens before the nodes that are added, and their embeddings.
    tokens: Vec<u32>,
    embeddings: Vec<f32>,
    path: PathScratch,
}

struct One<'a>(&'a mut Sequence);

impl Caches for One<'_> {
    fn get(&mut self, _segment: usize) -> &mut Sequence {
        self.0
    }
}

impl fmt::Debug for BlockGuesser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockGuesser").field("rows", &self.observed()).finish_non_exhaustive()
    }
}

impl BlockNetwork {
    fn team(&self) -> &Team {
        &self.parts.team
    }

    fn head(&self) -> &Matrix {
        self.weights.head.as_ref().unwrap_or(&self.parts.head)
    }

    /// The embedding of `token` as the block reads it.
    fn embed(&self, token: u32, out: &mut [f32]) {
        let [target, own] = self.config.embedding_scale;
        let factor = match &self.weights.embedding {
            Some(embedding) => {
                embedding.row(token as usize, out);
                own
            }
            None => {
                self.parts.embedding.row(token as usize, out);
                target
            }
        };
        if factor != 1.0 {
            scale(out, factor);
        }
    }

    /// Logits `[rows, vocab]` of hidden states.
    fn score(&self, x: &Activations, logits: &mut [f32]) {
        let vocab = self.weights.vocab;
        matmul(
            self.team(),
            x,
            &mut [Job { matrix: self.head(), rows: Rows::All, out: &mut *logits, add: false }],
        );
        let cap = match (self.config.softcap, &self.weights.head) {
            (Some(cap), _) => Some(cap),
            (None, Some(_)) => self.config.layers.final_softcap,
            (None, None) => self.parts.config.final_softcap,
        };
        let factor = self.config.logit_scale;
        if factor == 1.0 && cap.is_none() {
            return;
        }
        par_rows(self.team(), (logits, vocab), (&mut [] as &mut [f32], 0), |_, row, _| {
            scale(row, factor);
            if let Some(cap) = cap {
                softcap(row, cap);
            }
        });
    }

    /// Target token of a row of the head.
    fn token(&self, row: usize) -> u32 {
        self.map.as_ref().map_or(row as u32, |map| map[row])
    }
}

impl BlockGuesser {
    pub(super) fn new(network: Arc<BlockNetwork>, capacity: usize) -> Result<Self> {
        let config = &network.config;
        // A block may begin at the last position.
        let room = capacity.saturating_add(config.rows);
        let cache = Sequence::new(&config.layers, network.parts.kv, room)?;
        let ropes = config.layers.rotations.iter().map(RopeTable::new).collect();
        Ok(Self {
            cache,
            ropes,
            waiting: Vec::new(),
            plan: RowPlan::default(),
            scratch: Scratch::default(),
            conv: ConvScratch::default(),
            features: Activations::new(),
            context: Vec::new(),
            mixture: Vec::new(),
            h: Vec::new(),
            hidden: Activations::new(),
            base: Vec::new(),
            tree: Tree::default(),
            network,
        })
    }

    /// Width of a row's features.
    fn width(&self) -> usize {
        self.network.weights.fc.cols()
    }

    /// Rows that were observed.
    fn observed(&self) -> usize {
        Cache::len(&self.cache) + self.waiting.len() / self.width()
    }

    /// Turns waiting features into keys and values.
    fn catch_up(&mut self) -> Result<()> {
        let network = Arc::clone(&self.network);
        let (config, weights, team) = (&network.config, &network.weights, network.team());
        let (width, hidden, eps) = (self.width(), config.layers.hidden, config.layers.norm_eps);
        let rows = self.waiting.len() / width;
        if rows == 0 {
            return Ok(());
        }
        self.cache.check_room(rows)?;
        self.plan.clear();
        self.plan.add(&self.cache, rows, None);
        self.plan.reach(&mut self.ropes);
        self.plan.mutual = false;
        let waiting = &self.waiting;
        self.features
            .fill(team, rows, width, |row, out| out.copy_from_slice(&waiting[row * width..][..width]));
        self.context.resize(rows * hidden, 0.0);
        let job = Job { matrix: &weights.fc, rows: Rows::All, out: &mut self.context, add: false };
        matmul(team, &self.features, &mut [job]);
        let norm = &weights.context_norm;
        if weights.fusion.is_none() {
            par_rows(team, (&mut self.context, hidden), (&mut [] as &mut [f32], 0), |_, row, _| {
                rms_norm_heads(row, norm, eps);
            });
            let context = &self.context;
            self.scratch.x.fill(team, rows, hidden, |row, out| {
                out.copy_from_slice(&context[row * hidden..][..hidden]);
            });
        }
        let context = Context { team, config: &config.layers, ropes: &self.ropes, rows: &self.plan };
        for (i, layer) in weights.layers.iter().enumerate() {
            if let Some(fusion) = &weights.fusion {
                let shares = &fusion[i * config.taps.len()..][..config.taps.len()];
                let mixture = room(&mut self.mixture, rows * hidden);
                mixture.copy_from_slice(&self.context);
                par_rows(team, (&mut *mixture, hidden), (&mut [] as &mut [f32], 0), |row, out, _| {
                    let features = waiting[row * width..][..width].chunks_exact(hidden);
                    features.zip(shares).for_each(|(feature, share)| add_scaled(out, feature, *share));
                });
                fill_normed(team, &mut self.scratch.x, mixture, norm, eps);
            }
            // Loading has refused other layers.
            if let Mixer::Attention(attention) = &layer.mixer {
                attention.remember(&context, i, &mut One(&mut self.cache), &mut self.scratch);
            }
        }
        self.cache.set_pending((0..rows).map(|row| row.checked_sub(1)));
        let path: Vec<usize> = (0..rows).collect();
        self.cache.commit(&path)?;
        self.waiting.clear();
        Ok(())
    }

    /// The pass over a block that begins with `anchor`, up to the logits of its slots.
    fn pass(&mut self, anchor: u32) -> Result<()> {
        let network = Arc::clone(&self.network);
        let (config, weights, team) = (&network.config, &network.weights, network.team());
        let hidden = config.layers.hidden;
        self.cache.check_room(config.rows)?;
        self.plan.clear();
        self.plan.add(&self.cache, config.rows, None);
        self.plan.reach(&mut self.ropes);
        self.h.resize(config.rows * hidden, 0.0);
        par_rows(team, (&mut self.h, hidden), (&mut [] as &mut [f32], 0), |row, out, _| {
            network.embed(if row == 0 { anchor } else { config.mask }, out);
        });
        for (i, layer) in weights.layers.iter().enumerate() {
            self.plan.mutual = !config.causal[i];
            let context = Context { team, config: &config.layers, ropes: &self.ropes, rows: &self.plan };
            let (caches, s) = (&mut One(&mut self.cache), &mut self.scratch);
            match weights.convolutions.get(i) {
                None => layer.run(&context, i, caches, &mut self.h, s),
                Some(around) => {
                    conv::run(layer, around, &context, i, caches, &mut self.h, s, &mut self.conv);
                }
            }
        }
        let (first, slots, eps) = (config.first_slot(), config.slots(), config.layers.norm_eps);
        let h = &self.h;
        self.hidden.fill(team, slots, hidden, |slot, out| {
            rms_norm(&h[(first + slot) * hidden..][..hidden], &weights.norm, eps, out);
        });
        self.base.resize(slots * weights.vocab, 0.0);
        if !matches!(weights.path, PathPart::Correction(_)) {
            network.score(&self.hidden, &mut self.base);
        }
        Ok(())
    }
}

impl Tree {
    /// Makes the tree of a new draft empty.
    fn begin(&mut self, network: &BlockNetwork, hidden: &Activations, base: &[f32]) {
        self.slots.clear();
        self.logits.clear();
        self.states.clear();
        self.confidence.clear();
        self.confidence_logits.clear();
        let PathPart::Selector(selector) = &network.weights.path else { return };
        let (slots, rank) = (hidden.rows(), selector.projection.rows());
        self.projected.resize(slots * rank, 0.0);
        let job = Job { matrix: &selector.projection, rows: Rows::All, out: &mut self.projected, add: false };
        matmul(network.team(), hidden, &mut [job]);
        self.candidates.clear();
        self.candidate_logits.clear();
        for logits in base.chunks_exact(network.weights.vocab) {
            let best = top_k(logits, selector.candidates);
            self.candidate_logits.extend(best.iter().map(|&row| logits[row]));
            self.candidates.extend(best.into_iter().map(|row| network.token(row)));
        }
    }

    /// Scores what follows new nodes: `self.tokens` in the last of `self.slots`, of which `parents`
    /// gives the node before each.
    fn add(&mut self, network: &BlockNetwork, parents: &[Option<usize>], hidden: &Activations, base: &[f32]) {
        let (weights, team, count) = (&network.weights, network.team(), self.tokens.len());
        let places = Places { slots: &self.slots[self.slots.len() - count..], tokens: &self.tokens, hidden };
        let vocab = weights.vocab;
        match &weights.path {
            PathPart::None => {}
            PathPart::Markov(markov) => {
                let first = self.logits.len();
                places.slots.iter().for_each(|&slot| {
                    self.logits.extend_from_slice(&base[slot * vocab..][..vocab]);
                });
                let states = self.states.len();
                if markov.recurrent() {
                    for parent in parents {
                        match parent {
                            Some(parent) => {
                                let from = parent * markov.rank;
                                self.states.extend_from_within(from..from + markov.rank);
                            }
                            None => self.states.resize(self.states.len() + markov.rank, 0.0),
                        }
                    }
                }
                let (states, logits) = (&mut self.states[states..], &mut self.logits[first..]);
                markov.add(team, &places, states, logits, &mut self.path);
            }
            PathPart::Selector(selector) => {
                let first = self.logits.len();
                self.logits.resize(first + count * selector.candidates, 0.0);
                selector.score(
                    &places,
                    &self.candidates,
                    &self.candidate_logits,
                    &self.projected,
                    &mut self.logits[first..],
                    &mut self.path,
                );
            }
            PathPart::Correction(correction) => {
                let width = hidden.cols();
                self.embeddings.resize(count * width, 0.0);
                let rows = self.embeddings.chunks_exact_mut(width).zip(&self.tokens);
                rows.for_each(|(row, &token)| network.embed(token, row));
                let eps = network.config.layers.norm_eps;
                let x = correction.correct(team, &places, &self.embeddings, eps, &mut self.path);
                let first = self.logits.len();
                self.logits.resize(first + count * vocab, 0.0);
                network.score(x, &mut self.logits[first..]);
            }
        }
        if let Some(confidence) = &weights.confidence {
            let first = self.confidence_logits.len();
            self.confidence_logits.resize(first + count, 0.0);
            let markov = match &weights.path {
                PathPart::Markov(markov) => Some(markov),
                _ => None,
            };
            let out = &mut self.confidence_logits[first..];
            confidence.measure(team, markov, &places, out, &mut self.path);
            let chances = out.iter().map(|x| 1.0 / (1.0 + (-x).exp()));
            self.confidence.extend(chances);
        }
    }
}

impl Guesser for BlockGuesser {
    fn observe(&mut self, committed: &Committed<'_>) -> Result<()> {
        let (observed, width) = (self.observed(), self.width());
        if committed.first != observed {
            return Err(Error::request(format!(
                "rows from {} on were committed, but the drafter has seen {observed}",
                committed.first
            )));
        }
        for &row in committed.rows {
            let before = self.waiting.len();
            for &tap in &self.network.config.taps {
                self.waiting.extend_from_slice(committed.features.feature(tap, row));
            }
            let found = self.waiting.len() - before;
            if found != width {
                self.waiting.truncate(before);
                return Err(Error::request(format!(
                    "the target gave {found} values as features of a row, the drafter reads {width}"
                )));
            }
            if self.waiting.len() / width >= WAITING {
                self.catch_up()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, tokens: &[u32]) -> Result<()> {
        let observed = self.observed();
        let Some(&anchor) = tokens.last().filter(|_| tokens.len() == observed + 1) else {
            return Err(Error::request(format!(
                "a draft after {} tokens, but {observed} rows were observed, expected one row less",
                tokens.len()
            )));
        };
        self.check_token(anchor)?;
        self.catch_up()?;
        self.pass(anchor)?;
        let network = Arc::clone(&self.network);
        self.tree.begin(&network, &self.hidden, &self.base);
        self.tree.slots.push(0);
        self.tree.tokens.clear();
        self.tree.tokens.push(anchor);
        self.tree.add(&network, &[None], &self.hidden, &self.base);
        Ok(())
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<()> {
        let network = Arc::clone(&self.network);
        let slots = network.config.slots();
        let mut done = 0;
        while done < branches.len() {
            let nodes = self.tree.slots.len();
            // A branch behind another one of this call waits for it.
            let run = branches[done..].iter().position(|b| b.parent >= nodes);
            let run: Range<usize> = done..run.map_or(branches.len(), |ready| done + ready);
            if run.is_empty() {
                let parent = branches[done].parent;
                return Err(Error::request(format!("a branch follows node {parent}, of {nodes}")));
            }
            self.tree.tokens.clear();
            let mut parents = Vec::with_capacity(run.len());
            for branch in &branches[run.clone()] {
                let slot = self.tree.slots[branch.parent] + 1;
                if slot >= slots {
                    return Err(Error::request(format!(
                        "a branch {slot} tokens deep, but a block guesses {slots}"
                    )));
                }
                self.check_token(branch.token)?;
                parents.push((Some(branch.parent), slot));
                self.tree.tokens.push(branch.token);
            }
            self.tree.slots.extend(parents.iter().map(|(_, slot)| slot));
            let parents: Vec<_> = parents.into_iter().map(|(parent, _)| parent).collect();
            self.tree.add(&network, &parents, &self.hidden, &self.base);
            done = run.end;
        }
        Ok(())
    }

    fn scores(&self, node: usize) -> Scores<'_> {
        let (tree, weights) = (&self.tree, &self.network.weights);
        let (slot, vocab) = (tree.slots[node], weights.vocab);
        let confidence = tree.confidence.get(node).copied();
        let map = self.network.map.as_deref();
        match &weights.path {
            PathPart::None => Scores { logits: &self.base[slot * vocab..][..vocab], tokens: map, confidence },
            PathPart::Markov(_) | PathPart::Correction(_) => {
                Scores { logits: &tree.logits[node * vocab..][..vocab], tokens: map, confidence }
            }
            PathPart::Selector(selector) => {
                let many = selector.candidates;
                Scores {
                    logits: &tree.logits[node * many..][..many],
                    tokens: Some(&tree.candidates[slot * many..][..many]),
                    confidence,
                }
            }
        }
    }

    fn trace(&self, name: &str) -> Option<Vec<f32>> {
        let slots = self.network.config.slots();
        match name {
            "context" if self.network.weights.fusion.is_none() => Some(self.context.clone()),
            "hidden" => {
                Some((0..self.hidden.rows()).flat_map(|slot| self.hidden.row(slot)).copied().collect())
            }
            "base_logits" => Some(self.base.clone()),
            "confidence_logit" if self.tree.confidence_logits.len() == slots => {
                Some(self.tree.confidence_logits.clone())
            }
            _ => None,
        }
    }
}

impl BlockGuesser {
    /// Refuses a token that tables have no row for.
    fn check_token(&self, token: u32) -> Result<()> {
        let vocab = self.network.parts.config.vocab;
        if (token as usize) < vocab {
            return Ok(());
        }
        Err(Error::request(format!("token {token}, but the target has {vocab}")))
    }
}
