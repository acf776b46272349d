//! From files to an assistant: Hugging Face folders and GGUF.

use super::super::fit::{Claims, refuse_per_layer};
use super::super::kinds::DraftOptions;
use super::super::vocabulary::integers;
use super::super::{Description, Network, TargetFacts, TargetParts};
use super::head::{Clusters, DraftHead};
use super::trial::Trial;
use super::{Assistant, DraftWindow, FAMILY, Weights};
use crate::arch::gemma4;
use crate::config::gguf::GgufConfig;
use crate::config::hf::HfConfig;
use crate::config::{Config, Head, KvSource, Presence};
use crate::footprint;
use crate::load::{Files, Source};
use crate::target::Tap;
use crate::weights::{MatrixShape, Measure, Pack, Repack, Tensors, load_layers};
use crate::{Error, Result};
use leveret_kernels::ElementType;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the files say before any tensor is read.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    path: PathBuf,
    dialect: &'static str,
    pub(crate) config: Config,
    /// Width of the target's residual stream.
    pub(crate) outer: usize,
    /// Clusters of the head, and how many a row reads.
    pub(crate) clusters: Option<(usize, usize)>,
    pub(crate) names: Names,
}

/// Tensors that only assistants have; matrices without `.weight`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// Before the names of layers, final norm and embedding.
    pub(crate) prefix: &'static str,
    pub(crate) before: &'static [&'static str],
    pub(crate) after: &'static [&'static str],
    pub(crate) centres: &'static [&'static str],
    /// Full names.
    pub(crate) order: &'static [&'static str],
}

const HF: Names = Names {
    prefix: "model.",
    before: &["pre_projection", "model.pre_projection"],
    after: &["post_projection", "model.post_projection"],
    centres: &["masked_embedding.centroids", "model.masked_embedding.centroids"],
    order: &["masked_embedding.token_ordering", "model.masked_embedding.token_ordering"],
};

/// llama.cpp's names, and those that its converter gave before.
pub(crate) const GGUF: Names = Names {
    prefix: "",
    before: &["nextn.pre_projection", "mtp.pre_projection"],
    after: &["nextn.post_projection", "mtp.post_projection"],
    centres: &["masked_embd_centroids", "mtp.centroids"],
    order: &["masked_embd_ordering", "mtp.token_ordering.weight"],
};

/// Keys of GGUF for the clusters: llama.cpp refuses the tensors, though it has names for them.
pub(crate) const CENTRES_KEY: &str = "centroids";
pub(crate) const ORDER_KEY: &str = "centroid_ordering";

/// Clusters that a row reads, where a file does not say.
const CLUSTERS_USED: usize = 32;

pub(super) fn matches(source: &Source) -> bool {
    match source.files() {
        Files::Gguf(gguf) => {
            let name = gguf.meta().get::<&str>("general.architecture");
            matches!(name, Ok(Some("gemma4-assistant" | "gemma4_assistant")))
        }
        Files::Folder(folder) => {
            let name = folder.config.as_ref().and_then(|config| config.get("model_type")?.as_str());
            matches!(name, Some("gemma4_assistant" | "gemma4_unified_assistant"))
        }
    }
}

