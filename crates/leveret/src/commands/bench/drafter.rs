//! `leveret bench drafter`: what a step of each drafter takes beside a pass of its target, in bytes
//! read and in time.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::HumanBytes;
use leveret_kernels::settle_for;
use leveret_model::drafters::{Branch, Committed, Description, Features, Guesser};
use leveret_model::{Cache, KvType, LogitRows, Model, Pass, Tap, Target};
use leveret_spec::{Choice, Draw, DrawScratch, SamplingParams};
use serde_json::{Value, json};

use super::speed::{median, title};
use crate::cli::Usage;
use crate::draft_model::{DraftModel, HeadArgs};
use crate::machine;
use crate::model::{self, EngineArgs, Loaded, positive};
use crate::streams::stdout;

/// Rows that read the text before the measurement.
const CHUNK: usize = 128;
/// Tokens that are looked for behind each, as in drafting.
const CHOICES: usize = 4;

/// Measure what a step of each drafter takes beside a pass of its target.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A step is one token of a chain, or a whole block with all choices along it. Bytes are those of weights,
keys, values and states that are read: the target's head too where a drafter shares it, and of clustered
and trimmed heads the rows that are read. Shares are of a pass of the target, which reads a token. The
last column compares time with bytes, 1 being as quick as the target: for a chain beside a pass over one
row, for a block beside a pass over as many rows as it guesses tokens.

  leveret synth llama --size 1b -o llama --with all
  leveret bench drafter llama llama-* --quantize q8_0")]
pub(crate) struct Args {
    /// The target: name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// Drafters for it, by name or path. Guessing layers in the target's own files come by themselves.
    drafters: Vec<String>,
    /// Write the figures to a file as well; - for standard output instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Tokens of text behind which passes and steps are measured.
    #[arg(long, value_name = "N", value_parser = positive, default_value = "256")]
    text: usize,
    /// Temperature at which tokens are looked for; 0 for the likeliest.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Rounds; figures are their medians.
    #[arg(long, value_name = "N", value_parser = positive, default_value = "24")]
    rounds: usize,
    #[command(flatten)]
    heads: HeadArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// A drafter at work on the text, and its times.
struct Subject {
    name: String,
    description: Description,
    guesser: Box<dyn Guesser>,
    seconds: Vec<f64>,
    draw: Draw,
    scratch: DrawScratch,
    choices: Vec<Choice>,
}

/// The rows of the target's last pass at all taps.
struct Rows<'a> {
    model: &'a Model,
    taps: &'a [Tap],
}

impl Features for Rows<'_> {
    fn feature(&self, tap: Tap, row: usize) -> &[f32] {
        let index = self.taps.iter().position(|&known| known == tap);
        index.map_or(&[], |index| self.model.feature(index, row))
    }
}

impl Subject {
    /// Tokens that one step guesses.
    fn depth(&self) -> usize {
        self.description.depth.unwrap_or(1)
    }

    /// Bytes that one step reads behind `text` rows.
    fn bytes(&self, text: usize, kv: KvType) -> u64 {
        let d = &self.description;
        let weights = d.bytes_per_step + (self.depth() - 1) * d.bytes_along;
        (weights + d.kv_values * text * value_bytes(kv)) as u64
    }

    /// Reads the rows `rows` of the last pass, which begin at `first`, and drafts behind them if
    /// `timed`.
    fn round(
        &mut self,
        tokens: &[u32],
        first: usize,
        rows: &[usize],
        features: &Rows<'_>,
        timed: bool,
    ) -> Result<()> {
        let committed = Committed { tokens, first, rows, features };
        let start = Instant::now();
        self.guesser.observe(&committed)?;
        if !timed {
            return Ok(());
        }
        self.guesser.begin(tokens)?;
        // A chain's first token is scored while the text is read; its step is the next one.
        let (start, last) = match self.description.depth {
            Some(depth) => (start, depth - 1),
            None => (self.choose(tokens, 0).map(|_| Instant::now()).context("no choices")?, 1),
        };
        for parent in 0..last {
            let Some(token) = self.choose(tokens, parent) else { bail!("{}: scores nothing", self.name) };
            self.guesser.expand(&[Branch { parent, token }])?;
        }
        self.choose(tokens, last);
        self.seconds.push(start.elapsed().as_secs_f64());
        Ok(())
    }

