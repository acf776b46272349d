//! One decoder layer: its parts one after the other on the residual stream.

use super::{Attention, Caches, Context, Delta, Mlp, PerLayerGate, Scratch, project};
use leveret_kernels::ops::scale;
use leveret_kernels::{Matrix, par_rows};

/// The weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer<M = Matrix> {
    pub(crate) mixer: Mixer<M>,
    pub(crate) mlp: Mlp<M>,
    pub(crate) per_layer: Option<PerLayerGate<M>>,
    /// Factor on the residual stream after the layer.
    pub(crate) output_scale: Option<f32>,
}

/// How the rows of a layer read earlier rows.
#[derive(Debug)]
pub(crate) enum Mixer<M = Matrix> {
    Attention(Attention<M>),
    Delta(Delta<M>),
}

impl Layer {
    /// Takes the residual stream `h` of all rows through layer number `layer`.
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        layer: usize,
        caches: &mut dyn Caches,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        match &self.mixer {
            Mixer::Attention(attention) => attention.run(context, layer, caches, h, s),
            Mixer::Delta(delta) => delta.run(context, layer, caches, h, s),
        }
        self.rest(context, layer, h, s);
    }

    /// As [`run`](Self::run), the attention reading the rows in `s.x` and not the residual stream.
    pub(crate) fn run_on_given(
        &self,
        context: &Context<'_>,
        layer: usize,
        caches: &mut dyn Caches,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        if let Mixer::Attention(attention) = &self.mixer {
            attention.attend(context, layer, caches, s);
            project(context, &s.inner, &attention.o, attention.norms.after.as_deref(), &mut s.out, h);
        }
        self.rest(context, layer, h, s);
    }

    fn rest(&self, context: &Context<'_>, layer: usize, h: &mut [f32], s: &mut Scratch) {
        self.mlp.run(context, layer, h, s);
        if let Some(gate) = &self.per_layer {
            gate.run(context, layer, context.config.layers[layer].mlp.activation, h, s);
        }
        if let Some(factor) = self.output_scale {
            let width = context.config.hidden;
            par_rows(context.team, (h, width), (&mut [] as &mut [f32], 0), |_, row, _| scale(row, factor));
        }
    }
}
