//! From measured texts to figures of a category, with an interval that says how far to trust them.

use leveret_spec::{SplitMix64, Stats};

use crate::prompts::Prompt;

/// One prompt under one setup, all its turns together.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Index of the setup.
    pub(super) setup: usize,
    pub(super) prompt: String,
    pub(super) category: String,
    pub(super) file: String,
    pub(super) plain: Stats,
    pub(super) stats: Stats,
    /// Whether all texts are those of plain decoding.
    pub(super) equal: bool,
}

impl Sample {
    pub(super) fn new(setup: usize, prompt: &Prompt) -> Self {
        Self {
            setup,
            prompt: prompt.name.clone(),
            category: prompt.category.clone(),
            file: prompt.file.clone(),
            plain: Stats::default(),
            stats: Stats::default(),
            equal: true,
        }
    }

    /// Takes in a turn.
    pub(super) fn add(&mut self, plain: &Stats, stats: &Stats, equal: bool) {
        self.plain.add(plain);
        self.stats.add(stats);
        self.equal &= equal;
    }

    /// Its time per token over that of plain decoding; `None` where nothing was measured.
    pub(super) fn slowdown(&self) -> Option<f64> {
        slowdown(&self.times())
    }

    fn times(&self) -> Times {
        Times {
            plain: (self.plain.committed as f64, self.plain.decode_seconds),
            fast: (self.stats.committed as f64, self.stats.decode_seconds),
        }
    }
}

/// (tokens, seconds) of plain decoding and of speculation.
#[derive(Debug, Clone, Copy)]
struct Times {
    plain: (f64, f64),
    fast: (f64, f64),
}

/// Figures of one setup over some prompts.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    pub(super) category: String,
    pub(super) prompts: usize,
    /// Sums over all prompts.
    pub(super) plain: Stats,
    pub(super) stats: Stats,
    pub(super) speedup: f64,
    pub(super) interval: [f64; 2],
    /// Longest time per token of a prompt over that of plain decoding.
    pub(super) worst: f64,
    pub(super) texts_equal: bool,
}

/// Answers shorter than this say little about time, where there are longer ones.
const LONG: usize = 100;

impl Summary {
    fn new(category: &str, samples: &[&Sample]) -> Self {
        let (mut plain, mut stats) = (Stats::default(), Stats::default());
        for sample in samples {
            plain.add(&sample.plain);
            stats.add(&sample.stats);
        }
        let times: Vec<Times> = samples.iter().map(|sample| sample.times()).collect();
        let mut long = samples.iter().filter(|sample| sample.stats.tokens >= LONG);
        let worst = |samples: &mut dyn Iterator<Item = &&Sample>| {
            samples.filter_map(|sample| sample.slowdown()).fold(0.0, f64::max)
        };
        let worst_long = worst(&mut long);
        Self {
            category: category.to_owned(),
            prompts: samples.len(),
            plain,
            stats,
            speedup: speedup(times.iter()),
            interval: interval(&times),
            worst: if worst_long > 0.0 { worst_long } else { worst(&mut samples.iter()) },
            texts_equal: samples.iter().all(|sample| sample.equal),
        }
    }
}

/// Figures of the samples of one setup: of all, of each file if there are several, of each category.
pub(super) fn summaries(samples: &[&Sample]) -> Vec<Summary> {
    let mut result = vec![Summary::new("all", samples)];
    let mut files: Vec<&str> = Vec::new();
    let mut categories: Vec<&str> = Vec::new();
    for sample in samples {
        if !files.contains(&sample.file.as_str()) {
            files.push(&sample.file);
        }
        if !categories.contains(&sample.category.as_str()) {
            categories.push(&sample.category);
        }
    }
    let mut add = |name: &str, of: &dyn Fn(&Sample) -> bool| {
        if !result.iter().any(|summary| summary.category == name) {
            let chosen: Vec<&Sample> = samples.iter().copied().filter(|sample| of(sample)).collect();
            result.push(Summary::new(name, &chosen));
        }
    };
    for file in files.iter().filter(|_| files.len() > 1) {
        // A file whose prompts are all of one category of that file is shown as that category.
        let mut of_file = samples.iter().filter(|sample| sample.file == **file);
        let several =
            of_file.next().is_some_and(|first| of_file.any(|other| other.category != first.category));
        if several {
            add(file, &|sample| sample.file == **file);
        }
    }
    for category in categories {
        add(category, &|sample| sample.category == category);
    }
    result
}

