//! One sequence from prompt to last token: it owns text, cache, sampler and drafter, and steps.
//!
//! A step is always the same: rows that must be processed, a draft behind them, one pass, a walk
//! over the draft, a commit. For a chunk of the prompt the draft is empty and no row is drawn
//! from; for plain decoding the draft is empty; otherwise there is one.

use std::fmt;

use leveret_model::drafters::Features;
use leveret_model::{Cache, LogitRows, Pass, Tap, Target};
use serde::Serialize;

use crate::control::{Control, Controller, CostCurve};
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, PassRows, Probe, Round};
use crate::error::{Error, Result};
use crate::sampler::{Draw, Sampler, SamplingParams, TokenLogprobs};
use crate::stats::{Laps, RoundStats, Seconds, Stats};
use crate::stop::StopStrings;
use crate::verify::{Accept, Judge, verify};

/// Turns tokens into text, one after the other.
pub trait Detokenizer: Send {
    /// Appends the text that `token` completes, possibly none.
    fn push(&mut self, token: u32, text: &mut String);

    /// Appends what is left when no token follows.
    fn finish(&mut self, _text: &mut String) {}
}

impl<F: FnMut(u32, &mut String) + Send> Detokenizer for F {
    fn push(&mut self, token: u32, text: &mut String) {
        self(token, text);
    }
}

/// What to write.
pub struct Request {
    /// Token ids to continue; at least one.
    pub prompt: Vec<u32>,
    /// How to draw, and when to end.
    pub params: SamplingParams,
    /// Source of guesses; `None` for plain decoding. The text is the same with any.
    pub drafter: Option<Box<dyn Drafter>>,
    /// Makes text of the tokens; `None` when only ids are wanted. Stop strings need one.
    pub text: Option<Box<dyn Detokenizer>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt)
            .field("params", &self.params)
            .field("drafter", &self.drafter.as_ref().map(|d| d.name()))
            .finish_non_exhaustive()
    }
}

/// What holds for any request to a model.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most tokens of prompt and output together; the model's own limit holds besides.
    pub context: usize,
    /// Most rows of prompt in one pass; at least 1.
    pub prefill_chunk: usize,
    /// Most rows of a draft.
    pub max_draft: usize,
    /// Tokens that end the text. They are not part of the output.
    pub end_tokens: Vec<u32>,
    /// Time of a pass by its rows, for the decision how far to guess.
    pub cost: CostCurve,
    /// Whether measured passes correct the curve's slope. Without, what is drafted, and so every
    /// count in [`Stats`], follows from text and curve alone.
    pub follow_clock: bool,
    /// How drafts are verified.
    pub accept: Accept,
    /// How it is decided how much of a draft is verified.
    pub control: Control,
    /// Lossy: tokens that masks say with confidence become text without being verified. There is no
    /// draft then.
    pub believe: Option<Belief>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            context: 4096,
            prefill_chunk: 512,
            max_draft: 16,
            end_tokens: Vec::new(),
            cost: CostCurve::default(),
            follow_clock: true,
            accept: Accept::Match,
            control: Control::Price,
            believe: None,
        }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended it, or a stop string was met.
    Stop,
    /// The limit of tokens is reached, or the context is full.
    Length,
}

/// What one step added.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Tokens of output; none while the prompt is being read. Those that spell a stop string are
    /// among them.
    pub tokens: &'a [u32],
    /// Text that is certain: what may yet turn out to be the start of a stop string, or is half
    /// a character, comes with a later step.
    pub text: &'a str,
    /// Log-probabilities of `tokens`, if they were asked for.
    pub logprobs: &'a [TokenLogprobs],
    /// For each of `tokens` the source of the guess that it was, or `None` where the target itself
    /// wrote it; see [`Session::origin_name`].
    pub origins: &'a [Option<u8>],
    /// Set by the step that ends the text; later steps add nothing.
    pub finish: Option<FinishReason>,
    /// The round that was run; `None` while the prompt is being read, and after the end.
    pub round: Option<RoundStats>,
}

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

/// The rows of one pass: `base` rows that must be processed, then the draft's nodes, then probes.
#[derive(Debug)]
struct Plan {
    tokens: Vec<u32>,
    /// Empty for a chain.
    parents: Vec<Option<usize>>,
    base: usize,
    logits: LogitRows,
    probes: Vec<Probe>,
}

