//! Which tensors the new file has: names from the tables of both layouts, rows in the order and
//! values in the scale that its readers expect.

use super::planned::{Change, Origin, Planned, Rows, Storage, missing, stored};
use crate::config::{AttentionConfig, Config, Head, KvSource, LayerConfig, Presence, Rotation, TensorNames};
use crate::config::{AttentionInput, RopeScaling};
use crate::formats::safetensors::Dtype;
use crate::load::Source;
use crate::weights::fitting;
use crate::{Error, Result};
use leveret_kernels::ElementType;

/// How a layout of files lays layers down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) names: TensorNames,
    /// Rows of queries and keys that are rotated against each other lie side by side.
    pub(super) interleaved: bool,
    /// Value heads of recurrent layers that share a key head lie apart.
    pub(super) tiled: bool,
    /// Gate and up rows of experts stay in one tensor where they are.
    pub(super) fused_experts: bool,
    /// The norms of its files are factors, but for this offset.
    pub(super) norm_offset: f32,
    /// A map from a head's rows to tokens comes with a list of the tokens that are in it.
    pub(super) members: bool,
}

/// The tensors of a file, as they are found.
pub(super) struct Plan<'a> {
    pub(super) source: &'a Source,
    pub(super) layout: Layout,
    pub(super) ty: ElementType,
    pub(super) planned: Vec<Planned>,
}

/// A layer of the original, and where it stands in both files.
pub(super) struct LayerPlan<'a> {
    pub(super) config: &'a Config,
    pub(super) layer: &'a LayerConfig,
    from: String,
    to: String,
    names: [TensorNames; 2],
}

