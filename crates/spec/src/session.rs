//! One sequence from prompt to last token: it owns text, cache, sampler and drafter, and steps.
//!
//! A step is always the same: rows that must be processed, a draft behind them, one pass, a walk
//! over the draft, a commit. For a chunk of the prompt the draft is empty and no row is drawn
//! from; for plain decoding the draft is empty; otherwise there is one.

mod pass;
mod read;
mod request;

use leveret_model::{Cache, LogitRows, Pass, Tap, Target};

use crate::control::{Controller, Experience};
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Probe, Round};
use crate::error::{Error, Result};
use crate::sampler::{Draw, Sampler, TokenLogprobs};
use crate::stats::{Laps, RoundStats, Seconds, Stats};
use crate::stop::StopStrings;
use crate::verify::{Accept, Judge, verify};
use pass::{LastPass, Plan};

pub use request::{Belief, Detokenizer, FinishReason, Options, Request, Step};

/// One sequence being written.
pub struct Session<T: Target> {
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Most tokens that the text may have.
    limit: usize,
    cache: T::Cache,
    vocab: usize,
    sampler: Sampler,
    draw: Draw,
    judge: Judge,
    accept: Accept,
    logprob_count: Option<usize>,
    drafter: Option<Box<dyn Drafter>>,
    /// Features that the drafter reads.
    taps: Vec<Tap>,
    control: Controller,
    end_tokens: Vec<u32>,
    prefill_chunk: usize,
    max_draft: usize,
    detokenizer: Option<Box<dyn Detokenizer>>,
    stops: StopStrings,
    text: String,
    logprobs: Vec<TokenLogprobs>,
    /// Of each token of output.
    origins: Vec<Option<u8>>,
    finish: Option<FinishReason>,
    /// A step has failed half-way.
    failed: bool,
    stats: Stats,
    plan: Plan,
    draft: Draft,
    /// Masks that are read without a drafter, and believed: see [`Options::believe`].
    believe: Option<Belief>,
    /// Scratch: accepted nodes of the draft, then the rows to commit.
    path: Vec<usize>,
    /// Scratch: text of one token.
    piece: String,
}

/// Masks of a pass, and those whose guess became text: see [`Belief`].
#[derive(Debug, Clone, Copy, Default)]
struct Believed {
    drafted: usize,
    accepted: usize,
}

impl<T: Target> Session<T> {
    /// Makes room for the request; nothing is computed yet.
    ///
    /// # Errors
    /// Parameters out of range, tokens outside the vocabulary, a prompt that is empty or leaves no
    /// room in the context, stop strings without a detokenizer, or no memory for the cache.
    pub fn new(target: &T, request: Request, options: Options) -> Result<Self> {
        Self::make(target, request, options, None)
    }

    /// The same, with a cache whose rows are the first tokens of the prompt, so that only the rest
    /// of it must be read; see [`into_cache`](Self::into_cache). The text may grow as far as the
    /// cache has room. Drafters do not see the rows that are there already.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the cache holds the whole prompt or more: the token after
    /// it is drawn from a pass over its last.
    pub fn resume(target: &T, request: Request, options: Options, cache: T::Cache) -> Result<Self> {
        Self::make(target, request, options, Some(cache))
    }

    /// Decides how far to guess with what an earlier session of the same model and drafter has learned. The text is
    /// the same.
    #[must_use]
    pub fn with_experience(mut self, experience: Experience) -> Self {
        if let (Some(drafter), Some(lessons)) = (&mut self.drafter, experience.lessons()) {
            drafter.remember(lessons);
        }
        self.control.remember(experience);
        self
    }

