//! The sampler against reference filters, and its noise against the law of matching draws.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use leveret_spec::{Noise, Sampler, SamplingParams};
use serde_json::Value;

use super::fixture::{key, read_json};
use super::report::Report;

/// Draws of the noise for a law that holds on average.
const DRAWS: u64 = 200_000;

/// Filters alone and in chains: which tokens may be drawn, and how likely.
pub(crate) fn filters(path: &Path, report: &mut Report) -> Result<()> {
    let golden = read_json(path)?;
    let mut groups: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for (i, case) in key(&golden, "cases")?.as_array().into_iter().flatten().enumerate() {
        let name = key(case, "filter")?.as_str().unwrap_or_default();
        let Some(params) = params(name, key(case, "params")?) else {
            groups.entry(name).or_default();
            continue;
        };
        let logits: Vec<f32> = serde_json::from_value(key(case, "logits")?.clone())?;
        let previous: Vec<u32> = serde_json::from_value(case["previous_ids"].clone()).unwrap_or_default();
        let probs: Vec<f64> = serde_json::from_value(key(case, "probs")?.clone())?;
        let mut found = Vec::new();
        Sampler::new(&params, logits.len(), &previous)?.distribution(&logits, &mut found)?;
        let mut dense = vec![0.0; probs.len()];
        found.iter().for_each(|&(token, p)| dense[token as usize] = p);
        let diff = dense.iter().zip(&probs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let mut sorted = logits.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        // Which of two equal tokens a cut takes is a matter of taste.
        let ties = sorted.windows(2).any(|pair| pair[0] == pair[1]);
        let group = groups.entry(name).or_default();
        group.0 += 1;
        if diff > 1e-5 && !ties {
            group.1.push(format!("case {i}: a probability is off by {diff:.2e}"));
        }
    }
    for (name, (count, wrong)) in groups {
        match count {
            0 => report.not_yet(&format!("filter {name}"), "the engine does not offer it"),
            _ => report.count(&format!("filter {name}"), count, &wrong),
        }
    }
    Ok(())
}

/// The reference's parameters in our words; `None` for a filter that is not offered.
fn params(name: &str, given: &Value) -> Option<SamplingParams> {
    let mut params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let number = |key: &str| given[key].as_f64().map(|x| x as f32);
    match name {
        "repetition_penalty" => params.repetition_penalty = number("penalty")?,
        "frequency_presence_penalty" => {
            params.frequency_penalty = number("frequency")?;
            params.presence_penalty = number("presence")?;
        }
        "chain" => {
            for step in given["order"].as_array()? {
                let (name, value) = step.as_str()?.split_once(' ')?;
                set(&mut params, name, value.parse().ok()?)?;
            }
        }
        _ => set(&mut params, name, number(name)?)?,
    }
    Some(params)
}

fn set(params: &mut SamplingParams, name: &str, value: f32) -> Option<()> {
    match name {
        "temperature" => params.temperature = value,
        "top_k" => params.top_k = value as usize,
        "top_p" => params.top_p = value,
        "min_p" => params.min_p = value,
        "repetition_penalty" => params.repetition_penalty = value,
        _ => return None,
    }
    Some(())
}

/// How often two distributions draw the same token under the same noise. The other laws of the
/// file are of rules of verification that this engine does not use.
pub(crate) fn verification(path: &Path, report: &mut Report) -> Result<()> {
    let golden = read_json(path)?;
    for (i, case) in golden["gumbel_match"].as_array().into_iter().flatten().enumerate() {
        let row = |name: &str| -> Result<Vec<f64>> { Ok(serde_json::from_value(key(case, name)?.clone())?) };
        let (p, q) = (row("p")?, row("q")?);
        let expected = key(case, "match_probability")?
            .as_f64()
            .ok_or_else(|| anyhow!("match_probability: no number"))?;
        let matches = (0..DRAWS).filter(|&position| {
            let noise = Noise::new(i as u64, position);
            pick(&p, &noise) == pick(&q, &noise)
        });
        let found = matches.count() as f64 / DRAWS as f64;
        // Five standard deviations of a share.
        let tolerance = 5.0 * (expected * (1.0 - expected) / DRAWS as f64).sqrt();
        let detail = format!("{found:.4}, expected {expected:.4}, tolerance {tolerance:.4}");
        let wrong: Vec<String> =
            ((found - expected).abs() > tolerance).then_some(detail).into_iter().collect();
        report.count(&format!("gumbel match {i}"), 1, &wrong);
    }
    for name in ["cases", "recursive_rejection"] {
        if golden.get(name).is_some() {
            report.not_yet(&format!("rejection rules ({name})"), "");
        }
    }
    Ok(())
}

fn pick(p: &[f64], noise: &Noise) -> Option<usize> {
    let score = |token: usize| p[token].ln() + noise.gumbel(token as u32);
    (0..p.len()).max_by(|&a, &b| score(a).total_cmp(&score(b)))
}
