//! MTP layers that come in a target's own files, or in a file of their own with the target's
//! description: Qwen3.5's and their relatives', in the layouts of Hugging Face, GGUF and speculators,
//! and under the names of DeepSeek and MiMo. Normed embedding and normed last state are projected to
//! one; a layer of the target's kind and a norm make the head's input and the next state of it.

use super::{Design, Join, Names, Next};
use crate::Tap;
use crate::config::gguf::GgufConfig;
use crate::config::{AttentionInput, Config};
use crate::drafters::fit::Claims;
use crate::drafters::kinds::{DraftOptions, Kind, Runner};
use crate::drafters::vocabulary::MapRule;
use crate::load::{Files, Source};
use crate::{Error, Result};
use std::collections::BTreeSet;

pub(in crate::drafters) const MTP: Kind =
    Kind { family: "mtp", matches: |source| find(source).is_some(), runner: Runner::Recurrent(design) };

/// How a publisher calls the tensors of the module, all behind one prefix.
struct Layout {
    dialect: &'static str,
    /// Possible prefixes; `#` stands for the number of the layer, which counts those of the trunk.
    prefixes: &'static [&'static str],
    /// What stands before the layer's own tensors, behind the prefix.
    layer: &'static str,
    fc: &'static str,
    embedding_norm: &'static str,
    hidden_norm: &'static str,
    final_norm: &'static str,
    /// A head of its own, and its map, if the file has one: a part of the vocabulary.
    head: &'static str,
    hidden_first: bool,
}

const LAYOUTS: [Layout; 5] = [
    Layout {
        dialect: "qwen",
        prefixes: &["mtp.", "model.mtp.", "model.language_model.mtp.", "language_model.mtp."],
        layer: "layers.0.",
        fc: "fc",
        embedding_norm: "pre_fc_norm_embedding",
        hidden_norm: "pre_fc_norm_hidden",
        final_norm: "norm",
        head: "lm_head",
        hidden_first: false,
    },
    Layout {
        dialect: "gguf",
        prefixes: &["blk.#."],
        layer: "",
        fc: "nextn.eh_proj",
        embedding_norm: "nextn.enorm",
        hidden_norm: "nextn.hnorm",
        final_norm: "nextn.shared_head_norm",
        head: "nextn.shared_head_head",
        hidden_first: false,
    },
    SPECULATORS,
    Layout { dialect: "mimo", prefixes: &["model.mtp_layers.0."], hidden_first: true, ..SPECULATORS },
    Layout {
        dialect: "deepseek",
        prefixes: &["model.layers.#.", "model.language_model.layers.#."],
        layer: "",
        fc: "eh_proj",
        embedding_norm: "enorm",
        hidden_norm: "hnorm",
        final_norm: "shared_head.norm",
        head: "shared_head.head",
        hidden_first: false,
    },
];

const SPECULATORS: Layout = Layout {
    dialect: "speculators",
    prefixes: &["mtp_layers.0."],
    layer: "",
    fc: "input_proj",
    embedding_norm: "token_layernorm",
    hidden_norm: "hidden_layernorm",
    final_norm: "final_layernorm",
    head: "lm_head",
    hidden_first: false,
};

/// A module that is there.
struct Found {
    layout: &'static Layout,
    prefix: String,
    /// The number in its prefix.
    number: Option<usize>,
}

/// The first layout whose projection is there.
fn find(source: &Source) -> Option<Found> {
    let numbers = numbers(source);
    let there = |layout: &'static Layout, prefix: String, number| {
        let there = source.has(&format!("{prefix}{}.weight", layout.fc));
        there.then_some(Found { layout, prefix, number })
    };
    let of_prefix = |layout: &'static Layout, prefix: &str| match prefix.split_once('#') {
        None => there(layout, prefix.to_owned(), None),
        Some((before, after)) => {
            numbers.iter().find_map(|n| there(layout, format!("{before}{n}{after}"), Some(*n)))
        }
    };
    const { &LAYOUTS }
        .iter()
        .find_map(|layout| layout.prefixes.iter().find_map(|prefix| of_prefix(layout, prefix)))
}

