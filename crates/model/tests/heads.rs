//! Heads that guess token by token, beyond their goldens: trees, long texts, files that do not fit
//! or lie, and layouts that no golden has.

mod common;

use leveret_model::drafters::{self, Branch, Committed, DraftOptions, Features, Guesser, Network};
use leveret_model::{LoadOptions, LogitRows, Model, Pass, Source, Tap, Target};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Type, shape and bytes of every tensor.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Case, folder of the drafter, and of the target's case.
const CASES: [(&str, &str, &str); 6] = [
    ("eagle3", "drafter-specforge", "eagle3"),
    ("eagle3-spec-nbr", "drafter-speculators", "eagle3"),
    ("eagle3-spec-3.1", "drafter-speculators", "eagle3"),
    ("eagle1", "drafter", "eagle1"),
    ("mistral-eagle", "drafter", "mistral-eagle"),
    ("p-eagle", "drafter-speculators", "eagle3"),
];

fn target(case: &str) -> Model {
    let source = Source::open(common::golden(case).join("target")).unwrap();
    Model::load(&source, &LoadOptions { threads: 1, ..LoadOptions::default() }).unwrap()
}

fn load_with(
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

fn load(path: impl AsRef<Path>, model: &Model) -> leveret_model::Result<Arc<dyn Network>> {
    load_with(path, model, &DraftOptions::default())
}

fn read_tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entry = |(name, view): (String, TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    file.tensors().into_iter().map(entry).collect()
}

/// A drafter's files in a folder of their own.
struct Files {
    dir: tempfile::TempDir,
    config_name: &'static str,
    weights_name: &'static str,
}

impl Files {
    fn new(config_name: &'static str, weights_name: &'static str, config: &Value, tensors: &Tensors) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap(), config_name, weights_name };
        files.configure(config);
        files.fill(tensors);
        files
    }

    /// A copy of a golden's drafter, with what it holds.
    fn copy(from: &Path) -> (Self, Value, Tensors) {
        let (config_name, weights_name) = match from.join("params.json").is_file() {
            true => ("params.json", "consolidated.safetensors"),
            false => ("config.json", "model.safetensors"),
        };
        let config = serde_json::from_slice(&std::fs::read(from.join(config_name)).unwrap()).unwrap();
        let tensors = read_tensors(&from.join(weights_name));
        (Self::new(config_name, weights_name, &config, &tensors), config, tensors)
    }

    fn configure(&self, config: &Value) {
        std::fs::write(self.dir.path().join(self.config_name), config.to_string()).unwrap();
    }

    fn fill(&self, tensors: &Tensors) {
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        serialize_to_file(views, None, &self.dir.path().join(self.weights_name)).unwrap();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A text and its features.
struct Text {
    tokens: Vec<u32>,
    taps: Vec<Tap>,
    values: Vec<Vec<Vec<f32>>>,
}

impl Features for Text {
    fn feature(&self, tap: Tap, row: usize) -> &[f32] {
        &self.values[self.taps.iter().position(|&t| t == tap).unwrap()][row]
    }
}

impl Text {
    fn new(model: &mut Model, len: usize, taps: &[Tap]) -> Self {
        let tokens: Vec<u32> = (0..len as u32).map(|i| (i * 53 + 7) % model.vocab_size() as u32).collect();
        let mut cache = model.new_cache(len).unwrap();
        let pass = Pass { cache: &mut cache, tokens: &tokens, parents: None, logits: LogitRows::None };
        model.forward(&mut [pass], taps).unwrap();
        let rows = |tap| (0..len).map(|row| model.feature(tap, row).to_vec()).collect();
        Self { values: (0..taps.len()).map(rows).collect(), taps: taps.to_vec(), tokens }
    }

    fn observe(&self, guesser: &mut dyn Guesser, first: usize, to: usize) -> leveret_model::Result<()> {
        let rows: Vec<usize> = (first..to).collect();
        guesser.observe(&Committed { tokens: &self.tokens, first, rows: &rows, features: self })
    }

    /// A guesser that has read the first `n` rows at once and begun.
    fn begun(&self, network: &Arc<dyn Network>, n: usize) -> Box<dyn Guesser> {
        let mut guesser = Arc::clone(network).guesser(self.tokens.len() + 20).unwrap();
        self.observe(&mut *guesser, 0, n).unwrap();
        guesser.begin(&self.tokens[..=n]).unwrap();
        guesser
    }
}

fn bits(guesser: &dyn Guesser, node: usize) -> Vec<u32> {
    guesser.scores(node).logits.iter().map(|x| x.to_bits()).collect()
}

/// The first scores of a drafter behind a short text.
fn first_scores(network: &Arc<dyn Network>, model: &mut Model) -> Vec<u32> {
    let text = Text::new(model, 12, &network.description().taps);
    let mut guesser = text.begun(network, 11);
    guesser.expand(&[Branch { parent: 0, token: 5 }]).unwrap();
    [bits(&*guesser, 0), bits(&*guesser, 1)].concat()
}

#[test]
fn a_tree_says_what_its_paths_say() {
    let branch = |(parent, token)| Branch { parent, token };
    for (case, drafter, of) in CASES {
        let mut model = target(of);
        let network = load(common::golden(case).join(drafter), &model).unwrap();
        // Longer than what is kept waiting for a draft.
        let text = Text::new(&mut model, 400, &network.description().taps);
        let mut tree = Arc::clone(&network).guesser(420).unwrap();
        let mut read = 0;
        for n in [1, 2, 9, 30, 256, 257, 258, 390] {
            text.observe(&mut *tree, read, n).unwrap();
            read = n;
            tree.begin(&text.tokens[..=n]).unwrap();
            tree.expand(&[(0, 3), (0, 9), (0, 17)].map(branch)).unwrap();
            // A child in the same call as its parent, too.
            tree.expand(&[(2, 40), (1, 5), (4, 6), (6, 7)].map(branch)).unwrap();
            let paths: [&[u32]; 8] = [&[], &[3], &[9], &[17], &[9, 40], &[3, 5], &[9, 40, 6], &[9, 40, 6, 7]];
            for (node, path) in paths.iter().enumerate() {
                let mut chain = text.begun(&network, n);
                for (parent, &token) in path.iter().enumerate() {
                    chain.expand(&[Branch { parent, token }]).unwrap();
                }
                assert!(bits(&*tree, node) == bits(&*chain, path.len()), "{case}: {n} rows, node {node}");
            }
            // The same draft opened again.
            let first = bits(&*tree, 0);
            tree.begin(&text.tokens[..=n]).unwrap();
            assert!(bits(&*tree, 0) == first, "{case}: {n} rows");
        }
    }
}

#[test]
fn what_cannot_be_drafted() {
    let mut model = target("eagle3");
    let network = load(common::golden("eagle3/drafter-specforge"), &model).unwrap();
    let text = Text::new(&mut model, 30, &network.description().taps);
    let mut guesser = Arc::clone(&network).guesser(12).unwrap();
    assert!(guesser.begin(&text.tokens[..1]).is_err());
    assert!(text.observe(&mut *guesser, 1, 5).unwrap_err().to_string().contains("expected 0"));
    text.observe(&mut *guesser, 0, 10).unwrap();
    assert!(guesser.begin(&text.tokens[..5]).is_err());
    guesser.begin(&text.tokens[..11]).unwrap();
    assert!(guesser.expand(&[Branch { parent: 1, token: 0 }]).is_err());
    assert!(guesser.expand(&[Branch { parent: 0, token: 384 }]).is_err());
    guesser.expand(&[Branch { parent: 0, token: 1 }, Branch { parent: 1, token: 1 }]).unwrap();
    assert!(guesser.expand(&[Branch { parent: 2, token: 1 }]).unwrap_err().to_string().contains("room"));
    // A refusal leaves the text's own scores.
    guesser.begin(&text.tokens[..11]).unwrap();
    guesser.expand(&[Branch { parent: 0, token: 1 }]).unwrap();

    let slots = load(common::golden("p-eagle/drafter-speculators"), &model).unwrap();
    let depth = slots.description().depth.unwrap();
    let mut guesser = text.begun(&slots, 20);
    for parent in 0..depth - 1 {
        guesser.expand(&[Branch { parent, token: 1 }]).unwrap();
    }
    assert!(guesser.expand(&[Branch { parent: depth - 1, token: 1 }]).is_err());
}

#[test]
fn every_tensor_is_needed_in_its_shape_and_no_other() {
    for (case, drafter, of) in CASES {
        let model = target(of);
        let (files, _, tensors) = Files::copy(&common::golden(case).join(drafter));
        load(files.path(), &model).unwrap();
        for name in tensors.keys() {
            let mut changed = tensors.clone();
            let taken = changed.remove(name).unwrap();
            files.fill(&changed);
            // Of the two maps one is enough; embedding and head can be the target's.
            let spare = ["t2d", "embed_tokens.weight", "fc.bias"].contains(&name.as_str())
                || (name == "lm_head.weight" && case == "p-eagle");
            match load(files.path(), &model) {
                Ok(_) => assert!(spare, "{case}: loads without {name}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        !spare && !text.contains('\n') && text.len() < 600,
                        "{case} without {name}: {text}"
                    );
                }
            }
            let (dtype, shape, bytes) = &taken;
            let half = shape.iter().product::<usize>() / 2 * dtype.bitsize() / 8;
            changed.insert(
                name.clone(),
                (*dtype, vec![shape.iter().product::<usize>() / 2], bytes[..half].into()),
            );
            files.fill(&changed);
            let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
            let named = error.contains(name.trim_end_matches(".weight")) || error.contains("no drafter");
            assert!(named, "{case}: {name} halved: {error}");
        }
        let mut more = tensors.clone();
        let (dtype, shape, bytes) = tensors.values().next().unwrap().clone();
        more.insert("layers.9.norm.weight".into(), (dtype, shape, bytes));
        files.fill(&more);
        let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`layers.9.norm.weight`"), "{error}");
        load_with(files.path(), &model, &DraftOptions { force: true, ..DraftOptions::default() }).unwrap();
    }
}

