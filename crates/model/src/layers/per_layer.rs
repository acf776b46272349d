//! Embeddings of tokens for each layer apart: made once for a pass, let in by a gate at the end of
//! each layer.

use super::{Context, Scratch, project, room};
use crate::config::{Activation, PerLayerConfig};
use leveret_kernels::ops::{add_assign, rms_norm_heads, scale};
use leveret_kernels::{Job, Matrix, Rows, matmul, par_rows};
use std::f32::consts::FRAC_1_SQRT_2;

/// What makes the inputs of all layers, `[layers][width]` for a row.
#[derive(Debug)]
pub(crate) struct PerLayerInputs<M = Matrix> {
    /// A row for each token; read by row, never as a whole.
    pub(crate) table: M,
    /// From the main embedding.
    pub(crate) projection: M,
    pub(crate) norm: Vec<f32>,
}

/// What lets a layer's input into the residual stream.
#[derive(Debug)]
pub(crate) struct PerLayerGate<M = Matrix> {
    pub(crate) gate: M,
    pub(crate) out: M,
    pub(crate) post_norm: Vec<f32>,
}

impl PerLayerInputs {
    /// Fills `s.per_layer` for the rows of `tokens`, whose embeddings are in `h`.
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        config: PerLayerConfig,
        tokens: &[u32],
        h: &[f32],
        s: &mut Scratch,
    ) {
        let (team, hidden, eps) = (context.team, context.config.hidden, context.config.norm_eps);
        let width = self.projection.rows();
        s.x.fill(team, tokens.len(), hidden, |row, out| out.copy_from_slice(&h[row * hidden..][..hidden]));
        let inputs = room(&mut s.per_layer, tokens.len() * width);
        matmul(
            team,
            &s.x,
            &mut [Job { matrix: &self.projection, rows: Rows::All, out: &mut *inputs, add: false }],
        );
        let looked_up = room(&mut s.out, tokens.len() * width);
        let from_hidden = (1.0 / (hidden as f64).sqrt()) as f32;
        par_rows(team, (inputs, width), (looked_up, width), |row, input, looked_up| {
            scale(input, from_hidden);
            rms_norm_heads(input, &self.norm, eps);
            let token = tokens[row] as usize;
            self.table.row(if token < config.vocab { token } else { 0 }, looked_up);
            scale(looked_up, config.scale);
            add_assign(input, looked_up);
            scale(input, FRAC_1_SQRT_2);
        });
    }
}

impl PerLayerGate {
    /// Adds the part of layer `layer` in `s.per_layer` to the residual stream.
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        layer: usize,
        activation: Activation,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        let (team, hidden, width) = (context.team, context.config.hidden, self.gate.rows());
        let rows = h.len() / hidden;
        s.x.fill(team, rows, hidden, |row, out| out.copy_from_slice(&h[row * hidden..][..hidden]));
        let gate = room(&mut s.gate, rows * width);
        matmul(team, &s.x, &mut [Job { matrix: &self.gate, rows: Rows::All, out: &mut *gate, add: false }]);
        let all = context.config.layers.len() * width;
        let inputs = &s.per_layer;
        s.inner.fill(team, rows, width, |row, out| {
            let input = &inputs[row * all + layer * width..][..width];
            activation.apply(&gate[row * width..][..width], input, out);
        });
        project(context, &s.inner, &self.out, Some(&self.post_norm), &mut s.out, h);
    }
}
