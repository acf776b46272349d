//! Attention of one layer at the shapes of models in use: decode, verification and prefill.
//! Prints the time per call; `LEVERET_ISA` picks the instruction set.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use leveret_kernels::Team;
use leveret_kernels::attention::{AttentionScratch, AttentionSpec, KvBuffer, KvType, Visible, attention};
use std::hint::black_box;

/// Name, heads, kv heads, head dimension.
const SHAPES: [(&str, usize, usize, usize); 4] = [
    ("smollm2-135m", 9, 3, 64),
    ("gemma3-270m", 4, 1, 256),
    ("qwen2.5-0.5b", 14, 2, 64),
    ("qwen2.5-1.5b", 12, 2, 128),
];
/// Committed positions, rows of the pass.
const PASSES: [(usize, usize); 4] = [(2048, 1), (4096, 1), (2048, 8), (0, 512)];

fn shapes(c: &mut Criterion) {
    for threads in [1, Team::default_threads()] {
        let team = Team::new(threads);
        for (name, heads, kv_heads, dim) in SHAPES {
            let mut group = c.benchmark_group(format!("{name}/{}", team.threads()));
            group.sample_size(30).warm_up_time(std::time::Duration::from_millis(300));
            group.measurement_time(std::time::Duration::from_secs(1));
            for (base, m) in PASSES {
                let scale = 1.0 / (dim as f32).sqrt();
                let spec = AttentionSpec {
                    heads,
                    kv_heads,
                    k_dim: dim,
                    v_dim: dim,
                    scale,
                    window: None,
                    sinks: None,
                };
                let row: Vec<f32> =
                    (0..(base + m) * kv_heads * dim).map(|i| (i as f32 * 0.7).sin()).collect();
                // Several layers, so that a decode step finds its keys as far away as in a model.
                let layers: Vec<KvBuffer> = (0..16)
                    .filter_map(|_| {
                        let mut kv = KvBuffer::new(KvType::F16, kv_heads, dim, dim, base + m)?;
                        kv.write(0, &row, &row);
                        Some(kv)
                    })
                    .collect();
                let q: Vec<f32> = (0..m * heads * dim).map(|i| (i as f32 * 0.3).cos()).collect();
                let mut out = vec![0.0; q.len()];
                let mut scratch = AttentionScratch::default();
                let rows = Visible::chain(base, m);
                let keys: usize = (0..m).map(|i| base + i + 1).sum();
                group.throughput(Throughput::Elements((4 * keys * heads * dim) as u64));
                let mut layer = 0;
                group.bench_function(BenchmarkId::new(format!("rows {m}"), base), |b| {
                    b.iter(|| {
                        layer = (layer + 1) % layers.len();
                        attention(&team, &spec, &layers[layer], &rows, black_box(&q), &mut out, &mut scratch);
                    });
                });
            }
        }
    }
}

criterion_group!(benches, shapes);
criterion_main!(benches);
