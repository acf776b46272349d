//! A network that knows the target, with more or less blur: what is drafted and learned from it, and that the text
//! never changes. The networks themselves are tested in `leveret-model`.

use super::*;
use crate::drafter::Worth;
use crate::drafters::{Composite, HostileDrafter, SuffixDrafter};
use crate::sampler::SamplingParams;
use crate::session::{Options, Request, Session};
use crate::testing::HashTarget;
use crate::verify::Accept;
use leveret_model::drafters::{Description, Features, Scores};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const VOCAB: usize = 50;

/// Knows the target's own scores, and adds to them.
#[derive(Debug)]
struct Twin {
    description: Description,
    /// Lift of a word picked at random.
    blur: f32,
    /// Passes of its guessers.
    passes: AtomicUsize,
}

#[derive(Debug)]
struct TwinGuesser {
    twin: Arc<Twin>,
    target: HashTarget,
    blur: f32,
    text: Vec<u32>,
    paths: Vec<Vec<u32>>,
    rows: Vec<Vec<f32>>,
    observed: usize,
}

impl Twin {
    fn new(blur: f32) -> Arc<Self> {
        let description = Description {
            family: "twin",
            dialect: "test",
            taps: vec![],
            depth: None,
            vocab: VOCAB,
            bytes_per_step: 0,
            bytes_along: 0,
            kv_values: 0,
        };
        Arc::new(Self { description, blur, passes: AtomicUsize::new(0) })
    }
}

/// Has read that many tokens.
#[derive(Debug)]
struct Reader(usize);

impl Guesser for Reader {
    fn observe(&mut self, _committed: &Committed<'_>) -> leveret_model::Result<()> {
        Ok(())
    }

    fn unread(&self, tokens: usize) -> usize {
        tokens - self.0
    }

    fn begin(&mut self, _tokens: &[u32]) -> leveret_model::Result<()> {
        Ok(())
    }

    fn expand(&mut self, _branches: &[Branch]) -> leveret_model::Result<()> {
        Ok(())
    }

    fn scores(&self, _node: usize) -> Scores<'_> {
        Scores { logits: &[0.0; VOCAB], tokens: None, confidence: None }
    }
}

impl Network for Twin {
    fn description(&self) -> &Description {
        &self.description
    }

    fn guesser(self: Arc<Self>, _capacity: usize) -> leveret_model::Result<Box<dyn Guesser>> {
        Ok(Box::new(TwinGuesser {
            target: HashTarget::new(VOCAB, 60.0, 1000),
            blur: self.blur,
            twin: self,
            text: Vec::new(),
            paths: Vec::new(),
            rows: Vec::new(),
            observed: 0,
        }))
    }
}

impl TwinGuesser {
    fn add(&mut self, path: Vec<u32>) {
        let text: Vec<u32> = self.text.iter().chain(&path).copied().collect();
        let mut row = self.target.row(&text);
        let wrong = crate::testing::mix(text.len() as u64) as usize;
        row[wrong % VOCAB] += self.blur;
        self.rows.push(row);
        self.paths.push(path);
    }
}

impl Guesser for TwinGuesser {
    fn observe(&mut self, committed: &Committed<'_>) -> leveret_model::Result<()> {
        assert_eq!(committed.first, self.observed, "rows come without gaps");
        self.observed += committed.rows.len();
        Ok(())
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn begin(&mut self, tokens: &[u32]) -> leveret_model::Result<()> {
        self.begin_with(tokens, &[])
    }

    fn begin_with(&mut self, tokens: &[u32], branches: &[Branch]) -> leveret_model::Result<()> {
        assert_eq!(self.observed, tokens.len() - 1, "all rows but the last token's are known");
        self.text = tokens.to_vec();
        (self.paths, self.rows) = (Vec::new(), Vec::new());
        self.add(Vec::new());
        self.expand(branches)
    }

    fn expand(&mut self, branches: &[Branch]) -> leveret_model::Result<()> {
        self.twin.passes.fetch_add(1, Relaxed);
        for branch in branches {
            let path = [&self.paths[branch.parent][..], &[branch.token]].concat();
            self.add(path);
        }
        Ok(())
    }

    fn scores(&self, node: usize) -> Scores<'_> {
        Scores { logits: &self.rows[node], tokens: None, confidence: None }
    }
}

struct Nothing;

impl Features for Nothing {
    fn feature(&self, _tap: Tap, _row: usize) -> &[f32] {
        &[]
    }
}

fn run(blur: f32, temperature: f32, draft: bool) -> (Vec<u32>, crate::Stats) {
    run_with(blur, temperature, draft, Accept::Match)
}

fn run_with(blur: f32, temperature: f32, draft: bool, accept: Accept) -> (Vec<u32>, crate::Stats) {
    let drafter = || Box::new(NetworkDrafter::new(Twin::new(blur), 1000).unwrap()) as Box<dyn Drafter>;
    run_by(draft.then(drafter), temperature, accept)
}

fn run_by(drafter: Option<Box<dyn Drafter>>, temperature: f32, accept: Accept) -> (Vec<u32>, crate::Stats) {
    let mut target = HashTarget::new(VOCAB, 60.0, 1000);
    let request = Request {
        prompt: vec![1, 2, 3],
        params: SamplingParams { max_tokens: Some(300), temperature, seed: 5, ..SamplingParams::default() },
        drafter,
        text: None,
    };
    let options = Options { follow_clock: false, prefill_chunk: 2, accept, ..Options::default() };
    let mut session = Session::new(&target, request, options).unwrap();
    session.run(&mut target).unwrap();
    (session.output().to_vec(), session.stats().clone())
}

