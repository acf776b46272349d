//! One of several drafters: its proposal, and whether it is worth asking for when that takes time.

use crate::draft::Draft;
use crate::drafter::{Context, Drafter};

/// Tokens that a draft is taken to add to what others propose, and one-row passes that it is taken to last, before
/// drafts tell; and what that is worth, in drafts. Tried in vain it must not take long, since it is tried in every text,
/// but one failure says little.
const GAIN: f32 = 3.0;
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

/// A drafter beside others.
pub(super) struct Part {
    pub(super) drafter: Box<dyn Drafter>,
    /// What it proposes in this round.
    pub(super) draft: Draft,
    /// Its drafts, the time they took in one-row passes, the tokens by which they went further than what others
    /// proposed, and the room for that: it is the less, the more tokens the others expect to come true. All fade.
    drafts: f32,
    spent: f32,
    gained: f32,
    room: f32,
    /// Room and time of the draft in this round, if it was asked.
    asked: Option<(f32, f32)>,
}

impl Part {
    pub(super) fn new(drafter: Box<dyn Drafter>) -> Self {
        Self {
            drafter,
            draft: Draft::new(),
            drafts: KNOWN,
            spent: COST * KNOWN,
            gained: GAIN * KNOWN,
            room: KNOWN,
            asked: None,
        }
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
        let pays = !worth.parked && self.gain(room) > worth.lambda as f32 * OWN * self.cost();
        self.asked = None;
        if probe || pays {
            self.ask(context, rows);
            let seconds = self.drafter.seconds().filter(|_| worth.pass_seconds > 0.0);
            let passes = seconds.map_or(self.cost(), |seconds| (seconds / worth.pass_seconds) as f32);
            // One that had nothing to say has not failed: it may not have read the text yet.
            self.asked = (!self.draft.is_empty()).then_some((room, passes));
        }
    }

    /// Tokens that it is expected to add where the others leave it `room`.
    pub(super) fn gain(&self, room: f32) -> f32 {
        self.gained / self.room * room
    }

    /// One-row passes that a draft takes.
    fn cost(&self) -> f32 {
        self.spent / self.drafts
    }

    /// Learns from the tokens that came where it was asked, `others` of which had been guessed by the parts before it.
    /// How many it has guessed.
    pub(super) fn learn(&mut self, tokens: &[u32], others: usize) -> usize {
        let right = agreed(&self.draft, tokens);
        if let Some((room, passes)) = self.asked.take() {
            let added = right.saturating_sub(others) as f32;
            for (mean, new) in [
                (&mut self.drafts, 1.0),
                (&mut self.spent, passes),
                (&mut self.gained, added),
                (&mut self.room, room),
            ] {
                *mean += new - *mean / MEMORY;
            }
        }
        right
    }
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
