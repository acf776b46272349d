//! A tensor of the new file: name, shape and type there, and what its values are made of.

use crate::formats::TensorView;
use crate::formats::safetensors::Dtype;
use crate::load::Source;
use crate::weights::{ExpertRows, MatrixShape, convert, fp8};
use crate::{Error, Result};
use leveret_kernels::{ElementType, Team, quant};
use std::borrow::Cow;
use std::path::Path;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// In the new file.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) ty: Storage,
    pub(super) origin: Origin,
}

/// Type in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Storage {
    Floats(ElementType),
    Integers(Dtype),
}

/// Where its values come from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// The original has them in its configuration.
    Values(Vec<f32>),
    /// Integers, as they are to be written.
    Integers(Vec<u8>),
    /// A tensor of integers, as it is.
    Copy(String),
    Rows(Rows),
    /// A matrix of every expert from a tensor of gpt-oss: of its `rows` rows of `cols` values, those
    /// from `first` on in steps of `step`.
    Alternating {
        name: String,
        experts: usize,
        rows: usize,
        cols: usize,
        first: usize,
        step: usize,
    },
}

/// Rows of tensors, which are counted through.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Rows {
    pub(super) tensors: Vec<String>,
    /// The original row of each row; of vectors, element. All in order where absent.
    pub(super) order: Option<Vec<usize>>,
    /// The original column of each column; all in order where absent.
    pub(super) columns: Option<Vec<usize>>,
    pub(super) change: Change,
}

/// What becomes of each value.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) enum Change {
    #[default]
    None,
    Add(f32),
    /// A logarithm of a decay rate becomes the rate, negative.
    Rate,
}

impl Rows {
    /// All rows of one tensor.
    pub(super) fn of(tensor: impl Into<String>) -> Self {
        Self { tensors: vec![tensor.into()], ..Self::default() }
    }
}

impl Planned {
    pub(super) fn integers(name: &str, shape: Vec<usize>, dtype: Dtype, bytes: Vec<u8>) -> Self {
        let origin = Origin::Integers(bytes);
        Self { name: name.into(), shape, ty: Storage::Integers(dtype), origin }
    }

    /// Whether reading the description of the model needs its values.
    pub(super) fn is_described(&self) -> bool {
        matches!(self.origin, Origin::Values(_) | Origin::Integers(_))
    }

    /// Its data.
    pub(super) fn bytes<'a>(&'a self, source: &'a Source, team: &Team) -> Result<Cow<'a, [u8]>> {
        match (&self.origin, self.ty) {
            (Origin::Values(values), _) => Ok(Cow::Owned(to_bytes(values))),
            (Origin::Integers(bytes), _) => Ok(Cow::Borrowed(bytes)),
            (Origin::Copy(name), _) => {
                Ok(Cow::Borrowed(source.raw(name).ok_or_else(|| missing(source, name))?.bytes))
            }
            (Origin::Rows(rows), Storage::Floats(ty)) => rows.bytes(source, team, ty),
            (Origin::Alternating { .. }, Storage::Floats(ty)) => self.alternating(source, team, ty),
            (_, Storage::Integers(_)) => Err(fault(source, &self.name, "holds no integers")),
        }
    }

    fn alternating(&self, source: &Source, team: &Team, ty: ElementType) -> Result<Cow<'_, [u8]>> {
        let Origin::Alternating { name, experts, rows, cols, first, step } = &self.origin else {
            return Err(missing(source, &self.name));
        };
        let stored = ExpertRows::open(source, name, *experts, *rows, *cols)?;
        let size = stored.ty().row_bytes(*cols).ok_or_else(|| fault(source, name, BROKEN))?;
        let picked = (0..*experts).flat_map(|e| (*first..*rows).step_by(*step).map(move |row| (e, row)));
        let picked: Vec<(usize, usize)> = picked.collect();
        let mut bytes = vec![0; picked.len() * size];
        for (out, (expert, row)) in bytes.chunks_exact_mut(size).zip(&picked) {
            stored.row(*expert, *row, out);
        }
        let shape = MatrixShape { ty: stored.ty(), rows: picked.len(), cols: *cols };
        if ty == shape.ty {
            return Ok(Cow::Owned(bytes));
        }
        convert(team, shape, &bytes, ty).map(Cow::Owned).map_err(|what| fault(source, name, &what))
    }

    /// Gives the pages of the original back.
    pub(super) fn release(&self, source: &Source) {
        match &self.origin {
            Origin::Rows(rows) => rows.tensors.iter().for_each(|name| source.release(name)),
            Origin::Alternating { name, .. } => {
                ["", "_blocks", "_scales"].iter().for_each(|end| source.release(&format!("{name}{end}")));
            }
            _ => {}
        }
    }
}

