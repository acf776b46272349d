//! Verification: which nodes of a draft the target itself would have written.
//!
//! One rule for chains and trees: at each row that is reached, draw the token that follows it;
//! where a child of the row says the same, go there, else stop. Rows that are not reached are
//! never drawn from. Since a draw depends on the text alone, and never on the draft, the tokens
//! are those of plain decoding.

//!
//! That is the default, matching. Two other rules keep the law of the text, though not the text
//! itself: [`rejection`] and [`block`] take chances of their own, from a [`Coin`].

pub mod block;
mod coin;
mod judge;
pub mod rejection;

pub use coin::{Branches, Coin, KeyedCoin, enumerate};
pub use judge::Accept;
pub(crate) use judge::Judge;

use crate::draft::Draft;

/// Walks `draft` from the root and writes the accepted nodes to `path`, in order.
///
/// `decide(row)` gives the token after a row of the pass, or `None` to end the text before it.
/// Row 0 is the last row that was there without the draft, row `i + 1` is node `i`. It is
/// called once for each row on the path, in the order of the text.
///
/// # Errors
/// The first of `decide`; `path` then holds the nodes accepted so far.
pub fn verify<E>(
    draft: &Draft,
    path: &mut Vec<usize>,
    mut decide: impl FnMut(usize) -> Result<Option<u32>, E>,
) -> Result<(), E> {
    path.clear();
    let mut node = None;
    while let Some(token) = decide(node.map_or(0, |n| n + 1))? {
        node = draft.child(node, token);
        match node {
            Some(n) => path.push(n),
            None => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_branch_that_matches_and_stops_where_none_does() {
        let mut draft = Draft::new();
        let a = draft.push(1, None, 1.0);
        let b = draft.push(2, None, 1.0);
        draft.push(3, a, 1.0);
        let d = draft.push(3, b, 1.0);
        draft.push(4, d, 1.0);
        let mut answers = [2, 3, 9].iter();
        let (mut path, mut asked) = (vec![77], Vec::new());
        verify(&draft, &mut path, |row| {
            asked.push(row);
            Ok::<_, ()>(answers.next().copied())
        })
        .unwrap();
        assert_eq!(path, [1, 3]);
        assert_eq!(asked, [0, 2, 4]);
    }

    #[test]
    fn ends_with_the_text() {
        let mut draft = Draft::new();
        let a = draft.push(1, None, 1.0);
        draft.push(2, a, 1.0);
        let mut path = Vec::new();
        verify(&draft, &mut path, |row| Ok::<_, ()>((row == 0).then_some(1))).unwrap();
        assert_eq!(path, [0]);
        assert_eq!(verify(&draft, &mut path, |_| Err("no")), Err("no"));
    }
}