#[test]
fn a_twin_is_always_right_greedy_and_sampled() {
    for temperature in [0.0, 0.8, 1.5] {
        let (plain, _) = run(0.0, temperature, false);
        let (text, stats) = run(0.0, temperature, true);
        assert_eq!(text, plain);
        assert!(stats.tau() > 4.0, "temperature {temperature}: {stats:?}");
        assert!(stats.acceptance() > 0.6, "temperature {temperature}: {stats:?}");
    }
}

/// With its own law as the target's, nothing that was drawn is refused.
#[test]
fn a_twin_is_always_right_where_laws_are_compared() {
    for accept in [Accept::Rejection, Accept::Block] {
        let (_, stats) = run_with(0.0, 1.5, true, accept);
        assert!(stats.tau() > 4.0, "{accept:?}: {stats:?}");
        let (_, blurred) = run_with(30.0, 1.5, true, accept);
        assert!(blurred.tau() > 1.2 && blurred.tau() < stats.tau(), "{accept:?}: {blurred:?}");
    }
}

/// A twin reads as it goes, a reader all at once: that it has to earn.
#[test]
fn a_long_text_is_read_once_that_was_earned() {
    let text = [7; 700];
    let mut drafter = NetworkDrafter::new(Twin::new(0.0), 1000).unwrap();
    drafter.guesser = Box::new(Reader(0));
    let first = (1..100).find(|&round| {
        let mut draft = Draft::new();
        let worth = Worth { lambda: 1.0, gain: 0.7, ..Worth::default() };
        let context = Context { worth, ..Context::new(&text[..600 + round], 600) };
        drafter.propose(&context, 1, &mut draft);
        !draft.is_empty()
    });
    assert_eq!((first, drafter.reading.from), (Some(10), 610 - 128));
    assert_eq!(drafter.seconds(), None, "reading is no part of the drafts to come");
}

#[test]
fn a_bad_network_changes_nothing_and_is_believed_less_and_less() {
    for temperature in [0.0, 1.0] {
        let (plain, _) = run(0.0, temperature, false);
        let (text, stats) = run(200.0, temperature, true);
        assert_eq!(text, plain);
        assert!(stats.drafted < stats.rounds, "temperature {temperature}: {stats:?}");
    }
}

/// What others have guessed saves steps where it is right, and changes no draft.
#[test]
fn what_others_guessed_is_looked_behind_in_advance() {
    let (text, _) = run(0.0, 0.0, false);
    let proposed = |guess: &[u32]| {
        let mut guessed = Draft::new();
        let (mut parent, mut chance) = (None, 1.0);
        for &token in guess {
            chance *= 0.9;
            parent = guessed.push(token, parent, chance);
        }
        let twin = Twin::new(0.0);
        let mut drafter = NetworkDrafter::new(Arc::clone(&twin) as Arc<dyn Network>, 1000).unwrap();
        let tokens = [1, 2, 3];
        let (rows, features) = ([0, 1], Nothing);
        let committed = Committed { tokens: &tokens, first: 0, rows: &rows, features: &features };
        drafter.guesser.observe(&committed).unwrap();
        let mut draft = Draft::new();
        let worth = Worth { lambda: 1.0, row: 0.1, ..Worth::default() };
        let context = Context { guessed: Some(&guessed), worth, ..Context::new(&tokens, 3) };
        drafter.propose(&context, 6, &mut draft);
        let nodes: Vec<_> = draft.nodes().iter().map(|node| (node.token, node.parent, node.chance)).collect();
        (nodes, twin.passes.load(Relaxed))
    };
    let (alone, passes) = proposed(&[]);
    let right = proposed(&text[..4]);
    let half = proposed(&[text[0], text[1] + 1, 7, 7]);
    let wrong = proposed(&[text[0] + 1, 7, 7, 7]);
    assert_eq!((&right.0, &half.0, &wrong.0), (&alone, &alone, &alone));
    assert_eq!(wrong.1, passes);
    assert_eq!((passes - right.1, passes - half.1), (2, 1));
}

/// Beside drafters whose guesses it looks behind in advance, right ones and wrong ones.
#[test]
fn the_text_is_the_same_beside_others() {
    for temperature in [0.0, 0.8, 1.5] {
        let (plain, _) = run(0.0, temperature, false);
        for blur in [0.0, 30.0, 200.0] {
            let parts: Vec<Box<dyn Drafter>> = vec![
                Box::new(SuffixDrafter::default()),
                Box::new(NetworkDrafter::new(Twin::new(blur), 1000).unwrap()),
                Box::new(HostileDrafter { vocab: VOCAB as u32, seed: 7, ..HostileDrafter::default() }),
            ];
            let (text, stats) = run_by(Some(Box::new(Composite::new(parts))), temperature, Accept::Match);
            assert_eq!(text, plain, "temperature {temperature}, blur {blur}");
            assert!(blur > 0.0 || stats.tau() > 2.0, "temperature {temperature}: {stats:?}");
        }
    }
}
