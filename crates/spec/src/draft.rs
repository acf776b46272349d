//! A draft: the tokens that a drafter proposes for one round, as a tree with one estimate a node.
//!
//! Drafters write it, control cuts it, verification walks it. A chain is a tree without branches.

use crate::sampler::Distribution;

/// One proposed token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// Token id.
    pub token: u32,
    /// Node before this one; `None` when it would follow the committed text directly.
    pub parent: Option<usize>,
    /// Number of nodes from the root to this one, itself included; at least 1.
    pub depth: usize,
    /// Estimated probability that the node is accepted, and so all its ancestors too.
    /// In 0..=1 and at most the parent's.
    pub chance: f32,
    /// Which source of the drafter proposed it; see [`Drafter::origin`](crate::Drafter::origin).
    pub origin: u8,
}

/// Draws from one distribution for the place after one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draws {
    /// Node that they follow; `None` for the committed text.
    pub parent: Option<usize>,
    /// The tokens, in the order of the draws; none was drawn twice.
    pub tokens: Vec<u32>,
    /// What they were drawn from, without replacement.
    pub law: Vec<(u32, f64)>,
}

/// Proposed tokens of one round. Parents precede children, and siblings differ in their token,
/// so that every path from the root spells a different text.
///
/// ```
/// use leveret_spec::Draft;
///
/// let mut draft = Draft::new();
/// let a = draft.push(7, None, 0.9);
/// draft.push(8, a, 0.5);
/// assert!(draft.is_chain());
/// assert_eq!(draft.push(9, Some(5), 0.5), None, "no node 5 to follow");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Draft {
    nodes: Vec<Node>,
    draws: Vec<Draws>,
    /// Scratch of [`retain`](Self::retain): where each old node went.
    moved: Vec<Option<usize>>,
}

