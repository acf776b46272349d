//! Whether a file's description, read back, is that of the original.

use crate::config::{Config, LayerConfig, Presence};
use crate::load::Source;
use crate::{Error, Result};

/// Refuses a file that would run or tokenize otherwise than the original.
pub(super) fn same(original: &Source, written: &Source) -> Result<()> {
    let refuse = |what: String| {
        let what = format!("cannot be written as GGUF, which has no key for it: {what}");
        Err(Error::unsupported(original.path(), what))
    };
    if let Some(what) = networks(&original.config()?, &written.config()?) {
        return refuse(what);
    }
    let (ours, theirs) = (original.tokenizer()?, written.tokenizer()?);
    let facts = [
        ("the token that begins a text", format!("{:?}", ours.bos()), format!("{:?}", theirs.bos())),
        ("the token that ends a text", format!("{:?}", ours.eos()), format!("{:?}", theirs.eos())),
        ("the tokens that end a reply", format!("{:?}", ours.end_ids()), format!("{:?}", theirs.end_ids())),
        ("BOS before a prompt", ours.adds_bos().to_string(), theirs.adds_bos().to_string()),
    ];
    match facts.into_iter().find(|(_, ours, theirs)| ours != theirs) {
        Some((what, ours, theirs)) => refuse(format!("{what}: {ours} would become {theirs}")),
        None => Ok(()),
    }
}

/// The first difference between two networks; rows of another order, other names and what the
/// tensors themselves say are none.
fn networks(ours: &Config, theirs: &Config) -> Option<String> {
    type Number<T> = (&'static str, fn(&T) -> f64);
    const WHOLE: [Number<Config>; 6] = [
        ("vocabulary size", |c| c.vocab as f64),
        ("hidden size", |c| c.hidden as f64),
        ("context length", |c| c.max_context as f64),
        ("norm epsilon", |c| c.norm_eps.into()),
        ("embedding scale", |c| c.embedding_scale.into()),
        ("softcap on logits", |c| c.final_softcap.map_or(0.0, f64::from)),
    ];
    const LAYER: [Number<LayerConfig>; 4] = [
        ("query scale", |l| l.attention.scale.into()),
        ("sliding window", |l| l.attention.window.map_or(0.0, |window| window as f64)),
        ("softcap on scores", |l| l.attention.softcap.map_or(0.0, f64::from)),
        ("MLP width", |l| l.mlp.width as f64),
    ];
    let differ = |what: &str, a: f64, b: f64| (a != b).then(|| format!("{what}: {a} would become {b}"));
    let whole = WHOLE.iter().find_map(|(what, of)| differ(what, of(ours), of(theirs)));
    if whole.is_some() {
        return whole;
    }
    if ours.layers.len() != theirs.layers.len() {
        return Some(format!("number of layers: {} would become {}", ours.layers.len(), theirs.layers.len()));
    }
    for (i, (a, b)) in ours.layers.iter().zip(&theirs.layers).enumerate() {
        let number = LAYER.iter().find_map(|(what, of)| differ(what, of(a), of(b)));
        if let Some(what) = number {
            return Some(format!("layer {i}: {what}"));
        }
        if !rotations_agree(ours, theirs, i) {
            let of = |config: &Config| format!("{:?}", config.rotations[config.layers[i].attention.rotation]);
            return Some(format!("layer {i}: {} would become {}", of(ours), of(theirs)));
        }
        let (a, b) = (plain(a), plain(b));
        if a != b {
            return Some(format!("layer {i}: {a:?} would become {b:?}"));
        }
    }
    None
}

/// Angles that differ by no more than the rounding of the keys to `f32`.
fn rotations_agree(ours: &Config, theirs: &Config, layer: usize) -> bool {
    let of = |config: &Config| config.rotations[config.layers[layer].attention.rotation].frequencies();
    let ((ours, size), (theirs, other)) = (of(ours), of(theirs));
    let near = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs();
    ours.len() == theirs.len() && near(size, other) && ours.iter().zip(&theirs).all(|(a, b)| near(*a, *b))
}

/// A layer without what is compared elsewhere or said by the presence of tensors.
fn plain(layer: &LayerConfig) -> LayerConfig {
    let mut layer = layer.clone();
    layer.attention.rotation = 0;
    (layer.attention.qkv_bias, layer.attention.out_bias) = (Presence::IfPresent, Presence::IfPresent);
    layer.mlp.bias = Presence::IfPresent;
    layer
}
