//! The convolution in front of the recurrence: each channel over a row and its nearest ancestors, then
//! SiLU, then queries and keys brought to length one.

use super::state::{Past, Tape};
use super::{DeltaInputs, DeltaRows, DeltaSpec, MAX_TAPS};
use crate::isa::simd_fn;
use crate::ops::sigmoid;
use crate::rows::Shared;
use crate::team::Team;

/// Channels that one block of the loop covers: large against the price of a claim.
const BLOCK_CHANNELS: usize = 2048;
/// Added to the square of a query's or key's length.
const LENGTH_EPS: f32 = 1e-6;

/// A stretch of a row's channels that ends up in one place.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

/// Where the parts of the rows of a pass go.
struct Places {
    q: Shared<f32>,
    inputs: Shared<f32>,
    k: Shared<f32>,
    v: Shared<f32>,
    gates: Shared<f32>,
}

/// Fills `q` from row 0 on and `tape` from row `rows.held` on.
pub(super) fn run(
    team: &Team,
    spec: &DeltaSpec<'_>,
    rows: &DeltaRows<'_>,
    inputs: &DeltaInputs<'_>,
    past: &Past,
    tape: &mut Tape,
    q: &mut [f32],
) {
    let shape = spec.shape;
    let (heads, width) = (2 * shape.k_heads + shape.v_heads, shape.k_dim.max(shape.v_dim));
    let per_block = (BLOCK_CHANNELS / width).max(1);
    let blocks = heads.div_ceil(per_block);
    // Inputs of held rows are read, those of the others written.
    let (old, new) = tape.inputs.split_at_mut(rows.held * shape.channels());
    let places = Places {
        q: Shared::new(q),
        inputs: Shared::new(new),
        k: Shared::new(&mut tape.k),
        v: Shared::new(&mut tape.v),
        gates: Shared::new(&mut tape.gates),
    };
    let old = &*old;
    team.run(rows.rows * blocks, |block| {
        let (row, block) = (block / blocks, block % blocks);
        let sources = sources(rows, row, shape.taps, shape.channels(), inputs.mixed, old, past);
        let sources = &sources[MAX_TAPS - shape.taps..];
        if block == 0 && !rows.whole {
            let channels = shape.channels();
            // SAFETY: block 0 of each row alone touches the row's part.
            let keep = unsafe { places.inputs.part(row * channels, channels) };
            keep.copy_from_slice(sources[shape.taps - 1]);
        }
        let first = block * per_block;
        for head in first..(first + per_block).min(heads) {
            convolve_head(spec, rows, row, head, sources, inputs, &places);
        }
    });
}

/// The inputs that the convolution of a row looks at, the row itself last; the places before them
/// are not used.
fn sources<'a>(
    rows: &DeltaRows<'_>,
    row: usize,
    taps: usize,
    channels: usize,
    mixed: &'a [f32],
    held: &'a [f32],
    past: &'a Past,
) -> [&'a [f32]; MAX_TAPS] {
    let of = |row: usize| match row.checked_sub(rows.held) {
        Some(new) => &mixed[new * channels..][..channels],
        None => &held[row * channels..][..channels],
    };
    let own = &mixed[row * channels..][..channels];
    let ancestors = rows.ancestors(row).map(of).chain((0..).map(|back| past.row(back)));
    let mut sources = [own; MAX_TAPS];
    for (place, source) in sources[MAX_TAPS - taps..MAX_TAPS - 1].iter_mut().rev().zip(ancestors) {
        *place = source;
    }
    sources
}

/// One head of one row: `head` counts queries, then keys, then values.
fn convolve_head(
    spec: &DeltaSpec<'_>,
    rows: &DeltaRows<'_>,
    row: usize,
    head: usize,
    sources: &[&[f32]],
    inputs: &DeltaInputs<'_>,
    places: &Places,
) {
    let shape = spec.shape;
    let (part, own) = match head {
        h if h < shape.k_heads => (Part::Query, h),
        h if h < 2 * shape.k_heads => (Part::Key, h - shape.k_heads),
        h => (Part::Value, h - 2 * shape.k_heads),
    };
    let kept = rows.held + row;
    // SAFETY: every head of every row is visited once, and their places do not overlap.
    let (channel, out) = unsafe {
        match part {
            Part::Query => {
                let at = own * shape.k_dim;
                (at, places.q.part(row * shape.k_width() + at, shape.k_dim))
            }
            Part::Key => {
                let at = own * shape.k_dim;
                (shape.k_width() + at, places.k.part(kept * shape.k_width() + at, shape.k_dim))
            }
            Part::Value => {
                let at = own * shape.v_dim;
                (2 * shape.k_width() + at, places.v.part(kept * shape.v_width() + at, shape.v_dim))
            }
        }
    };
    convolve(sources, spec.conv, channel, out);
    match part {
        Part::Query => normalise(out, 1.0 / (shape.k_dim as f32).sqrt()),
        Part::Key => normalise(out, 1.0),
        Part::Value => {
            // SAFETY: as above.
            let gates = unsafe { places.gates.part((kept * shape.v_heads + own) * 2, 2) };
            let at = row * shape.v_heads + own;
            gates[0] = (spec.rates[own] * softplus(inputs.a[at] + spec.dt_bias[own])).exp();
            gates[1] = 1.0 / (1.0 + (-inputs.b[at]).exp());
        }
    }
}

/// `ln(1 + exp(x))`; beyond 20 that is `x`, as in the reference implementation.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

simd_fn! {
    /// `out = silu(sum over taps of source * weight)` for the channels from `channel` on.
    fn convolve<S>(sources: &[&[f32]], weights: &[f32], channel: usize, out: &mut [f32]) {
        let channels = weights.len() / sources.len();
        assert!(channel + out.len() <= channels && sources.iter().all(|source| source.len() == channels));
        let mut i = 0;
        while i < out.len() {
            let part = S::LANES.min(out.len() - i);
            // SAFETY: `part` values from `channel + i` on exist in every source and in every tap's weights, and from
            // `i` on in `out`; simd_fn runs this only where the set exists.
            unsafe {
                let mut sum = S::splat(0.0);
                for (tap, source) in sources.iter().enumerate() {
                    let x = S::load_part(source.as_ptr().add(channel + i), part);
                    let w = S::load_part(weights.as_ptr().add(tap * channels + channel + i), part);
                    sum = S::fma(x, w, sum);
                }
                S::store_part(out.as_mut_ptr().add(i), S::mul(sum, sigmoid::<S>(sum)), part);
            }
            i += S::LANES;
        }
    }
}

simd_fn! {
    /// Brings `x` to the length `length`.
    fn normalise<S>(x: &mut [f32], length: f32) {
        // SAFETY: whole vectors and a masked rest within `x`; simd_fn runs this only where the set exists.
        unsafe {
            let mut squares = S::splat(0.0);
            for i in (0..x.len()).step_by(S::LANES) {
                let v = S::load_part(x.as_ptr().add(i), S::LANES.min(x.len() - i));
                squares = S::fma(v, v, squares);
            }
            let factor = S::splat(length / (S::sum(squares) + LENGTH_EPS).sqrt());
            for i in (0..x.len()).step_by(S::LANES) {
                let part = S::LANES.min(x.len() - i);
                let p = x.as_mut_ptr().add(i);
                S::store_part(p, S::mul(S::load_part(p, part), factor), part);
            }
        }
    }
}