impl Draft {
    /// An empty draft.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes all nodes; keeps the memory.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.draws.clear();
    }

    /// All nodes, parents before children.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Number of nodes: the rows that the draft adds to a pass.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing is proposed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether every node follows the one before it.
    pub fn is_chain(&self) -> bool {
        self.nodes.iter().enumerate().all(|(i, node)| node.parent == i.checked_sub(1))
    }

    /// Adds `token` after `parent` and returns its index. Where `parent` has that child already,
    /// returns the child, with the greater of both chances. `chance` is brought into its range.
    ///
    /// Returns `None`, and adds nothing, when there is no node `parent`, or when other tokens were
    /// drawn for this place.
    pub fn push(&mut self, token: u32, parent: Option<usize>, chance: f32) -> Option<usize> {
        self.push_from(0, token, parent, chance)
    }

    /// [`push`](Self::push) for a drafter with several sources. Where the child is there already,
    /// its origin becomes that of the greater chance.
    pub fn push_from(&mut self, origin: u8, token: u32, parent: Option<usize>, chance: f32) -> Option<usize> {
        match self.child(parent, token) {
            None if self.draws_after(parent).is_some() => None,
            _ => self.add(origin, token, parent, chance),
        }
    }

    /// Adds `tokens` after `parent`, which were drawn from `law` without replacement, and writes
    /// their indices to `added`. `chances` are the estimates, one for each.
    ///
    /// Verification by rejection or block makes use of the law, and relies on it: whether these
    /// tokens are proposed must hang only on the law and on what was there before the draw.
    /// Such a draft is verified as it is, and a node has either draws after it or other tokens.
    /// Adds nothing when there is no node `parent`, or when something follows it already.
    pub fn push_drawn(
        &mut self,
        tokens: &[u32],
        parent: Option<usize>,
        chances: &[f32],
        law: &Distribution,
        added: &mut Vec<usize>,
    ) {
        added.clear();
        if self.nodes.iter().any(|n| n.parent == parent) {
            return;
        }
        added.extend(
            tokens.iter().zip(chances).map_while(|(&token, &chance)| self.add(0, token, parent, chance)),
        );
        if !added.is_empty() {
            let tokens = tokens[..added.len()].to_vec();
            self.draws.push(Draws { parent, tokens, law: law.to_vec() });
        }
    }

    /// The draws after `parent`, if there are any.
    pub fn draws_after(&self, parent: Option<usize>) -> Option<&Draws> {
        self.draws.iter().find(|draws| draws.parent == parent)
    }

    /// All draws, in the order in which they were added.
    pub fn draws(&self) -> &[Draws] {
        &self.draws
    }

    /// Whether any token was drawn.
    pub fn has_draws(&self) -> bool {
        !self.draws.is_empty()
    }

    /// The tokens that are proposed after `parent`.
    pub fn tokens_after(&self, parent: Option<usize>) -> impl Iterator<Item = u32> {
        self.nodes.iter().filter(move |n| n.parent == parent).map(|n| n.token)
    }

    fn add(&mut self, origin: u8, token: u32, parent: Option<usize>, chance: f32) -> Option<usize> {
        let (depth, ceiling) = match parent {
            Some(p) => self.nodes.get(p).map(|node| (node.depth + 1, node.chance))?,
            None => (1, 1.0),
        };
        let chance = if chance > 0.0 { chance.min(ceiling) } else { 0.0 };
        if let Some(index) = self.child(parent, token) {
            let known = &mut self.nodes[index];
            if chance > known.chance {
                (known.chance, known.origin) = (chance, origin);
            }
            return Some(index);
        }
        self.nodes.push(Node { token, parent, depth, chance, origin });
        Some(self.nodes.len() - 1)
    }

    /// Makes `origin` that of all nodes.
    pub(crate) fn set_origin(&mut self, origin: u8) {
        self.nodes.iter_mut().for_each(|node| node.origin = origin);
    }

    /// The node that says `token` directly after `parent`.
    pub fn child(&self, parent: Option<usize>, token: u32) -> Option<usize> {
        let from = parent.map_or(0, |p| p + 1);
        let tail = self.nodes.get(from..)?;
        tail.iter().position(|n| n.parent == parent && n.token == token).map(|i| from + i)
    }

    /// Gives every node a new chance: `given(node, old)` says how likely it is when its parent is
    /// accepted, where `old` is what its chance so far says of that.
    pub(crate) fn rescore(&mut self, mut given: impl FnMut(&Node, f32) -> f32) {
        let mut old = Vec::with_capacity(self.nodes.len());
        for i in 0..self.nodes.len() {
            let node = self.nodes[i];
            old.push(node.chance);
            let (before, above) = node.parent.map_or((1.0, 1.0), |p| (old[p], self.nodes[p].chance));
            let share = if before > 0.0 { node.chance / before } else { 0.0 };
            self.nodes[i].chance = above * given(&node, share).clamp(0.0, 1.0);
        }
    }

    /// Keeps the nodes for which `keep` says so of the node and its parent's chance, and whose
    /// parent is kept.
    pub(crate) fn retain_given(&mut self, mut keep: impl FnMut(&Node, f32) -> bool) {
        let nodes: Vec<bool> =
            self.nodes.iter().map(|n| keep(n, n.parent.map_or(1.0, |p| self.nodes[p].chance))).collect();
        self.retain(|i, _| nodes[i]);
    }

    /// Keeps the nodes for which `keep` says so and whose parent is kept, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(usize, &Node) -> bool) {
        self.moved.clear();
        let mut kept = 0;
        for i in 0..self.nodes.len() {
            let mut node = self.nodes[i];
            let parent = node.parent.map(|p| self.moved[p]);
            let stays = parent != Some(None) && keep(i, &node);
            self.moved.push(stays.then_some(kept));
            if stays {
                node.parent = parent.flatten();
                self.nodes[kept] = node;
                kept += 1;
            }
        }
        self.nodes.truncate(kept);
        self.draws.retain_mut(|draws| match draws.parent.map(|p| self.moved[p]) {
            Some(None) => false,
            parent => {
                draws.parent = parent.flatten();
                let stays =
                    |&token: &u32| self.nodes.iter().any(|n| n.parent == draws.parent && n.token == token);
                // Draws after one that is gone were from what it left: they are no use.
                let kept = draws.tokens.iter().take_while(|&token| stays(token)).count();
                draws.tokens.truncate(kept);
                kept > 0
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_child_is_listed_once() {
        let mut draft = Draft::new();
        let a = draft.push(1, None, 0.5);
        assert_eq!(draft.push(1, None, 0.7), a);
        assert_eq!(draft.push(1, a, 0.9), Some(1));
        assert_eq!(draft.len(), 2);
        assert_eq!(draft.nodes()[0].chance, 0.7);
        assert_eq!(draft.nodes()[1].chance, 0.7, "no more likely than its parent");
    }

    proptest! {
        #[test]
        fn stays_a_tree(
            pushes in proptest::collection::vec((0u32..4, 0usize..12, -0.5f32..1.5), 0..40),
            keep in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let mut draft = Draft::new();
            for (token, parent, chance) in pushes {
                let parent = parent.checked_sub(1);
                let before = draft.len();
                let added = draft.push(token, parent, chance);
                prop_assert_eq!(added.is_some(), parent.is_none_or(|p| p < before));
            }
            check(&draft)?;
            let before = draft.clone();
            draft.retain(|i, _| keep[i]);
            check(&draft)?;
            for node in draft.nodes() {
                let mut same = before.nodes().iter().enumerate();
                prop_assert!(same.any(|(i, old)| keep[i] && old.token == node.token && old.depth == node.depth));
            }
        }
    }

    #[test]
    fn draws_have_their_place_alone() {
        let (mut draft, mut added) = (Draft::new(), Vec::new());
        let law = [(3, 0.25), (4, 0.75)];
        let root = draft.push(1, None, 1.0);
        draft.push_drawn(&[4, 3], None, &[0.5, 0.2], &law, &mut added);
        assert!(added.is_empty() && !draft.has_draws(), "something follows the text already");
        draft.push_drawn(&[4, 3], root, &[0.5, 0.2], &law, &mut added);
        assert_eq!(added, [1, 2]);
        assert_eq!((draft.push(9, root, 0.5), draft.push(3, root, 0.5)), (None, Some(2)));
        draft.push(7, Some(2), 0.1);
        assert_eq!(draft.draws_after(root).unwrap().tokens, [4, 3]);
        assert_eq!(draft.tokens_after(Some(2)).collect::<Vec<_>>(), [7]);
        draft.retain(|i, _| i != 2);
        assert_eq!(draft.draws_after(root).unwrap().tokens, [4]);
        draft.retain(|i, _| i != 0);
        assert!(draft.is_empty() && !draft.has_draws());
    }

    fn check(draft: &Draft) -> Result<(), TestCaseError> {
        for (i, node) in draft.nodes().iter().enumerate() {
            prop_assert!((0.0..=1.0).contains(&node.chance));
            prop_assert_eq!(draft.child(node.parent, node.token), Some(i));
            match node.parent {
                None => prop_assert_eq!(node.depth, 1),
                Some(p) => {
                    prop_assert!(p < i);
                    prop_assert_eq!(node.depth, draft.nodes()[p].depth + 1);
                    prop_assert!(node.chance <= draft.nodes()[p].chance);
                }
            }
        }
        Ok(())
    }
}
