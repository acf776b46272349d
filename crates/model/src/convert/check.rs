//! Whether the description of a new file, read back, is that of the original.

use crate::config::{Config, LayerConfig, Presence};
use crate::drafters::{AssistantPlan, BlockConfig, Design, Join, Structure};
use crate::load::Source;
use crate::{Error, Result};

/// Refuses a file that would run or tokenize otherwise than the original.
pub(super) fn same(original: &Source, written: &Source) -> Result<()> {
    if let Some(what) = networks(&original.config()?, &written.config()?) {
        return Err(refuse(original, "GGUF", &what));
    }
    let (ours, theirs) = (original.tokenizer()?, written.tokenizer()?);
    let facts = [
        ("the token that begins a text", format!("{:?}", ours.bos()), format!("{:?}", theirs.bos())),
        ("the token that ends a text", format!("{:?}", ours.eos()), format!("{:?}", theirs.eos())),
        ("the tokens that end a reply", format!("{:?}", ours.end_ids()), format!("{:?}", theirs.end_ids())),
        ("BOS before a prompt", ours.adds_bos().to_string(), theirs.adds_bos().to_string()),
    ];
    match facts.into_iter().find(|(_, ours, theirs)| ours != theirs) {
        Some((what, ours, theirs)) => {
            Err(refuse(original, "GGUF", &format!("{what}: {ours} would become {theirs}")))
        }
        None => Ok(()),
    }
}

/// Refuses a drafter that would guess otherwise than the original, written as `format`.
pub(super) fn same_drafter(
    original: &Source,
    format: &str,
    ours: &Structure,
    theirs: Option<&Structure>,
) -> Result<()> {
    let found = match (ours, theirs) {
        (Structure::Head(a), Some(Structure::Head(b))) => heads(a, b),
        (Structure::Block(a, shapes), Some(Structure::Block(b, _))) => {
            blocks(a, b, shapes.embedding_rows.is_some())
        }
        (Structure::Assistant(a), Some(Structure::Assistant(b))) => assistants(a, b),
        _ => Some("what kind of drafter it is".into()),
    };
    found.map_or(Ok(()), |what| Err(refuse(original, format, &what)))
}

fn refuse(original: &Source, format: &str, what: &str) -> Error {
    let what = format!("cannot be written as {format}, which has no key for it: {what}");
    Error::unsupported(original.path(), what)
}

/// The first of some facts that differs.
fn first_difference(facts: &[(&str, String, String)]) -> Option<String> {
    let (what, ours, theirs) = facts.iter().find(|(_, ours, theirs)| ours != theirs)?;
    Some(format!("{what}: {ours} would become {theirs}"))
}

macro_rules! facts {
    ($a:ident, $b:ident: $($what:literal => $of:expr),* $(,)?) => {
        [$(($what, format!("{:?}", $of($a)), format!("{:?}", $of($b)))),*]
    };
}

fn heads(a: &Design, b: &Design) -> Option<String> {
    let join = |d: &Design| match d.join {
        Join::Projected { .. } => Join::Projected { hidden_first: false },
        join => join,
    };
    let norms = |d: &Design| d.names.feature_norms.iter().map(|(_, width)| *width).collect::<Vec<_>>();
    let present = |d: &Design| {
        let n = &d.names;
        [&n.embedding_norm, &n.hidden_norm, &n.final_norm, &n.embedding, &n.head, &n.mask_hidden]
            .map(Option::is_some)
    };
    let facts = facts![a, b:
        "family" => |d: &Design| d.family,
        "features" => |d: &Design| (d.taps.clone(), d.feature),
        "way to join embedding and feature" => join,
        "norms of features" => norms,
        "which norms and tables there are" => present,
        "feature for the next row" => |d: &Design| d.next,
        "rows of the head" => |d: &Design| (d.head_rows, d.vocab),
        "mask rows" => |d: &Design| d.slots,
    ];
    first_difference(&facts).or_else(|| networks(&a.config, &b.config))
}

fn blocks(a: &BlockConfig, b: &BlockConfig, own_embedding: bool) -> Option<String> {
    let facts = facts![a, b:
        "family" => |c: &BlockConfig| c.family,
        "features" => |c: &BlockConfig| c.taps.clone(),
        "block" => |c: &BlockConfig| (c.rows, c.mask),
        "whether the last token guesses" => |c: &BlockConfig| c.anchor_guesses,
        "which layers are causal in a block" => |c: &BlockConfig| c.causal.clone(),
        "embedding scale" => |c: &BlockConfig| c.embedding_scale[usize::from(own_embedding)],
        "scale of logits" => |c: &BlockConfig| (c.logit_scale, c.softcap),
        "candidates of the selector" => |c: &BlockConfig| c.candidates,
    ];
    // Embedding, head and softcap are said elsewhere.
    let layers = |c: &BlockConfig| {
        let mut layers = Config { vocab: 1, embedding_scale: 1.0, final_softcap: None, ..c.layers.clone() };
        layers.max_context = a.layers.max_context;
        layers
    };
    first_difference(&facts).or_else(|| networks(&layers(a), &layers(b)))
}

