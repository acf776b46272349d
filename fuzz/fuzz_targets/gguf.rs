//! Any bytes as a GGUF file: opened, and all that can be asked of it asked.
#![no_main]

use leveret_kernels::quant::dequantize;
use leveret_model::formats::Gguf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let gguf = match Gguf::from_bytes("fuzz.gguf", bytes.to_vec()) {
        Ok(gguf) => gguf,
        Err(error) => return assert!(!error.to_string().contains('\n'), "{error}"),
    };
    let meta = gguf.meta();
    for (key, value) in meta.iter() {
        assert!(meta.value(key).is_some());
        let _ = value.to_string();
        let _ = meta.get::<u32>(key);
        let _ = meta.get::<f32>(key);
        let _ = meta.get::<Vec<&str>>(key);
        let _ = meta.get::<Vec<i32>>(key);
        let _ = meta.get::<Vec<Vec<bool>>>(key);
    }
    for info in gguf.tensors() {
        let Ok(view) = gguf.tensor(info.name) else { continue };
        let view = view.expect("a tensor that was listed");
        let elements = view.shape.iter().product();
        // Bounded by the file: no element takes less than a quarter of a byte.
        let mut out = vec![0.0; elements];
        dequantize(view.ty, view.bytes, &mut out).expect("bytes that fit the shape");
    }
});
