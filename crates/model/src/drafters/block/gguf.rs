//! GGUF files of block drafters, as llama.cpp's converter writes them, and with the keys of
//! docs/gguf.md for what it has none for.

use super::MapRule;
use super::config::{BlockConfig, BlockNames};
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::{Activation, Config};
use crate::formats::Gguf;
use crate::{Error, Result};

/// Which family a file is of: they share one architecture.
pub(super) fn family(gguf: &Gguf) -> Option<&'static str> {
    let keys = GgufConfig::new(gguf).ok().filter(|keys| keys.architecture() == "dflash")?;
    let names = BlockNames::GGUF;
    let has = |name: &str| keys.has_tensor(&format!("{name}.weight"));
    Some(match () {
        () if has(&format!("{}.gate_proj", names.correction)) => "dfly",
        () if has(names.markov_in) => "dspark",
        () if has(names.selector) => "dflash2",
        () => "dflash",
    })
}

pub(super) fn read(gguf: &Gguf, target: Option<&Config>) -> Result<BlockConfig> {
    let keys = GgufConfig::new(gguf)?;
    let family = family(gguf).unwrap_or("dflash");
    let names = BlockNames::GGUF;
    let facts = GgufFamily {
        name: "dflash",
        activation: Activation::SwiGlu,
        interleaved: false,
        yarn_truncate: true,
    };
    let mut layers = keys.decoder_of(facts, target.map_or(1, |t| t.vocab))?;
    let count = layers.layers.len();
    let window = keys.get("attention.sliding_window")?.filter(|&window: &usize| window > 0);
    let sliding = match window {
        Some(_) => keys.sliding_layers(count, 0)?,
        None => vec![false; count],
    };
    for (i, layer) in layers.layers.iter_mut().enumerate() {
        layer.attention.window = window.filter(|_| sliding[i]);
        layer.attention.qk_norm = keys.has_tensor(&format!("blk.{i}.{}.weight", names.layers.q_norm));
    }
    let causal = match keys.per_layer("attention.causal", count)? {
        Some(causal) => causal,
        None => sliding.iter().map(|&sliding| causal_where_unsaid(family, sliding)).collect(),
    };
    let mask: Option<u32> = match keys.get("mask_token_id")? {
        Some(mask) => Some(mask),
        None => gguf.meta().get("tokenizer.ggml.mask_token_id")?,
    };
    let Some(mask) = mask else {
        let what = "metadata `tokenizer.ggml.mask_token_id` is missing: a block drafter needs a mask token";
        return Err(Error::format(keys.path(), what));
    };
    Ok(BlockConfig {
        family,
        dialect: "gguf",
        ids: keys.require("target_layers")?,
        taps: Vec::new(),
        target_layers: keys.get("target_block_count")?,
        rows: keys.require("block_size")?,
        anchor_guesses: keys.get("sample_from_anchor")?.unwrap_or(false),
        causal,
        mask,
        embedding_scale: [keys.get("embedding_scale")?.unwrap_or(1.0); 2],
        logit_scale: keys.get("logit_scale")?.unwrap_or(1.0),
        softcap: layers.final_softcap,
        candidates: keys.get("selector_top_k")?.unwrap_or(CANDIDATES),
        map_rule: MapRule::Token,
        names,
        layers,
    })
}

/// Whether rows of a block see only those before them in a layer, where a file has no key for it.
pub(crate) fn causal_where_unsaid(family: &str, sliding: bool) -> bool {
    sliding && family != "dspark"
}

/// Candidates of a selector where nothing is said.
pub(super) const CANDIDATES: usize = 16;
