//! Families of decoders: what each is composed of, never how that is computed.
//!
//! A family normalises its two descriptions, Hugging Face `config.json` and GGUF metadata, into
//! one [`Config`]. A new family is one more file here, as long as [`crate::layers`] has its parts.

mod gemma3;
pub(crate) mod gemma4;
mod gpt_oss;
mod llama;
pub(crate) mod mistral;
mod qwen;
mod qwen35;

use crate::config::gguf::GgufConfig;
use crate::config::hf::HfConfig;
use crate::config::{Config, ExpertsConfig};
use crate::formats::Gguf;
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

pub(crate) use gpt_oss::GGUF_NAMES as GPT_OSS_GGUF;
pub(crate) use qwen35::GGUF_NAMES as QWEN35_GGUF;

/// How one family is recognised and described.
struct Family {
    name: &'static str,
    /// `model_type` in config.json.
    hf: &'static [&'static str],
    from_hf: fn(&HfConfig<'_>) -> Result<Config>,
    /// `general.architecture` in GGUF.
    gguf: &'static [&'static str],
    from_gguf: fn(&GgufConfig<'_>) -> Result<Config>,
}

const FAMILIES: [Family; 11] = [
    llama::LLAMA,
    mistral::MISTRAL,
    qwen::QWEN2,
    qwen::QWEN3,
    qwen::QWEN3_MOE,
    qwen35::QWEN35,
    qwen35::QWEN35_MOE,
    qwen35::QWEN3_NEXT,
    gemma3::GEMMA3,
    gemma4::GEMMA4,
    gpt_oss::GPT_OSS,
];

/// Names of the supported families.
pub fn supported_architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.name)
}

/// Whether a family has this `model_type`.
pub(crate) fn is_hf(name: &str) -> bool {
    FAMILIES.iter().any(|family| family.hf.contains(&name))
}

/// Describes the model of a `config.json` at `path`.
pub(crate) fn from_hf(path: &Path, root: &Value) -> Result<Config> {
    let config = unchecked_from_hf(path, root)?;
    config.check(path)?;
    Ok(config)
}

/// The same of layers that may not be able to run as they are.
pub(crate) fn unchecked_from_hf(path: &Path, root: &Value) -> Result<Config> {
    let keys = HfConfig::new(path, root)?;
    let name = keys.model_type()?;
    let family = FAMILIES
        .iter()
        .find(|f| f.hf.contains(&name))
        .ok_or_else(|| unsupported(path, "model_type", name))?;
    (family.from_hf)(&keys)
}

/// Describes the model of a GGUF file.
pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Config> {
    let keys = GgufConfig::new(gguf)?;
    let (path, name) = (keys.path(), keys.architecture());
    let family = FAMILIES.iter().find(|f| f.gguf.contains(&name));
    let family = family.ok_or_else(|| unsupported(path, "general.architecture", name))?;
    let mut config = (family.from_gguf)(&keys)?;
    config.layers.truncate(keys.trunk_blocks()?);
    config.check(path)?;
    Ok(config)
}

fn unsupported(path: &Path, key: &str, found: &str) -> Error {
    let known: Vec<_> = supported_architectures().collect();
    let what = format!(
        "`{key}` is `{found}`, an architecture this engine does not have; supported: {}",
        known.join(", ")
    );
    Error::unsupported(path, what)
}

impl Config {
    /// Gives the layers for which `of` says so a window.
    pub(crate) fn set_windows(&mut self, window: Option<usize>, of: impl Fn(usize) -> bool) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            layer.attention.window = window.filter(|_| of(i));
        }
    }

    /// Makes every layer's MLP one of experts of the given width.
    fn set_experts(&mut self, experts: ExpertsConfig, width: usize) {
        for layer in &mut self.layers {
            layer.mlp.experts = Some(experts);
            layer.mlp.width = width;
        }
    }
}
