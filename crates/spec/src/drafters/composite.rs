//! Several drafters at once: their trees are laid over each other, and each node is scored by what
//! those that propose it think of it.
//!
//! How much agreement is worth, and what another guess for the same place takes away, is learned
//! from what comes true. A drafter that takes time is asked only where those that take none leave
//! enough to be gained.

use leveret_model::Tap;

use super::odds::{Odds, log_odds};
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Probe, Round};

/// Most drafters that are combined.
pub const MOST_PARTS: usize = 8;

/// Several drafters behind one. The origin of a node is the index of the part that was surest of it.
pub struct Composite {
    parts: Vec<Part>,
    taps: Vec<Tap>,
    joint: Vec<Joint>,
    /// Heads the list of the union's roots.
    first_root: Option<usize>,
    /// Tokens of the text when `joint` was made.
    asked_at: usize,
    views: Views,
    /// Scratch: nodes of the union, likeliest first, and where each went in the draft.
    order: Vec<usize>,
    placed: Vec<Option<usize>>,
}

struct Part {
    drafter: Box<dyn Drafter>,
    draft: Draft,
    /// Tokens by which its proposals went further than those of the parts before it, and for how many rounds there was
    /// room: a round counts the less, the more tokens the others expect to come true. Both fade.
    gained: f32,
    room: f32,
    /// Room in this round, if it was asked.
    asked: Option<f32>,
    /// Scratch: the node of the union for each of its own.
    at: Vec<usize>,
}

impl Part {
    /// Whether a proposal takes time that counts, or may.
    fn takes_time(&self) -> bool {
        self.drafter.seconds() != Some(0.0)
    }

    /// Tokens that it is expected to add where the others leave it `room`.
    fn gain(&self, room: f32) -> f32 {
        self.gained / self.room * room
    }

    fn learn(&mut self, room: f32, added: usize) {
        self.gained += added as f32 - self.gained / MEMORY;
        self.room += room - self.room / MEMORY;
    }
}

/// A node of the union of all trees.
#[derive(Debug, Clone, Copy)]
struct Joint {
    token: u32,
    parent: Option<usize>,
    /// Chances given the parent: the greatest, its part, and the next greatest; 0 for none.
    best: f32,
    origin: u8,
    second: f32,
    /// The greatest chance of another child of its parent.
    rivals: f32,
    /// Chance from the root on.
    chance: f32,
    first_child: Option<usize>,
    next_sibling: Option<usize>,
}

/// What parts' chances are worth where one alone proposes a node, and where several do.
#[derive(Debug)]
struct Views {
    /// Constant, log-odds, whether nothing else is proposed for the place, strength of what is.
    alone: Odds<4>,
    /// Constant, log-odds of the surest, strength of the next, and of what else is proposed.
    agreed: Odds<4>,
}

/// What mostly holds, from texts of several kinds and models.
const ALONE: [f32; 4] = [-0.5, 0.76, 0.8, -0.3];
const AGREED: [f32; 4] = [-0.4, 0.47, 0.95, -0.18];

/// How far the log-odds of `chance` are above a level at which it hardly counts.
fn strength(chance: f32, level: f32) -> f32 {
    if chance > 0.0 { (log_odds(chance) - level).max(0.0) } else { 0.0 }
}

impl Views {
    fn chance(&self, node: &Joint) -> f32 {
        match node.second > 0.0 {
            true => self.agreed.chance(&node.agreed()),
            false => self.alone.chance(&node.alone()),
        }
    }

    fn learn(&mut self, node: &Joint, came_true: bool) {
        match node.second > 0.0 {
            true => self.agreed.learn(&node.agreed(), came_true),
            false => self.alone.learn(&node.alone(), came_true),
        }
    }
}

/// Gain that a part is taken to have had, and in how many rounds: what is tried in vain must not take long, since it is
/// tried in every text, but one failure says little.
const EXPECTED: (f32, f32) = (4.5, 3.0);
/// Rounds over which a gain is remembered.
const MEMORY: f32 = 12.0;
/// How much of the room a token takes that the others expect to come true. Measured: beside one or two of them a draft
/// model adds half of what it adds beside none, beside ten a sixth.
const CROWD: f32 = 0.5;
/// Passes that a draft is taken to last until its drafter knows: not to be tried while others do well.
const UNTRIED: f64 = 0.5;
/// Rounds between two in which a part is asked that seems not worth its time.
const PROBE: usize = 64;