/// What is said of a tensor whose rows cannot be told apart.
const BROKEN: &str = "has rows that are no whole number of blocks";

impl Rows {
    fn bytes<'a>(&self, source: &'a Source, team: &Team, ty: ElementType) -> Result<Cow<'a, [u8]>> {
        let name = self.tensors.first().map_or("", String::as_str);
        let (mut shape, mut bytes) = self.joined(source)?;
        if let Some(order) = &self.order {
            let row = shape.ty.row_bytes(shape.cols).ok_or_else(|| fault(source, name, BROKEN))?;
            let rows: Option<Vec<&[u8]>> = order.iter().map(|&i| bytes.get(i * row..(i + 1) * row)).collect();
            bytes = Cow::Owned(rows.ok_or_else(|| fault(source, name, "has too few rows"))?.concat());
            shape.rows = order.len();
        }
        if let Some(columns) = &self.columns {
            if shape.ty.block_len() != 1 {
                return Err(fault(source, name, "is quantised, so that its columns cannot be reordered"));
            }
            let size = shape.ty.block_bytes();
            let values = bytes.chunks_exact(shape.cols * size).flat_map(|row| {
                columns.iter().flat_map(move |&i| row.get(i * size..(i + 1) * size).unwrap_or_default())
            });
            bytes = Cow::Owned(values.copied().collect());
            shape.cols = columns.len();
        }
        if self.change != Change::None {
            let mut values = vec![0.0f32; shape.rows * shape.cols];
            quant::dequantize(shape.ty, &bytes, &mut values)
                .map_err(|error| fault(source, name, &error.to_string()))?;
            for value in &mut values {
                match self.change {
                    Change::None => {}
                    Change::Add(offset) => *value += offset,
                    Change::Rate => *value = -value.exp(),
                }
            }
            (shape.ty, bytes) = (ElementType::F32, Cow::Owned(to_bytes(&values)));
        }
        if ty == shape.ty {
            return Ok(bytes);
        }
        convert(team, shape, &bytes, ty).map(Cow::Owned).map_err(|what| fault(source, name, &what))
    }

    /// All tensors one after the other.
    fn joined<'a>(&self, source: &'a Source) -> Result<(MatrixShape, Cow<'a, [u8]>)> {
        let parts = self.tensors.iter().map(|name| Ok((name, floats(source, name)?)));
        let mut parts = parts.collect::<Result<Vec<_>>>()?.into_iter();
        let Some((_, (mut shape, mut bytes))) = parts.next() else {
            return Err(Error::format(source.path(), "a tensor is made of none"));
        };
        // A vector is reordered by its elements.
        if self.order.is_some() && shape.rows == 1 {
            (shape.rows, shape.cols) = (shape.cols, 1);
        }
        for (name, (other, more)) in parts {
            if (other.ty, other.cols) != (shape.ty, shape.cols) {
                return Err(fault(source, name, "has another type or width than its kind before it"));
            }
            bytes.to_mut().extend_from_slice(&more);
            shape.rows += other.rows;
        }
        Ok((shape, bytes))
    }
}

/// A tensor of floats or blocks as rows of its last dimension. 8-bit floats are widened.
fn floats<'a>(source: &'a Source, name: &str) -> Result<(MatrixShape, Cow<'a, [u8]>)> {
    if let Some((shape, bytes)) = fp8::widened(source, name)? {
        return Ok((shape, Cow::Owned(bytes)));
    }
    let tensor = source.tensor(name)?.ok_or_else(|| missing(source, name))?;
    Ok((stored(&tensor), Cow::Borrowed(tensor.bytes)))
}

pub(super) fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A tensor as rows of its last dimension.
pub(super) fn stored(tensor: &TensorView<'_>) -> MatrixShape {
    let (cols, outer) =
        tensor.shape.split_last().map_or((1, &[] as &[usize]), |(&cols, outer)| (cols, outer));
    MatrixShape { ty: tensor.ty, rows: outer.iter().product(), cols }
}

pub(super) fn missing(source: &Source, name: &str) -> Error {
    fault(source, name, "is missing")
}

pub(super) fn missing_in(path: &Path, name: &str) -> Error {
    Error::format(path, format!("tensor `{name}` is missing"))
}

pub(super) fn fault(source: &Source, name: &str, what: &str) -> Error {
    Error::format(source.path(), format!("tensor `{name}` {what}"))
}
