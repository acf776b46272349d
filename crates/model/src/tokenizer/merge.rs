//! Byte-pair merging: a word becomes symbols, and the best neighbouring pair is joined until no
//! pair is left.
//!
//! One loop serves both published rules: a ranked list of pairs (BPE), or the score of the joined
//! token (SentencePiece). A merge list of SentencePiece scores would be twice as long as its
//! vocabulary and would break ties differently, so the second rule is not reduced to the first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BpeTrainer;

use super::vocab::{Kind, Vocab};

/// Which neighbours may join, and which pair goes first.
#[derive(Debug)]
pub(super) enum Rule {
    /// (left, right) to (rank, joined); the lowest rank first.
    Ranked(HashMap<(u32, u32), (u32, u32)>),
    /// Order by id of the joined token, lowest first; [`NEVER`] for tokens that no merge makes.
    Scored(Vec<u32>),
}

/// Marks a token that merging never produces.
const NEVER: u32 = u32::MAX;
/// A symbol that is no token (yet).
const NO_TOKEN: u32 = u32::MAX;

/// What becomes of characters that have no token.
#[derive(Debug, Default)]
pub(super) struct Fallback {
    /// Token of each byte value, where the vocabulary has them all.
    pub(super) bytes: Option<Box<[u32; 256]>>,
    /// The unknown token.
    pub(super) unknown: Option<u32>,
    /// Whether a run of unknown characters is one unknown token.
    pub(super) fuse: bool,
}

/// A vocabulary and its merging rule.
#[derive(Debug)]
pub(super) struct MergeModel {
    pub(super) vocab: Vocab,
    pub(super) rule: Rule,
    pub(super) fallback: Fallback,
    /// A word that is a token as it stands is not taken apart.
    pub(super) whole_words: bool,
}

/// A run of the word, linked to its neighbours; joined symbols have length zero.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    id: u32,
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

/// No neighbour on this side.
const EDGE: u32 = u32::MAX;

/// A pair that may join: (order, left symbol, length of both, joined token). The heap takes the
/// best order first and the leftmost of equals.
type Join = Reverse<(u32, u32, u32, u32)>;

impl Rule {
    /// A ranked rule from pairs in order of rank.
    ///
    /// # Errors
    /// A pair names a token, or makes one, that the vocabulary lacks.
    pub(super) fn ranked<'a>(
        vocab: &Vocab,
        pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let mut merges = HashMap::with_capacity(pairs.len());
        let mut joined = String::with_capacity(2 * vocab.longest());
        for (rank, (left, right)) in pairs.enumerate() {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |text: &str| {
                vocab.id_of(text).ok_or_else(|| {
                    format!(
                        "merge {rank} joins {left:?} and {right:?}, but {text:?} is not in the \
                         vocabulary"
                    )
                })
            };
            merges.entry((id(left)?, id(right)?)).or_insert((rank as u32, id(&joined)?));
        }
        Ok(Self::Ranked(merges))
    }

    /// A scored rule; `scores` has one entry per token. Only ordinary text takes part: a control
    /// token is never the outcome of merging.
    pub(super) fn scored(vocab: &Vocab, scores: &[f32]) -> Self {
        let order = |(id, score): (usize, &f32)| match vocab.kind(id as u32) {
            Kind::Normal | Kind::UserDefined => order_of_score(*score),
            _ => NEVER,
        };
        Self::Scored(scores.iter().enumerate().map(order).collect())
    }
}

/// Maps scores to integers so that the highest score comes first.
fn order_of_score(score: f32) -> u32 {
    // Adding zero turns -0 into +0, which are equal as scores.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (!ascending).min(NEVER - 1)
}

