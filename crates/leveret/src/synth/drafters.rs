//! Drafters of random weights for the targets of [`plan`](super::plan()), in the proportions and
//! layouts that they are published in. What a publisher fixes (a trimmed vocabulary, a rank, a
//! cluster's share) shrinks as the target does.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::builder::{Builder, CONTEXT, Checkpoint, FILES, Fill, config};
use super::plan::{Family, GEMMA4_NORMS, Plan, Sizes, gemma4_full, gemma4_keys, qwen35_mtp, scaled};

/// Drafters whose proportions are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Drafter {
    /// EAGLE-1: one layer, the target's head.
    Eagle1,
    /// EAGLE-3: one layer, a head of 32,000 tokens.
    Eagle3,
    /// P-EAGLE: four layers and seven tokens at once.
    PEagle,
    /// Mistral's EAGLE: two layers, the target's head.
    MistralEagle,
    /// The layer of Qwen3.5 that guesses ahead, with a head of 32,000 tokens.
    FastMtp,
    /// Gemma 4's assistant; for E4B with clusters of tokens.
    Assistant,
    /// DFlash: five layers, blocks of 16 rows, the target's head.
    Dflash,
    /// DFlash 2: the same with convolutions and a selector.
    Dflash2,
    /// DSpark: five layers, blocks of 7 rows, a head of its own, Markov and confidence heads.
    Dspark,
    /// DFly: five layers, blocks of 8 rows, a correction before the target's head.
    Dfly,
    /// Each that fits the target.
    All,
}

/// Rows of a head over a part of the vocabulary, ranks, and tokens of a cluster, as published.
const TRIMMED: usize = 32_000;
const RANK: usize = 256;
const CLUSTER: usize = 128;
/// One of so many clusters is read.
const CLUSTERS_PER_USED: usize = 64;
/// Layers of block drafters, features that they read, and channels of a convolution's group.
const BLOCK_LAYERS: usize = 5;
const BLOCK_TAPS: usize = 5;
const CHANNELS: usize = 16;

impl Drafter {
    const EACH: [Drafter; 10] = [
        Drafter::Eagle1,
        Drafter::Eagle3,
        Drafter::PEagle,
        Drafter::MistralEagle,
        Drafter::FastMtp,
        Drafter::Assistant,
        Drafter::Dflash,
        Drafter::Dflash2,
        Drafter::Dspark,
        Drafter::Dfly,
    ];

    /// As the command line has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Drafter::Eagle1 => "eagle1",
            Drafter::Eagle3 => "eagle3",
            Drafter::PEagle => "p_eagle",
            Drafter::MistralEagle => "mistral_eagle",
            Drafter::FastMtp => "fast_mtp",
            Drafter::Assistant => "assistant",
            Drafter::Dflash => "dflash",
            Drafter::Dflash2 => "dflash2",
            Drafter::Dspark => "dspark",
            Drafter::Dfly => "dfly",
            Drafter::All => "all",
        }
    }

    /// The drafters that are meant, for a target of `family`.
    pub(crate) fn meant(self, family: Family) -> Vec<Drafter> {
        match self {
            Drafter::All => Self::EACH.into_iter().filter(|drafter| drafter.serves(family)).collect(),
            one => vec![one],
        }
    }

    /// Whether it can guess for targets of `family`.
    fn serves(self, family: Family) -> bool {
        match self {
            Drafter::FastMtp => family == Family::Qwen35,
            Drafter::Assistant => matches!(family, Family::Gemma4 | Family::Gemma4E),
            _ => true,
        }
    }
}

impl Plan {
    /// A drafter for the target.
    ///
    /// # Errors
    /// One that needs a target of another family.
    pub(crate) fn drafter(&self, drafter: Drafter) -> Result<Checkpoint> {
        if !drafter.serves(self.family) {
            bail!("{}: there are none for {}", drafter.name(), self.family.name());
        }
        let mut b = Builder { offset: 0.0, tensors: Vec::new() };
        let mut names = FILES;
        let config = match drafter {
            Drafter::Eagle1 => self.eagle1(&mut b),
            Drafter::Eagle3 => self.eagle3(&mut b),
            Drafter::PEagle => self.p_eagle(&mut b),
            Drafter::MistralEagle => {
                names = ["params.json", "consolidated.safetensors"];
                self.mistral_eagle(&mut b)
            }
            Drafter::FastMtp => self.fast_mtp(&mut b),
            Drafter::Assistant => self.assistant(&mut b),
            Drafter::Dflash => self.dflash(&mut b),
            Drafter::Dflash2 => self.dflash2(&mut b),
            Drafter::Dspark => self.dspark(&mut b),
            Drafter::Dfly => self.dfly(&mut b),
            Drafter::All => bail!("all: not one drafter"),
        };
        Ok(Checkpoint { config, names, tensors: b.tensors, words: None })
    }