impl std::fmt::Debug for Composite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.parts.iter().map(|part| part.drafter.name()).collect();
        f.debug_struct("Composite").field("parts", &names).finish_non_exhaustive()
    }
}

impl Composite {
    /// A drafter of all `parts`; those beyond [`MOST_PARTS`] are left out. Where chances are equal
    /// the earlier part counts as the origin.
    pub fn new(parts: Vec<Box<dyn Drafter>>) -> Self {
        let mut taps: Vec<Tap> = Vec::new();
        for tap in parts.iter().take(MOST_PARTS).flat_map(|part| part.taps()) {
            if !taps.contains(tap) {
                taps.push(*tap);
            }
        }
        let part = |drafter| Part {
            drafter,
            draft: Draft::new(),
            gained: EXPECTED.0,
            room: EXPECTED.1,
            asked: None,
            at: Vec::new(),
        };
        Self {
            parts: parts.into_iter().take(MOST_PARTS).map(part).collect(),
            taps,
            joint: Vec::new(),
            first_root: None,
            asked_at: 0,
            views: Views { alone: Odds::new(ALONE), agreed: Odds::new(AGREED) },
            order: Vec::new(),
            placed: Vec::new(),
        }
    }

    /// Asks the parts that take no time, or those others whose time pays. `hope` tokens are expected to come true
    /// already.
    fn ask(&mut self, context: &Context<'_>, rows: usize, takes_time: bool, mut hope: f32) {
        let worth = context.worth;
        for part in self.parts.iter_mut().filter(|part| part.takes_time() == takes_time) {
            part.draft.clear();
            let passes = match part.drafter.seconds() {
                None => UNTRIED,
                Some(seconds) if worth.pass_seconds > 0.0 => seconds / worth.pass_seconds,
                Some(_) => 0.0,
            };
            let room = 1.0 / (1.0 + CROWD * hope);
            let probe = context.tokens.len().is_multiple_of(PROBE);
            let pays = !worth.parked && f64::from(part.gain(room)) > worth.lambda * passes;
            part.asked = None;
            if !takes_time || probe || pays {
                part.drafter.propose(context, rows, &mut part.draft);
                // One that had nothing to say has not failed: it may not have read the text yet.
                part.asked = (!part.draft.is_empty()).then_some(room);
                hope = part.draft.nodes().iter().map(|node| node.chance).sum::<f32>().max(hope);
            }
        }
    }

    /// Joins the proposals to one tree in `draft`, of the `rows` likeliest nodes.
    fn join(&mut self, rows: usize, draft: &mut Draft) {
        self.lay_over(rows);
        self.score();
        self.order.clear();
        self.order.extend(0..self.joint.len());
        let joint = &self.joint;
        // Of equals the earlier: a parent comes before its child.
        self.order.sort_unstable_by(|&a, &b| joint[b].chance.total_cmp(&joint[a].chance).then(a.cmp(&b)));
        self.placed.clear();
        self.placed.resize(joint.len(), None);
        for &index in self.order.iter().take(rows) {
            let Joint { token, parent, chance, origin, .. } = joint[index];
            let parent = parent.and_then(|p| self.placed[p]);
            self.placed[index] = draft.push_from(origin, token, parent, chance);
        }
    }

    /// Lays the trees of all parts over each other.
    fn lay_over(&mut self, rows: usize) {
        self.joint.clear();
        self.first_root = None;
        for (origin, part) in self.parts.iter_mut().enumerate() {
            part.at.clear();
            for node in part.draft.nodes().iter().take(rows) {
                let above = node.parent.map_or(1.0, |p| part.draft.nodes()[p].chance);
                let given = if above > 0.0 { node.chance / above } else { 0.0 };
                let parent = node.parent.map(|p| part.at[p]);
                let head = parent.map_or(self.first_root, |p| self.joint[p].first_child);
                let index = match find(&self.joint, head, node.token) {
                    Some(index) => index,
                    None => {
                        let index = self.joint.len();
                        match parent {
                            Some(p) => self.joint[p].first_child = Some(index),
                            None => self.first_root = Some(index),
                        }
                        self.joint.push(Joint {
                            token: node.token,
                            parent,
                            best: 0.0,
                            origin: origin as u8,
                            second: 0.0,
                            rivals: 0.0,
                            chance: 0.0,
                            first_child: None,
                            next_sibling: head,
                        });
                        index
                    }
                };
                self.joint[index].vote(origin as u8, given);
                part.at.push(index);
            }
        }
    }

