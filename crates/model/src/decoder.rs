//! The decoder: one forward pass for every family. Rows of several sequences go through the layers
//! together; each reads only its own sequence.

use crate::cache::Sequence;
use crate::config::Config;
use crate::drafters::TargetParts;
use crate::layers::{Caches, Context, RopeTable, RowPlan, Scratch, fill_normed, room};
use crate::target::{Cache, LogitRows, Pass, Tap, Target};
use crate::weights::Weights;
use crate::{Error, Result};
use leveret_kernels::attention::KvType;
use leveret_kernels::ops::{rms_norm, scale, softcap};
use leveret_kernels::{Activations, Job, Rows, Settling, Team, matmul, par_rows};
use std::sync::Arc;
use std::time::Instant;

/// A loaded model: a [`Target`] over one set of weights.
#[derive(Debug)]
pub struct Model {
    team: Arc<Team>,
    config: Arc<Config>,
    weights: Weights,
    kv: KvType,
    max_context: usize,
    /// Tokens whose logits are computed: all, or the first of them for a model that only guesses.
    scored: usize,
    settling: Settling,
    work: Work,
}

/// Most rows of a prompt's chunk that recurrent layers keep a tape of, as they do of drafts.
const TAPED: usize = 64;

/// Buffers and results of the last pass.
#[derive(Debug, Default)]
struct Work {
    plan: RowPlan,
    ropes: Vec<RopeTable>,
    tokens: Vec<u32>,
    /// Residual stream `[rows, hidden]`.
    h: Vec<f32>,
    scratch: Scratch,
    /// Input of the head.
    last: Activations,
    logit_rows: Vec<u32>,
    /// `[logit rows, scored]`.
    logits: Vec<f32>,
    features: Vec<Feature>,
}

/// Values of one asked tap.
#[derive(Debug, Default)]
struct Feature {
    width: usize,
    /// `[rows, width]`.
    values: Vec<f32>,
}

impl Feature {
    fn copy(&mut self, values: &[f32], width: usize) {
        self.width = width;
        room(&mut self.values, values.len()).copy_from_slice(values);
    }
}

impl Model {
    pub(crate) fn new(
        team: Arc<Team>,
        config: Config,
        weights: Weights,
        kv: KvType,
        max_context: usize,
    ) -> Self {
        let ropes = config.rotations.iter().map(RopeTable::new).collect();
        let (scored, config) = (config.vocab, Arc::new(config));
        let (settling, work) = (Settling::default(), Work { ropes, ..Work::default() });
        Self { team, config, weights, kv, max_context, scored, settling, work }
    }

    /// Has later passes compute logits of the first `tokens` tokens alone, all of them if there are no more: for a
    /// model that guesses for another one, whose head is a good part of what it reads.
    pub(crate) fn score_first(&mut self, tokens: usize) {
        self.scored = tokens.min(self.config.vocab);
    }

    /// Lets caches have room for so many positions, be they more than the model was made for.
    pub fn allow_context(&mut self, positions: usize) {
        self.max_context = self.max_context.max(positions);
    }

    /// What the model is composed of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Threads that passes run on, the caller's included.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// What drafters made for this model use of it.
    pub fn parts(&self) -> TargetParts {
        TargetParts {
            team: Arc::clone(&self.team),
            config: Arc::clone(&self.config),
            embedding: Arc::clone(&self.weights.embedding),
            head: Arc::clone(self.weights.head.as_ref().unwrap_or(&self.weights.embedding)),
            kv: self.kv,
            max_context: self.max_context,
        }
    }

    /// How caches store keys and values.
    pub fn kv_type(&self) -> KvType {
        self.kv
    }

