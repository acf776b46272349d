//! The attention block: norm, projections, norms on heads, rotation, cache, attention, projection.

use super::{Caches, Context, NormWeights, RopeTable, Scratch, fill_normed, project, room};
use crate::cache::LayerState;
use crate::config::{AttentionConfig, KvSource};
use leveret_kernels::attention::{AttentionSpec, attention};
use leveret_kernels::ops::{mul_sigmoid, rms_norm_heads, rms_norm_unweighted, scale};
use leveret_kernels::{Job, Matrix, Rows, matmul, par_rows};

/// Weights of one attention block; biases are in the matrices.
#[derive(Debug)]
pub(crate) struct Attention<M = Matrix> {
    pub(crate) norms: NormWeights,
    pub(crate) q: M,
    /// Gates of the heads' output, where they have any.
    pub(crate) gate: Option<M>,
    /// Absent if the layer reads those of another.
    pub(crate) k: Option<M>,
    /// Absent if keys serve as values too.
    pub(crate) v: Option<M>,
    pub(crate) o: M,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) sinks: Option<Vec<f32>>,
}

impl Attention {
    /// Adds the block's output for all rows to the residual stream `h`, and their keys and values
    /// to the caches (if it has its own).
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        layer: usize,
        caches: &mut dyn Caches,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        fill_normed(context.team, &mut s.x, h, &self.norms.before, context.config.norm_eps);
        self.attend(context, layer, caches, s);
        project(context, &s.inner, &self.o, self.norms.after.as_deref(), &mut s.out, h);
    }

    /// Sets `s.inner` to what the heads read for the rows in `s.x`, whose keys and values go to the
    /// caches (if it has its own).
    pub(crate) fn attend(
        &self,
        context: &Context<'_>,
        layer: usize,
        caches: &mut dyn Caches,
        s: &mut Scratch,
    ) {
        let (team, config) = (context.team, &context.config.layers[layer].attention);
        let (ropes, positions, eps) = (context.ropes, &context.rows.positions, context.config.norm_eps);
        let rows = positions.len();
        let q = room(&mut s.q, rows * self.q.rows());
        let (k_width, v_width) = config.kv_widths();
        let k = room(&mut s.k, rows * k_width);
        let v = room(&mut s.v, rows * v_width);
        let job = |matrix, out| Job { matrix, rows: Rows::All, out, add: false };
        let q_job = job(&self.q, &mut *q);
        match (&self.k, &self.v) {
            (Some(k_matrix), Some(v_matrix)) => {
                matmul(team, &s.x, &mut [q_job, job(k_matrix, &mut *k), job(v_matrix, &mut *v)]);
            }
            (Some(k_matrix), None) => matmul(team, &s.x, &mut [q_job, job(k_matrix, &mut *k)]),
            (None, _) => matmul(team, &s.x, &mut [q_job]),
        }
        finish_values(context, config, k, v);
        par_rows(team, (&mut *q, self.q.rows()), (&mut *k, k_width), |row, q, k| {
            self.place(config, eps, ropes, positions[row] as usize, q, k);
        });

        let spec = AttentionSpec {
            heads: config.heads,
            kv_heads: config.kv_heads,
            k_dim: config.k_dim,
            v_dim: config.v_dim,
            scale: config.scale,
            window: config.window,
            sinks: self.sinks.as_deref(),
        };
        let heads = room(&mut s.heads, rows * config.out_width());
        for (i, segment) in context.rows.segments.iter().enumerate() {
            let part = |width: usize| segment.first * width..(segment.first + segment.rows) * width;
            let layers = &mut caches.get(i).layers;
            if let LayerState::Attention(kv) = &mut layers[layer] {
                kv.write(segment.base + segment.held, &k[part(k_width)], &v[part(v_width)]);
            }
            // The source of a shared cache came before: it holds the rows of this pass too.
            let LayerState::Attention(kv) = &layers[context.config.kv_layer(layer)] else { continue };
            let out = &mut heads[part(config.out_width())];
            attention(
                team,
                &spec,
                kv,
                &context.rows.visible(segment),
                &q[part(self.q.rows())],
                out,
                &mut s.attention,
            );
        }

        let width = config.out_width();
        let gates = room(&mut s.gate, self.gate.as_ref().map_or(0, |_| rows * width));
        if let Some(gate) = &self.gate {
            matmul(team, &s.x, &mut [Job { matrix: gate, rows: Rows::All, out: &mut *gates, add: false }]);
        }
        s.inner.fill(team, rows, width, |row, out| {
            out.copy_from_slice(&heads[row * width..][..width]);
            if self.gate.is_some() {
                mul_sigmoid(out, &gates[row * width..][..width]);
            }
        });
    }

    /// Adds keys and values of the rows in `s.x` to the caches, for later rows to read.
    pub(crate) fn remember(
        &self,
        context: &Context<'_>,
        layer: usize,
        caches: &mut dyn Caches,
        s: &mut Scratch,
    ) {
        let (team, config) = (context.team, &context.config.layers[layer].attention);
        let (ropes, positions, eps) = (context.ropes, &context.rows.positions, context.config.norm_eps);
        let rows = positions.len();
        let (k_width, v_width) = config.kv_widths();
        let k = room(&mut s.k, rows * k_width);
        let v = room(&mut s.v, rows * v_width);
        let job = |matrix, out| Job { matrix, rows: Rows::All, out, add: false };
        match (&self.k, &self.v) {
            (Some(keys), Some(values)) => {
                matmul(team, &s.x, &mut [job(keys, &mut *k), job(values, &mut *v)]);
            }
            (Some(keys), None) => matmul(team, &s.x, &mut [job(keys, &mut *k)]),
            (None, _) => return,
        }
        finish_values(context, config, k, v);
        par_rows(team, (&mut *k, k_width), (&mut [] as &mut [f32], 0), |row, k, _| {
            self.place(config, eps, ropes, positions[row] as usize, &mut [], k);
        });
        for (i, segment) in context.rows.segments.iter().enumerate() {
            let part = |width: usize| segment.first * width..(segment.first + segment.rows) * width;
            if let LayerState::Attention(kv) = &mut caches.get(i).layers[layer] {
                kv.write(segment.base + segment.held, &k[part(k_width)], &v[part(v_width)]);
            }
        }
    }

    /// Norms and rotates the queries and keys of one row.
    fn place(
        &self,
        config: &AttentionConfig,
        eps: f32,
        ropes: &[RopeTable],
        position: usize,
        q: &mut [f32],
        k: &mut [f32],
    ) {
        if let Some(weight) = &self.q_norm {
            rms_norm_heads(q, weight, eps);
        }
        if let Some(weight) = &self.k_norm {
            rms_norm_heads(k, weight, eps);
        }
        let rope = &ropes[config.rotation];
        rope.rotate(q, config.k_dim, position);
        rope.rotate(k, config.k_dim, position);
        if let Some(growth) = config.query_growth {
            let steps = (position / growth.period) as f32;
            scale(q, 1.0 + growth.beta * steps.ln_1p());
        }
    }
}

/// Values from keys where these serve as both, and their norm.
fn finish_values(context: &Context<'_>, config: &AttentionConfig, k: &mut [f32], v: &mut [f32]) {
    let ((k_width, v_width), eps) = (config.kv_widths(), context.config.norm_eps);
    let keys_as_values = config.source == KvSource::KeysAsValues;
    if v_width > 0 && (keys_as_values || config.v_norm) {
        par_rows(context.team, (v, v_width), (k, k_width), |_, v, k| {
            if keys_as_values {
                v.copy_from_slice(k);
            }
            if config.v_norm {
                rms_norm_unweighted(v, config.v_dim, eps);
            }
        });
    }
}
