//! `leveret bench speed`: how fast a model decodes, and how much more a pass over m rows costs than
//! one over a single row.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leveret_kernels::{MemoryStream, settle_for};
use leveret_model::{Cache, LogitRows, Model, Pass, Source, Target, Team};
use serde_json::json;

use crate::machine;
use crate::model::{self, EngineArgs};
use crate::plot::{self, Curve};
use crate::streams::{stdout, tell};

/// Rows of the measured passes.
const ROWS: [usize; 11] = [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32];
/// Rows of the measured rounds, and their number.
const ROUND_ROWS: usize = 8;
const ROUNDS: usize = 24;
/// Rows of the measured prompt.
const PROMPT: usize = 512;

/// Measure decode, prefill, and the time of a pass by its rows.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// Write the figures to a file as well; - for standard output instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the time of a pass by its rows.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Contexts at which passes are measured.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0,2048")]
    contexts: Vec<usize>,
    /// Measure twice instead of five times, and shorter.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Everything that was measured; seconds are medians.
struct Figures {
    decode: Decode,
    prefill_tps: f64,
    bytes_per_token: u64,
    /// Share of all processors that stood idle before we began; `None` where the system does not say.
    idle_share: Option<f64>,
    /// Absent where the context is too short.
    rounds: Option<Rounds>,
    /// By context and rows.
    pass_seconds: BTreeMap<usize, BTreeMap<usize, f64>>,
}

/// Plain decoding beside what the machine streams; medians.
struct Decode {
    tokens_per_second: f64,
    /// Bytes a second that all threads can read.
    bandwidth: f64,
    /// Bytes of weights read a second, as a share of what the machine streamed just before and after.
    bandwidth_share: f64,
}

/// Seconds of a round of [`ROUND_ROWS`] rows: pass, commit, and what of it is put off to the next.
struct Rounds {
    /// All rows are kept.
    accepted: f64,
    /// The draft is rejected: only the row of the last token is kept.
    rejected: f64,
}

