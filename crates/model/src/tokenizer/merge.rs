//! Byte-pair merging: a word becomes symbols, and the best neighbouring pair is joined until no
//! pair is left.
//!
//! One loop serves both published rules: a ranked list of pairs (BPE), or the score of the joined
//! token (SentencePiece). Pairs are looked up by their joined text, so a ranked list needs one
//! search per merge to load, and where ids follow ranks, as they mostly do, not even that.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BpeTrainer;

use super::vocab::{Kind, Vocab};

/// Which neighbours may join, and which pair goes first.
#[derive(Debug)]
pub(super) enum Rule {
    /// A pair must be in the list; the lowest rank first.
    Ranked(Merges),
    /// Any pair whose text is a token; order by id of that token, lowest first, [`NEVER`] for
    /// tokens that no merge makes.
    Scored(Vec<u32>),
}

/// Ranks of merges, grouped by the token that they make.
#[derive(Debug)]
pub(super) struct Merges {
    /// Start of token `id`'s group; one more at the end.
    starts: Vec<u32>,
    /// (bytes of the left part, rank): with the token's text that says which pair it is.
    cuts: Vec<(u32, u32)>,
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
    /// A pair makes a token that the vocabulary lacks.
    pub(super) fn ranked(vocab: &Vocab, pairs: &[(&str, &str)]) -> Result<Self, String> {
        let mut joined = Vec::with_capacity(pairs.len());
        let mut starts = vec![0; vocab.len() + 1];
        let mut text = String::with_capacity(2 * vocab.longest());
        let mut last = 0;
        for (rank, (left, right)) in pairs.iter().enumerate() {
            text.clear();
            text.push_str(left);
            text.push_str(right);
            last = vocab.id_near(last, &text).ok_or_else(|| {
                format!(
                    "merge {rank} joins {left:?} and {right:?}, but {text:?} is not in the \
                     vocabulary"
                )
            })?;
            joined.push(last);
            starts[last as usize + 1] += 1;
        }
        for id in 0..vocab.len() {
            starts[id + 1] += starts[id];
        }
        let mut free = starts.clone();
        let mut cuts = vec![(0, 0); pairs.len()];
        for (rank, (id, (left, _))) in joined.iter().zip(pairs).enumerate() {
            let at = &mut free[*id as usize];
            cuts[*at as usize] = (left.len() as u32, rank as u32);
            *at += 1;
        }
        Ok(Self::Ranked(Merges { starts, cuts }))
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

    /// When a pair joins that makes token `id` with a left part of `left` bytes.
    fn order(&self, id: u32, left: u32) -> Option<u32> {
        match self {
            Self::Ranked(merges) => merges.rank(id, left),
            Self::Scored(order) => Some(order[id as usize]).filter(|order| *order != NEVER),
        }
    }
}

impl Merges {
    fn rank(&self, id: u32, left: u32) -> Option<u32> {
        let group = self.starts[id as usize] as usize..self.starts[id as usize + 1] as usize;
        self.cuts[group].iter().find(|(cut, _)| *cut == left).map(|(_, rank)| *rank)
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
    /// The word is too long.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        if self.whole_words
            && let Some(id) = self.token(word)
        {
            ids.push(id);
            return Ok(());
        }
        if word.len() >= EDGE as usize {
            return Err(format!("a piece of text of {} bytes is too long", word.len()));
        }
        let mut symbols = self.split(word);
        self.join_all(word, &mut symbols);
        let mut after_unknown = false;
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            if symbol.id == NO_TOKEN {
                self.spell(symbol.text(word), after_unknown, ids);
            } else {
                ids.push(symbol.id);
            }
            after_unknown = symbol.id == NO_TOKEN;
        }
        Ok(())
    }

    /// One symbol per character. A character without a token may still be part of a longer one.
    fn split(&self, word: &str) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(word.len());
        for (start, c) in word.char_indices() {
            let len = c.len_utf8();
            let id = self.token(&word[start..start + len]).unwrap_or(NO_TOKEN);
            let at = symbols.len() as u32;
            symbols.push(Symbol {
                id,
                start: start as u32,
                len: len as u32,
                prev: at.checked_sub(1).unwrap_or(EDGE),
                next: at + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = EDGE;
        }
        symbols
    }

    /// The token that ordinary text of this spelling is.
    fn token(&self, text: &str) -> Option<u32> {
        self.vocab.id_of(text).filter(|id| !self.vocab.kind(*id).is_hidden())
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
        if len as usize > self.vocab.longest() {
            return None;
        }
        let id = self.token(&word[a.start as usize..(a.start + len) as usize])?;
        Some(Reverse((self.rule.order(id, a.len)?, left, len, id)))
    }

    /// Appends the fallback for a character without a token; without one it is left out, as the
    /// published tokenizers do.
    fn spell(&self, text: &str, after_unknown: bool, ids: &mut Vec<u32>) {
        match (&self.fallback.bytes, self.fallback.unknown) {
            (Some(tokens), _) => ids.extend(text.bytes().map(|byte| tokens[byte as usize])),
            (None, Some(_)) if after_unknown && self.fallback.fuse => {}
            (None, Some(unknown)) => ids.push(unknown),
            (None, None) => {}
        }
    }
}

impl Symbol {
    fn text<'a>(&self, word: &'a str) -> &'a str {
        &word[self.start as usize..(self.start + self.len) as usize]
    }
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
