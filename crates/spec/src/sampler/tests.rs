//! The sampler as a whole: recorded filters, the law of its draws, bad parameters.

use super::*;
use serde_json::Value;

/// A file of recorded laws; `None`, said aloud, where the folder that holds them is absent.
fn golden(file: &str) -> Option<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden");
    if !std::path::Path::new(folder).is_dir() {
        eprintln!("skipped: no golden files at {folder}");
        return None;
    }
    let path = format!("{folder}/sampling/{file}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Some(serde_json::from_str(&text).unwrap())
}

fn floats(value: &Value) -> Vec<f32> {
    let number = |x: &Value| x.as_f64().map_or(f32::NEG_INFINITY, |x| x as f32);
    value.as_array().unwrap().iter().map(number).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// Sets one filter of a recorded case; false when this sampler has no such filter.
fn set(params: &mut SamplingParams, name: &str, value: f64) -> bool {
    match name {
        "temperature" => params.temperature = value as f32,
        "top_k" => params.top_k = value as usize,
        "top_p" => params.top_p = value as f32,
        "min_p" => params.min_p = value as f32,
        "repetition_penalty" | "penalty" => params.repetition_penalty = value as f32,
        "frequency" => params.frequency_penalty = value as f32,
        "presence" => params.presence_penalty = value as f32,
        _ => return false,
    }
    true
}

fn params_of(case: &Value) -> Option<SamplingParams> {
    let mut params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    for (name, value) in case["params"].as_object().unwrap() {
        if name == "order" {
            for step in value.as_array().unwrap() {
                let (name, value) = step.as_str().unwrap().split_once(' ').unwrap();
                assert!(set(&mut params, name, value.parse().unwrap()), "{name}");
            }
        } else if !set(&mut params, name, value.as_f64().unwrap()) {
            return None;
        }
    }
    Some(params)
}

#[test]
fn filters_golden() {
    let Some(file) = golden("filters.json") else { return };
    let mut compared = 0;
    for case in file["cases"].as_array().unwrap() {
        let Some(params) = params_of(case) else { continue };
        let logits = floats(&case["logits"]);
        let tied = logits.iter().filter(|&&x| x == maximum(&logits)).count() > 1;
        if tied {
            continue;
        }
        let previous = ids(&case["previous_ids"]);
        let mut sampler = Sampler::new(&params, logits.len(), &previous).unwrap();
        let mut found = Vec::new();
        sampler.distribution(&logits, &mut found).unwrap();
        let kept: Vec<u32> = found.iter().map(|&(token, _)| token).collect();
        assert_eq!(kept, ids(&case["kept"]), "{}", case["params"]);
        let expected = floats(&case["probs"]);
        for (token, p) in found {
            let expected = f64::from(expected[token as usize]);
            assert!((p - expected).abs() < 2e-6, "{}: token {token}: {p} {expected}", case["params"]);
        }
        compared += 1;
    }
    assert!(compared >= 50, "only {compared} cases compared");
}

/// Shared noise on two distributions: how often the draws agree, in all and token by token.
#[test]
fn gumbel_match_golden() {
    const DRAWS: u64 = 200_000;
    let Some(file) = golden("verification.json") else { return };
    for (seed, case) in file["gumbel_match"].as_array().unwrap().iter().enumerate() {
        let row = |key: &str| -> Vec<f32> { floats(&case[key]).iter().map(|p| p.ln()).collect() };
        let (p, q) = (row("p"), row("q"));
        let draw = |row: &[f32], noise: Noise| {
            noise.pick(row.iter().zip(0..).map(|(&x, token)| (token, x)), 0.0, 1.0).unwrap()
        };
        let mut matches = vec![0u64; p.len()];
        for position in 0..DRAWS {
            let noise = Noise::new(seed as u64, position);
            let token = draw(&p, noise);
            matches[token as usize] += u64::from(token == draw(&q, noise));
        }
        let near = |count: u64, expected: f64| {
            let error = (expected * (1.0 - expected) / DRAWS as f64).sqrt();
            (count as f64 / DRAWS as f64 - expected).abs() < 4.0 * error + 1e-9
        };
        let expected = case["match_probability"].as_f64().unwrap();
        assert!(near(matches.iter().sum(), expected), "case {seed}: {matches:?} {expected}");
        for (&count, expected) in matches.iter().zip(floats(&case["per_token"])) {
            assert!(near(count, f64::from(expected)), "case {seed}: {matches:?}");
        }
    }
}

/// Chi-square of 100,000 draws against the distribution, for several settings.
#[test]
fn draws_follow_the_distribution() {
    const DRAWS: u64 = 100_000;
    let logits: Vec<f32> = (0..300u32).map(|t| 4.0 - ((t * 7919) % 300) as f32 * 0.02).collect();
    let base = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let settings = [
        base.clone(),
        SamplingParams { temperature: 0.6, top_k: 40, seed: 5, ..base.clone() },
        SamplingParams { top_p: 0.7, seed: 6, ..base.clone() },
        SamplingParams { min_p: 0.3, presence_penalty: 0.4, seed: 7, ..base },
    ];
    for params in settings {
        let mut sampler = Sampler::new(&params, logits.len(), &[3, 4, 5]).unwrap();
        let mut law = Vec::new();
        sampler.distribution(&logits, &mut law).unwrap();
        let mut counts = vec![0u64; logits.len()];
        for position in 0..DRAWS {
            // Positions are the independent draws; the text is not extended.
            sampler.position = position;
            counts[sampler.sample(&logits).unwrap() as usize] += 1;
        }
        let mut chi = 0.0;
        for &(token, p) in &law {
            let expected = p * DRAWS as f64;
            chi += (counts[token as usize] as f64 - expected).powi(2) / expected;
        }
        let drawn: u64 = law.iter().map(|&(token, _)| counts[token as usize]).sum();
        assert_eq!(drawn, DRAWS, "a token was drawn that has no probability");
        let freedom = (law.len() - 1) as f64;
        assert!((chi - freedom).abs() < 4.0 * (2.0 * freedom).sqrt(), "chi2 {chi} of {freedom}");
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let params = SamplingParams { logit_bias: [(0, -1.0)].into(), ..SamplingParams::default() };
    let mut sampler = Sampler::new(&params, 5, &[]).unwrap();
    assert_eq!(sampler.sample(&[2.5, f32::NAN, 2.0, 2.0, 1.0]).unwrap(), 2);
}

#[test]
fn bad_parameters_are_named() {
    let good = SamplingParams::default;
    let cases = [
        ("temperature", SamplingParams { temperature: -0.1, ..good() }),
        ("temperature", SamplingParams { temperature: f32::NAN, ..good() }),
        ("temperature", SamplingParams { temperature: f32::INFINITY, ..good() }),
        ("top_p", SamplingParams { top_p: 0.0, ..good() }),
        ("top_p", SamplingParams { top_p: 1.1, ..good() }),
        ("min_p", SamplingParams { min_p: f32::NAN, ..good() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..good() }),
        ("presence_penalty", SamplingParams { presence_penalty: f32::NAN, ..good() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: 1e9, ..good() }),
        ("logit_bias", SamplingParams { logit_bias: [(1, f32::NAN)].into(), ..good() }),
        ("logit_bias", SamplingParams { logit_bias: [(9, 1.0)].into(), ..good() }),
        ("stop", SamplingParams { stop: vec![String::new()], ..good() }),
        ("max_tokens", SamplingParams { max_tokens: Some(0), ..good() }),
    ];
    for (name, params) in cases {
        let message = Sampler::new(&params, 9, &[]).unwrap_err().to_string();
        assert!(message.starts_with(name), "{message}");
    }
}

#[test]
fn no_token_left_is_an_error() {
    let ban = SamplingParams {
        logit_bias: [(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)].into(),
        ..SamplingParams::default()
    };
    assert!(Sampler::new(&ban, 2, &[]).unwrap().sample(&[1.0, 2.0]).is_err());
    let mut plain = Sampler::new(&SamplingParams::default(), 2, &[]).unwrap();
    assert!(plain.sample(&[f32::NAN, f32::NAN]).is_err());
    assert!(plain.sample(&[f32::INFINITY, 0.0]).is_err());
}
