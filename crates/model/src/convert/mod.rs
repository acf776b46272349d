//! Files of models and drafters written anew: Hugging Face folders as GGUF, GGUF in another type,
//! drafters as GGUF or in the layout of the speculators library.
//!
//! What a checkpoint is made of is read by the same code that runs it. The description in the new
//! files is read back before any weight is written: what it would say otherwise than the original is
//! refused.

mod check;
mod copy;
mod drafts;
mod gguf;
mod meta;
mod mixers;
mod plan;
mod planned;
mod safetensors;
mod speculators;

use crate::drafters::{self, Design, Structure, TargetFacts};
use crate::formats::gguf::{Body, Writer};
use crate::load::{Files, LoadOptions, Source};
use crate::target::Tap;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use leveret_kernels::{ElementType, Team};
use meta::Architecture;
use plan::Plan;
use planned::Planned;
use std::fs::File;
use std::path::{Path, PathBuf};

pub use speculators::to_speculators;

/// What became of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Tensors written.
    pub tensors: usize,
    /// Size of the file with the weights.
    pub bytes: u64,
    /// What the new format has no words for and is of little weight: for people.
    pub notes: Vec<String>,
}

/// How files are written.
#[derive(Debug, Clone, Copy)]
pub struct ConvertOptions<'a> {
    /// Type of the matrices. Rows that are no whole number of its blocks become Q8_0, or stay as they
    /// are; vectors are written as floats.
    pub ty: ElementType,
    /// Threads that convert weights.
    pub threads: usize,
    /// Of a drafter, the model that it was made for: it has the tokenizer, and some drafters do not
    /// say which of its layers they read.
    pub target: Option<&'a Source>,
}

/// Types that matrices can be written in.
pub const TYPES: [ElementType; 5] =
    [ElementType::F32, ElementType::BF16, ElementType::Q8_0, ElementType::Q4_0, ElementType::Q4K];

/// Writes the model or drafter of `source` as one GGUF file. The file appears under its name only
/// when it is complete.
///
/// # Errors
/// A type outside [`TYPES`]; a model, drafter or tokenizer that GGUF cannot describe; a damaged
/// model; whatever the system refuses.
pub fn to_gguf(source: &Source, out: &Path, options: &ConvertOptions<'_>) -> Result<Converted> {
    if !TYPES.contains(&options.ty) {
        let known = TYPES.map(ElementType::name).join(", ");
        let what = format!("weights cannot be written as {}; supported: {known}", options.ty.name());
        return Err(Error::request(what));
    }
    let part = part_of(out);
    let written = write(source, &part, options);
    match written.and_then(|done| std::fs::rename(&part, out).map(|()| done).map_err(|e| Error::io(out, e))) {
        Ok(done) => Ok(done),
        Err(error) => {
            // The first error counts; there may be nothing to remove.
            let _ = std::fs::remove_file(&part);
            Err(error)
        }
    }
}

