//! The sampler against reference filters.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use leveret_spec::{Sampler, SamplingParams};
use serde_json::Value;

use super::fixture::{key, read_json};
use super::report::Report;

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
        if probs.len() != logits.len() {
            let why = format!("case {i}: {} probabilities of {} tokens", probs.len(), logits.len());
            groups.entry(name).or_default().1.push(why);
            continue;
        }
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
            0 if wrong.is_empty() => {
                report.not_yet(&format!("filter {name}"), "the engine does not offer it")
            }
            _ => report.count(&format!("filter {name}"), count, &wrong),
        }
    }
    Ok(())
}

/// The order in which the sampler applies filters; a reference's chain in another one is another law.
const ORDER: [&str; 5] = ["repetition_penalty", "temperature", "top_k", "top_p", "min_p"];

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
            let mut last = 0;
            for step in given["order"].as_array()? {
                let (name, value) = step.as_str()?.split_once(' ')?;
                let place = ORDER.iter().position(|&known| known == name)?;
                if place < last {
                    return None;
                }
                last = place;
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