    fn make(target: &T, request: Request, options: Options, cache: Option<T::Cache>) -> Result<Self> {
        let Request { prompt, params, drafter, text: detokenizer } = request;
        let vocab = target.vocab_size();
        let room = cache.as_ref().map_or(usize::MAX, |cache| cache.capacity());
        let context = options.context.min(target.max_context()).min(room);
        let sampler = Sampler::new(&params, vocab, &prompt)?;
        if prompt.is_empty() {
            return Err(Error::Context("the prompt is empty; expected at least one token".into()));
        }
        if let Some(&token) = prompt.iter().find(|&&token| token as usize >= vocab) {
            return Err(Error::Context(format!(
                "prompt: token {token} is outside the vocabulary of {vocab} tokens"
            )));
        }
        if prompt.len() >= context {
            return Err(Error::Context(format!(
                "the prompt has {} tokens and the context holds {context}, so nothing can follow: \
                 shorten the prompt or raise the context (the model allows {})",
                prompt.len(),
                target.max_context()
            )));
        }
        let known = cache.as_ref().map_or(0, |cache| cache.len());
        if known > 0 && known >= prompt.len() {
            return Err(Error::Context(format!(
                "the cache holds {known} tokens of a prompt of {}; expected fewer",
                prompt.len()
            )));
        }
        if !params.stop.is_empty() && detokenizer.is_none() {
            return Err(Error::params("stop: strings can be found only where text is made"));
        }
        let limit = params.max_tokens.map_or(context, |n| context.min(prompt.len().saturating_add(n)));
        let rows = context.min(limit.saturating_add(options.max_draft));
        let draw = Draw::new(&params);
        let accept = if draw.is_greedy() { Accept::Match } else { options.accept };
        Ok(Self {
            prompt_len: prompt.len(),
            stats: Stats { prompt_tokens: prompt.len(), ..Stats::default() },
            tokens: prompt,
            limit,
            cache: match cache {
                Some(cache) => cache,
                None => target.new_cache(rows)?,
            },
            vocab,
            sampler,
            draw,
            judge: Judge::new(accept, params.seed),
            accept,
            taps: drafter.as_ref().map_or_else(Vec::new, |drafter| drafter.taps().to_vec()),
            logprob_count: params.logprobs,
            drafter,
            control: Controller::new(options.control, options.cost, options.follow_clock),
            end_tokens: options.end_tokens,
            prefill_chunk: options.prefill_chunk.max(1),
            max_draft: options.max_draft,
            detokenizer,
            stops: StopStrings::new(&params.stop),
            text: String::new(),
            logprobs: Vec::new(),
            origins: Vec::new(),
            finish: None,
            failed: false,
            plan: Plan {
                tokens: Vec::new(),
                parents: Vec::new(),
                base: 0,
                logits: LogitRows::None,
                probes: Vec::new(),
            },
            believe: options.believe,
            draft: Draft::new(),
            path: Vec::new(),
            piece: String::new(),
        })
    }

