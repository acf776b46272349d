//! The MLP block: norm, gated projections (dense or of chosen experts), projection back.

use super::{Beside, Context, Experts, NormWeights, Scratch, fill_normed, project, room};
use crate::config::Activation;
use leveret_kernels::ops::{geglu_tanh, swiglu, swiglu_clamped};
use leveret_kernels::{Job, Matrix, Rows, matmul};

/// Weights of one MLP block.
#[derive(Debug)]
pub(crate) struct Mlp<M = Matrix> {
    pub(crate) norms: NormWeights,
    pub(crate) kind: MlpKind<M>,
}

/// One gated MLP for all rows, many to choose from, or both.
#[derive(Debug)]
pub(crate) enum MlpKind<M = Matrix> {
    Dense(Gated<M>),
    Experts(Experts<M>),
    Beside(Box<Beside<M>>),
}

/// `down(activation(gate x, up x))`.
#[derive(Debug)]
pub(crate) struct Gated<M = Matrix> {
    pub(crate) gate: M,
    pub(crate) up: M,
    pub(crate) down: M,
}

impl<M> Gated<M> {
    pub(crate) fn matrices(&self) -> [&M; 3] {
        [&self.gate, &self.up, &self.down]
    }
}

impl Activation {
    /// One row of the product of gate and up projection.
    pub(crate) fn apply(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        match self {
            Activation::SwiGlu => swiglu(gate, up, out),
            Activation::GegluTanh => geglu_tanh(gate, up, out),
            Activation::ClampedSwiGlu { alpha, limit } => swiglu_clamped(gate, up, alpha, limit, out),
        }
    }
}

impl Mlp {
    /// Adds the block's output for all rows to the residual stream `h`.
    pub(crate) fn run(&self, context: &Context<'_>, layer: usize, h: &mut [f32], s: &mut Scratch) {
        fill_normed(context.team, &mut s.x, h, &self.norms.before, context.config.norm_eps);
        let config = &context.config.layers[layer].mlp;
        let after = self.norms.after.as_deref();
        match &self.kind {
            MlpKind::Dense(dense) => dense.run(context, config.activation, after, h, s),
            MlpKind::Experts(experts) => {
                experts.route(context, config, h, s);
                experts.run(context, config, after, h, s);
            }
            MlpKind::Beside(both) => both.run(context, config, after, h, s),
        }
    }
}

impl Gated {
    /// Adds the output for the normed rows in `s.x` to `h`.
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        activation: Activation,
        after: Option<&[f32]>,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        let (rows, width) = (s.x.rows(), self.gate.rows());
        let gate = room(&mut s.gate, rows * width);
        let up = room(&mut s.up, rows * width);
        let job = |matrix, out| Job { matrix, rows: Rows::All, out, add: false };
        matmul(context.team, &s.x, &mut [job(&self.gate, &mut *gate), job(&self.up, &mut *up)]);
        let part = |row: usize| row * width..(row + 1) * width;
        s.inner.fill(context.team, rows, width, |row, out| {
            activation.apply(&gate[part(row)], &up[part(row)], out)
        });
        project(context, &s.inner, &self.down, after, &mut s.out, h);
    }
}
