//! From named tensors to the matrices and vectors that layers hold: names resolved, shapes checked,
//! weights repacked one tensor at a time and each tensor's file pages given back after that.
//!
//! The same walk without packing says what a model will need ([`crate::footprint`]).

use crate::config::{AttentionConfig, Config, ExpertNames, ExpertsConfig, Head, MlpConfig, Presence};
use crate::layers::{Attention, Experts, Gated, Mlp, MlpKind, NormWeights};
use crate::load::Source;
use crate::{Error, Result};
use leveret_kernels::quant::{self, mxfp4_from_pairs};
use leveret_kernels::{ElementType, Matrix, Team, par_rows};
use safetensors::Dtype;

/// What becomes of a file's weights in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Stay as they are stored.
    #[default]
    AsStored,
    /// Floats are quantised (except norms and routers); blocks stay as they are stored.
    Quantize(ElementType),
    /// Blocks are decoded to `f32`, so that activations are not rounded either: the reference
    /// arithmetic that goldens are compared in, at four bytes a weight.
    Float,
}

/// All weights of a decoder; `M` is a packed matrix.
#[derive(Debug)]
pub(crate) struct Weights<M = Matrix> {
    pub(crate) embedding: M,
    /// Absent: the embedding serves.
    pub(crate) head: Option<M>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) layers: Vec<Layer<M>>,
}

/// The weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer<M = Matrix> {
    pub(crate) attention: Attention<M>,
    pub(crate) mlp: Mlp<M>,
}

/// What loading makes of the stored bytes of one matrix.
pub(crate) trait Pack {
    type Matrix;

    /// Packs the bytes of one matrix.
    fn pack(&self, shape: MatrixShape, bytes: &[u8], bias: Option<Vec<f32>>) -> Result<Self::Matrix, String>;

    /// The threads that conversions share; absent if bytes do not matter.
    fn team(&self) -> Option<&Team>;
}

/// Type and size of a matrix as it will lie in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixShape {
    pub(crate) ty: ElementType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Packs for the kernels.
pub(crate) struct Repack<'a>(pub(crate) &'a Team);

impl Pack for Repack<'_> {
    type Matrix = Matrix;

    fn pack(&self, shape: MatrixShape, bytes: &[u8], bias: Option<Vec<f32>>) -> Result<Matrix, String> {
        let MatrixShape { ty, rows, cols } = shape;
        let matrix = Matrix::pack(self.0, ty, bytes, rows, cols).map_err(|e| e.to_string())?;
        Ok(match bias {
            Some(bias) => matrix.with_bias(bias),
            None => matrix,
        })
    }

    fn team(&self) -> Option<&Team> {
        Some(self.0)
    }
}

/// Keeps the shapes only.
pub(crate) struct Measure;

impl Pack for Measure {
    type Matrix = MatrixShape;

    fn pack(&self, shape: MatrixShape, _: &[u8], _: Option<Vec<f32>>) -> Result<MatrixShape, String> {
        Ok(shape)
    }

    fn team(&self) -> Option<&Team> {
        None
    }
}

/// Loads the weights that `config` describes.
///
/// # Errors
/// A tensor that is missing, has another shape than the configuration says, or cannot be packed.
pub(crate) fn load<P: Pack>(
    source: &Source,
    config: &Config,
    precision: Precision,
    pack: &P,
) -> Result<Weights<P::Matrix>> {
    let names = &config.names;
    let embedding_of = |prefix: &&&str| source.has(&format!("{prefix}{}.weight", names.embedding));
    let prefix = names.prefixes.iter().find(embedding_of).copied().unwrap_or(names.prefixes[0]);
    let loader = Loader { source, config, precision, pack, prefix };
    let embedding_name = format!("{prefix}{}", names.embedding);
    // The largest matrix first: two copies of it are in memory while nothing else is.
    let embedding = loader.matrix(&embedding_name, config.vocab, config.hidden, Presence::No)?;
    let head = loader.head()?;
    let layer = |i| loader.layer(i);
    Ok(Weights {
        embedding,
        head,
        final_norm: loader.norm(&format!("{prefix}{}.weight", names.final_norm), config.hidden)?,
        layers: (0..config.layers.len()).map(layer).collect::<Result<_>>()?,
    })
}

