//! The options of every command that draws tokens.

use std::collections::BTreeMap;

use clap::ValueEnum;
use leveret_spec::{Accept, SamplingParams};

use crate::cli::Usage;
use crate::model::positive;

/// How tokens are drawn and when the text ends.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sampling", allow_negative_numbers = true)]
pub(crate) struct SamplingArgs {
    /// 0 takes the likeliest token; greater values draw more freely.
    #[arg(long, short = 't', value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Draw from the K likeliest tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw from the likeliest tokens that together have probability P.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Draw from tokens at least P times as likely as the likeliest.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Divide the positive and multiply the negative logits of tokens in the text; 1 for none.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Subtract from the logits of tokens in the text.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    presence_penalty: f32,
    /// Subtract from the logits of tokens in the text, once for each time.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    frequency_penalty: f32,
    /// How many of the last tokens the penalties look at; the default is all.
    #[arg(long, value_name = "N")]
    penalty_window: Option<usize>,
    /// Add to the logit of a token, as ID=BIAS; -inf bans it. May be given several times.
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,
    /// Random seed: same seed, same text.
    #[arg(long, short = 's', value_name = "S", default_value_t = 0)]
    seed: u64,
    /// End the text before this string. May be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// End the text after N tokens; the default is when the model ends it or the context is full.
    #[arg(long, short = 'n', value_name = "N", value_parser = positive)]
    max_tokens: Option<usize>,
    /// How guesses are verified where tokens are drawn; only match gives the same text for the same
    /// seed, and confadapt is LOSSY.
    #[arg(long, value_enum, value_name = "RULE", default_value = "match")]
    accept: AcceptRule,
    /// With --accept confadapt: the probability from which on a mask's guess is believed; the default is 0.9.
    #[arg(long, value_name = "P", value_parser = probability)]
    confidence: Option<f32>,
    /// With --output json: log-probabilities of each token and of the N likeliest ones.
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,
}

/// How guesses are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum AcceptRule {
    #[default]
    /// Keep what plain decoding would have drawn: same seed, same text.
    Match,
    /// Speculative sampling: the model's probabilities, but another text with other guesses.
    Rejection,
    /// Block verification: the same, and drawn chains are kept for longer.
    Block,
    /// LOSSY, with --drafter mask:K: what masks say with confidence becomes text unverified.
    Confadapt,
}

impl AcceptRule {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Rejection => "rejection",
            Self::Block => "block",
            Self::Confadapt => "confadapt",
        }
    }
}

impl From<AcceptRule> for Accept {
    fn from(rule: AcceptRule) -> Self {
        match rule {
            AcceptRule::Match => Self::Match,
            AcceptRule::Rejection => Self::Rejection,
            AcceptRule::Block => Self::Block,
            // There is no draft that would be verified.
            AcceptRule::Confadapt => Self::Match,
        }
    }
}

/// Confidence from which on the guess of a mask is believed.
const CONFIDENCE: f32 = 0.9;

impl SamplingArgs {
    /// Whether log-probabilities are to be reported.
    pub(crate) fn wants_logprobs(&self) -> bool {
        self.logprobs.is_some()
    }

    /// How guesses are verified.
    pub(crate) fn accept(&self) -> Accept {
        self.accept.into()
    }

    /// Whether guesses become text unverified, and from which confidence on.
    pub(crate) fn confidence(&self) -> Option<f32> {
        matches!(self.accept, AcceptRule::Confadapt).then_some(self.confidence.unwrap_or(CONFIDENCE))
    }

    /// The same for the engine, checked.
    pub(crate) fn params(&self) -> anyhow::Result<SamplingParams> {
        if self.confidence.is_some() && self.accept != AcceptRule::Confadapt {
            return Err(Usage("--confidence needs --accept confadapt".into()).into());
        }
        let params = SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_window: self.penalty_window,
            logit_bias: self.logit_bias.iter().copied().collect::<BTreeMap<_, _>>(),
            seed: self.seed,
            stop: self.stop.clone(),
            max_tokens: self.max_tokens,
            logprobs: self.logprobs,
        };
        params.validate().map_err(|error| Usage(error.to_string()))?;
        Ok(params)
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected ID=BIAS, such as 42=-1.5 or 42=-inf".into())
}

fn probability(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| "expected 0 to 1".into())
}