#[test]
fn maps_that_lie() {
    let model = target("eagle3");
    let (files, _, tensors) = Files::copy(&common::golden("eagle3/drafter-specforge"));
    let d2t: Vec<i64> = tensors["d2t"].2.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    let rows = d2t.len();
    let refuse = |map: Vec<i64>, why: &str| {
        let mut changed = tensors.clone();
        let bytes = map.iter().flat_map(|id| id.to_le_bytes()).collect();
        changed.insert("d2t".into(), (Dtype::I64, vec![map.len()], bytes));
        files.fill(&changed);
        let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refuse(vec![i64::MAX; rows], "outside the target's");
    refuse((0..rows as i64).map(|i| -i).collect(), "two rows to token 0");
    // Offsets of one drafter beside the membership of another.
    refuse(vec![1; rows], "disagree");
    refuse(d2t[1..].to_vec(), "one for each");
    // Both maps in each other's place.
    let mut changed = tensors.clone();
    let (a, b) = (tensors["d2t"].clone(), tensors["t2d"].clone());
    changed.insert("d2t".into(), b);
    changed.insert("t2d".into(), a);
    files.fill(&changed);
    assert!(load(files.path(), &model).is_err());
}

#[test]
fn drafters_for_other_targets() {
    let other = target("qwen3");
    for (case, drafter, of) in CASES {
        let path = common::golden(case).join(drafter);
        let model = target(of);
        let (files, config, _) = Files::copy(&path);
        if other.config().hidden != model.config().hidden {
            let error = load(&path, &other).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("another one") || error.contains("has the shape"), "{case}: {error}");
        }
        let mut changed = config.clone();
        let section = match changed.get("transformer_layer_config") {
            Some(_) => changed.get_mut("transformer_layer_config").unwrap(),
            None => &mut changed,
        };
        section["vocab_size"] = json!(999);
        files.configure(&changed);
        let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("999 tokens"), "{case}: {error}");
    }
}

