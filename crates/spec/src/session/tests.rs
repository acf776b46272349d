//! The law on a target without a network: with any drafter the text, its log-probabilities and
//! its end are those of plain decoding, for any sampling parameters.

use super::*;
use crate::control::{Control, CostCurve, Experience};
use crate::drafters::{
    Composite, HostileDrafter, MaskDrafter, PredictionDrafter, RecycleDrafter, Store, StoreDrafter,
    SuffixDrafter,
};
use crate::sampler::SamplingParams;
use crate::testing::HashTarget;
use proptest::prelude::*;

const VOCAB: usize = 24;

/// Everything a caller can see of a finished session.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    ids: Vec<u32>,
    text: String,
    logprobs: Vec<TokenLogprobs>,
    finish: FinishReason,
}

/// Default options; counts do not depend on the clock.
fn by_curve() -> Options {
    Options { follow_clock: false, ..Options::default() }
}

fn letters(token: u32, text: &mut String) {
    text.push_str(["a", "b", "ab", "é", "", "ba"][token as usize % 6]);
}

fn write(
    target: &mut HashTarget,
    prompt: &[u32],
    params: &SamplingParams,
    options: &Options,
    drafter: Option<Box<dyn Drafter>>,
) -> (Outcome, Stats) {
    write_after(&mut Experience::default(), target, prompt, params, options, drafter)
}

