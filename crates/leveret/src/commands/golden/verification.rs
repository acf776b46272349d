//! The rules of verification against exact laws of reference. What is enumerated here are the
//! functions that sessions run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use leveret_spec::Noise;
use leveret_spec::verify::rejection::{self, Candidates};
use leveret_spec::verify::{Branches, Coin, block, enumerate};
use serde_json::Value;

use super::fixture::{key, read_json};
use super::report::Report;

/// Largest difference of a probability.
const TOLERANCE: f32 = 1e-9;
/// Draws of the noise for a law that holds on average.
const DRAWS: u64 = 200_000;

/// Probabilities by ascending token.
type Law = Vec<(u32, f64)>;

/// All laws of one file.
pub(crate) fn laws(path: &Path, report: &mut Report) -> Result<()> {
    let golden = read_json(path)?;
    let list = |name: &str| golden[name].as_array().into_iter().flatten().enumerate();
    for (i, case) in list("cases") {
        chain(i, case, report).with_context(|| format!("{}: case {i}", path.display()))?;
    }
    for (i, case) in list("recursive_rejection") {
        candidates(i, case, report).with_context(|| format!("{}: candidates {i}", path.display()))?;
    }
    for (i, case) in list("gumbel_match") {
        matching(i, case, report)?;
    }
    Ok(())
}

/// A drafted chain under both rules: the law of what a round emits, and how much it keeps.
fn chain(i: usize, case: &Value, report: &mut Report) -> Result<()> {
    let len = key(case, "K")?.as_u64().ok_or_else(|| anyhow!("K: no number"))? as usize;
    let (p, q) = (rows(key(case, "p")?)?, rows(key(case, "q")?)?);
    let row = |rows: &BTreeMap<String, Law>, text: &[u32]| rows.get(&name(text)).cloned().unwrap_or_default();
    let draft = |coin: &mut Branches| {
        let mut tokens: Vec<u32> = Vec::new();
        while tokens.len() < len {
            let Some(token) = coin.draw(&row(&q, &tokens)) else { break };
            tokens.push(token);
        }
        tokens
    };
    let by_token = enumerate(|coin| {
        let drafted = draft(coin);
        let mut text = Vec::new();
        loop {
            let drawn = drafted.get(text.len()..).unwrap_or_default();
            let law = row(&q, &text);
            let candidates =
                Candidates { fixed: &[], drawn: &drawn[..drawn.len().min(1)], law: &law, replacement: false };
            let token = rejection::choose(&mut row(&p, &text), &candidates, coin);
            text.extend(token);
            if token.is_none() || drawn.first().copied() != token {
                return (text.len().saturating_sub(1), text);
            }
        }
    });
    let by_block = enumerate(|coin| {
        let drafted = draft(coin);
        let along = |rows, count| (0..count).map(|n| row(rows, &drafted[..n])).collect::<Vec<_>>();
        let (p, q) = (along(&p, drafted.len() + 1), along(&q, drafted.len()));
        let (kept, token) = block::choose(&block::Chain { tokens: &drafted, q: &q, p: &p }, coin);
        (kept, drafted[..kept].iter().copied().chain(token).collect::<Vec<_>>())
    });
    for (rule, law, expected) in
        [("token", &by_token, "token_rejection"), ("block", &by_block, "block_verification")]
    {
        let found = law.iter().map(|((kept, text), &chance)| (format!("{kept}|{}", name(text)), chance));
        let expected: BTreeMap<String, f64> = serde_json::from_value(key(case, expected)?.clone())?;
        let diff = difference(&found.collect(), &expected);
        report.numbers(&format!("{rule} rejection {i}: law of a round"), diff, TOLERANCE);
        let kept: f64 = law.iter().map(|((kept, _), chance)| *kept as f64 * chance).sum();
        let expected = key(key(case, "expected_accepted")?, rule)?.as_f64().unwrap_or(f64::NAN);
        report.numbers(
            &format!("{rule} rejection {i}: drafts kept"),
            (kept - expected).abs() as f32,
            TOLERANCE,
        );
    }
    Ok(())
}

