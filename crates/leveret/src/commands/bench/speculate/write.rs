//! The measurement itself: each turn of a prompt is written plainly and under every setup, side by side.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use leveret_model::{Model, Sequence};
use leveret_spec::{Experience, FinishReason, Options, Request, SamplingParams, Session, Stats};
use serde_json::{Value, json};

use super::Setup;
use super::tally::Sample;
use crate::drafter::DrafterSource;
use crate::model::{Loaded, message};
use crate::progress::Steps;
use crate::prompts::Prompt;

/// Tokens that a text grows by before it is the next one's turn: few, so that what else the machine does falls on all.
const STRETCH: usize = 8;

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
    /// What each setup has learned from its own texts.
    experience: BTreeMap<usize, Experience>,
    /// Token ids of every turn so far, one JSON object a line.
    pub(super) ids: String,
    /// Why drafters have stopped guessing.
    pub(super) troubles: BTreeSet<String>,
    /// Turns that did not fit into the context.
    pub(super) left_out: usize,
}

/// A text and what it took.
struct Written {
    ids: Vec<u32>,
    finish: Option<FinishReason>,
    text: String,
    stats: Stats,
    /// Whether it was the first plain text in every round.
    equal: bool,
}

impl Written {
    fn of(text: &Session<Model>) -> Self {
        Self {
            equal: true,
            ids: text.output().to_vec(),
            finish: text.finish_reason(),
            text: text.text().to_owned(),
            stats: text.stats().clone(),
        }
    }
}

impl<'a> Desk<'a> {
    pub(super) fn new(loaded: &'a mut Loaded, plan: &'a Plan<'a>) -> Self {
        Self {
            loaded,
            plan,
            experience: BTreeMap::new(),
            ids: String::new(),
            troubles: BTreeSet::new(),
            left_out: 0,
        }
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
                self.left_out += prompt.turns.len() - at;
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
                if at == 0 {
                    samples.push(Sample::new(setups[k], prompt));
                }
                samples[k].add(&plain.stats, &written.stats, plain.equal && written.equal);
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
        let ways: Vec<Option<usize>> =
            std::iter::once(None).chain(setups.iter().copied().map(Some)).collect();
        let read = self.read(ids)?;
        let mut best: Vec<Written> = Vec::new();
        for round in 0..self.plan.rounds {
            let begin = |&way: &Option<usize>| self.begin(ids, way, temperature, read.as_ref());
            let mut texts = ways.iter().map(begin).collect::<Result<Vec<_>>>()?;
            self.side_by_side(&mut texts, first + round)?;
            for (k, text) in texts.iter().enumerate() {
                let mut written = Written::of(text);
                if let Some(plain) = best.first() {
                    // All texts of the plain way are equal, or it is marked.
                    written.equal = written.ids == plain.ids && written.finish == plain.finish;
                }
                match best.get_mut(k) {
                    None => best.push(written),
                    Some(known) => {
                        let equal = known.equal && written.equal;
                        if written.stats.decode_seconds < known.stats.decode_seconds {
                            *known = written;
                        }
                        known.equal = equal;
                    }
                }
                self.experience.extend(ways[k].map(|setup| (setup, text.experience())));
                self.troubles.extend(text.trouble().map(str::to_owned));
            }
            steps.add(texts.len() as u64);
        }
        Ok(best)
    }

    /// The prompt's rows but for the last one: read once, all texts go on from copies. `None` where there are none.
    fn read(&mut self, ids: &[u32]) -> Result<Option<Sequence>> {
        let before = &ids[..ids.len().saturating_sub(1)];
        if before.is_empty() {
            return Ok(None);
        }
        // Room for what is written later.
        let params = SamplingParams {
            max_tokens: Some(self.plan.max_tokens.saturating_add(1)),
            ..SamplingParams::default()
        };
        let request = Request { prompt: before.to_vec(), params, drafter: None, text: None };
        let mut session = Session::new(&self.loaded.model, request, self.plan.options.clone())?;
        self.read_prompt(&mut session)?;
        Ok(Some(session.into_cache()))
    }

    /// A text under a setup or plainly, up to its first token.
    fn begin(
        &mut self,
        ids: &[u32],
        setup: Option<usize>,
        temperature: f32,
        read: Option<&Sequence>,
    ) -> Result<Session<Model>> {
        let plan = self.plan;
        let experience = setup.and_then(|i| self.experience.get(&i)).cloned().unwrap_or_default();
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
        let (model, words) = (&self.loaded.model, &self.loaded.words);
        let request = Request { prompt: ids.to_vec(), params, drafter, text: Some(words.detokenizer()) };
        let mut session = match read.filter(|_| !sees_all) {
            Some(read) => Session::resume(model, request, options, read.fork()?)?,
            None => Session::new(model, request, options)?,
        }
        .with_experience(experience);
        self.read_prompt(&mut session)?;
        Ok(session)
    }

    /// Steps up to the first token.
    fn read_prompt(&mut self, session: &mut Session<Model>) -> Result<()> {
        while session.output().is_empty() && session.finish_reason().is_none() {
            session.step(&mut self.loaded.model)?;
        }
        Ok(())
    }

    /// Writes texts to their ends, a stretch of each in turn.
    fn side_by_side(&mut self, texts: &mut [Session<Model>], first: usize) -> Result<()> {
        let count = texts.len();
        let mut stretch = 0;
        while texts.iter().any(|text| text.finish_reason().is_none()) {
            stretch += 1;
            for k in 0..count {
                // Every text has every place in the order, so that no neighbour favours one.
                let text = &mut texts[(k + first + stretch) % count];
                while text.finish_reason().is_none() && text.output().len() <= stretch * STRETCH {
                    text.step(&mut self.loaded.model)?;
                }
            }
        }
        Ok(())
    }
}
