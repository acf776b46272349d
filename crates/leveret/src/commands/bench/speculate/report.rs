//! What `bench speculate` tells: a table, JSON for scripts, and the input of the page.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use leveret_spec::{Seconds, Stats};
use serde_json::{Value, json};

use super::tally::{Sample, Summary, summaries};
use super::{Args, Setup, page, save};
use crate::streams::stdout;

/// Depths whose acceptance the table shows.
const DEPTHS: usize = 4;

/// A finished measurement.
pub(super) struct Report<'a> {
    pub(super) model: String,
    pub(super) threads: usize,
    pub(super) cpu: String,
    pub(super) max_tokens: usize,
    pub(super) rounds: usize,
    pub(super) setups: &'a [Setup],
    pub(super) samples: &'a [Sample],
    /// Seconds of a pass by its rows.
    pub(super) curve: &'a BTreeMap<usize, f64>,
}

/// One setup and its figures: of all prompts first.
pub(super) struct Row<'a> {
    pub(super) setup: &'a Setup,
    pub(super) summaries: Vec<Summary>,
    /// For each summary the best fixed setting of the same drafter that was measured, and the share
    /// of its speed that is lost to it; negative where control is the faster.
    pub(super) regrets: Vec<Option<(String, f64)>>,
}

/// A setup in few words.
pub(super) fn label(setup: &Setup) -> String {
    let mut label = format!("{}, {}", setup.drafter, setup.control);
    if setup.accept != Default::default() {
        label += &format!(", {}", setup.accept.name());
    }
    if setup.temperature > 0.0 {
        label += &format!(", temperature {}", setup.temperature);
    }
    label
}

