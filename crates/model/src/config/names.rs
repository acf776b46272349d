//! How files call their tensors: one table per layout; a family overrides the few that differ.

/// Names of tensors. Those of a layer follow `{prefix}{layer}{index}.`; matrices and biases are
/// named without `.weight` and `.bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TensorNames {
    /// Possible prefixes of every name but the head's; the first with an embedding counts.
    pub prefixes: &'static [&'static str],
    pub embedding: &'static str,
    pub final_norm: &'static str,
    /// Full names, without prefix.
    pub heads: &'static [&'static str],
    pub layer: &'static str,
    pub attention_norm: &'static str,
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub o: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    /// Full name within the layer.
    pub sinks: &'static str,
    pub attention_post_norm: &'static str,
    pub mlp_norm: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub mlp_post_norm: &'static str,
    pub router: &'static str,
    /// Weights of the router's norm and factors of the experts: full names within the layer.
    pub router_scale: &'static str,
    pub expert_scales: &'static str,
    /// Norms of experts beside a dense MLP, and of that MLP's output.
    pub experts_norm: &'static str,
    pub experts_post_norm: &'static str,
    pub dense_post_norm: &'static str,
    /// Ways in which experts may lie in the file; the first whose tensors are there counts.
    pub experts: &'static [ExpertNames],
    pub shared: SharedNames,
    pub delta: DeltaNames,
    /// Full name within the layer.
    pub output_scale: &'static str,
    pub per_layer: PerLayerNames,
}

/// Tensors of a gated dense MLP beside the experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SharedNames {
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    /// One row: the gate of the whole output.
    pub scale: &'static str,
}

/// Tensors of a recurrent layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DeltaNames {
    pub qkv: &'static str,
    pub z: &'static str,
    pub b: &'static str,
    pub a: &'static str,
    /// The same in two tensors, key head by key head: its query, key, values, gates; its `b`, `a`.
    pub qkvz: &'static str,
    pub ba: &'static str,
    pub out: &'static str,
    /// Full names within the layer.
    pub conv: &'static str,
    pub rates: &'static str,
    pub dt_bias: &'static str,
    pub norm: &'static str,
}

impl SharedNames {
    const HF: Self = Self {
        gate: "mlp.shared_expert.gate_proj",
        up: "mlp.shared_expert.up_proj",
        down: "mlp.shared_expert.down_proj",
        scale: "mlp.shared_expert_gate",
    };

    const GGUF: Self = Self {
        gate: "ffn_gate_shexp",
        up: "ffn_up_shexp",
        down: "ffn_down_shexp",
        scale: "ffn_gate_inp_shexp",
    };
}

impl DeltaNames {
    const HF: Self = Self {
        qkv: "linear_attn.in_proj_qkv",
        z: "linear_attn.in_proj_z",
        b: "linear_attn.in_proj_b",
        a: "linear_attn.in_proj_a",
        qkvz: "linear_attn.in_proj_qkvz",
        ba: "linear_attn.in_proj_ba",
        out: "linear_attn.out_proj",
        conv: "linear_attn.conv1d.weight",
        rates: "linear_attn.A_log",
        dt_bias: "linear_attn.dt_bias",
        norm: "linear_attn.norm.weight",
    };

    const GGUF: Self = Self {
        qkv: "attn_qkv",
        z: "attn_gate",
        b: "ssm_beta",
        a: "ssm_alpha",
        qkvz: "ssm_in",
        ba: "ssm_ba",
        out: "ssm_out",
        conv: "ssm_conv1d.weight",
        rates: "ssm_a",
        dt_bias: "ssm_dt.bias",
        norm: "ssm_norm.weight",
    };
}

/// Tensors of the embeddings for each layer apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PerLayerNames {
    /// Before the layers.
    pub table: &'static str,
    pub projection: &'static str,
    pub norm: &'static str,
    /// In each layer.
    pub gate: &'static str,
    pub out: &'static str,
    pub post_norm: &'static str,
}

impl PerLayerNames {
    const HF: Self = Self {
        table: "embed_tokens_per_layer",
        projection: "per_layer_model_projection",
        norm: "per_layer_projection_norm",
        gate: "per_layer_input_gate",
        out: "per_layer_projection",
        post_norm: "post_per_layer_input_norm",
    };

    const GGUF: Self = Self {
        table: "per_layer_token_embd",
        projection: "per_layer_model_proj",
        norm: "per_layer_proj_norm",
        gate: "inp_gate",
        out: "proj",
        post_norm: "post_norm",
    };
}