    /// Scores the nodes of the union, parents before children.
    fn score(&mut self) {
        for i in 0..self.joint.len() {
            let parent = self.joint[i].parent;
            let siblings = Siblings { joint: &self.joint, next: self.first_child(parent) };
            let rivals = siblings.filter(|&s| s != i).map(|s| self.joint[s].best).fold(0.0, f32::max);
            self.joint[i].rivals = rivals;
            let above = parent.map_or(1.0, |p| self.joint[p].chance);
            self.joint[i].chance = above * self.views.chance(&self.joint[i]);
        }
    }

    fn first_child(&self, parent: Option<usize>) -> Option<usize> {
        parent.map_or(self.first_root, |p| self.joint[p].first_child)
    }

    /// Learns from the tokens that have come since the parts were asked.
    fn learn(&mut self, tokens: &[u32]) {
        let Some(new) = tokens.get(self.asked_at..).filter(|new| !new.is_empty()) else { return };
        let mut node = None;
        for &token in new {
            let first = self.first_child(node);
            for child in (Siblings { joint: &self.joint, next: first }) {
                self.views.learn(&self.joint[child], self.joint[child].token == token);
            }
            node = find(&self.joint, first, token);
            if node.is_none() {
                break;
            }
        }
        self.joint.clear();
        self.first_root = None;
        let mut others = 0;
        for part in &mut self.parts {
            let Some(room) = part.asked else { continue };
            let right = agreed(&part.draft, new);
            if part.takes_time() {
                part.learn(room, right.saturating_sub(others));
            }
            others = others.max(right);
        }
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

impl Joint {
    fn vote(&mut self, origin: u8, chance: f32) {
        if chance > self.best {
            (self.second, self.best, self.origin) = (self.best, chance, origin);
        } else {
            self.second = self.second.max(chance);
        }
    }

    fn alone(&self) -> [f32; 4] {
        let free = if self.rivals > 0.0 { 0.0 } else { 1.0 };
        [1.0, log_odds(self.best), free, strength(self.rivals, -2.0)]
    }

    fn agreed(&self) -> [f32; 4] {
        [1.0, log_odds(self.best), strength(self.second, -1.0), strength(self.rivals, -2.0)]
    }
}

/// Walks a list of siblings.
struct Siblings<'a> {
    joint: &'a [Joint],
    next: Option<usize>,
}

impl Iterator for Siblings<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let index = self.next?;
        self.next = self.joint[index].next_sibling;
        Some(index)
    }
}

fn find(joint: &[Joint], head: Option<usize>, token: u32) -> Option<usize> {
    Siblings { joint, next: head }.find(|&index| joint[index].token == token)
}

impl Drafter for Composite {
    fn name(&self) -> &str {
        match &self.parts[..] {
            [part] => part.drafter.name(),
            _ => "composite",
        }
    }

    fn origin(&self, index: u8) -> &str {
        self.parts.get(usize::from(index)).map_or("", |part| part.drafter.name())
    }

    fn taps(&self) -> &[Tap] {
        &self.taps
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        self.asked_at = context.tokens.len();
        self.parts.iter_mut().filter(|part| part.takes_time()).for_each(|part| part.draft.clear());
        self.ask(context, rows, false, 0.0);
        self.join(rows, draft);
        if self.parts.iter().any(Part::takes_time) {
            let guessed = draft.clone();
            let hope = guessed.nodes().iter().map(|node| node.chance).sum();
            self.ask(&Context { guessed: Some(&guessed), ..*context }, rows, true, hope);
            draft.clear();
            self.join(rows, draft);
        }
        // Tokens that were drawn are verified as they are: nothing may be added or left out by
        // what came of the draw.
        if let Some(origin) = self.parts.iter().position(|part| part.draft.has_draws()) {
            self.joint.clear();
            self.first_root = None;
            *draft = self.parts[origin].draft.clone();
            draft.set_origin(origin as u8);
        }
    }

    /// Those of the first part that asks for any.
    fn probe(&mut self, context: &Context<'_>, draft: &Draft, rows: usize, probes: &mut Vec<Probe>) {
        for part in &mut self.parts {
            if probes.is_empty() {
                part.drafter.probe(context, draft, rows, probes);
            }
        }
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.learn(round.context.tokens);
        for part in &mut self.parts {
            part.drafter.observe(round);
        }
    }

