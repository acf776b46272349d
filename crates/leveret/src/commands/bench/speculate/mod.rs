//! `leveret bench speculate`: what guessing gains, over prompts of several kinds, beside plain
//! decoding of the same engine and the best fixed settings.

mod page;
mod report;
mod tally;
mod write;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use leveret_model::Target;
use leveret_spec::{Control, Options, SamplingParams};

use super::speed;
use crate::cli::Usage;
use crate::commands::sampling::AcceptRule;
use crate::control::Costs;
use crate::drafter::DrafterSpec;
use crate::machine;
use crate::model::{self, EngineArgs, positive};
use crate::progress::Steps;
use crate::prompts::{self, Prompt};
use crate::streams::tell;
use report::Report;
use tally::Sample;
use write::{Desk, Plan};

/// Compare speculation with plain decoding, side by side on the same prompts.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// Files of prompts: Spec-Bench, HumanEval or {"turns": […]} lines.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    prompts: Vec<PathBuf>,
    /// What guesses ahead, as for `leveret run`; auto has no earlier answers here.
    #[arg(long, value_name = "A,…", value_delimiter = ',', default_value = "auto")]
    drafters: Vec<DrafterSpec>,
    /// How far is guessed: price, ratio, fixed:N or pmin:P.
    #[arg(long, value_name = "C,…", value_delimiter = ',', default_value = "price")]
    control: Vec<Control>,
    /// Verify by these rules.
    #[arg(long, value_enum, value_name = "RULE,…", value_delimiter = ',', default_value = "match")]
    accept: Vec<AcceptRule>,
    /// Draw at these temperatures; 0 is greedy.
    #[arg(long, value_name = "T,…", value_delimiter = ',', default_value = "0")]
    temperature: Vec<f32>,
    /// Key of the noise.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Tokens to write for each turn.
    #[arg(long, short = 'n', value_name = "N", value_parser = positive, default_value = "128")]
    max_tokens: usize,
    /// Use only N prompts of each category, spread evenly over it.
    #[arg(long, value_name = "N", value_parser = positive)]
    limit: Option<usize>,
    /// Write everything N times; of each text the fastest counts.
    #[arg(long, value_name = "N", value_parser = positive, default_value = "1")]
    rounds: usize,
    /// Also run every drafter with fixed numbers of rows and least chances, to see what control loses to
    /// the best of them.
    #[arg(long)]
    sweep: bool,
    /// Write the figures as JSON; - writes them to standard output instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the token ids of every turn, an object a line, for other engines to continue.
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Write a report with plots that opens without a network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the plot of speed-up by category as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

const NOTES: &str = "\
Plain decoding and every combination of the options write each turn side by side, some tokens at a
time in an order that rotates, so that what else the machine does falls on all of them alike. Speed is
that of decoding: the prompt and the token that comes with it are left out.
The speed-up of a category is its time per token, plain over speculative; the interval holds 95% of
it when prompts are drawn anew. worst_prompt_ratio is the longest time per token of a prompt over
that of plain decoding, among answers of 100 tokens and more if there are any: above 1 is slower.
A turn's answer goes into the history of the next. Where texts must be equal and are not, the exit
code is 1.

Example:
  leveret bench speculate qwen2.5-coder-1.5b --prompts code_edit.jsonl spec_bench.jsonl \\
    --drafters auto,suffix --limit 4 --sweep --json speculate.json --html speculate.html";

/// What `--sweep` adds.
const SWEEP: [Control; 12] = [
    Control::Fixed(1),
    Control::Fixed(2),
    Control::Fixed(3),
    Control::Fixed(4),
    Control::Fixed(6),
    Control::Fixed(8),
    Control::Fixed(12),
    Control::Fixed(16),
    Control::PMin(0.3),
    Control::PMin(0.5),
    Control::PMin(0.7),
    Control::PMin(0.9),
];

/// One way of speculating.
#[derive(Debug, Clone, PartialEq)]
struct Setup {
    drafter: DrafterSpec,
    control: Control,
    accept: AcceptRule,
    temperature: f32,
    /// There only to be compared with.
    swept: bool,
}

