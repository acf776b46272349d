//! Which tensors the new file has, and the bytes of each: names from the tables of both formats,
//! rows in the order and values in the scale that readers of GGUF expect.

use crate::config::{AttentionConfig, Config, Head, Presence, RopeScaling, Rotation, TensorNames};
use crate::formats::TensorView;
use crate::formats::gguf::{Gguf, TypeId, Writer};
use crate::load::Source;
use crate::weights::{MatrixShape, convert, fitting};
use crate::{Error, Result};
use leveret_kernels::{ElementType, Team, quant};
use std::borrow::Cow;
use std::io;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// In the new file.
    pub(super) name: String,
    shape: Vec<usize>,
    ty: Storage,
    origin: Origin,
}

/// Type in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Storage {
    Floats(ElementType),
    Integers(TypeId, usize),
}

/// Where its values come from.
#[derive(Debug, Clone, PartialEq)]
enum Origin {
    /// A tensor of this name, `offset` added to each value.
    Tensor { name: String, pairs: Option<Pairs>, offset: f32 },
    /// Values that the original has in its configuration.
    Values(Vec<f32>),
}

/// Rows to be reordered so that rotated pairs lie side by side, head by head.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pairs {
    head: usize,
    /// Leading rows of a head that are rotated.
    dims: usize,
}

impl Pairs {
    /// The original row that becomes row `row`.
    fn origin(self, row: usize) -> usize {
        let within = row % self.head;
        if within >= self.dims { row } else { row - within + within / 2 + within % 2 * (self.dims / 2) }
    }
}

/// The tensors of a GGUF file, its matrices as `ty`. Routers and convolutions stay as they are:
/// rounding them would show, and they are small.
pub(super) fn of_gguf(gguf: &Gguf, ty: ElementType) -> Result<Vec<Planned>> {
    const KEPT: [&str; 3] = ["ffn_gate_inp", "conv", "rope_freqs"];
    let plan = |name: &str| {
        let origin = Origin::Tensor { name: name.into(), pairs: None, offset: 0.0 };
        if let Some(raw) = gguf.integers(name) {
            let id = super::id_of(gguf, name).unwrap_or(TypeId(0));
            let ty = Storage::Integers(id, raw.bytes.len());
            return Ok(Planned { name: name.into(), shape: raw.shape.into(), ty, origin });
        }
        let Some(tensor) = gguf.tensor(name)? else { return Err(missing(gguf.meta().path(), name)) };
        let matrix = tensor.shape.len() > 1 && name.ends_with(".weight");
        let ty = match matrix && !KEPT.iter().any(|kept| name.contains(kept)) {
            true => fitting(ty, stored(&tensor)),
            false => tensor.ty,
        };
        Ok(Planned { name: name.into(), shape: tensor.shape.into(), ty: Storage::Floats(ty), origin })
    };
    gguf.tensors().map(|tensor| plan(tensor.name)).collect()
}

