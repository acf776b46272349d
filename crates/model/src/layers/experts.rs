//! A mixture of experts: each row is sent through the few MLPs that its router prefers.
//!
//! Pairs of row and expert are grouped by expert, so that each expert's weights are read once for
//! all its rows; a row adds its experts up in the order of its own preference, whatever the group.

use super::{Context, Gated, Scratch, add_normed, fill_normed, room};
use crate::config::{ExpertsConfig, MlpConfig, Routing};
use leveret_kernels::ops::{add_assign, add_scaled, log_sum_exp, scale, softmax};
use leveret_kernels::{Job, Matrix, Rows, matmul, par_rows};

/// Router and experts of one layer.
#[derive(Debug)]
pub(crate) struct Experts<M = Matrix> {
    pub(crate) router: M,
    /// The router reads the residual stream by way of this norm.
    pub(crate) router_norm: Option<Vec<f32>>,
    /// A factor on the weight of each expert.
    pub(crate) scales: Option<Vec<f32>>,
    pub(crate) experts: Vec<Gated<M>>,
    /// An MLP that every row takes besides.
    pub(crate) shared: Option<Box<Shared<M>>>,
}

/// A dense MLP whose output has a gate: the sigmoid of one product with the row.
#[derive(Debug)]
pub(crate) struct Shared<M = Matrix> {
    pub(crate) mlp: Gated<M>,
    /// One row.
    pub(crate) scale: M,
}

impl Shared {
    /// Sets `s.both` to the output for the normed rows in `s.x`.
    fn run(&self, context: &Context<'_>, config: &MlpConfig, s: &mut Scratch) {
        let (team, rows, hidden) = (context.team, s.x.rows(), context.config.hidden);
        let mut memory = std::mem::take(&mut s.both);
        let sum = room(&mut memory, rows * hidden);
        sum.fill(0.0);
        self.mlp.run(context, config.activation, None, sum, s);
        let gates = room(&mut s.gate, rows);
        matmul(team, &s.x, &mut [Job { matrix: &self.scale, rows: Rows::All, out: &mut *gates, add: false }]);
        par_rows(team, (sum, hidden), (gates, 1), |_, sum, gate| {
            scale(sum, 1.0 / (1.0 + (-gate[0]).exp()));
        });
        s.both = memory;
    }
}

/// A dense MLP and experts that read the same residual stream, each with norms of its own.
#[derive(Debug)]
pub(crate) struct Beside<M = Matrix> {
    pub(crate) dense: Gated<M>,
    pub(crate) dense_after: Vec<f32>,
    pub(crate) experts: Experts<M>,
    pub(crate) experts_before: Vec<f32>,
    pub(crate) experts_after: Vec<f32>,
}

impl Beside {
    /// Adds the output to `h`; `s.x` holds the normed rows for the dense MLP.
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        config: &MlpConfig,
        after: Option<&[f32]>,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        let mut memory = std::mem::take(&mut s.both);
        let both = room(&mut memory, h.len());
        both.fill(0.0);
        self.dense.run(context, config.activation, Some(&self.dense_after), both, s);
        fill_normed(context.team, &mut s.x, h, &self.experts_before, context.config.norm_eps);
        self.experts.route(context, config, h, s);
        self.experts.run(context, config, Some(&self.experts_after), both, s);
        match after {
            Some(weight) => add_normed(context, both, weight, h),
            None => add_assign(h, both),
        }
        s.both = memory;
    }
}

/// Who goes where in one pass, grouped by expert.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    logits: Vec<f32>,
    /// `[rows][used]`: experts in order of preference, and their weights.
    chosen: Vec<u32>,
    weights: Vec<f32>,
    /// `[experts + 1]`: where each expert's pairs begin.
    starts: Vec<u32>,
    /// `[rows][used]`: the place of each pair among the grouped ones.
    places: Vec<u32>,
    /// Row of each grouped pair.
    rows: Vec<u32>,
    /// Memory of the job list.
    jobs: Vec<Job<'static>>,
}

impl Experts {
    /// Chooses the experts of all rows; reads the normed rows in `s.x`, or the residual stream `h`.
    pub(crate) fn route(&self, context: &Context<'_>, config: &MlpConfig, h: &[f32], s: &mut Scratch) {
        let Some(experts) = config.experts else { return };
        let (team, rows, used) = (context.team, s.x.rows(), experts.used);
        let x = match &self.router_norm {
            None => &s.x,
            Some(norm) => {
                fill_normed(team, &mut s.inner, h, norm, context.config.norm_eps);
                &s.inner
            }
        };
        let routes = &mut s.routes;
        let logits = room(&mut routes.logits, rows * experts.count);
        matmul(team, x, &mut [Job { matrix: &self.router, rows: Rows::All, out: logits, add: false }]);
        let logits = &*logits;
        let chosen = room(&mut routes.chosen, rows * used);
        let weights = room(&mut routes.weights, rows * used);
        par_rows(team, (chosen, used), (weights, used), |row, chosen, weights| {
            let logits = &logits[row * experts.count..][..experts.count];
            choose(logits, &experts, self.scales.as_deref(), chosen, weights);
        });
        routes.group(experts.count, used, rows);
    }

