//! Which position of an assistant's steps fits its target: both are tried on the same features, and
//! the one under which more tokens come true stays.

use super::DraftPosition;
use std::sync::{Mutex, PoisonError};

/// Rounds that count if no position is ahead before.
const ROUNDS: u32 = 64;
/// So many tokens more that came true decide.
const LEAD: i32 = 4;

/// A choice that all texts of a drafter make together.
#[derive(Debug)]
pub(super) struct Trial(Mutex<State>);

#[derive(Debug)]
struct State {
    chosen: Option<DraftPosition>,
    rounds: u32,
    /// Tokens that came true as guessed from the last row, less those from the last token.
    lead: i32,
}

impl Trial {
    /// Decided from the start, unless it is to be measured.
    pub(super) fn new(position: DraftPosition) -> Self {
        let chosen = (position != DraftPosition::Measured).then_some(position);
        Self(Mutex::new(State { chosen, rounds: 0, lead: 0 }))
    }

    /// The position; `None` while both are tried.
    pub(super) fn chosen(&self) -> Option<DraftPosition> {
        self.state(|state| state.chosen)
    }

    /// Takes note of whether what was guessed from the last token and from the last row came true.
    pub(super) fn record(&self, from_token: bool, from_row: bool) {
        self.state(|state| {
            state.rounds += 1;
            state.lead += i32::from(from_row) - i32::from(from_token);
            if state.chosen.is_none() && (state.rounds == ROUNDS || state.lead.abs() >= LEAD) {
                let row = state.lead > 0;
                state.chosen = Some(if row { DraftPosition::LastRow } else { DraftPosition::LastToken });
            }
        });
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_true_decides() {
        let rounds = |position, outcomes: &[(bool, bool)]| {
            let trial = Trial::new(position);
            let mut rounds = 0;
            while trial.chosen().is_none() {
                let (token, row) = outcomes[rounds % outcomes.len()];
                trial.record(token, row);
                rounds += 1;
            }
            (trial.chosen(), rounds)
        };
        use DraftPosition::{LastRow, LastToken, Measured};
        assert_eq!(rounds(LastRow, &[]), (Some(LastRow), 0));
        assert_eq!(rounds(Measured, &[(false, true), (true, true)]), (Some(LastRow), 7));
        assert_eq!(rounds(Measured, &[(true, false)]), (Some(LastToken), 4));
        assert_eq!(rounds(Measured, &[(true, true)]), (Some(LastToken), 64));
        assert_eq!(rounds(Measured, &[(true, false), (false, true)]), (Some(LastToken), 64));
    }
}