#[test]
fn layers_are_counted_by_each_publishers_rule() {
    let model = target("eagle3");
    let (files, config, _) = Files::copy(&common::golden("eagle3/drafter-specforge"));
    let taps = |config: &Value, options: &DraftOptions| {
        files.configure(config);
        let network = load_with(files.path(), &model, options);
        network.map(|network| network.description().taps.clone()).map_err(|error| error.to_string())
    };
    let residual = |ks: [usize; 3]| Ok(ks.map(Tap::Residual).to_vec());
    let none = DraftOptions::default();
    let layers = model.config().layers.len();
    let mut plain = config.clone();
    plain.as_object_mut().unwrap().remove("eagle_config");
    assert_eq!(taps(&plain, &none), residual([2, layers / 2, layers - 3]));
    plain["eagle_aux_hidden_state_layer_ids"] = json!([1, 3, 5]);
    assert_eq!(taps(&plain, &none), residual([1, 3, 5]));
    plain.as_object_mut().unwrap().remove("eagle_aux_hidden_state_layer_ids");
    plain["target_layer_ids"] = json!([1, 3, 5]);
    assert_eq!(taps(&plain, &none), residual([2, 4, 6]));
    let mut nested = config;
    let ids = |ids: Value| json!({"eagle_aux_hidden_state_layer_ids": ids});
    nested["eagle_config"] = ids(json!([1, 3, 5]));
    assert_eq!(taps(&nested, &none), residual([2, 4, 6]));
    // One behind the last layer's output: they are inputs.
    nested["eagle_config"] = ids(json!([1, 3, layers]));
    assert_eq!(taps(&nested, &none), residual([1, 3, layers]));
    nested["eagle_config"] = ids(json!([1, 3, layers + 1]));
    assert!(taps(&nested, &none).unwrap_err().contains("deeper"));
    nested["eagle_config"] = ids(json!([1, 3]));
    assert!(taps(&nested, &none).unwrap_err().contains("`fc.weight`"));
    let chosen = DraftOptions { taps: Some(vec![0, 7, 3]), ..DraftOptions::default() };
    assert_eq!(taps(&nested, &chosen), residual([0, 7, 3]));
}