    fn scaled(&self, published: usize, step: usize) -> usize {
        scaled(published, self.factor, step)
    }

    /// Rows of a head that has the usual part of the vocabulary.
    fn trimmed(&self) -> usize {
        scaled(TRIMMED, self.factor * self.factor, 256).min(self.sizes.vocab)
    }

    fn rank(&self) -> usize {
        self.scaled(RANK, 32)
    }

    /// Layers as wide as the target's, with heads of 128 where its own are wider.
    fn layers(&self, layers: usize) -> Sizes {
        let p = self.sizes;
        let split = (p.head_dim / 128).max(1);
        Sizes {
            layers,
            heads: p.heads * split,
            kv_heads: p.kv_heads * split,
            head_dim: p.head_dim / split,
            tied: false,
            ..p
        }
    }

    /// A Llama layer whose attention reads `inputs` values.
    fn layer(&self, b: &mut Builder, name: &str, p: &Sizes, inputs: usize) {
        b.projections(name, p, p.heads * p.head_dim, inputs);
        b.norm(format!("{name}post_attention_layernorm"), p.hidden);
        b.mlp(name, p);
    }

    fn llama(&self, p: &Sizes, class: &str) -> Value {
        let mut config = config(p, "llama", class);
        config["hidden_act"] = json!("silu");
        config["rope_theta"] = json!(500_000.0);
        config
    }

    fn eagle1(&self, b: &mut Builder) -> Value {
        let p = self.layers(1);
        b.matrix("embed_tokens".into(), p.vocab, p.hidden);
        b.matrix("fc".into(), p.hidden, 2 * p.hidden);
        self.layer(b, "layers.0.", &p, p.hidden);
        self.llama(&p, "LlamaForCausalLM")
    }

    /// What EAGLE-3 and P-EAGLE have: the first layer and what is around it.
    fn wide_first(&self, b: &mut Builder, p: &Sizes, first: &str) {
        b.matrix("fc".into(), p.hidden, 3 * p.hidden);
        b.norms(first, &["input_layernorm", "hidden_norm"], p.hidden);
        self.layer(b, first, p, 2 * p.hidden);
        b.norm("norm".into(), p.hidden);
    }

    fn eagle3(&self, b: &mut Builder) -> Value {
        let (p, rows) = (self.layers(1), self.trimmed());
        self.wide_first(b, &p, "midlayer.");
        b.matrix("lm_head".into(), rows, p.hidden);
        b.add("d2t".into(), &[rows], Fill::Offsets { tokens: p.vocab });
        let mut config = self.llama(&p, "LlamaForCausalLMEagle3");
        config["draft_vocab_size"] = json!(rows);
        config
    }

