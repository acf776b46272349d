//! The conversation: its messages, and the cache of what the model has read of them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result, bail};
use leveret_model::{Cache, Model, Target};
use leveret_spec::{Detokenizer, Experience, Options, Request, SamplingParams, Session, Step};
use serde_json::Value;

use crate::control::Costs;
use crate::drafter::DrafterSource;
use crate::model::{Loaded, message};
use crate::streams::tell;

/// A conversation with one model.
pub(super) struct Dialogue<'a> {
    loaded: &'a mut Loaded,
    drafters: &'a DrafterSource,
    params: SamplingParams,
    options: Options,
    /// Where the costs of `options` are from.
    costs: Option<Costs>,
    system: Option<String>,
    /// Everything said so far, the system message not among it.
    messages: Vec<Value>,
    memory: Option<Memory>,
    /// Of machine and drafter, from the answers so far.
    experience: Experience,
}

/// Turns are forgotten to leave at least one part in this many of the context to an answer.
const ANSWER_SHARE: usize = 8;

/// What has been read: rows of `cache` are the first of `tokens`.
struct Memory {
    tokens: Vec<u32>,
    cache: <Model as Target>::Cache,
}

impl<'a> Dialogue<'a> {
    pub(super) fn new(
        loaded: &'a mut Loaded,
        drafters: &'a DrafterSource,
        params: SamplingParams,
        options: Options,
        system: Option<String>,
        costs: Option<Costs>,
    ) -> Self {
        Self {
            loaded,
            drafters,
            params,
            options,
            costs,
            system,
            messages: Vec::new(),
            memory: None,
            experience: Experience::default(),
        }
    }

    /// Forgets what was said.
    pub(super) fn reset(&mut self) {
        self.messages.clear();
    }

    /// Begins anew with another system message.
    pub(super) fn set_system(&mut self, system: Option<String>) {
        self.system = system;
        self.reset();
    }

    /// Writes the conversation to a file.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.without(0))? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Makes text of tokens one by one.
    pub(super) fn detokenizer(&self) -> Box<dyn Detokenizer> {
        self.loaded.words.detokenizer()
    }

    /// All that was said but for the first `forgotten` messages.
    fn without(&self, forgotten: usize) -> Vec<Value> {
        let system = self.system.as_deref().map(|text| message("system", text));
        system.into_iter().chain(self.messages[forgotten..].iter().cloned()).collect()
    }

    /// Writes the answer to `text`; `show` is given every step and the names of sources of guesses.
    /// Returns what it took, in a few words. What is there of an answer when `interrupted` is set,
    /// or something fails, is kept.
    pub(super) fn answer(
        &mut self,
        text: &str,
        interrupted: &AtomicBool,
        mut show: impl FnMut(&Shown<'_>, &dyn Fn(u8) -> String) -> Result<()>,
    ) -> Result<String> {
        self.messages.push(message("user", text));
        let (mut session, read) = match self.begin() {
            Ok(begun) => begun,
            Err(error) => {
                // It is as if it had not been said.
                self.messages.pop();
                return Err(error);
            }
        };
        let model = &mut self.loaded.model;
        let mut result = Ok(());
        while session.finish_reason().is_none() && !interrupted.load(Relaxed) && result.is_ok() {
            result = match session.step(model) {
                Ok(step) => {
                    let shown = Shown::new(&step);
                    show(&shown, &|origin| session.origin_name(origin).to_owned())
                }
                Err(error) => Err(error.into()),
            };
        }
        self.messages.push(message("assistant", session.text()));
        let stats = session.stats();
        let mut told = format!(
            "{} tokens, {:.1} tokens/s, {:.2} a round, {read} of the prompt read",
            stats.tokens,
            stats.tokens_per_second(),
            stats.tau()
        );
        if interrupted.load(Relaxed) {
            told += ", stopped";
        }
        self.drafters.remember(session.output());
        self.experience = session.experience().clone();
        if let Some(costs) = &self.costs {
            costs.review(&self.options.cost, session.pass_seconds());
        }
        if let Some(trouble) = session.trouble() {
            tell!("{trouble}");
        }
        self.memory = Some(Memory { tokens: session.tokens().to_vec(), cache: session.into_cache() });
        result.map(|()| told)
    }

    /// A session for the answer to what was said, and how many tokens it must read before.
    fn begin(&mut self) -> Result<(Session<Model>, usize)> {
        let (ids, forgotten) = self.prompt()?;
        let drafter = self.drafters.build()?;
        // What reads features of the model must see every row, those of earlier turns too.
        let sees_all = drafter.as_ref().is_some_and(|drafter| !drafter.taps().is_empty());
        let cache = self.recall(&ids, sees_all)?;
        let read = ids.len() - cache.len();
        let text = Some(self.loaded.words.detokenizer());
        let request = Request { prompt: ids, params: self.params.clone(), drafter, text };
        let session = Session::resume(&self.loaded.model, request, self.options.clone(), cache)?
            .with_experience(self.experience.clone());
        if forgotten > 0 {
            tell!("the conversation has outgrown the context; its oldest {forgotten} messages are forgotten");
            self.messages.drain(..forgotten);
        }
        Ok((session, read))
    }

    /// The conversation in tokens, without as many of its oldest messages as must go so that an answer fits behind it.
    ///
    /// # Errors
    /// The last message does not fit even alone.
    fn prompt(&self) -> Result<(Vec<u32>, usize)> {
        let context = self.options.context;
        let mut forgotten = 0;
        loop {
            let ids = self.loaded.words.conversation(self.without(forgotten))?;
            if ids.len() <= context - context / ANSWER_SHARE {
                return Ok((ids, forgotten));
            }
            if self.messages.len() - forgotten < 3 {
                // Alone it may leave less room.
                return match ids.len() < context {
                    true => Ok((ids, forgotten)),
                    false => bail!(
                        "the message is too long: {} tokens, and the context holds {context}; shorten it, or raise \
                         --context (the model allows {})",
                        ids.len(),
                        self.loaded.model.max_context()
                    ),
                };
            }
            forgotten += 2;
        }
    }

    /// A cache that holds as much of `ids` as has been read before, less than all of it.
    fn recall(&mut self, ids: &[u32], from_scratch: bool) -> Result<<Model as Target>::Cache> {
        if let Some(Memory { tokens, mut cache }) = self.memory.take().filter(|_| !from_scratch) {
            let known = &tokens[..cache.len().min(tokens.len())];
            let same =
                known.iter().zip(ids).take_while(|(a, b)| a == b).count().min(ids.len().saturating_sub(1));
            // Some states cannot be cut; the conversation is then read anew.
            if cache.truncate(same).is_ok() {
                return Ok(cache);
            }
        }
        Ok(self.loaded.model.new_cache(self.options.context)?)
    }
}

/// What a step added that is to be shown.
#[derive(Debug, Clone)]
pub(super) struct Shown<'a> {
    pub(super) tokens: Vec<u32>,
    /// For each token the source of the guess that it was, if it was one.
    pub(super) origins: Vec<Option<u8>>,
    pub(super) text: std::borrow::Cow<'a, str>,
    pub(super) ended: bool,
}

impl Shown<'_> {
    fn new(step: &Step<'_>) -> Shown<'static> {
        Shown {
            tokens: step.tokens.to_vec(),
            origins: step.origins.to_vec(),
            text: step.text.to_owned().into(),
            ended: step.finish.is_some(),
        }
    }
}
