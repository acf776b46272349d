//! Small operations on one row between matmuls: norms, rotary positions, activations, softmax,
//! selection. Each result depends on its own row alone, and nothing here allocates unless it says so.
//!
//! Length mismatches are programming errors and panic.

mod activation;
mod lanes;
mod norm;
mod rope;
mod select;
mod softmax;

pub(crate) use activation::sigmoid;
pub use activation::{geglu_tanh, mul_sigmoid, softcap, swiglu, swiglu_clamped};
pub use norm::{
    add_assign, add_scaled, rms_norm, rms_norm_gated, rms_norm_heads, rms_norm_unweighted, scale,
};
pub use rope::rope_half;
pub use select::{argmax, top_k};
pub use softmax::{log_sum_exp, softmax};

#[cfg(test)]
mod tests;
