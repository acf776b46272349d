//! EAGLE-1 and 2: embedding and the target's last hidden state are projected to one, and a Llama
//! layer without a norm in front makes the next such state of it, which is the input of the target's
//! head too.

use super::{Design, Join, Names, Next};
use crate::Tap;
use crate::config::hf::HfConfig;
use crate::config::{AttentionInput, Config, Presence};
use crate::drafters::fit::Claims;
use crate::drafters::kinds::{DraftOptions, Kind, Runner};
use crate::drafters::vocabulary::MapRule;
use crate::load::{Files, Source};
use crate::{Error, Result};

pub(in crate::drafters) const EAGLE1: Kind =
    Kind { family: "eagle1", matches, runner: Runner::Recurrent(design) };

/// A projection and layers, and none of the norms that other drafters with these names have.
fn matches(source: &Source) -> bool {
    let Files::Folder(folder) = source.files() else { return false };
    let has = |name: &str| folder.raw(name).is_some();
    has("fc.weight")
        && has("layers.0.self_attn.q_proj.weight")
        && !["hidden_norm.weight", "norm.weight", "layers.0.hidden_norm.weight"].into_iter().any(has)
}

fn design(source: &Source, target: Option<&Config>, options: &DraftOptions) -> Result<Design> {
    let Files::Folder(folder) = source.files() else {
        return Err(Error::unsupported(source.path(), "EAGLE-1 comes in folders only"));
    };
    let path = folder.path().join("config.json");
    let Some(root) = &folder.config else {
        return Err(Error::format(folder.path(), "holds no config.json"));
    };
    let mut config = HfConfig::new(&path, root)?.decoder("eagle1", false)?;
    if let Some(target) = target {
        let claims = Claims { hidden: Some(config.hidden), vocab: Some(config.vocab), layers: None };
        claims.check(&path, target, options)?;
        config.final_softcap = target.final_softcap;
    }
    for layer in &mut config.layers {
        layer.attention.qkv_bias = Presence::IfPresent;
        layer.attention.out_bias = Presence::IfPresent;
        layer.mlp.bias = Presence::IfPresent;
    }
    config.layers[0].attention.input = AttentionInput::Given { width: config.hidden };
    config.check(&path)?;
    let embedding = Some("embed_tokens".to_owned()).filter(|_| source.has("embed_tokens.weight"));
    Ok(Design {
        family: "eagle1",
        dialect: "safeailab",
        layer_names: (0..config.layers.len()).map(|i| format!("layers.{i}.")).collect(),
        names: Names { fc: "fc".into(), embedding, ..Names::default() },
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
    })
}