/// The tensors of a folder whose decoder is `config`; `interleaved` if readers expect the rows of
/// queries and keys so.
pub(super) fn of_folder(
    source: &Source,
    config: &Config,
    interleaved: bool,
    ty: ElementType,
) -> Result<Vec<Planned>> {
    let (from, to) = (&config.names, &TensorNames::GGUF);
    let has_embedding = |prefix: &&&str| source.has(&format!("{prefix}{}.weight", from.embedding));
    let prefix = from.prefixes.iter().find(has_embedding).copied().unwrap_or(from.prefixes[0]);
    let mut plan = Plan { source, ty, planned: divisors(config).into_iter().collect() };
    plan.matrix((&format!("{prefix}{}", from.embedding), to.embedding), None, Presence::No)?;
    let head = from.heads.iter().find(|name| source.has(&format!("{name}.weight")));
    if let (Head::Own | Head::OwnIfPresent, Some(head)) = (config.head, head) {
        plan.matrix((head, to.heads[0]), None, Presence::No)?;
    }
    let offset = config.norm_offset;
    plan.norm((&format!("{prefix}{}", from.final_norm), to.final_norm), offset)?;
    for (i, layer) in config.layers.iter().enumerate() {
        let at =
            |a: &str, b: &str| (format!("{prefix}{}{i}.{a}", from.layer), format!("{}{i}.{b}", to.layer));
        let mut matrix = |a: &str, b: &str, pairs, bias| {
            let (a, b) = at(a, b);
            plan.matrix((&a, &b), pairs, bias)
        };
        let a = &layer.attention;
        let pairs = pairs(a, &config.rotations[a.rotation], interleaved);
        matrix(from.q, to.q, pairs, a.qkv_bias)?;
        matrix(from.k, to.k, pairs, a.qkv_bias)?;
        matrix(from.v, to.v, None, a.qkv_bias)?;
        matrix(from.o, to.o, None, a.out_bias)?;
        matrix(from.gate, to.gate, None, layer.mlp.bias)?;
        matrix(from.up, to.up, None, layer.mlp.bias)?;
        matrix(from.down, to.down, None, layer.mlp.bias)?;
        let norms = [
            (true, from.attention_norm, to.attention_norm),
            (true, from.mlp_norm, to.mlp_norm),
            (a.qk_norm, from.q_norm, to.q_norm),
            (a.qk_norm, from.k_norm, to.k_norm),
            (layer.post_norms, from.attention_post_norm, to.attention_post_norm),
            (layer.post_norms, from.mlp_post_norm, to.mlp_post_norm),
        ];
        for (_, a, b) in norms.into_iter().filter(|(present, ..)| *present) {
            let (a, b) = at(a, b);
            plan.norm((&a, &b), offset)?;
        }
    }
    Ok(plan.planned)
}

struct Plan<'a> {
    source: &'a Source,
    ty: ElementType,
    planned: Vec<Planned>,
}

impl Plan<'_> {
    /// A matrix with its bias.
    fn matrix(&mut self, (from, to): (&str, &str), pairs: Option<Pairs>, bias: Presence) -> Result<()> {
        let weight = format!("{from}.weight");
        let Some(tensor) = self.source.tensor(&weight)? else {
            return Err(missing(self.source.path(), &weight));
        };
        let ty = fitting(self.ty, stored(&tensor));
        self.add(&weight, format!("{to}.weight"), ty, pairs, 0.0)?;
        let name = format!("{from}.bias");
        match bias {
            Presence::No => Ok(()),
            Presence::IfPresent if !self.source.has(&name) => Ok(()),
            _ => self.add(&name, format!("{to}.bias"), ElementType::F32, pairs, 0.0),
        }
    }

    fn norm(&mut self, (from, to): (&str, &str), offset: f32) -> Result<()> {
        self.add(&format!("{from}.weight"), format!("{to}.weight"), ElementType::F32, None, offset)
    }

    fn add(
        &mut self,
        from: &str,
        name: String,
        ty: ElementType,
        pairs: Option<Pairs>,
        offset: f32,
    ) -> Result<()> {
        let Some(tensor) = self.source.tensor(from)? else { return Err(missing(self.source.path(), from)) };
        let origin = Origin::Tensor { name: from.into(), pairs, offset };
        self.planned.push(Planned { name, shape: tensor.shape.into(), ty: Storage::Floats(ty), origin });
        Ok(())
    }
}

fn pairs(a: &AttentionConfig, rotation: &Rotation, interleaved: bool) -> Option<Pairs> {
    (interleaved && !rotation.interleaved).then_some(Pairs { head: a.k_dim, dims: rotation.dims })
}

/// What the frequencies of the first rotation are divided by, where only a tensor can say it.
fn divisors(config: &Config) -> Option<Planned> {
    let rotation = &config.rotations[0];
    let by = match &rotation.scaling {
        RopeScaling::Divisors(by) => by.clone(),
        RopeScaling::Llama3 { .. } => {
            let wanted = rotation.frequencies().0;
            let pair = |(i, wanted): (usize, f32)| {
                let exact = rotation.base.powf(-((2 * i) as f64) / rotation.dims as f64);
                // Of the numbers nearby, one that gives the same frequency when it divides.
                let near = (exact / f64::from(wanted)) as f32;
                let gives = |by: &f32| (exact / f64::from(*by)) as f32 == wanted;
                [near, near.next_up(), near.next_down()].into_iter().find(gives).unwrap_or(near)
            };
            wanted.into_iter().enumerate().map(pair).collect()
        }
        _ => return None,
    };
    Some(Planned {
        name: "rope_freqs.weight".into(),
        shape: vec![by.len()],
        ty: Storage::Floats(ElementType::F32),
        origin: Origin::Values(by),
    })
}