    /// The first part's that has any.
    fn trouble(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| part.drafter.trouble())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proposes always the same tree: (token, parent, chance).
    struct Fixed(&'static str, Vec<(u32, Option<usize>, f32)>, Option<f64>);

    impl Drafter for Fixed {
        fn name(&self) -> &str {
            self.0
        }

        fn seconds(&self) -> Option<f64> {
            self.2
        }

        fn propose(&mut self, _: &Context<'_>, _: usize, draft: &mut Draft) {
            for &(token, parent, chance) in &self.1 {
                draft.push(token, parent, chance);
            }
        }

        fn observe(&mut self, _: &Round<'_>) {}
    }

    fn composite(parts: Vec<Fixed>) -> Composite {
        Composite::new(parts.into_iter().map(|part| Box::new(part) as Box<dyn Drafter>).collect())
    }

    fn proposed(drafter: &mut Composite, context: &Context<'_>, rows: usize) -> Draft {
        let mut draft = Draft::new();
        drafter.propose(context, rows, &mut draft);
        draft
    }

    #[test]
    fn trees_are_laid_over_each_other() {
        let left = Fixed("left", vec![(1, None, 0.6), (2, Some(0), 0.5), (9, None, 0.1)], Some(0.0));
        let right = Fixed("right", vec![(1, None, 0.5), (3, Some(0), 0.2), (9, None, 0.3)], Some(0.0));
        let mut both = composite(vec![left, right]);
        let draft = proposed(&mut both, &Context::new(&[5], 1), 16);
        let one = draft.child(None, 1).unwrap();
        let nine = draft.child(None, 9).unwrap();
        assert_eq!(draft.len(), 4);
        assert!(draft.child(Some(one), 2).is_some() && draft.child(Some(one), 3).is_some());
        let name = |node: usize| both.origin(draft.nodes()[node].origin);
        assert_eq!((name(one), name(nine)), ("left", "right"));
        assert!(draft.nodes()[one].chance > 0.5);
        // The fewer rows, the likelier what is kept.
        let draft = proposed(&mut both, &Context::new(&[5], 1), 2);
        assert_eq!(draft.nodes().iter().map(|n| n.token).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn learns_what_a_part_that_lies_is_worth() {
        let liar = Fixed("liar", vec![(1, None, 1.0)], Some(0.0));
        let mut alone = composite(vec![liar]);
        let mut tokens = vec![0];
        let mut chance = 1.0;
        for _ in 0..200 {
            let draft = proposed(&mut alone, &Context::new(&tokens, 1), 4);
            chance = draft.nodes()[0].chance;
            tokens.push(2);
            alone.learn(&tokens);
        }
        assert!(chance < 0.1, "{chance}");
    }

    /// What others would have guessed too is no gain, but neither does it speak against a part where they are at a loss.
    #[test]
    fn what_a_part_adds_is_counted_by_the_room_there_was() {
        let worth = crate::Worth { lambda: 0.0, pass_seconds: 1.0, ..crate::Worth::default() };
        // Right half the time, as it says; the other is right then too, and whenever it fails.
        let free = Fixed("free", vec![(1, None, 0.5)], Some(0.0));
        let slow = Fixed("slow", vec![(1, None, 0.5), (2, None, 0.5)], Some(0.1));
        let mut both = composite(vec![free, slow]);
        let mut tokens = vec![0];
        for i in 0..200 {
            proposed(&mut both, &Context { worth, ..Context::new(&tokens, 1) }, 8);
            tokens.push(1 + i % 2);
            both.learn(&tokens);
        }
        let slow = &both.parts[1];
        let room = 1.0 / (1.0 + 0.5 * CROWD);
        assert!((slow.gain(room) - 0.5).abs() < 0.1, "{}", slow.gain(room));
        assert!((slow.gain(0.5 * room) - 0.25).abs() < 0.05);
    }

    #[test]
    fn what_takes_time_is_asked_where_there_is_much_to_gain() {
        let worth = crate::Worth { lambda: 1.5, row: 0.1, pass_seconds: 1.0, ..crate::Worth::default() };
        let context = Context { worth, ..Context::new(&[5], 1) };
        let asked = |expected: usize, seconds: Option<f64>| {
            let chain = (0..expected).map(|i| (1, i.checked_sub(1), 1.0)).collect();
            let slow = Fixed("slow", vec![(2, None, 0.5)], seconds);
            let mut both = composite(vec![slow, Fixed("free", chain, Some(0.0))]);
            proposed(&mut both, &context, 40).len() == expected + 1
        };
        assert!(asked(0, Some(0.1)) && asked(8, Some(0.1)));
        assert!(!asked(30, Some(0.1)));
        assert!(!asked(0, Some(1.2)));
        // As long as nothing is known it is neither free nor never tried.
        assert!(asked(0, None) && !asked(2, None));
    }
}