    /// Adds the output of the chosen experts for the normed rows in `s.x` to `h`.
    pub(crate) fn run(
        &self,
        context: &Context<'_>,
        config: &MlpConfig,
        after: Option<&[f32]>,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        let Some(experts) = config.experts else { return };
        if let Some(shared) = &self.shared {
            shared.run(context, config, s);
        }
        let (team, rows, used) = (context.team, s.x.rows(), experts.used);
        let routes = &mut s.routes;
        let (pairs, width, hidden) = (rows * used, config.width, context.config.hidden);
        let gate = room(&mut s.gate, pairs * width);
        let up = room(&mut s.up, pairs * width);
        let mut jobs = recycle(std::mem::take(&mut routes.jobs));
        let (mut gates, mut ups) = (&mut *gate, &mut *up);
        for (expert, range) in self.active(&routes.starts) {
            let named = &routes.rows[range];
            let rows = Rows::List(named);
            jobs.push(Job {
                matrix: &expert.gate,
                rows: rows.clone(),
                out: take(&mut gates, named.len() * width),
                add: false,
            });
            jobs.push(Job { matrix: &expert.up, rows, out: take(&mut ups, named.len() * width), add: false });
        }
        matmul(team, &s.x, &mut jobs);
        let mut jobs = recycle(jobs);

        let part = |pair: usize| pair * width..(pair + 1) * width;
        s.inner.fill(team, pairs, width, |pair, out| {
            config.activation.apply(&gate[part(pair)], &up[part(pair)], out)
        });
        let down = room(&mut s.heads, pairs * hidden);
        let mut downs = &mut *down;
        for (expert, range) in self.active(&routes.starts) {
            let out = take(&mut downs, range.len() * hidden);
            jobs.push(Job { matrix: &expert.down, rows: Rows::Range(range), out, add: false });
        }
        matmul(team, &s.inner, &mut jobs);
        routes.jobs = recycle(jobs);

        let (down, routes, both) = (&*down, &*routes, &s.both);
        let combine = |row: usize, sum: &mut [f32]| {
            for slot in row * used..(row + 1) * used {
                let place = routes.places[slot] as usize;
                add_scaled(sum, &down[place * hidden..][..hidden], routes.weights[slot]);
            }
            if self.shared.is_some() {
                add_assign(sum, &both[row * hidden..][..hidden]);
            }
        };
        let nothing = &mut [] as &mut [f32];
        match after {
            None => par_rows(team, (h, hidden), (nothing, 0), |row, h, _| combine(row, h)),
            Some(weight) => {
                let out = room(&mut s.out, rows * hidden);
                out.fill(0.0);
                par_rows(team, (&mut *out, hidden), (nothing, 0), |row, sum, _| combine(row, sum));
                add_normed(context, out, weight, h);
            }
        }
    }

    /// The experts that some row goes to, each with the range of its grouped pairs.
    fn active<'a>(&'a self, starts: &'a [u32]) -> impl Iterator<Item = (&'a Gated, std::ops::Range<usize>)> {
        let ranges = starts.windows(2).map(|pair| pair[0] as usize..pair[1] as usize);
        self.experts.iter().zip(ranges).filter(|(_, range)| !range.is_empty())
    }
}

impl Routes {
    /// Groups the chosen pairs by expert, rows ascending within a group.
    fn group(&mut self, experts: usize, used: usize, rows: usize) {
        let chosen = &self.chosen[..rows * used];
        let starts = room(&mut self.starts, experts + 1);
        starts.fill(0);
        chosen.iter().for_each(|&e| starts[e as usize + 1] += 1);
        (0..experts).for_each(|e| starts[e + 1] += starts[e]);
        let places = room(&mut self.places, rows * used);
        let grouped = room(&mut self.rows, rows * used);
        for (slot, &e) in chosen.iter().enumerate() {
            let place = starts[e as usize];
            starts[e as usize] += 1;
            places[slot] = place;
            grouped[place as usize] = (slot / used) as u32;
        }
        // Each start has run on to the next one's.
        starts.copy_within(0..experts, 1);
        starts[0] = 0;
        self.starts.truncate(experts + 1);
    }
}

/// The experts with the largest logits, largest first, ties to the lower number, and their weights.
fn choose(
    logits: &[f32],
    config: &ExpertsConfig,
    scales: Option<&[f32]>,
    chosen: &mut [u32],
    weights: &mut [f32],
) {
    for slot in 0..chosen.len() {
        let free = |e: &usize| !chosen[..slot].contains(&(*e as u32));
        let better = |best: usize, e: usize| {
            let wins = logits[e] > logits[best] || (logits[best].is_nan() && !logits[e].is_nan());
            if wins { e } else { best }
        };
        // There are at least as many experts as slots.
        let best = (0..logits.len()).filter(free).reduce(better).unwrap_or(0);
        chosen[slot] = best as u32;
        weights[slot] = logits[best];
    }
    match config.routing {
        Routing::SoftmaxChosen => softmax(weights),
        Routing::SoftmaxAll => {
            let all = log_sum_exp(logits);
            weights.iter_mut().for_each(|w| *w = (*w - all).exp());
        }
    }
    if let Some(scales) = scales {
        weights.iter_mut().zip(chosen).for_each(|(w, &mut e)| *w *= scales[e as usize]);
    }
}

/// Splits `len` values off the front.
fn take<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (front, back) = std::mem::take(rest).split_at_mut(len);
    *rest = back;
    front
}

/// The memory of an emptied job list, for jobs that borrow something else.
fn recycle<'b>(mut jobs: Vec<Job<'_>>) -> Vec<Job<'b>> {
    jobs.clear();
    #[allow(clippy::unnecessary_filter_map)] // `filter` cannot change the type
    // Collecting in place keeps the allocation; nothing is left to convert.
    jobs.into_iter().filter_map(|_| None).collect()
}