    /// Refuses what cannot be run, before anything is written.
    fn check(&self, passes: &[Pass<'_, Sequence>], taps: &[Tap]) -> Result<()> {
        let layers = self.config.layers.len();
        for tap in taps {
            let known = match *tap {
                Tap::Final => true,
                Tap::Residual(k) => k <= layers,
                Tap::Keys(layer) | Tap::Values(layer) => layer < layers && self.config.kv_width(layer) > 0,
            };
            if !known {
                return Err(Error::request(format!(
                    "{tap:?} was asked for, but the model has {layers} layers, and not all may have a cache of their own"
                )));
            }
        }
        for pass in passes {
            if let Some(token) = pass.tokens.iter().find(|&&token| token as usize >= self.config.vocab) {
                return Err(Error::request(format!(
                    "token id {token}, expected less than the vocabulary size {}",
                    self.config.vocab
                )));
            }
            if let Some(parents) = pass.parents {
                let (rows, found) = (pass.tokens.len(), parents.len());
                if rows != found {
                    return Err(Error::request(format!("{found} parents for {rows} rows")));
                }
                let held = pass.cache.held();
                if let Some(row) = (0..rows).find(|&row| parents[row].is_some_and(|p| p >= held + row)) {
                    return Err(Error::request(format!(
                        "row {row} has a parent that does not precede it: {:?}",
                        parents[row]
                    )));
                }
            }
            if pass.parents.is_none() && pass.cache.held() > 0 {
                return Err(Error::request("a pass behind held rows needs parents for its own"));
            }
            pass.cache.check_room(pass.tokens.len())?;
        }
        Ok(())
    }

    /// Input of the head and features after the last layer.
    fn finish(&mut self, taps: &[Tap]) {
        let (team, width, eps) = (&self.team, self.config.hidden, self.config.norm_eps);
        let Work { h, last, logit_rows, features, logits, .. } = &mut self.work;
        let norm = &self.weights.final_norm;
        // Without a tap only the rows that go through the head are normed.
        let all = taps.contains(&Tap::Final);
        if all {
            fill_normed(team, last, h, norm, eps);
            for (tap, feature) in taps.iter().zip(features) {
                if *tap == Tap::Final {
                    feature.width = width;
                    let rows = room(&mut feature.values, h.len()).chunks_exact_mut(width);
                    rows.enumerate().for_each(|(row, out)| out.copy_from_slice(last.row(row)));
                }
            }
        } else {
            last.fill(team, logit_rows.len(), width, |i, out| {
                rms_norm(&h[logit_rows[i] as usize * width..][..width], norm, eps, out);
            });
        }
        let scored = self.scored;
        let logits = room(logits, logit_rows.len() * scored);
        let matrix = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        // All rows in their order are what fast kernels take.
        let rows = if all && logit_rows.len() < last.rows() { Rows::List(logit_rows) } else { Rows::All };
        matmul(team, last, &mut [Job { matrix, rows, out: &mut *logits, add: false }]);
        if let Some(cap) = self.config.final_softcap {
            par_rows(team, (logits, scored), (&mut [] as &mut [f32], 0), |_, row, _| softcap(row, cap));
        }
    }
}

impl Work {
    /// Lays the rows of all passes out one after the other.
    fn plan(&mut self, passes: &[Pass<'_, Sequence>]) {
        self.plan.clear();
        self.tokens.clear();
        self.logit_rows.clear();
        let mut positions_needed = 0;
        for pass in passes {
            let (first, rows) = (self.tokens.len(), pass.tokens.len());
            self.plan.add(pass.cache, rows, pass.parents);
            // Rows without logits cannot be verified one by one.
            let whole = rows > TAPED && pass.logits != LogitRows::All;
            if let Some(segment) = self.plan.segments.last_mut() {
                segment.whole = whole && segment.held == 0 && segment.tree.is_none();
            }
            self.tokens.extend_from_slice(pass.tokens);
            let asked = match pass.logits {
                LogitRows::None => first + rows..first + rows,
                LogitRows::Last => (first + rows).saturating_sub(1).max(first)..first + rows,
                LogitRows::All => first..first + rows,
            };
            self.logit_rows.extend(asked.map(|row| row as u32));
            positions_needed = positions_needed.max(Cache::capacity(pass.cache));
        }
        // For the whole cache at once: decoding allocates nothing later.
        self.ropes.iter_mut().for_each(|rope| rope.extend(positions_needed));
    }

    /// Keeps the residual stream after `after` layers where it was asked for.
    fn tap_residual(&mut self, taps: &[Tap], after: usize, width: usize) {
        for (tap, feature) in taps.iter().zip(&mut self.features) {
            if *tap == Tap::Residual(after) {
                feature.copy(&self.h, width);
            }
        }
    }

    /// Keeps the keys and values that layer `layer`, the last to run, has written where they were asked for.
    fn tap_cached(&mut self, taps: &[Tap], layer: usize, config: &Config) {
        let rows = self.tokens.len();
        let (k_width, v_width) = config.layers[layer].attention.kv_widths();
        for (tap, feature) in taps.iter().zip(&mut self.features) {
            match tap {
                Tap::Keys(of) if *of == layer => feature.copy(&self.scratch.k[..rows * k_width], k_width),
                Tap::Values(of) if *of == layer => feature.copy(&self.scratch.v[..rows * v_width], v_width),
                _ => {}
            }
        }
    }
}

impl Caches for &mut [Pass<'_, Sequence>] {
    fn get(&mut self, segment: usize) -> &mut Sequence {
        self[segment].cache
    }
}

impl Target for Model {
    type Cache = Sequence;

