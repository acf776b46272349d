//! The weights of a block drafter: by name and shape, packed or measured.

use super::config::{BlockConfig, BlockNames, Shapes};
use super::conv::BlockConv;
use super::path::{Confidence, Correction, Markov, Mixing, PathPart, Selector};
use crate::config::{Config, Presence};
use crate::footprint::{layer_bytes, packed};
use crate::layers::{Layer, Mixer, MlpKind};
use crate::load::Source;
use crate::weights::{MatrixShape, Pack, Precision, Tensors, load_layers};
use crate::{Error, Result};
use leveret_kernels::Matrix;
use leveret_kernels::ops::softmax;

/// All weights of a block drafter; `M` is a packed matrix.
#[derive(Debug)]
pub(super) struct BlockWeights<M = Matrix> {
    /// Absent: the target's.
    pub(super) embedding: Option<M>,
    /// Absent: the target's.
    pub(super) head: Option<M>,
    /// Tokens that the head scores.
    pub(super) vocab: usize,
    /// `[hidden, taps * target hidden]`.
    pub(super) fc: M,
    pub(super) context_norm: Vec<f32>,
    /// Shares of the taps for each layer, `[layers][taps]`, where layers read contexts of their own.
    pub(super) fusion: Option<Vec<f32>>,
    pub(super) layers: Vec<Layer<M>>,
    /// For each layer; empty if there are none.
    pub(super) convolutions: Vec<[BlockConv<M>; 2]>,
    pub(super) norm: Vec<f32>,
    pub(super) path: PathPart<M>,
    pub(super) confidence: Option<Confidence<M>>,
}

impl<M> BlockWeights<M> {
    /// Loads what `config` describes. `vocab` is the number of rows of the head.
    pub(super) fn load<P: Pack<Matrix = M>>(
        source: &Source,
        config: &BlockConfig,
        shapes: &Shapes,
        vocab: usize,
        precision: Precision,
        pack: &P,
    ) -> Result<Self> {
        let (names, hidden) = (&config.names, config.layers.hidden);
        let tensors = Tensors { source, precision, norm_offset: config.layers.norm_offset, pack };
        let loader = Loader { tensors, config, prefix: shapes.prefix, vocab };
        let spelled = |names: &[&'static str]| BlockNames::spelled(source, shapes.prefix, names);
        let norm =
            |names: &[&'static str]| loader.tensors.norm(&format!("{}.weight", spelled(names)), hidden);
        let table =
            |name: &str, rows: Option<usize>| rows.map(|rows| loader.matrix(name, rows, hidden)).transpose();
        let features = config.taps.len() * shapes.target_hidden;
        let fusion = loader.fusion(shapes.target_hidden)?;
        let layers = load_layers(source, &config.layers, shapes.prefix, precision, pack)?;
        if !layers.iter().all(|layer| matches!(layer.mixer, Mixer::Attention(_))) {
            return Err(loader.unsupported("a block drafter with recurrent layers"));
        }
        let convolutions = loader.convolutions(&layers)?;
        let path = loader.path()?;
        Ok(Self {
            embedding: table(names.embedding, shapes.embedding_rows)?,
            head: table(names.head, shapes.head_rows)?,
            vocab,
            fc: loader.tensors.matrix(&spelled(names.fc), hidden, features, Presence::IfPresent)?,
            context_norm: norm(names.context_norm)?,
            fusion,
            layers,
            convolutions,
            norm: norm(names.norm)?,
            confidence: loader.confidence(&path)?,
            path,
        })
    }
}

impl BlockWeights<MatrixShape> {
    /// Bytes that the pass over a block reads, the head aside. Keys and values of the text's new rows
    /// are a product of their own.
    pub(super) fn pass_bytes(&self, config: &Config) -> usize {
        let mut matrices: Vec<&MatrixShape> = vec![&self.fc];
        matrices.extend(self.convolutions.iter().flatten().map(|conv| &conv.projection));
        for layer in &self.layers {
            if let Mixer::Attention(a) = &layer.mixer {
                matrices.extend(a.k.iter().chain(&a.v));
            }
        }
        let layers = self.layers.iter().zip(&config.layers).map(|(layer, config)| layer_bytes(layer, config));
        layers.chain(matrices.into_iter().map(packed)).sum::<u64>() as usize
    }

    /// Bytes that one choice along the path reads, the head aside.
    pub(super) fn path_bytes(&self) -> usize {
        let confidence = self.confidence.iter().map(|c| &c.projection);
        self.path.read().into_iter().chain(confidence).map(packed).sum::<u64>() as usize
    }
}

struct Loader<'a, P: Pack> {
    tensors: Tensors<'a, P>,
    config: &'a BlockConfig,
    prefix: &'static str,
    vocab: usize,
}

impl<P: Pack> Loader<'_, P> {
    fn name(&self, name: &str) -> String {
        BlockNames::placed(self.tensors.source, self.prefix, name)
    }

