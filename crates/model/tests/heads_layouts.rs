//! Heads that guess token by token in layouts that no golden has.

mod common;

use common::checkpoint::{half_bytes, poison};
use common::heads::{Files, Tensors, first_scores, load, load_with, target, target_at};
use leveret_model::drafters::{self, DraftOptions};
use leveret_model::formats::Gguf;
use leveret_model::formats::gguf::{MetaValue, Writer};
use leveret_model::{ElementType, LoadOptions, Model, Source, Tap};
use safetensors::Dtype;
use serde_json::{Value, json};

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
    // The embedding is a feature of block drafters only.
    plain["target_layer_ids"] = json!([-1, 3, 5]);
    assert!(taps(&plain, &none).unwrap_err().contains("`target_layer_ids` is -1"));
    // A list of none names none.
    plain.as_object_mut().unwrap().remove("target_layer_ids");
    plain["eagle_aux_hidden_state_layer_ids"] = json!([]);
    assert_eq!(taps(&plain, &none), residual([2, layers / 2, layers - 3]));
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

/// A window that the layers' types name, unless Qwen's switch is off.
#[test]
fn windows_of_layers() {
    let mut model = target("eagle3");
    let (files, config, _) = Files::copy(&common::golden("eagle3/drafter-specforge"));
    let mut scores = |model_type: &str, kind: &str, switch: Value| {
        let mut config = config.clone();
        config["model_type"] = model_type.into();
        config["layer_types"] = json!([kind]);
        config["sliding_window"] = 3.into();
        config["use_sliding_window"] = switch;
        files.configure(&config);
        first_scores(&load(files.path(), &model).unwrap(), &mut model)
    };
    let full = scores("llama", "full_attention", Value::Null);
    let sliding = scores("llama", "sliding_attention", Value::Null);
    assert_ne!(full, sliding);
    assert_eq!(scores("qwen3", "sliding_attention", true.into()), sliding);
    assert_eq!(scores("qwen3", "sliding_attention", false.into()), full);
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
    let weights = half_bytes(&(0..head).map(|i| 1.0 + i as f32 / 16.0).collect::<Vec<_>>());
    for name in ["q_norm", "k_norm"] {
        let name = format!("layers.0.self_attn.{name}.weight");
        normed.insert(name, (Dtype::BF16, vec![head], weights.clone()));
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
    let normed = first_scores(&network, &mut model);
    assert!(normed != expected, "norms change queries");
    // Their weights are reordered with the rows.
    let written = common::as_gguf(files.path(), "eagle3/target", ElementType::BF16);
    assert!(first_scores(&load(&written, &model).unwrap(), &mut model) == normed);
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
    let written = common::as_gguf(files.path(), "mistral-eagle/target", ElementType::BF16);
    assert!(first_scores(&load(&written, &model).unwrap(), &mut model) == expected);
    small.remove("eagle_linear.qscale_weight");
    files.fill(&small);
    let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("has no scale"), "{error}");
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

/// The layer in a file of its own, beside the target's description, guesses as in the target's files.
#[test]
fn an_mtp_layer_without_its_trunk() {
    let mut model = target("qwen35");
    let (files, config, tensors) = Files::copy(&common::golden("qwen35/target"));
    let expected = first_scores(&load(files.path(), &model).unwrap(), &mut model);
    let alone: Tensors = tensors.into_iter().filter(|(name, _)| name.starts_with("mtp.")).collect();
    let cut = Files::new("config.json", "mtp.safetensors", &config, &alone);
    // The folder, the file in it, and the file beside the whole model.
    let beside = files.path().join("mtp.safetensors");
    std::fs::copy(cut.path().join("mtp.safetensors"), &beside).unwrap();
    for path in [cut.path(), &cut.path().join("mtp.safetensors"), &beside] {
        let network = load(path, &model).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((network.description().family, network.description().dialect), ("mtp", "qwen"));
        assert!(first_scores(&network, &mut model) == expected, "{}", path.display());
        let source = Source::open(path).unwrap();
        let error = source.config().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("no model that runs by itself") && error.contains("--drafter"), "{error}");
        assert!(Model::load(&source, &LoadOptions::default()).is_err());
    }

    // One block of a GGUF file.
    let whole = Gguf::open(common::as_gguf(files.path(), "qwen35/target", ElementType::BF16)).unwrap();
    let layers = model.config().layers.len();
    let mut writer = Writer::new();
    for (key, value) in whole.meta().iter() {
        writer.meta(key, MetaValue::copied(value).unwrap());
    }
    let block: Vec<_> = whole.tensors().filter(|t| t.name.starts_with(&format!("blk.{layers}."))).collect();
    let view = |name: &str| whole.tensor(name).unwrap().unwrap();
    for tensor in &block {
        writer.tensor(tensor.name, view(tensor.name).ty, tensor.shape).unwrap();
    }
    let file = cut.path().join("mtp.gguf");
    let mut body = writer.start(std::fs::File::create(&file).unwrap()).unwrap();
    block.iter().for_each(|tensor| body.tensor(tensor.name, view(tensor.name).bytes).unwrap());
    body.finish().unwrap();
    let network = load(&file, &model).unwrap_or_else(|error| panic!("{error}"));
    assert!(first_scores(&network, &mut model) == expected);
    assert!(Source::open(&file).unwrap().config().is_err());

    // Its tensors are looked at as those of other heads.
    for name in alone.keys() {
        let mut less = alone.clone();
        less.remove(name);
        cut.fill(&less);
        let error = load(cut.path(), &model).map(|_| ()).unwrap_err().to_string();
        let named = error.contains(name.trim_end_matches(".weight")) || error.contains("no drafter");
        assert!(named && !error.contains('\n'), "without {name}: {error}");
    }
    let mut wide = config.clone();
    wide["text_config"]["hidden_size"] = json!(16);
    cut.fill(&alone);
    cut.configure(&wide);
    assert!(load(cut.path(), &model).is_err());
    // Without a description it is what the target says, and without a target nothing is known of it.
    std::fs::remove_file(cut.path().join("config.json")).unwrap();
    let file = cut.path().join("mtp.safetensors");
    assert!(first_scores(&load(&file, &model).unwrap(), &mut model) == expected);
    let source = Source::open(file).unwrap();
    let error = drafters::describe(&source, None, &DraftOptions::default()).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("target"), "{error}");
}