/// How a layer's experts lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ExpertNames {
    /// One matrix per expert: `{experts}{e}.{gate,up,down}`.
    Each { experts: &'static str, gate: &'static str, up: &'static str, down: &'static str },
    /// Three tensors `[experts, out, in]`, biases `[experts, out]`.
    Stacked { gate: &'static str, up: &'static str, down: &'static str },
    /// Gate rows before up rows in one tensor `[experts, 2 * inner, in]`, `[experts, out, inner]`;
    /// full names within the layer.
    Fused { gate_up: &'static str, down: &'static str },
    /// gpt-oss: `gate_up` with gate and up rows alternating and `down`; either `[experts, in, out]`
    /// floats under these names, or MXFP4 `{name}_blocks` and `{name}_scales`; `{name}_bias`.
    Alternating { gate_up: &'static str, down: &'static str },
}

impl ExpertNames {
    /// The first of `layouts` whose tensors are there, or else the first; `has` knows full names
    /// within the layer.
    pub(crate) fn found(layouts: &'static [Self], has: impl Fn(&str) -> bool) -> Self {
        let present = |layout: &&Self| match layout {
            Self::Each { experts, gate, .. } => has(&format!("{experts}0.{gate}.weight")),
            Self::Stacked { gate, .. } => has(&format!("{gate}.weight")),
            Self::Fused { gate_up, .. } => has(gate_up),
            Self::Alternating { gate_up, .. } => has(gate_up) || has(&format!("{gate_up}_blocks")),
        };
        *layouts.iter().find(present).unwrap_or(&layouts[0])
    }
}

impl TensorNames {
    /// Hugging Face checkpoints of the Llama line.
    pub(crate) const HF: Self = Self {
        prefixes: &[
            "model.",
            "model.language_model.",
            "language_model.model.",
            "model.language_model.model.",
        ],
        embedding: "embed_tokens",
        final_norm: "norm",
        heads: &["lm_head", "language_model.lm_head"],
        layer: "layers.",
        attention_norm: "input_layernorm",
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
        o: "self_attn.o_proj",
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        sinks: "self_attn.sinks",
        attention_post_norm: "",
        mlp_norm: "post_attention_layernorm",
        gate: "mlp.gate_proj",
        up: "mlp.up_proj",
        down: "mlp.down_proj",
        mlp_post_norm: "",
        router: "mlp.gate",
        router_scale: "",
        expert_scales: "",
        experts_norm: "",
        experts_post_norm: "",
        dense_post_norm: "",
        experts: &[
            ExpertNames::Each {
                experts: "mlp.experts.",
                gate: "gate_proj",
                up: "up_proj",
                down: "down_proj",
            },
            ExpertNames::Fused { gate_up: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj" },
        ],
        shared: SharedNames::HF,
        delta: DeltaNames::HF,
        output_scale: "",
        per_layer: PerLayerNames::HF,
    };

    /// GGUF.
    pub(crate) const GGUF: Self = Self {
        prefixes: &[""],
        embedding: "token_embd",
        final_norm: "output_norm",
        heads: &["output"],
        layer: "blk.",
        attention_norm: "attn_norm",
        q: "attn_q",
        k: "attn_k",
        v: "attn_v",
        o: "attn_output",
        q_norm: "attn_q_norm",
        k_norm: "attn_k_norm",
        sinks: "attn_sinks.weight",
        attention_post_norm: "post_attention_norm",
        mlp_norm: "ffn_norm",
        gate: "ffn_gate",
        up: "ffn_up",
        down: "ffn_down",
        mlp_post_norm: "post_ffw_norm",
        router: "ffn_gate_inp",
        router_scale: "ffn_gate_inp.scale",
        expert_scales: "ffn_down_exps.scale",
        experts_norm: "pre_ffw_norm_2",
        experts_post_norm: "post_ffw_norm_2",
        dense_post_norm: "post_ffw_norm_1",
        experts: &[
            ExpertNames::Stacked { gate: "ffn_gate_exps", up: "ffn_up_exps", down: "ffn_down_exps" },
            ExpertNames::Fused { gate_up: "ffn_gate_up_exps.weight", down: "ffn_down_exps.weight" },
        ],
        shared: SharedNames::GGUF,
        delta: DeltaNames::GGUF,
        output_scale: "layer_output_scale.weight",
        per_layer: PerLayerNames::GGUF,
    };

    /// Mistral's own layout: `params.json` with `consolidated.safetensors`.
    pub(crate) const MISTRAL: Self = Self {
        prefixes: &[""],
        embedding: "tok_embeddings",
        final_norm: "norm",
        heads: &["output"],
        layer: "layers.",
        attention_norm: "attention_norm",
        q: "attention.wq",
        k: "attention.wk",
        v: "attention.wv",
        o: "attention.wo",
        mlp_norm: "ffn_norm",
        gate: "feed_forward.w1",
        up: "feed_forward.w3",
        down: "feed_forward.w2",
        ..Self::HF
    };
}
