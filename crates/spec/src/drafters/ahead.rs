//! Nodes that a network looks behind before it has guessed them itself, because others have: where it then guesses the
//! same, it has saved a step, for a row of a pass that it made anyway (after staged speculation, arXiv 2308.04623).

use leveret_model::drafters::Branch;

use crate::draft::Draft;

/// Most nodes in a row that a pass looks behind in advance.
const MOST: usize = 4;
/// The least chance of such a node, given the one that it was reached from. A row takes about a tenth of a step.
const LEAST: f32 = 0.3;

/// What a network has looked behind in one draft, in the order of its branches.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Parent branch and token of each; the first is branch 1.
    looked: Vec<(usize, u32)>,
    /// Where each branch, 0 included, stands among the guesses of others.
    places: Vec<Place>,
}

/// A place among the guesses of others: their root, one of them, or off.
#[derive(Debug, Clone, Copy)]
enum Place {
    Root,
    Node(usize),
    Off,
}

impl Ahead {
    /// Begins anew: only the text is there.
    pub(crate) fn open(&mut self) {
        self.looked.clear();
        self.places.clear();
        self.places.push(Place::Root);
    }

    /// The branch behind `parent` with this token.
    pub(crate) fn find(&self, parent: usize, token: u32) -> Option<usize> {
        self.looked.iter().position(|&node| node == (parent, token)).map(|at| at + 1)
    }

    /// Takes note that a branch is looked behind, and gives its number.
    pub(crate) fn push(&mut self, parent: usize, token: u32, guessed: Option<&Draft>) -> usize {
        let child = |at| guessed.and_then(|guessed| guessed.child(at, token)).map_or(Place::Off, Place::Node);
        let place = match self.places[parent] {
            Place::Root => child(None),
            Place::Node(node) => child(Some(node)),
            Place::Off => Place::Off,
        };
        self.looked.push((parent, token));
        self.places.push(place);
        self.looked.len()
    }

    /// Adds what others think likeliest behind `branch`, one token after another.
    pub(crate) fn follow(&mut self, branch: usize, guessed: Option<&Draft>, branches: &mut Vec<Branch>) {
        let Some(guessed) = guessed else { return };
        let nodes = guessed.nodes();
        let (mut at, from) = match self.places[branch] {
            Place::Root => (None, 1.0),
            Place::Node(node) => (Some(node), nodes[node].chance),
            Place::Off => return,
        };
        let mut parent = branch;
        for _ in 0..MOST {
            let children = nodes.iter().enumerate().filter(|(_, node)| node.parent == at);
            let Some((best, node)) = children.max_by(|a, b| a.1.chance.total_cmp(&b.1.chance)) else {
                return;
            };
            if node.chance < LEAST * from {
                return;
            }
            at = Some(best);
            parent = match self.find(parent, node.token) {
                Some(branch) => branch,
                None => {
                    branches.push(Branch { parent, token: node.token });
                    self.push(parent, node.token, Some(guessed))
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_what_others_guessed() {
        let mut guessed = Draft::new();
        let one = guessed.push(1, None, 0.9);
        guessed.push(9, None, 0.05);
        let two = guessed.push(2, one, 0.8);
        guessed.push(3, two, 0.1);
        let mut ahead = Ahead::default();
        ahead.open();
        let mut branches = Vec::new();
        ahead.follow(0, Some(&guessed), &mut branches);
        assert_eq!(branches, [Branch { parent: 0, token: 1 }, Branch { parent: 1, token: 2 }]);
        assert_eq!((ahead.find(0, 1), ahead.find(1, 2), ahead.find(0, 9)), (Some(1), Some(2), None));
        // From what it guessed itself as well, and not twice.
        let three = ahead.push(2, 3, Some(&guessed));
        let other = ahead.push(0, 7, Some(&guessed));
        branches.clear();
        for branch in [0, three, other] {
            ahead.follow(branch, Some(&guessed), &mut branches);
        }
        assert!(branches.is_empty());
        ahead.follow(0, None, &mut branches);
        assert_eq!((three, other, branches.len()), (3, 4, 0));
    }
}
