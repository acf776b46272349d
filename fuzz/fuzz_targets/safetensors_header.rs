//! Any bytes as a safetensors file, and as the header of one that has some data.
#![no_main]

use leveret_model::formats::Safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    read(bytes.to_vec());
    let mut file = (bytes.len() as u64).to_le_bytes().to_vec();
    file.extend(bytes);
    file.extend([0; 16]);
    read(file);
});

fn read(bytes: Vec<u8>) {
    let file = match Safetensors::from_bytes("fuzz.safetensors", bytes) {
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
