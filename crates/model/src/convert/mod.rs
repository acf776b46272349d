//! Model files written anew: a Hugging Face folder or a GGUF file as GGUF.
//!
//! What a checkpoint is made of is read by the same code that runs it. The front of the new file is
//! read back before any weight is written: what it would say otherwise than the original is refused.

mod check;
mod meta;
mod tensors;

use crate::formats::gguf::{Body, Gguf, MetaValue, TypeId, Writer};
use crate::load::{Files, LoadOptions, Source};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use leveret_kernels::{ElementType, Team};
use std::fs::File;
use std::path::{Path, PathBuf};
use tensors::Planned;

/// What became of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Tensors written.
    pub tensors: usize,
    /// Size of the file.
    pub bytes: u64,
    /// What the new format has no words for and is of little weight: for people.
    pub notes: Vec<String>,
}

/// Types that matrices can be written in.
pub const TYPES: [ElementType; 5] =
    [ElementType::F32, ElementType::BF16, ElementType::Q8_0, ElementType::Q4_0, ElementType::Q4K];

/// Families whose folders can be written as GGUF.
pub const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma3"];

/// Writes the model of `source` as one GGUF file with matrices of type `ty`. Rows that are no whole
/// number of its blocks become Q8_0, or stay as they are; vectors are written as floats. The file
/// appears under its name only when it is complete.
///
/// # Errors
/// A type outside [`TYPES`]; a folder of another family than [`FAMILIES`]; a model or tokenizer that
/// GGUF cannot describe; a damaged model; whatever the system refuses.
pub fn to_gguf(source: &Source, out: &Path, ty: ElementType, threads: usize) -> Result<Converted> {
    if !TYPES.contains(&ty) {
        let known = TYPES.map(ElementType::name).join(", ");
        return Err(Error::request(format!(
            "weights cannot be written as {}; supported: {known}",
            ty.name()
        )));
    }
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = write(source, &part, ty, threads);
    match written.and_then(|done| std::fs::rename(&part, out).map(|()| done).map_err(|e| Error::io(out, e))) {
        Ok(done) => Ok(done),
        Err(error) => {
            // The first error counts; there may be nothing to remove.
            let _ = std::fs::remove_file(&part);
            Err(error)
        }
    }
}

fn write(source: &Source, part: &Path, ty: ElementType, threads: usize) -> Result<Converted> {
    let mut writer = Writer::new();
    let (planned, notes) = match source.files() {
        Files::Gguf(gguf) => {
            copy_meta(gguf, ty, &mut writer)?;
            (tensors::of_gguf(gguf, ty)?, Vec::new())
        }
        Files::Folder(folder) => {
            // Every tensor is there and has its shape.
            source.footprint(&LoadOptions::default())?;
            let config = source.config()?;
            let architecture = meta::architecture(source.path(), &config)?;
            let name = folder.path().file_name().and_then(|name| name.to_str()).unwrap_or("model");
            meta::describe(architecture, name, &config, ty, &mut writer);
            let notes = Tokenizer::write_gguf(folder.path(), config.vocab, &mut writer)?;
            if let Some(mask) = source.mask_token()? {
                writer.meta("tokenizer.ggml.mask_token_id", mask);
            }
            let interleaved = matches!(architecture, "llama" | "mistral3");
            (tensors::of_folder(source, &config, interleaved, ty)?, notes)
        }
    };
    let io = |error| Error::io(part, error);
    for tensor in &planned {
        tensor.plan(&mut writer).map_err(io)?;
    }
    let (count, data) = (planned.len(), writer.data_bytes());
    let file = File::create(part).map_err(io)?;
    let mut body = writer.start(&file).map_err(io)?;
    let front = file.metadata().map_err(io)?.len();
    // The whole length at once: a description can be read back when no data is there yet.
    file.set_len(front + data).map_err(io)?;
    let team = Team::new(threads);
    let (described, rest) = planned.split_at(planned.iter().take_while(|t| t.is_described()).count());
    put(&mut body, described, source, &team, part)?;
    if let Files::Folder(_) = source.files() {
        check::same(source, &Source::open(part)?)?;
    }
    put(&mut body, rest, source, &team, part)?;
    body.finish().map_err(io)?;
    Ok(Converted { tensors: count, bytes: file.metadata().map_err(io)?.len(), notes })
}

fn put(body: &mut Body<&File>, planned: &[Planned], source: &Source, team: &Team, part: &Path) -> Result<()> {
    for tensor in planned {
        let bytes = tensor.bytes(source, team)?;
        body.tensor(&tensor.name, &bytes).map_err(|error| Error::io(part, error))?;
        tensor.release(source);
    }
    Ok(())
}

/// All that the file says but how it lies on disk.
fn copy_meta(gguf: &Gguf, ty: ElementType, writer: &mut Writer) -> Result<()> {
    for (key, value) in gguf.meta().iter() {
        if matches!(key, "general.file_type" | "general.alignment") || key.starts_with("split.") {
            continue;
        }
        let Some(value) = MetaValue::copied(value) else {
            let what = format!("metadata `{key}` is of a kind that cannot be written again");
            return Err(Error::unsupported(gguf.meta().path(), what));
        };
        writer.meta(key, value);
    }
    writer.meta("general.file_type", meta::file_type(ty));
    Ok(())
}

/// The type id of a tensor of integers in a GGUF file.
fn id_of(gguf: &Gguf, name: &str) -> Option<TypeId> {
    gguf.tensors().find(|tensor| tensor.name == name).map(|tensor| tensor.ty)
}
