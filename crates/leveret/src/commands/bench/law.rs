//! `leveret bench law`: the law on a real model over real prompts.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use leveret_model::{LoadOptions, Model, Source};

use crate::cli::Usage;
use crate::drafter::{DrafterSource, DrafterSpec};
use crate::law::{CONTROLS, Compared, DRAFTERS, Plain, Reference, samplings};
use crate::model::{self, EngineArgs, positive};
use crate::prompts::{self, Prompt};
use crate::streams::stdout;

/// Check that logits and tokens are identical for every size of pass, chunk, number of threads and drafter.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// Files of prompts: Spec-Bench or HumanEval lines.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    prompts: Vec<PathBuf>,
    /// Use only N prompts, spread evenly over the files.
    #[arg(long, value_name = "N", value_parser = positive)]
    limit: Option<usize>,
    /// Tokens to write for each prompt.
    #[arg(long, short = 'n', value_name = "N", value_parser = positive, default_value = "128")]
    max_tokens: usize,
    /// Only compare logits bits.
    #[arg(long, conflicts_with = "only_tokens")]
    only_bits: bool,
    /// Only compare token ids.
    #[arg(long)]
    only_tokens: bool,
    /// Drafters whose texts are compared: suffix, recycle, store, prediction and auto, all four of them, are made to
    /// know much of each text; hostile means harm; anything else is as in `run --drafter`, such as own or model:NAME.
    #[arg(long, alias = "drafter", value_name = "DRAFTER,…", value_delimiter = ',', default_values = DRAFTERS)]
    drafters: Vec<String>,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut list = Vec::new();
    for path in &args.prompts {
        list.extend(prompts::read(path)?);
    }
    let list = prompts::spread(list, args.limit.unwrap_or(usize::MAX));
    let drafters = args.drafters.iter().map(|name| Named::parse(name)).collect::<Result<Vec<_>>>()?;
    let source = model::open(Some(&args.model))?;
    let options = args.engine.load_options();
    if !args.only_tokens {
        check_bits(&source, &options, &list)?;
    }
    if !args.only_bits {
        check_tokens(&source, &options, &drafters, &list, args.max_tokens)?;
    }
    writeln!(stdout(), "law holds: {}", source.path().display())?;
    Ok(ExitCode::SUCCESS)
}

/// A drafter whose texts are compared.
struct Named<'a> {
    name: &'a str,
    /// `None` for one that is made for each text.
    spec: Option<DrafterSpec>,
}

impl<'a> Named<'a> {
    fn parse(name: &'a str) -> Result<Self> {
        let spec = match DRAFTERS.contains(&name) {
            true => None,
            false => Some(name.parse().map_err(Usage)?),
        };
        Ok(Self { name, spec })
    }
}

/// Logits bits on 1, 2 and 3 threads.
fn check_bits(source: &Source, options: &LoadOptions, list: &[Prompt]) -> Result<()> {
    let tokenizer = source.tokenizer()?;
    let text: String = list.iter().map(|prompt| prompt.text()).collect();
    let end = text.floor_char_boundary(16 << 10);
    let tokens = tokenizer.encode_prompt(&text[..end], false)?;
    let mut reference = None;
    for threads in [1, 2, 3] {
        let mut model = Model::load(source, &LoadOptions { threads, ..*options })?;
        let reference = match &mut reference {
            Some(reference) => reference,
            empty => empty.insert(Reference::new(&mut model, &tokens)?),
        };
        let rows = reference.check(&mut model, &format!("{threads} threads"))?;
        writeln!(stdout(), "bits    {threads} threads: {rows} rows equal")?;
    }
    Ok(())
}

/// Token ids with and without each drafter, under every way of drawing. Which rule of control goes
/// with which of them changes from prompt to prompt.
fn check_tokens(
    source: &Source,
    options: &LoadOptions,
    drafters: &[Named<'_>],
    list: &[Prompt],
    max_tokens: usize,
) -> Result<()> {
    let mut loaded = model::load(source, options)?;
    let loads =
        drafters.iter().map(|drafter| drafter.spec.as_ref().map(|spec| spec.load(&loaded)).transpose());
    let sources: Vec<Option<DrafterSource>> = loads.collect::<Result<_>>()?;
    let (model, words) = (&mut loaded.model, &loaded.words);
    let mut sums = vec![Compared::default(); drafters.len()];
    for (i, prompt) in list.iter().enumerate() {
        let ids = if prompt.raw {
            words.raw_prompt(prompt.text())?
        } else {
            words.chat_prompt(prompt.text(), None)?
        };
        for (j, (how, params)) in samplings(i as u64, max_tokens).into_iter().enumerate() {
            let plain = Plain::write(model, &ids, &params, words.tokenizer.end_ids())?;
            for (k, Named { name, .. }) in drafters.iter().enumerate() {
                let drafter = match &sources[k] {
                    Some(source) => source.build()?,
                    None => plain.drafter(name),
                };
                let control = CONTROLS[(i + j + k) % CONTROLS.len()];
                let what = format!("prompt {}, {how}, drafter {name}", prompt.name);
                sums[k] += plain.compare(model, drafter, control, &what)?;
            }
        }
    }
    for (Named { name, .. }, Compared { tokens, drafted, accepted }) in drafters.iter().zip(sums) {
        let prompts = list.len();
        writeln!(
            stdout(),
            "tokens  {name}: {prompts} prompts in every way of drawing, {tokens} ids equal; \
             {accepted} of {drafted} drafts accepted"
        )?;
    }
    Ok(())
}
