//! Files on disk as metadata and tensor bytes, nothing more.
//!
//! [`gguf`] reads and writes single and split GGUF files, [`folder`] reads Hugging Face folders and
//! the [`safetensors`] files in them. All give [`TensorView`]s in row-major order, outermost
//! dimension first; nothing is copied, decoded or renamed here.

pub mod folder;
pub mod gguf;
mod map;
mod pytorch;
pub mod safetensors;

pub use folder::Folder;
pub use gguf::Gguf;
pub use safetensors::Safetensors;

use leveret_kernels::ElementType;

/// A tensor as it lies in the file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// Element type of the stored bytes.
    pub ty: ElementType,
    /// Row-major shape, outermost dimension first (`[out, in]` for a linear layer).
    pub shape: &'a [usize],
    /// Exactly the bytes that the shape and type call for.
    pub bytes: &'a [u8],
}

/// Text from a file as errors quote it: on one line, and no longer than one reads.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 300;
    let mut shown = String::new();
    for c in text.chars().take(SHOWN) {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests;
