//! A recorded text with the target's features, and greedy chains of drafts along it.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use leveret_model::drafters::{Branch, Committed, Features, Guesser, Network, Scores};
use leveret_model::{LogitRows, Model, Pass, Tap, Target};

use super::super::fixture::{NONE, Table, greater};

/// A text and the values of the target's taps for each of its tokens.
pub(super) struct Text {
    pub(super) tokens: Vec<u32>,
    /// Length of the prompt.
    pub(super) start: usize,
    vocab: usize,
    /// Whether a drafter may score tokens that its reference has no scores for.
    pub(super) wider: bool,
    taps: Vec<Tap>,
    /// By tap, then by row.
    values: Vec<Vec<Vec<f32>>>,
}

impl Features for Text {
    fn feature(&self, tap: Tap, row: usize) -> &[f32] {
        let tap = self.taps.iter().position(|&known| known == tap);
        tap.map_or(&[], |tap| &self.values[tap][row])
    }
}

impl Text {
    /// Runs the target over `tokens`.
    pub(super) fn run(model: &mut Model, tokens: Vec<u32>, start: usize, taps: &[Tap]) -> Result<Self> {
        if start == 0 || start >= tokens.len() {
            return Err(anyhow!("golden.json: `prompt_len` is {start}, of {} tokens", tokens.len()));
        }
        let mut cache = model.new_cache(tokens.len())?;
        let pass = Pass { cache: &mut cache, tokens: &tokens, parents: None, logits: LogitRows::None };
        model.forward(&mut [pass], taps)?;
        let rows = |tap: usize| (0..tokens.len()).map(|row| model.feature(tap, row).to_vec()).collect();
        let values = (0..taps.len()).map(rows).collect();
        Ok(Self { start, vocab: model.vocab_size(), wider: false, taps: taps.to_vec(), values, tokens })
    }

    /// All taps of the first row, then those of the next.
    pub(super) fn features(&self) -> Vec<f32> {
        let row = |row: usize| self.values.iter().flat_map(move |tap| &tap[row]);
        (0..self.tokens.len()).flat_map(row).copied().collect()
    }

    /// A guesser at the beginning of the text.
    pub(super) fn follow(&self, network: &Arc<dyn Network>) -> Result<Follower<'_>> {
        let guesser = Arc::clone(network).guesser(self.tokens.len() + 64)?;
        Ok(Follower { text: self, guesser, read: 0 })
    }

    /// The draft of a guesser that reads the first `n` rows at once.
    pub(super) fn fresh(&self, network: &Arc<dyn Network>, n: usize, depth: usize) -> Result<Draft> {
        let mut guesser = self.follow(network)?;
        guesser.read(n)?;
        guesser.draft(depth)
    }

    /// As [`fresh`](Self::fresh), but along the tokens `ids`.
    pub(super) fn along(&self, network: &Arc<dyn Network>, n: usize, ids: &[i64]) -> Result<Draft> {
        let mut guesser = self.follow(network)?;
        guesser.read(n)?;
        guesser.chain(ids.len(), |node, _| ids[node] as u32)
    }

    /// Scores behind each row of the prompt, then behind the nodes of a chain of drafts, `rows` in all.
    pub(super) fn prefill_logits(
        &self,
        network: &Arc<dyn Network>,
        rows: usize,
        depth: usize,
    ) -> Result<Option<Vec<f32>>> {
        let mut found = Vec::new();
        let mut guesser = self.follow(network)?;
        for n in 1..=rows.min(self.start) {
            guesser.read(n)?;
            guesser.guesser.begin(&self.tokens[..=n])?;
            found.extend_from_slice(guesser.guesser.scores(0).logits);
        }
        if rows > self.start {
            let draft = guesser.draft(depth.max(rows - self.start + 1))?;
            draft.logits[1..].iter().take(rows - self.start).for_each(|row| found.extend_from_slice(row));
        }
        Ok(Some(found))
    }

    /// What the network says of its inside behind the first `n` rows: before the chain along `ids`, or
    /// else after it. `len` is the number of values that are looked for.
    pub(super) fn trace(
        &self,
        network: &Arc<dyn Network>,
        what: &str,
        n: usize,
        ids: &[i64],
        len: usize,
    ) -> Result<Option<Vec<f32>>> {
        // No more rows than are kept of one pass, where there is something for each of them.
        let step = if len.is_multiple_of(n) { STEP } else { n };
        let mut guesser = self.follow(network)?;
        let mut found = Vec::new();
        while guesser.read < n {
            let end = n.min(guesser.read + step);
            guesser.read(end)?;
            guesser.guesser.begin(&self.tokens[..=end])?;
            found.extend(guesser.guesser.trace(what).into_iter().flatten());
        }
        if found.len() == len {
            return Ok(Some(found));
        }
        guesser.chain(ids.len(), |node, _| ids[node] as u32)?;
        Ok(guesser.guesser.trace(what))
    }
}