    /// The likeliest token behind a node.
    fn choose(&mut self, tokens: &[u32], node: usize) -> Option<u32> {
        let scores = self.guesser.scores(node);
        let position = (tokens.len() + node) as u64;
        self.draw.choices(position, &scores, CHOICES, &mut self.scratch, &mut self.choices);
        self.choices.first().map(|choice| choice.token)
    }
}

fn value_bytes(kv: KvType) -> usize {
    match kv {
        KvType::F16 => 2,
        KvType::F32 => 4,
    }
}

/// What was measured of a drafter, and of the target's passes beside it.
struct Figure<'a> {
    subject: &'a Subject,
    bytes: u64,
    seconds: f64,
    /// Seconds of the target's pass over one row, and over as many as the step guesses tokens.
    row_seconds: f64,
    pass_seconds: f64,
    pass_bytes: u64,
}

impl Figure<'_> {
    fn share_of_bytes(&self) -> f64 {
        self.bytes as f64 / self.pass_bytes as f64
    }

    fn quotient(&self) -> f64 {
        self.seconds / self.pass_seconds / self.share_of_bytes()
    }

    fn json(&self) -> Value {
        let d = &self.subject.description;
        json!({
            "drafter": self.subject.name,
            "family": d.family,
            "dialect": d.dialect,
            "tokens": self.subject.depth(),
            "bytes": self.bytes,
            "ms": self.seconds * 1e3,
            "share_of_bytes": self.share_of_bytes(),
            "share_of_time": self.seconds / self.row_seconds,
            "pass_of_rows_ms": self.pass_seconds * 1e3,
            "time_over_bytes": self.quotient(),
        })
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let source = model::open(Some(&args.model))?;
    let options = args.engine.load_options();
    let need = source.footprint(&options)?;
    let mut target = model::load(&source, &options)?;
    let mut subjects = subjects(args, &target)?;
    settle_for(Duration::from_secs(10));

    let mut depths: Vec<usize> = subjects.iter().map(Subject::depth).chain([1]).collect();
    depths.sort_unstable();
    depths.dedup();
    let passes = measure(args, &mut target.model, &mut subjects, &depths)?;

    let kv = target.model.kv_type();
    let caches = target.model.config().kv_values_read() * args.text * value_bytes(kv);
    let pass_bytes = need.bytes_per_token + need.state_bytes + caches as u64;
    let medians: Vec<f64> = subjects.iter_mut().map(|subject| median(&mut subject.seconds)).collect();
    let figures: Vec<Figure<'_>> = subjects
        .iter()
        .zip(medians)
        .map(|(subject, seconds)| {
            let place = depths.iter().position(|&depth| depth == subject.depth()).unwrap_or(0);
            let bytes = subject.bytes(args.text, kv);
            Figure {
                subject,
                bytes,
                seconds,
                row_seconds: passes[0],
                pass_seconds: passes[place],
                pass_bytes,
            }
        })
        .collect();

    let json = json!({
        "model": title(&source),
        "threads": target.model.threads(),
        "text": args.text,
        "temperature": args.temperature,
        "pass": {"bytes": pass_bytes, "ms": passes[0] * 1e3},
        "drafters": figures.iter().map(Figure::json).collect::<Vec<_>>(),
        "cpu": machine::cpu(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let out = &mut stdout();
    if args.json.as_ref().is_some_and(|path| path.as_os_str() == "-") {
        writeln!(out, "{json}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{}, {} threads, {}", title(&source), target.model.threads(), machine::cpu())?;
    writeln!(
        out,
        "a pass behind {} tokens reads {} in {:.2} ms\n",
        args.text,
        HumanBytes(pass_bytes),
        passes[0] * 1e3
    )?;
    table(&figures, out)?;
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{json}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(figures: &[Figure<'_>], out: &mut impl Write) -> Result<()> {
    let width = figures.iter().map(|figure| figure.subject.name.len()).max().unwrap_or(0).max(7);
    writeln!(
        out,
        "{:<width$}  tokens       reads    share      time    share  pass of rows      time  time / bytes",
        "drafter"
    )?;
    for figure in figures {
        let tokens = figure.subject.depth();
        writeln!(
            out,
            "{:<width$}{tokens:>8}{:>12}{:>7.1} %{:>7.2} ms{:>7.1} %{tokens:>14}{:>7.2} ms{:>14.2}",
            figure.subject.name,
            HumanBytes(figure.bytes).to_string(),
            figure.share_of_bytes() * 100.0,
            figure.seconds * 1e3,
            figure.seconds / figure.row_seconds * 100.0,
            figure.pass_seconds * 1e3,
            figure.quotient(),
        )?;
    }
    Ok(())
}

/// Tokens of context that the measurement takes with passes of up to `rows`.
fn room(args: &Args, rows: usize) -> usize {
    args.text.saturating_add(args.rounds).saturating_add(rows + 3)
}

/// The target's own layers, then the drafters that were named.
fn subjects(args: &Args, target: &Loaded) -> Result<Vec<Subject>> {
    let capacity = room(args, 256);
    let params = SamplingParams { temperature: args.temperature, ..SamplingParams::default() };
    params.validate().map_err(|error| Usage(error.to_string()))?;
    let draw = Draw::new(&params);
    let subject = |name: &str, model: &DraftModel| -> Result<Subject> {
        let network = Arc::clone(model.network());
        Ok(Subject {
            name: name.to_owned(),
            description: network.description().clone(),
            guesser: network.guesser(capacity)?,
            seconds: Vec::new(),
            draw,
            scratch: DrawScratch::default(),
            choices: Vec::new(),
        })
    };
    let mut subjects = Vec::new();
    if let Some(own) = DraftModel::own(target, &args.heads)? {
        subjects.push(subject("own", &own)?);
    }
    for name in &args.drafters {
        let model = DraftModel::load(name, target, &args.heads)?;
        let short = std::path::Path::new(name).file_stem().unwrap_or(name.as_ref()).to_string_lossy();
        subjects.push(subject(&short, &model)?);
    }
    if subjects.is_empty() {
        bail!("{}: holds no layers that guess; name a drafter", args.model);
    }
    Ok(subjects)
}

/// Rounds of passes and steps in turn, so that a disturbance hits all alike. Returns the target's
/// seconds for passes over `depths` rows.
fn measure(args: &Args, model: &mut Model, subjects: &mut [Subject], depths: &[usize]) -> Result<Vec<f64>> {
    let most = depths.iter().max().copied().unwrap_or(1);
    let text = args.text;
    let room = room(args, most);
    if room > model.max_context() {
        bail!("{room} tokens, but the model's context is {}: ask for a shorter --text", model.max_context());
    }
    let mut taps: Vec<Tap> = Vec::new();
    for tap in subjects.iter().flat_map(|subject| &subject.description.taps) {
        if !taps.contains(tap) {
            taps.push(*tap);
        }
    }
    let tokens = super::speed::tokens(model.vocab_size(), room + 1);
    let mut cache = model.new_cache(room)?;
    let mut pass =
        |model: &mut Model, first: usize, rows: usize, keep: usize, logits: LogitRows| -> Result<f64> {
            let tokens = &tokens[first..first + rows];
            let start = Instant::now();
            model.forward(&mut [Pass { cache: &mut cache, tokens, parents: None, logits }], &taps)?;
            let seconds = start.elapsed().as_secs_f64();
            cache.commit(&(0..keep).collect::<Vec<_>>())?;
            Ok(seconds)
        };
    let mut read = 0;
    while read < text {
        let rows = CHUNK.min(text - read);
        pass(model, read, rows, rows, LogitRows::None)?;
        let all: Vec<usize> = (0..rows).collect();
        for subject in &mut *subjects {
            let features = Rows { model, taps: &taps };
            subject.round(&tokens[..=read + rows], read, &all, &features, false)?;
        }
        read += rows;
    }
    // The first two rounds warm up.
    let mut seconds = vec![Vec::new(); depths.len()];
    for round in 0..args.rounds.max(1) + 2 {
        let mut times = Vec::new();
        for &depth in depths.iter().filter(|&&depth| depth > 1) {
            times.push(pass(model, read, depth, 0, LogitRows::All)?);
        }
        // The row that is kept comes last: drafters read it.
        times.insert(0, pass(model, read, 1, 1, LogitRows::All)?);
        for subject in &mut *subjects {
            let features = Rows { model, taps: &taps };
            subject.round(&tokens[..=read + 1], read, &[0], &features, true)?;
        }
        read += 1;
        if round >= 2 {
            seconds.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
        } else {
            subjects.iter_mut().for_each(|subject| subject.seconds.clear());
        }
    }
    Ok(seconds.iter_mut().map(|times| median(times)).collect())
}