/// Masks whose guesses become text unverified where the model is sure enough of them (ConfAdapt, arXiv
/// 2602.06019). This is lossy: the text is another than the model's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Belief {
    /// Token id of the mask.
    pub token: u32,
    /// Masks in a pass.
    pub rows: usize,
    /// Least probability of the likeliest token.
    pub confidence: f32,
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
        self.decide(target)?;
        seconds.sample = laps.lap();
        let new = self.tokens.len() - context;
        let accepted = self.path.len();
        self.commit(new)?;
        seconds.commit = laps.lap();
        self.observe(target, new);
        seconds.draft += laps.lap();
        if reading {
            self.stats.prompt_seconds += seconds.total();
            return Ok(None);
        }
        let (rows, drafted) = (self.plan.tokens.len(), self.draft.len());
        self.control.record(rows, context, seconds.forward, &self.tokens[context..]);
        seconds.control += laps.lap();
        let round = RoundStats { context, rows, drafted, accepted, committed: new, seconds };
        let depth = self.draft.nodes().iter().map(|node| node.depth).max().unwrap_or(0);
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
            let context = Context { tokens, prompt_len, draw, worth: self.control.worth(tokens.len()) };
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
    fn believe(&mut self, target: &T) -> Result<()> {
        let (Some(belief), &[probe]) = (self.believe, &self.plan.probes[..]) else { return Ok(()) };
        let first = self.plan.base + self.draft.len();
        self.stats.drafted += probe.rows;
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
            self.stats.accepted += 1;
        }
        Ok(())
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
        let context = Context { tokens, prompt_len, draw, worth: self.control.worth(tokens.len()) };
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

    /// Draws tokens along the draft for as far as it agrees, and one more.
    fn decide(&mut self, target: &T) -> Result<()> {
        self.path.clear();
        if self.plan.logits == LogitRows::None {
            return Ok(());
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
        let context = Context { tokens, prompt_len, draw, worth: self.control.worth(tokens.len()) };
        let pass = LastPass { target, plan: &self.plan, taps: &self.taps };
        let (draft, rows, base) = (&self.draft, &self.path[..], self.plan.base);
        let first = self.cache.len() - rows.len();
        drafter.observe(&Round { context, new, draft, base, first, rows, pass: &pass });
    }

    /// Prompt and output.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Output so far.
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Text of the output so far, as far as it is certain; empty without a detokenizer.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Log-probabilities of the output so far, if they were asked for.
    pub fn logprobs(&self) -> &[TokenLogprobs] {
        &self.logprobs
    }

    /// For each token of output the source of the guess that it was; see [`Step::origins`].
    pub fn origins(&self) -> &[Option<u8>] {
        &self.origins
    }

    /// Name of a source of guesses, as it stands in [`origins`](Self::origins).
    pub fn origin_name(&self, origin: u8) -> &str {
        self.drafter.as_ref().map_or("", |drafter| drafter.origin(origin))
    }

    /// Why the text has ended; `None` while it has not.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Tokens of the prompt that have been read.
    pub fn prompt_read(&self) -> usize {
        self.cache.len().min(self.prompt_len)
    }

    /// What was verified in the last round; empty before the first.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The cache: its rows are the first tokens of [`tokens`](Self::tokens). A later text that
    /// begins with the same tokens can go on from it, cut to what they share.
    pub fn into_cache(self) -> T::Cache {
        self.cache
    }

    /// Counts and times so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// The rows of the pass that the target has just run.
struct LastPass<'a, T> {
    target: &'a T,
    plan: &'a Plan,
    taps: &'a [Tap],
}

impl<T: Target> Features for LastPass<'_, T> {
    fn feature(&self, tap: Tap, row: usize) -> &[f32] {
        let index = self.taps.iter().position(|t| *t == tap);
        index.map_or(&[], |index| self.target.feature(index, row))
    }
}

impl<T: Target> PassRows for LastPass<'_, T> {
    fn tokens(&self) -> &[u32] {
        &self.plan.tokens
    }

    fn logits(&self, row: usize) -> Option<&[f32]> {
        let rows = self.plan.tokens.len();
        match self.plan.logits {
            LogitRows::All if row < rows => Some(self.target.logits(row)),
            LogitRows::Last if row + 1 == rows => Some(self.target.logits(0)),
            _ => None,
        }
    }

    fn probes(&self) -> &[Probe] {
        &self.plan.probes
    }
}

impl<T: Target> fmt::Debug for Session<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("prompt_len", &self.prompt_len)
            .field("output", &self.output())
            .field("finish", &self.finish)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod never_slower;
#[cfg(test)]
mod tests;
