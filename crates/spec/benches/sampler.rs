//! What a row of logits costs the sampler, at the vocabulary of Qwen2.5, under settings in use.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use leveret_spec::{Sampler, SamplingParams};

const VOCAB: usize = 151_936;

/// Sums of eight uniform values: few tokens far above the rest, as in a text.
fn logits() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 1e7
    };
    (0..VOCAB).map(|_| (0..8).map(|_| uniform()).sum::<f32>() * 3.0).collect()
}

fn rows(c: &mut Criterion) {
    let logits = logits();
    let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let settings = [
        ("greedy", SamplingParams::default()),
        ("greedy, penalty", SamplingParams { presence_penalty: 0.5, ..SamplingParams::default() }),
        ("sampled", base.clone()),
        ("hot", SamplingParams { temperature: 20.0, ..base.clone() }),
        ("top-k 40", SamplingParams { top_k: 40, ..base.clone() }),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..base.clone() }),
        (
            "top-k 20, top-p 0.8, T 0.7",
            SamplingParams { temperature: 0.7, top_k: 20, top_p: 0.8, ..base.clone() },
        ),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..base }),
    ];
    let mut group = c.benchmark_group("row");
    for (name, params) in settings {
        let Ok(mut sampler) = Sampler::new(&params, VOCAB, &[1, 2, 3, 4]) else { continue };
        group.bench_function(name, |b| {
            b.iter(|| black_box(sampler.sample(&logits)).map(|token| sampler.push(token)));
        });
    }
    if let Ok(mut sampler) = Sampler::new(&SamplingParams::default(), VOCAB, &[]) {
        group.bench_function("logprobs 5", |b| b.iter(|| black_box(sampler.logprobs(&logits, 7, 5))));
    }
    group.finish();
}

criterion_group!(benches, rows);
criterion_main!(benches);
