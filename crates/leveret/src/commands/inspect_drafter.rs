//! What `leveret inspect` says of a drafter: what it reads of its target, what a step costs, and
//! whether it fits the target that it is asked about.

use std::io::Write;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use leveret_model::drafters::{self, Description};
use leveret_model::{LoadOptions, Source, Tap};
use serde_json::{Value, json};

use crate::draft_model::HeadArgs;
use crate::model;

/// A drafter, described.
#[derive(Debug)]
pub(super) struct Drafter {
    description: Description,
    /// Whether the files hold nothing else.
    alone: bool,
    /// The target that it was asked about: its name, whether the drafter fits, and what the target
    /// reads for a token.
    target: Option<(String, Result<u64, String>)>,
}

impl Drafter {
    /// Describes the drafter in `source`, for `target` if one is named.
    pub(super) fn open(
        source: &Source,
        target: Option<&str>,
        heads: &HeadArgs,
        options: &LoadOptions,
    ) -> Result<Self> {
        let draft_options = heads.options(options.precision);
        let described = |facts| drafters::describe(source, facts, &draft_options);
        let (description, target) = match target {
            None => (described(None)?, None),
            Some(name) => {
                let opened = model::open(Some(name))?;
                let facts = opened.target_facts(options)?;
                let read = opened.footprint(options)?.bytes_per_token;
                match described(Some(&facts)) {
                    Ok(description) => (description, Some((name.into(), Ok(read)))),
                    // Damaged files are no matter of fitting.
                    Err(error) => (described(None)?, Some((name.into(), Err(error.to_string())))),
                }
            }
        };
        Ok(Self { description, alone: source.unused().next().is_none(), target })
    }

    /// Whether `source` is a drafter and no damaged model with one inside. That has tensors which
    /// nobody has read when the drafter was described.
    pub(super) fn stands_alone(&self, source: &Source) -> bool {
        self.description.family != "mtp" || source.config().is_err() || self.alone
    }

    pub(super) fn json(&self) -> Value {
        let d = &self.description;
        let mut object = json!({
            "family": d.family,
            "dialect": d.dialect,
            "taps": taps(&d.taps),
            "depth": d.depth,
            "vocab_size": d.vocab,
            "bytes_per_step": d.bytes_per_step,
            "bytes_along": d.bytes_along,
        });
        if let Some((name, fits)) = &self.target {
            object["target"] = match fits {
                Ok(read) => json!({"model": name, "fits": true, "bytes_per_token": read}),
                Err(why) => json!({"model": name, "fits": false, "why": why}),
            };
        }
        object
    }

    pub(super) fn table(&self, out: &mut impl Write) -> Result<()> {
        let mut line = |key: &str, value: String| writeln!(out, "{key:<18}{value}");
        let d = &self.description;
        line("drafter", format!("{}, {} layout", d.family, d.dialect))?;
        match taps(&d.taps).split_first() {
            None => line("reads", "what its target has; name one with --target".into())?,
            Some((first, rest)) => {
                line("reads", first.clone())?;
                rest.iter().try_for_each(|tap| line("", tap.clone()))?;
            }
        }
        let depth =
            d.depth.map_or("token by token, at will".into(), |depth| format!("{depth} tokens at most"));
        line("depth", depth)?;
        line("vocabulary", HumanCount(d.vocab as u64).to_string())?;
        let share = match &self.target {
            Some((_, Ok(read))) if *read > 0 => {
                format!(", {:.1} % of the target's token", 100.0 * d.bytes_per_step as f64 / *read as f64)
            }
            _ => String::new(),
        };
        line("read per step", format!("{}{share}", HumanBytes(d.bytes_per_step as u64)))?;
        if d.bytes_along > 0 {
            line(
                "read per choice",
                format!("{} for each token along a block", HumanBytes(d.bytes_along as u64)),
            )?;
        }
        match &self.target {
            Some((name, Ok(_))) => line("fits", format!("{name}: yes"))?,
            Some((name, Err(why))) => line("fits", format!("{name}: no: {why}"))?,
            None => {}
        }
        Ok(())
    }
}

/// What a drafter reads, in its order; layers are counted from 0.
fn taps(taps: &[Tap]) -> Vec<String> {
    let name = |tap: &Tap| match tap {
        Tap::Final => "hidden state after the final norm".to_owned(),
        Tap::Residual(0) => "embedding".to_owned(),
        Tap::Residual(layers) => format!("residual stream after {layers} layers"),
        Tap::Keys(layer) => format!("keys of layer {layer}"),
        Tap::Values(layer) => format!("values of layer {layer}"),
    };
    taps.iter().map(name).collect()
}