/// The same heads under NVIDIA's and DeepSpec's names, and with norms on queries and keys.
#[test]
fn further_layouts() {
    let mut model = target("eagle3");
    let (files, config, tensors) = Files::copy(&common::golden("eagle3/drafter-specforge"));
    let expected = first_scores(&load(files.path(), &model).unwrap(), &mut model);
    let renamed = |from: &str, to: &str| -> Tensors {
        tensors.iter().map(|(name, tensor)| (name.replace(from, to), tensor.clone())).collect()
    };
    for to in ["layers.0.", "model.layers.0."] {
        files.fill(&renamed("midlayer.", to));
        let network = load(files.path(), &model).unwrap();
        assert!(first_scores(&network, &mut model) == expected, "{to}");
    }
    let everything = |name: &str| {
        let inside = ["fc.", "norm.", "midlayer.", "lm_head."].iter().any(|part| name.starts_with(part));
        if inside { format!("model.{}", name.replace("midlayer.", "layers.0.")) } else { name.to_owned() }
    };
    files.fill(&tensors.iter().map(|(name, tensor)| (everything(name), tensor.clone())).collect());
    assert!(first_scores(&load(files.path(), &model).unwrap(), &mut model) == expected);

    let head = config["head_dim"].as_u64().unwrap() as usize;
    let mut normed = renamed("midlayer.", "layers.0.");
    let one = half_bytes(&vec![1.0; head]);
    for name in ["q_norm", "k_norm"] {
        let name = format!("layers.0.self_attn.{name}.weight");
        normed.insert(name, (Dtype::BF16, vec![head], one.clone()));
    }
    files.fill(&normed);
    let mut deepspec = config;
    deepspec["architectures"] = json!(["Qwen3Eagle3Model"]);
    deepspec["model_type"] = json!("qwen3");
    deepspec.as_object_mut().unwrap().remove("eagle_config");
    deepspec["target_layer_ids"] = json!([1, 3, 4]);
    files.configure(&deepspec);
    let network = load(files.path(), &model).unwrap();
    assert_eq!(network.description().dialect, "deepspec");
    assert!(first_scores(&network, &mut model) != expected, "norms of ones change queries");
}

fn half_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
}