struct Loader<'a, P: Pack> {
    source: &'a Source,
    config: &'a Config,
    precision: Precision,
    pack: &'a P,
    prefix: &'static str,
}

impl<P: Pack> Loader<'_, P> {
    fn head(&self) -> Result<Option<P::Matrix>> {
        let names = self.config.names.heads;
        let name = names.iter().find(|name| self.source.has(&format!("{name}.weight")));
        let name = match (self.config.head, name) {
            (Head::Tied, _) | (Head::OwnIfPresent, None) => return Ok(None),
            (_, name) => name.unwrap_or(&names[0]),
        };
        self.matrix(name, self.config.vocab, self.config.hidden, Presence::No).map(Some)
    }

    fn layer(&self, index: usize) -> Result<Layer<P::Matrix>> {
        let layer = &self.config.layers[index];
        let names = &self.config.names;
        let name = |suffix: &str| format!("{}{}{index}.{suffix}", self.prefix, names.layer);
        let hidden = self.config.hidden;
        let norm = |suffix: &str| self.norm(&format!("{}.weight", name(suffix)), hidden);
        let post_norm = |suffix: &str| layer.post_norms.then(|| norm(suffix)).transpose();
        Ok(Layer {
            attention: self.attention(
                &layer.attention,
                &name,
                NormWeights {
                    before: norm(names.attention_norm)?,
                    after: post_norm(names.attention_post_norm)?,
                },
            )?,
            mlp: self.mlp(
                &layer.mlp,
                &name,
                NormWeights { before: norm(names.mlp_norm)?, after: post_norm(names.mlp_post_norm)? },
            )?,
        })
    }

    fn attention(
        &self,
        a: &AttentionConfig,
        name: &dyn Fn(&str) -> String,
        norms: NormWeights,
    ) -> Result<Attention<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.hidden);
        let head_norm = |suffix: &str| {
            a.qk_norm.then(|| self.norm(&format!("{}.weight", name(suffix)), a.k_dim)).transpose()
        };
        Ok(Attention {
            norms,
            q: self.matrix(&name(names.q), a.q_width(), hidden, a.qkv_bias)?,
            k: self.matrix(&name(names.k), a.kv_heads * a.k_dim, hidden, a.qkv_bias)?,
            v: self.matrix(&name(names.v), a.kv_heads * a.v_dim, hidden, a.qkv_bias)?,
            o: self.matrix(&name(names.o), hidden, a.out_width(), a.out_bias)?,
            q_norm: head_norm(names.q_norm)?,
            k_norm: head_norm(names.k_norm)?,
            sinks: a.sinks.then(|| self.vector(&name(names.sinks), &[a.heads])).transpose()?,
        })
    }

    fn mlp(
        &self,
        mlp: &MlpConfig,
        name: &dyn Fn(&str) -> String,
        norms: NormWeights,
    ) -> Result<Mlp<P::Matrix>> {
        let (names, hidden) = (&self.config.names, self.config.hidden);
        let kind = match mlp.experts {
            None => MlpKind::Dense(Gated {
                gate: self.matrix(&name(names.gate), mlp.width, hidden, mlp.bias)?,
                up: self.matrix(&name(names.up), mlp.width, hidden, mlp.bias)?,
                down: self.matrix(&name(names.down), hidden, mlp.width, mlp.bias)?,
            }),
            Some(experts) => MlpKind::Experts(Experts {
                router: self.router(&name(names.router), experts)?,
                experts: self.experts(mlp, experts.count, name)?,
            }),
        };
        Ok(Mlp { norms, kind })
    }

    /// Routers keep their precision: a rounded one would choose other experts.
    fn router(&self, name: &str, experts: ExpertsConfig) -> Result<P::Matrix> {
        let exact = match self.precision {
            Precision::Quantize(_) => Precision::AsStored,
            other => other,
        };
        let loader = Loader { precision: exact, ..*self };
        loader.matrix(name, experts.count, self.config.hidden, experts.router_bias.into())
    }

    fn experts(
        &self,
        mlp: &MlpConfig,
        count: usize,
        name: &dyn Fn(&str) -> String,
    ) -> Result<Vec<Gated<P::Matrix>>> {
        let (hidden, width) = (self.config.hidden, mlp.width);
        match self.config.names.experts {
            ExpertNames::Each { experts, gate, up, down } => (0..count)
                .map(|e| {
                    let name = |part: &str| name(&format!("{experts}{e}.{part}"));
                    Ok(Gated {
                        gate: self.matrix(&name(gate), width, hidden, mlp.bias)?,
                        up: self.matrix(&name(up), width, hidden, mlp.bias)?,
                        down: self.matrix(&name(down), hidden, width, mlp.bias)?,
                    })
                })
                .collect(),
            ExpertNames::Stacked { gate, up, down } => {
                let gates = self.stacked(&name(gate), count, width, hidden, mlp.bias)?;
                let ups = self.stacked(&name(up), count, width, hidden, mlp.bias)?;
                let downs = self.stacked(&name(down), count, hidden, width, mlp.bias)?;
                let parts = gates.into_iter().zip(ups).zip(downs);
                Ok(parts.map(|((gate, up), down)| Gated { gate, up, down }).collect())
            }
            ExpertNames::Alternating { gate_up, down } => {
                self.alternating(&name(gate_up), &name(down), count, width)
            }
        }
    }

    /// `{name}.weight` `[count, rows, cols]` and `{name}.bias` `[count, rows]`.
    fn stacked(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
        bias: Presence,
    ) -> Result<Vec<P::Matrix>> {
        let bias = self.optional_vector(&format!("{name}.bias"), &[count, rows], bias)?;
        let name = format!("{name}.weight");
        let tensor = self.tensor(&name, &[count, rows, cols])?;
        let size = tensor.bytes.len() / count;
        let matrices = (0..count).map(|e| {
            let bias = bias.as_ref().map(|bias| bias[e * rows..][..rows].to_vec());
            let shape = MatrixShape { ty: tensor.ty, rows, cols };
            self.pack(&name, shape, &tensor.bytes[e * size..][..size], bias)
        });
        let matrices = matrices.collect::<Result<_>>()?;
        self.source.release(&name);
        Ok(matrices)
    }

    /// Experts whose gate and up rows alternate in one tensor, as floats `[in, out]` or as MXFP4.
    fn alternating(
        &self,
        gate_up: &str,
        down: &str,
        count: usize,
        width: usize,
    ) -> Result<Vec<Gated<P::Matrix>>> {
        let hidden = self.config.hidden;
        let gate_up_bias = self.vector(&format!("{gate_up}_bias"), &[count, 2 * width])?;
        let down_bias = self.vector(&format!("{down}_bias"), &[count, hidden])?;
        let gate_up_rows = ExpertRows::open(self, gate_up, count, 2 * width, hidden)?;
        let down_rows = ExpertRows::open(self, down, count, hidden, width)?;
        let experts = (0..count).map(|e| {
            let half = |first: usize| {
                let bias = gate_up_bias[e * 2 * width..][..2 * width].iter().skip(first).step_by(2);
                self.expert(&gate_up_rows, gate_up, e, width, |row| 2 * row + first, bias.copied().collect())
            };
            Ok(Gated {
                gate: half(0)?,
                up: half(1)?,
                down: self.expert(
                    &down_rows,
                    down,
                    e,
                    hidden,
                    |row| row,
                    down_bias[e * hidden..][..hidden].to_vec(),
                )?,
            })
        });
        let experts = experts.collect::<Result<_>>()?;
        for name in [gate_up, down] {
            ["", "_blocks", "_scales"].iter().for_each(|end| self.source.release(&format!("{name}{end}")));
        }
        Ok(experts)
    }

    /// Packs `rows` rows of expert `e`, the `r`-th being stored row `stored(r)`.
    fn expert(
        &self,
        tensor: &ExpertRows<'_>,
        name: &str,
        e: usize,
        rows: usize,
        stored: impl Fn(usize) -> usize + Sync,
        bias: Vec<f32>,
    ) -> Result<P::Matrix> {
        let shape = MatrixShape { ty: tensor.ty(), rows, cols: tensor.cols };
        let Some(team) = self.pack.team() else { return self.pack(name, shape, &[], Some(bias)) };
        let row_bytes = shape
            .ty
            .row_bytes(shape.cols)
            .ok_or_else(|| self.fault(name, "has rows that are no whole number of blocks"))?;
        let mut bytes = vec![0; rows * row_bytes];
        par_rows(team, (&mut bytes, row_bytes), (&mut [] as &mut [u8], 0), |row, out, _| {
            tensor.row(e, stored(row), out);
        });
        self.pack(name, shape, &bytes, Some(bias))
    }

    /// `{name}.weight` `[rows, cols]` with `{name}.bias` `[rows]`.
    fn matrix(&self, name: &str, rows: usize, cols: usize, bias: Presence) -> Result<P::Matrix> {
        let bias = self.optional_vector(&format!("{name}.bias"), &[rows], bias)?;
        let name = format!("{name}.weight");
        let tensor = self.tensor(&name, &[rows, cols])?;
        let matrix = self.pack(&name, MatrixShape { ty: tensor.ty, rows, cols }, tensor.bytes, bias)?;
        self.source.release(&name);
        Ok(matrix)
    }

    /// Converts to the precision asked for and packs.
    fn pack(
        &self,
        name: &str,
        stored: MatrixShape,
        bytes: &[u8],
        bias: Option<Vec<f32>>,
    ) -> Result<P::Matrix> {
        let ty = match self.precision {
            Precision::Float if stored.ty.is_quantized() => ElementType::F32,
            Precision::Quantize(wanted) if !stored.ty.is_quantized() => fitting(wanted, stored),
            _ => stored.ty,
        };
        let shape = MatrixShape { ty, ..stored };
        let packed = match self.pack.team() {
            Some(team) if ty != stored.ty => {
                let converted = convert(team, stored, bytes, ty)
                    .ok_or_else(|| self.fault(name, "cannot be converted"))?;
                self.pack.pack(shape, &converted, bias)
            }
            _ => self.pack.pack(shape, bytes, bias),
        };
        packed.map_err(|what| self.fault(name, &format!("cannot be packed: {what}")))
    }

    /// A norm's weights, as factors.
    fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let mut weights = self.vector(name, &[len])?;
        weights.iter_mut().for_each(|w| *w += self.config.norm_offset);
        Ok(weights)
    }

    fn optional_vector(&self, name: &str, shape: &[usize], presence: Presence) -> Result<Option<Vec<f32>>> {
        let wanted = match presence {
            Presence::No => false,
            Presence::Yes => true,
            Presence::IfPresent => self.source.has(name),
        };
        wanted.then(|| self.vector(name, shape)).transpose()
    }

    fn vector(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, shape)?;
        let mut values = vec![0.0; shape.iter().product()];
        quant::dequantize(tensor.ty, tensor.bytes, &mut values)
            .map_err(|e| self.fault(name, &e.to_string()))?;
        Ok(values)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<crate::formats::TensorView<'_>> {
        let Some(tensor) = self.source.tensor(name)? else {
            return Err(
                self.fault(name, "is missing: the file is incomplete, or of another kind than it says")
            );
        };
        if tensor.shape != shape {
            let what = format!("has the shape {:?}, expected {shape:?} from the configuration", tensor.shape);
            return Err(self.fault(name, &what));
        }
        Ok(tensor)
    }

    fn fault(&self, name: &str, what: &str) -> Error {
        Error::format(self.source.path(), format!("tensor `{name}` {what}"))
    }
}

