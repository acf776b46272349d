//! The drafter of one text that guesses from earlier ones.

use std::sync::Arc;

use super::Store;
use super::index::{DEPTH, Index};
use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Round};
use crate::drafters::automaton::Follower;
use crate::drafters::grow::{Grower, Guess};
use crate::drafters::hints::{ACROSS, HintOdds, Hints};

/// Ever shorter matches that are looked at behind a node.
const LEVELS: usize = 2;
/// Shorter matches say little of what comes.
const MIN_MATCH: usize = 2;

/// Guesses that a text goes on as an earlier one did after the same words.
#[derive(Debug)]
pub struct StoreDrafter {
    store: Arc<Store>,
    /// The store as it was when this text began.
    index: Arc<Index>,
    odds: HintOdds,
    grower: Grower<usize>,
    /// Tokens of the text that have been learned from.
    learned: usize,
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Scratch {
    hints: Hints,
    followers: Vec<Follower>,
    /// Nodes that were offered: token and the one before. The first is the text.
    nodes: Vec<(u32, usize)>,
    context: Vec<u32>,
}

impl StoreDrafter {
    /// A drafter for a new text.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            index: store.index(),
            store,
            odds: HintOdds::new(ACROSS),
            grower: Grower::new(),
            learned: 0,
            scratch: Scratch::default(),
        }
    }

    /// Learns from the tokens that are new in the context.
    fn read(&mut self, context: &Context<'_>) {
        if self.index.order.is_empty() {
            // Perhaps it has been read by now.
            self.index = self.store.index();
        }
        let text = context.tokens;
        for at in self.learned.max(context.prompt_len)..text.len() {
            look(&self.index, &text[..at], &mut self.scratch.followers, &mut self.scratch.hints);
            self.scratch.hints.learn(text[at], &mut self.odds);
        }
        self.learned = text.len();
    }
}

/// Gathers what followed the longest match of the end of `context`, and shorter ones.
fn look(index: &Index, context: &[u32], followers: &mut Vec<Follower>, hints: &mut Hints) {
    hints.clear();
    let mut level = Some(index.longest(context));
    for _ in 0..LEVELS {
        let Some(found) = level.filter(|found| found.len >= MIN_MATCH) else { return };
        index.followers(&found, followers);
        hints.add(found.len, followers.iter().copied());
        if hints.is_full() {
            return;
        }
        level = index.shorter(context, &found);
    }
}

impl Drafter for StoreDrafter {
    fn name(&self) -> &str {
        "store"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        self.read(context);
        if self.index.order.is_empty() {
            return;
        }
        let Self { index, odds, grower, scratch, .. } = self;
        let Scratch { hints, followers, nodes, context: end } = scratch;
        nodes.clear();
        nodes.push((0, 0));
        let behind = |node: usize, _: usize, guesses: &mut Vec<Guess<usize>>| {
            // The end of the text and the path to the node, written from its end.
            end.clear();
            let mut at = node;
            while at != 0 {
                end.push(nodes[at].0);
                at = nodes[at].1;
            }
            end.extend(context.tokens.iter().rev().take(DEPTH.saturating_sub(end.len())));
            end.reverse();
            look(index, end, followers, hints);
            for (token, chance) in hints.chances(odds) {
                guesses.push((token, chance, nodes.len()));
                nodes.push((token, node));
            }
        };
        grower.grow(context, rows, 0, draft, behind);
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.read(&round.context);
    }
}
