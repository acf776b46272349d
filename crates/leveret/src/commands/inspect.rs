//! `leveret inspect`: what a model is, and what it will take to run it; or what a drafter is.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use leveret_model::config::{Config, KvSource, LayerConfig};
use leveret_model::drafters;
use leveret_model::{Files, Footprint, Source};
use serde_json::{Value, json};

use super::inspect_drafter::Drafter;
use crate::draft_model::HeadArgs;
use crate::model::{self, EngineArgs, meta_text};
use crate::streams::stdout;

/// Show what a model is, and the memory it needs; or what a drafter is, and whether it fits.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name, hf:OWNER/REPO[/FILE] or path.
    model: String,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Show every tensor as well.
    #[arg(long)]
    tensors: bool,
    /// For a drafter: the model that it is to guess for.
    #[arg(long, value_name = "MODEL")]
    target: Option<String>,
    #[command(flatten)]
    heads: HeadArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// A tensor as the file has it.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    ty: String,
    bytes: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let source = model::open(Some(&args.model))?;
    let options = args.engine.load_options();
    let drafter = match drafters::recognise(&source) {
        Some(_) => Some(Drafter::open(&source, args.target.as_deref(), &args.heads, &options)?),
        None => None,
    };
    let need = match (source.footprint(&options), &drafter) {
        (Err(_), Some(drafter)) if drafter.stands_alone(&source) => {
            return show_drafter(args, &source, drafter);
        }
        (need, _) => need?,
    };
    let config = source.config()?;
    let context = args.engine.context_within(config.max_context);
    let model = Summary { source: &source, config, need, context, tensors: tensors(&source), drafter };
    let mut out = stdout();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&model.json(args.tensors))?)?,
        false => model.table(args.tensors, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A model as it is shown.
struct Summary<'a> {
    source: &'a Source,
    config: Config,
    need: Footprint,
    /// Tokens of context that memory is counted for.
    context: usize,
    tensors: Vec<Tensor>,
    drafter: Option<Drafter>,
}

impl Summary<'_> {
    /// Layers of which `is` holds.
    fn layers(&self, is: impl Fn(&LayerConfig) -> bool) -> usize {
        self.config.layers.iter().filter(|layer| is(layer)).count()
    }

    fn windows(&self) -> usize {
        self.layers(|layer| layer.attention.window.is_some())
    }

    fn recurrent(&self) -> usize {
        self.layers(|layer| layer.delta.is_some())
    }

    /// Layers on the caches of others.
    fn shared(&self) -> usize {
        self.layers(|layer| matches!(layer.attention.source, KvSource::Layer(_)))
    }

    /// Number and bytes of the tensors of each type.
    fn types(&self) -> BTreeMap<&str, (usize, u64)> {
        let mut types: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for tensor in &self.tensors {
            let (count, bytes) = types.entry(&tensor.ty).or_default();
            (*count, *bytes) = (*count + 1, *bytes + tensor.bytes);
        }
        types
    }

    fn cache_bytes(&self) -> u64 {
        self.need.cache_bytes_per_position * self.context as u64
    }

    fn json(&self, with_tensors: bool) -> Value {
        let Self { source, config, need, context, .. } = self;
        let of_type = |(ty, (count, bytes)): (&str, (usize, u64))| json!({"type": ty, "tensors": count, "bytes": bytes});
        let mut object = json!({
            "path": source.path().display().to_string(),
            "name": name(source),
            "architecture": config.family,
            "parameters": need.parameters,
            "layers": config.layers.len(),
            "window_layers": self.windows(),
            "recurrent_layers": self.recurrent(),
            "shared_cache_layers": self.shared(),
            "hidden_size": config.hidden,
            "vocab_size": config.vocab,
            "max_context": config.max_context,
            "file_bytes": source.file_bytes(),
            "set_aside_bytes": source.set_aside().map_or(0, |aside| aside.bytes),
            "types": self.types().into_iter().map(of_type).collect::<Vec<_>>(),
            "bytes_per_token": need.bytes_per_token,
            "weight_bytes": need.weight_bytes,
            "context": context,
            "cache_bytes": self.cache_bytes(),
            "state_bytes": need.state_bytes,
            "memory_bytes": need.total_bytes(*context),
        });
        if let Some(drafter) = &self.drafter {
            object["drafter"] = drafter.json();
        }
        if with_tensors {
            let list = |t: &Tensor| json!({"name": t.name, "shape": t.shape, "type": t.ty, "bytes": t.bytes});
            object["tensors"] = self.tensors.iter().map(list).collect();
        }
        object
    }

    fn table(&self, with_tensors: bool, out: &mut impl Write) -> Result<()> {
        let Self { source, config, need, context, .. } = self;
        let mut line = |key: &str, value: String| writeln!(out, "{key:<18}{value}");
        line("model", format!("{} ({})", name(source), source.path().display()))?;
        line("architecture", config.family.to_owned())?;
        line("parameters", HumanCount(need.parameters).to_string())?;
        let of_which = |count: usize, what: &str| match count {
            0 => String::new(),
            count => format!(", {count} {what}"),
        };
        let recurrent = of_which(self.recurrent(), "recurrent");
        let windows = of_which(self.windows(), "with a sliding window");
        let shared = of_which(self.shared(), "on the caches of others");
        line("layers", format!("{}{recurrent}{windows}{shared}", config.layers.len()))?;
        line("width, vocabulary", format!("{}, {}", config.hidden, HumanCount(config.vocab as u64)))?;
        line("most context", format!("{} tokens", HumanCount(config.max_context as u64)))?;
        line("file", HumanBytes(source.file_bytes()).to_string())?;
        for (ty, (count, bytes)) in self.types() {
            line("", format!("{ty:<8}{count:>5} tensors {:>12}", HumanBytes(bytes).to_string()))?;
        }
        if let Some(aside) = model::note_of(source) {
            line("", aside)?;
        }
        line("read per token", HumanBytes(need.bytes_per_token).to_string())?;
        let total = HumanBytes(need.total_bytes(*context));
        line("memory needed", format!("{total} at {context} tokens of context"))?;
        let states = match need.state_bytes {
            0 => String::new(),
            bytes => format!(", {} recurrent states", HumanBytes(bytes)),
        };
        let (weights, cache) = (HumanBytes(need.weight_bytes), HumanBytes(self.cache_bytes()));
        line("", format!("{weights} weights, {cache} keys and values{states}"))?;
        if let Some(drafter) = &self.drafter {
            drafter.table(out)?;
        }
        if with_tensors {
            show_tensors(out, &self.tensors)?;
        }
        Ok(())
    }
}

