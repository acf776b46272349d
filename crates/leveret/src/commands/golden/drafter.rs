//! A drafter against its reference: the logits of every draft of recorded rounds, the ids that it
//! drafts everywhere, and that the way a text came about leaves no trace in a draft.

mod chain;
mod conventions;
mod texts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use leveret_model::drafters::{self, Network, TargetParts};
use leveret_model::formats::Safetensors;
use leveret_model::golden::Golden;
use leveret_model::{Files, Precision, Source};
use serde_json::Value;

use super::fixture::{self, NONE, Table, greater, integers, table};
use super::report::Report;
use chain::{Draft, Text};
use conventions::{Convention, conventions, of_first_scores};

/// Compares every drafter of the case.
pub(crate) fn compare(dir: &Path, threads: usize, report: &mut Report) -> Result<()> {
    let golden = Golden::open(dir)?;
    if golden.tensors().raw("p0.draft_ids").is_none() {
        return Ok(());
    }
    let own = |key: &str| golden.json().get(key).and_then(Value::as_str).map(|path| dir.join(path));
    let texts = match own("target_golden") {
        Some(path) => Safetensors::open(path)?,
        None => Safetensors::open(dir.join("golden.safetensors"))?,
    };
    let target = own("target").unwrap_or_else(|| dir.join("target"));
    let mut found = false;
    for path in candidates(dir) {
        let layout = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
        let gguf = dir.join("gguf").join("target-bf16.gguf");
        let in_target = layout.trim_start_matches("gguf/").starts_with("target");
        let target = match () {
            () if in_target => &path,
            () if layout.starts_with("gguf") && gguf.is_file() => &gguf,
            () => &target,
        };
        let case = Case { golden: &golden, texts: &texts, layout: &layout };
        found |= case.compare(&path, target, threads, report).unwrap_or_else(|error| {
            report.failed(&layout, &error.to_string());
            true
        });
    }
    if !found {
        report.failed("drafts", "no drafter was recognised in this folder");
    }
    Ok(())
}

/// Everything in the folder that may hold a drafter.
fn candidates(dir: &Path) -> Vec<PathBuf> {
    let entries = [dir.to_path_buf(), dir.join("gguf")];
    let entries = entries.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let holds = ["drafter", "assistant", "target"].iter().any(|kind| name.starts_with(kind));
        holds && (path.is_dir() || name.ends_with(".gguf"))
    });
    paths.sort();
    paths
}

/// What other conventions of a drafter are loaded from.
struct Loaded<'a> {
    source: &'a Source,
    parts: TargetParts,
}

/// One drafter of a case.
struct Case<'a> {
    golden: &'a Golden,
    /// Where the texts are recorded.
    texts: &'a Safetensors,
    layout: &'a str,
}