/// See [`Runner`](crate::drafters::kinds::Runner).
pub(in crate::drafters) fn describe(
    source: &Source,
    target: Option<&TargetFacts>,
    options: &DraftOptions,
) -> Result<Description> {
    let mut plan = plan(source)?;
    let shared = match target {
        Some(target) => plan.fit(&target.config, options)?,
        None => plan.stand_alone(),
    };
    let weights = load_weights(source, &plan, options, &Measure)?;
    let layers = weights.layers.iter().zip(&plan.config.layers);
    let layers: u64 = layers.map(|(layer, config)| footprint::layer_bytes(layer, config)).sum();
    let head = match &weights.head {
        DraftHead::Full(matrix) => footprint::packed(matrix),
        DraftHead::Clusters(clusters) => {
            let parts = clusters.parts.iter().take(clusters.used).map(footprint::packed);
            footprint::packed(&clusters.centres) + parts.sum::<u64>()
        }
    };
    let bytes = footprint::packed(&weights.before) + layers + footprint::packed(&weights.after) + head;
    let taps = match target {
        Some(_) => [Tap::Final]
            .into_iter()
            .chain(shared.iter().flat_map(|&l| [Tap::Keys(l), Tap::Values(l)]))
            .collect(),
        None => Vec::new(),
    };
    Ok(Description {
        family: FAMILY,
        dialect: plan.dialect,
        taps,
        depth: None,
        vocab: plan.config.vocab,
        bytes_per_step: bytes as usize,
        bytes_along: 0,
        kv_values: plan.config.kv_values_read(),
    })
}

/// See [`Runner`](crate::drafters::kinds::Runner).
pub(in crate::drafters) fn load(
    source: &Source,
    parts: &TargetParts,
    options: &DraftOptions,
) -> Result<Arc<dyn Network>> {
    let description = describe(source, Some(&parts.facts()), options)?;
    let mut plan = plan(source)?;
    let shared = plan.fit(&parts.config, options)?;
    let weights = load_weights(source, &plan, options, &Repack { team: &parts.team, source })?;
    let (target, trial) = (parts.clone(), Trial::new(options.assistant.position));
    Ok(Arc::new(Assistant { description, target, trial, config: plan.config, weights, shared }))
}

pub(in crate::drafters) fn plan(source: &Source) -> Result<Plan> {
    let path: PathBuf = source.path().into();
    let mut plan = match source.files() {
        Files::Gguf(gguf) => {
            let keys = GgufConfig::new(gguf)?;
            let config = gemma4::from_gguf(&keys)?;
            let outer = match keys.get("embedding_length_out")?.or(keys.get("n_embd_backbone")?) {
                Some(outer) => outer,
                None => keys.require("embedding_length_out")?,
            };
            let centres = GGUF.centres.iter().find(|name| keys.has_tensor(&format!("{name}.weight")));
            let count = match keys.get("centroid_count")? {
                Some(count) => Some(count),
                None => centres.and_then(|name| keys.rows(&format!("{name}.weight"))),
            };
            let used = keys.get("centroid_top_k")?.unwrap_or(CLUSTERS_USED);
            let clusters = count.map(|count| (count, used));
            Plan { path, dialect: "gguf", config, outer, clusters, names: GGUF }
        }
        Files::Folder(folder) => {
            let path = folder.path().join("config.json");
            let Some(root) = &folder.config else {
                return Err(Error::format(folder.path(), "holds no config.json"));
            };
            let keys = HfConfig::new(&path, root)?;
            let config = gemma4::from_hf(&keys)?;
            let clusters = match keys.flag("use_ordered_embeddings")?.unwrap_or(false) {
                true => {
                    let used = keys.count("centroid_intermediate_top_k")?.unwrap_or(CLUSTERS_USED);
                    Some((keys.need_count("num_centroids")?, used))
                }
                false => None,
            };
            let outer = keys.need_count("backbone_hidden_size")?;
            Plan { path, dialect: "huggingface", config, outer, clusters, names: HF }
        }
    };
    // Without keys of their own, layers are checked by themselves.
    plan.config.layers.iter_mut().for_each(|layer| layer.attention.source = KvSource::Own);
    plan.config.check(&plan.path)?;
    refuse_per_layer(&plan.path, &plan.config)?;
    if let Some((count, used)) = plan.clusters {
        let vocab = plan.config.vocab;
        if count == 0 || !vocab.is_multiple_of(count) || !(1..=count).contains(&used) {
            return Err(Error::format(
                &plan.path,
                format!(
                    "the head reads {used} of {count} clusters of {vocab} tokens, expected clusters of one size and 1 to {count} of them"
                ),
            ));
        }
    }
    Ok(plan)
}

