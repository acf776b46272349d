//! Reading a Hugging Face `config.json`: typed keys with errors that name them, the sizes all
//! families share, and the position rotation in its old (`rope_scaling`, `rope_theta`) and new
//! (`rope_parameters`) spelling.

use super::defaults;
use super::rope::yarn_magnitude;
use super::{
    Activation, AttentionConfig, AttentionInput, Config, Head, KvSource, LayerConfig, MlpConfig, Presence,
};
use super::{RopeScaling, Rotation, TensorNames};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Keys of one configuration; multimodal wrappers keep the text model's in `text_config`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HfConfig<'a> {
    path: &'a Path,
    /// Searched first: the rope section, while that is being read.
    section: Option<&'a Map<String, Value>>,
    text: &'a Map<String, Value>,
    outer: &'a Map<String, Value>,
    /// Whose [`defaults`] hold for keys that stand nowhere.
    model_type: &'a str,
}

/// A key that must be there is not.
pub(crate) fn missing(path: &Path, key: &str) -> Error {
    Error::format(path, format!("key `{key}` is missing"))
}

/// A key holds something else than it should.
pub(crate) fn wrong(path: &Path, key: &str, found: &Value, expected: &str) -> Error {
    let mut found = found.to_string();
    found.truncate(found.floor_char_boundary(60));
    Error::format(path, format!("key `{key}` is {found}, expected {expected}"))
}

impl<'a> HfConfig<'a> {
    pub(crate) fn new(path: &'a Path, root: &'a Value) -> Result<Self> {
        let Some(outer) = root.as_object() else {
            return Err(Error::format(path, "expected a JSON object"));
        };
        let text = outer.get("text_config").and_then(Value::as_object).unwrap_or(outer);
        let model_type = text.get("model_type").and_then(Value::as_str).unwrap_or_default();
        Ok(Self { path, section: None, text, outer, model_type })
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// The same keys, where those of section `key` count first.
    pub(crate) fn searched_first(self, key: &str) -> Self {
        Self { section: self.get(key).and_then(Value::as_object), ..self }
    }

    /// `model_type` of the text model.
    pub(crate) fn model_type(&self) -> Result<&'a str> {
        self.text("model_type").ok_or_else(|| self.missing("model_type"))
    }

    /// Whether the text model is of this `model_type`.
    pub(crate) fn is(&self, model_type: &str) -> bool {
        self.model_type == model_type
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.given(key).or_else(|| {
            // What is null in the file is meant to be absent.
            let silent = !self.text.contains_key(key) && !self.outer.contains_key(key);
            let wrapped = !std::ptr::eq(self.text, self.outer);
            silent.then(|| defaults::of(self.model_type, wrapped, key)).flatten()
        })
    }

    /// What the file itself says.
    fn given(&self, key: &str) -> Option<&'a Value> {
        let places = [self.section, Some(self.text), Some(self.outer)];
        places.into_iter().flatten().filter_map(|keys| keys.get(key)).find(|v| !v.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn missing(&self, key: &str) -> Error {
        missing(self.path, key)
    }

    fn wrong(&self, key: &str, found: &Value, expected: &str) -> Error {
        wrong(self.path, key, found, expected)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|v| {
                v.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(|| self.wrong(key, v, "a whole number"))
            })
            .transpose()
    }

