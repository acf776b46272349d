//! What a GGUF file says of a drafter, and the tokenizer in it. Keys that llama.cpp does not have
//! are listed in docs/gguf.md.

use super::drafts::{borrowing, eagle_gguf, joins_features, writes};
use super::meta::{self, Architecture, Keys};
use super::plan::{Plan, divisors};
use super::planned::{Planned, missing};
use crate::config::LayerConfig;
use crate::drafters::{
    AssistantPlan, BlockConfig, BlockNames, CENTRES_KEY, Design, Join, MapRule, Next, ORDER_KEY, Shapes,
    Structure, causal_where_unsaid, integers,
};
use crate::formats::gguf::{MetaValue, Writer};
use crate::load::{Files, Source};
use crate::tokenizer::Tokenizer;
use crate::weights::Tensors;
use crate::{Error, Result};
use leveret_kernels::ElementType;

/// Describes the drafter of `source` in `writer`, and says which tensors it has. `vocab` is the
/// target's number of tokens, if it is known.
pub(super) fn drafter(
    source: &Source,
    structure: &Structure,
    vocab: Option<usize>,
    ty: ElementType,
    writer: &mut Writer,
) -> Result<Vec<Planned>> {
    let mut drafter = Drafter { source, name: super::name_of(source.path()), ty, writer };
    match structure {
        Structure::Head(design) => drafter.head(design),
        Structure::Block(config, shapes) => drafter.block(config, shapes, vocab),
        Structure::Assistant(plan) => drafter.assistant(plan),
    }
}

struct Drafter<'a> {
    source: &'a Source,
    name: &'a str,
    ty: ElementType,
    writer: &'a mut Writer,
}

impl<'a> Drafter<'a> {
    fn head(&mut self, design: &Design) -> Result<Vec<Planned>> {
        let eagle3 = matches!(design.join, Join::Beside { .. });
        let architecture = Architecture::llama(if eagle3 { "eagle3" } else { "eagle" });
        meta::describe(&architecture, self.name, &design.config, 0, self.ty, self.writer);
        let mut keys = Keys { architecture: architecture.name, ahead: 0, writer: self.writer };
        if let Join::Beside { normed_residual } = design.join {
            let taps = super::residual_taps(self.source.path(), &design.taps)?;
            keys.put("target_layers", taps.iter().map(|&k| k as i32).collect::<Vec<_>>());
            keys.count("target_hidden_size", design.feature);
            keys.put("norm_before_residual", normed_residual);
            keys.put("norm_before_fc", joins_features(design));
            keys.put("norm_output", design.next == Next::Normed);
        }
        if let Some(slots) = design.slots {
            keys.count("parallel_tokens", slots.count);
            self.writer.meta("tokenizer.ggml.mask_token_id", slots.mask);
        }
        let mut plan = Plan::new(self.source, architecture.layout, self.ty);
        plan.planned.extend(divisors(&design.config));
        plan.head(design, &eagle_gguf(design))?;
        Ok(plan.planned)
    }

