//! Products of few rows with weights in the cache, where arithmetic is the limit, and from memory, where streaming is.
//! Prints bytes of weights a second; `LEVERET_ISA` picks the instruction set.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use leveret_kernels::{Activations, ElementType, Job, Matrix, Rows, Team, matmul};

/// Inputs of a row, as of a model of one or two billion weights.
const COLS: usize = 1536;
/// Where the weights lie, and how many output features each thread has.
const PLACES: [(&str, usize); 2] = [("cache", 768), ("memory", 192 * 1024)];

fn rows(c: &mut Criterion) {
    for threads in [1, Team::default_threads()] {
        let team = Team::new(threads);
        for (place, features) in PLACES {
            for ty in [ElementType::Q4_1, ElementType::Q8_0, ElementType::Q4K, ElementType::Q6K] {
                let features = features * team.threads();
                let Some(row) = ty.row_bytes(COLS) else { continue };
                // Any bytes will do for codes and scales; f16 multipliers among them stay finite.
                let stored: Vec<u8> = (0..row * features).map(|i| (i * 7 % 61) as u8).collect();
                let Ok(matrix) = Matrix::pack(&team, ty, &stored, features, COLS) else { continue };
                leveret_kernels::settle_for(std::time::Duration::from_secs(20));
                let mut group = c.benchmark_group(format!("{place}/{}/{}", ty.name(), team.threads()));
                group.sample_size(20).warm_up_time(std::time::Duration::from_millis(300));
                group.measurement_time(std::time::Duration::from_secs(1));
                group.throughput(Throughput::Bytes(matrix.bytes() as u64));
                for m in [1, 2, 3, 4, 5, 6, 8, 12, 16] {
                    let values: Vec<f32> = (0..m * COLS).map(|i| (i as f32 * 0.3).sin()).collect();
                    let mut x = Activations::default();
                    x.fill(&team, m, COLS, |row, out| out.copy_from_slice(&values[row * COLS..][..COLS]));
                    let mut out = vec![0.0; m * features];
                    group.bench_function(BenchmarkId::from_parameter(m), |b| {
                        b.iter(|| {
                            let job = Job { matrix: &matrix, rows: Rows::All, out: &mut out, add: false };
                            matmul(&team, &x, &mut [job]);
                        });
                    });
                }
                group.finish();
            }
        }
    }
}

criterion_group!(benches, rows);
criterion_main!(benches);
