//! `leveret run`: writes the text that follows a prompt. Standard output carries that text (or
//! ids, or one JSON object) and nothing else.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result};
use clap::ValueEnum;
use leveret_model::{Model, Source, Target};
use leveret_spec::{Belief, FinishReason, Options, Request, RoundStats, Session};
use serde_json::{Value, json};

use super::sampling::SamplingArgs;
use crate::cli::Usage;
use crate::control::{ControlArgs, Costs};
use crate::drafter::{DrafterArgs, DrafterSpec};
use crate::model::{self, EngineArgs, Loaded};
use crate::streams::{Listener, stdout, tell};

/// Write the text that follows a prompt.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to say to the model.
    #[arg(required_unless_present = "prompt_file")]
    prompt: Option<String>,
    /// Read the prompt from a file; - for standard input.
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Name, hf:OWNER/REPO[/FILE] or path; the default is smollm2-135m-instruct.
    #[arg(long, short)]
    model: Option<String>,
    /// Continue the prompt as it stands, without the model's chat format.
    #[arg(long)]
    raw: bool,
    /// A system message before the prompt.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// What to write to standard output.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    /// Say what each round did and where its time went, one object a line, on standard error.
    #[arg(long, value_enum, value_name = "FORMAT")]
    stats: Option<StatsFormat>,
    /// Write the records of --stats to a file instead.
    #[arg(long, value_name = "FILE", requires = "stats")]
    stats_file: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    drafter: DrafterArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

const EXAMPLES: &str = "\
Examples:
  leveret run \"Explain what a leveret is.\"
  leveret run -m qwen2.5-coder-1.5b -f task.txt --temperature 0.8 --seed 7
  leveret run --raw --stop $'\\n\\n' --max-tokens 64 \"def fibonacci(n):\"
  leveret run --output json \"Hello\" | python3 -m json.tool

The JSON object has: model, prompt_ids, ids, text, finish_reason (stop, length, interrupted),
prompt_seconds, decode_seconds, tokens_per_second, rounds, drafted, accepted; with --logprobs
also logprobs. A record of --stats json has: round, context (tokens before it), rows (of its pass),
drafted, accepted, committed (tokens), seconds (draft, control, forward, sample, commit), drafters (of
its draft); the last line has total, the sums of the session. Exit codes: 0 done, 1 error, 2 usage, 130 interrupted.";

/// Form of the records of rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StatsFormat {
    /// JSON, one object a line.
    Json,
}

/// What standard output carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The text, as it comes.
    Text,
    /// The token ids, on one line.
    Ids,
    /// One object, at the end.
    Json,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let params = args.sampling.params()?;
    if params.logprobs.is_some() && args.output != Output::Json {
        return Err(Usage("--logprobs needs --output json".into()).into());
    }
    let prompt = read_prompt(args)?;
    let source = model::open(args.model.as_deref())?;
    let mut loaded = model::load(&source, &args.engine.load_options())?;
    let drafters = args.drafter.load(&loaded, &source)?;
    let believe = believed(args, &loaded)?;
    let costs = (!drafters.is_empty()).then(|| Costs::of(&loaded, &source));
    let (model, words) = (&mut loaded.model, &loaded.words);
    if words.template.is_none() && !args.raw {
        tell!("{}: has no chat template; the prompt is continued as it stands", source.path().display());
    }
    let ids = match args.raw {
        true => words.raw_prompt(&prompt)?,
        false => words.chat_prompt(&prompt, args.system.as_deref())?,
    };
    let drafter = drafters.build()?;
    let cost = costs.as_ref().map(|costs| costs.curve(model)).transpose()?.unwrap_or_default();
    let options = Options {
        context: args.engine.context_within(model.max_context()),
        end_tokens: words.tokenizer.end_ids().to_vec(),
        accept: args.sampling.accept(),
        control: args.control.control,
        cost: cost.clone(),
        believe,
        ..Options::default()
    };
    if believe.is_some() {
        tell!("--accept confadapt is LOSSY: the text is another than the model's own");
    }
    let prompt_ids = ids.clone();
    let request = Request { prompt: ids, params, drafter, text: Some(words.detokenizer()) };
    let mut session = Session::new(model, request, options)?;

    let interrupted = watch_for_interrupt()?;
    let mut records = records(args)?;
    write(&mut session, model, args.output, &mut records, &interrupted)?;
    if let Some(records) = &mut records {
        writeln!(records, "{}", json!({"total": session.stats()}))?;
        records.flush()?;
    }
    let stopped = interrupted.load(Relaxed) && session.finish_reason().is_none();
    if args.output == Output::Json {
        let mut object = report(&session, &source, prompt_ids);
        if args.sampling.wants_logprobs() {
            object["logprobs"] = serde_json::to_value(session.logprobs())?;
        }
        writeln!(stdout(), "{object}")?;
    }
    drafters.remember(session.output());
    if let Some(costs) = costs {
        costs.review(&cost, session.pass_seconds());
    }
    if let Some(trouble) = session.trouble() {
        tell!("{trouble}");
    }
    tell!("{}", summary(&session));
    Ok(if stopped { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// The masks whose guesses are not verified, if it was asked for.
fn believed(args: &Args, loaded: &Loaded) -> Result<Option<Belief>> {
    let Some(confidence) = args.sampling.confidence() else { return Ok(None) };
    let DrafterSpec::Mask(masks) = args.drafter.drafter else {
        return Err(Usage("--accept confadapt needs --drafter mask:K".into()).into());
    };
    Ok(Some(Belief { token: masks.token(loaded)?, rows: masks.count, confidence }))
}

fn read_prompt(args: &Args) -> Result<String> {
    match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => Ok(prompt.clone()),
        (None, Some(path)) => read_text(path),
        // The parser asks for one of the two.
        (None, None) => Err(Usage("a prompt is missing".into()).into()),
    }
}

/// The text of a file; of standard input for `-`.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(path).map(|read| text = read),
    };
    read.with_context(|| path.display().to_string())?;
    Ok(text)
}