fn assistants(a: &AssistantPlan, b: &AssistantPlan) -> Option<String> {
    let facts = facts![a, b:
        "width of the target's features" => |p: &AssistantPlan| p.outer,
        "clusters" => |p: &AssistantPlan| p.clusters,
    ];
    first_difference(&facts).or_else(|| networks(&a.config, &b.config))
}

/// The first difference between two networks; rows of another order, other names and what the
/// tensors themselves say are none.
fn networks(ours: &Config, theirs: &Config) -> Option<String> {
    type Number<T> = (&'static str, fn(&T) -> f64);
    const WHOLE: [Number<Config>; 8] = [
        ("vocabulary size", |c| c.vocab as f64),
        ("hidden size", |c| c.hidden as f64),
        ("context length", |c| c.max_context as f64),
        ("norm epsilon", |c| c.norm_eps.into()),
        ("embedding scale", |c| c.embedding_scale.into()),
        ("width of embeddings per layer", |c| c.per_layer.map_or(0.0, |part| part.width as f64)),
        ("rows of embeddings per layer", |c| c.per_layer.map_or(0.0, |part| part.vocab as f64)),
        ("softcap on logits", |c| c.final_softcap.map_or(0.0, f64::from)),
    ];
    const LAYER: [Number<LayerConfig>; 3] = [
        ("query scale", |l| l.attention.scale.into()),
        ("sliding window", |l| l.attention.window.map_or(0.0, |window| window as f64)),
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
            let of = |config: &Config| config.rotations[config.layers[i].attention.rotation].to_string();
            return Some(format!("layer {i}: rotation: {} would become {}", of(ours), of(theirs)));
        }
        if let Some(what) = layers(a, b) {
            return Some(format!("layer {i}: {what}"));
        }
    }
    None
}

/// The first difference between two layers that no number says.
fn layers(a: &LayerConfig, b: &LayerConfig) -> Option<String> {
    let facts = facts![a, b:
        "heads and those of keys" => |l: &LayerConfig| (l.attention.heads, l.attention.kv_heads),
        "widths of keys and values" => |l: &LayerConfig| (l.attention.k_dim, l.attention.v_dim),
        "norms on queries and keys" => |l: &LayerConfig| l.attention.qk_norm,
        "norms on values" => |l: &LayerConfig| l.attention.v_norm,
        "gates on heads" => |l: &LayerConfig| l.attention.gated,
        "sinks" => |l: &LayerConfig| l.attention.sinks,
        "source of keys and values" => |l: &LayerConfig| l.attention.source,
        "growth and period of queries" => |l: &LayerConfig| l.attention.query_growth.map(|g| (g.beta, g.period)),
        "shape of the recurrence" => |l: &LayerConfig| l.delta.map(|delta| delta.shape),
        "activation" => |l: &LayerConfig| l.mlp.activation,
        "experts and those a row uses" => |l: &LayerConfig| l.mlp.experts.map(|e| (e.count, e.used)),
        "shares of experts" => |l: &LayerConfig| l.mlp.experts.map(|e| e.routing),
        "MLP beside the experts" => |l: &LayerConfig| l.mlp.experts.map(|e| e.dense),
    ];
    first_difference(&facts).or_else(|| (plain(a) != plain(b)).then(|| "another kind of layer".into()))
}

/// Angles that differ by no more than the rounding of the keys to `f32`.
fn rotations_agree(ours: &Config, theirs: &Config, layer: usize) -> bool {
    let of = |config: &Config| config.rotations[config.layers[layer].attention.rotation].frequencies();
    let ((ours, size), (theirs, other)) = (of(ours), of(theirs));
    // What does not turn at all stands as a number that is next to none.
    let near = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs() + 1e-20;
    ours.len() == theirs.len() && near(size, other) && ours.iter().zip(&theirs).all(|(a, b)| near(*a, *b))
}

/// A layer without what is compared elsewhere or said by the presence of tensors.
fn plain(layer: &LayerConfig) -> LayerConfig {
    let mut layer = layer.clone();
    layer.attention.rotation = 0;
    (layer.attention.qkv_bias, layer.attention.out_bias) = (Presence::IfPresent, Presence::IfPresent);
    layer.mlp.bias = Presence::IfPresent;
    if let Some(delta) = &mut layer.delta {
        (delta.log_rates, delta.tiled) = (false, false);
    }
    layer
}