impl MergeModel {
    /// Appends the ids of `word`, which is one piece of pre-tokenized text.
    ///
    /// # Errors
    /// The word is too long, or has a character with neither a token nor a fallback.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        if self.whole_words
            && let Some(id) = self.vocab.id_of(word)
        {
            ids.push(id);
            return Ok(());
        }
        if word.len() >= EDGE as usize {
            return Err(format!("a piece of text of {} bytes is too long", word.len()));
        }
        let mut symbols = self.split(word);
        self.join_all(word, &mut symbols);
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            match symbol.id {
                NO_TOKEN => self.spell(symbol.text(word), ids)?,
                id => ids.push(id),
            }
        }
        Ok(())
    }

    /// One symbol per character, or what the fallback makes of it.
    fn split(&self, word: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        for (start, c) in word.char_indices() {
            let text = &word[start..start + c.len_utf8()];
            match (&self.rule, self.token(text)) {
                (_, Some(id)) => push(&mut symbols, id, start, text.len()),
                // A character without a token may still be part of a longer token.
                (Rule::Scored(_), None) => push(&mut symbols, NO_TOKEN, start, text.len()),
                (Rule::Ranked(_), None) => self.split_unknown(text, start, &mut symbols),
            }
        }
        symbols
    }

    /// The token of `text`, if merging may produce it.
    fn token(&self, text: &str) -> Option<u32> {
        let id = self.vocab.id_of(text)?;
        match &self.rule {
            Rule::Ranked(_) => Some(id),
            Rule::Scored(order) => (order[id as usize] != NEVER).then_some(id),
        }
    }

    fn split_unknown(&self, text: &str, start: usize, symbols: &mut Vec<Symbol>) {
        if let Some(tokens) = &self.fallback.bytes {
            for (i, byte) in text.bytes().enumerate() {
                push(symbols, tokens[byte as usize], start + i, 1);
            }
        } else if let Some(unknown) = self.fallback.unknown {
            match symbols.last_mut() {
                Some(last) if self.fallback.fuse && last.id == unknown => {
                    last.len += text.len() as u32;
                }
                _ => push(symbols, unknown, start, text.len()),
            }
        }
    }

    fn join_all(&self, word: &str, symbols: &mut [Symbol]) {
        let mut joins = BinaryHeap::with_capacity(symbols.len());
        for left in 0..symbols.len() as u32 {
            joins.extend(self.join(word, symbols, left));
        }
        while let Some(Reverse((_, left, len, id))) = joins.pop() {
            let Symbol { len: left_len, next, prev, .. } = symbols[left as usize];
            if left_len == 0 || next == EDGE {
                continue;
            }
            // Symbols only grow, so an entry is current exactly when the length still agrees.
            let right = symbols[next as usize];
            if left_len + right.len != len {
                continue;
            }
            symbols[left as usize] = Symbol { id, len, next: right.next, ..symbols[left as usize] };
            symbols[next as usize].len = 0;
            if right.next != EDGE {
                symbols[right.next as usize].prev = left;
            }
            if prev != EDGE {
                joins.extend(self.join(word, symbols, prev));
            }
            joins.extend(self.join(word, symbols, left));
        }
    }

    /// The entry for joining symbol `left` with the one after it.
    fn join(&self, word: &str, symbols: &[Symbol], left: u32) -> Option<Join> {
        let a = symbols[left as usize];
        let b = symbols.get(a.next as usize)?;
        let len = a.len + b.len;
        let (order, id) = match &self.rule {
            Rule::Ranked(merges) => *merges.get(&(a.id, b.id))?,
            Rule::Scored(order) => {
                if len as usize > self.vocab.longest() {
                    return None;
                }
                let id = self.token(&word[a.start as usize..(a.start + len) as usize])?;
                (order[id as usize], id)
            }
        };
        Some(Reverse((order, left, len, id)))
    }

    /// Appends the fallback for text that merging left without a token.
    fn spell(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        match (&self.fallback.bytes, self.fallback.unknown) {
            (Some(tokens), _) => ids.extend(text.bytes().map(|byte| tokens[byte as usize])),
            (None, Some(unknown)) => ids.push(unknown),
            (None, None) => {
                return Err(format!("the vocabulary has no token for {text:?} and no unknown token"));
            }
        }
        Ok(())
    }
}

impl Symbol {
    fn text<'a>(&self, word: &'a str) -> &'a str {
        &word[self.start as usize..(self.start + self.len) as usize]
    }
}

fn push(symbols: &mut Vec<Symbol>, id: u32, start: usize, len: usize) {
    let at = symbols.len() as u32;
    let prev = match symbols.last_mut() {
        Some(last) => {
            last.next = at;
            at - 1
        }
        None => EDGE,
    };
    symbols.push(Symbol { id, start: start as u32, len: len as u32, prev, next: EDGE });
}

/// The view that the `tokenizers` crate has of a model. It looks up the ids of added tokens here;
/// training and saving are not ours.
impl tokenizers::Model for MergeModel {
    type Trainer = BpeTrainer;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<tokenizers::Token>> {
        let mut ids = Vec::new();
        self.encode(word, &mut ids)?;
        let token = |id| tokenizers::Token::new(id, self.id_to_token(id).unwrap_or_default(), (0, 0));
        Ok(ids.into_iter().map(token).collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocab.id_of(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocab.text(id).map(Into::into)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        (0..self.vocab.len() as u32).filter_map(|id| Some((self.id_to_token(id)?, id))).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocab.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("saving a tokenizer is not supported".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
