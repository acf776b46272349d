//! What a model will need, told from its files before anything is loaded.

use crate::Result;
use crate::config::{Config, DeltaConfig, LayerConfig};
use crate::drafters::TargetFacts;
use crate::layers::{Experts, Gated, Layer, Mixer, MlpKind};
use crate::load::{LoadOptions, Source};
use crate::weights::{self, MatrixShape, Measure, Weights};
use leveret_kernels::attention::KvType;
use leveret_kernels::delta::DeltaState;
use leveret_kernels::{ElementType, Matrix};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Memory and memory traffic of a model under given [`LoadOptions`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Weights, counted as the files name them.
    pub parameters: u64,
    /// Bytes of the packed matrices.
    pub weight_bytes: u64,
    /// Bytes of weights that decoding one token reads.
    pub bytes_per_token: u64,
    /// Bytes that one position takes in a sequence's caches.
    pub cache_bytes_per_position: u64,
    /// Bytes of a sequence's recurrent states, whatever its length.
    pub state_bytes: u64,
    /// Matrices and their bytes by type in memory.
    pub types: Vec<(ElementType, usize, u64)>,
}

impl Footprint {
    /// Bytes of weights and of one sequence's states and full caches of `context` positions.
    pub fn total_bytes(&self, context: usize) -> u64 {
        self.weight_bytes + self.state_bytes + self.cache_bytes_per_position * context as u64
    }
}

impl Source {
    /// What the model will need. Checks every tensor's presence and shape on the way.
    ///
    /// # Errors
    /// Whatever [`Model::load`](crate::Model::load) would refuse before it reads weights.
    pub fn footprint(&self, options: &LoadOptions) -> Result<Footprint> {
        let config = self.config()?;
        options.check(&config)?;
        let weights = weights::load(self, &config, options.precision, &Measure)?;
        Ok(measure(&config, &weights, options.kv))
    }

    /// What drafters need to know of the model, which is not loaded for it.
    ///
    /// # Errors
    /// As [`footprint`](Self::footprint).
    pub fn target_facts(&self, options: &LoadOptions) -> Result<TargetFacts> {
        let config = self.config()?;
        let weights = weights::load(self, &config, options.precision, &Measure)?;
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        Ok(TargetFacts { head_bytes: packed(head) as usize, config: Arc::new(config) })
    }
}

fn measure(config: &Config, weights: &Weights<MatrixShape>, kv: KvType) -> Footprint {
    let mut sum = Sum::default();
    sum.add(&weights.embedding, Reads::Row);
    match &weights.head {
        Some(head) => sum.add(head, Reads::Share(1, 1)),
        None => sum.read_all(&weights.embedding),
    }
    if let Some(inputs) = &weights.per_layer {
        sum.add(&inputs.table, Reads::Row);
        sum.add(&inputs.projection, Reads::Share(1, 1));
    }
    for (layer, config) in weights.layers.iter().zip(&config.layers) {
        sum.layer(layer, config);
    }
    let state = |delta: &DeltaConfig| DeltaState::bytes_of(&delta.shape) as u64;
    let widths = (0..config.layers.len()).map(|layer| config.kv_width(layer) as u64);
    Footprint {
        parameters: sum.parameters,
        weight_bytes: sum.bytes,
        bytes_per_token: sum.read,
        cache_bytes_per_position: widths.sum::<u64>() * kv.bytes() as u64,
        state_bytes: config.layers.iter().flat_map(|l| &l.delta).map(state).sum(),
        types: sum.types.into_values().collect(),
    }
}

/// How much of a matrix a token reads.
#[derive(Clone, Copy)]
enum Reads {
    /// One row: an embedding.
    Row,
    /// `.0` of `.1` such matrices.
    Share(usize, usize),
}

#[derive(Default)]
struct Sum {
    parameters: u64,
    bytes: u64,
    read: u64,
    types: BTreeMap<&'static str, (ElementType, usize, u64)>,
}

impl Sum {
    fn add(&mut self, shape: &MatrixShape, reads: Reads) {
        let bytes = packed(shape);
        self.parameters += (shape.rows * shape.cols) as u64;
        self.bytes += bytes;
        self.read += match reads {
            Reads::Row => bytes / shape.rows.max(1) as u64,
            Reads::Share(used, of) => bytes * used as u64 / of.max(1) as u64,
        };
        let entry = self.types.entry(shape.ty.name()).or_insert((shape.ty, 0, 0));
        entry.1 += 1;
        entry.2 += bytes;
    }

    fn layer(&mut self, layer: &Layer<MatrixShape>, config: &LayerConfig) {
        match &layer.mixer {
            Mixer::Attention(a) => self.all([&a.q, &a.o].into_iter().chain(&a.k).chain(&a.v).chain(&a.gate)),
            Mixer::Delta(delta) => self.all(delta.matrices()),
        }
        let share = config.mlp.experts.map_or(Reads::Share(1, 1), |e| Reads::Share(e.used, e.count));
        match &layer.mlp.kind {
            MlpKind::Dense(dense) => self.all(dense.matrices()),
            MlpKind::Experts(experts) => self.experts(experts, share),
            MlpKind::Beside(both) => {
                self.all(both.dense.matrices());
                self.experts(&both.experts, share);
            }
        }
        if let Some(gate) = &layer.per_layer {
            self.all([&gate.gate, &gate.out]);
        }
    }

    /// Matrices that every token reads.
    fn all<'a>(&mut self, shapes: impl IntoIterator<Item = &'a MatrixShape>) {
        shapes.into_iter().for_each(|shape| self.add(shape, Reads::Share(1, 1)));
    }

    fn experts(&mut self, experts: &Experts<MatrixShape>, share: Reads) {
        self.add(&experts.router, Reads::Share(1, 1));
        if let Some(shared) = &experts.shared {
            self.all(shared.mlp.matrices().into_iter().chain([&shared.scale]));
        }
        let matrices = experts.experts.iter().flat_map(Gated::matrices);
        matrices.for_each(|shape| self.add(shape, share));
    }

    fn read_all(&mut self, shape: &MatrixShape) {
        self.read += packed(shape);
    }
}

/// Bytes of a layer's weights that one token reads.
pub(crate) fn layer_bytes(layer: &Layer<MatrixShape>, config: &LayerConfig) -> u64 {
    let mut sum = Sum::default();
    sum.layer(layer, config);
    sum.read
}

/// Bytes of a matrix in memory.
pub(crate) fn packed(shape: &MatrixShape) -> u64 {
    Matrix::packed_bytes(shape.ty, shape.rows, shape.cols) as u64
}