/// Mistral's 8-bit floats stand for the same values in 16 bits.
#[test]
fn weights_of_8_bits() {
    let mut model = target("mistral-eagle");
    let (files, mut config, tensors) = Files::copy(&common::golden("mistral-eagle/drafter"));
    let (mut small, mut wide) = (tensors.clone(), tensors.clone());
    for (name, (_, shape, bytes)) in tensors.iter().filter(|(_, (_, shape, _))| shape.len() == 2) {
        // A code for each number, whatever it was, with exponents from 2^-5 to 1.
        let codes: Vec<u8> = bytes.as_chunks::<2>().0.iter().map(|b| (b[1] & 0x80) | (b[0] % 56)).collect();
        let value = |code: u8| {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
            let size = if exponent == 0 {
                mantissa * 2f32.powi(-6)
            } else {
                (1.0 + mantissa) * 2f32.powi(exponent - 7)
            };
            0.25 * if code & 0x80 != 0 { -size } else { size }
        };
        let values: Vec<f32> = codes.iter().map(|&code| value(code)).collect();
        wide.insert(name.clone(), (Dtype::BF16, shape.clone(), half_bytes(&values)));
        small.insert(name.clone(), (Dtype::F8_E4M3, shape.clone(), codes));
        let base = name.strip_suffix(".weight").unwrap();
        for scale in ["qscale_weight", "qscale_act"] {
            small.insert(format!("{base}.{scale}"), (Dtype::F32, vec![], 0.25f32.to_le_bytes().to_vec()));
        }
    }
    files.fill(&wide);
    let expected = first_scores(&load(files.path(), &model).unwrap(), &mut model);
    config["quantization"] = json!({"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"});
    config["sliding_window"] = json!([null, 4096]);
    files.configure(&config);
    files.fill(&small);
    assert!(first_scores(&load(files.path(), &model).unwrap(), &mut model) == expected);
    small.remove("eagle_linear.qscale_weight");
    files.fill(&small);
    let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("has no scale"), "{error}");
}

/// Loads and drafts once.
fn try_out(path: PathBuf, model: &mut Model) -> leveret_model::Result<()> {
    let network = load(path, model)?;
    let text = Text::new(model, 12, &network.description().taps);
    let mut guesser = network.guesser(16)?;
    text.observe(&mut *guesser, 0, 11)?;
    guesser.begin(&text.tokens)?;
    guesser.expand(&[Branch { parent: 0, token: 1 }])
}