/// Files of the layer that no index names, beside the trunk's, are taken as if the model held them.
#[test]
fn an_mtp_layer_beside_its_trunk() {
    let mut model = target("qwen35");
    let (files, config, tensors) = Files::copy(&common::golden("qwen35/target"));
    let expected = first_scores(&load(files.path(), &model).unwrap(), &mut model);
    let (layer, trunk): (Tensors, Tensors) =
        tensors.clone().into_iter().partition(|(name, _)| name.starts_with("mtp."));
    files.fill(&trunk);
    assert!(drafters::recognise(&Source::open(files.path()).unwrap()).is_none());
    let put = |name: &str, tensors: &Tensors| {
        let from = Files::new("config.json", "mtp.safetensors", &config, tensors);
        std::fs::copy(from.path().join("mtp.safetensors"), files.path().join(name)).unwrap();
    };
    for name in ["mtp.safetensors", "model-MTP.safetensors", "nextn_layer_parameters.safetensors"] {
        put(name, &layer);
        let network = load(files.path(), &model).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(first_scores(&network, &mut model) == expected, "{name}");
        target_at(files.path());
        let written = common::as_gguf(files.path(), "qwen35/target", ElementType::BF16);
        assert!(first_scores(&load(&written, &model).unwrap(), &mut model) == expected, "{name} as GGUF");
        std::fs::remove_file(files.path().join(name)).unwrap();
        std::fs::remove_file(written).unwrap();
    }
    // A file with tensors that the model has is another's, or a copy.
    put("mtp.safetensors", &tensors);
    assert!(drafters::recognise(&Source::open(files.path()).unwrap()).is_none());
}