impl Plan {
    /// Layers without a target, which read whatever caches there will be.
    fn stand_alone(&mut self) -> Vec<usize> {
        let count = self.config.layers.len();
        self.config.layers.iter_mut().for_each(|layer| layer.attention.source = KvSource::Layer(count));
        Vec::new()
    }

    /// Points each layer at the last layer of `target` of its kind that keeps keys and values.
    /// Returns the target's layers.
    fn fit(&mut self, target: &Config, options: &DraftOptions) -> Result<Vec<usize>> {
        let claims = Claims { hidden: Some(self.outer), vocab: Some(self.config.vocab), layers: None };
        claims.check(&self.path, target, options)?;
        let fault = |what: String| Err(Error::format(&self.path, what));
        if self.config.vocab > target.vocab {
            let (own, known) = (self.config.vocab, target.vocab);
            return fault(format!("this drafter has {own} tokens, of which the target knows {known}"));
        }
        let count = self.config.layers.len();
        let mut shared = Vec::new();
        for (i, layer) in self.config.layers.iter_mut().enumerate() {
            let a = &mut layer.attention;
            let kind = if a.window.is_some() { "with" } else { "without" };
            let of_kind = |l: &usize| {
                target.kv_width(*l) > 0 && target.layers[*l].attention.window.is_some() == a.window.is_some()
            };
            let Some(source) = (0..target.layers.len()).rev().find(of_kind) else {
                return fault(format!(
                    "layer {i} reads keys of a layer {kind} a sliding window, and the target ({}) has none",
                    target.family
                ));
            };
            let theirs = &target.layers[source].attention;
            if a.k_dim != theirs.k_dim || !a.heads.is_multiple_of(theirs.kv_heads) {
                return fault(format!(
                    "layer {i} has {} heads of width {}, but the target's layer {source} keeps {} of width {}: it was made for another one",
                    a.heads, a.k_dim, theirs.kv_heads, theirs.k_dim
                ));
            }
            (a.kv_heads, a.v_dim) = (theirs.kv_heads, theirs.v_dim);
            // The query stands one place further back in the kernel than in the text.
            a.window = a.window.map(|window| match options.assistant.window {
                DraftWindow::Ordinary => (window - 1).max(1),
                DraftWindow::Wider => window.saturating_add(1),
            });
            let place = shared.iter().position(|&known| known == source).unwrap_or(shared.len());
            if place == shared.len() {
                shared.push(source);
            }
            a.source = KvSource::Layer(count + place);
        }
        Ok(shared)
    }
}

fn load_weights<P: Pack>(
    source: &Source,
    plan: &Plan,
    options: &DraftOptions,
    pack: &P,
) -> Result<Weights<P::Matrix>> {
    let Plan { config, names, outer, .. } = plan;
    let tensors = Tensors { source, precision: options.precision, norm_offset: config.norm_offset, pack };
    let present = |list: &'static [&'static str]| {
        list.iter().find(|name| source.has(&format!("{name}.weight"))).unwrap_or(&list[0])
    };
    let own = config.names.heads.iter().find(|name| source.has(&format!("{name}.weight")));
    let embedding = match own.filter(|_| config.head != Head::Tied) {
        Some(head) => head.to_string(),
        None => format!("{}{}", names.prefix, config.names.embedding),
    };
    let head = match plan.clusters {
        None => DraftHead::Full(tensors.matrix(&embedding, config.vocab, config.hidden, Presence::No)?),
        Some((count, used)) => {
            let metadata = Metadata::of(source)?;
            let order = names.order.iter().find(|name| source.raw(name).is_some()).unwrap_or(&names.order[0]);
            let stored = match &metadata {
                Some(metadata) => Some(metadata.order.iter().map(|&token| token.into()).collect()),
                None => integers(source, order)?,
            };
            let tokens = permutation(source, order, stored, config.vocab)?;
            DraftHead::Clusters(Clusters {
                centres: match &metadata {
                    Some(metadata) => metadata.centres(&tensors, count, config.hidden)?,
                    None => tensors.matrix(present(names.centres), count, config.hidden, Presence::No)?,
                },
                parts: cluster_rows(&tensors, &embedding, config, &tokens, count)?,
                tokens,
                used,
            })
        }
    };
    let norm = format!("{}{}.weight", names.prefix, config.names.final_norm);
    Ok(Weights {
        before: tensors.matrix(present(names.before), config.hidden, 2 * outer, Presence::No)?,
        layers: load_layers(source, config, names.prefix, options.precision, pack)?,
        norm: tensors.norm(&norm, config.hidden)?,
        after: tensors.matrix(present(names.after), *outer, config.hidden, Presence::No)?,
        head,
    })
}

