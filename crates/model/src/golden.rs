//! Comparing a model with recorded reference outputs: what tests and `leveret golden` run.
//!
//! A golden folder holds `golden.json` (prompts, greedy ids), `golden.safetensors` (logits, states)
//! and the checkpoint in one or more layouts. Every quantity gives one [`Comparison`].

use crate::formats::Safetensors;
use crate::target::{Cache, LogitRows, Pass, Tap, Target};
use crate::{Error, Model, Result};
use leveret_kernels::ops::argmax;
use leveret_kernels::{ElementType, quant};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A folder of recorded outputs.
#[derive(Debug)]
pub struct Golden {
    dir: PathBuf,
    json: Value,
    tensors: Safetensors,
}

/// A checkpoint in a golden folder, and which of the recorded outputs it must give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where it lies.
    pub path: PathBuf,
    /// The quantised type whose outputs were recorded apart, as they name it (`Q4_K_M`).
    pub quantized: Option<String>,
}

/// One compared quantity.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Its name, as the golden calls it.
    pub quantity: String,
    /// Largest distance from the reference.
    pub worst: f32,
    /// The largest that passes.
    pub allowed: f32,
}

impl Comparison {
    /// Whether the distance is allowed; one that is not a number is not.
    pub fn passes(&self) -> bool {
        self.worst <= self.allowed
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.passes() { "ok" } else { "MISMATCH" };
        write!(f, "{:<20} {verdict:<8} worst {:.3e}, allowed {:.3e}", self.quantity, self.worst, self.allowed)
    }
}

/// How close a model must come, relative to the largest value of a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closeness {
    /// Float arithmetic throughout ([`Precision::Float`](crate::Precision::Float) for quantised
    /// files, `f32` caches): 1e-3, and the same greedy ids.
    Exact,
    /// Activations or caches are rounded: 1e-1, and the same choice where it is clear.
    Rounded,
}

impl Closeness {
    fn share(self) -> f32 {
        match self {
            Closeness::Exact => 1e-3,
            Closeness::Rounded => 1e-1,
        }
    }
}

