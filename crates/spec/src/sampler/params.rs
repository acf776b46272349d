//! What a caller may ask of the sampler and of the end of a text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::filters::Filters;
use crate::error::{Error, Result};

/// How tokens are drawn and when a text ends. The default is greedy decoding without limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the likeliest token, of equals the lowest id.
    pub temperature: f32,
    /// Number of likeliest tokens that may be drawn; 0 for all.
    pub top_k: usize,
    /// Only the smallest set of likeliest tokens that has this probability may be drawn. Above 0,
    /// at most 1; 1 for all.
    pub top_p: f32,
    /// Least probability, as a share of the likeliest token's, from 0 to 1; 0 for all.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens that the text holds;
    /// above 0, 1 for none.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token that the text holds; from -100 to 100.
    pub presence_penalty: f32,
    /// Taken from a token's logit for each time that the text holds it; from -100 to 100.
    pub frequency_penalty: f32,
    /// How many of the last tokens, prompt and output together, all three penalties look at:
    /// llama.cpp's rule. `None` for the whole text, as in Hugging Face transformers.
    pub penalty_window: Option<usize>,
    /// Added to logits of single tokens; minus infinity bans a token.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Key of the noise: same seed, same text.
    pub seed: u64,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Most tokens of output; `None` for as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Number of likeliest tokens whose log-probabilities are reported beside the chosen token's;
    /// `None` reports nothing.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: None,
            logit_bias: BTreeMap::new(),
            seed: 0,
            stop: Vec::new(),
            max_tokens: None,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Checks every range.
    ///
    /// # Errors
    /// Names the first parameter that is out of its range, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0, "a number of at least 0"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "a number above 0",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                self.presence_penalty.abs() <= 100.0,
                "from -100 to 100",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                self.frequency_penalty.abs() <= 100.0,
                "from -100 to 100",
            ),
        ];
        for (name, value, in_range, expected) in checks {
            if !in_range || !value.is_finite() {
                return Err(Error::params(format!("{name} is {value}; expected {expected}")));
            }
        }
        for (token, &bias) in &self.logit_bias {
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(Error::params(format!(
                    "logit_bias of token {token} is {bias}; expected a number, or -inf to ban it"
                )));
            }
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::params("stop holds an empty string, which would end any text"));
        }
        if self.max_tokens == Some(0) {
            return Err(Error::params("max_tokens is 0; expected at least 1"));
        }
        Ok(())
    }

    pub(super) fn filters(&self) -> Filters {
        Filters {
            top_k: self.top_k,
            top_p: f64::from(self.top_p),
            min_p: f64::from(self.min_p),
            scale: 1.0 / f64::from(self.temperature),
        }
    }
}
