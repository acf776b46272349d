//! A draft model that counts to three, over and over, in a vocabulary of its own: what it is given to read, and what
//! becomes of what it writes.

use super::*;
use crate::drafter::Worth;
use leveret_model::drafters::{Committed, Description, Scores};
use leveret_model::tokenizer::GgufVocab;
use std::path::Path;
use std::sync::Mutex;

/// Each word is a token: the target has marks of structure in front, the draft model BOS.
const TARGET: [&str; 5] = ["<|start|>", "<|end|>", "Ġthree", "Ġtwo", "Ġone"];
const OWN: [&str; 4] = ["<bos>", "Ġone", "Ġtwo", "Ġthree"];
const BOS: u32 = 0;

fn tokenizer(tokens: &[&'static str], add_bos: bool) -> Arc<Tokenizer> {
    const CONTROL: u32 = 3;
    let kind = |token: &&str| if token.starts_with('<') { CONTROL } else { 1 };
    let vocab = GgufVocab {
        model: "gpt2",
        pre: Some("llama-bpe"),
        tokens: tokens.to_vec(),
        token_types: Some(tokens.iter().map(kind).collect()),
        merges: Some(Vec::new()),
        bos: Some(BOS),
        add_bos: Some(add_bos),
        ..GgufVocab::default()
    };
    Arc::new(Tokenizer::from_gguf_vocab(Path::new("words"), &vocab).unwrap())
}

/// The first `n` tokens of a text that counts to three, in the target's.
fn count(n: usize) -> Vec<u32> {
    [4, 3, 2].into_iter().cycle().take(n).collect()
}

/// The same in the draft model's.
fn own_count(n: usize) -> Vec<u32> {
    [1, 2, 3].into_iter().cycle().take(n).collect()
}

/// Keeps the texts that its guessers read.
#[derive(Debug)]
struct Counter {
    description: Description,
    texts: Mutex<Vec<Vec<u32>>>,
}

impl Counter {
    fn new() -> Arc<Self> {
        let description = Description {
            family: "counter",
            dialect: "test",
            taps: vec![],
            depth: None,
            vocab: OWN.len(),
            bytes_per_step: 0,
            bytes_along: 0,
            kv_values: 0,
        };
        Arc::new(Self { description, texts: Mutex::default() })
    }

    fn drafter(self: &Arc<Self>, add_bos: bool) -> TranslatedDrafter {
        let network = Arc::clone(self) as Arc<dyn Network>;
        TranslatedDrafter::new(network, 2000, tokenizer(&TARGET, false), tokenizer(&OWN, add_bos)).unwrap()
    }

    fn texts(&self) -> Vec<Vec<u32>> {
        self.texts.lock().unwrap().clone()
    }
}

impl Network for Counter {
    fn description(&self) -> &Description {
        &self.description
    }

    fn guesser(self: Arc<Self>, _capacity: usize) -> leveret_model::Result<Box<dyn Guesser>> {
        Ok(Box::new(Counting { counter: self, rows: Vec::new() }))
    }
}

#[derive(Debug)]
struct Counting {
    counter: Arc<Counter>,
    rows: Vec<[f32; OWN.len()]>,
}

impl Counting {
    /// Is certain of the number that follows `token`.
    fn add(&mut self, token: u32) {
        let mut row = [0.0; OWN.len()];
        row[token as usize % 3 + 1] = 30.0;
        self.rows.push(row);
    }
}

impl Guesser for Counting {
    fn observe(&mut self, _committed: &Committed<'_>) -> leveret_model::Result<()> {
        Ok(())
    }

    fn begin(&mut self, tokens: &[u32]) -> leveret_model::Result<()> {
        self.counter.texts.lock().unwrap().push(tokens.to_vec());
        self.rows.clear();
        self.add(*tokens.last().expect("a text to follow"));
        Ok(())
    }

    fn expand(&mut self, branches: &[Branch]) -> leveret_model::Result<()> {
        branches.iter().for_each(|branch| self.add(branch.token));
        Ok(())
    }

    fn scores(&self, node: usize) -> Scores<'_> {
        Scores { logits: &self.rows[node], tokens: None, confidence: None }
    }
}

fn proposed(drafter: &mut TranslatedDrafter, tokens: &[u32]) -> Vec<u32> {
    let mut draft = Draft::new();
    let worth = Worth { lambda: 1.0, gain: 0.7, ..Worth::default() };
    let context = Context { worth, ..Context::new(tokens, tokens.len()) };
    drafter.propose(&context, 16, &mut draft);
    assert_eq!(drafter.trouble(), None);
    draft.nodes().iter().map(|node| node.token).collect()
}

#[test]
fn what_is_written_on_comes_back_in_the_targets_tokens() {
    let mut drafter = Counter::new().drafter(true);
    for len in [1, 5, 24] {
        let draft = proposed(&mut drafter, &count(len));
        assert_eq!(draft, count(len + DEPTH - 1)[len..], "after {len}");
    }
}

#[test]
fn texts_begin_with_bos_where_the_draft_models_do() {
    for (add_bos, opening) in [(true, &[BOS][..]), (false, &[])] {
        let counter = Counter::new();
        let mut drafter = counter.drafter(add_bos);
        // What the target begins with is left out; parts of a longer text are settled as it grows.
        for len in (1..300).step_by(7) {
            proposed(&mut drafter, &[&[0, 1][..], &count(len)].concat());
            assert_eq!(counter.texts().last(), Some(&[opening, &own_count(len)].concat()), "after {len}");
        }
        assert!(drafter.settled > 200);
    }
}

#[test]
fn marks_of_structure_alone_are_no_text_to_follow() {
    let mut drafter = Counter::new().drafter(false);
    assert_eq!(proposed(&mut drafter, &[0, 1]), [0; 0]);
    assert_eq!(proposed(&mut drafter, &[0, 1, 4])[..3], [3, 2, 4]);
}

/// What a network with the target's vocabulary does as well: see [`Reading`].
#[test]
fn a_long_text_is_read_once_that_was_earned() {
    let counter = Counter::new();
    let mut drafter = counter.drafter(true);
    let drafts = |round: &usize| !proposed(&mut drafter, &count(600 + round)).is_empty();
    assert_eq!((1..100).find(drafts), Some(10));
    // It makes do with the end, which BOS opens too.
    let text = counter.texts().concat();
    assert_eq!((text.len(), text[0]), (1 + 128, BOS));
    assert_eq!(text[1..], own_count(610)[482..]);
    assert_eq!(drafter.seconds(), None, "reading is no part of the drafts to come");
    assert_eq!(proposed(&mut drafter, &count(615)), count(626)[615..]);
    assert_eq!(counter.texts()[1], [&[BOS], &own_count(615)[482..]].concat());
    assert!(drafter.seconds().is_some());
}
