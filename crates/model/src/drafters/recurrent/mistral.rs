//! Mistral's EAGLE: `params.json` and `consolidated.safetensors`. As EAGLE-1, but the first layer
//! keeps its norm, and a final norm makes the head's input and the next feature.

use super::{Design, Join, Names, Next, eagle1};
use crate::Tap;
use crate::arch::mistral::{from_gguf_draft, from_params};
use crate::config::Config;
use crate::config::gguf::GgufConfig;
use crate::drafters::fit::Claims;
use crate::drafters::kinds::{DraftOptions, Kind, Runner};
use crate::drafters::vocabulary::MapRule;
use crate::load::{Files, Source};
use crate::{Error, Result};

pub(in crate::drafters) const MISTRAL_EAGLE: Kind =
    Kind { family: "mistral-eagle", matches, runner: Runner::Recurrent(design) };

fn matches(source: &Source) -> bool {
    match source.files() {
        Files::Gguf(gguf) => {
            let name = gguf.meta().get::<&str>("general.architecture");
            matches!(name, Ok(Some(eagle1::GGUF))) && source.has("output_norm.weight")
        }
        Files::Folder(folder) => folder.raw("eagle_linear.weight").is_some(),
    }
}

fn design(source: &Source, target: Option<&Config>, options: &DraftOptions) -> Result<Design> {
    let (path, mut config) = match source.files() {
        Files::Gguf(gguf) => (source.path().into(), from_gguf_draft(&GgufConfig::new(gguf)?)?),
        Files::Folder(folder) => {
            let Some(params) = &folder.params else {
                return Err(Error::format(folder.path(), "holds no params.json"));
            };
            let path = folder.path().join("params.json");
            (path.clone(), from_params(&path, params)?)
        }
    };
    let gguf = matches!(source.files(), Files::Gguf(_));
    if let Some(target) = target {
        Claims::like(&config).check(&path, target, options)?;
        config.final_softcap = target.final_softcap;
    }
    let own = |name: &str| Some(name.to_owned()).filter(|_| source.has(&format!("{name}.weight")));
    Ok(Design {
        family: "mistral-eagle",
        dialect: if gguf { "gguf" } else { "consolidated" },
        layer_names: (0..config.layers.len()).map(|i| format!("{}{i}.", config.names.layer)).collect(),
        names: Names {
            fc: if gguf { "fc" } else { "eagle_linear" }.into(),
            final_norm: Some(config.names.final_norm.into()),
            embedding: own(config.names.embedding),
            head: own("output"),
            ..Names::default()
        },
        taps: vec![Tap::Final],
        feature: config.hidden,
        join: Join::Projected { hidden_first: false },
        next: Next::Normed,
        head_rows: config.vocab,
        map: MapRule::Offset,
        vocab: target.map_or(config.vocab, |target| target.vocab),
        slots: None,
        complete: true,
        config,
    })
}
