//! The recurrent block (Gated DeltaNet): norm, projections, convolution and recurrence, gated norm,
//! projection. Its past is a state of fixed size.

use super::{Caches, Context, NormWeights, Scratch, fill_normed, project, room};
use crate::cache::LayerState;
use leveret_kernels::delta::{DeltaInputs, DeltaRows, DeltaSpec, delta};
use leveret_kernels::ops::rms_norm_gated;
use leveret_kernels::{Job, Matrix, Rows, matmul};

/// Weights of one recurrent block.
#[derive(Debug)]
pub(crate) struct Delta<M = Matrix> {
    pub(crate) norms: NormWeights,
    /// Queries, keys, values.
    pub(crate) qkv: M,
    /// Gates of the output.
    pub(crate) z: M,
    /// Strengths of writing, and time steps, one for each value head.
    pub(crate) b: M,
    pub(crate) a: M,
    pub(crate) out: M,
    /// The columns of `out` follow the order of value heads in the file, where that is another.
    pub(crate) out_as_stored: bool,
    /// `[taps][channels]`.
    pub(crate) conv: Vec<f32>,
    /// Decay rates, negative.
    pub(crate) rates: Vec<f32>,
    pub(crate) dt_bias: Vec<f32>,
    /// Of each head's output.
    pub(crate) norm: Vec<f32>,
}

impl<M> Delta<M> {
    pub(crate) fn matrices(&self) -> [&M; 5] {
        [&self.qkv, &self.z, &self.b, &self.a, &self.out]
    }
}

impl Delta {
    /// Adds the block's output for all rows to the residual stream `h`, and the rows to the states'
    /// tapes.
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        layer: usize,
        caches: &mut dyn Caches,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        let Some(config) = context.config.layers[layer].delta else { return };
        let (team, eps, shape) = (context.team, context.config.norm_eps, config.shape);
        let (rows, channels, heads, width) =
            (context.rows.positions.len(), shape.channels(), shape.v_heads, shape.v_width());
        fill_normed(team, &mut s.x, h, &self.norms.before, eps);
        let mixed = room(&mut s.q, rows * channels);
        let z = room(&mut s.gate, rows * width);
        let b = room(&mut s.k, rows * heads);
        let a = room(&mut s.v, rows * heads);
        let job = |matrix, out| Job { matrix, rows: Rows::All, out, add: false };
        let mut jobs = [
            job(&self.qkv, &mut *mixed),
            job(&self.z, &mut *z),
            job(&self.b, &mut *b),
            job(&self.a, &mut *a),
        ];
        matmul(team, &s.x, &mut jobs);

        let spec = DeltaSpec { shape, conv: &self.conv, rates: &self.rates, dt_bias: &self.dt_bias };
        let out = room(&mut s.heads, rows * width);
        for (i, segment) in context.rows.segments.iter().enumerate() {
            let part = |width: usize| segment.first * width..(segment.first + segment.rows) * width;
            let LayerState::Delta(state) = &mut caches.get(i).layers[layer] else { continue };
            let rows = DeltaRows {
                rows: segment.rows,
                held: segment.held,
                tree: context.rows.paths(segment),
                whole: segment.whole,
            };
            let inputs =
                DeltaInputs { mixed: &mixed[part(channels)], a: &a[part(heads)], b: &b[part(heads)] };
            delta(team, &spec, state, &rows, &inputs, &mut out[part(width)], &mut s.delta);
        }

        let (out, z) = (&*out, &*z);
        s.inner.fill(team, rows, width, |row, inner| {
            let (out, z) = (&out[row * width..][..width], &z[row * width..][..width]);
            if !self.out_as_stored {
                return rms_norm_gated(out, &self.norm, z, eps, inner);
            }
            let heads = out.chunks_exact(shape.v_dim).zip(z.chunks_exact(shape.v_dim));
            for (head, (out, z)) in heads.enumerate() {
                let place = config.stored_head(head) * shape.v_dim;
                rms_norm_gated(out, &self.norm, z, eps, &mut inner[place..][..shape.v_dim]);
            }
        });
        project(context, &s.inner, &self.out, self.norms.after.as_deref(), &mut s.out, h);
    }
}
