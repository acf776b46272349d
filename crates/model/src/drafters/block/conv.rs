//! DFlash 2's convolutions within a block: each row mixed with the few before it, by weights that
//! depend on the row. One goes before a layer's attention or MLP, one behind; none leaves the block.

use crate::layers::{Caches, Context, Layer, Mixer, MlpKind, Scratch, fill_normed, project, room};
use leveret_kernels::{Activations, Job, Matrix, Rows, Team, matmul, par_rows};

/// The two convolutions around an attention or MLP.
#[derive(Debug)]
pub(super) struct BlockConv<M = Matrix> {
    /// Weights that do not depend on the row: `[2][taps][hidden]`.
    pub(super) base: Vec<f32>,
    /// `[2 * taps * groups, hidden]`: what a row adds to them, for groups of channels.
    pub(super) projection: M,
    pub(super) taps: usize,
    pub(super) groups: usize,
}

/// Memory that convolutions work in.
#[derive(Debug, Default)]
pub(super) struct ConvScratch {
    /// What the rows add to the weights: `[rows][2][taps][groups]`.
    weights: Vec<f32>,
    rows: Vec<f32>,
}

impl BlockConv {
    /// Replaces the normed rows in `x` by their mixture.
    fn enter(&self, team: &Team, x: &mut Activations, s: &mut ConvScratch) {
        let (rows, hidden) = (x.rows(), x.cols());
        let weights = room(&mut s.weights, rows * self.projection.rows());
        matmul(team, x, &mut [Job { matrix: &self.projection, rows: Rows::All, out: weights, add: false }]);
        let copy = room(&mut s.rows, rows * hidden);
        copy.chunks_exact_mut(hidden).enumerate().for_each(|(row, out)| out.copy_from_slice(x.row(row)));
        let (weights, copy) = (&s.weights, &s.rows);
        x.fill(team, rows, hidden, |row, out| {
            out.fill(0.0);
            self.mix(0, row, weights, copy, out);
        });
    }

    /// Adds the mixture of the rows in `s` to the residual stream.
    fn leave(&self, team: &Team, h: &mut [f32], hidden: usize, s: &ConvScratch) {
        par_rows(team, (h, hidden), (&mut [] as &mut [f32], 0), |row, h, _| {
            self.mix(1, row, &s.weights, &s.rows, h);
        });
    }

    /// Adds the mixture of `row` with those before it to `out`.
    fn mix(&self, side: usize, row: usize, weights: &[f32], rows: &[f32], out: &mut [f32]) {
        let (hidden, width) = (out.len(), self.projection.rows());
        let group = hidden / self.groups;
        for tap in 0..self.taps.min(row + 1) {
            let base = &self.base[(side * self.taps + tap) * hidden..][..hidden];
            let own = &weights[row * width + (side * self.taps + tap) * self.groups..][..self.groups];
            let earlier = &rows[(row - tap) * hidden..][..hidden];
            for (i, (out, x)) in out.iter_mut().zip(earlier).enumerate() {
                *out += (base[i] + own[i / group]) * x;
            }
        }
    }
}

/// A layer with convolutions around both its parts.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    layer: &Layer,
    convolutions: &[BlockConv; 2],
    context: &Context<'_>,
    index: usize,
    caches: &mut dyn Caches,
    h: &mut [f32],
    s: &mut Scratch,
    c: &mut ConvScratch,
) {
    let (team, hidden, eps) = (context.team, context.config.hidden, context.config.norm_eps);
    let [around_attention, around_mlp] = convolutions;
    // Loading has refused other layers.
    let Mixer::Attention(attention) = &layer.mixer else { return };
    fill_normed(team, &mut s.x, h, &attention.norms.before, eps);
    around_attention.enter(team, &mut s.x, c);
    attention.attend(context, index, caches, s);
    c.rows.resize(h.len(), 0.0);
    c.rows.fill(0.0);
    project(context, &s.inner, &attention.o, attention.norms.after.as_deref(), &mut s.out, &mut c.rows);
    around_attention.leave(team, h, hidden, c);

    fill_normed(team, &mut s.x, h, &layer.mlp.norms.before, eps);
    around_mlp.enter(team, &mut s.x, c);
    // Loading has refused experts.
    let MlpKind::Dense(mlp) = &layer.mlp.kind else { return };
    c.rows.fill(0.0);
    let activation = context.config.layers[index].mlp.activation;
    mlp.run(context, activation, layer.mlp.norms.after.as_deref(), &mut c.rows, s);
    around_mlp.leave(team, h, hidden, c);
}