impl Planned {
    /// Enters it in the directory of the new file.
    pub(super) fn plan(&self, writer: &mut Writer) -> io::Result<()> {
        match self.ty {
            Storage::Floats(ty) => writer.tensor(&self.name, ty, &self.shape).map(|_| ()),
            Storage::Integers(id, bytes) => {
                writer.integers(&self.name, id, &self.shape, bytes);
                Ok(())
            }
        }
    }

    /// Whether the description of the model needs its values.
    pub(super) fn is_described(&self) -> bool {
        matches!(self.origin, Origin::Values(_))
    }

    /// Its data.
    pub(super) fn bytes<'a>(&self, source: &'a Source, team: &Team) -> Result<Cow<'a, [u8]>> {
        let (name, pairs, offset) = match &self.origin {
            Origin::Values(values) => return Ok(Cow::Owned(to_bytes(values))),
            Origin::Tensor { name, pairs, offset } => (name, *pairs, *offset),
        };
        let ty = match self.ty {
            Storage::Integers(..) => {
                let raw = source.raw(name).ok_or_else(|| missing(source.path(), name))?;
                return Ok(Cow::Borrowed(raw.bytes));
            }
            Storage::Floats(ty) => ty,
        };
        let tensor = source.tensor(name)?.ok_or_else(|| missing(source.path(), name))?;
        let fault = |what: &str| Error::format(source.path(), format!("tensor `{name}` {what}"));
        let shape = match pairs {
            // A bias is reordered by its elements.
            Some(_) if tensor.shape.len() == 1 => {
                MatrixShape { ty: tensor.ty, rows: tensor.shape[0], cols: 1 }
            }
            _ => stored(&tensor),
        };
        let mut bytes = Cow::Borrowed(tensor.bytes);
        if let Some(pairs) = pairs {
            let row = shape.ty.row_bytes(shape.cols).ok_or_else(|| fault("has rows of broken blocks"))?;
            let rows = (0..shape.rows).map(|i| &tensor.bytes[pairs.origin(i) * row..][..row]);
            bytes = Cow::Owned(rows.collect::<Vec<_>>().concat());
        }
        if offset != 0.0 {
            let mut values = vec![0.0; shape.rows * shape.cols];
            quant::dequantize(shape.ty, &bytes, &mut values).map_err(|error| fault(&error.to_string()))?;
            values.iter_mut().for_each(|value| *value += offset);
            return Ok(Cow::Owned(to_bytes(&values)));
        }
        if ty != shape.ty {
            let converted = convert(team, shape, &bytes, ty).ok_or_else(|| fault("cannot be converted"))?;
            bytes = Cow::Owned(converted);
        }
        Ok(bytes)
    }

    /// Gives the pages of the original back.
    pub(super) fn release(&self, source: &Source) {
        if let Origin::Tensor { name, .. } = &self.origin {
            source.release(name);
        }
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A tensor as rows of its last dimension.
fn stored(tensor: &TensorView<'_>) -> MatrixShape {
    let (cols, outer) =
        tensor.shape.split_last().map_or((1, &[] as &[usize]), |(&cols, outer)| (cols, outer));
    MatrixShape { ty: tensor.ty, rows: outer.iter().product(), cols }
}

fn missing(path: &std::path::Path, name: &str) -> Error {
    Error::format(path, format!("tensor `{name}` is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_pairs_head_by_head_and_the_rest_stays() {
        let pairs = Pairs { head: 6, dims: 4 };
        let order: Vec<usize> = (0..12).map(|row| pairs.origin(row)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
    }
}
