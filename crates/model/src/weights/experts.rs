//! The experts of a layer, in the layouts that files have them.

use super::Loader;
use super::pack::{MatrixShape, Pack};
use super::tensors::Tensors;
use crate::Result;
use crate::config::{ExpertNames, MlpConfig, Presence};
use crate::layers::Gated;
use crate::load::Source;
use leveret_kernels::quant::mxfp4_from_pairs;
use leveret_kernels::{ElementType, par_rows};
use safetensors::Dtype;

impl<P: Pack> Loader<'_, P> {
    pub(super) fn experts(
        &self,
        mlp: &MlpConfig,
        count: usize,
        name: &dyn Fn(&str) -> String,
    ) -> Result<Vec<Gated<P::Matrix>>> {
        let (hidden, width) = (self.config.hidden, mlp.width);
        match ExpertNames::found(self.config.names.experts, |suffix| self.tensors.source.has(&name(suffix))) {
            ExpertNames::Each { experts, gate, up, down } => (0..count)
                .map(|e| {
                    let name = |part: &str| name(&format!("{experts}{e}.{part}"));
                    Ok(Gated {
                        gate: self.tensors.matrix(&name(gate), width, hidden, mlp.bias)?,
                        up: self.tensors.matrix(&name(up), width, hidden, mlp.bias)?,
                        down: self.tensors.matrix(&name(down), hidden, width, mlp.bias)?,
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
            ExpertNames::Fused { gate_up, down } => self.fused(&name(gate_up), &name(down), count, width),
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
        let bias = self.tensors.optional_vector(&format!("{name}.bias"), &[count, rows], bias)?;
        let name = format!("{name}.weight");
        let tensor = self.tensors.tensor(&name, &[count, rows, cols])?;
        let size = tensor.bytes.len() / count;
        let matrices = (0..count).map(|e| {
            let bias = bias.as_ref().map(|bias| bias[e * rows..][..rows].to_vec());
            let shape = MatrixShape { ty: tensor.ty, rows, cols };
            self.tensors.pack(&name, shape, &tensor.bytes[e * size..][..size], bias)
        });
        let matrices = matrices.collect::<Result<_>>()?;
        self.tensors.source.release(&name);
        Ok(matrices)
    }

    /// `gate_up` `[count, 2 * width, hidden]`, gate rows first, and `down` `[count, hidden, width]`.
    fn fused(&self, gate_up: &str, down: &str, count: usize, width: usize) -> Result<Vec<Gated<P::Matrix>>> {
        let hidden = self.config.hidden;
        let inner = self.tensors.tensor(gate_up, &[count, 2 * width, hidden])?;
        let outer = self.tensors.tensor(down, &[count, hidden, width])?;
        let (half, whole) = (inner.bytes.len() / (2 * count), outer.bytes.len() / count);
        let (rows, cols) = (width, hidden);
        let gate_or_up = |place: usize| {
            let bytes = &inner.bytes[place * half..][..half];
            self.tensors.pack(gate_up, MatrixShape { ty: inner.ty, rows, cols }, bytes, None)
        };
        let expert = |e: usize| {
            let bytes = &outer.bytes[e * whole..][..whole];
            Ok(Gated {
                gate: gate_or_up(2 * e)?,
                up: gate_or_up(2 * e + 1)?,
                down: self.tensors.pack(
                    down,
                    MatrixShape { ty: outer.ty, rows: hidden, cols: width },
                    bytes,
                    None,
                )?,
            })
        };
        let experts = (0..count).map(expert).collect::<Result<_>>()?;
        [gate_up, down].iter().for_each(|name| self.tensors.source.release(name));
        Ok(experts)
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
        let gate_up_bias = self.tensors.vector(&format!("{gate_up}_bias"), &[count, 2 * width])?;
        let down_bias = self.tensors.vector(&format!("{down}_bias"), &[count, hidden])?;
        let gate_up_rows = ExpertRows::open(self.tensors.source, gate_up, count, 2 * width, hidden)?;
        let down_rows = ExpertRows::open(self.tensors.source, down, count, hidden, width)?;
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
            ["", "_blocks", "_scales"]
                .iter()
                .for_each(|end| self.tensors.source.release(&format!("{name}{end}")));
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
        let Some(team) = self.tensors.pack.team() else {
            return self.tensors.pack(name, shape, &[], Some(bias));
        };
        let row_bytes = shape
            .ty
            .row_bytes(shape.cols)
            .ok_or_else(|| self.tensors.fault(name, "has rows that are no whole number of blocks"))?;
        let mut bytes = vec![0; rows * row_bytes];
        par_rows(team, (&mut bytes, row_bytes), (&mut [] as &mut [u8], 0), |row, out, _| {
            tensor.row(e, stored(row), out);
        });
        self.tensors.pack(name, shape, &bytes, Some(bias))
    }
}

/// A tensor of experts whose rows must be gathered.
pub(crate) struct ExpertRows<'a> {
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
    /// Opens `name`, of `count` experts with `rows` rows of `cols` values.
    ///
    /// # Errors
    /// It is missing, or of another type or shape.
    pub(crate) fn open(
        source: &'a Source,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        let tensors = Tensors::plain(source);
        let (blocks_name, scales_name) = (format!("{name}_blocks"), format!("{name}_scales"));
        let Some(blocks) = source.raw(&blocks_name) else {
            tensors.tensor(name, &[count, cols, rows])?;
            let tensor = source.tensor(name)?.ok_or_else(|| tensors.fault(name, "is missing"))?;
            if tensor.ty.is_quantized() {
                return Err(
                    tensors.fault(name, &format!("has the type {}, expected floats", tensor.ty.name()))
                );
            }
            return Ok(Self { rows, cols, data: ExpertData::Columns { ty: tensor.ty, bytes: tensor.bytes } });
        };
        let per_row = cols / 32;
        let Some(scales) = source.raw(&scales_name) else {
            return Err(tensors.fault(&scales_name, "is missing, but its blocks are there"));
        };
        for (name, tensor, shape) in [
            (&blocks_name, &blocks, &[count, rows, per_row, 16][..]),
            (&scales_name, &scales, &[count, rows, per_row][..]),
        ] {
            if tensor.dtype != Dtype::U8 || tensor.shape != shape || !cols.is_multiple_of(32) {
                let what = format!("is {:?} {:?}, expected U8 {shape:?}", tensor.dtype, tensor.shape);
                return Err(tensors.fault(name, &what));
            }
        }
        Ok(Self { rows, cols, data: ExpertData::Mxfp4 { blocks: blocks.bytes, scales: scales.bytes } })
    }

    /// The type of [`row`](Self::row).
    pub(crate) fn ty(&self) -> ElementType {
        match self.data {
            ExpertData::Columns { ty, .. } => ty,
            ExpertData::Mxfp4 { .. } => ElementType::Mxfp4,
        }
    }

    /// Writes row `row` of expert `e` as one row of type [`ty`](Self::ty).
    pub(crate) fn row(&self, e: usize, row: usize, out: &mut [u8]) {
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
