//! How good is control? Replays recorded texts, `{"category", "prompt_ids", "ids"}` a line, through
//! sessions whose target writes just these texts, and counts time by a cost curve. So rules are
//! compared in seconds, free of the noise of a machine.
//!
//! `cargo run --release -p leveret-spec --example replay -- FILE.jsonl [time of 2 4 8 16 rows]`

use std::collections::{BTreeMap, HashMap};

use leveret_model::{Cache, LogitRows, Pass, Tap, Target};
use leveret_spec::drafters::SuffixDrafter;
use leveret_spec::{Control, CostCurve, Options, Request, SamplingParams, Session};

type Failure = Box<dyn std::error::Error>;

/// Writes one text, whatever guesses it is asked to look at.
struct Replay {
    text: Vec<u32>,
    vocab: usize,
    logits: Vec<Vec<f32>>,
    time: f64,
    curve: CostCurve,
}

struct ReplayCache {
    /// Committed tokens, all of the text.
    len: usize,
    /// For each row of the pass its position, or none if it has left the text.
    pass: Vec<Option<usize>>,
    capacity: usize,
}

impl Cache for ReplayCache {
    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn commit(&mut self, path: &[usize]) -> leveret_model::Result<()> {
        self.len += path.len();
        Ok(())
    }

    fn truncate(&mut self, len: usize) -> leveret_model::Result<()> {
        self.len = len;
        Ok(())
    }
}

impl Target for Replay {
    type Cache = ReplayCache;

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn max_context(&self) -> usize {
        usize::MAX
    }

    fn new_cache(&self, capacity: usize) -> leveret_model::Result<ReplayCache> {
        Ok(ReplayCache { len: 0, pass: Vec::new(), capacity })
    }

    fn forward(&mut self, passes: &mut [Pass<'_, ReplayCache>], _: &[Tap]) -> leveret_model::Result<()> {
        self.logits.clear();
        for pass in passes {
            let cache = &mut *pass.cache;
            if pass.logits == LogitRows::All {
                self.time += self.curve.time(pass.tokens.len(), cache.len);
            }
            cache.pass.clear();
            for (row, &token) in pass.tokens.iter().enumerate() {
                let parent = pass.parents.map_or(row.checked_sub(1), |parents| parents[row]);
                let at = parent.map_or(Some(cache.len), |p| cache.pass[p].map(|at| at + 1));
                cache.pass.push(at.filter(|&at| self.text.get(at) == Some(&token)));
                let wanted = match pass.logits {
                    LogitRows::None => false,
                    LogitRows::Last => row + 1 == pass.tokens.len(),
                    LogitRows::All => true,
                };
                if wanted {
                    let mut logits = vec![0.0; self.vocab];
                    let next = cache.pass[row].and_then(|at| self.text.get(at + 1));
                    logits[next.map_or(0, |&token| token as usize)] = 1.0;
                    self.logits.push(logits);
                }
            }
        }
        Ok(())
    }

    fn logits(&self, index: usize) -> &[f32] {
        &self.logits[index]
    }

    fn feature(&self, _: usize, _: usize) -> &[f32] {
        &[]
    }
}

struct Record {
    category: String,
    prompt: usize,
    text: Vec<u32>,
    vocab: usize,
}

/// Texts with their tokens numbered anew from 0 on, so that rows of logits are short.
fn read(path: &str) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let ids = |key: &str| serde_json::from_value::<Vec<u32>>(value[key].clone());
        let (prompt, output) = (ids("prompt_ids")?, ids("ids")?);
        let mut numbers = HashMap::new();
        let text = prompt.iter().chain(&output).map(|&id| {
            let next = numbers.len() as u32 + 1;
            *numbers.entry(id).or_insert(next)
        });
        let text: Vec<u32> = text.collect();
        let category = value["category"].as_str().unwrap_or("none").to_owned();
        if output.len() > 1 {
            records.push(Record { category, prompt: prompt.len(), text, vocab: numbers.len() + 1 });
        }
    }
    Ok(records)
}

/// Times of one-row passes that the text takes.
fn time(record: &Record, control: Control, curve: &CostCurve, max_draft: usize) -> Result<f64, Failure> {
    let (text, vocab) = (record.text.clone(), record.vocab);
    let mut target = Replay { text, vocab, logits: Vec::new(), time: 0.0, curve: curve.clone() };
    let request = Request {
        prompt: record.text[..record.prompt].to_vec(),
        params: SamplingParams {
            max_tokens: Some(record.text.len() - record.prompt),
            ..SamplingParams::default()
        },
        drafter: Some(Box::new(SuffixDrafter::default())),
        text: None,
    };
    let options = Options {
        context: record.text.len() + 1,
        cost: curve.clone(),
        follow_clock: false,
        control,
        max_draft,
        ..Options::default()
    };
    let mut session = Session::new(&target, request, options)?;
    session.run(&mut target)?;
    Ok(target.time / curve.time(1, 0))
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("expected a file of recorded texts")?;
    let times: Vec<f64> = args.map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let times = if times.len() == 4 { times } else { vec![1.05, 1.2, 1.5, 2.4] };
    let points: Vec<(usize, f64)> = [2, 4, 8, 16].into_iter().zip(times).collect();
    let curve = CostCurve::new(&[&[(1, 1.0)], &points[..]].concat())?;
    let records = read(&path)?;

    let mut rules = vec![Control::Price, Control::Ratio];
    rules.extend([1, 2, 3, 4, 6, 8, 12, 16].map(Control::Fixed));
    rules.extend([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9].map(Control::PMin));
    println!("{:<10} {:>8} {:>8}  speed-up by category", "rule", "all", "worst");
    for rule in rules {
        let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        let mut worst = f64::INFINITY;
        for record in &records {
            let time = time(record, rule, &curve, 16)?;
            // The first token comes with the prompt.
            let plain = (record.text.len() - record.prompt - 1) as f64;
            if plain >= 100.0 {
                worst = worst.min(plain / time);
            }
            for key in [record.category.as_str(), ""] {
                let sum = sums.entry(key).or_default();
                *sum = (sum.0 + plain, sum.1 + time);
            }
        }
        let all = sums.remove("").unwrap_or_default();
        print!("{:<10} {:>8.3} {:>8.3} ", rule.to_string(), all.0 / all.1, worst);
        for (name, (plain, time)) in sums {
            print!(" {name} {:.2}", plain / time);
        }
        println!();
    }
    Ok(())
}