#[test]
fn configurations_with_any_key_changed() {
    let strange = [
        json!(0),
        json!(3),
        json!(-1),
        json!(7.5),
        json!(u64::MAX),
        json!("?"),
        json!(null),
        json!([]),
        json!([u64::MAX, 0, 1]),
        json!({}),
        json!(true),
    ];
    let (mut refused, mut ran) = (0, 0);
    for (case, drafter, of) in CASES {
        let mut model = target(of);
        let (files, config, _) = Files::copy(&common::golden(case).join(drafter));
        let mut places: Vec<String> =
            config.as_object().unwrap().keys().map(|key| format!("/{key}")).collect();
        for section in ["transformer_layer_config", "eagle_config"] {
            let keys = config.get(section).and_then(Value::as_object);
            places.extend(keys.into_iter().flatten().map(|(key, _)| format!("/{section}/{key}")));
        }
        if case.starts_with("eagle3-") && case != "eagle3-spec-3.1" {
            continue;
        }
        for place in &places {
            for value in &strange {
                let mut changed = config.clone();
                *changed.pointer_mut(place).unwrap() = value.clone();
                files.configure(&changed);
                match try_out(files.path().into(), &mut model) {
                    Ok(()) => ran += 1,
                    Err(error) => {
                        let text = error.to_string();
                        assert!(!text.contains('\n') && text.len() < 600, "{case} {place} = {value}: {text}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 100 && ran > 100, "{refused} refused, {ran} ran");
}

/// One MTP layer as its publishers name it: what stands before each part of the names that Qwen uses.
const MTP_LAYOUTS: [(&str, [(&str, &str); 5]); 3] = [
    (
        "deepseek",
        [
            ("mtp.layers.0.", "model.layers.8."),
            ("mtp.fc.", "model.layers.8.eh_proj."),
            ("mtp.pre_fc_norm_embedding.", "model.layers.8.enorm."),
            ("mtp.pre_fc_norm_hidden.", "model.layers.8.hnorm."),
            ("mtp.norm.", "model.layers.8.shared_head.norm."),
        ],
    ),
    (
        "mimo",
        [
            ("mtp.layers.0.", "model.mtp_layers.0."),
            ("mtp.fc.", "model.mtp_layers.0.input_proj."),
            ("mtp.pre_fc_norm_embedding.", "model.mtp_layers.0.token_layernorm."),
            ("mtp.pre_fc_norm_hidden.", "model.mtp_layers.0.hidden_layernorm."),
            ("mtp.norm.", "model.mtp_layers.0.final_layernorm."),
        ],
    ),
    (
        "speculators",
        [
            ("mtp.layers.0.", "mtp_layers.0."),
            ("mtp.fc.", "mtp_layers.0.input_proj."),
            ("mtp.pre_fc_norm_embedding.", "mtp_layers.0.token_layernorm."),
            ("mtp.pre_fc_norm_hidden.", "mtp_layers.0.hidden_layernorm."),
            ("mtp.norm.", "mtp_layers.0.final_layernorm."),
        ],
    ),
];

#[test]
fn an_mtp_layer_under_other_names() {
    let mut model = target("qwen35");
    let (files, mut config, tensors) = Files::copy(&common::golden("qwen35/target"));
    let layers = model.config().layers.len();
    let network = load(files.path(), &model).unwrap();
    assert_eq!((network.description().family, network.description().dialect), ("mtp", "qwen"));
    let expected = first_scores(&network, &mut model);
    for (dialect, renames) in MTP_LAYOUTS {
        let mut renamed = Tensors::new();
        for (name, tensor) in &tensors {
            let (mut name, mut tensor) = (name.clone(), tensor.clone());
            for (from, to) in renames {
                if let Some(rest) = name.strip_prefix(from) {
                    name = format!("{}{rest}", to.replace(".8.", &format!(".{layers}.")));
                    break;
                }
            }
            if name == "model.mtp_layers.0.input_proj.weight" {
                // The halves of each row in the other order.
                let row = tensor.1[1] * 2;
                let rows = tensor.2.chunks_exact(row).flat_map(|r| [&r[row / 2..], &r[..row / 2]].concat());
                tensor.2 = rows.collect();
            }
            renamed.insert(name, tensor);
        }
        files.fill(&renamed);
        let network = load(files.path(), &model).unwrap();
        assert_eq!(network.description().dialect, dialect);
        // In the other order sums are rounded otherwise.
        let near = |(&a, &b): (&u32, &u32)| (f32::from_bits(a) - f32::from_bits(b)).abs() < 1e-2;
        let found = first_scores(&network, &mut model);
        let same = if dialect == "mimo" { found.iter().zip(&expected).all(near) } else { found == expected };
        assert!(same, "{dialect}");
    }

    // A head for every third token only.
    let (dtype, shape, bytes) = &tensors["lm_head.weight"];
    let (vocab, row) = (shape[0], shape[1] * 2);
    let kept: Vec<usize> = (0..vocab).step_by(3).collect();
    let mut trimmed = tensors.clone();
    let rows = kept.iter().flat_map(|&token| bytes[token * row..][..row].to_vec()).collect();
    trimmed.insert("mtp.lm_head.weight".into(), (*dtype, vec![kept.len(), shape[1]], rows));
    let offsets = kept.iter().enumerate().flat_map(|(i, &token)| ((token - i) as i64).to_le_bytes());
    trimmed.insert("d2t".into(), (Dtype::I64, vec![kept.len()], offsets.collect()));
    files.fill(&trimmed);
    let network = load(files.path(), &model).unwrap();
    assert_eq!(network.description().vocab, kept.len());
    let found = first_scores(&network, &mut model);
    let wanted: Vec<u32> =
        expected.chunks_exact(vocab).flat_map(|row| kept.iter().map(|&token| row[token])).collect();
    assert!(found == wanted);

    // Of another target: one with more layers.
    config["text_config"]["num_hidden_layers"] = json!(4);
    config["text_config"]["layer_types"] = json!(null);
    files.configure(&config);
    let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("4 layers"), "{error}");
}