/// What is written under another name until it is complete.
fn part_of(out: &Path) -> PathBuf {
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// What the files hold.
enum Contents {
    /// A GGUF file, to be copied in another type.
    Gguf,
    /// A model, maybe with a layer behind it that guesses.
    Model(Option<Box<Design>>),
    Drafter(Structure),
}

fn contents(source: &Source, target: Option<&TargetFacts>) -> Result<Contents> {
    if matches!(source.files(), Files::Gguf(_)) {
        return Ok(Contents::Gguf);
    }
    Ok(match drafters::structure(source, target)? {
        Some(Structure::Head(design)) if !design.complete => Contents::Model(Some(design)),
        Some(structure) => Contents::Drafter(structure),
        None => Contents::Model(None),
    })
}

fn write(source: &Source, part: &Path, options: &ConvertOptions<'_>) -> Result<Converted> {
    let target = options.target.map(|target| target.target_facts(&LoadOptions::default())).transpose()?;
    let mut writer = Writer::new();
    let contents = contents(source, target.as_ref())?;
    let (planned, notes) = match (&contents, source.files()) {
        (Contents::Gguf, Files::Gguf(gguf)) => {
            copy::meta(gguf, options.ty, &mut writer)?;
            (copy::tensors(gguf, options.ty)?, Vec::new())
        }
        (Contents::Model(ahead), Files::Folder(folder)) => {
            // Every tensor is there and has its shape.
            source.footprint(&LoadOptions::default())?;
            let config = source.config()?;
            let architecture = Architecture::of(source.path(), &config)?;
            let name = name_of(folder.path());
            meta::describe(&architecture, name, &config, ahead.iter().len(), options.ty, &mut writer);
            let mut notes = Tokenizer::write_gguf(folder.path(), config.vocab, &mut writer)?;
            notes.extend(meta::notes(&architecture, &config, ahead.iter().len()));
            if let Some(mask) = source.mask_token()? {
                writer.meta("tokenizer.ggml.mask_token_id", mask);
            }
            let mut plan = Plan::new(source, architecture.layout, options.ty);
            plan.decoder(&config)?;
            if let Some(design) = ahead {
                plan.head(design, &drafts::mtp_gguf(config.layers.len()))?;
            }
            (plan.planned, notes)
        }
        (Contents::Drafter(structure), _) => {
            let vocab = target.as_ref().map(|target| target.config.vocab);
            let planned = gguf::drafter(source, structure, vocab, options.ty, &mut writer)?;
            let rows = vocab.unwrap_or(vocab_of(structure));
            let mut notes = gguf::tokenizer(source, options.target, rows, &mut writer)?;
            notes.extend(gguf::own(structure, &planned).map(|what| {
                format!("llama.cpp has no layout for {what}: only Leveret reads this file (docs/gguf.md)")
            }));
            (planned, notes)
        }
        _ => return Err(Error::unsupported(source.path(), "neither a model nor a drafter")),
    };
    let mut planned = planned;
    planned.sort_by_key(|tensor| !tensor.is_described());
    let io = |error| Error::io(part, error);
    for tensor in &planned {
        copy::enter(tensor, &mut writer).map_err(io)?;
    }
    let (count, data) = (planned.len(), writer.data_bytes());
    let file = File::create(part).map_err(io)?;
    let mut body = writer.start(&file).map_err(io)?;
    let front = file.metadata().map_err(io)?.len();
    // The whole length at once: a description can be read back when no data is there yet.
    file.set_len(front + data).map_err(io)?;
    let team = Team::new(options.threads);
    let (described, rest) = planned.split_at(planned.iter().take_while(|t| t.is_described()).count());
    put(&mut body, described, source, &team, part)?;
    read_back(source, part, &contents, target.as_ref())?;
    put(&mut body, rest, source, &team, part)?;
    body.finish().map_err(io)?;
    Ok(Converted { tensors: count, bytes: file.metadata().map_err(io)?.len(), notes })
}

fn read_back(source: &Source, part: &Path, contents: &Contents, target: Option<&TargetFacts>) -> Result<()> {
    let drafter = |ours: &Structure, target| {
        let written = Source::open(part)?;
        check::same_drafter(source, "GGUF", ours, drafters::structure(&written, target)?.as_ref())
    };
    match contents {
        Contents::Gguf => Ok(()),
        Contents::Drafter(ours) => drafter(ours, target),
        Contents::Model(ahead) => {
            let written = Source::open(part)?;
            check::same(source, &written)?;
            // Readers find every tensor there.
            written.footprint(&LoadOptions::default())?;
            match ahead {
                Some(design) => drafter(&Structure::Head(design.clone()), None),
                None => Ok(()),
            }
        }
    }
}

fn put(body: &mut Body<&File>, planned: &[Planned], source: &Source, team: &Team, part: &Path) -> Result<()> {
    for tensor in planned {
        let bytes = tensor.bytes(source, team)?;
        body.tensor(&tensor.name, &bytes).map_err(|error| Error::io(part, error))?;
        tensor.release(source);
    }
    Ok(())
}

/// What files call the model, which is nothing but the name of its folder.
fn name_of(path: &Path) -> &str {
    let named = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    named.file_name().and_then(|name| name.to_str()).unwrap_or("model")
}

fn vocab_of(structure: &Structure) -> usize {
    match structure {
        Structure::Head(design) => design.vocab,
        Structure::Block(config, shapes) => shapes.embedding_rows.unwrap_or(config.layers.vocab),
        Structure::Assistant(plan) => plan.config.vocab,
    }
}

/// Layers after which the target's residual stream is read.
///
/// # Errors
/// None are named; the drafter reads something else.
fn residual_taps(path: &Path, taps: &[Tap]) -> Result<Vec<usize>> {
    if taps.is_empty() {
        let what = "says nowhere which layers of its target it reads: name the target with --target";
        return Err(Error::unsupported(path, what));
    }
    let layer = |tap: &Tap| match tap {
        Tap::Residual(k) => Ok(*k),
        other => {
            Err(Error::unsupported(path, format!("reads {other:?} of its target, expected residual streams")))
        }
    };
    taps.iter().map(layer).collect()
}
