//! Whole texts with a drafter and without: greedy and drawn, they are the same tokens.

use std::sync::Arc;

use anyhow::Result;
use leveret_model::drafters::Network;
use leveret_model::{Model, Target};
use leveret_spec::Drafter;
use leveret_spec::drafters::NetworkDrafter;

use super::super::report::Report;
use crate::law::{check_text, samplings};

/// Tokens that are written.
const TOKENS: usize = 40;
/// Rows of a draft that is not committed.
const DRAFT: usize = 64;

/// Continues `prompt` under every way of drawing.
pub(super) fn compare(
    model: &mut Model,
    prompt: &[u32],
    network: &Arc<dyn Network>,
    layout: &str,
    report: &mut Report,
) -> Result<()> {
    let room = (prompt.len() + TOKENS + DRAFT).min(model.max_context());
    for (sampling, params) in samplings(7, TOKENS) {
        let drafter: Box<dyn Drafter> = Box::new(NetworkDrafter::new(Arc::clone(network), room)?);
        let what = format!("{layout} text, {sampling}");
        match check_text(model, prompt, &params, Some(drafter), &[], &what) {
            Ok(seen) if seen.drafted == 0 => report.failed(&what, "nothing was drafted"),
            Ok(seen) => report.count(&what, seen.tokens, &[]),
            Err(error) => report.failed(&what, &error.to_string()),
        }
    }
    Ok(())
}