impl Case<'_> {
    /// False if `path` holds no drafter, as most targets do not.
    fn compare(&self, path: &Path, target: &Path, threads: usize, report: &mut Report) -> Result<bool> {
        let source = Source::open(path)?;
        if path == target && drafters::recognise(&source).is_none() {
            return Ok(false);
        }
        let mut model = fixture::load(&Source::open(target)?, threads, Precision::Float)?;
        let conventions = conventions(self.golden);
        let load = |convention: &Convention| drafters::load(&source, &model.parts(), &convention.options);
        let networks = conventions.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let loaded = Loaded { source: &source, parts: model.parts() };
        let taps = networks[0].description().taps.clone();
        for (i, prompt) in self.golden.json()["prompts"].as_array().into_iter().flatten().enumerate() {
            let Some(tokens) = integers(self.texts, &format!("p{i}.seq_ids")) else { continue };
            let start = prompt["prompt_len"].as_u64().unwrap_or(0) as usize;
            let tokens = tokens.into_iter().map(|id| id as u32).collect();
            let mut text = Text::run(&mut model, tokens, start, &taps)?;
            // Assistants in llama.cpp's format lack the clusters of their heads: all tokens have scores.
            text.wider = matches!(source.files(), Files::Gguf(_));
            if let Some(expected) = table(self.golden.tensors(), &format!("p{i}.features"))? {
                let says = format!("{} p{i}.features", self.layout);
                report.numbers(&says, expected.distance(&text.features()), expected.allowed());
            }
            for (convention, network) in conventions.iter().zip(&networks) {
                self.compare_text(i, prompt, &text, convention, network, report)?;
            }
            self.compare_inside(i, &text, &conventions[0], &networks[0], &loaded, report)?;
            let layout = format!("{} p{i}", self.layout);
            texts::compare(&mut model, &text.tokens[..text.start], &networks[0], &layout, report)?;
        }
        Ok(true)
    }

    /// Compares the drafts after one prompt.
    fn compare_text(
        &self,
        i: usize,
        prompt: &Value,
        text: &Text,
        convention: &Convention,
        network: &Arc<dyn Network>,
        report: &mut Report,
    ) -> Result<()> {
        let name = |what: &str| format!("p{i}.{}{what}", convention.prefix);
        let says = |what: &str| format!("{} {}", self.layout, name(what));
        let ids = |what: &str| integers(self.golden.tensors(), &name(what)).unwrap_or_default();
        let (round_n, draft_ids) = (ids("round_n"), ids("draft_ids"));
        let depth = draft_ids.len() / round_n.len().max(1);
        if depth == 0 {
            report.failed(&says("draft_ids"), "none are recorded");
            return Ok(());
        }
        let (all_n, all_ids) = (ids("all_n"), ids("all_draft_ids"));
        for (what, places, drafts) in [("round_n", &round_n, &draft_ids), ("all_n", &all_n, &all_ids)] {
            if let Some(n) = places.iter().find(|&&n| n < 1 || n as usize >= text.tokens.len()) {
                let why = format!("{n}, expected a place in the text of {} tokens", text.tokens.len());
                report.failed(&says(what), &why);
                return Ok(());
            }
            if drafts.len() != places.len() * depth {
                let (found, places) = (drafts.len(), places.len());
                report.failed(&says(what), &format!("{found} drafts for {places} places, {depth} deep"));
                return Ok(());
            }
        }

        // Each recorded round by itself, the drafter reading all of the text at once.
        let expected = table(self.golden.tensors(), &name("draft_logits"))?;
        let (mut worst, mut wrong) = (0f32, Vec::new());
        let mut rounds = Vec::new();
        for (r, &n) in round_n.iter().enumerate() {
            let recorded = &draft_ids[r * depth..][..depth];
            let mut draft = text.fresh(network, n as usize, depth)?;
            let mut ids = draft.ids().to_vec();
            if let Some(expected) = &expected {
                // Such a drafter that scores every token goes along with a reference that does not, to be
                // compared where both have scores.
                if text.wider && draft.scores_all() && expected.values.iter().any(|&v| v <= NONE) {
                    draft = text.along(network, n as usize, recorded)?;
                    ids = draft.ids_among(expected, r);
                }
                worst = draft.distance(expected, r, depth, text).fold(worst, greater);
            }
            check_ids(n, &ids, recorded, &mut wrong);
            rounds.push(draft);
        }
        let whole = !rounds.iter().any(Draft::is_led);
        if let Some(expected) = &expected {
            report.numbers(&says("draft_logits"), worst, expected.allowed());
        }
        report.count(&says("draft_ids"), round_n.len(), &wrong);
        if let Some(expected) = table(self.golden.tensors(), &name("confidence_logits"))? {
            let mut found = Vec::new();
            for (r, &n) in round_n.iter().enumerate() {
                let along = &draft_ids[r * depth..][..depth];
                let trace = text.trace(network, "confidence_logit", n as usize, along, depth)?;
                found.extend(trace.unwrap_or_default());
            }
            report.numbers(&says("confidence_logits"), expected.distance(&found), expected.allowed());
        }

        // At every place, the drafter having followed the text row by row.
        let mut wrong = Vec::new();
        let mut guesser = text.follow(network)?;
        for (r, &n) in all_n.iter().enumerate().filter(|_| whole) {
            guesser.read(n as usize)?;
            let draft = guesser.draft(depth)?;
            check_ids(n, draft.ids(), &all_ids[r * depth..][..depth], &mut wrong);
        }
        if !all_n.is_empty() && whole {
            report.count(&says("all_draft_ids"), all_n.len(), &wrong);
        }
        if whole {
            let recorded = &prompt[convention.rounds]["accepted"];
            self.compare_accepted(&says("accepted"), recorded, text, &rounds, &round_n, report);
        }
        self.compare_forced(&says("drafts after forced acceptance"), text, network, depth, report)
    }

    /// The rounds of a greedy run: how many drafts came true in each, and where the next began.
    fn compare_accepted(
        &self,
        what: &str,
        recorded: &Value,
        text: &Text,
        rounds: &[Draft],
        round_n: &[i64],
        report: &mut Report,
    ) {
        let recorded = recorded.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut wrong = Vec::new();
        for (r, (draft, recorded)) in rounds.iter().zip(recorded).enumerate() {
            let n = round_n[r] as usize;
            let truth = text.tokens.get(n + 1..).unwrap_or_default();
            let accepted = draft.ids().iter().zip(truth).take_while(|(a, b)| a == b).count();
            let next = round_n.get(r + 1).is_none_or(|&next| next as usize == n + accepted + 1);
            if recorded.as_u64() != Some(accepted as u64) || !next {
                wrong.push(format!("round {r} accepts {accepted}, recorded {recorded}"));
            }
        }
        if !recorded.is_empty() {
            report.count(what, recorded.len().min(rounds.len()), &wrong);
        }
    }

    /// What is recorded of the inside of the first round.
    fn compare_inside(
        &self,
        i: usize,
        text: &Text,
        convention: &Convention,
        network: &Arc<dyn Network>,
        loaded: &Loaded<'_>,
        report: &mut Report,
    ) -> Result<()> {
        let prefix = format!("p{i}.first.");
        let tensors = self.golden.tensors();
        let ids = |what: &str| integers(tensors, &format!("p{i}.{what}")).unwrap_or_default();
        let draft_ids = ids("draft_ids");
        let first = &draft_ids[..draft_ids.len() / ids("round_n").len().max(1)];
        for name in tensors.names() {
            let Some(what) = name.strip_prefix(&prefix) else { continue };
            let Some(expected) = table(tensors, &name)? else { continue };
            let says = format!("{} {name}", self.layout);
            if let Some(options) = of_first_scores(what, &convention.options) {
                let network = drafters::load(loaded.source, &loaded.parts, &options)?;
                let expected = Table { rows: 1, ..expected };
                let draft = text.fresh(&network, text.start, 1)?;
                let worst = draft.distance(&expected, 0, 1, text).fold(0.0, greater);
                report.numbers(&says, worst, expected.allowed());
                continue;
            }
            let found = match what {
                "prefill_logits" => text.prefill_logits(network, expected.rows, first.len())?,
                _ => text.trace(network, what, text.start, first, expected.values.len())?,
            };
            match found {
                None => report.not_yet(&says, "this network keeps nothing of that name"),
                Some(found) if found.len() != expected.values.len() => {
                    let (found, expected) = (found.len(), expected.values.len());
                    report.failed(&says, &format!("{found} values, expected {expected}"));
                }
                Some(found) => report.numbers(&says, expected.distance(&found), expected.allowed()),
            }
        }
        Ok(())
    }

    /// However many drafts each round accepts, and whether or not there was a draft, the next draft
    /// is the one of a drafter that has read the text just now, bit for bit.
    fn compare_forced(
        &self,
        what: &str,
        text: &Text,
        network: &Arc<dyn Network>,
        depth: usize,
        report: &mut Report,
    ) -> Result<()> {
        let last = text.tokens.len() - 1 - depth.min(text.tokens.len() - 1);
        let fresh: Vec<Draft> =
            (text.start..=last).map(|n| text.fresh(network, n, depth)).collect::<Result<_>>()?;
        let (mut all, mut wrong) = (0, Vec::new());
        for accepted in 0..=depth {
            for idle in [0, 1, 3] {
                let mut guesser = text.follow(network)?;
                for (round, n) in (text.start..=last).step_by(accepted + 1).enumerate() {
                    guesser.read(n)?;
                    if round % (idle + 1) != 0 {
                        continue;
                    }
                    let draft = guesser.draft(depth)?;
                    all += 1;
                    if !draft.same(&fresh[n - text.start]) {
                        wrong.push(format!(
                            "{accepted} accepted each round, {idle} of {} without a draft, position {n}",
                            idle + 1
                        ));
                    }
                }
            }
        }
        report.count(what, all, &wrong);
        Ok(())
    }
}

fn check_ids(n: i64, found: &[u32], expected: &[i64], wrong: &mut Vec<String>) {
    if !found.iter().map(|&id| i64::from(id)).eq(expected.iter().copied()) {
        wrong.push(format!("after {n} rows: {found:?}, expected {expected:?}"));
    }
}
