//! Penalties on tokens that the text holds already, over one window for all three.
//!
//! As in llama.cpp the window is the last n tokens of prompt and output together; without a
//! window it is the whole text, as for the repetition penalty of Hugging Face transformers. (The
//! OpenAI API counts presence and frequency over the output alone.)

use std::collections::VecDeque;

use super::SamplingParams;

/// Counts of the tokens in the window, and what they cost.
#[derive(Debug, Clone)]
pub(super) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// Tokens of the window, oldest first; stays empty when the window is the whole text.
    window: VecDeque<u32>,
    /// Size of the window; `None` for the whole text.
    limit: Option<usize>,
    /// (token, times it occurs in the window), ordered by token.
    counts: Vec<(u32, u32)>,
}

impl Penalties {
    /// Penalties of `params` on a text that begins with `prompt`; `None` when nothing is penalised.
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> Option<Self> {
        let idle = params.repetition_penalty == 1.0
            && params.presence_penalty == 0.0
            && params.frequency_penalty == 0.0;
        if idle || params.penalty_window == Some(0) {
            return None;
        }
        let mut penalties = Self {
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            window: VecDeque::new(),
            limit: params.penalty_window,
            counts: Vec::new(),
        };
        prompt.iter().for_each(|&token| penalties.push(token));
        Some(penalties)
    }

    /// Adds a token to the text.
    pub(super) fn push(&mut self, token: u32) {
        match self.find(token) {
            Ok(at) => self.counts[at].1 += 1,
            Err(at) => self.counts.insert(at, (token, 1)),
        }
        let Some(limit) = self.limit else { return };
        self.window.push_back(token);
        if self.window.len() > limit
            && let Some(oldest) = self.window.pop_front()
            && let Ok(at) = self.find(oldest)
        {
            self.counts[at].1 -= 1;
            if self.counts[at].1 == 0 {
                self.counts.remove(at);
            }
        }
    }

    fn find(&self, token: u32) -> Result<usize, usize> {
        self.counts.binary_search_by_key(&token, |&(t, _)| t)
    }

    /// Penalises `logits` in place: a repeated token's logit is moved away from what makes it
    /// likely by the factor `repetition`, then lowered by `presence` and by `frequency` per time.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for &(token, count) in &self.counts {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            *logit -= self.presence + count as f32 * self.frequency;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_slides() {
        let params = SamplingParams {
            presence_penalty: 1.0,
            frequency_penalty: 0.5,
            penalty_window: Some(3),
            ..SamplingParams::default()
        };
        let mut penalties = Penalties::new(&params, &[0, 1, 1, 2]).unwrap();
        let mut logits = [0.0; 4];
        penalties.apply(&mut logits);
        assert_eq!(logits, [0.0, -2.0, -1.5, 0.0]);
        penalties.push(3);
        penalties.push(3);
        let mut logits = [0.0; 4];
        penalties.apply(&mut logits);
        assert_eq!(logits, [0.0, 0.0, -1.5, -2.0]);
    }
}