    fn has(&self, name: &str) -> bool {
        self.shape(name).is_ok_and(|shape| shape.is_some())
    }

    /// Shape of `{name}.weight`, or of `name` where files leave the ending out.
    fn shape(&self, name: &str) -> Result<Option<&[usize]>> {
        let name = self.name(name);
        match self.tensors.source.tensor(&format!("{name}.weight"))? {
            Some(tensor) => Ok(Some(tensor.shape)),
            None => Ok(self.tensors.source.tensor(&name)?.map(|tensor| tensor.shape)),
        }
    }

    /// The number of columns of a matrix whose width only its shape tells.
    fn columns(&self, name: &str) -> Result<usize> {
        match self.shape(name)? {
            Some(&[_, columns]) if columns > 0 => Ok(columns),
            Some(shape) => {
                let what = format!("has the shape {shape:?}, expected two dimensions");
                Err(self.tensors.fault(&self.name(name), &what))
            }
            None => Err(self.tensors.fault(&self.name(name), "is missing: the file is incomplete")),
        }
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<P::Matrix> {
        let name = self.name(name);
        if self.tensors.source.has(&format!("{name}.weight")) {
            return self.tensors.matrix(&name, rows, cols, Presence::IfPresent);
        }
        let tensor = self.tensors.tensor(&name, &[rows, cols])?;
        self.tensors.pack(&name, MatrixShape { ty: tensor.ty, rows, cols }, tensor.bytes, None)
    }

    /// Rows of a table that is indexed by tokens; as many as it has.
    fn table(&self, name: &str, cols: usize) -> Result<P::Matrix> {
        let rows = self.shape(name)?.and_then(|shape| shape.first().copied()).unwrap_or(self.vocab);
        self.matrix(name, rows, cols)
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(self.tensors.source.path(), what)
    }

    fn fusion(&self, target_hidden: usize) -> Result<Option<Vec<f32>>> {
        let name = self.config.names.fusion;
        if !self.has(name) {
            return Ok(None);
        }
        if target_hidden != self.config.layers.hidden {
            return Err(self.unsupported(&format!(
                "`{name}` adds features of width {target_hidden} to a context of width {}",
                self.config.layers.hidden
            )));
        }
        let taps = self.config.taps.len();
        let mut shares = self.tensors.vector(&self.name(name), &[self.config.layers.layers.len(), taps])?;
        shares.chunks_exact_mut(taps).for_each(softmax);
        Ok(Some(shares))
    }

    fn convolutions(&self, layers: &[Layer<P::Matrix>]) -> Result<Vec<[BlockConv<P::Matrix>; 2]>> {
        let names = self.config.names.convolutions;
        let of_layer = |i: usize, name: &str| format!("{}{i}.{name}", self.config.names.layers.layer);
        if !self.has(&of_layer(0, names[0].0)) {
            return Ok(Vec::new());
        }
        let plain = |layer: &Layer<P::Matrix>| {
            matches!(layer.mlp.kind, MlpKind::Dense(_))
                && layer.per_layer.is_none()
                && layer.output_scale.is_none()
        };
        if !layers.iter().all(plain) {
            return Err(self.unsupported("convolutions around layers with experts or scaled outputs"));
        }
        let one = |i: usize, (base, projection): (&str, &str)| {
            self.convolution(&of_layer(i, base), &of_layer(i, projection))
        };
        (0..layers.len()).map(|i| Ok([one(i, names[0])?, one(i, names[1])?])).collect()
    }

    fn convolution(&self, base: &str, projection: &str) -> Result<BlockConv<P::Matrix>> {
        let hidden = self.config.layers.hidden;
        let fault = |name: &str, shape: &[usize], expected: &str| {
            self.tensors.fault(&self.name(name), &format!("has the shape {shape:?}, expected {expected}"))
        };
        let taps = match self.shape(base)? {
            Some(&[2, taps, width]) if taps > 0 && width == hidden => taps,
            shape => return Err(fault(base, shape.unwrap_or_default(), &format!("[2, taps, {hidden}]"))),
        };
        let groups = match self.shape(projection)? {
            Some(&[rows, _]) if rows.is_multiple_of(2 * taps) && rows > 0 => rows / (2 * taps),
            shape => {
                let expected = format!("[2 * {taps} * groups, {hidden}]");
                return Err(fault(projection, shape.unwrap_or_default(), &expected));
            }
        };
        if !hidden.is_multiple_of(groups) {
            let what = format!("is for {groups} groups of channels, which do not divide {hidden}");
            return Err(self.tensors.fault(&self.name(projection), &what));
        }
        Ok(BlockConv {
            base: self.tensors.vector(&self.name(base), &[2, taps, hidden])?,
            projection: self.matrix(projection, 2 * taps * groups, hidden)?,
            taps,
            groups,
        })
    }

    /// The part that chooses along the path, whichever tensors are there.
    fn path(&self) -> Result<PathPart<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.layers.hidden);
        let part = |name: &str| format!("{}.{name}", names.correction);
        if self.has(&part("gate_proj")) {
            let width = match self.shape(&part("gate_proj"))? {
                Some(&[width, _]) if width > 0 => width,
                shape => {
                    let what = format!("has the shape {shape:?}, expected [width, {}]", 2 * hidden);
                    return Err(self.tensors.fault(&self.name(&part("gate_proj")), &what));
                }
            };
            let norm = |name: &str| self.tensors.norm(&format!("{}.weight", self.name(&part(name))), hidden);
            return Ok(PathPart::Correction(Correction {
                hidden_norm: norm("hidden_norm")?,
                embedding_norm: norm("embed_norm")?,
                gate: self.matrix(&part("gate_proj"), width, 2 * hidden)?,
                up: self.matrix(&part("up_proj"), width, 2 * hidden)?,
                down: self.matrix(&part("down_proj"), hidden, width)?,
            }));
        }
        if self.has(names.markov_in) {
            let rank = self.columns(names.markov_in)?;
            let mixing = if self.has(names.markov_joint) {
                Mixing::Recurrent(self.matrix(names.markov_joint, 3 * rank, 2 * rank + hidden)?)
            } else if self.has(names.markov_gate) {
                Mixing::Gated(self.matrix(names.markov_gate, rank, hidden + rank)?)
            } else {
                Mixing::Plain
            };
            return Ok(PathPart::Markov(Markov {
                rank,
                before: self.table(names.markov_in, rank)?,
                mixing,
                after: self.matrix(names.markov_out, self.vocab, rank)?,
            }));
        }
        if self.has(names.selector) {
            let rank = match self.shape(names.selector)? {
                Some(&[rank, _]) if rank > 0 => rank,
                shape => {
                    let what = format!("has the shape {shape:?}, expected [rank, {hidden}]");
                    return Err(self.tensors.fault(&self.name(names.selector), &what));
                }
            };
            if self.vocab == 0 || self.config.candidates == 0 {
                return Err(self.unsupported("a selector without candidates"));
            }
            return Ok(PathPart::Selector(Selector {
                candidates: self.config.candidates.min(self.vocab),
                projection: self.matrix(names.selector, rank, hidden)?,
                before: self.table(names.predecessor, rank)?,
                after: self.table(names.successor, rank)?,
            }));
        }
        Ok(PathPart::None)
    }

    fn confidence(&self, path: &PathPart<P::Matrix>) -> Result<Option<Confidence<P::Matrix>>> {
        let (name, hidden) = (self.config.names.confidence, self.config.layers.hidden);
        let rank = match path {
            _ if !self.has(name) => return Ok(None),
            PathPart::Correction(_) => return Ok(None),
            PathPart::Markov(markov) => markov.rank,
            _ => 0,
        };
        let columns = self.columns(name)?;
        let with_token = rank > 0 && columns == hidden + rank;
        if !with_token && columns != hidden {
            let what = format!("has {columns} columns, expected {hidden} or {}", hidden + rank);
            return Err(self.tensors.fault(&self.name(name), &what));
        }
        Ok(Some(Confidence { projection: self.matrix(name, 1, columns)?, with_token }))
    }
}