/// Whether the layer has experts its tensors say, not the layer of the trunk that attends as it does.
#[test]
fn an_mtp_layer_with_experts_behind_dense_attending_layers() {
    let mut model = target("qwen35-moe");
    let (files, mut config, tensors) = Files::copy(&common::golden("qwen35-moe/target"));
    let expected = first_scores(&load(files.path(), &model).unwrap(), &mut model);
    let layers = model.config().layers.iter().enumerate();
    let attending: Vec<usize> = layers.filter(|(_, layer)| layer.delta.is_none()).map(|(i, _)| i).collect();
    config["text_config"]["mlp_only_layers"] = json!(attending);
    config["text_config"]["intermediate_size"] = json!(48);
    let alone: Tensors = tensors.into_iter().filter(|(name, _)| name.starts_with("mtp.")).collect();
    let cut = Files::new("config.json", "mtp.safetensors", &config, &alone);
    let network = load(cut.path(), &model).unwrap_or_else(|error| panic!("{error}"));
    assert!(first_scores(&network, &mut model) == expected);
}

/// A layer in a file of its own bears the number behind its trunk, or was numbered anew.
#[test]
fn a_deepseek_layer_without_its_trunk() {
    let mut model = target("qwen35");
    let layers = model.config().layers.len();
    let (files, mut config, tensors) = Files::copy(&common::golden("qwen35/target"));
    let expected = first_scores(&load(files.path(), &model).unwrap(), &mut model);
    let (_, renames) = MTP_LAYOUTS[0];
    let numbered = |number: usize| -> Tensors {
        let layer = tensors.iter().filter(|(name, _)| name.starts_with("mtp."));
        let renamed = layer.map(|(name, tensor)| {
            let found = renames.iter().find_map(|(from, to)| Some((to, name.strip_prefix(from)?)));
            let (to, rest) = found.unwrap();
            (format!("{}{rest}", to.replace(".8.", &format!(".{number}."))), tensor.clone())
        });
        renamed.collect()
    };
    for number in [layers, 0] {
        files.fill(&numbered(number));
        let network = load(files.path(), &model).unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(network.description().dialect, "deepseek");
        assert!(first_scores(&network, &mut model) == expected, "{number}");
        let error = Source::open(files.path()).unwrap().config().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("no model that runs by itself"), "{number}: {error}");
    }
    // Described alone.
    config["text_config"]["num_hidden_layers"] = json!(1);
    config["text_config"]["layer_types"] = json!(null);
    files.configure(&config);
    assert!(first_scores(&load(files.path(), &model).unwrap(), &mut model) == expected);
    // Of a deeper model.
    files.fill(&numbered(61));
    let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("61 layers"), "{error}");
}

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
        // As GGUF all are one, embedding first.
        let written = common::as_gguf(files.path(), "qwen35/target", ElementType::BF16);
        let network = load(&written, &model).unwrap();
        assert_eq!(network.description().dialect, "gguf");
        assert!(first_scores(&network, &mut model) == expected, "{dialect} as GGUF");
        std::fs::remove_file(written).unwrap();
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
    let written = common::as_gguf(files.path(), "qwen35/target", ElementType::BF16);
    assert!(first_scores(&load(&written, &model).unwrap(), &mut model) == wanted);
    // The target's own is not read then.
    let full = trimmed.get_mut("lm_head.weight").unwrap();
    poison(&mut full.2, full.1[1], &[]);
    files.fill(&trimmed);
    let network = load(files.path(), &target_at(files.path())).unwrap();
    assert!(first_scores(&network, &mut model) == wanted);

    // Of another target: one with more layers.
    config["text_config"]["num_hidden_layers"] = json!(4);
    config["text_config"]["layer_types"] = json!(null);
    files.configure(&config);
    let error = load(files.path(), &model).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("4 layers"), "{error}");
}
