//! One of several drafters: its proposal, and whether it is worth asking for when that takes time.

use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Lessons, Worth};

/// Tokens that a draft is taken to add to what others propose, and one-row passes that it is taken to last, before
/// drafts tell; and what that is worth, in drafts. Tried in vain it must not take long, since it is tried in every text,
/// but one failure says little.
const GAIN: f32 = 2.0;
const COST: f32 = 1.0;
const KNOWN: f32 = 6.0;
/// Drafts over which gains and costs are remembered.
const MEMORY: f32 = 24.0;
/// Tokens that others expect to come true beside which a draft adds half of what it adds beside none.
const HALF: f32 = 12.0;
/// Share of a draft's time that is its own: to read what was written since the last one is put off, not saved, by
/// going without.
const OWN: f32 = 0.85;
/// Rounds between two in which a part is asked that seems not worth its time.
const PROBE: usize = 64;

/// What drafts of a part were worth. All fade.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Their number, and the time they took in one-row passes.
    drafts: f32,
    spent: f32,
    /// The tokens by which they went further than what others proposed, and the room for that: it is the less, the
    /// more tokens the others expect to come true.
    gained: f32,
    room: f32,
}

impl Figures {
    /// Before anything is known of gains, when drafts take `cost` one-row passes.
    fn expected(cost: f32) -> Self {
        Self { drafts: KNOWN, spent: cost * KNOWN, gained: GAIN * KNOWN, room: KNOWN }
    }
}

/// A drafter beside others.
pub(super) struct Part {
    pub(super) drafter: Box<dyn Drafter>,
    /// What it proposes in this round.
    pub(super) draft: Draft,
    figures: Figures,
    /// Room and time of the draft in this round, if it was asked.
    asked: Option<(f32, f32)>,
}

impl Part {
    pub(super) fn new(drafter: Box<dyn Drafter>) -> Self {
        Self { drafter, draft: Draft::new(), figures: Figures::expected(COST), asked: None }
    }

    /// Whether a proposal takes time that counts, or may.
    pub(super) fn takes_time(&self) -> bool {
        self.drafter.seconds() != Some(0.0)
    }

    /// Asks for a proposal.
    pub(super) fn ask(&mut self, context: &Context<'_>, rows: usize) {
        self.drafter.propose(context, rows, &mut self.draft);
    }

    /// Asks for a proposal where that is expected to pay beside what others have [guessed](Context::guessed), and seldom
    /// where it is not.
    pub(super) fn ask_if_it_pays(&mut self, context: &Context<'_>, rows: usize) {
        let worth = context.worth;
        let hope: f32 =
            context.guessed.map_or(0.0, |draft| draft.nodes().iter().map(|node| node.chance).sum());
        let room = HALF / (HALF + hope);
        let probe = context.tokens.len().is_multiple_of(PROBE);
        let gain = f64::from(self.gain(room) - worth.lambda as f32 * OWN * self.cost());
        let pays = !worth.parked && gain > 0.0;
        self.asked = None;
        if probe || pays {
            self.ask(&Context { worth: Worth { gain: gain.max(0.0), ..worth }, ..*context }, rows);
            let seconds = self.drafter.seconds().filter(|_| worth.pass_seconds > 0.0);
            let passes = seconds.map_or(self.cost(), |seconds| (seconds / worth.pass_seconds) as f32);
            // One that had nothing to say has not failed: it may not have read the text yet.
            self.asked = (!self.draft.is_empty()).then_some((room, passes));
        }
    }

    /// Tokens that it is expected to add where the others leave it `room`.
    pub(super) fn gain(&self, room: f32) -> f32 {
        self.figures.gained / self.figures.room * room
    }

    /// One-row passes that a draft takes.
    fn cost(&self) -> f32 {
        self.figures.spent / self.figures.drafts
    }

    /// What the next text need not teach again.
    pub(super) fn lessons(&self) -> PartLessons {
        PartLessons { cost: self.cost(), drafter: self.drafter.lessons() }
    }

    /// Goes on from that.
    pub(super) fn remember(&mut self, lessons: &PartLessons) {
        self.figures = Figures::expected(lessons.cost);
        if let Some(lessons) = &lessons.drafter {
            self.drafter.remember(lessons);
        }
    }

    /// Learns from the tokens that came where it was asked, `others` of which had been guessed by the parts before it.
    /// How many it has guessed.
    pub(super) fn learn(&mut self, tokens: &[u32], others: usize) -> usize {
        let right = agreed(&self.draft, tokens);
        if let Some((room, passes)) = self.asked.take() {
            let added = right.saturating_sub(others) as f32;
            let Figures { drafts, spent, gained, room: left } = &mut self.figures;
            for (mean, new) in [(drafts, 1.0), (spent, passes), (gained, added), (left, room)] {
                *mean += new - *mean / MEMORY;
            }
        }
        right
    }
}

/// What a part has learned: what a draft takes is the machine's and the drafter's, what it gains is the text's.
#[derive(Debug)]
pub(super) struct PartLessons {
    cost: f32,
    drafter: Option<Lessons>,
}

/// Depth to which `draft` says what `tokens` say.
fn agreed(draft: &Draft, tokens: &[u32]) -> usize {
    let mut node = None;
    let mut depth = 0;
    for &token in tokens {
        node = draft.child(node, token);
        if node.is_none() {
            break;
        }
        depth += 1;
    }
    depth
}