/// Rows that are read at once where what they leave is put together.
const STEP: usize = 128;

/// A guesser that follows a text.
pub(super) struct Follower<'a> {
    text: &'a Text,
    guesser: Box<dyn Guesser>,
    read: usize,
}

impl Follower<'_> {
    /// Takes in the rows up to `n`.
    pub(super) fn read(&mut self, n: usize) -> Result<()> {
        let rows: Vec<usize> = (self.read..n).collect();
        let tokens = &self.text.tokens[..=n];
        self.guesser.observe(&Committed { tokens, first: self.read, rows: &rows, features: self.text })?;
        self.read = n;
        Ok(())
    }

    /// A chain of the likeliest tokens.
    pub(super) fn draft(&mut self, depth: usize) -> Result<Draft> {
        self.chain(depth, |_, best| best)
    }

    /// A chain of the tokens that `choose` says of each node and the likeliest token behind it.
    fn chain(&mut self, depth: usize, choose: impl Fn(usize, u32) -> u32) -> Result<Draft> {
        self.guesser.begin(&self.text.tokens[..=self.read])?;
        let mut draft = Draft::default();
        for node in 0..depth {
            let scores = self.guesser.scores(node);
            let best = scores.token(best(&scores));
            let token = choose(node, best);
            draft.led |= token != best;
            draft.logits.push(scores.logits.to_vec());
            draft.candidates.push(scores.tokens.map(<[u32]>::to_vec));
            draft.ids.push(token);
            if node + 1 < depth {
                self.guesser.expand(&[Branch { parent: node, token }])?;
            }
        }
        Ok(draft)
    }
}

fn best(scores: &Scores<'_>) -> usize {
    let logits = scores.logits;
    (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best }).unwrap_or(0)
}

/// A chain of drafts and the scores that it was chosen by.
#[derive(Debug, Default)]
pub(super) struct Draft {
    ids: Vec<u32>,
    logits: Vec<Vec<f32>>,
    candidates: Vec<Option<Vec<u32>>>,
    /// Whether some token is not the likeliest.
    led: bool,
}

impl Draft {
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether the drafter has a score for each token of the vocabulary.
    pub(super) fn scores_all(&self) -> bool {
        self.candidates.iter().all(Option::is_none)
    }

    /// Whether the chain went along with other tokens than the drafter's own.
    pub(super) fn is_led(&self) -> bool {
        self.led
    }

    /// The likeliest tokens among those that the reference has scores for in round `round`.
    pub(super) fn ids_among(&self, expected: &Table, round: usize) -> Vec<u32> {
        let depth = self.logits.len();
        let best = |(k, ours): (usize, &Vec<f32>)| {
            let recorded = recorded(expected, round * depth + k, ours.len());
            let known = (0..ours.len()).filter(|&i| recorded.get(i).is_some_and(|&score| score > NONE));
            known.reduce(|best, i| if ours[i] > ours[best] { i } else { best }).unwrap_or(0) as u32
        };
        self.logits.iter().enumerate().map(best).collect()
    }

    /// Whether both are the same bits.
    pub(super) fn same(&self, other: &Self) -> bool {
        let bits = |draft: &Self| draft.logits.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        self.candidates == other.candidates && bits(self) == bits(other)
    }

    /// The distance of every logit from those recorded of round `round`: over the drafter's own
    /// candidates, or over all tokens that the target of `text` has.
    pub(super) fn distance<'a>(
        &'a self,
        expected: &'a Table,
        round: usize,
        depth: usize,
        text: &Text,
    ) -> impl Iterator<Item = f32> + 'a {
        let (vocab, wider) = (text.vocab, text.wider);
        let width = expected.values.len() / (expected.rows * depth).max(1);
        self.logits.iter().zip(&self.candidates).enumerate().map(move |(k, (logits, tokens))| {
            let recorded = recorded(expected, round * depth + k, width);
            let ours = match tokens {
                Some(tokens) if width == vocab => {
                    let mut all = vec![f32::NEG_INFINITY; vocab];
                    tokens.iter().zip(logits).for_each(|(&token, &logit)| all[token as usize] = logit);
                    all
                }
                _ => logits.clone(),
            };
            if ours.len() != width || recorded.len() != width {
                return f32::INFINITY;
            }
            let distance = |(&a, &b): (&f32, &f32)| match (a > NONE, b > NONE) {
                (true, false) if wider && tokens.is_none() && width == vocab => 0.0,
                (true, true) => (a - b).abs(),
                (false, false) if !a.is_nan() => 0.0,
                _ => f32::INFINITY,
            };
            ours.iter().zip(recorded).map(distance).fold(0.0, greater)
        })
    }
}

/// Row `row` of a table of `width` columns; empty if there are not so many.
fn recorded(table: &Table, row: usize, width: usize) -> &[f32] {
    table.values.get(row * width..(row + 1) * width).unwrap_or_default()
}