/// The first Ctrl-C ends the text after the round at hand, the second at once.
pub(crate) fn watch_for_interrupt() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if flag.swap(true, Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot watch for Ctrl-C")?;
    Ok(interrupted)
}

/// Where records of rounds go, if they are wanted.
fn records(args: &Args) -> Result<Option<Box<dyn Write>>> {
    Ok(match (args.stats, &args.stats_file) {
        (None, _) => None,
        (Some(StatsFormat::Json), None) => Some(Box::new(Listener)),
        (Some(StatsFormat::Json), Some(path)) => {
            let file = File::create(path).with_context(|| path.display().to_string())?;
            Some(Box::new(BufWriter::new(file)))
        }
    })
}

/// What a round did, for scripts.
fn record(session: &Session<Model>, round: &RoundStats) -> Result<Value> {
    let mut drafters: Vec<&str> = Vec::new();
    for node in session.draft().nodes() {
        let name = session.origin_name(node.origin);
        if !drafters.contains(&name) {
            drafters.push(name);
        }
    }
    let mut record = json!({"round": session.stats().rounds});
    if let (Some(object), Value::Object(fields)) = (record.as_object_mut(), serde_json::to_value(round)?) {
        object.extend(fields);
    }
    record["drafters"] = json!(drafters);
    Ok(record)
}

/// Steps to the end of the text and writes what is certain as it comes.
fn write(
    session: &mut Session<Model>,
    model: &mut Model,
    output: Output,
    records: &mut Option<Box<dyn Write>>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let mut out = stdout();
    let mut first = true;
    let mut ends_line = true;
    while session.finish_reason().is_none() && !interrupted.load(Relaxed) {
        let step = session.step(model)?;
        match output {
            Output::Text if !step.text.is_empty() => {
                out.write_all(step.text.as_bytes())?;
                out.flush()?;
                ends_line = step.text.ends_with('\n');
            }
            Output::Ids => {
                for id in step.tokens {
                    write!(out, "{}{id}", if first { "" } else { " " })?;
                    first = false;
                }
                out.flush()?;
            }
            Output::Text | Output::Json => {}
        }
        if let (Some(records), Some(round)) = (records.as_mut(), step.round) {
            writeln!(records, "{}", record(session, &round)?)?;
        }
    }
    match output {
        Output::Ids => writeln!(out)?,
        // The text itself is not added to, but the summary should start on a line of its own.
        Output::Text if !ends_line && out.is_terminal() => tell!(""),
        _ => {}
    }
    Ok(())
}

/// The object of `--output json`.
fn report(session: &Session<Model>, source: &Source, prompt_ids: Vec<u32>) -> Value {
    let stats = session.stats();
    let reason = match session.finish_reason() {
        Some(FinishReason::Stop) => "stop",
        Some(FinishReason::Length) => "length",
        None => "interrupted",
    };
    json!({
        "model": source.path().display().to_string(),
        "prompt_ids": prompt_ids,
        "ids": session.output(),
        "text": session.text(),
        "finish_reason": reason,
        "prompt_seconds": stats.prompt_seconds,
        "decode_seconds": stats.decode_seconds,
        "tokens_per_second": stats.tokens_per_second(),
        "rounds": stats.rounds,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
    })
}

/// What it took, in one line.
fn summary(session: &Session<Model>) -> String {
    let stats = session.stats();
    let mut line = format!("{} tokens, {:.1} tokens/s", stats.tokens, stats.tokens_per_second());
    if stats.rounds > 0 {
        line += &format!(", {:.2} tokens per round", stats.tau());
    }
    line += &match stats.drafted {
        0 => ", nothing drafted".to_owned(),
        drafted => format!(", {:.0}% of {drafted} drafts accepted", stats.acceptance() * 100.0),
    };
    line
}