    fn vocab_size(&self) -> usize {
        self.config.vocab
    }

    fn max_context(&self) -> usize {
        self.max_context
    }

    fn new_cache(&self, capacity: usize) -> Result<Sequence> {
        if capacity > self.max_context {
            return Err(Error::request(format!(
                "a cache of {capacity} rows, but the context of this model is {}",
                self.max_context
            )));
        }
        Sequence::new(&self.config, self.kv, capacity)
    }

    fn forward(&mut self, mut passes: &mut [Pass<'_, Sequence>], taps: &[Tap]) -> Result<()> {
        self.check(passes, taps)?;
        let start = Instant::now();
        self.work.plan(passes);
        if self.work.features.len() < taps.len() {
            self.work.features.resize_with(taps.len(), Feature::default);
        }
        let (team, width) = (&self.team, self.config.hidden);
        let (tokens, embedding) = (&self.work.tokens, &self.weights.embedding);
        self.work.h.resize(tokens.len() * width, 0.0);
        par_rows(team, (&mut self.work.h, width), (&mut [] as &mut [f32], 0), |row, out, _| {
            embedding.row(tokens[row] as usize, out);
            if self.config.embedding_scale != 1.0 {
                scale(out, self.config.embedding_scale);
            }
        });
        self.work.tap_residual(taps, 0, width);
        if let (Some(inputs), Some(config)) = (&self.weights.per_layer, self.config.per_layer) {
            let Work { plan, ropes, h, scratch, tokens, .. } = &mut self.work;
            let context = Context { team, config: &self.config, ropes, rows: plan };
            inputs.run(&context, config, tokens, h, scratch);
        }
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let Work { plan, ropes, h, scratch, .. } = &mut self.work;
            let context = Context { team, config: &self.config, ropes, rows: plan };
            layer.run(&context, i, &mut passes, h, scratch);
            self.work.tap_cached(taps, i, &self.config);
            self.work.tap_residual(taps, i + 1, width);
        }
        self.finish(taps);
        for pass in passes {
            let rows = pass.tokens.len();
            match pass.parents {
                Some(parents) => pass.cache.set_pending(parents.iter().copied()),
                None => pass.cache.set_pending((0..rows).map(|row| row.checked_sub(1))),
            }
        }
        self.settling.after(start.elapsed());
        Ok(())
    }

    fn logits(&self, index: usize) -> &[f32] {
        let scored = self.scored;
        &self.work.logits[..self.work.logit_rows.len() * scored][index * scored..][..scored]
    }

    fn feature(&self, tap: usize, row: usize) -> &[f32] {
        let Feature { width, values } = &self.work.features[tap];
        &values[..self.work.tokens.len() * width][row * width..][..*width]
    }
}
