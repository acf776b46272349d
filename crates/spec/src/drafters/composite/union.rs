//! The trees of several drafters laid over each other, and what a node is worth that one alone proposes, or several do.

use crate::draft::Draft;
use crate::odds::{Odds, log_odds};

/// A union of trees.
#[derive(Debug)]
pub(super) struct Union {
    joint: Vec<Joint>,
    /// Heads the list of the roots.
    first_root: Option<usize>,
    views: Views,
    /// Scratch: where the nodes of a tree stand in the union.
    at: Vec<usize>,
    /// Scratch: nodes, likeliest first, and where each went in the draft.
    order: Vec<usize>,
    placed: Vec<Option<usize>>,
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
#[derive(Debug, Clone)]
pub(super) struct Views {
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

impl Union {
    pub(super) fn new() -> Self {
        Self {
            joint: Vec::new(),
            first_root: None,
            views: Views { alone: Odds::new(ALONE), agreed: Odds::new(AGREED) },
            at: Vec::new(),
            order: Vec::new(),
            placed: Vec::new(),
        }
    }

    /// What chances are worth by now.
    pub(super) fn views(&self) -> &Views {
        &self.views
    }

    /// Goes on with what they were worth in other texts.
    pub(super) fn believe(&mut self, views: Views) {
        self.views = views;
    }

    pub(super) fn clear(&mut self) {
        self.joint.clear();
        self.first_root = None;
    }

    /// Lays `trees` over each other, of each the first `rows` nodes, and scores what comes of it.
    pub(super) fn lay<'a>(&mut self, trees: impl Iterator<Item = &'a Draft>, rows: usize) {
        self.clear();
        for (origin, tree) in trees.enumerate() {
            self.at.clear();
            for node in tree.nodes().iter().take(rows) {
                let above = node.parent.map_or(1.0, |p| tree.nodes()[p].chance);
                let given = if above > 0.0 { node.chance / above } else { 0.0 };
                let parent = node.parent.map(|p| self.at[p]);
                let index = self.place(node.token, parent, origin as u8);
                self.joint[index].vote(origin as u8, given);
                self.at.push(index);
            }
        }
        self.score();
    }

    /// The node of this token behind `parent`, which is made if it is not there.
    fn place(&mut self, token: u32, parent: Option<usize>, origin: u8) -> usize {
        let head = self.first_child(parent);
        if let Some(index) = find(&self.joint, head, token) {
            return index;
        }
        let index = self.joint.len();
        match parent {
            Some(p) => self.joint[p].first_child = Some(index),
            None => self.first_root = Some(index),
        }
        self.joint.push(Joint {
            token,
            parent,
            best: 0.0,
            origin,
            second: 0.0,
            rivals: 0.0,
            chance: 0.0,
            first_child: None,
            next_sibling: head,
        });
        index
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

    /// Writes the `rows` likeliest nodes to `draft`.
    pub(super) fn write(&mut self, rows: usize, draft: &mut Draft) {
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

    /// Learns from the tokens that came where the trees were proposed, and forgets the trees.
    pub(super) fn learn(&mut self, tokens: &[u32]) {
        let mut node = None;
        for &token in tokens {
            let first = self.first_child(node);
            for child in (Siblings { joint: &self.joint, next: first }) {
                self.views.learn(&self.joint[child], self.joint[child].token == token);
            }
            node = find(&self.joint, first, token);
            if node.is_none() {
                break;
            }
        }
        self.clear();
    }
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