    pub(crate) fn need_count(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| self.wrong(key, v, "a number"))).transpose()
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.wrong(key, v, "true or false"))).transpose()
    }

    /// A list of whole numbers, empty if the key is absent.
    pub(crate) fn counts(&self, key: &str) -> Result<Vec<usize>> {
        let count = |v: &Value| {
            v.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(|| self.wrong(key, v, "whole numbers"))
        };
        self.list(key)?.unwrap_or_default().iter().map(count).collect()
    }

    /// A list of layers by the number of those that have run when each is done, empty if the key is absent; -1 is the
    /// embedding, before any.
    pub(crate) fn layers_done(&self, key: &str) -> Result<Vec<usize>> {
        let done = |v: &Value| {
            let done = v.as_i64().and_then(|layer| layer.checked_add(1)?.try_into().ok());
            done.ok_or_else(|| self.wrong(key, v, "layers, or -1 for the embedding"))
        };
        self.list(key)?.unwrap_or_default().iter().map(done).collect()
    }

    /// A number in the rope section that is not about rotation.
    pub(crate) fn rope_number(&self, key: &str) -> Result<Option<f64>> {
        Self { section: self.rope_section(None), ..*self }.number(key)
    }

    /// The keys under `{key}.{entry}`, on their own; absent if there is no such entry.
    pub(crate) fn section(&self, key: &str, entry: &str) -> Result<Option<Self>> {
        let Some(map) = self.get(key) else { return Ok(None) };
        let Some(map) = map.as_object() else { return Err(self.wrong(key, map, "an object")) };
        match map.get(entry) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(section)) => Ok(Some(Self {
                path: self.path,
                section: None,
                text: section,
                outer: section,
                model_type: "",
            })),
            Some(other) => Err(self.wrong(&format!("{key}.{entry}"), other, "an object")),
        }
    }

    fn list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        let list = |v: &'a Value| v.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(key, v, "a list"));
        self.get(key).map(list).transpose()
    }

    /// For each of `layers` whether it has the sliding window, from `layer_types`; absent if the key is.
    pub(crate) fn sliding_layers(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        self.layers_of_type("sliding_attention", layers)
    }

    /// Whether windows that a drafter's configuration names hold: Qwen has a switch for them, off where it is
    /// missing. Its relatives among the targets (MiMo) mean the same as Qwen and are read by its family.
    pub(crate) fn windows_hold(&self) -> Result<bool> {
        Ok(self.flag("use_sliding_window")?.unwrap_or(!self.model_type.starts_with("qwen")))
    }

    /// For each of `layers` whether `layer_types` calls it `kind` and not `full_attention`; absent if
    /// the key is.
    pub(crate) fn layers_of_type(&self, kind: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(types) = self.list("layer_types")? else { return Ok(None) };
        if types.len() != layers {
            return Err(Error::format(
                self.path,
                format!("`layer_types` names {} layers, expected {layers}", types.len()),
            ));
        }
        let is_kind = |v: &Value| match v.as_str() {
            Some(found) if found == kind => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.wrong("layer_types", v, &format!("`{kind}` or `full_attention`"))),
        };
        types.iter().map(is_kind).collect::<Result<_>>().map(Some)
    }

    /// The sizes all families share, as a decoder whose layers are alike, without norms on
    /// queries and keys, windows or biases. `tied` is what a missing `tie_word_embeddings` means.
    pub(crate) fn decoder(&self, family: &'static str, tied: bool) -> Result<Config> {
        self.refuse_quantized()?;
        let hidden = self.need_count("hidden_size")?;
        let heads = self.need_count("num_attention_heads")?;
        let head_dim = match self.count("head_dim")? {
            Some(dim) => dim,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let what = format!(
                    "`hidden_size` {hidden} is not a multiple of `num_attention_heads` {heads}, and there is no `head_dim`"
                );
                return Err(Error::format(self.path, what));
            }
        };
        let layer = LayerConfig {
            delta: None,
            attention: AttentionConfig {
                input: AttentionInput::Normed,
                heads,
                kv_heads: self.count("num_key_value_heads")?.unwrap_or(heads),
                k_dim: head_dim,
                v_dim: head_dim,
                scale: (1.0 / (head_dim as f64).sqrt()) as f32,
                window: None,
                sinks: false,
                source: KvSource::Own,
                qk_norm: false,
                v_norm: false,
                gated: false,
                qkv_bias: Presence::No,
                out_bias: Presence::No,
                rotation: 0,
                query_growth: None,
            },
            mlp: MlpConfig {
                // Where all layers have experts, only their width may be named.
                width: match (self.count("intermediate_size")?, self.count("moe_intermediate_size")?) {
                    (Some(width), _) | (None, Some(width)) => width,
                    (None, None) => return Err(self.missing("intermediate_size")),
                },
                activation: self.activation()?,
                bias: Presence::No,
                experts: None,
            },
            post_norms: false,
            output_scale: false,
        };
        let max_context = self.need_count("max_position_embeddings")?;
        let layers = super::alike(self.path, layer, self.need_count("num_hidden_layers")?)?;
        Ok(Config {
            family,
            vocab: self.need_count("vocab_size")?,
            hidden,
            max_context,
            norm_eps: self.number("rms_norm_eps")?.ok_or_else(|| self.missing("rms_norm_eps"))? as f32,
            norm_offset: 0.0,
            embedding_scale: 1.0,
            per_layer: None,
            final_softcap: None,
            head: if self.tied()?.unwrap_or(tied) { Head::Tied } else { Head::Own },
            rotations: vec![self.rotation(None, head_dim, 10_000.0)?],
            layers,
            names: TensorNames::HF,
        })
    }

    /// Of a wrapper its own word counts, not its text model's.
    fn tied(&self) -> Result<Option<bool>> {
        let outer = Self { section: None, text: self.outer, ..*self };
        outer
            .flag("tie_word_embeddings")?
            .map_or_else(|| self.flag("tie_word_embeddings"), |tied| Ok(Some(tied)))
    }

    fn activation(&self) -> Result<Activation> {
        let key = if self.has("hidden_activation") { "hidden_activation" } else { "hidden_act" };
        match self.text(key) {
            None | Some("silu" | "swish") => Ok(Activation::SwiGlu),
            Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GegluTanh),
            Some(other) => {
                let what = format!("`{key}` is `{other}`; supported: silu, gelu_pytorch_tanh");
                Err(Error::unsupported(self.path, what))
            }
        }
    }

    fn refuse_quantized(&self) -> Result<()> {
        let Some(config) = self.get("quantization_config") else { return Ok(()) };
        match config.get("quant_method").and_then(Value::as_str) {
            Some("mxfp4") => Ok(()),
            method => {
                let method = method.unwrap_or("not named");
                let what = format!(
                    "`quantization_config`: method {method}; supported: mxfp4. Use the unquantised checkpoint (with --quantize) or a GGUF file"
                );
                Err(Error::unsupported(self.path, what))
            }
        }
    }

    /// The rotation of layers of type `layer_type` (`rope_parameters` may differ by type).
    pub(crate) fn rotation(&self, layer_type: Option<&str>, head_dim: usize, base: f64) -> Result<Rotation> {
        let section = self.rope_section(layer_type);
        let keys = Self { section, ..*self };
        let share = keys.number("partial_rotary_factor")?.unwrap_or(1.0);
        let scaling = match section {
            Some(_) => keys.scaling(self.need_count("max_position_embeddings")?, share)?,
            None => RopeScaling::None,
        };
        let dims = match scaling {
            // The share is in the frequencies.
            RopeScaling::Proportional { .. } => head_dim,
            _ => (head_dim as f64 * share) as usize,
        };
        Ok(Rotation { base: keys.number("rope_theta")?.unwrap_or(base), dims, interleaved: false, scaling })
    }

    fn rope_section(&self, layer_type: Option<&str>) -> Option<&'a Map<String, Value>> {
        let of_type = |all: &'a Map<String, Value>| {
            layer_type.and_then(|t| all.get(t)).and_then(Value::as_object).unwrap_or(all)
        };
        if let Some(new) = self.given("rope_parameters").and_then(Value::as_object) {
            return Some(of_type(new));
        }
        let old = self.given("rope_scaling").and_then(Value::as_object);
        // Here null is as good as absent.
        old.or_else(|| defaults::of(self.model_type, true, "rope_parameters")?.as_object().map(of_type))
    }

    /// `self` is a rope section here; keys it lacks are looked up in the configuration around it.
    fn scaling(&self, max_context: usize, share: f64) -> Result<RopeScaling> {
        let number = |key: &str| self.number(key)?.ok_or_else(|| self.missing(key));
        let original = || -> Result<f64> {
            const KEY: &str = "original_max_position_embeddings";
            // The one beside the section counts first.
            let beside = Self { section: None, ..*self }.number(KEY)?;
            Ok(beside.or(self.number(KEY)?).unwrap_or(max_context as f64))
        };
        match self.text("rope_type").or(self.text("type")).unwrap_or("default") {
            // The dynamic one differs only behind the context that the model was made for, where nothing runs.
            // Of text, the three positions of "mrope" are one.
            "default" | "dynamic" | "mrope" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
            "proportional" => {
                let factor = self.number("factor")?.unwrap_or(1.0);
                Ok(RopeScaling::Proportional { share, factor })
            }
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original: original()?,
            }),
            "yarn" => {
                let original = original()?;
                let factor = self.number("factor")?.unwrap_or(max_context as f64 / original);
                let magnitude = match (
                    self.number("attention_factor")?,
                    self.number("mscale")?,
                    self.number("mscale_all_dim")?,
                ) {
                    (Some(given), ..) => given,
                    (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => {
                        yarn_magnitude(factor, one) / yarn_magnitude(factor, all)
                    }
                    _ => yarn_magnitude(factor, 1.0),
                };
                Ok(RopeScaling::Yarn {
                    factor,
                    original,
                    beta_fast: self.number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.number("beta_slow")?.unwrap_or(1.0),
                    truncate: self.flag("truncate")?.unwrap_or(true),
                    magnitude,
                })
            }
            other => {
                let what = format!(
                    "rope type `{other}`; supported: default, dynamic, linear, proportional, llama3, yarn"
                );
                Err(Error::unsupported(self.path, what))
            }
        }
    }
}
