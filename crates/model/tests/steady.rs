//! Steady-state decoding allocates nothing: after the first rounds, passes reuse their buffers.

mod common;

use leveret_model::{Cache, LoadOptions, LogitRows, Model, Pass, Source, Target};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn decoding_allocates_nothing() {
    for case in
        ["llama", "gemma3", "gemma4-e", "gemma4-26b-a4b", "qwen3-moe", "qwen35", "qwen35-moe", "gpt-oss"]
    {
        assert_eq!(allocations(case, 1, 1), 0, "{case}");
        // A helper thread grows its buffers when it first claims such work, which the scheduler decides.
        assert_eq!(allocations(case, 2, 20), 0, "{case}, 2 threads");
    }
}

/// Allocations of 59 passes that follow 41 of the same kinds, at every place within a key tile: the fewest of so
/// many tries over the same places.
fn allocations(case: &str, threads: usize, tries: usize) -> usize {
    let source = Source::open(common::golden(&format!("{case}/target"))).unwrap();
    let mut model = Model::load(&source, &LoadOptions { threads, ..LoadOptions::default() }).unwrap();
    let mut cache = model.new_cache(128).unwrap();
    let tokens: Vec<u32> = (0..16).collect();
    let parents = [None, Some(0), Some(0), Some(2)];
    let mut round = |i: usize| {
        if cache.truncate(i).is_err() {
            // A recurrent state goes back to its beginning only.
            cache.truncate(0).unwrap();
            let (tokens, path) = (&tokens[..1].repeat(i), (0..i).collect::<Vec<_>>());
            let pass = Pass { cache: &mut cache, tokens, parents: None, logits: LogitRows::None };
            model.forward(&mut [pass], &[]).unwrap();
            cache.commit(&path).unwrap();
        }
        let (rows, parents) = if i.is_multiple_of(2) { (8, None) } else { (4, Some(&parents[..])) };
        let pass = Pass { cache: &mut cache, tokens: &tokens[..rows], parents, logits: LogitRows::All };
        model.forward(&mut [pass], &[]).unwrap();
        cache.commit(&[0]).unwrap();
    };
    (0..40).for_each(&mut round);
    let window = |_| {
        round(40);
        let region = Region::new(ALLOCATOR);
        (41..100).for_each(&mut round);
        let made = region.change();
        made.allocations + made.reallocations
    };
    (0..tries).map(window).min().unwrap()
}
