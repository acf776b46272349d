//! The tensors of drafters, in whatever layout they are to be written: the names of both ends come
//! from the tables that reading goes by.

use super::plan::{Plan, divisors};
use super::planned::{Planned, Rows};
use crate::Result;
use crate::config::{KvSource, Presence};
use crate::drafters::{
    ASSISTANT_GGUF, AssistantPlan, BlockConfig, BlockNames, Design, Join, MapRule, Names, Shapes, token_map,
};
use crate::formats::safetensors::Dtype;

/// Where the tensors of a head stand in the new file.
pub(super) struct HeadNames {
    pub(super) names: Names,
    /// What stands before the names of each layer's tensors.
    pub(super) layers: Vec<String>,
    pub(super) map: MapRule,
}

/// A name in both files, if the original has it.
fn both(from: &Option<String>, to: &Option<String>) -> Option<(String, String)> {
    Some((from.clone()?, to.clone()?))
}

impl Plan<'_> {
    /// A head that guesses token by token.
    pub(super) fn head(&mut self, design: &Design, to: &HeadNames) -> Result<()> {
        let (config, names, width) = (&design.config, &design.names, design.config.hidden);
        let columns = match design.join {
            // Everybody else has the embedding first.
            Join::Projected { hidden_first: true } => {
                Some((design.feature..design.feature + width).chain(0..design.feature).collect())
            }
            _ => None,
        };
        let fc = |end: &str| (format!("{}.{end}", names.fc), format!("{}.{end}", to.names.fc));
        let (from, fc_to) = fc("weight");
        self.floats(fc_to, Rows { columns, ..Rows::of(from) }, None, None)?;
        if self.source.has(&fc("bias").0) {
            self.vector(fc("bias"))?;
        }
        let feature_norms = names.feature_norms.iter().zip(&to.names.feature_norms);
        let mut norms: Vec<_> = feature_norms.map(|((a, _), (b, _))| (a.clone(), b.clone())).collect();
        norms.extend(both(&names.embedding_norm, &to.names.embedding_norm));
        norms.extend(both(&names.hidden_norm, &to.names.hidden_norm));
        norms.extend(both(&names.final_norm, &to.names.final_norm));
        for norm in norms {
            self.norm(norm, config)?;
        }
        for matrix in [both(&names.embedding, &to.names.embedding), both(&names.head, &to.names.head)]
            .into_iter()
            .flatten()
        {
            self.matrix(matrix, Presence::No)?;
        }
        if let Some(mask) = both(&names.mask_hidden, &to.names.mask_hidden) {
            self.vector(mask)?;
        }
        if names.head.is_some() {
            self.map(design.map, to.map, design.head_rows, design.vocab)?;
        }
        for (i, bases) in design.layer_names.iter().zip(&to.layers).enumerate() {
            self.layer(config, i, (bases.0.clone(), bases.1.clone()))?;
        }
        Ok(())
    }

    /// The map of a head's rows to target tokens, and in folders which tokens are in it.
    fn map(&mut self, from: MapRule, to: MapRule, rows: usize, vocab: usize) -> Result<()> {
        let Some(map) = token_map(self.source, from, rows, vocab, false)? else { return Ok(()) };
        let entry = |(row, &token): (usize, &u32)| match to {
            MapRule::Token => i64::from(token),
            MapRule::Offset => i64::from(token) - row as i64,
        };
        let bytes = map.iter().enumerate().map(entry).flat_map(i64::to_le_bytes).collect();
        self.planned.push(Planned::integers("d2t", vec![map.len()], Dtype::I64, bytes));
        if self.layout.members {
            let mut member = vec![0u8; vocab];
            map.iter().for_each(|&token| member[token as usize] = 1);
            self.planned.push(Planned::integers("t2d", vec![vocab], Dtype::BOOL, member));
        }
        Ok(())
    }

    /// A drafter that guesses a block; `vocab` is the target's number of tokens, if it is known.
    pub(super) fn block(
        &mut self,
        config: &BlockConfig,
        shapes: &Shapes,
        to: &BlockNames,
        map: MapRule,
        vocab: Option<usize>,
    ) -> Result<()> {
        let (names, prefix, source) = (&config.names, shapes.prefix, self.source);
        let spelled = |from: &[&'static str], to: &[&'static str]| {
            (BlockNames::spelled(source, prefix, from), to[0].to_owned())
        };
        self.matrix(spelled(names.fc, to.fc), Presence::IfPresent)?;
        self.norm(spelled(names.context_norm, to.context_norm), &config.layers)?;
        self.norm(spelled(names.norm, to.norm), &config.layers)?;
        for i in 0..config.layers.layers.len() {
            let [from, to_layer] = [&names.layers, &to.layers].map(|names| format!("{}{i}.", names.layer));
            self.layer(&config.layers, i, (format!("{prefix}{from}"), to_layer.clone()))?;
            let convolutions = names.convolutions.iter().zip(&to.convolutions);
            for ((base, projection), (base_to, projection_to)) in convolutions {
                self.plain(prefix, &format!("{from}{base}"), format!("{to_layer}{base_to}"))?;
                self.table(prefix, &format!("{from}{projection}"), format!("{to_layer}{projection_to}"))?;
            }
        }
        self.plain(prefix, names.fusion, to.fusion.into())?;
        for (from, to) in [
            (names.embedding, to.embedding),
            (names.head, to.head),
            (names.markov_in, to.markov_in),
            (names.markov_out, to.markov_out),
            (names.markov_gate, to.markov_gate),
            (names.markov_joint, to.markov_joint),
            (names.confidence, to.confidence),
            (names.selector, to.selector),
            (names.predecessor, to.predecessor),
            (names.successor, to.successor),
        ] {
            self.table(prefix, from, to.into())?;
        }
        for part in ["gate_proj", "up_proj", "down_proj"] {
            let [from, to] = [names, to].map(|names| format!("{}.{part}", names.correction));
            self.table(prefix, &from, to)?;
        }
        for part in ["hidden_norm.weight", "embed_norm.weight"] {
            let [from, to] = [names, to].map(|names| format!("{}.{part}", names.correction));
            self.plain(prefix, &from, to)?;
        }
        if let (Some(rows), Some(vocab)) = (shapes.head_rows, vocab.or(shapes.embedding_rows)) {
            self.map(config.map_rule, map, rows, vocab)?;
        }
        Ok(())
    }

    /// A matrix, if the files have it, with or without the ending `.weight`.
    fn table(&mut self, prefix: &str, from: &str, to: String) -> Result<()> {
        let from = BlockNames::placed(self.source, prefix, from);
        if self.has_matrix(&from) {
            self.matrix((from, to), Presence::IfPresent)
        } else if self.source.has(&from) {
            self.floats(format!("{to}.weight"), Rows::of(from), None, None)
        } else {
            Ok(())
        }
    }

    /// Values that are not rounded, if the files have them; full names.
    fn plain(&mut self, prefix: &str, from: &str, to: String) -> Result<()> {
        let from = BlockNames::placed(self.source, prefix, from);
        if self.source.has(&from) { self.vector((from, to)) } else { Ok(()) }
    }

    /// An assistant of Gemma 4, as GGUF.
    pub(super) fn assistant(&mut self, plan: &AssistantPlan) -> Result<()> {
        let (config, names, to) = (&plan.config, &plan.names, &ASSISTANT_GGUF);
        let source = self.source;
        let found = |from: &[&'static str], to: &[&'static str]| {
            let present = |name: &&&str| source.has(&format!("{name}.weight"));
            (from.iter().find(present).unwrap_or(&from[0]).to_string(), to[0].to_owned())
        };
        self.planned.extend(divisors(config));
        let outer = |a: &str, b: &str| (format!("{}{a}", names.prefix), b.to_owned());
        let layout = self.layout.names;
        self.matrix(outer(config.names.embedding, layout.embedding), Presence::No)?;
        self.matrix(found(names.before, to.before), Presence::No)?;
        self.matrix(found(names.after, to.after), Presence::No)?;
        let shared = borrowing(config.clone());
        for i in 0..shared.layers.len() {
            let bases =
                (format!("{}{}{i}.", names.prefix, config.names.layer), format!("{}{i}.", layout.layer));
            self.layer(&shared, i, bases)?;
        }
        self.norm(outer(config.names.final_norm, layout.final_norm), config)
    }
}

