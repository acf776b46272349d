//! Any bytes as a `pytorch_model.bin`, and as the pickle inside of one that has some data.
#![no_main]

mod tensors;

use leveret_model::formats::Safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    read(bytes.to_vec());
    read(archive(&[("m/data.pkl", bytes), ("m/data/0", &[0; 64]), ("m/data/1", &[1; 64])]));
});

fn read(bytes: Vec<u8>) {
    tensors::ask(Safetensors::from_pickled_bytes("fuzz.bin", bytes));
}

/// A zip archive of entries stored as they are.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let (at, len, name_len) = (file.len() as u32, bytes.len() as u32, name.len() as u16);
        let sizes = [len.to_le_bytes(), len.to_le_bytes()].concat();
        file.extend(*b"PK\x03\x04");
        file.extend([0; 14]);
        file.extend(&sizes);
        file.extend(name_len.to_le_bytes());
        file.extend([0; 2]);
        file.extend(name.as_bytes());
        file.extend(*bytes);
        directory.extend(*b"PK\x01\x02");
        directory.extend([0; 16]);
        directory.extend(&sizes);
        directory.extend(name_len.to_le_bytes());
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (at, len, count) = (file.len() as u32, directory.len() as u32, entries.len() as u16);
    file.extend(directory);
    file.extend(*b"PK\x05\x06");
    file.extend([0; 4]);
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend(len.to_le_bytes());
    file.extend(at.to_le_bytes());
    file.extend([0; 2]);
    file
}