/// Time per token, plain over speculative; 1 where nothing was measured.
fn speedup<'a>(times: impl Iterator<Item = &'a Times>) -> f64 {
    let mut sums = [0.0; 4];
    for Times { plain, fast } in times {
        for (sum, value) in sums.iter_mut().zip([plain.0, plain.1, fast.0, fast.1]) {
            *sum += value;
        }
    }
    let [plain_tokens, plain_seconds, tokens, seconds] = sums;
    let ratio = (plain_seconds * tokens) / (seconds * plain_tokens);
    if ratio.is_finite() && ratio > 0.0 { ratio } else { 1.0 }
}

fn slowdown(times: &Times) -> Option<f64> {
    (times.fast.0 > 0.0 && times.plain.0 > 0.0).then(|| 1.0 / speedup(std::iter::once(times)))
}

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// The middle 95% of the speed-up over sets of prompts drawn anew, with replacement, from those
/// that were measured (Efron's percentile interval). The draws are always the same.
fn interval(times: &[Times]) -> [f64; 2] {
    let mut stream = SplitMix64::new(0);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<Times> = times.iter().map(|_| times[stream.below(times.len())]).collect();
            speedup(drawn.iter())
        })
        .collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| values[((RESAMPLES - 1) as f64 * share).round() as usize];
    [at(0.025), at(0.975)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(file: &str, category: &str, plain: f64, fast: f64, tokens: usize) -> Sample {
        let stats = |seconds| Stats {
            committed: tokens,
            tokens,
            rounds: tokens,
            decode_seconds: seconds,
            ..Stats::default()
        };
        Sample {
            setup: 0,
            prompt: "1".into(),
            category: category.into(),
            file: file.into(),
            plain: stats(plain),
            stats: stats(fast),
            equal: true,
        }
    }

    #[test]
    fn prompts_that_agree_leave_no_doubt() {
        let same = [sample("f", "c", 2.0, 1.0, 50), sample("f", "c", 4.0, 2.0, 100)];
        let summary = Summary::new("c", &same.iter().collect::<Vec<_>>());
        assert!((summary.speedup - 2.0).abs() < 1e-12);
        assert!(summary.interval.iter().all(|end| (end - 2.0).abs() < 1e-9), "{:?}", summary.interval);
    }

    #[test]
    fn the_interval_holds_the_speedup_and_narrows_with_prompts() {
        let some = |n: usize| -> [f64; 3] {
            let list: Vec<Sample> =
                (0..n).map(|i| sample("f", "c", 2.0, if i % 2 == 0 { 1.0 } else { 2.0 }, 50)).collect();
            let summary = Summary::new("c", &list.iter().collect::<Vec<_>>());
            [summary.interval[0], summary.speedup, summary.interval[1]]
        };
        let (few, many) = (some(6), some(96));
        for [low, mid, high] in [few, many] {
            assert!((mid - 4.0 / 3.0).abs() < 1e-12 && low < mid && mid < high, "{low} {mid} {high}");
        }
        assert!(few[0] >= 1.0 && few[2] <= 2.0 && many[2] - many[0] < 0.5 * (few[2] - few[0]));
        // Times of half the prompts are 1, of the others 2; their mean over 96 draws has a
        // deviation of 0.5 / sqrt(96), and 1.96 of these around 1.5 are 1.4 and 1.6.
        assert!((many[0] - 2.0 / 1.6).abs() < 0.02 && (many[2] - 2.0 / 1.4).abs() < 0.02, "{many:?}");
    }

    #[test]
    fn the_worst_prompt_is_a_long_one() {
        let list =
            [sample("f", "c", 1.0, 3.0, 5), sample("f", "c", 1.0, 1.1, 200), sample("f", "c", 1.0, 0.5, 200)];
        let all: Vec<&Sample> = list.iter().collect();
        assert!((Summary::new("c", &all).worst - 1.1).abs() < 1e-12);
        assert!((Summary::new("c", &all[..1]).worst - 3.0).abs() < 1e-12, "where there is no long one");
    }

    #[test]
    fn all_files_and_categories_are_summed_up() {
        let list = [
            sample("spec", "qa", 1.0, 1.0, 10),
            sample("spec", "rag", 1.0, 1.0, 10),
            sample("edit", "edit", 1.0, 1.0, 10),
        ];
        let all: Vec<&Sample> = list.iter().collect();
        let seen: Vec<(String, usize)> =
            summaries(&all).into_iter().map(|s| (s.category, s.prompts)).collect();
        let expected = [("all", 3), ("spec", 2), ("qa", 1), ("rag", 1), ("edit", 1)];
        assert_eq!(seen, expected.map(|(name, count)| (name.to_owned(), count)));
    }
}
