//! The measurement itself: each turn of a prompt is written plainly and under every setup, in turns.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use leveret_model::{Cache, Model, Target};
use leveret_spec::{FinishReason, Options, Request, SamplingParams, Session, Stats};
use serde_json::{Value, json};

use super::Setup;
use super::tally::Sample;
use crate::drafter::DrafterSource;
use crate::model::{Loaded, message};
use crate::progress::Steps;
use crate::prompts::Prompt;

/// What is to be measured.
pub(super) struct Plan<'a> {
    pub(super) setups: &'a [Setup],
    /// By the drafter's name.
    pub(super) sources: &'a BTreeMap<String, DrafterSource>,
    pub(super) options: Options,
    pub(super) rounds: usize,
    pub(super) max_tokens: usize,
    pub(super) seed: u64,
}

impl Plan<'_> {
    /// Temperatures of the setups; each has a plain decoding of its own.
    fn temperatures(&self) -> Vec<f32> {
        let mut temperatures: Vec<f32> = Vec::new();
        for setup in self.setups {
            if !temperatures.contains(&setup.temperature) {
                temperatures.push(setup.temperature);
            }
        }
        temperatures
    }

    /// Texts that are written for one turn.
    pub(super) fn texts_per_turn(&self) -> usize {
        self.rounds * (self.setups.len() + self.temperatures().len())
    }
}

/// Where texts are written.
pub(super) struct Desk<'a> {
    loaded: &'a mut Loaded,
    plan: &'a Plan<'a>,
    /// Holds the prompt at hand but for its last token, so that it is read once only.
    cache: Option<<Model as Target>::Cache>,
    /// Token ids of every turn so far, one JSON object a line.
    pub(super) ids: String,
}

/// A text and what it took.
struct Written {
    ids: Vec<u32>,
    finish: Option<FinishReason>,
    text: String,
    stats: Stats,
}

impl<'a> Desk<'a> {
    pub(super) fn new(loaded: &'a mut Loaded, plan: &'a Plan<'a>) -> Self {
        Self { loaded, plan, cache: None, ids: String::new() }
    }

    /// Writes one prompt under every setup; a sample for each. Turns that do not fit the context
    /// are left out.
    pub(super) fn write(&mut self, index: usize, prompt: &Prompt, steps: &mut Steps) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for temperature in self.plan.temperatures() {
            samples.extend(self.dialogue(index, prompt, temperature, steps)?);
        }
        Ok(samples)
    }

    fn dialogue(
        &mut self,
        index: usize,
        prompt: &Prompt,
        temperature: f32,
        steps: &mut Steps,
    ) -> Result<Vec<Sample>> {
        let setups: Vec<usize> =
            (0..self.plan.setups.len()).filter(|&i| self.plan.setups[i].temperature == temperature).collect();
        let mut samples: Vec<Sample> = Vec::new();
        let mut history: Vec<Value> = Vec::new();
        for (at, turn) in prompt.turns.iter().enumerate() {
            history.push(message("user", turn));
            let words = &self.loaded.words;
            let ids =
                if prompt.raw { words.raw_prompt(turn)? } else { words.conversation(history.clone())? };
            if ids.len() + 2 > self.plan.options.context {
                steps.skip((self.plan.rounds * (1 + setups.len()) * (prompt.turns.len() - at)) as u64);
                break;
            }
            if self.plan.temperatures().first() == Some(&temperature) {
                let (name, category) = (&prompt.name, &prompt.category);
                self.ids +=
                    &format!("{}\n", json!({"prompt": name, "category": category, "turn": at, "ids": ids}));
            }
            let texts = self.turn(index + at, &ids, &setups, temperature, steps)?;
            let Some((plain, speculative)) = texts.split_first() else { break };
            for (k, written) in speculative.iter().enumerate() {
                let equal = written.ids == plain.ids && written.finish == plain.finish;
                if at == 0 {
                    samples.push(Sample::new(setups[k], prompt));
                }
                samples[k].add(&plain.stats, &written.stats, equal);
            }
            history.push(message("assistant", &plain.text));
        }
        Ok(samples)
    }

    /// The same turn plainly (first) and under each of `setups`, the fastest of all rounds.
    fn turn(
        &mut self,
        first: usize,
        ids: &[u32],
        setups: &[usize],
        temperature: f32,
        steps: &mut Steps,
    ) -> Result<Vec<Written>> {
        self.cache = None;
        let ways: Vec<Option<usize>> =
            std::iter::once(None).chain(setups.iter().copied().map(Some)).collect();
        let mut best: Vec<Option<Written>> = ways.iter().map(|_| None).collect();
        for round in 0..self.plan.rounds {
            for k in 0..ways.len() {
                // Every setup has every place in the order, so that no neighbour favours one.
                let way = (k + first + round) % ways.len();
                let written = self.text(ids, ways[way], temperature)?;
                let slot = &mut best[way];
                if slot.as_ref().is_none_or(|known| written.stats.decode_seconds < known.stats.decode_seconds)
                {
                    *slot = Some(written);
                }
                steps.add(1);
            }
        }
        Ok(best.into_iter().flatten().collect())
    }

    fn text(&mut self, ids: &[u32], setup: Option<usize>, temperature: f32) -> Result<Written> {
        let plan = self.plan;
        let setup = setup.map(|i| &plan.setups[i]);
        let drafter = match setup {
            None => None,
            Some(setup) => {
                let name = setup.drafter.to_string();
                plan.sources.get(&name).with_context(|| name.clone())?.build()?
            }
        };
        let mut options = plan.options.clone();
        if let Some(setup) = setup {
            options.control = setup.control;
            options.accept = setup.accept.into();
        }
        let params = SamplingParams {
            temperature,
            seed: plan.seed,
            max_tokens: Some(plan.max_tokens),
            ..SamplingParams::default()
        };
        // What reads features must see every row of the prompt.
        let sees_all = drafter.as_ref().is_some_and(|drafter| !drafter.taps().is_empty());
        let (model, words) = (&mut self.loaded.model, &self.loaded.words);
        let request = Request { prompt: ids.to_vec(), params, drafter, text: Some(words.detokenizer()) };
        let known = if sees_all { None } else { self.cache.take() };
        let mut session = match known {
            Some(cache) => Session::resume(model, request, options, cache)?,
            None => Session::new(model, request, options)?,
        };
        session.run(model)?;
        let written = Written {
            ids: session.output().to_vec(),
            finish: session.finish_reason(),
            text: session.text().to_owned(),
            stats: session.stats().clone(),
        };
        if !sees_all {
            let mut cache = session.into_cache();
            // A state that cannot be cut is made anew for each text.
            self.cache = cache.truncate(ids.len() - 1).is_ok().then_some(cache);
        }
        Ok(written)
    }
}