    /// Reads the next chunk of the prompt, or runs one round. `target` is the one that the session
    /// was made for. Once the text has ended, does nothing.
    ///
    /// # Errors
    /// When the target refuses the pass, or its logits allow no token. The session is then over.
    pub fn step(&mut self, target: &mut T) -> Result<Step<'_>> {
        let seen = (self.tokens.len(), self.text.len(), self.logprobs.len(), self.origins.len());
        if self.failed {
            return Err(Error::Context("an earlier step of this session failed; start a new one".into()));
        }
        let mut round = None;
        if self.finish.is_none() {
            self.failed = true;
            round = self.advance(target)?;
            self.failed = false;
        }
        Ok(Step {
            tokens: &self.tokens[seen.0..],
            text: &self.text[seen.1..],
            logprobs: &self.logprobs[seen.2..],
            origins: &self.origins[seen.3..],
            finish: self.finish,
            round,
        })
    }

    /// Steps until the text has ended.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn run(&mut self, target: &mut T) -> Result<FinishReason> {
        loop {
            if let Some(reason) = self.step(target)?.finish {
                return Ok(reason);
            }
        }
    }

    /// One pass. What it returns is the round, if it was one.
    fn advance(&mut self, target: &mut T) -> Result<Option<RoundStats>> {
        let mut laps = Laps::start();
        let mut seconds = Seconds::default();
        let reading = self.cache.len() < self.prompt_len;
        let context = self.tokens.len();
        self.draft.clear();
        if !reading && self.propose() {
            seconds.draft = laps.lap();
            self.control.cut(&mut self.draft, 1, context, seconds.draft);
        }
        self.plan.probes.clear();
        if !reading {
            self.probe();
        }
        self.plan(reading);
        seconds.control = laps.lap();
        let taps = std::mem::take(&mut self.taps);
        let result = target.forward(&mut [self.pass()], &taps);
        self.taps = taps;
        result?;
        seconds.forward = laps.lap();
        let believed = self.decide(target)?;
        seconds.sample = laps.lap();
        let new = self.tokens.len() - context;
        let accepted = self.path.len() + believed.accepted;
        self.commit(new)?;
        seconds.commit = laps.lap();
        self.observe(target, new);
        seconds.draft += laps.lap();
        if reading {
            self.stats.prompt_seconds += seconds.total();
            return Ok(None);
        }
        let (rows, drafted) = (self.plan.tokens.len(), self.draft.len() + believed.drafted);
        self.control.record(rows, context, seconds.forward, &self.tokens[context..]);
        seconds.control += laps.lap();
        let round = RoundStats { context, rows, drafted, accepted, committed: new, seconds };
        let depth = self.draft.nodes().iter().map(|node| node.depth).max().unwrap_or(believed.drafted);
        self.stats.record(&round, depth, self.drafter.is_some());
        self.stats.decode_seconds += seconds.total();
        Ok(Some(round))
    }

    /// Chooses the rows of the next pass, the draft's among them.
    fn plan(&mut self, reading: bool) {
        let start = self.cache.len();
        let end = if reading { self.prompt_len.min(start + self.prefill_chunk) } else { self.tokens.len() };
        let plan = &mut self.plan;
        plan.base = end - start;
        plan.logits = match (reading, end < self.prompt_len) {
            (true, true) => LogitRows::None,
            (true, false) => LogitRows::Last,
            (false, _) => LogitRows::All,
        };
        plan.tokens.clear();
        plan.tokens.extend_from_slice(&self.tokens[start..end]);
        plan.tokens.extend(self.draft.nodes().iter().map(|node| node.token));
        for probe in &plan.probes {
            plan.tokens.resize(plan.tokens.len() + probe.rows, probe.token);
        }
        plan.parents.clear();
        let line = match plan.probes[..] {
            [] => true,
            [probe] => probe.after == self.draft.len().checked_sub(1),
            _ => false,
        };
        if !line || !self.draft.is_chain() {
            let base = plan.base;
            let row = |node: Option<usize>| Some(node.map_or(base - 1, |node| base + node));
            plan.parents.extend((0..base).map(|row| row.checked_sub(1)));
            plan.parents.extend(self.draft.nodes().iter().map(|node| row(node.parent)));
            for probe in &plan.probes {
                plan.parents.push(row(probe.after));
                (1..probe.rows).for_each(|_| plan.parents.push(plan.parents.len().checked_sub(1)));
            }
        }
    }

    /// Asks the drafter for rows besides the draft, or adds the masks that are believed.
    fn probe(&mut self) {
        // What they say is about tokens behind the one that the pass adds in any case.
        let ahead = self.limit - self.tokens.len() - 1;
        let taken = self.tokens.len() - self.cache.len() + self.draft.len();
        let room = self.max_draft.saturating_sub(self.draft.len());
        let room = room.min((self.cache.capacity() - self.cache.len()).saturating_sub(taken));
        if ahead == 0 || room == 0 {
            return;
        }
        let probes = &mut self.plan.probes;
        let mut left = room;
        if let Some(Belief { token, rows, .. }) = self.believe {
            probes.push(Probe { after: None, token, rows: rows.min(ahead) });
        } else if let Some(drafter) = &mut self.drafter {
            let (tokens, prompt_len, draw) = (&self.tokens, self.prompt_len, self.draw);
            let context =
                Context { draw, worth: self.control.worth(tokens.len()), ..Context::new(tokens, prompt_len) };
            left = left.min(self.control.rows(room));
            drafter.probe(&context, &self.draft, left, probes);
        }
        let (nodes, vocab) = (self.draft.len(), self.vocab);
        probes.retain_mut(|probe| {
            probe.rows = probe.rows.min(left);
            left -= probe.rows;
            let known = probe.after.is_none_or(|node| node < nodes) && (probe.token as usize) < vocab;
            known && probe.rows > 0
        });
    }

    /// Appends what masks say with enough confidence: see [`Belief`].
    fn believe(&mut self, target: &T) -> Result<Believed> {
        let mut believed = Believed::default();
        let (Some(belief), &[probe]) = (self.believe, &self.plan.probes[..]) else { return Ok(believed) };
        let first = self.plan.base + self.draft.len();
        believed.drafted = probe.rows;
        for row in first..first + probe.rows {
            let logits = target.logits(row);
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let confidence = 1.0 / logits.iter().map(|x| (x - max).exp()).sum::<f32>();
            // What is not a number is not believed.
            if self.finish.is_some() || confidence.is_nan() || confidence < belief.confidence {
                break;
            }
            let token = self.sampler.sample(logits)?;
            if token == belief.token || self.append(token, logits).is_none() {
                break;
            }
            believed.accepted += 1;
        }
        Ok(believed)
    }

    /// Asks the drafter, and keeps of its answer what fits; false where there is none to ask.
    fn propose(&mut self) -> bool {
        let Some(drafter) = self.drafter.as_mut().filter(|_| self.believe.is_none()) else { return false };
        // The pass adds a token after the deepest accepted node, so a node at the limit is no use.
        let depth = self.limit - self.tokens.len() - 1;
        let room = self.max_draft.min(self.cache.capacity() - self.cache.len() - 1);
        if depth == 0 || room == 0 {
            return false;
        }
        let (tokens, prompt_len) = (&self.tokens, self.prompt_len);
        let draw = match self.accept {
            Accept::Match => self.draw,
            Accept::Rejection => self.draw.of_round(tokens.len(), true),
            Accept::Block => self.draw.of_round(tokens.len(), false),
        };
        let context =
            Context { draw, worth: self.control.worth(tokens.len()), ..Context::new(tokens, prompt_len) };
        let room = self.control.rows(room);
        drafter.propose(&context, room, &mut self.draft);
        let vocab = self.vocab;
        self.draft.retain(|i, node| i < room && node.depth <= depth && (node.token as usize) < vocab);
        true
    }

    fn pass(&mut self) -> Pass<'_, T::Cache> {
        let plan = &self.plan;
        Pass {
            cache: &mut self.cache,
            tokens: &plan.tokens,
            parents: (!plan.parents.is_empty()).then_some(&plan.parents),
            logits: plan.logits,
        }
    }

    /// Draws tokens along the draft for as far as it agrees, and one more, then what is believed.
    fn decide(&mut self, target: &T) -> Result<Believed> {
        self.path.clear();
        if self.plan.logits == LogitRows::None {
            return Ok(Believed::default());
        }
        let mut path = std::mem::take(&mut self.path);
        let draft = std::mem::take(&mut self.draft);
        // Where all rows have logits, those that only had to be processed come first.
        let first = if self.plan.logits == LogitRows::All { self.plan.base - 1 } else { 0 };
        let begun =
            self.judge.begin(self.tokens.len(), &draft, &mut self.sampler, |row| target.logits(first + row));
        let result = begun.and_then(|()| {
            verify(&draft, &mut path, |row| {
                let logits = target.logits(first + row);
                let node = row.checked_sub(1);
                let token = self.judge.token(&draft, node, &mut self.sampler, logits)?;
                Ok(self.append(token, logits))
            })
        });
        (self.path, self.draft) = (path, draft);
        result?;
        self.believe(target)
    }

    /// Makes `token` part of the text, which had `logits` in its place. `None` when the text ends
    /// here.
    fn append(&mut self, token: u32, logits: &[f32]) -> Option<u32> {
        if self.end_tokens.contains(&token) {
            self.end(FinishReason::Stop);
            return None;
        }
        if let Some(count) = self.logprob_count {
            self.logprobs.push(self.sampler.logprobs(logits, token, count));
        }
        self.sampler.push(token);
        self.tokens.push(token);
        self.stats.tokens += 1;
        if self.append_text(token) {
            self.finish = Some(FinishReason::Stop);
        } else if self.tokens.len() == self.limit {
            self.end(FinishReason::Length);
        }
        self.finish.is_none().then_some(token)
    }

    /// Appends the text of `token`; true when that completes a stop string.
    fn append_text(&mut self, token: u32) -> bool {
        let Some(detokenizer) = &mut self.detokenizer else { return false };
        self.piece.clear();
        detokenizer.push(token, &mut self.piece);
        self.stops.push(&self.piece, &mut self.text)
    }

    /// Ends the text and releases what was held back of it. What the detokenizer still holds may
    /// complete a stop string; the text then ends before it all the same.
    fn end(&mut self, reason: FinishReason) {
        self.finish = Some(reason);
        self.piece.clear();
        if let Some(detokenizer) = &mut self.detokenizer {
            detokenizer.finish(&mut self.piece);
        }
        if !self.stops.push(&self.piece, &mut self.text) {
            self.stops.finish(&mut self.text);
        }
    }

    /// Keeps the rows that became text, `new` tokens with the one after them; `path` then lists them.
    fn commit(&mut self, new: usize) -> Result<()> {
        let nodes = self.draft.nodes();
        self.origins.extend((0..new).map(|i| self.path.get(i).map(|&node| nodes[node].origin)));
        let base = self.plan.base;
        self.path.iter_mut().for_each(|node| *node += base);
        self.path.splice(0..0, 0..base);
        Ok(self.cache.commit(&self.path)?)
    }

    /// Lets the drafter learn from the pass, which added `new` tokens.
    fn observe(&mut self, target: &T, new: usize) {
        let Some(drafter) = &mut self.drafter else { return };
        let (tokens, prompt_len, draw) = (&self.tokens, self.prompt_len, self.draw);
        let context =
            Context { draw, worth: self.control.worth(tokens.len()), ..Context::new(tokens, prompt_len) };
        let pass = LastPass { target, plan: &self.plan, taps: &self.taps };
        let (draft, rows, base) = (&self.draft, &self.path[..], self.plan.base);
        let first = self.cache.len() - rows.len();
        drafter.observe(&Round { context, new, draft, base, first, rows, pass: &pass });
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod never_slower;
#[cfg(test)]
mod tests;
