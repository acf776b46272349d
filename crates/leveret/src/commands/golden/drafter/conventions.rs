//! What a reference records of the same drafter under several conventions.

use leveret_model::Precision;
use leveret_model::drafters::{AssistantOptions, DraftOptions, DraftPosition, DraftWindow};
use leveret_model::golden::Golden;

/// Recorded rounds under one convention.
#[derive(Debug)]
pub(super) struct Convention {
    /// Stands before the names of tensors, and in what is reported.
    pub(super) prefix: &'static str,
    /// Key of a prompt's rounds in the JSON.
    pub(super) rounds: &'static str,
    pub(super) options: DraftOptions,
}

/// The conventions that rounds are recorded under; the first is that of the tensors without a prefix.
pub(super) fn conventions(golden: &Golden) -> Vec<Convention> {
    // The reference's position, whatever comes true.
    let assistant = AssistantOptions { position: DraftPosition::LastToken, ..AssistantOptions::default() };
    let exact = DraftOptions { precision: Precision::Float, assistant, ..DraftOptions::default() };
    let under = |prefix, rounds, window| {
        let assistant = AssistantOptions { window, ..assistant };
        Convention { prefix, rounds, options: DraftOptions { assistant, ..exact.clone() } }
    };
    // Assistants of Gemma 4 in the reference library, and under the rule that all others follow.
    if golden.tensors().raw("p0.standard_window.draft_ids").is_some() {
        return vec![
            under("", "draft", DraftWindow::Wider),
            under("standard_window.", "draft_standard_window", DraftWindow::Ordinary),
        ];
    }
    vec![Convention { prefix: "", rounds: "draft", options: exact }]
}

/// The convention of `name`, scores of the first token of the first round, if it is one of its own.
pub(super) fn of_first_scores(name: &str, options: &DraftOptions) -> Option<DraftOptions> {
    let position = match name {
        "logits_pos_minus_1" => DraftPosition::LastRow,
        _ => return None,
    };
    let assistant = AssistantOptions { position, ..options.assistant };
    Some(DraftOptions { assistant, ..options.clone() })
}