/// Layers that have no keys or values of their own.
pub(super) fn borrowing(mut config: crate::Config) -> crate::Config {
    let count = config.layers.len();
    config.layers.iter_mut().for_each(|layer| layer.attention.source = KvSource::Layer(count));
    config
}

/// The names of EAGLE heads and their relatives in GGUF.
pub(super) fn eagle_gguf(design: &Design) -> HeadNames {
    let named = |present: bool, name: &str| present.then(|| name.to_owned());
    let names = &design.names;
    HeadNames {
        names: Names {
            fc: "fc".into(),
            feature_norms: feature_norms(design, "enc.output_norm", "fc_norm"),
            embedding_norm: named(names.embedding_norm.is_some(), "blk.0.attn_norm"),
            hidden_norm: named(names.hidden_norm.is_some(), "blk.0.attn_norm_2"),
            final_norm: named(names.final_norm.is_some(), "output_norm"),
            embedding: named(true, "token_embd"),
            head: named(true, "output"),
            mask_hidden: named(true, "mask_hidden"),
        },
        layers: (0..design.config.layers.len()).map(|i| format!("blk.{i}.")).collect(),
        map: MapRule::Token,
    }
}

/// The names of an MTP layer that is block `index` of a GGUF file.
pub(super) fn mtp_gguf(index: usize) -> HeadNames {
    let name = |name: &str| format!("blk.{index}.nextn.{name}");
    HeadNames {
        names: Names {
            fc: name("eh_proj"),
            embedding_norm: Some(name("enorm")),
            hidden_norm: Some(name("hnorm")),
            final_norm: Some(name("shared_head_norm")),
            embedding: Some(name("embed_tokens")),
            head: Some(name("shared_head_head")),
            ..Names::default()
        },
        layers: vec![format!("blk.{index}.")],
        map: MapRule::Offset,
    }
}

/// One norm of all features together, or one of each.
pub(super) fn feature_norms(design: &Design, whole: &str, each: &str) -> Vec<(String, usize)> {
    let norms = &design.names.feature_norms;
    let name = |(i, (_, width)): (usize, &(String, usize))| match joins_features(design) {
        true => (whole.to_owned(), *width),
        false => (format!("{each}.{i}"), *width),
    };
    norms.iter().enumerate().map(name).collect()
}

/// Whether there is one norm, of all features together.
pub(super) fn joins_features(design: &Design) -> bool {
    matches!(&design.names.feature_norms[..], [(_, width)] if *width == design.taps.len() * design.feature)
}

/// Whether any tensor of this name is written.
pub(super) fn writes(planned: &[Planned], name: &str) -> bool {
    planned.iter().any(|tensor| tensor.name == name)
}
