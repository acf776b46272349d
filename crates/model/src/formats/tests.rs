//! Safetensors files and Hugging Face folders, sound and broken.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// A safetensors file with the given header text and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

const HEADER: &str = r#"{"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[1,13]},
    "b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
const DATA: [u8; 13] = [7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

fn fault(bytes: Vec<u8>) -> String {
    let error = Safetensors::from_bytes("test.safetensors", bytes).unwrap_err().to_string();
    assert!(error.starts_with("test.safetensors: "), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(dir.join(name), content).unwrap();
}

fn folder_fault(dir: &Path) -> String {
    Folder::open(dir).unwrap_err().to_string()
}

#[test]
fn tensors_are_read_at_any_alignment() {
    let opened = Safetensors::from_bytes("test", file(HEADER, &DATA)).unwrap();
    let w = opened.tensor("w").unwrap().unwrap();
    assert_eq!((w.ty, w.shape, w.bytes), (ElementType::BF16, &[2, 3][..], &DATA[1..]));
    assert_eq!(opened.raw("b").unwrap().bytes, [7]);
    assert!(opened.tensor("x").unwrap().is_none());
    let error = opened.tensor("b").unwrap_err().to_string();
    assert_eq!(error, "test: tensor `b` has the type U8; expected BF16, F16 or F32");
    assert_eq!(opened.names(), ["b", "w"]);
}

#[test]
fn broken_files_are_named() {
    let sound = file(HEADER, &DATA);
    for n in 0..sound.len() {
        fault(sound[..n].to_vec());
    }
    assert!(fault(u64::MAX.to_le_bytes().into()).contains("claims a header of 18446744073709551615"));
    assert!(fault(file("{", &[])).contains("no valid safetensors header"));
    assert!(fault(file(&"[".repeat(10_000), &[])).contains("no valid safetensors header"));
    assert!(
        fault(file(HEADER, &DATA[..12])).contains("has 12 bytes of tensor data; its header calls for 13")
    );
    let with = |shape: &str, end: &str| {
        format!(r#"{{"w":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,{end}]}}}}"#)
    };
    for claim in [1u64 << 60, u64::MAX] {
        fault(file(&with(&claim.to_string(), &claim.to_string()), &[]));
    }
    fault(file(&with("4294967296,4294967296,4", "0"), &[]));
    fault(file(&with("4", "3"), &[0; 3]));
    fault(file(&with("-4", "4"), &[0; 4]));
    fault(file(r#"{"w":{"dtype":"B\nF16","shape":[0],"data_offsets":[0,0]}}"#, &[]));
}

#[test]
fn folders_give_configuration_and_weights() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(folder_fault(dir).contains("holds no config.json"));
    write(dir, "config.json", "{");
    assert!(folder_fault(dir).contains("config.json: is not valid JSON"));
    write(dir, "config.json", "[]");
    assert!(folder_fault(dir).contains("config.json: is not a JSON object"));
    write(dir, "config.json", r#"{"model_type":"llama"}"#);
    assert!(folder_fault(dir).contains("holds no weights; expected model.safetensors"));
    write(dir, "model.safetensors", file(HEADER, &DATA));
    write(dir, "tokenizer.json", "{}");
    let folder = Folder::open(dir).unwrap();
    assert_eq!(folder.config.as_ref().unwrap()["model_type"], "llama");
    assert_eq!(folder.tokenizer.as_deref(), Some(&*dir.join("tokenizer.json")));
    assert!(folder.params.is_none() && folder.chat_template.is_none());
    assert_eq!(folder.names().collect::<Vec<_>>(), ["b", "w"]);
    assert_eq!(folder.tensor("w").unwrap().unwrap().shape, [2, 3]);
    assert_eq!(folder.file_bytes(), fs::metadata(dir.join("model.safetensors")).unwrap().len());
    folder.release("w");
    assert_eq!(folder.raw("w").unwrap().bytes, &DATA[1..]);
}

#[test]
fn consolidated_weights_stand_in() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "params.json", "{}");
    write(dir.path(), "consolidated.safetensors", file(HEADER, &DATA));
    let folder = Folder::open(dir.path()).unwrap();
    assert!(folder.config.is_none() && folder.params.is_some());
    assert!(folder.tensor("w").unwrap().is_some());
}

#[test]
fn shards_follow_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let index = |map: &str| {
        let text = format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#);
        write(dir, "model.safetensors.index.json", text);
    };
    let one = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        file(&header, &[0; 4])
    };
    write(dir, "config.json", "{}");
    write(dir, "1.safetensors", one("x"));
    write(dir, "2.safetensors", one("y"));
    index(r#"{"x":"1.safetensors","y":"2.safetensors"}"#);
    let folder = Folder::open(dir).unwrap();
    assert_eq!(folder.names().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(folder.paths().len(), 2);
    assert!(folder.tensor("y").unwrap().is_some());

    index(r#"{"x":"1.safetensors","z":"2.safetensors"}"#);
    assert!(folder_fault(dir).contains("maps `z` to \"2.safetensors\", which lacks it"));
    index(r#"{"x":"3.safetensors"}"#);
    assert!(folder_fault(dir).contains("3.safetensors: No such file"));
    for outside in ["../1.safetensors", "/1", "a/b", "..", ""] {
        index(&format!(r#"{{"x":"{outside}"}}"#));
        assert!(folder_fault(dir).contains("expected a file name"), "{outside}");
    }
    index(r#"{"x":1}"#);
    assert!(folder_fault(dir).contains("expected a file name"));
    index("[]");
    assert!(folder_fault(dir).contains("has no object `weight_map`"));
    write(dir, "2.safetensors", one("x"));
    index(r#"{"x":"1.safetensors"}"#);
    Folder::open(dir).unwrap();
    write(dir, "2.safetensors", file(HEADER, &DATA));
    write(dir, "1.safetensors", file(HEADER, &DATA));
    index(r#"{"b":"1.safetensors","w":"2.safetensors"}"#);
    assert!(folder_fault(dir).contains("stands in"));
}

proptest! {
    #[test]
    fn flipped_bits_never_panic(flips in proptest::collection::vec((any::<usize>(), 0u8..8), 1..6)) {
        let mut bytes = file(HEADER, &DATA);
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        if let Ok(opened) = Safetensors::from_bytes("test", bytes) {
            for name in opened.names() {
                prop_assert!(opened.raw(&name).is_some());
                let _ = opened.tensor(&name);
            }
        }
    }
}