/// What files that hold nothing but a drafter are.
fn show_drafter(args: &Args, source: &Source, drafter: &Drafter) -> Result<ExitCode> {
    let (path, tensors) = (source.path().display().to_string(), tensors(source));
    let mut out = stdout();
    if args.json {
        let mut object = json!({"path": path, "name": name(source), "file_bytes": source.file_bytes()});
        object["drafter"] = drafter.json();
        writeln!(out, "{}", serde_json::to_string_pretty(&object)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{:<18}{} ({path})", "model", name(source))?;
    drafter.table(&mut out)?;
    writeln!(out, "{:<18}{}", "file", HumanBytes(source.file_bytes()))?;
    if args.tensors {
        show_tensors(&mut out, &tensors)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_tensors(out: &mut impl Write, tensors: &[Tensor]) -> Result<()> {
    for tensor in tensors {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        writeln!(out, "{:<48}{:<8}{}", tensor.name, tensor.ty, shape.join(" x "))?;
    }
    Ok(())
}

/// What the model calls itself, or its file.
fn name(source: &Source) -> String {
    let own = match source.files() {
        Files::Gguf(gguf) => meta_text(gguf.meta(), "general.name").to_owned(),
        Files::Folder(_) => String::new(),
    };
    let file =
        || source.path().file_name().unwrap_or(source.path().as_os_str()).to_string_lossy().into_owned();
    if own.is_empty() { file() } else { own }
}

fn tensors(source: &Source) -> Vec<Tensor> {
    match source.files() {
        Files::Gguf(gguf) => gguf
            .tensors()
            .map(|tensor| Tensor {
                name: tensor.name.to_owned(),
                shape: tensor.shape.to_vec(),
                ty: tensor.ty.to_string(),
                bytes: tensor.bytes.unwrap_or(0) as u64,
            })
            .collect(),
        Files::Folder(folder) => folder
            .names()
            .filter_map(|name| {
                let raw = folder.raw(name)?;
                Some(Tensor {
                    name: name.to_owned(),
                    shape: raw.shape.to_vec(),
                    ty: format!("{:?}", raw.dtype),
                    bytes: raw.bytes.len() as u64,
                })
            })
            .collect(),
    }
}
