//! Any bytes as a safetensors file, and as the header of one that has some data.
#![no_main]

mod tensors;

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
    tensors::ask(Safetensors::from_bytes("fuzz.safetensors", bytes));
}
