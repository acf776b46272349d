//! What a session did and where its time went, round by round and in sum.

use std::time::Instant;

use serde::Serialize;

/// Seconds of decoding by what they were spent on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// In the drafter: guessing, and learning from what came of it.
    pub draft: f64,
    /// Deciding how much of the draft to verify.
    pub control: f64,
    /// In the target's passes.
    pub forward: f64,
    /// Drawing tokens, and their text.
    pub sample: f64,
    /// Committing the accepted rows.
    pub commit: f64,
}

impl Seconds {
    /// All of them together.
    pub fn total(&self) -> f64 {
        self.draft + self.control + self.forward + self.sample + self.commit
    }

    /// Adds what another round took.
    pub fn add(&mut self, other: &Self) {
        self.draft += other.draft;
        self.control += other.control;
        self.forward += other.forward;
        self.sample += other.sample;
        self.commit += other.commit;
    }
}

/// One round, as it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RoundStats {
    /// Tokens of the text before it.
    pub context: usize,
    /// Rows of its pass.
    pub rows: usize,
    /// Of these, rows of the draft.
    pub drafted: usize,
    /// Tokens of the draft that were taken.
    pub accepted: usize,
    /// Tokens that it added to the output.
    pub committed: usize,
    /// Where its time went.
    pub seconds: Seconds,
}

/// Counts and seconds of one session.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the output, an end-of-text token not among them.
    pub tokens: usize,
    /// Passes after the prompt. The first token of output comes with the prompt's last pass.
    pub rounds: usize,
    /// Rounds of a session with a drafter in which nothing was drafted.
    pub parked: usize,
    /// Tokens of the output that came with these rounds.
    pub committed: usize,
    /// Rows that drafts took up.
    pub drafted: usize,
    /// Of these, the rows whose token was taken.
    pub accepted: usize,
    /// Rounds whose draft went at least so deep: entry 0 is depth 1.
    pub depth_drafted: Vec<usize>,
    /// Rounds in which a guess of that depth was taken; as long as
    /// [`depth_drafted`](Self::depth_drafted).
    pub depth_accepted: Vec<usize>,
    /// Time for the prompt, the draw of the first token included.
    pub prompt_seconds: f64,
    /// Time for all rounds.
    pub decode_seconds: f64,
    /// Where that went; the rest is neither.
    pub seconds: Seconds,
}

impl Stats {
    /// Tokens drawn per round, an end-of-text token among them; 0 before the first. A round draws one token behind
    /// those of its draft that were taken.
    pub fn tau(&self) -> f64 {
        ratio((self.rounds + self.accepted) as f64, self.rounds as f64)
    }

    /// Tokens per second of decoding, the prompt and the token that comes with it left out.
    pub fn tokens_per_second(&self) -> f64 {
        ratio(self.committed as f64, self.decode_seconds)
    }

    /// Share of the drafted rows that was accepted.
    pub fn acceptance(&self) -> f64 {
        ratio(self.accepted as f64, self.drafted as f64)
    }

    /// For each depth the share of rounds that drafted so deep in which that guess was taken.
    pub fn acceptance_by_depth(&self) -> Vec<f64> {
        let depths = self.depth_accepted.iter().zip(&self.depth_drafted);
        depths.map(|(&accepted, &drafted)| ratio(accepted as f64, drafted as f64)).collect()
    }

    /// Adds what another session did.
    pub fn add(&mut self, other: &Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.tokens += other.tokens;
        self.rounds += other.rounds;
        self.parked += other.parked;
        self.committed += other.committed;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
        self.reach(other.depth_drafted.len());
        let sums = [
            (&mut self.depth_drafted, &other.depth_drafted),
            (&mut self.depth_accepted, &other.depth_accepted),
        ];
        for (sum, other) in sums {
            sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        }
        self.prompt_seconds += other.prompt_seconds;
        self.decode_seconds += other.decode_seconds;
        self.seconds.add(&other.seconds);
    }

    fn reach(&mut self, depth: usize) {
        if self.depth_drafted.len() < depth {
            self.depth_drafted.resize(depth, 0);
            self.depth_accepted.resize(depth, 0);
        }
    }

    /// Takes in a round whose draft was `depth` deep.
    pub(crate) fn record(&mut self, round: &RoundStats, depth: usize, has_drafter: bool) {
        self.rounds += 1;
        self.parked += usize::from(has_drafter && round.drafted == 0);
        self.committed += round.committed;
        self.drafted += round.drafted;
        self.accepted += round.accepted;
        self.reach(depth);
        self.depth_drafted[..depth].iter_mut().for_each(|rounds| *rounds += 1);
        self.depth_accepted[..round.accepted].iter_mut().for_each(|rounds| *rounds += 1);
        self.seconds.add(&round.seconds);
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Time since it was last asked.
#[derive(Debug)]
pub(crate) struct Laps(Instant);

impl Laps {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the start or the last lap.
    pub(crate) fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.0).as_secs_f64();
        self.0 = now;
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_count_rounds_and_not_nodes() {
        let mut stats = Stats::default();
        let round = |drafted, accepted| RoundStats {
            drafted,
            accepted,
            committed: accepted + 1,
            ..Default::default()
        };
        stats.record(&round(5, 2), 3, true);
        stats.record(&round(1, 0), 1, true);
        stats.record(&round(0, 0), 0, true);
        assert_eq!((&stats.depth_drafted[..], &stats.depth_accepted[..]), (&[2, 1, 1][..], &[1, 1, 0][..]));
        assert_eq!(stats.acceptance_by_depth(), [0.5, 1.0, 0.0]);
        assert_eq!((stats.rounds, stats.parked, stats.committed), (3, 1, 5));
        stats.record(&round(0, 0), 0, false);
        assert_eq!(stats.parked, 1, "without a drafter nothing is parked");
        let mut sum = Stats::default();
        sum.add(&stats);
        sum.add(&stats);
        assert_eq!((sum.rounds, &sum.depth_drafted[..]), (8, &[4, 2, 2][..]));
    }
}