/// As [`write`], going on from what was learned before and adding to it.
fn write_after(
    known: &mut Experience,
    target: &mut HashTarget,
    prompt: &[u32],
    params: &SamplingParams,
    options: &Options,
    drafter: Option<Box<dyn Drafter>>,
) -> (Outcome, Stats) {
    let request =
        Request { prompt: prompt.to_vec(), params: params.clone(), drafter, text: Some(Box::new(letters)) };
    let session = Session::new(target, request, options.clone()).unwrap();
    let mut session = session.with_experience(known.clone());
    let (mut ids, mut text, mut logprobs) = (Vec::new(), String::new(), Vec::new());
    let finish = loop {
        let step = session.step(target).unwrap();
        ids.extend_from_slice(step.tokens);
        text.push_str(step.text);
        logprobs.extend_from_slice(step.logprobs);
        if let Some(finish) = step.finish {
            break finish;
        }
    };
    assert!(session.step(target).unwrap().tokens.is_empty());
    assert_eq!((session.output(), session.text()), (&ids[..], &text[..]));
    *known = session.experience();
    (Outcome { ids, text, logprobs, finish }, session.stats().clone())
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let shape = (
        prop_oneof![Just(0.0f32), 0.1f32..2.0],
        prop_oneof![Just(0usize), 1usize..30],
        prop_oneof![Just(1.0f32), 0.1f32..1.0],
        prop_oneof![Just(0.0f32), 0.0f32..0.6],
    );
    let penalties = (
        prop_oneof![Just(1.0f32), 0.7f32..1.5],
        prop_oneof![Just(0.0f32), -0.5f32..1.0],
        prop_oneof![Just(0.0f32), -0.2f32..0.4],
        prop_oneof![Just(None), (0usize..30).prop_map(Some)],
    );
    let bias = proptest::collection::btree_map(
        0u32..VOCAB as u32,
        prop_oneof![-2f32..2.0, Just(f32::NEG_INFINITY)],
        0..4,
    );
    let stop = proptest::collection::vec("[abé]{3,7}", 0..3);
    let ends = (any::<u64>(), stop, prop_oneof![Just(None), (1usize..90).prop_map(Some)]);
    let logprobs = prop_oneof![Just(None), (0usize..4).prop_map(Some)];
    (shape, penalties, bias, ends, logprobs).prop_map(|(shape, penalties, bias, ends, logprobs)| {
        SamplingParams {
            temperature: shape.0,
            top_k: shape.1,
            top_p: shape.2,
            min_p: shape.3,
            repetition_penalty: penalties.0,
            presence_penalty: penalties.1,
            frequency_penalty: penalties.2,
            penalty_window: penalties.3,
            logit_bias: bias,
            seed: ends.0,
            stop: ends.1,
            max_tokens: ends.2,
            logprobs,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn text_is_the_same_with_any_drafter(
        params in params(),
        prompt in proptest::collection::vec(0u32..VOCAB as u32, 1..40),
        spread in prop_oneof![Just(1.0f32), Just(6.0), Just(40.0)],
        context in 41usize..140,
        prefill_chunk in 1usize..50,
        max_draft in 0usize..24,
        end_tokens in proptest::collection::vec(0u32..VOCAB as u32, 0..2),
        steep in any::<bool>(),
        follow_clock in any::<bool>(),
        keeps in any::<bool>(),
        seed in any::<u64>(),
        control in prop_oneof![
            Just(Control::Price),
            Just(Control::Ratio),
            (0usize..24).prop_map(Control::Fixed),
            (0f32..1.0).prop_map(Control::PMin),
        ],
    ) {
        let mut target = HashTarget::new(VOCAB, spread, 120);
        let cost = if steep { CostCurve::default() } else { CostCurve::new(&[(1, 1.0), (64, 1.001)]).unwrap() };
        let options = Options { context, prefill_chunk, max_draft, end_tokens, cost, follow_clock, control, ..Options::default() };
        let whole = Options { prefill_chunk: 512, ..options.clone() };
        let (plain, stats) = write(&mut target, &prompt, &params, &whole, None);
        prop_assert_eq!(stats.drafted, 0);
        prop_assert_eq!(stats.tokens, plain.ids.len());
        prop_assert!(prompt.len() + plain.ids.len() <= context.min(120));
        prop_assert!(params.stop.iter().all(|s| !plain.text.contains(s)));

        // What was learned of one drafter misleads about the next.
        let mut known = Experience::default();
        for drafter in drafters(&prompt, &plain.ids, &options.end_tokens, seed) {
            let name = drafter.name().to_owned();
            let (found, stats) = write_after(&mut known, &mut target, &prompt, &params, &options, Some(drafter));
            if !keeps {
                known = Experience::default();
            }
            prop_assert_eq!(&found, &plain, "{}", name);
            prop_assert!(stats.accepted <= stats.drafted && stats.tokens == plain.ids.len());
        }
    }
}

/// Every drafter without a network, and one that means harm, alone and in company.
fn drafters(prompt: &[u32], output: &[u32], end_tokens: &[u32], seed: u64) -> Vec<Box<dyn Drafter>> {
    // The truth runs past the end of the text, end tokens included.
    let truth = [prompt, output, end_tokens, &[1, 2, 3]].concat();
    let end_tokens = end_tokens.to_vec();
    let hostile =
        HostileDrafter { vocab: VOCAB as u32, end_tokens, truth: truth.clone(), false_laws: true, seed };
    let store = Store::in_memory(1 << 12);
    store.add(&truth[truth.len() / 3..]);
    let mut guess = output.to_vec();
    guess.iter_mut().step_by(6).for_each(|token| *token ^= 1);
    let free = || -> Vec<Box<dyn Drafter>> {
        vec![
            Box::new(SuffixDrafter::default()),
            Box::new(RecycleDrafter::new()),
            Box::new(StoreDrafter::new(store.clone())),
            Box::new(PredictionDrafter::new(guess.clone())),
        ]
    };
    let mut company = free();
    company.push(Box::new(hostile.clone()));
    let mut all = free();
    all.extend([Box::new(Composite::new(free())) as Box<dyn Drafter>, Box::new(Composite::new(company))]);
    all.push(Box::new(hostile));
    all
}

#[test]
fn good_guesses_save_passes() {
    let mut target = HashTarget::new(VOCAB, 4000.0, 4000);
    let params = SamplingParams { max_tokens: Some(1000), ..SamplingParams::default() };
    let options = by_curve();
    let (plain, stats) = write(&mut target, &[1, 2, 3], &params, &options, None);
    assert_eq!((stats.rounds, stats.committed, plain.ids.len()), (999, 999, 1000));
    target.passes.clear();
    let drafter = Box::new(SuffixDrafter::default());
    let (same, stats) = write(&mut target, &[1, 2, 3], &params, &options, Some(drafter));
    assert_eq!(plain, same);
    assert!(stats.tau() > 8.0, "{stats:?}");
    assert!(target.passes.iter().all(|&rows| rows <= 1 + options.max_draft));
}

/// Where the future does not repeat the past, rows spent on guesses cost less than a hundredth.
#[test]
fn no_evidence_no_draft() {
    let mut target = HashTarget::new(VOCAB, 0.0, 4000);
    let params = SamplingParams { temperature: 1.0, max_tokens: Some(1000), ..SamplingParams::default() };
    let drafter = Box::new(SuffixDrafter::default());
    let (_, stats) = write(&mut target, &[1, 2, 3], &params, &by_curve(), Some(drafter));
    assert!(stats.drafted as f64 * 0.125 < 0.01 * stats.rounds as f64, "{stats:?}");
}

#[test]
fn an_end_token_inside_an_accepted_draft_ends_the_text() {
    let mut target = HashTarget::new(VOCAB, 6.0, 200);
    let params = SamplingParams { max_tokens: Some(60), ..SamplingParams::default() };
    let (whole, _) = write(&mut target, &[5], &params, &Options::default(), None);
    let oracle = [&[5], &whole.ids[..]].concat();
    for end in whole.ids.iter().copied() {
        let at = whole.ids.iter().position(|&t| t == end).unwrap();
        let options = Options { end_tokens: vec![end], ..Options::default() };
        let all_right = Oracle(oracle.clone());
        let (cut, _) = write(&mut target, &[5], &params, &options, Some(Box::new(all_right)));
        assert_eq!((&cut.ids[..], cut.finish), (&whole.ids[..at], FinishReason::Stop));
    }
}

/// Proposes the true text, with certainty.
struct Oracle(Vec<u32>);

impl Drafter for Oracle {
    fn name(&self) -> &str {
        "oracle"
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        let mut parent = None;
        for &token in self.0.iter().skip(context.tokens.len()).take(rows) {
            parent = draft.push(token, parent, 1.0);
        }
    }

    fn observe(&mut self, _: &Round<'_>) {}
}

#[test]
fn a_right_drafter_fills_every_pass() {
    let mut target = HashTarget::new(VOCAB, 6.0, 1000);
    let params = SamplingParams { temperature: 1.0, max_tokens: Some(321), ..SamplingParams::default() };
    let (plain, _) = write(&mut target, &[5], &params, &Options::default(), None);
    let oracle = Oracle([&[5], &plain.ids[..]].concat());
    let (_, stats) = write(&mut target, &[5], &params, &by_curve(), Some(Box::new(oracle)));
    assert_eq!((stats.rounds, stats.tau()), (10, 32.0));
    assert_eq!((stats.drafted, stats.accepted), (310, 310));
}

#[test]
fn what_does_not_fit_is_refused_before_it_starts() {
    let target = HashTarget::new(VOCAB, 6.0, 50);
    let refused = |prompt: Vec<u32>, params: SamplingParams, context| {
        let request = Request { prompt, params, drafter: None, text: None };
        let options = Options { context, ..Options::default() };
        Session::new(&target, request, options).unwrap_err().to_string()
    };
    let params = SamplingParams::default;
    assert!(refused(vec![1; 50], params(), 4096).contains("50 tokens"));
    assert!(refused(vec![1; 10], params(), 10).contains("context holds 10"));
    assert!(refused(vec![], params(), 10).contains("empty"));
    assert!(refused(vec![1, 99], params(), 10).contains("token 99"));
    let stop = SamplingParams { stop: vec!["x".into()], ..params() };
    assert!(refused(vec![1], stop, 10).starts_with("stop"));
}

#[test]
fn the_context_fills_to_the_last_token() {
    let mut target = HashTarget::new(VOCAB, 6.0, 50);
    let drafters: [Option<Box<dyn Drafter>>; 2] = [None, Some(Box::new(SuffixDrafter::default()))];
    for drafter in drafters {
        let params = SamplingParams::default();
        let (outcome, _) = write(&mut target, &[1, 2, 3], &params, &Options::default(), drafter);
        assert_eq!((outcome.ids.len(), outcome.finish), (47, FinishReason::Length));
    }
}

#[test]
fn a_failed_session_stays_failed() {
    let mut target = HashTarget::new(VOCAB, 6.0, 50);
    let bans = (0..VOCAB as u32).map(|token| (token, f32::NEG_INFINITY)).collect();
    let params = SamplingParams { logit_bias: bans, ..SamplingParams::default() };
    let request = Request { prompt: vec![1], params, drafter: None, text: None };
    let mut session = Session::new(&target, request, Options::default()).unwrap();
    assert!(matches!(session.step(&mut target), Err(Error::Logits(_))));
    assert!(session.step(&mut target).is_err());
}

#[test]
fn a_text_goes_on_from_the_cache_of_another() {
    let mut target = HashTarget::new(VOCAB, 40.0, 400);
    let params = SamplingParams { max_tokens: Some(40), temperature: 0.7, ..SamplingParams::default() };
    let request = |prompt: &[u32]| Request {
        prompt: prompt.to_vec(),
        params: params.clone(),
        drafter: Some(Box::new(SuffixDrafter::default())),
        text: None,
    };
    let roomy = Options { context: 200, ..by_curve() };
    let unlimited =
        Request { params: SamplingParams { max_tokens: None, ..params.clone() }, ..request(&[1, 2, 3]) };
    let mut first = Session::new(&target, unlimited, roomy.clone()).unwrap();
    while first.tokens().len() < 60 {
        first.step(&mut target).unwrap();
    }
    let next = [&first.tokens()[..50], &[4, 5, 6]].concat();
    let mut cache = first.into_cache();
    cache.truncate(50).unwrap();

    target.passes.clear();
    let mut resumed = Session::resume(&target, request(&next), roomy.clone(), cache).unwrap();
    resumed.run(&mut target).unwrap();
    assert_eq!(target.passes[0], 3, "only what is new is read");
    let mut fresh = Session::new(&target, request(&next), roomy.clone()).unwrap();
    fresh.run(&mut target).unwrap();
    assert_eq!(resumed.output(), fresh.output());

    let whole = resumed.into_cache();
    let refused = Session::resume(&target, request(&next[..20]), roomy, whole);
    assert!(refused.unwrap_err().to_string().contains("expected fewer"));
}

#[test]
fn rounds_add_up_to_the_sums() {
    let mut target = HashTarget::new(VOCAB, 4000.0, 400);
    let drafter: Option<Box<dyn Drafter>> = Some(Box::new(SuffixDrafter::default()));
    let params = SamplingParams { max_tokens: Some(200), ..SamplingParams::default() };
    let request = Request { prompt: vec![1, 2, 3], params, drafter, text: None };
    let mut session = Session::new(&target, request, by_curve()).unwrap();
    let mut sums = (0, 0, 0, 0);
    while session.finish_reason().is_none() {
        let step = session.step(&mut target).unwrap();
        let tokens = step.tokens.len();
        let Some(round) = step.round else { continue };
        assert_eq!((round.rows, round.committed), (round.drafted + 1, tokens));
        sums = (sums.0 + 1, sums.1 + round.drafted, sums.2 + round.accepted, sums.3 + round.committed);
    }
    let stats = session.stats();
    assert_eq!(sums, (stats.rounds, stats.drafted, stats.accepted, stats.committed));
    assert_eq!(stats.depth_accepted.iter().sum::<usize>(), stats.accepted);
    assert_eq!(stats.depth_drafted.iter().sum::<usize>(), stats.drafted, "of chains");
    assert!(stats.parked < stats.rounds && stats.seconds.total() <= stats.decode_seconds * 1.001);
}

#[test]
fn masks_leave_no_trace_in_a_text() {
    for (temperature, branching) in [(0.0, true), (0.0, false), (0.9, true), (0.9, false)] {
        let mut target = HashTarget::new(VOCAB, 3.0, 300);
        let params =
            SamplingParams { temperature, max_tokens: Some(200), seed: 5, ..SamplingParams::default() };
        let (plain, _) = write(&mut target, &[1, 2, 3], &params, &by_curve(), None);
        let masks = Box::new(MaskDrafter::new(7, 3, branching));
        target.passes.clear();
        let (masked, stats) = write(&mut target, &[1, 2, 3], &params, &by_curve(), Some(masks));
        assert_eq!(masked, plain);
        // They were there, and what they say is drafted.
        assert!(target.passes.iter().any(|&rows| rows > 1) && stats.drafted > 0, "{stats:?}");
    }
}

#[test]
fn masks_that_are_believed_become_text() {
    let mut target = HashTarget::new(VOCAB, 3.0, 300);
    let params = SamplingParams { max_tokens: Some(60), ..SamplingParams::default() };
    let (plain, plain_stats) = write(&mut target, &[1, 2, 3], &params, &by_curve(), None);
    let believe =
        |confidence| Options { believe: Some(Belief { token: 7, rows: 3, confidence }), ..by_curve() };
    // No model is so sure.
    let (never, stats) = write(&mut target, &[1, 2, 3], &params, &believe(1.1), None);
    assert_eq!((never, stats.rounds), (plain, plain_stats.rounds));
    let (always, stats) = write(&mut target, &[1, 2, 3], &params, &believe(0.0), None);
    assert_eq!((always.ids.len(), always.finish), (60, FinishReason::Length));
    assert!(stats.rounds <= 30, "{stats:?}");
}