    fn block(&mut self, config: &BlockConfig, shapes: &Shapes, vocab: Option<usize>) -> Result<Vec<Planned>> {
        let architecture = Architecture::DFLASH;
        let mut plan = Plan::new(self.source, architecture.layout, self.ty);
        let names = BlockNames::GGUF;
        plan.planned.extend(divisors(&config.layers));
        plan.block(config, shapes, &names, MapRule::Token, vocab)?;
        let planned = plan.planned;

        let mut layers = config.layers.clone();
        layers.final_softcap = config.softcap;
        meta::describe(&architecture, self.name, &layers, 0, self.ty, self.writer);
        let mut keys = Keys { architecture: architecture.name, ahead: 0, writer: self.writer };
        keys.count("block_size", config.rows);
        let taps = super::residual_taps(self.source.path(), &config.taps)?;
        keys.put("target_layers", taps.iter().map(|&k| k as i32).collect::<Vec<_>>());
        if let Some(layers) = config.target_layers {
            keys.count("target_block_count", layers);
        }
        if config.anchor_guesses {
            keys.put("sample_from_anchor", true);
        }
        let usual = |l: &LayerConfig| causal_where_unsaid(config.family, l.attention.window.is_some());
        let usual = layers.layers.iter().map(usual);
        if !usual.eq(config.causal.iter().copied()) {
            match &config.causal[..] {
                [first, rest @ ..] if rest.iter().all(|causal| causal == first) => {
                    keys.put("attention.causal", *first);
                }
                causal => keys.put("attention.causal", causal.to_vec()),
            }
        }
        let scale = config.embedding_scale[usize::from(shapes.embedding_rows.is_some())];
        for (key, factor) in [("embedding_scale", scale), ("logit_scale", config.logit_scale)] {
            if factor != 1.0 {
                keys.put(key, factor);
            }
        }
        let shape =
            |name: &str| planned.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.shape[..]);
        if writes(&planned, &format!("{}.weight", names.confidence)) {
            keys.put("has_confidence_head", true);
        }
        if let Some(&[rank, _]) = shape(&format!("{}.weight", names.selector)) {
            keys.count("selector_rank", rank);
            keys.count("selector_top_k", config.candidates);
        }
        let (base, projection) = names.convolutions[0];
        if let (Some(&[_, taps, _]), Some(&[rows, _])) =
            (shape(&format!("blk.0.{base}")), shape(&format!("blk.0.{projection}.weight")))
        {
            keys.count("conv_kernel_size", taps);
            keys.count("conv_group_size", layers.hidden / (rows / (2 * taps)).max(1));
        }
        self.writer.meta("tokenizer.ggml.mask_token_id", config.mask);
        Ok(planned)
    }

    fn assistant(&mut self, assistant: &AssistantPlan) -> Result<Vec<Planned>> {
        let architecture = Architecture::gemma4("gemma4-assistant");
        let config = borrowing(assistant.config.clone());
        meta::describe(&architecture, self.name, &config, 0, self.ty, self.writer);
        let mut keys = Keys { architecture: architecture.name, ahead: 0, writer: self.writer };
        keys.count("embedding_length_out", assistant.outer);
        keys.count("nextn_predict_layers", config.layers.len());
        if let Some((count, used)) = assistant.clusters {
            keys.count("centroid_count", count);
            keys.count("centroid_top_k", used);
            let missing = |names: &[&str]| missing(self.source, names[0]);
            let names = &assistant.names;
            let weight = |name: &&str| Some(format!("{name}.weight")).filter(|name| self.source.has(name));
            let centres = names.centres.iter().find_map(weight).ok_or_else(|| missing(names.centres))?;
            let centres = Tensors::plain(self.source).vector(&centres, &[count, config.hidden])?;
            let order = names.order.iter().find(|name| self.source.raw(name).is_some());
            let order = integers(self.source, order.unwrap_or(&names.order[0]))?;
            let order = order.ok_or_else(|| missing(names.order))?;
            keys.put(CENTRES_KEY, centres);
            keys.put(ORDER_KEY, order.into_iter().map(|token| token as u32).collect::<Vec<_>>());
        }
        let mut plan = Plan::new(self.source, architecture.layout, self.ty);
        plan.assistant(assistant)?;
        Ok(plan.planned)
    }
}

/// What of a drafter llama.cpp cannot read, if anything.
pub(super) fn own(structure: &Structure, planned: &[Planned]) -> Option<&'static str> {
    match structure {
        Structure::Head(design) => match design.family {
            "eagle1" => Some("EAGLE-1"),
            "mistral-eagle" => Some("Mistral's EAGLE"),
            "p-eagle" => Some("P-EAGLE"),
            _ if design.config.layers.len() > 1 => Some("EAGLE-3 of several layers"),
            _ if design.taps.len() != 3 => Some("EAGLE-3 with another number of features than three"),
            _ if writes(planned, "fc_norm.0.weight") => Some("EAGLE-3.1's norms of features"),
            _ => None,
        },
        Structure::Block(config, _) => match config.family {
            "dfly" => Some("DFly"),
            _ if writes(planned, "markov_gate.weight") => Some("a gated Markov head"),
            _ if writes(planned, "markov_joint.weight") => Some("a recurrent Markov head"),
            _ => None,
        },
        Structure::Assistant(_) => None,
    }
}

/// Adds the tokenizer that a drafter goes with: its target's, or one that lies beside it. Returns
/// what is to be told.
pub(super) fn tokenizer(
    source: &Source,
    target: Option<&Source>,
    vocab: usize,
    writer: &mut Writer,
) -> Result<Vec<String>> {
    const MASK: &str = "tokenizer.ggml.mask_token_id";
    let folder = |source: &Source| match source.files() {
        Files::Folder(folder) => Some(folder.path().to_owned()),
        Files::Gguf(_) => None,
    };
    match target {
        Some(target) => match target.files() {
            Files::Folder(folder) => Tokenizer::write_gguf(folder.path(), vocab, writer),
            Files::Gguf(gguf) => {
                let entries =
                    gguf.meta().iter().filter(|(key, _)| key.starts_with("tokenizer.") && *key != MASK);
                for (key, value) in entries {
                    let Some(value) = MetaValue::copied(value) else {
                        let what = format!("metadata `{key}` is of a kind that cannot be written again");
                        return Err(Error::unsupported(gguf.meta().path(), what));
                    };
                    writer.meta(key, value);
                }
                Ok(Vec::new())
            }
        },
        None => match folder(source).filter(|dir| dir.join("tokenizer.json").is_file()) {
            Some(dir) => Tokenizer::write_gguf(&dir, vocab, writer),
            None => {
                writer.meta("tokenizer.ggml.model", "none");
                Ok(vec![
                    "no tokenizer is written, which llama.cpp asks for: name the target with --target".into(),
                ])
            }
        },
    }
}