impl Setup {
    /// Whether its texts must be those of plain decoding.
    fn keeps_texts(&self) -> bool {
        self.accept == AcceptRule::Match || self.temperature == 0.0
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.accept.contains(&AcceptRule::Confadapt) {
        bail!("--accept confadapt verifies nothing: there is no acceptance to measure");
    }
    let prompts = read_prompts(args)?;
    if args.drafters.iter().any(DrafterSpec::names_own_store) {
        let what =
            "--drafters store: a bench keeps no answers of its own; name a file of them, as in store:FILE";
        return Err(Usage(what.into()).into());
    }
    for &temperature in &args.temperature {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        params.validate().map_err(|error| Usage(format!("--temperature: {error}")))?;
    }
    let setups = setups(args);
    if setups.is_empty() {
        let what = "--drafters none: plain decoding is measured anyway; name something that guesses, as in --drafters auto";
        return Err(Usage(what.into()).into());
    }
    let source = model::open(Some(&args.model))?;
    let load = args.engine.load_options();
    let mut loaded = model::load(&source, &load)?;
    let mut sources = BTreeMap::new();
    for setup in &setups {
        // Loaded once, however many setups share it.
        if let Entry::Vacant(place) = sources.entry(setup.drafter.to_string()) {
            place.insert(setup.drafter.load(&loaded)?);
        }
    }
    let curve = speed::pass_seconds(&mut loaded.model, 256, 3)?.unwrap_or_default();
    let options = Options {
        context: args.engine.context_within(loaded.model.max_context()),
        end_tokens: loaded.words.tokenizer.end_ids().to_vec(),
        // What is kept may be of a busier hour.
        cost: Costs::of(&loaded, &source).measure(&mut loaded.model)?,
        ..Options::default()
    };

    let plan = Plan {
        setups: &setups,
        sources: &sources,
        options,
        rounds: args.rounds,
        max_tokens: args.max_tokens,
        seed: args.seed,
    };
    let turns: usize = prompts.iter().map(|prompt| prompt.turns.len()).sum();
    let mut steps = Steps::new("speculate", (plan.texts_per_turn() * turns) as u64);
    let mut desk = Desk::new(&mut loaded, &plan);
    let mut samples: Vec<Sample> = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        steps.label(&format!("{} {}", prompt.category, prompt.name));
        samples.extend(desk.write(i, prompt, &mut steps)?);
    }
    drop(steps);
    desk.troubles.iter().for_each(|trouble| tell!("{trouble}"));
    if desk.left_out > 0 {
        tell!(
            "{} turns do not fit into a context of {} tokens: left out",
            desk.left_out,
            plan.options.context
        );
    }
    if let Some(path) = &args.ids {
        save(path, &desk.ids)?;
    }
    if samples.is_empty() {
        bail!("no prompt fits into a context of {} tokens", plan.options.context);
    }

    let report = Report {
        model: speed::title(&source),
        threads: loaded.model.threads(),
        cpu: machine::cpu(),
        max_tokens: args.max_tokens,
        rounds: args.rounds,
        setups: &setups,
        samples: &samples,
        curve: &curve,
    };
    report.write(args)?;
    let differing: Vec<&Sample> =
        samples.iter().filter(|sample| !sample.equal && setups[sample.setup].keeps_texts()).collect();
    match differing.first() {
        None => Ok(ExitCode::SUCCESS),
        Some(first) => bail!(
            "{} of {} texts differ from plain decoding; the first is prompt {} of {} with {}",
            differing.len(),
            samples.len(),
            first.prompt,
            first.category,
            report::label(&setups[first.setup])
        ),
    }
}

fn read_prompts(args: &Args) -> Result<Vec<Prompt>> {
    let mut list = Vec::new();
    for path in &args.prompts {
        list.extend(prompts::read(path)?);
    }
    Ok(prompts::spread_by_category(list, args.limit.unwrap_or(usize::MAX)))
}

/// Every combination, and what the sweep adds to each drafter.
fn setups(args: &Args) -> Vec<Setup> {
    let mut setups: Vec<Setup> = Vec::new();
    let mut add = |setup: Setup| {
        let known = |other: &Setup| Setup { swept: other.swept, ..setup.clone() } == *other;
        if setup.drafter != DrafterSpec::None && !setups.iter().any(known) {
            setups.push(setup);
        }
    };
    for swept in [false, true] {
        let controls = if swept { if args.sweep { &SWEEP[..] } else { &[] } } else { &args.control };
        for &temperature in &args.temperature {
            for &accept in &args.accept {
                for drafter in &args.drafters {
                    for &control in controls {
                        let drafter = drafter.clone();
                        add(Setup { drafter, control, accept, temperature, swept });
                    }
                }
            }
        }
    }
    setups
}

/// Writes a file of a report.
fn save(path: &std::path::Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