impl Rounds {
    fn ratio(&self) -> f64 {
        self.rejected / self.accepted
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let source = model::open(Some(&args.model))?;
    let options = args.engine.load_options();
    let idle_share = idle_share(Duration::from_millis(500));
    let bytes_per_token = source.footprint(&options)?.bytes_per_token;
    let mut model = Model::load(&source, &options)?;
    // The first seconds after a load are slower, while weights still move to larger pages.
    settle_for(Duration::from_secs(10));
    let repeats = if args.quick { 2 } else { 5 };

    let mut bench = Bench::new(&mut model);
    let prefill = bench.prefill(repeats)?;
    let decode = bench.decode(repeats, if args.quick { 24 } else { 64 }, bytes_per_token)?;
    let rounds = bench.rounds()?;
    let mut pass_seconds = BTreeMap::new();
    for &context in &args.contexts {
        match bench.passes(context, repeats)? {
            Some(times) => drop(pass_seconds.insert(context, times)),
            None => tell!("context {context}: more than the model allows; left out"),
        }
    }
    let figures = Figures { decode, prefill_tps: prefill, bytes_per_token, idle_share, rounds, pass_seconds };

    let name = title(&source);
    let json = figures.json(&name, &model);
    match &args.json {
        Some(path) if path.as_os_str() == "-" => writeln!(stdout(), "{json}")?,
        other => {
            figures.table(&name, &model, &mut stdout())?;
            if let Some(path) = other {
                std::fs::write(path, format!("{json}\n")).with_context(|| path.display().to_string())?;
            }
        }
    }
    if let Some(path) = &args.svg {
        let curve = |(context, times): (&usize, &BTreeMap<usize, f64>)| Curve {
            label: format!("at context {context}"),
            points: times.iter().map(|(&m, &seconds)| (m as f64, seconds * 1e3)).collect(),
        };
        let curves: Vec<Curve> = figures.pass_seconds.iter().map(curve).collect();
        let title = format!("{name}, {} threads: time of a pass", model.threads());
        let svg = plot::standalone(&plot::lines(&title, "rows in the pass", "milliseconds", &curves));
        std::fs::write(path, svg).with_context(|| path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The model's file or folder, without its path.
pub(super) fn title(source: &Source) -> String {
    let path = source.path();
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Seconds of a pass by its rows after `context` tokens, medians of `repeats`; `None` if the model's
/// context is too short.
pub(super) fn pass_seconds(
    model: &mut Model,
    context: usize,
    repeats: usize,
) -> Result<Option<BTreeMap<usize, f64>>> {
    Bench::new(model).passes(context, repeats)
}

/// Any `count` ids do; these are spread over the vocabulary, so that experts are chosen as in a text.
pub(super) fn tokens(vocab: usize, count: usize) -> Vec<u32> {
    let id = |i: u64| (i.wrapping_mul(6_364_136_223_846_793_005).rotate_left(20) % vocab as u64) as u32;
    (1..=count as u64).map(id).collect()
}

/// A model and tokens to feed it.
struct Bench<'a> {
    model: &'a mut Model,
    tokens: Vec<u32>,
}

impl<'a> Bench<'a> {
    fn new(model: &'a mut Model) -> Self {
        Self { tokens: tokens(model.vocab_size(), 4096), model }
    }

    fn forward(
        &mut self,
        cache: &mut <Model as Target>::Cache,
        at: usize,
        rows: usize,
        logits: LogitRows,
    ) -> Result<()> {
        let tokens = &self.tokens[at % 2048..][..rows];
        Ok(self.model.forward(&mut [Pass { cache, tokens, parents: None, logits }], &[])?)
    }

    /// An empty cache, and one filled up to `context`.
    fn cache(&mut self, context: usize, room: usize) -> Result<<Model as Target>::Cache> {
        let mut cache = self.model.new_cache(context + room)?;
        while cache.len() < context {
            let rows = PROMPT.min(context - cache.len());
            self.forward(&mut cache, 0, rows, LogitRows::None)?;
            cache.commit(&(0..rows).collect::<Vec<_>>())?;
        }
        Ok(cache)
    }

    /// Tokens of prompt a second.
    fn prefill(&mut self, repeats: usize) -> Result<f64> {
        let rows = PROMPT.min(self.model.max_context());
        let mut cache = self.cache(0, rows)?;
        let mut times = Vec::new();
        for _ in 0..=repeats {
            let start = Instant::now();
            self.forward(&mut cache, 0, rows, LogitRows::Last)?;
            times.push(start.elapsed().as_secs_f64());
            cache.commit(&[])?;
        }
        Ok(rows as f64 / median(&mut times[1..]))
    }

    /// Plain decoding from an almost empty cache on, in turns with what the machine streams.
    fn decode(&mut self, repeats: usize, tokens: usize, bytes_per_token: u64) -> Result<Decode> {
        let tokens = tokens.min(self.model.max_context() / 2).max(1);
        let mut cache = self.cache(1, tokens)?;
        let team = Team::new(self.model.threads());
        let memory = MemoryStream::new(&team).context("no memory to measure bandwidth with")?;
        let mut before = memory.bytes_per_second(&team);
        let (mut times, mut streamed, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..=repeats {
            // The caches hold the stream's bytes now; in a text they would hold the model's.
            self.forward(&mut cache, 0, 1, LogitRows::Last)?;
            cache.commit(&[])?;
            let start = Instant::now();
            for i in 0..tokens {
                self.forward(&mut cache, i, 1, LogitRows::Last)?;
                cache.commit(&[0])?;
            }
            let seconds = start.elapsed().as_secs_f64();
            let after = memory.bytes_per_second(&team);
            let bandwidth = (before + after) / 2.0;
            before = after;
            times.push(seconds);
            streamed.push(bandwidth);
            shares.push((bytes_per_token * tokens as u64) as f64 / seconds / bandwidth);
            if cache.truncate(1).is_err() {
                // A recurrent state cannot go back.
                cache = self.cache(1, tokens)?;
            }
        }
        Ok(Decode {
            tokens_per_second: tokens as f64 / median(&mut times[1..]),
            bandwidth: median(&mut streamed[1..]),
            bandwidth_share: median(&mut shares[1..]),
        })
    }

    /// Rounds of two texts in turn: one keeps all rows of each, the other rejects every draft.
    fn rounds(&mut self) -> Result<Option<Rounds>> {
        let room = (ROUNDS + 1) * ROUND_ROWS;
        if room > self.model.max_context() {
            return Ok(None);
        }
        let (mut accepting, mut rejecting) = (self.model.new_cache(room)?, self.model.new_cache(room)?);
        let path: Vec<usize> = (0..ROUND_ROWS).collect();
        let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            for (cache, path, times) in
                [(&mut accepting, &path[..], &mut accepted), (&mut rejecting, &path[..1], &mut rejected)]
            {
                let start = Instant::now();
                self.forward(cache, round * ROUND_ROWS, ROUND_ROWS, LogitRows::All)?;
                cache.commit(path)?;
                times.push(start.elapsed().as_secs_f64());
            }
        }
        // The first round of each warms up and has nothing put off to it.
        Ok(Some(Rounds { accepted: median(&mut accepted[1..]), rejected: median(&mut rejected[1..]) }))
    }

    /// Seconds of a pass by its rows, all with logits; `None` if the model's context is too short.
    fn passes(&mut self, context: usize, repeats: usize) -> Result<Option<BTreeMap<usize, f64>>> {
        let most = ROWS[ROWS.len() - 1];
        if context + most > self.model.max_context() {
            return Ok(None);
        }
        let mut cache = self.cache(context, most)?;
        let mut times: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        // All sizes in turn, so that a disturbance hits all alike; the first turn warms up.
        for turn in 0..=repeats {
            for m in ROWS {
                let start = Instant::now();
                self.forward(&mut cache, turn * most, m, LogitRows::All)?;
                times.entry(m).or_default().push(start.elapsed().as_secs_f64());
                cache.commit(&[])?;
            }
        }
        Ok(Some(times.into_iter().map(|(m, mut times)| (m, median(&mut times[1..]))).collect()))
    }
}

/// The middle of some values, which are sorted for it.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

impl Figures {
    fn json(&self, name: &str, model: &Model) -> serde_json::Value {
        let milliseconds = |times: &BTreeMap<usize, f64>| -> BTreeMap<String, f64> {
            times.iter().map(|(m, seconds)| (m.to_string(), seconds * 1e3)).collect()
        };
        let by_context: BTreeMap<String, _> = self
            .pass_seconds
            .iter()
            .map(|(context, times)| (context.to_string(), milliseconds(times)))
            .collect();
        let first = self.pass_seconds.values().next();
        // Text keys would sort 12 before 2.
        let rows = |times: BTreeMap<String, f64>| -> serde_json::Map<String, serde_json::Value> {
            ROWS.iter().filter_map(|m| Some((m.to_string(), json!(times.get(&m.to_string())?)))).collect()
        };
        let by_context: serde_json::Map<_, _> =
            by_context.into_iter().map(|(context, times)| (context, rows(times).into())).collect();
        json!({
            "model": name,
            "threads": model.threads(),
            "decode_tps": self.decode.tokens_per_second,
            "prefill_tps": self.prefill_tps,
            "bandwidth_gbps": self.decode.bandwidth / 1e9,
            "bandwidth_share": self.decode.bandwidth_share,
            "pass_ms": first.map(milliseconds).map(rows).unwrap_or_default(),
            "pass_ms_by_context": by_context,
            "round": self.rounds.as_ref().map(|rounds| json!({
                "rows": ROUND_ROWS,
                "accepted_ms": rounds.accepted * 1e3,
                "rejected_ms": rounds.rejected * 1e3,
                "rejected_over_accepted": rounds.ratio(),
            })),
            "bytes_per_token": self.bytes_per_token,
            "idle_share": self.idle_share,
            "kv": format!("{:?}", model.kv_type()).to_lowercase(),
            "cpu": machine::cpu(),
            "version": env!("CARGO_PKG_VERSION"),
        })
    }

    fn table(&self, name: &str, model: &Model, out: &mut impl Write) -> Result<()> {
        writeln!(out, "{name}, {} threads, {}", model.threads(), machine::cpu())?;
        if let Some(idle) = self.idle_share {
            writeln!(out, "machine idle before   {:>9.0} %", idle * 100.0)?;
        }
        writeln!(out, "decode                {:>9.1} tokens/s", self.decode.tokens_per_second)?;
        writeln!(out, "prefill of {PROMPT}        {:>9.1} tokens/s", self.prefill_tps)?;
        writeln!(out, "memory bandwidth      {:>9.1} GB/s", self.decode.bandwidth / 1e9)?;
        writeln!(out, "share that decode uses{:>9.0} %", self.decode.bandwidth_share * 100.0)?;
        if let Some(rounds) = &self.rounds {
            let (accepted, rejected) = (rounds.accepted * 1e3, rounds.rejected * 1e3);
            let ratio = rounds.ratio();
            writeln!(
                out,
                "round of {ROUND_ROWS} rows       {accepted:>9.2} ms all kept, {rejected:.2} ms rejected: {ratio:.3}"
            )?;
        }
        write!(out, "\nrows")?;
        for context in self.pass_seconds.keys() {
            write!(out, "   at {context:>5}: ms   t(m)/t(1)")?;
        }
        writeln!(out)?;
        for m in ROWS {
            write!(out, "{m:>4}")?;
            for times in self.pass_seconds.values() {
                if let (Some(time), Some(one)) = (times.get(&m), times.get(&1)) {
                    write!(out, "{:>14.2}{:>12.2}", time * 1e3, time / one)?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Share of processor time that nobody uses, over `time`.
fn idle_share(time: Duration) -> Option<f64> {
    let read = || -> Option<(u64, u64)> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let fields = text.lines().next()?.split_whitespace().skip(1);
        let ticks: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
        // Idle, and waiting for a disk; guest time is part of the first field already.
        Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().take(8).sum()))
    };
    let (idle, all) = read()?;
    std::thread::sleep(time);
    let (idle_now, all_now) = read()?;
    (all_now > all).then(|| (idle_now - idle) as f64 / (all_now - all) as f64)
}