/// The type that weights are quantised to: the one wanted if its blocks fit the rows, else one with
/// short blocks and no fewer bits, else what is stored.
fn fitting(wanted: ElementType, stored: MatrixShape) -> ElementType {
    let fits = |ty: &ElementType| ty.row_bytes(stored.cols).is_some();
    [wanted, ElementType::Q8_0].into_iter().find(fits).unwrap_or(stored.ty)
}

/// Re-encodes `[rows, cols]` weights row by row; `None` if sizes do not fit.
fn convert(team: &Team, stored: MatrixShape, bytes: &[u8], ty: ElementType) -> Option<Vec<u8>> {
    let (from, to) = (stored.ty.row_bytes(stored.cols)?, ty.row_bytes(stored.cols)?);
    if bytes.len() != from.checked_mul(stored.rows)? {
        return None;
    }
    let mut out = vec![0; to.checked_mul(stored.rows)?];
    par_rows(team, (&mut out, to), (&mut [] as &mut [u8], 0), |row, out, _| {
        let mut values = vec![0.0; stored.cols];
        let mut encoded = Vec::with_capacity(to);
        let source = &bytes[row * from..][..from];
        // Sizes were checked above, so neither step can fail.
        if quant::dequantize(stored.ty, source, &mut values).is_err() {
            return;
        }
        if ty == ElementType::F32 {
            encoded.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        } else if quant::quantize(ty, &values, &mut encoded).is_err() {
            return;
        }
        out.copy_from_slice(&encoded);
    });
    Some(out)
}

