//! Same seed, same text: what is written with a drafter against what is written without.

use anyhow::{Result, bail};
use leveret_model::Target;
use leveret_spec::drafters::{
    Composite, HostileDrafter, PredictionDrafter, RecycleDrafter, Store, StoreDrafter, SuffixDrafter,
};
use leveret_spec::{Control, CostCurve, Drafter, FinishReason, Options, Request, SamplingParams, Session};

/// The drafters that need nothing but the text: each alone, all as one, and one that means harm.
pub const DRAFTERS: [&str; 6] = ["suffix", "recycle", "store", "prediction", "auto", "hostile"];

/// Rules of control under which texts are compared. Rows count as free, so that whatever is offered
/// is verified to its end.
pub const CONTROLS: [Control; 5] =
    [Control::Fixed(16), Control::Price, Control::Ratio, Control::PMin(0.05), Control::Fixed(3)];

/// The ways of drawing under which texts are compared; `seed` for those that draw. Together they
/// make use of every parameter that changes a draw.
pub fn samplings(seed: u64, max_tokens: usize) -> [(&'static str, SamplingParams); 6] {
    let plain = SamplingParams { seed, max_tokens: Some(max_tokens), ..SamplingParams::default() };
    let penalties = SamplingParams {
        repetition_penalty: 1.1,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        penalty_window: Some(20),
        ..plain.clone()
    };
    let cut = SamplingParams { top_k: 60, top_p: 0.95, ..plain.clone() };
    let biased = [(3, 2.0), (5, f32::NEG_INFINITY), (11, -1.5)].into_iter().collect();
    [
        ("greedy", plain.clone()),
        ("temperature 0.8", SamplingParams { temperature: 0.8, ..plain.clone() }),
        ("top-k, top-p", SamplingParams { temperature: 1.0, ..cut.clone() }),
        ("min-p, bias", SamplingParams { temperature: 1.3, min_p: 0.05, logit_bias: biased, ..plain }),
        ("greedy with penalties", penalties.clone()),
        (
            "temperature 1.0 with penalties",
            SamplingParams { temperature: 1.0, top_k: 60, top_p: 0.95, ..penalties },
        ),
    ]
}

/// What comparing texts has seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Compared {
    /// Tokens written with and without drafter.
    pub tokens: usize,
    /// Rows drafted.
    pub drafted: usize,
    /// Rows accepted.
    pub accepted: usize,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
    }
}

/// A text that was written without a drafter.
#[derive(Debug)]
pub struct Plain<'a> {
    prompt: &'a [u32],
    params: &'a SamplingParams,
    end_tokens: &'a [u32],
    vocab: usize,
    output: Vec<u32>,
    finish: Option<FinishReason>,
}

impl<'a> Plain<'a> {
    /// Writes the continuation of `prompt` by plain decoding.
    ///
    /// # Errors
    /// A session that fails.
    pub fn write<T: Target>(
        target: &mut T,
        prompt: &'a [u32],
        params: &'a SamplingParams,
        end_tokens: &'a [u32],
    ) -> Result<Self> {
        let vocab = target.vocab_size();
        let mut plain = Self { prompt, params, end_tokens, vocab, output: Vec::new(), finish: None };
        let session = plain.session(target, None, Control::Price)?;
        plain.output = session.output().to_vec();
        plain.finish = session.finish_reason();
        Ok(plain)
    }

    /// One of [`DRAFTERS`], made to know much of this text: the store holds it with its middle
    /// missing, the prediction has tokens changed. `None` for another name.
    pub fn drafter(&self, name: &str) -> Option<Box<dyn Drafter>> {
        Some(match name {
            "suffix" => Box::new(SuffixDrafter::default()),
            "recycle" => Box::new(RecycleDrafter::new()),
            "store" => {
                let store = Store::in_memory(1 << 16);
                let third = self.output.len() / 3;
                store.add(self.prompt);
                store.add(&[&self.output[..third], &self.output[2 * third..]].concat());
                Box::new(StoreDrafter::new(store))
            }
            "prediction" => {
                let mut guess = self.output.clone();
                guess.iter_mut().skip(5).step_by(7).for_each(|token| *token ^= 1);
                Box::new(PredictionDrafter::new(guess))
            }
            "auto" => {
                let parts = ["suffix", "recycle", "store", "prediction"];
                Box::new(Composite::new(parts.iter().filter_map(|name| self.drafter(name)).collect()))
            }
            "hostile" => Box::new(HostileDrafter {
                vocab: self.vocab as u32,
                end_tokens: self.end_tokens.to_vec(),
                truth: [self.prompt, &self.output].concat(),
                false_laws: true,
                seed: self.params.seed,
            }),
            _ => return None,
        })
    }

    /// Writes it again with `drafter` and compares the token ids.
    ///
    /// # Errors
    /// The first token that differs, or a session that fails.
    pub fn compare<T: Target>(
        &self,
        target: &mut T,
        drafter: Option<Box<dyn Drafter>>,
        control: Control,
        what: &str,
    ) -> Result<Compared> {
        let drafted = self.session(target, drafter, control)?;
        let (expected, found) = (&self.output[..], drafted.output());
        if expected != found {
            let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
            let token = |ids: &[u32]| ids.get(at).map_or("the end".to_owned(), |id| format!("token {id}"));
            bail!(
                "{what}, control {control}: output {at} is {} with the drafter, {} without",
                token(found),
                token(expected)
            );
        }
        if self.finish != drafted.finish_reason() {
            bail!("{what}: ends for another reason with the drafter: {:?}", drafted.finish_reason());
        }
        let stats = drafted.stats();
        Ok(Compared { tokens: found.len(), drafted: stats.drafted, accepted: stats.accepted })
    }

    fn session<T: Target>(
        &self,
        target: &mut T,
        drafter: Option<Box<dyn Drafter>>,
        control: Control,
    ) -> Result<Session<T>> {
        let cost = CostCurve::new(&[(1, 1.0), (64, 1.0 + 1e-9)])?;
        let options = Options {
            context: target.max_context(),
            end_tokens: self.end_tokens.to_vec(),
            cost,
            control,
            ..Options::default()
        };
        let request =
            Request { prompt: self.prompt.to_vec(), params: self.params.clone(), drafter, text: None };
        let mut session = Session::new(target, request, options)?;
        session.run(target)?;
        Ok(session)
    }
}

/// Writes the continuation of `prompt` without a drafter and with this one, and compares the token
/// ids.
///
/// # Errors
/// As [`Plain::write`] and [`Plain::compare`].
pub fn check_text<T: Target>(
    target: &mut T,
    prompt: &[u32],
    params: &SamplingParams,
    drafter: Option<Box<dyn Drafter>>,
    end_tokens: &[u32],
    what: &str,
) -> Result<Compared> {
    let plain = Plain::write(target, prompt, params, end_tokens)?;
    plain.compare(target, drafter, Control::Price, what)
}
