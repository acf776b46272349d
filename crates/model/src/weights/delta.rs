//! The weights of a recurrent layer, in the layouts that files have them.

use super::Loader;
use super::pack::Pack;
use super::tensors::Place;
use crate::Result;
use crate::config::{DeltaConfig, Presence};
use crate::layers::{Delta, NormWeights};
use leveret_kernels::delta::DeltaShape;

/// The rows of tensors that are laid down key head by key head: where they stand in there.
pub(crate) struct ByHead {
    /// Width of a key head, and of the values that share one.
    key: usize,
    value: usize,
    /// Key rows of all heads.
    keys: usize,
    /// Value heads that share a key head.
    heads: usize,
}

impl ByHead {
    pub(crate) fn new(shape: &DeltaShape) -> Self {
        let heads = shape.v_heads / shape.k_heads;
        Self { key: shape.k_dim, value: heads * shape.v_dim, keys: shape.k_width(), heads }
    }

    fn at(&self, row: usize, width: usize, offset: usize) -> usize {
        row / width * 2 * (self.key + self.value) + offset + row % width
    }

    /// Row `row` of queries, keys and values.
    pub(crate) fn qkv(&self, row: usize) -> usize {
        match row {
            row if row < self.keys => self.at(row, self.key, 0),
            row if row < 2 * self.keys => self.at(row - self.keys, self.key, self.key),
            row => self.at(row - 2 * self.keys, self.value, 2 * self.key),
        }
    }

    /// Row `row` of the gates.
    pub(crate) fn z(&self, row: usize) -> usize {
        self.at(row, self.value, 2 * self.key + self.value)
    }

    /// The first scalar of value head `head`.
    pub(crate) fn b(&self, head: usize) -> usize {
        head / self.heads * 2 * self.heads + head % self.heads
    }

    /// The second scalar of value head `head`.
    pub(crate) fn a(&self, head: usize) -> usize {
        self.b(head) + self.heads
    }
}

impl<P: Pack> Loader<'_, P> {
    pub(super) fn delta(
        &self,
        config: &DeltaConfig,
        name: &dyn Fn(&str) -> String,
        norms: NormWeights,
    ) -> Result<Delta<P::Matrix>> {
        let (names, shape, hidden) = (&self.config.names.delta, &config.shape, self.config.hidden);
        let vector = |suffix: &str, len: usize| self.tensors.vector(&name(suffix), &[len]);
        let by_head = |suffix: &str| -> Result<Vec<f32>> {
            let stored = vector(suffix, shape.v_heads)?;
            Ok((0..shape.v_heads).map(|head| stored[config.stored_head(head)]).collect())
        };
        let (qkv, z) = self.qkv_and_gates(config, name)?;
        let (b, a) = self.scalars(config, name)?;
        let mut rates = by_head(names.rates)?;
        if config.log_rates {
            rates.iter_mut().for_each(|rate| *rate = -rate.exp());
        }
        let stored_head = |head: usize| config.stored_head(head);
        let place = config.tiled.then_some(&stored_head as Place<'_>);
        let (out, out_as_stored) =
            self.tensors.columns(&name(names.out), hidden, (shape.v_heads, shape.v_dim), place)?;
        Ok(Delta {
            norms,
            qkv,
            z,
            b,
            a,
            out,
            out_as_stored,
            conv: self.conv(config, &name(names.conv))?,
            rates,
            dt_bias: by_head(names.dt_bias)?,
            // A factor in every layout, whatever the other norms store.
            norm: vector(names.norm, shape.v_dim)?,
        })
    }

    /// Qwen3-Next: for each key head its query, key, values and gates in one tensor.
    fn qkv_and_gates(
        &self,
        config: &DeltaConfig,
        name: &dyn Fn(&str) -> String,
    ) -> Result<(P::Matrix, P::Matrix)> {
        let (names, shape, hidden) = (&self.config.names.delta, &config.shape, self.config.hidden);
        if !self.tensors.source.has(&format!("{}.weight", name(names.qkvz))) {
            let (channel, value) = (|row| stored_channel(config, row), |row| stored_value(config, row));
            let matrix = |suffix: &str, rows: usize, place: Place<'_>| {
                let place = config.tiled.then_some(place);
                self.tensors.reordered(&name(suffix), rows, hidden, Presence::No, place)
            };
            let qkv = matrix(names.qkv, shape.channels(), &channel)?;
            return Ok((qkv, matrix(names.z, shape.v_width(), &value)?));
        }
        let (by, both) = (ByHead::new(shape), name(names.qkvz));
        let stored = (shape.channels() + shape.v_width(), hidden);
        let qkv = self.tensors.picked(&both, stored, shape.channels(), |row| by.qkv(row))?;
        let z = self.tensors.picked(&both, stored, shape.v_width(), |row| by.z(row))?;
        self.tensors.source.release(&format!("{both}.weight"));
        Ok((qkv, z))
    }

    /// The two scalars of each value head; Qwen3-Next has those of a key head's one after the other.
    fn scalars(&self, config: &DeltaConfig, name: &dyn Fn(&str) -> String) -> Result<(P::Matrix, P::Matrix)> {
        let (names, shape, hidden) = (&self.config.names.delta, &config.shape, self.config.hidden);
        let (exact, heads) = (self.tensors.unrounded(), shape.v_heads);
        if !self.tensors.source.has(&format!("{}.weight", name(names.ba))) {
            let stored_head = |head: usize| config.stored_head(head);
            let place = config.tiled.then_some(&stored_head as Place<'_>);
            let matrix = |suffix: &str| exact.reordered(&name(suffix), heads, hidden, Presence::No, place);
            return Ok((matrix(names.b)?, matrix(names.a)?));
        }
        let (by, both) = (ByHead::new(shape), name(names.ba));
        let b = exact.picked(&both, (2 * heads, hidden), heads, |row| by.b(row))?;
        let a = exact.picked(&both, (2 * heads, hidden), heads, |row| by.a(row))?;
        self.tensors.source.release(&format!("{both}.weight"));
        Ok((b, a))
    }

    /// Stored `[channels, taps]`, with or without a dimension of one between; wanted tap by tap.
    fn conv(&self, config: &DeltaConfig, name: &str) -> Result<Vec<f32>> {
        let (channels, taps) = (config.shape.channels(), config.shape.taps);
        let flat = self.tensors.source.tensor(name)?.is_some_and(|tensor| tensor.shape.len() == 2);
        let shape: &[usize] = if flat { &[channels, taps] } else { &[channels, 1, taps] };
        let stored = self.tensors.vector(name, shape)?;
        let channel = |row| stored_channel(config, row);
        let of_tap = |tap| (0..channels).map(move |row| channel(row) * taps + tap);
        Ok((0..taps).flat_map(of_tap).map(|at| stored[at]).collect())
    }
}

/// The stored row of the values that is row `row` in memory.
fn stored_value(config: &DeltaConfig, row: usize) -> usize {
    let width = config.shape.v_dim;
    config.stored_head(row / width) * width + row % width
}

/// The stored row of queries, keys and values that is row `row` in memory.
fn stored_channel(config: &DeltaConfig, row: usize) -> usize {
    let keys = 2 * config.shape.k_width();
    if row < keys { row } else { keys + stored_value(config, row - keys) }
}
