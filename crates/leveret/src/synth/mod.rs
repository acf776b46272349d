//! Checkpoints of random weights: which tensors a family has ([`plan`]) and drafters for it
//! ([`drafters`]), a vocabulary for them ([`tokenizer`]), and the folder they are written to.

mod builder;
mod drafters;
mod plan;
mod tokenizer;

pub(crate) use builder::Checkpoint;
pub(crate) use drafters::Drafter;
pub(crate) use plan::{Family, Size, plan};

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result};
use builder::{Fill, Planned};
use leveret_spec::{SplitMix64, mix};
use safetensors::Dtype;
use safetensors::tensor::View;

/// Writes the configuration, the tokenizer and the weights to the folder `dir`.
pub(crate) fn write(checkpoint: &Checkpoint, dir: &Path, seed: u64) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let put = |name: &str, value: &serde_json::Value| {
        let path = dir.join(name);
        std::fs::write(&path, format!("{value:#}\n")).with_context(|| path.display().to_string())
    };
    let [config, weights] = checkpoint.names;
    put(config, &checkpoint.config)?;
    if let Some(vocab) = checkpoint.words {
        put("tokenizer.json", &tokenizer::tokenizer(vocab))?;
        put("tokenizer_config.json", &tokenizer::config())?;
    }
    let path = dir.join(weights);
    let tensors = checkpoint.tensors.iter().enumerate().map(|(i, tensor)| {
        // A stream of its own for each tensor, so that it does not depend on the others.
        (tensor.name.as_str(), Random { tensor, seed: mix(seed ^ mix(i as u64 + 1)) })
    });
    safetensors::serialize_to_file(tensors, None, &path).with_context(|| path.display().to_string())
}

/// A tensor that is made when it is written.
struct Random<'a> {
    tensor: &'a Planned,
    seed: u64,
}

impl View for Random<'_> {
    fn dtype(&self) -> Dtype {
        if self.tensor.fill.is_integer() { Dtype::I64 } else { Dtype::BF16 }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let count = self.tensor.shape.iter().product::<usize>();
        Cow::Owned(match self.tensor.fill {
            Fill::Around { centre, spread } => self.floats(|unit| centre + spread * unit),
            Fill::LogRate => self.floats(|unit| (8.5 + 7.5 * unit).ln()),
            Fill::Offsets { tokens } => integers(count, |row| row * tokens / count - row),
            Fill::Clusters { count: clusters } => {
                let size = count / clusters;
                integers(count, |place| place % size * clusters + place / size)
            }
        })
    }

    fn data_len(&self) -> usize {
        let bytes = if self.tensor.fill.is_integer() { 8 } else { 2 };
        bytes * self.tensor.shape.iter().product::<usize>()
    }
}

impl Random<'_> {
    /// Values of bf16, made of numbers even over -1 to 1.
    fn floats(&self, value: impl Fn(f32) -> f32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.data_len() + 2);
        let mut stream = SplitMix64::new(self.seed);
        while bytes.len() < self.data_len() {
            let noise = stream.bits();
            for part in [noise as u32, (noise >> 32) as u32] {
                let unit = part as f32 / (1u64 << 31) as f32 - 1.0;
                // Cut to the upper half: which neighbour it is does not matter here.
                bytes.extend_from_slice(&value(unit).to_bits().to_le_bytes()[2..]);
            }
        }
        bytes.truncate(self.data_len());
        bytes
    }
}

fn integers(count: usize, value: impl Fn(usize) -> usize) -> Vec<u8> {
    (0..count).flat_map(|i| (value(i) as i64).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_model::{Cache, LoadOptions, LogitRows, Model, Pass, Source, Target};

    #[test]
    fn every_family_loads_and_runs() {
        for family in Family::ALL {
            let dir = tempfile::tempdir().unwrap();
            let plan = plan(family, &"3m".parse().unwrap());
            write(&plan.target, dir.path(), 1).unwrap();
            let source = Source::open(dir.path()).unwrap();
            let footprint = source.footprint(&LoadOptions::default()).unwrap();
            assert!(footprint.parameters <= plan.target.parameters());
            let tokenizer = source.tokenizer().unwrap();
            let tokens = tokenizer.encode_prompt("any text, \u{fc}ber all", false).unwrap();
            let mut model = Model::load(&source, &LoadOptions::default()).unwrap();
            let mut cache = model.new_cache(64).unwrap();
            let pass = Pass { cache: &mut cache, tokens: &tokens, parents: None, logits: LogitRows::Last };
            model.forward(&mut [pass], &[]).unwrap();
            cache.commit(&(0..tokens.len()).collect::<Vec<_>>()).unwrap();
            let logits = model.logits(0);
            assert!(logits.iter().all(|x| x.is_finite()), "{family:?}");
            assert!(logits.iter().any(|&x| x != logits[0]), "{family:?}");
        }
    }

    #[test]
    fn sizes_are_met() {
        for family in Family::ALL {
            for size in ["200m", "1b", "2gb", "7b"] {
                let size: Size = size.parse().unwrap();
                let found = plan(family, &size).target.parameters() as f64 / size.parameters as f64;
                assert!((0.75..1.3).contains(&found), "{family:?} {}: {found}", size.text);
            }
        }
        for wrong in ["", "1", "x", "-1b", "0m", "1tb", "1e9b", "nanb"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
