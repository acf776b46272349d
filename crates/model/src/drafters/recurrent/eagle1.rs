//! EAGLE-1 and 2: embedding and the target's last hidden state are projected to one, and a Llama
//! layer without a norm in front makes the next such state of it, which is the input of the target's
//! head too.

use super::{Design, Join, Names, Next};
use crate::Tap;
use crate::config::gguf::{GgufConfig, GgufFamily};
use crate::config::hf::HfConfig;
use crate::config::{Activation, AttentionInput, Config, Presence};
use crate::drafters::fit::Claims;
use crate::drafters::kinds::{DraftOptions, Kind, Runner};
use crate::drafters::vocabulary::MapRule;
use crate::formats::Gguf;
use crate::load::{Files, Source};
use crate::{Error, Result};

pub(in crate::drafters) const EAGLE1: Kind =
    Kind { family: "eagle1", matches, runner: Runner::Recurrent(design) };

/// The architecture of GGUF files of EAGLE-1 and its relatives: docs/gguf.md.
pub(super) const GGUF: &str = "eagle";

/// What a publisher calls the projection and what stands before the names of the first layer.
struct Layout {
    dialect: &'static str,
    fc: &'static str,
    layer: &'static str,
}

const LAYOUTS: [Layout; 2] = [
    Layout { dialect: "safeailab", fc: "fc", layer: "layers.0." },
    // Its layer has no number.
    Layout { dialect: "speculators", fc: "fusion_fc", layer: "transformer." },
];

/// A projection and layers, and none of the norms that other drafters with these names have.
fn matches(source: &Source) -> bool {
    match source.files() {
        Files::Gguf(gguf) => {
            let name = gguf.meta().get::<&str>("general.architecture");
            matches!(name, Ok(Some(GGUF))) && !source.has("output_norm.weight")
        }
        Files::Folder(_) => find(source).is_some(),
    }
}

fn find(source: &Source) -> Option<&'static Layout> {
    const NORMS: [&str; 4] =
        ["hidden_norm.weight", "norm.weight", "layers.0.hidden_norm.weight", "embedding_layernorm.weight"];
    let layout = const { &LAYOUTS }.iter().find(|layout| {
        source.has(&format!("{}.weight", layout.fc))
            && source.has(&format!("{}self_attn.q_proj.weight", layout.layer))
    });
    layout.filter(|_| !NORMS.into_iter().any(|name| source.has(name)))
}

fn design(source: &Source, target: Option<&Config>, options: &DraftOptions) -> Result<Design> {
    let folder = match source.files() {
        Files::Gguf(gguf) => return from_gguf(source, gguf, target, options),
        Files::Folder(folder) => folder,
    };
    let path = folder.path().join("config.json");
    let Some(root) = &folder.config else {
        return Err(Error::format(folder.path(), "holds no config.json"));
    };
    let layout = find(source).unwrap_or(&LAYOUTS[0]);
    let described = root.get("transformer_layer_config").unwrap_or(root);
    let mut config = HfConfig::new(&path, described)?.decoder("eagle1", false)?;
    if layout.dialect == "speculators" && config.layers.len() != 1 {
        return Err(Error::unsupported(&path, "more than one layer under the names of speculators' EAGLE"));
    }
    if let Some(target) = target {
        Claims::like(&config).check(&path, target, options)?;
        config.final_softcap = target.final_softcap;
    }
    for layer in &mut config.layers {
        layer.attention.qkv_bias = Presence::IfPresent;
        layer.attention.out_bias = Presence::IfPresent;
        layer.mlp.bias = Presence::IfPresent;
    }
    config.check(&path)?;
    let embedding = Some("embed_tokens".to_owned()).filter(|_| source.has("embed_tokens.weight"));
    let layer_names = (0..config.layers.len()).map(|i| match layout.layer.strip_suffix("0.") {
        Some(base) => format!("{base}{i}."),
        None => layout.layer.to_owned(),
    });
    let layer_names = layer_names.collect();
    let names = Names { fc: layout.fc.into(), embedding, ..Names::default() };
    Ok(compose(layout.dialect, config, layer_names, names, target))
}

/// Metadata as of a Llama decoder.
fn from_gguf(
    source: &Source,
    gguf: &Gguf,
    target: Option<&Config>,
    options: &DraftOptions,
) -> Result<Design> {
    let keys = GgufConfig::new(gguf)?;
    let family =
        GgufFamily { name: "eagle1", activation: Activation::SwiGlu, interleaved: true, yarn_truncate: true };
    let mut config = keys.decoder_of(family, keys.require("vocab_size")?)?;
    if let Some(target) = target {
        Claims::like(&config).check(keys.path(), target, options)?;
        config.final_softcap = target.final_softcap;
    }
    config.check(keys.path())?;
    let embedding = Some("token_embd".to_owned()).filter(|_| source.has("token_embd.weight"));
    let layer_names = (0..config.layers.len()).map(|i| format!("blk.{i}.")).collect();
    let names = Names { fc: "fc".into(), embedding, ..Names::default() };
    Ok(compose("gguf", config, layer_names, names, target))
}

fn compose(
    dialect: &'static str,
    mut config: Config,
    layer_names: Vec<String>,
    names: Names,
    target: Option<&Config>,
) -> Design {
    config.layers[0].attention.input = AttentionInput::Given { width: config.hidden };
    Design {
        family: "eagle1",
        dialect,
        layer_names,
        names,
        taps: vec![Tap::Final],
        feature: config.hidden,
        join: Join::Projected { hidden_first: false },
        next: Next::Residual,
        head_rows: config.vocab,
        map: MapRule::Offset,
        vocab: target.map_or(config.vocab, |target| target.vocab),
        slots: None,
        complete: true,
        config,
    }
}
