//! The weights of a recurrent layer, in the layouts that files have them.

use super::Loader;
use super::pack::Pack;
use crate::Result;
use crate::config::{DeltaConfig, Presence};
use crate::layers::{Delta, NormWeights};

/// What a row of a recurrent layer is projected to.
struct Projections<M> {
    qkv: M,
    z: M,
    b: M,
    a: M,
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
        let Projections { qkv, z, b, a } =
            match self.tensors.source.has(&format!("{}.weight", name(names.qkvz))) {
                true => self.delta_by_head(config, name)?,
                false => self.delta_by_kind(config, name)?,
            };
        let mut rates = vector(names.rates, shape.v_heads)?;
        if config.log_rates {
            rates.iter_mut().for_each(|rate| *rate = -rate.exp());
        }
        Ok(Delta {
            norms,
            qkv,
            z,
            b,
            a,
            out: self.tensors.matrix(&name(names.out), hidden, shape.v_width(), Presence::No)?,
            conv: self.conv(config, &name(names.conv))?,
            rates,
            dt_bias: vector(names.dt_bias, shape.v_heads)?,
            // A factor in every layout, whatever the other norms store.
            norm: vector(names.norm, shape.v_dim)?,
        })
    }

    fn delta_by_kind(
        &self,
        config: &DeltaConfig,
        name: &dyn Fn(&str) -> String,
    ) -> Result<Projections<P::Matrix>> {
        let (names, shape, hidden) = (&self.config.names.delta, &config.shape, self.config.hidden);
        let exact = self.tensors.unrounded();
        Ok(Projections {
            qkv: self.tensors.matrix(&name(names.qkv), shape.channels(), hidden, Presence::No)?,
            z: self.tensors.matrix(&name(names.z), shape.v_width(), hidden, Presence::No)?,
            b: exact.matrix(&name(names.b), shape.v_heads, hidden, Presence::No)?,
            a: exact.matrix(&name(names.a), shape.v_heads, hidden, Presence::No)?,
        })
    }

    /// Qwen3-Next: for each key head its query, key, values and gates in one tensor, and the two
    /// scalars of its value heads in another.
    fn delta_by_head(
        &self,
        config: &DeltaConfig,
        name: &dyn Fn(&str) -> String,
    ) -> Result<Projections<P::Matrix>> {
        let (names, shape, hidden) = (&self.config.names.delta, config.shape, self.config.hidden);
        let (k, v) = (shape.k_dim, shape.v_heads / shape.k_heads * shape.v_dim);
        let (group, keys) = (2 * k + 2 * v, shape.k_width());
        let stored = (shape.k_heads * group, hidden);
        let at = |row: usize, width: usize, offset: usize| row / width * group + offset + row % width;
        let qkvz = name(names.qkvz);
        let qkv = self.tensors.picked(&qkvz, stored, shape.channels(), |row| match row {
            row if row < keys => at(row, k, 0),
            row if row < 2 * keys => at(row - keys, k, k),
            row => at(row - 2 * keys, v, 2 * k),
        })?;
        let z = self.tensors.picked(&qkvz, stored, shape.v_width(), |row| at(row, v, 2 * k + v))?;
        let ba = name(names.ba);
        let heads = shape.v_heads / shape.k_heads;
        let scalar = |offset: usize| {
            let pick = |row: usize| row / heads * 2 * heads + offset + row % heads;
            self.tensors.unrounded().picked(&ba, (2 * shape.v_heads, hidden), shape.v_heads, pick)
        };
        let projections = Projections { qkv, z, b: scalar(0)?, a: scalar(heads)? };
        [qkvz, ba].iter().for_each(|name| self.tensors.source.release(&format!("{name}.weight")));
        Ok(projections)
    }

    /// Stored `[channels, taps]`, with or without a dimension of one between; wanted tap by tap.
    fn conv(&self, config: &DeltaConfig, name: &str) -> Result<Vec<f32>> {
        let (channels, taps) = (config.shape.channels(), config.shape.taps);
        let flat = self.tensors.source.tensor(name)?.is_some_and(|tensor| tensor.shape.len() == 2);
        let shape: &[usize] = if flat { &[channels, taps] } else { &[channels, 1, taps] };
        let stored = self.tensors.vector(name, shape)?;
        Ok((0..taps).flat_map(|tap| stored.iter().skip(tap).step_by(taps).copied()).collect())
    }
}