/// Clusters as metadata of a GGUF file: docs/gguf.md.
struct Metadata {
    centres: Vec<f32>,
    order: Vec<u32>,
}

impl Metadata {
    fn of(source: &Source) -> Result<Option<Self>> {
        let Files::Gguf(gguf) = source.files() else { return Ok(None) };
        let keys = GgufConfig::new(gguf)?;
        let Some(centres) = keys.get(CENTRES_KEY)? else { return Ok(None) };
        Ok(Some(Self { centres, order: keys.require(ORDER_KEY)? }))
    }

    /// `[count, hidden]`.
    fn centres<P: Pack>(&self, tensors: &Tensors<'_, P>, count: usize, hidden: usize) -> Result<P::Matrix> {
        if self.centres.len() != count * hidden {
            let what = format!(
                "metadata `{CENTRES_KEY}` has {} entries, expected {count} times {hidden}",
                self.centres.len()
            );
            return Err(Error::format(tensors.source.path(), what));
        }
        let bytes: Vec<u8> = self.centres.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = MatrixShape { ty: ElementType::F32, rows: count, cols: hidden };
        tensors.pack(CENTRES_KEY, shape, &bytes, None)
    }
}

/// Every token once, cluster by cluster.
fn permutation(source: &Source, name: &str, stored: Option<Vec<i64>>, vocab: usize) -> Result<Box<[u32]>> {
    let path: &Path = source.path();
    let Some(stored) = stored else {
        return Err(Error::format(
            path,
            format!("tensor `{name}` is missing: the clusters of the head need it"),
        ));
    };
    let mut seen = vec![false; vocab];
    for &token in &stored {
        match usize::try_from(token).ok().and_then(|token| seen.get_mut(token)) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                let what = format!("tensor `{name}` names token {token} twice or outside 0 to {vocab}");
                return Err(Error::format(path, what));
            }
        }
    }
    if stored.len() != vocab {
        let what = format!("tensor `{name}` has {} entries, expected each of {vocab} tokens", stored.len());
        return Err(Error::format(path, what));
    }
    Ok(stored.into_iter().map(|token| token as u32).collect())
}

/// The rows of the table, cut into a matrix for each cluster.
fn cluster_rows<P: Pack>(
    tensors: &Tensors<'_, P>,
    embedding: &str,
    config: &Config,
    tokens: &[u32],
    count: usize,
) -> Result<Vec<P::Matrix>> {
    let name = format!("{embedding}.weight");
    let table = tensors.tensor(&name, &[config.vocab, config.hidden])?;
    let size = tokens.len() / count;
    let shape = MatrixShape { ty: table.ty, rows: size, cols: config.hidden };
    let row = table.bytes.len() / config.vocab;
    let mut bytes = Vec::with_capacity(size * row);
    let parts = tokens.chunks_exact(size).map(|tokens| {
        bytes.clear();
        tokens.iter().for_each(|&t| bytes.extend_from_slice(&table.bytes[t as usize * row..][..row]));
        tensors.pack(&name, shape, &bytes, None)
    });
    let parts = parts.collect::<Result<_>>()?;
    tensors.source.release(&name);
    Ok(parts)
}