impl Report<'_> {
    /// Writes the table or JSON, and the files that were asked for.
    pub(super) fn write(&self, args: &Args) -> Result<()> {
        let rows = self.rows();
        let json = serde_json::to_string_pretty(&self.json(&rows))? + "\n";
        let mut out = stdout();
        match &args.json {
            Some(path) if path.as_os_str() == "-" => out.write_all(json.as_bytes())?,
            other => {
                self.table(&rows, &mut out)?;
                if let Some(path) = other {
                    save(path, &json)?;
                }
            }
        }
        if let Some(path) = &args.html {
            save(path, &page::page(self, &rows))?;
        }
        if let Some(path) = &args.svg {
            save(path, &crate::plot::standalone(&page::speedups(self, &rows)))?;
        }
        Ok(())
    }

    /// A row for each setup, in their order.
    fn rows(&self) -> Vec<Row<'_>> {
        let figures: Vec<Vec<Summary>> = (0..self.setups.len())
            .map(|i| summaries(&self.samples.iter().filter(|sample| sample.setup == i).collect::<Vec<_>>()))
            .collect();
        let regrets = |i: usize| -> Vec<Option<(String, f64)>> {
            let same = |other: &Setup| Setup {
                control: self.setups[i].control,
                swept: self.setups[i].swept,
                ..other.clone()
            };
            let fixed: Vec<usize> = (0..self.setups.len())
                .filter(|&j| j != i && self.setups[j].control.is_fixed())
                .filter(|&j| same(&self.setups[j]) == self.setups[i])
                .collect();
            let regret = |k: usize| {
                let speed =
                    |j: usize| figures[j].get(k).map_or(0.0, |summary| summary.stats.tokens_per_second());
                let best = fixed.iter().copied().max_by(|&a, &b| speed(a).total_cmp(&speed(b)))?;
                (speed(best) > 0.0)
                    .then(|| (self.setups[best].control.to_string(), 1.0 - speed(i) / speed(best)))
            };
            (0..figures[i].len()).map(regret).collect()
        };
        let regrets: Vec<_> = (0..self.setups.len()).map(regrets).collect();
        let rows = self.setups.iter().zip(figures).zip(regrets);
        rows.map(|((setup, summaries), regrets)| Row { setup, summaries, regrets }).collect()
    }

    /// Tokens per second of plain decoding by temperature, over all prompts.
    pub(super) fn baselines(&self, rows: &[Row<'_>]) -> Vec<(f32, f64)> {
        let mut speeds: Vec<(f32, f64)> = Vec::new();
        for row in rows {
            let temperature = row.setup.temperature;
            if !speeds.iter().any(|(known, _)| *known == temperature) {
                speeds.push((temperature, row.summaries[0].plain.tokens_per_second()));
            }
        }
        speeds
    }

    fn json(&self, rows: &[Row<'_>]) -> Value {
        let configs: Vec<Value> = rows
            .iter()
            .flat_map(|row| row.summaries.iter().map(|summary| config(row.setup, summary)))
            .collect();
        let baselines = self.baselines(rows);
        let details = rows.iter().flat_map(|row| {
            row.summaries.iter().zip(&row.regrets).map(|(summary, regret)| {
                json!({
                    "drafter": row.setup.drafter.to_string(),
                    "control": row.setup.control.to_string(),
                    "accept": row.setup.accept.name(),
                    "temperature": as_written(row.setup.temperature),
                    "category": summary.category,
                    "swept": row.setup.swept,
                    "plain_tps": summary.plain.tokens_per_second(),
                    "rounds": summary.stats.rounds,
                    "drafted": summary.stats.drafted,
                    "accepted": summary.stats.accepted,
                    "seconds": summary.stats.seconds,
                    "best_fixed": regret.as_ref().map(|(name, _)| name),
                    "regret": regret.as_ref().map(|(_, share)| share),
                })
            })
        });
        json!({
            "model": self.model,
            "threads": self.threads,
            "baseline": {"tps": baselines.first().map_or(0.0, |(_, tps)| *tps)},
            "configs": configs,
            "details": {
                "cpu": self.cpu,
                "version": env!("CARGO_PKG_VERSION"),
                "max_tokens": self.max_tokens,
                "rounds": self.rounds,
                "baselines": baselines.iter().map(|(t, tps)| json!({"temperature": as_written(*t), "tps": tps})).collect::<Vec<_>>(),
                "pass_ms": self.curve.iter().map(|(m, s)| (m.to_string(), json!(s * 1e3))).collect::<serde_json::Map<_, _>>(),
                "configs": details.collect::<Vec<_>>(),
                "prompts": self.samples.iter().map(|sample| prompt(&self.setups[sample.setup], sample)).collect::<Vec<_>>(),
            },
        })
    }

    fn table(&self, rows: &[Row<'_>], out: &mut impl Write) -> Result<()> {
        writeln!(out, "{}, {} threads, {}", self.model, self.threads, self.cpu)?;
        for (temperature, tps) in self.baselines(rows) {
            writeln!(out, "plain decoding at temperature {temperature}: {tps:.1} tokens/s")?;
        }
        for row in rows.iter().filter(|row| !row.setup.swept) {
            writeln!(out, "\n{}", label(row.setup))?;
            writeln!(
                out,
                "{:<20}{:>8}{:>10}{:>10}{:>16}{:>7}{:>22}{:>8}{:>8}  {}",
                "category",
                "prompts",
                "tokens/s",
                "speed-up",
                "95% interval",
                "tau",
                "accepted at 1 to 4, %",
                "parked",
                "worst",
                if row.regrets.iter().any(Option::is_some) { "best fixed, lost to it" } else { "" }
            )?;
            for (summary, regret) in row.summaries.iter().zip(&row.regrets) {
                let depths: Vec<String> = summary
                    .stats
                    .acceptance_by_depth()
                    .iter()
                    .take(DEPTHS)
                    .map(|share| format!("{:>4.0}", share * 100.0))
                    .collect();
                let regret = regret
                    .as_ref()
                    .map_or(String::new(), |(name, share)| format!("{name}, {:.1}%", share * 100.0));
                writeln!(
                    out,
                    "{:<20}{:>8}{:>10.1}{:>9.2}x{:>16}{:>7.2}{:>22}{:>7.0}%{:>8.2}  {regret}{}",
                    summary.category,
                    summary.prompts,
                    summary.stats.tokens_per_second(),
                    summary.speedup,
                    format!("{:.2} to {:.2}", summary.interval[0], summary.interval[1]),
                    summary.stats.tau(),
                    depths.join(" "),
                    parked_share(&summary.stats) * 100.0,
                    summary.worst,
                    match summary.texts_equal {
                        true => "",
                        false if row.setup.keeps_texts() => "  TEXTS DIFFER",
                        false => "  other texts",
                    }
                )?;
            }
            let parts: Vec<String> = shares(&row.summaries[0].stats.seconds)
                .iter()
                .map(|(name, share)| format!("{name} {:.1}%", share * 100.0))
                .collect();
            writeln!(out, "a round's time: {}", parts.join(", "))?;
        }
        let mut swept = rows.iter().filter(|row| row.setup.swept).peekable();
        if swept.peek().is_some() {
            writeln!(out, "\nsweep{:>35}{:>10}{:>7}", "tokens/s", "speed-up", "tau")?;
        }
        for row in swept {
            let all = &row.summaries[0];
            let speed = all.stats.tokens_per_second();
            writeln!(
                out,
                "{:<30}{speed:>10.1}{:>9.2}x{:>7.2}",
                label(row.setup),
                all.speedup,
                all.stats.tau()
            )?;
        }
        Ok(())
    }
}

/// The number with the digits that were given; an f32 made an f64 has others behind them.
fn as_written(temperature: f32) -> f64 {
    temperature.to_string().parse().unwrap_or(temperature.into())
}

/// One prompt under one setup.
fn prompt(setup: &Setup, sample: &Sample) -> Value {
    json!({
        "drafter": setup.drafter.to_string(),
        "control": setup.control.to_string(),
        "accept": setup.accept.name(),
        "temperature": as_written(setup.temperature),
        "category": sample.category,
        "prompt": sample.prompt,
        "tokens": sample.stats.tokens,
        "plain_seconds": sample.plain.decode_seconds,
        "seconds": sample.stats.decode_seconds,
        "ratio": sample.slowdown(),
    })
}

/// The entry of a setup and category.
fn config(setup: &Setup, summary: &Summary) -> Value {
    json!({
        "drafter": setup.drafter.to_string(),
        "control": setup.control.to_string(),
        "accept": setup.accept.name(),
        "temperature": as_written(setup.temperature),
        "category": summary.category,
        "prompts": summary.prompts,
        "tps": summary.stats.tokens_per_second(),
        "speedup": summary.speedup,
        "speedup_ci": summary.interval,
        "tau": summary.stats.tau(),
        "acceptance_by_depth": summary.stats.acceptance_by_depth(),
        "parked_share": parked_share(&summary.stats),
        "worst_prompt_ratio": summary.worst,
        "texts_equal": summary.texts_equal,
    })
}

pub(super) fn parked_share(stats: &Stats) -> f64 {
    stats.parked as f64 / stats.rounds.max(1) as f64
}

/// Parts of a round's time, named for people.
pub(super) fn shares(seconds: &Seconds) -> [(&'static str, f64); 5] {
    let total = seconds.total().max(f64::MIN_POSITIVE);
    [
        ("draft", seconds.draft / total),
        ("verify", seconds.forward / total),
        ("sample", seconds.sample / total),
        ("control", seconds.control / total),
        ("commit", seconds.commit / total),
    ]
}
