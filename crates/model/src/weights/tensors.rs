//! Tensors by name: presence and shape checked, converted to the precision asked for, their file
//! pages given back once they are repacked.

use super::Precision;
use super::pack::{MatrixShape, Measure, Pack, convert, fitting};
use crate::config::Presence;
use crate::formats::TensorView;
use crate::load::Source;
use crate::{Error, Result};
use leveret_kernels::quant;
use leveret_kernels::{ElementType, par_rows};

/// The stored row that a row in memory is.
pub(crate) type Place<'a> = &'a (dyn Fn(usize) -> usize + Sync);

/// The tensors of one model's files, and what is to become of them.
#[derive(Debug)]
pub(crate) struct Tensors<'a, P> {
    pub(crate) source: &'a Source,
    pub(crate) precision: Precision,
    /// Added to every stored norm weight.
    pub(crate) norm_offset: f32,
    pub(crate) pack: &'a P,
}

impl<'a> Tensors<'a, Measure> {
    /// To look at tensors that are not loaded.
    pub(crate) fn plain(source: &'a Source) -> Self {
        Self { source, precision: Precision::AsStored, norm_offset: 0.0, pack: &Measure }
    }
}

impl<P: Pack> Tensors<'_, P> {
    /// `{name}.weight` `[rows, cols]` with `{name}.bias` `[rows]`.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize, bias: Presence) -> Result<P::Matrix> {
        self.reordered(name, rows, cols, bias, None)
    }

    /// As [`matrix`](Self::matrix), row `r` being stored row `place(r)`.
    pub(crate) fn reordered(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        bias: Presence,
        place: Option<Place<'_>>,
    ) -> Result<P::Matrix> {
        let bias = self.optional_vector(&format!("{name}.bias"), &[rows], bias)?;
        let bias = match place {
            Some(place) => bias.map(|bias| (0..rows).map(|row| bias[place(row)]).collect()),
            None => bias,
        };
        if let Some(matrix) = self.fp8(name, rows, cols, &bias, place)? {
            return Ok(matrix);
        }
        let name = format!("{name}.weight");
        let tensor = self.tensor(&name, &[rows, cols])?;
        let shape = MatrixShape { ty: tensor.ty, rows, cols };
        let matrix = match place {
            Some(place) => {
                self.pack(&name, shape, &self.gathered(&name, shape, tensor.bytes, place)?, bias)?
            }
            None => self.pack(&name, shape, tensor.bytes, bias)?,
        };
        self.source.release(&name);
        Ok(matrix)
    }

    /// Rows `place(0)`, `place(1)`, … of `bytes`; nothing where bytes do not matter.
    fn gathered(&self, name: &str, shape: MatrixShape, bytes: &[u8], place: Place<'_>) -> Result<Vec<u8>> {
        let Some(team) = self.pack.team() else { return Ok(Vec::new()) };
        let row = shape.ty.row_bytes(shape.cols);
        let row = row.ok_or_else(|| self.fault(name, "has rows that are no whole number of blocks"))?;
        let mut gathered = vec![0; shape.rows * row];
        par_rows(team, (&mut gathered, row), (&mut [] as &mut [u8], 0), |r, out, _| {
            out.copy_from_slice(&bytes[place(r) * row..][..row]);
        });
        Ok(gathered)
    }

    /// `{name}.weight` `[rows, groups * width]`, group `g` of the columns being stored group `place(g)`; and whether they
    /// are left as they are stored instead, where blocks reach across groups.
    pub(crate) fn columns(
        &self,
        name: &str,
        rows: usize,
        (groups, width): (usize, usize),
        place: Option<Place<'_>>,
    ) -> Result<(P::Matrix, bool)> {
        let full = format!("{name}.weight");
        let tensor = self.tensor(&full, &[rows, groups * width])?;
        let parts = MatrixShape { ty: tensor.ty, rows: rows * groups, cols: width };
        let Some(place) = place.filter(|_| tensor.ty.row_bytes(width).is_some()) else {
            return Ok((self.matrix(name, rows, groups * width, Presence::No)?, place.is_some()));
        };
        let part = |part: usize| part / groups * groups + place(part % groups);
        let gathered = self.gathered(&full, parts, tensor.bytes, &part)?;
        let shape = MatrixShape { rows, cols: groups * width, ..parts };
        let matrix = self.pack(&full, shape, &gathered, None)?;
        self.source.release(&full);
        Ok((matrix, false))
    }

    /// `rows` rows of `{name}.weight` `[stored, cols]`, the `r`-th being stored row `pick(r)`. The
    /// tensor's pages are left to be given back when all its parts are packed.
    pub(crate) fn picked(
        &self,
        name: &str,
        (stored, cols): (usize, usize),
        rows: usize,
        pick: impl Fn(usize) -> usize + Sync,
    ) -> Result<P::Matrix> {
        let name = format!("{name}.weight");
        let tensor = self.tensor(&name, &[stored, cols])?;
        let shape = MatrixShape { ty: tensor.ty, rows, cols };
        self.pack(&name, shape, &self.gathered(&name, shape, tensor.bytes, &pick)?, None)
    }

    /// `{name}.weight` as a matrix of one row of `cols`; files may leave the dimension of one out.
    pub(crate) fn row(&self, name: &str, cols: usize) -> Result<P::Matrix> {
        let full = format!("{name}.weight");
        let flat = self.source.tensor(&full)?.is_some_and(|tensor| tensor.shape.len() == 1);
        let shape: &[usize] = if flat { &[cols] } else { &[1, cols] };
        let tensor = self.tensor(&full, shape)?;
        self.pack(&full, MatrixShape { ty: tensor.ty, rows: 1, cols }, tensor.bytes, None)
    }

    /// These tensors in the precision of the file, or exact floats: for the few small matrices whose
    /// rounding would show.
    pub(crate) fn unrounded(&self) -> Self {
        let precision = match self.precision {
            Precision::Quantize(_) => Precision::AsStored,
            other => other,
        };
        Self { precision, ..*self }
    }

    /// Converts to the precision asked for and packs.
    pub(crate) fn pack(
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
                let converted = convert(team, stored, bytes, ty).map_err(|what| self.fault(name, &what))?;
                self.pack.pack(shape, &converted, bias)
            }
            _ => self.pack.pack(shape, bytes, bias),
        };
        packed.map_err(|what| self.fault(name, &format!("cannot be packed: {what}")))
    }

    /// A norm's weights, as factors.
    pub(crate) fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let mut weights = self.vector(name, &[len])?;
        weights.iter_mut().for_each(|w| *w += self.norm_offset);
        Ok(weights)
    }

    pub(crate) fn optional_vector(
        &self,
        name: &str,
        shape: &[usize],
        presence: Presence,
    ) -> Result<Option<Vec<f32>>> {
        let wanted = match presence {
            Presence::No => false,
            Presence::Yes => true,
            Presence::IfPresent => self.source.has(name),
        };
        wanted.then(|| self.vector(name, shape)).transpose()
    }

    pub(crate) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, shape)?;
        let mut values = vec![0.0; shape.iter().product()];
        quant::dequantize(tensor.ty, tensor.bytes, &mut values)
            .map_err(|e| self.fault(name, &e.to_string()))?;
        Ok(values)
    }

    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
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

    pub(crate) fn fault(&self, name: &str, what: &str) -> Error {
        Error::format(self.source.path(), format!("tensor `{name}` {what}"))
    }
}