impl Golden {
    /// Opens a golden folder.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("golden.json");
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let json = serde_json::from_slice(&bytes).map_err(|e| Error::format(&path, e.to_string()))?;
        Ok(Self { dir: dir.into(), json, tensors: Safetensors::open(dir.join("golden.safetensors"))? })
    }

    /// What `golden.json` says.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The recorded tensors.
    pub fn tensors(&self) -> &Safetensors {
        &self.tensors
    }

    /// The target checkpoints in the folder, in the layouts it has them. Empty if no target's
    /// outputs are recorded here.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        let mut found = Vec::new();
        if self.tensors.raw("p0.logits").is_none() {
            return found;
        }
        let entries = [self.dir.clone(), self.dir.join("gguf")];
        let paths = entries.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        let mut paths: Vec<_> = paths.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let gguf = name.strip_suffix(".gguf");
            let is_target = match gguf {
                Some(stem) => stem.starts_with("target") || stem.starts_with("model-"),
                None => name.starts_with("target") && path.is_dir(),
            };
            if is_target {
                let ty = gguf.and_then(|stem| stem.strip_prefix("model-")).filter(|&ty| ty != "bf16");
                found.push(Checkpoint { quantized: ty.map(str::to_uppercase), path });
            }
        }
        found
    }

    /// Compares all that is recorded of the target: logits, states and the greedy continuation.
    /// `quantized` as in [`Checkpoint`].
    ///
    /// # Errors
    /// The golden is damaged, or the model refuses a pass.
    pub fn compare(
        &self,
        model: &mut Model,
        quantized: Option<&str>,
        closeness: Closeness,
    ) -> Result<Vec<Comparison>> {
        let prompts = self.json.get("prompts").and_then(Value::as_array).map_or(0, Vec::len);
        let mut results = Vec::new();
        match quantized {
            Some(ty) => self.compare_quantized(model, ty, closeness, &mut results)?,
            None => {
                for i in 0..prompts {
                    self.compare_prompt(model, i, closeness, &mut results)?;
                }
            }
        }
        Ok(results)
    }

    fn compare_prompt(
        &self,
        model: &mut Model,
        i: usize,
        closeness: Closeness,
        results: &mut Vec<Comparison>,
    ) -> Result<()> {
        let name = |what: &str| format!("p{i}.{what}");
        let Some(ids) = self.ids(&name("seq_ids")) else { return Ok(()) };
        let layers = model.config().layers.len();
        let taps: Vec<Tap> = (0..=layers).map(Tap::Residual).chain([Tap::Final]).collect();
        run(model, &ids, &taps)?;
        let mut compare = |what: &str, ours: &mut dyn Iterator<Item = &[f32]>| {
            let name = name(what);
            if self.tensors.raw(&name).is_some() {
                // One that is not of floats differs from all floats.
                let reference = self.floats(&name).unwrap_or_default();
                results.push(distance(&name, ours, &reference, closeness));
            }
        };
        let rows = ids.len();
        compare("logits", &mut (0..rows).map(|row| model.logits(row)));
        compare("final", &mut (0..rows).map(|row| model.feature(layers + 1, row)));
        let states = (0..=layers).flat_map(|tap| (0..rows).map(move |row| (tap, row)));
        compare("states", &mut states.map(|(tap, row)| model.feature(tap, row)));

        let prompt_len = self.json["prompts"][i]["prompt_len"].as_u64().unwrap_or(0) as usize;
        if prompt_len == 0 || prompt_len > rows {
            return Err(Error::format(
                self.dir.join("golden.json"),
                format!("prompt {i} has no usable `prompt_len`"),
            ));
        }
        let reference = self.floats(&name("logits")).unwrap_or_default();
        results.push(self.compare_greedy(model, &name("greedy"), &ids, prompt_len, &reference, closeness)?);
        Ok(())
    }

    fn compare_quantized(
        &self,
        model: &mut Model,
        ty: &str,
        closeness: Closeness,
        results: &mut Vec<Comparison>,
    ) -> Result<()> {
        let logits = format!("{ty}.logits");
        let (Some(ids), Some(reference)) = (self.ids("p0.seq_ids"), self.floats(&logits)) else {
            return Err(Error::format(self.dir.join("golden.safetensors"), format!("holds no `{logits}`")));
        };
        run(model, &ids, &[])?;
        results.push(distance(
            &logits,
            &mut (0..ids.len()).map(|row| model.logits(row)),
            &reference,
            closeness,
        ));
        let prompt_len = self.json["prompts"][0]["prompt_len"].as_u64().unwrap_or(0) as usize;
        let (name, greedy) =
            (format!("{ty}.greedy"), self.ids(&format!("{ty}.greedy_ids")).unwrap_or_default());
        if prompt_len > 0 && prompt_len <= greedy.len() {
            // Its own continuation, of which no logits are recorded.
            if closeness == Closeness::Exact {
                results.push(self.compare_greedy(model, &name, &greedy, prompt_len, &[], closeness)?);
            }
        }
        Ok(())
    }

    /// The continuation of a prompt, one row at a time. `worst` is the number of wrong ids.
    fn compare_greedy(
        &self,
        model: &mut Model,
        name: &str,
        ids: &[u32],
        prompt_len: usize,
        reference: &[f32],
        closeness: Closeness,
    ) -> Result<Comparison> {
        let mut wrong = 0;
        let mut cache = model.new_cache(ids.len())?;
        let mut input = ids[..prompt_len].to_vec();
        for (n, &recorded) in ids.iter().enumerate().skip(prompt_len) {
            model.forward(
                &mut [Pass { cache: &mut cache, tokens: &input, parents: None, logits: LogitRows::Last }],
                &[],
            )?;
            let path: Vec<usize> = (0..input.len()).collect();
            cache.commit(&path)?;
            let chosen = argmax(model.logits(0)).0 as u32;
            wrong += usize::from(
                chosen != recorded && self.is_clear(reference, model.vocab_size(), n - 1, closeness),
            );
            // Go on from the recorded id, so that each is judged by itself.
            input = vec![recorded];
        }
        Ok(Comparison { quantity: name.into(), worst: wrong as f32, allowed: 0.0 })
    }

    /// Whether the best reference logit of a row stands out from the second by more than rounding moves it.
    fn is_clear(&self, reference: &[f32], vocab: usize, row: usize, closeness: Closeness) -> bool {
        let Some(logits) = reference.get(row * vocab..(row + 1) * vocab) else { return true };
        if closeness == Closeness::Exact {
            return true;
        }
        let (best, top) = argmax(logits);
        let second =
            logits.iter().enumerate().filter(|&(i, _)| i != best).map(|(_, &x)| x).fold(f32::MIN, f32::max);
        let scale = logits.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        top - second > 2.0 * closeness.share() * scale
    }

    fn ids(&self, name: &str) -> Option<Vec<u32>> {
        let tensor = self.tensors.raw(name)?;
        let ids = tensor.bytes.as_chunks::<8>().0;
        (tensor.dtype == crate::formats::safetensors::Dtype::I64)
            .then(|| ids.iter().map(|b| i64::from_le_bytes(*b) as u32).collect())
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.tensors.tensor(name).ok()??;
        let mut values = vec![0.0; tensor.shape.iter().product()];
        let decoded = quant::dequantize(tensor.ty, tensor.bytes, &mut values);
        (tensor.ty == ElementType::F32 && decoded.is_ok()).then_some(values)
    }
}

/// One pass over all of `ids`, with all logits.
fn run(model: &mut Model, ids: &[u32], taps: &[Tap]) -> Result<()> {
    let mut cache = model.new_cache(ids.len())?;
    model.forward(&mut [Pass { cache: &mut cache, tokens: ids, parents: None, logits: LogitRows::All }], taps)
}

fn distance(
    name: &str,
    ours: &mut dyn Iterator<Item = &[f32]>,
    reference: &[f32],
    closeness: Closeness,
) -> Comparison {
    let mut rest = reference;
    let mut worst = 0.0f32;
    for row in ours {
        let Some((theirs, after)) = rest.split_at_checked(row.len()) else {
            worst = f32::INFINITY;
            break;
        };
        // NaN must not pass for zero.
        worst = row
            .iter()
            .zip(theirs)
            .map(|(a, b)| (a - b).abs())
            .fold(worst, |w, d| if d > w || d.is_nan() { d } else { w });
        rest = after;
    }
    if !rest.is_empty() {
        worst = f32::INFINITY;
    }
    let scale = reference.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    Comparison { quantity: name.into(), worst, allowed: closeness.share() * scale }
}
