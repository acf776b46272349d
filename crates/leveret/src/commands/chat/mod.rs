//! `leveret chat`: a conversation in the terminal, or by pipe. Standard output carries the answers,
//! everything else goes to standard error.

mod colour;
mod dialogue;
mod input;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::Result;
use leveret_model::Target;
use leveret_spec::Options;

use super::run::watch_for_interrupt;
use super::sampling::SamplingArgs;
use crate::cli::Usage;
use crate::control::{ControlArgs, Costs};
use crate::drafter::DrafterArgs;
use crate::model::{self, EngineArgs};
use crate::streams::{stdout, tell};
use colour::Colours;
use dialogue::Dialogue;
use input::{Input, Line};

/// Talk with a model.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path; the default is smollm2-135m-instruct.
    #[arg(long, short)]
    model: Option<String>,
    /// A system message before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Colour each token by where it came from: which drafter guessed it, or the model itself.
    #[arg(long)]
    show_drafts: bool,
    #[command(flatten)]
    drafter: DrafterArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

const HELP: &str = "\
A line that ends with \\ goes on in the next; a line of \"\"\" begins and ends a text of several
lines. Ctrl-C stops an answer and keeps what is there of it; Ctrl-D ends the chat.
  /help            these lines
  /reset           forget the conversation
  /system [TEXT]   set the system message, or remove it; forgets the conversation
  /save FILE       write the conversation as a JSON array of messages
  /quit            end";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let params = args.sampling.params()?;
    if params.logprobs.is_some() {
        return Err(Usage("--logprobs needs leveret run --output json".into()).into());
    }
    if args.sampling.confidence().is_some() {
        return Err(Usage("--accept confadapt needs leveret run".into()).into());
    }
    let source = model::open(args.model.as_deref())?;
    let mut loaded = model::load(&source, &args.engine.load_options())?;
    let drafters = args.drafter.load(&loaded, &source)?;
    let costs = (!drafters.is_empty()).then(|| Costs::of(&loaded, &source));
    let options = Options {
        context: args.engine.context_within(loaded.model.max_context()),
        end_tokens: loaded.words.tokenizer.end_ids().to_vec(),
        accept: args.sampling.accept(),
        control: args.control.control,
        cost: costs.as_ref().map(|costs| costs.curve(&mut loaded.model)).transpose()?.unwrap_or_default(),
        ..Options::default()
    };
    if loaded.words.template.is_none() {
        tell!("{}: has no chat template; what is said is continued as it stands", source.path().display());
    }
    let interrupted = watch_for_interrupt()?;
    let mut dialogue = Dialogue::new(&mut loaded, &drafters, params, options, args.system.clone(), costs);
    let mut input = Input::new()?;
    if input.is_terminal() {
        tell!("/help shows what there is besides talking");
    }
    loop {
        match input.read("> ")? {
            Line::Text(text) if text.trim().is_empty() => {}
            Line::Text(text) => answer(&mut dialogue, &text, args.show_drafts, &interrupted)?,
            Line::Command(command) if obey(&command, &mut dialogue) => {}
            Line::Interrupted => {}
            Line::Command(_) | Line::End => break,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What begins with a slash; false ends the chat. Nothing that goes wrong here does.
fn obey(command: &str, dialogue: &mut Dialogue<'_>) -> bool {
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    match name {
        "quit" | "exit" => return false,
        "reset" => dialogue.reset(),
        "system" => dialogue.set_system((!rest.is_empty()).then(|| rest.to_owned())),
        "save" if rest.is_empty() => tell!("/save needs the name of a file"),
        "save" => match dialogue.save(&PathBuf::from(rest)) {
            Ok(()) => tell!("saved to {rest}"),
            Err(error) => tell!("error: {error:#}"),
        },
        "help" => tell!("{HELP}"),
        _ => tell!("there is no /{name}; /help shows what there is"),
    }
    true
}

/// Streams one answer, and says what it took.
fn answer(
    dialogue: &mut Dialogue<'_>,
    text: &str,
    show_drafts: bool,
    interrupted: &AtomicBool,
) -> Result<()> {
    interrupted.store(false, Relaxed);
    let mut colours = show_drafts.then(|| Colours::new(dialogue.detokenizer()));
    let mut out = stdout();
    let mut ends_line = true;
    let told = dialogue.answer(text, interrupted, |step, name| {
        match &mut colours {
            Some(colours) => colours.write(step, name, &mut out)?,
            None => out.write_all(step.text.as_bytes())?,
        }
        if let Some(last) = step.text.chars().last() {
            ends_line = last == '\n';
        }
        Ok(out.flush()?)
    });
    let told = match told {
        // The reader of our output has gone; anything else concerns this answer alone.
        Err(error) if error.is::<std::io::Error>() => return Err(error),
        Err(error) => format!("error: {error:#}"),
        Ok(told) => told,
    };
    if !ends_line {
        writeln!(out)?;
    }
    out.flush()?;
    let legend = colours.map(|colours| colours.legend(std::io::stderr().is_terminal())).unwrap_or_default();
    tell!("[{told}{legend}]");
    Ok(())
}