impl LayerPlan<'_> {
    /// A name in both files.
    pub(super) fn at(&self, name: impl Fn(&TensorNames) -> &'static str) -> (String, String) {
        let [from, to] = &self.names;
        (self.from(name(from)), self.to(name(to)))
    }

    pub(super) fn from(&self, name: &str) -> String {
        format!("{}{name}", self.from)
    }

    pub(super) fn to(&self, name: &str) -> String {
        format!("{}{name}", self.to)
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(source: &'a Source, layout: Layout, ty: ElementType) -> Self {
        Self { source, layout, ty, planned: Vec::new() }
    }

    /// All of a decoder: embedding, head, layers, final norm.
    pub(super) fn decoder(&mut self, config: &Config) -> Result<()> {
        let (from, to) = (config.names, self.layout.names);
        let prefix = self.prefix(config);
        let outer = |a: &str, b: &str| (format!("{prefix}{a}"), b.to_owned());
        self.planned.extend(divisors(config));
        self.matrix(outer(from.embedding, to.embedding), Presence::No)?;
        let head = from.heads.iter().find(|name| self.has_matrix(name));
        if let (Head::Own | Head::OwnIfPresent, Some(head)) = (config.head, head) {
            self.matrix(((*head).into(), to.heads[0].into()), Presence::No)?;
        }
        if config.per_layer.is_some() {
            let (a, b) = (from.per_layer, to.per_layer);
            self.matrix(outer(a.table, b.table), Presence::No)?;
            self.matrix(outer(a.projection, b.projection), Presence::No)?;
            self.norm(outer(a.norm, b.norm), config)?;
        }
        for i in 0..config.layers.len() {
            let bases = (format!("{prefix}{}{i}.", from.layer), format!("{}{i}.", to.layer));
            self.layer(config, i, bases)?;
        }
        self.norm(outer(from.final_norm, to.final_norm), config)
    }

    /// What stands before the names of a decoder's tensors.
    fn prefix(&self, config: &Config) -> &'static str {
        let names = &config.names;
        let has_embedding = |prefix: &&&str| self.has_matrix(&format!("{prefix}{}", names.embedding));
        names.prefixes.iter().find(has_embedding).copied().unwrap_or(names.prefixes[0])
    }

    /// Layer `i` of `config`; `from` and `to` stand before the names of its tensors.
    pub(super) fn layer(&mut self, config: &Config, i: usize, (from, to): (String, String)) -> Result<()> {
        let layer = &config.layers[i];
        let plan = LayerPlan { config, layer, from, to, names: [config.names, self.layout.names] };
        if layer.delta.is_some() || layer.attention.input == AttentionInput::Normed {
            self.norm(plan.at(|n| n.attention_norm), config)?;
        }
        match &layer.delta {
            Some(delta) => self.delta(&plan, delta)?,
            None => self.attention(&plan)?,
        }
        self.norm(plan.at(|n| n.mlp_norm), config)?;
        if layer.post_norms {
            self.norm(plan.at(|n| n.attention_post_norm), config)?;
            self.norm(plan.at(|n| n.mlp_post_norm), config)?;
        }
        self.mlp(&plan)?;
        if config.per_layer.is_some() {
            self.matrix(plan.at(|n| n.per_layer.gate), Presence::No)?;
            self.matrix(plan.at(|n| n.per_layer.out), Presence::No)?;
            self.norm(plan.at(|n| n.per_layer.post_norm), config)?;
        }
        if layer.output_scale {
            self.vector(plan.at(|n| n.output_scale))?;
        }
        Ok(())
    }

    fn attention(&mut self, plan: &LayerPlan<'_>) -> Result<()> {
        let (config, a) = (plan.config, &plan.layer.attention);
        let rotation = &config.rotations[a.rotation];
        let has_keys = !matches!(a.source, KvSource::Layer(_));
        let (k_width, _) = a.kv_widths();
        // Queries of gated layers share their tensor, which no reordering layout has.
        let q_order = if a.gated { None } else { self.order(a, rotation, a.q_width()) };
        self.reordered(plan.at(|n| n.q), a.qkv_bias, q_order)?;
        if has_keys {
            self.reordered(plan.at(|n| n.k), a.qkv_bias, self.order(a, rotation, k_width))?;
        }
        if a.source == KvSource::Own {
            self.matrix(plan.at(|n| n.v), a.qkv_bias)?;
        }
        self.matrix(plan.at(|n| n.o), a.out_bias)?;
        for (name, present) in
            [(plan.at(|n| n.q_norm), a.qk_norm), (plan.at(|n| n.k_norm), a.qk_norm && has_keys)]
        {
            if present {
                let order = self.order(a, rotation, a.k_dim);
                self.norm_in(name, config.norm_offset, order)?;
            }
        }
        if a.sinks {
            self.vector(plan.at(|n| n.sinks))?;
        }
        Ok(())
    }

    /// The original row of each of `rows` rows of heads, where they stand in another order.
    fn order(&self, a: &AttentionConfig, rotation: &Rotation, rows: usize) -> Option<Vec<usize>> {
        let wanted = Rotation { interleaved: self.layout.interleaved, ..rotation.clone() };
        if wanted.interleaved == rotation.interleaved {
            return None;
        }
        let mut order = vec![0; rows];
        for row in 0..rows {
            order[wanted.stored_row(a.k_dim, row)] = rotation.stored_row(a.k_dim, row);
        }
        Some(order)
    }

    /// A matrix with its bias; names without `.weight`.
    pub(super) fn matrix(&mut self, names: (String, String), bias: Presence) -> Result<()> {
        self.reordered(names, bias, None)
    }

    fn reordered(
        &mut self,
        (from, to): (String, String),
        bias: Presence,
        order: Option<Vec<usize>>,
    ) -> Result<()> {
        let name = format!("{from}.bias");
        if bias == Presence::Yes || bias == Presence::IfPresent && self.source.has(&name) {
            let rows = Rows { order: order.clone(), ..Rows::of(name) };
            self.floats(format!("{to}.bias"), rows, Some(ElementType::F32), None)?;
        }
        self.floats(format!("{to}.weight"), Rows { order, ..Rows::of(format!("{from}.weight")) }, None, None)
    }

    /// A small matrix whose rounding would show: it is only rounded where all is.
    pub(super) fn exact(&mut self, (from, to): (String, String)) -> Result<()> {
        self.exact_rows(format!("{to}.weight"), Rows::of(format!("{from}.weight")))
    }

    pub(super) fn exact_rows(&mut self, name: String, rows: Rows) -> Result<()> {
        let ty = (self.ty == ElementType::F32).then_some(ElementType::F32);
        let kept = self.stored_type(&rows)?;
        self.floats(name, rows, Some(ty.unwrap_or(kept)), None)
    }

    /// A norm; names without `.weight`.
    pub(super) fn norm(&mut self, names: (String, String), config: &Config) -> Result<()> {
        self.norm_in(names, config.norm_offset, None)
    }

    fn norm_in(
        &mut self,
        (from, to): (String, String),
        offset: f32,
        order: Option<Vec<usize>>,
    ) -> Result<()> {
        let add = offset - self.layout.norm_offset;
        let change = if add == 0.0 { Change::None } else { Change::Add(add) };
        let rows = Rows { order, change, ..Rows::of(format!("{from}.weight")) };
        self.floats(format!("{to}.weight"), rows, Some(ElementType::F32), None)
    }

    /// A tensor that is not rounded; full names.
    pub(super) fn vector(&mut self, (from, to): (String, String)) -> Result<()> {
        self.floats(to, Rows::of(from), Some(ElementType::F32), None)
    }

    /// Rows as a tensor; in the type asked for, or else that of matrices, and in `shape`, or else the
    /// first one's.
    pub(super) fn floats(
        &mut self,
        name: String,
        rows: Rows,
        ty: Option<ElementType>,
        shape: Option<Vec<usize>>,
    ) -> Result<()> {
        let first = &rows.tensors[0];
        let found = self.shape(first)?;
        let shape = shape.unwrap_or_else(|| match rows.order.as_ref().filter(|_| found.len() == 2) {
            Some(order) => vec![order.len(), found[1]],
            None => found,
        });
        let ty = match ty {
            Some(ty) => ty,
            None => {
                let cols = shape.last().copied().unwrap_or(1);
                let stored = crate::weights::MatrixShape { ty: self.stored_type(&rows)?, rows: 1, cols };
                fitting(self.ty, stored)
            }
        };
        self.planned.push(Planned { name, shape, ty: Storage::Floats(ty), origin: Origin::Rows(rows) });
        Ok(())
    }

    /// The type of the rows as they are read: 8-bit floats are widened.
    fn stored_type(&self, rows: &Rows) -> Result<ElementType> {
        let name = &rows.tensors[0];
        if self.source.raw(name).is_some_and(|raw| raw.dtype == Dtype::F8_E4M3) {
            return Ok(ElementType::BF16);
        }
        let tensor = self.source.tensor(name)?.ok_or_else(|| missing(self.source, name))?;
        Ok(stored(&tensor).ty)
    }

    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>> {
        if let Some(raw) = self.source.raw(name) {
            return Ok(raw.shape.to_vec());
        }
        let tensor = self.source.tensor(name)?.ok_or_else(|| missing(self.source, name))?;
        Ok(tensor.shape.to_vec())
    }

    pub(super) fn has_matrix(&self, name: &str) -> bool {
        self.source.has(&format!("{name}.weight"))
    }

    pub(super) fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(self.source.path(), what)
    }
}

/// What the frequencies of the first rotation are divided by, where only a tensor can say it, or
/// readers ask for it.
pub(super) fn divisors(config: &Config) -> Option<Planned> {
    let rotation = &config.rotations[0];
    /// Stands for "does not turn", as llama.cpp writes it.
    const STILL: f32 = 1e30;
    let by: Vec<f32> = match &rotation.scaling {
        RopeScaling::Divisors(by) => by.clone(),
        RopeScaling::None if config.family == "gemma4" => vec![1.0; rotation.dims / 2],
        RopeScaling::Llama3 { .. } | RopeScaling::Proportional { .. } => {
            let pair = |(i, wanted): (usize, f32)| {
                let exact = rotation.base.powf(-((2 * i) as f64) / rotation.dims as f64);
                if wanted == 0.0 {
                    return STILL;
                }
                // Of the numbers nearby, one that gives the same frequency when it divides.
                let near = (exact / f64::from(wanted)) as f32;
                let gives = |by: &f32| (exact / f64::from(*by)) as f32 == wanted;
                [near, near.next_up(), near.next_down()].into_iter().find(gives).unwrap_or(near)
            };
            rotation.frequencies().0.into_iter().enumerate().map(pair).collect()
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