/// Several draws for one place, with and without replacement.
fn candidates(i: usize, case: &Value, report: &mut Report) -> Result<()> {
    let (p, q) = (law(key(case, "p")?)?, law(key(case, "q")?)?);
    let draws = key(case, "k")?.as_u64().ok_or_else(|| anyhow!("k: no number"))?;
    for (rule, replacement) in [("without_replacement", false), ("with_replacement", true)] {
        let found = enumerate(|coin| {
            let (mut rest, mut drawn) = (q.clone(), Vec::new());
            for _ in 0..draws {
                let Some(token) = coin.draw(&rest) else { break };
                drawn.push(token);
                if !replacement {
                    rest.retain(|&(t, _)| t != token);
                }
            }
            let candidates = Candidates { fixed: &[], drawn: &drawn, law: &q, replacement };
            let token = rejection::choose(&mut p.clone(), &candidates, coin);
            let index = drawn.iter().position(|&t| Some(t) == token);
            (token, index.map_or(-1, |index| index as i64))
        });
        let (mut outputs, mut indices) = (BTreeMap::new(), BTreeMap::new());
        for ((token, index), chance) in found {
            *outputs.entry(token).or_insert(0.0) += chance;
            *indices.entry(index.to_string()).or_insert(0.0) += chance;
        }
        let expected = key(case, rule)?;
        let law = law(key(expected, "output_law")?)?.into_iter().map(|(token, chance)| (Some(token), chance));
        let name = format!("{rule} {i}").replace('_', " ");
        report.numbers(&format!("{name}: law"), difference(&outputs, &law.collect()), TOLERANCE);
        let accepted: BTreeMap<String, f64> = serde_json::from_value(key(expected, "accept_index")?.clone())?;
        report.numbers(&format!("{name}: which is kept"), difference(&indices, &accepted), TOLERANCE);
    }
    Ok(())
}

/// How often two distributions draw the same token under the same noise.
fn matching(i: usize, case: &Value, report: &mut Report) -> Result<()> {
    let row = |name: &str| -> Result<Vec<f64>> { Ok(serde_json::from_value(key(case, name)?.clone())?) };
    let (p, q) = (row("p")?, row("q")?);
    let expected =
        key(case, "match_probability")?.as_f64().ok_or_else(|| anyhow!("match_probability: no number"))?;
    let matches = (0..DRAWS).filter(|&position| {
        let noise = Noise::new(i as u64, position);
        pick(&p, &noise) == pick(&q, &noise)
    });
    let found = matches.count() as f64 / DRAWS as f64;
    // Five standard deviations of a share.
    let tolerance = 5.0 * (expected * (1.0 - expected) / DRAWS as f64).sqrt();
    let detail = format!("{found:.4}, expected {expected:.4}, tolerance {tolerance:.4}");
    let wrong: Vec<String> = ((found - expected).abs() > tolerance).then_some(detail).into_iter().collect();
    report.count(&format!("gumbel match {i}"), 1, &wrong);
    Ok(())
}

fn pick(p: &[f64], noise: &Noise) -> Option<usize> {
    let score = |token: usize| p[token].ln() + noise.gumbel(token as u32);
    (0..p.len()).max_by(|&a, &b| score(a).total_cmp(&score(b)))
}

/// Distributions by the text before them.
fn rows(value: &Value) -> Result<BTreeMap<String, Law>> {
    let Some(rows) = value.as_object() else { bail!("expected rows by text, found {value}") };
    rows.iter().map(|(text, row)| Ok((text.clone(), law(row)?))).collect()
}

/// A row of probabilities, without what has none.
fn law(row: &Value) -> Result<Law> {
    let dense: Vec<f64> = serde_json::from_value(row.clone())?;
    Ok((0..).zip(dense).filter(|&(_, chance)| chance > 0.0).collect())
}

/// A text as the file writes it.
fn name(text: &[u32]) -> String {
    text.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Greatest difference between two laws; what one does not list has no probability there.
fn difference<T: Ord>(a: &BTreeMap<T, f64>, b: &BTreeMap<T, f64>) -> f32 {
    let chance = |law: &BTreeMap<T, f64>, outcome| law.get(outcome).copied().unwrap_or(0.0);
    let outcomes = a.keys().chain(b.keys());
    outcomes.map(|outcome| (chance(a, outcome) - chance(b, outcome)).abs()).fold(0.0, f64::max) as f32
}
