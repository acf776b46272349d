//! Heads that guess token by token: the goldens' files, loaded and changed.

use super::checkpoint;
use super::golden;
use super::text::Text;
use leveret_model::drafters::{self, Branch, DraftOptions, Guesser, Network};
use leveret_model::{LoadOptions, Model, Source};
use safetensors::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Type, shape and bytes of every tensor.
pub(crate) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Case, folder of the drafter, and of the target's case.
pub(crate) const CASES: [(&str, &str, &str); 6] = [
    ("eagle3", "drafter-specforge", "eagle3"),
    ("eagle3-spec-nbr", "drafter-speculators", "eagle3"),
    ("eagle3-spec-3.1", "drafter-speculators", "eagle3"),
    ("eagle1", "drafter", "eagle1"),
    ("mistral-eagle", "drafter", "mistral-eagle"),
    ("p-eagle", "drafter-speculators", "eagle3"),
];

pub(crate) fn target(case: &str) -> Model {
    target_at(&golden(case).join("target"))
}

pub(crate) fn target_at(path: &Path) -> Model {
    let source = Source::open(path).unwrap();
    Model::load(&source, &LoadOptions { threads: 1, ..LoadOptions::default() }).unwrap()
}

pub(crate) fn load_with(
    path: impl AsRef<Path>,
    model: &Model,
    options: &DraftOptions,
) -> leveret_model::Result<Arc<dyn Network>> {
    let source = Source::open(path)?;
    let described = drafters::describe(&source, Some(&model.parts().facts()), options);
    let network = drafters::load(&source, &model.parts(), options);
    match (&described, &network) {
        (Ok(described), Ok(network)) => assert_eq!(described, network.description()),
        (Err(described), Err(error)) => assert_eq!(described.to_string(), error.to_string()),
        _ => panic!("described {described:?}, loaded {network:?}"),
    }
    network
}

pub(crate) fn load(path: impl AsRef<Path>, model: &Model) -> leveret_model::Result<Arc<dyn Network>> {
    load_with(path, model, &DraftOptions::default())
}

fn read_tensors(path: &Path) -> Tensors {
    let entry = |(name, ty, shape, bytes): (String, Dtype, _, _)| (name, (ty, shape, bytes));
    checkpoint::read_tensors(path).into_iter().map(entry).collect()
}

/// A drafter's files in a folder of their own.
pub(crate) struct Files {
    dir: tempfile::TempDir,
    config_name: &'static str,
    weights_name: &'static str,
}

impl Files {
    pub(crate) fn new(
        config_name: &'static str,
        weights_name: &'static str,
        config: &Value,
        tensors: &Tensors,
    ) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap(), config_name, weights_name };
        files.configure(config);
        files.fill(tensors);
        files
    }

    /// A copy of a golden's drafter, with what it holds.
    pub(crate) fn copy(from: &Path) -> (Self, Value, Tensors) {
        let (config_name, weights_name) = match from.join("params.json").is_file() {
            true => ("params.json", "consolidated.safetensors"),
            false => ("config.json", "model.safetensors"),
        };
        let config = serde_json::from_slice(&std::fs::read(from.join(config_name)).unwrap()).unwrap();
        let tensors = read_tensors(&from.join(weights_name));
        (Self::new(config_name, weights_name, &config, &tensors), config, tensors)
    }

    pub(crate) fn configure(&self, config: &Value) {
        std::fs::write(self.dir.path().join(self.config_name), config.to_string()).unwrap();
    }

    pub(crate) fn fill(&self, tensors: &Tensors) {
        let tensors =
            tensors.iter().map(|(name, (ty, shape, bytes))| (name.as_str(), *ty, &shape[..], &bytes[..]));
        checkpoint::write_tensors(&self.dir.path().join(self.weights_name), tensors);
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

pub(crate) fn bits(guesser: &dyn Guesser, node: usize) -> Vec<u32> {
    guesser.scores(node).logits.iter().map(|x| x.to_bits()).collect()
}

/// The first scores of a drafter behind a short text.
pub(crate) fn first_scores(network: &Arc<dyn Network>, model: &mut Model) -> Vec<u32> {
    let text = Text::new(model, 12, &network.description().taps);
    let mut guesser = text.begun(network, 11);
    guesser.expand(&[Branch { parent: 0, token: 5 }]).unwrap();
    [bits(&*guesser, 0), bits(&*guesser, 1)].concat()
}
