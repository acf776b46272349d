//! What every target that opens named tensors asks of them. A part of those targets, none by itself.

use leveret_model::Result;
use leveret_model::formats::Safetensors;

/// Asks all that can be asked of a file that was opened, or looks at why it was not.
pub(crate) fn ask(opened: Result<Safetensors>) {
    let file = match opened {
        Ok(file) => file,
        Err(error) => return assert!(!error.to_string().contains('\n'), "{error}"),
    };
    for name in file.names() {
        let raw = file.raw(&name).expect("a tensor that was listed");
        let bits = raw.shape.iter().product::<usize>() * raw.dtype.bitsize();
        assert_eq!(bits, raw.bytes.len() * 8);
        let _ = file.tensor(&name);
    }
}