/// Numbers that the module's layer may have: of a GGUF file the one behind the trunk, of a folder those of all its
/// layers, as one that was taken out may be numbered anew.
fn numbers(source: &Source) -> Vec<usize> {
    match source.files() {
        Files::Gguf(gguf) => {
            let keys = GgufConfig::new(gguf).ok();
            let behind = |keys: GgufConfig<'_>| {
                let trunk = keys.trunk_blocks().ok()?;
                (trunk < keys.get("block_count").ok()??).then_some(trunk)
            };
            keys.and_then(behind).into_iter().collect()
        }
        Files::Folder(folder) => {
            let number = |name: &str| -> Option<usize> {
                let (_, rest) = name.split_once("layers.")?;
                rest.split_once('.')?.0.parse().ok()
            };
            let there: BTreeSet<usize> = folder.names().filter_map(number).collect();
            there.into_iter().collect()
        }
    }
}

fn design(source: &Source, target: Option<&Config>, options: &DraftOptions) -> Result<Design> {
    let path = source.path();
    let Some(Found { layout, prefix, number }) = find(source) else {
        return Err(Error::format(path, "holds no MTP layer"));
    };
    // The files describe a whole target, by which theirs are named and normed.
    let own = match (source.describe(), target) {
        (Ok(own), _) => own,
        (Err(_), Some(target)) => target.clone(),
        (Err(error), None) => return Err(error),
    };
    if let Some(target) = target {
        // A layer that was taken out and numbered anew says nothing of its trunk, nor does a description of it alone.
        let layers = number.map_or(Some(own.layers.len()), |number| Some(number).filter(|&n| n > 0));
        let claims = Claims { hidden: Some(own.hidden), vocab: Some(own.vocab), layers };
        claims.check(path, target, options)?;
    }
    // A description of the layer alone may count too few to have one that attends.
    let mut layers =
        own.layers.iter().rev().chain(target.iter().flat_map(|target| target.layers.iter().rev()));
    let Some(mut layer) = layers.find(|layer| layer.delta.is_none()).cloned() else {
        return Err(Error::unsupported(
            path,
            "no layer of the target attends, so that its MTP layer is not known",
        ));
    };
    layer.attention.input = AttentionInput::Normed;
    let name = |name: &str| format!("{prefix}{name}");
    let layer_name = name(layout.layer);
    // Experts are not those of the attending layers only: the tensors say whether this layer has them.
    let routed = source.has(&format!("{layer_name}{}.weight", own.names.router));
    if let Some(like) = own.layers.iter().rev().find(|layer| layer.mlp.experts.is_some() == routed) {
        layer.mlp = like.mlp.clone();
    }
    let config = Config { layers: vec![layer], per_layer: None, ..own };
    config.check(path)?;
    let head = Some(name(layout.head)).filter(|head| source.has(&format!("{head}.weight")));
    let rows = match &head {
        Some(head) => {
            source.tensor(&format!("{head}.weight"))?.and_then(|tensor| tensor.shape.first().copied())
        }
        None => None,
    };
    let embedding = ["embed_tokens", "nextn.embed_tokens"].map(name);
    Ok(Design {
        family: "mtp",
        dialect: layout.dialect,
        layer_names: vec![layer_name],
        names: Names {
            fc: name(layout.fc),
            embedding_norm: Some(name(layout.embedding_norm)),
            hidden_norm: Some(name(layout.hidden_norm)),
            final_norm: Some(name(layout.final_norm)),
            embedding: embedding.into_iter().find(|name| source.has(&format!("{name}.weight"))),
            head,
            ..Names::default()
        },
        taps: vec![Tap::Final],
        feature: config.hidden,
        join: Join::Projected { hidden_first: layout.hidden_first },
        next: Next::Normed,
        head_rows: rows.unwrap_or(config.vocab),
        map: MapRule::Offset,
        vocab: target.map_or(config.vocab, |target| target.vocab),
        slots: None,
        complete: false,
        config,
    })
}