/// A tensor of experts whose rows must be gathered.
struct ExpertRows<'a> {
    rows: usize,
    cols: usize,
    data: ExpertData<'a>,
}

enum ExpertData<'a> {
    /// `[experts, cols, rows]`.
    Columns { ty: ElementType, bytes: &'a [u8] },
    /// `[experts, rows, cols / 32]` blocks of 16 bytes, and a scale for each.
    Mxfp4 { blocks: &'a [u8], scales: &'a [u8] },
}

impl<'a> ExpertRows<'a> {
    fn open<P: Pack>(
        loader: &'a Loader<'_, P>,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        let (blocks_name, scales_name) = (format!("{name}_blocks"), format!("{name}_scales"));
        let Some(blocks) = loader.source.raw(&blocks_name) else {
            let tensor = loader.tensor(name, &[count, cols, rows])?;
            if tensor.ty.is_quantized() {
                return Err(
                    loader.fault(name, &format!("has the type {}, expected floats", tensor.ty.name()))
                );
            }
            return Ok(Self { rows, cols, data: ExpertData::Columns { ty: tensor.ty, bytes: tensor.bytes } });
        };
        let per_row = cols / 32;
        let Some(scales) = loader.source.raw(&scales_name) else {
            return Err(loader.fault(&scales_name, "is missing, but its blocks are there"));
        };
        for (name, tensor, shape) in [
            (&blocks_name, &blocks, &[count, rows, per_row, 16][..]),
            (&scales_name, &scales, &[count, rows, per_row][..]),
        ] {
            if tensor.dtype != Dtype::U8 || tensor.shape != shape || !cols.is_multiple_of(32) {
                let what = format!("is {:?} {:?}, expected U8 {shape:?}", tensor.dtype, tensor.shape);
                return Err(loader.fault(name, &what));
            }
        }
        Ok(Self { rows, cols, data: ExpertData::Mxfp4 { blocks: blocks.bytes, scales: scales.bytes } })
    }

    fn ty(&self) -> ElementType {
        match self.data {
            ExpertData::Columns { ty, .. } => ty,
            ExpertData::Mxfp4 { .. } => ElementType::Mxfp4,
        }
    }

    /// Writes row `row` of expert `e` as one row of type [`ty`](Self::ty).
    fn row(&self, e: usize, row: usize, out: &mut [u8]) {
        match self.data {
            ExpertData::Columns { ty, bytes } => {
                let size = ty.block_bytes();
                for (col, out) in out.chunks_exact_mut(size).enumerate() {
                    let at = ((e * self.cols + col) * self.rows + row) * size;
                    out.copy_from_slice(&bytes[at..at + size]);
                }
            }
            ExpertData::Mxfp4 { blocks, scales } => {
                let per_row = self.cols / 32;
                let first = (e * self.rows + row) * per_row;
                let mut encoded = Vec::with_capacity(out.len());
                let blocks = &blocks[first * 16..][..per_row * 16];
                // As many blocks as scales, so this cannot fail.
                if mxfp4_from_pairs(blocks, &scales[first..][..per_row], &mut encoded).is_ok() {
                    out.copy_from_slice(&encoded);
                }
            }
        }
    }
}