    fn p_eagle(&self, b: &mut Builder) -> Value {
        let p = self.layers(4);
        self.wide_first(b, &p, "layers.0.");
        for i in 1..p.layers {
            let name = format!("layers.{i}.");
            b.norm(format!("{name}input_layernorm"), p.hidden);
            self.layer(b, &name, &p, p.hidden);
        }
        b.matrix("embed_tokens".into(), p.vocab, p.hidden);
        b.matrix("lm_head".into(), p.vocab, p.hidden);
        b.add("mask_hidden".into(), &[1, 1, 3 * p.hidden], Fill::Around { centre: 0.0, spread: 1.0 });
        let n = self.sizes.layers;
        json!({
            "architectures": ["PEagleDraftModel"],
            "speculators_model_type": "peagle",
            "draft_vocab_size": p.vocab,
            "eagle_aux_hidden_state_layer_ids": [2.min(n), n / 2, n.saturating_sub(3)],
            "mask_token_id": self.mask(),
            "norm_before_residual": false,
            "speculators_config": {"proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 7}]},
            "transformer_layer_config": self.llama(&p, "LlamaForCausalLM"),
        })
    }

    fn mistral_eagle(&self, b: &mut Builder) -> Value {
        let p = self.layers(2);
        for i in 0..p.layers {
            let name = format!("layers.{i}.");
            b.norm(format!("{name}input_layernorm"), p.hidden);
            self.layer(b, &name, &p, p.hidden);
        }
        for tensor in &mut b.tensors {
            for (ours, theirs) in [
                ("self_attn.q_proj", "attention.wq"),
                ("self_attn.k_proj", "attention.wk"),
                ("self_attn.v_proj", "attention.wv"),
                ("self_attn.o_proj", "attention.wo"),
                ("mlp.gate_proj", "feed_forward.w1"),
                ("mlp.down_proj", "feed_forward.w2"),
                ("mlp.up_proj", "feed_forward.w3"),
                ("input_layernorm", "attention_norm"),
                ("post_attention_layernorm", "ffn_norm"),
            ] {
                tensor.name = tensor.name.replace(ours, theirs);
            }
        }
        b.matrix("eagle_linear".into(), p.hidden, 2 * p.hidden);
        b.norm("norm".into(), p.hidden);
        json!({
            "dim": p.hidden,
            "n_layers": p.layers,
            "head_dim": p.head_dim,
            "hidden_dim": p.inner,
            "n_heads": p.heads,
            "n_kv_heads": p.kv_heads,
            "rope_theta": 1e6,
            "norm_eps": 1e-5,
            "vocab_size": p.vocab,
            "tied_embeddings": false,
            "max_position_embeddings": CONTEXT,
        })
    }

    fn fast_mtp(&self, b: &mut Builder) -> Value {
        let (p, rows) = (self.sizes, self.trimmed());
        b.offset = 1.0;
        qwen35_mtp(b, &p);
        b.matrix("mtp.lm_head".into(), rows, p.hidden);
        b.add("d2t".into(), &[rows], Fill::Offsets { tokens: p.vocab });
        self.target.config.clone()
    }

    fn assistant(&self, b: &mut Builder) -> Value {
        let (target, large) = (self.sizes, self.family == Family::Gemma4);
        let (hidden, inner) = if large { (1024, 8192) } else { (256, 2048) };
        // Half as many heads as the target has in the small one.
        let heads = if large { target.heads } else { (target.heads / 2).max(target.kv_heads) };
        let p = Sizes {
            hidden: self.scaled(hidden, 32),
            inner: self.scaled(inner, 32),
            layers: 4,
            heads,
            ..target
        };
        let full = gemma4_full(&p, large);
        b.matrix("pre_projection".into(), p.hidden, 2 * target.hidden);
        b.matrix("post_projection".into(), target.hidden, p.hidden);
        b.ends("model.", &p);
        for i in 0..p.layers {
            let layer = format!("model.layers.{i}.");
            let width = p.heads * if i + 1 == p.layers { full.head_dim } else { p.head_dim };
            b.norms(&layer, &GEMMA4_NORMS, p.hidden);
            b.matrix(format!("{layer}self_attn.q_proj"), width, p.hidden);
            b.matrix(format!("{layer}self_attn.o_proj"), p.hidden, width);
            b.norm(format!("{layer}self_attn.q_norm"), width / p.heads);
            b.mlp(&layer, &p);
            b.add(format!("{layer}layer_scalar"), &[1], Fill::Around { centre: 1.0, spread: 0.1 });
        }
        let clusters = p.vocab / CLUSTER;
        if !large {
            b.matrix("masked_embedding.centroids".into(), clusters, p.hidden);
            let order = Fill::Clusters { count: clusters };
            b.add("masked_embedding.token_ordering".into(), &[p.vocab], order);
        }
        let mut text = config(&p, "gemma4_text", "Gemma4ForCausalLM");
        gemma4_keys(&mut text, &full, (1..=p.layers).map(|i| i == p.layers));
        text["hidden_size_per_layer_input"] = json!(0);
        text["num_kv_shared_layers"] = json!(p.layers);
        json!({
            "architectures": ["Gemma4AssistantForCausalLM"],
            "model_type": "gemma4_assistant",
            "backbone_hidden_size": target.hidden,
            "use_ordered_embeddings": !large,
            "num_centroids": clusters,
            "centroid_intermediate_top_k": (clusters / CLUSTERS_PER_USED).max(1),
            "text_config": text,
            "tie_word_embeddings": true,
        })
    }

    /// A token that stands for those to come.
    fn mask(&self) -> usize {
        self.sizes.vocab - 4
    }

    /// Layers of a block drafter, and the keys that all of them share.
    fn block(&self, b: &mut Builder, class: &str, rows: usize) -> Value {
        let p = self.layers(BLOCK_LAYERS);
        b.matrix("fc".into(), p.hidden, BLOCK_TAPS * p.hidden);
        b.norms("", &["hidden_norm", "norm"], p.hidden);
        for i in 0..p.layers {
            let layer = format!("layers.{i}.");
            b.norms(&layer, &["input_layernorm", "post_attention_layernorm"], p.hidden);
            b.attention(&layer, &p, p.heads * p.head_dim, true);
            b.mlp(&layer, &p);
        }
        let n = self.sizes.layers;
        let spread = |i: usize| (1 + i * n.saturating_sub(4) / (BLOCK_TAPS - 1)).min(n - 1);
        let mut config = config(&p, "qwen3", class);
        config["rope_theta"] = json!(1e6);
        config["block_size"] = json!(rows);
        config["num_target_layers"] = json!(n);
        config["dflash_config"] = json!({
            "mask_token_id": self.mask(),
            "target_layer_ids": (0..BLOCK_TAPS).map(spread).collect::<Vec<_>>(),
        });
        config
    }

    fn dflash(&self, b: &mut Builder) -> Value {
        self.block(b, "DFlashDraftModel", 16)
    }

    fn dflash2(&self, b: &mut Builder) -> Value {
        let mut config = self.block(b, "DFlash2DraftModel", 16);
        let (hidden, rank) = (self.sizes.hidden, self.rank());
        for i in 0..BLOCK_LAYERS {
            for part in ["attention_conv", "mlp_conv"] {
                let name = format!("layers.{i}.{part}.");
                let fill = Fill::Around { centre: 0.5, spread: 0.5 };
                b.add(format!("{name}base_kernel"), &[2, 2, hidden], fill);
                b.matrix(format!("{name}kernel_projection"), 4 * hidden / CHANNELS, hidden);
            }
        }
        b.matrix("candidate_selector.hidden_projection".into(), rank, hidden);
        b.matrix("candidate_selector.predecessor_codebook".into(), self.sizes.vocab, rank);
        b.matrix("candidate_selector.successor_codebook".into(), self.sizes.vocab, rank);
        config["dflash_config"]["selector_top_k"] = json!(16);
        config
    }

    fn dspark(&self, b: &mut Builder) -> Value {
        let mut config = self.block(b, "Qwen3DSparkModel", 7);
        let (p, rank) = (self.sizes, self.rank());
        b.matrix("embed_tokens".into(), p.vocab, p.hidden);
        b.matrix("lm_head".into(), p.vocab, p.hidden);
        b.matrix("markov_head.markov_w1".into(), p.vocab, rank);
        b.matrix("markov_head.markov_w2".into(), p.vocab, rank);
        b.matrix("confidence_head.proj".into(), 1, p.hidden + rank);
        b.add("confidence_head.proj.bias".into(), &[1], Fill::Around { centre: 0.0, spread: 1.0 });
        // Keys stand by themselves there.
        if let Some(keys) = config["dflash_config"].take().as_object() {
            keys.iter().for_each(|(key, value)| config[key] = value.clone());
        }
        config["markov_rank"] = json!(rank);
        config["markov_head_type"] = json!("vanilla");
        config["enable_confidence_head"] = json!(true);
        config["confidence_head_with_markov"] = json!(true);
        config
    }

    fn dfly(&self, b: &mut Builder) -> Value {
        let config = self.block(b, "DFlyDraftModel", 8);
        let hidden = self.sizes.hidden;
        let shares = Fill::Around { centre: 0.0, spread: 1.0 };
        b.add("layer_fusion_weights".into(), &[BLOCK_LAYERS, BLOCK_TAPS], shares);
        let part = |name: &str| format!("hidden_correction.{name}");
        b.norm(part("hidden_norm"), hidden);
        b.norm(part("embed_norm"), hidden);
        b.matrix(part("gate_proj"), hidden, 2 * hidden);
        b.matrix(part("up_proj"), hidden, 2 * hidden);
        b.matrix(part("down_proj"), hidden, hidden);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::super::{plan, write};
    use super::*;
    use leveret_model::drafters::{self, DraftOptions};
    use leveret_model::{LoadOptions, Source};

    #[test]
    fn every_drafter_fits_its_target() {
        for family in Family::ALL {
            let dir = tempfile::tempdir().unwrap();
            let plan = plan(family, &"3m".parse().unwrap());
            write(&plan.target, &dir.path().join("target"), 1).unwrap();
            let target = Source::open(dir.path().join("target")).unwrap();
            let facts = target.target_facts(&LoadOptions::default()).unwrap();
            for drafter in Drafter::All.meant(family) {
                let path = dir.path().join(drafter.name());
                write(&plan.drafter(drafter).unwrap(), &path, 2).unwrap();
                let source = Source::open(&path).unwrap();
                let found = drafters::describe(&source, Some(&facts), &DraftOptions::default());
                let found = found.unwrap_or_else(|error| panic!("{family:?} {drafter:?}: {error}"));
                let expected = match drafter {
                    Drafter::Assistant => "gemma4-assistant".to_owned(),
                    Drafter::FastMtp => "mtp".to_owned(),
                    other => other.name().replace('_', "-"),
                };
                assert_eq!(found.family, expected, "{family:?}");
                assert_eq!(source.unused().next(), None, "{family:?} {drafter:?}");
            }
        }
        assert!(plan(Family::Llama, &"3m".parse().unwrap()).drafter(Drafter::Assistant).is_err());
    }
}
