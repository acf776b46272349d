//! Round trips, and files that lie.

use super::*;
use proptest::prelude::*;

fn sample() -> Vec<u8> {
    let mut writer = Writer::new();
    writer
        .meta("general.architecture", "llama")
        .meta("llama.block_count", 2u32)
        .meta("llama.long", 7u64)
        .meta("llama.eps", 1e-5f32)
        .meta("llama.flag", true)
        .meta("llama.shift", -3i32)
        .meta("tokens", vec!["a".to_string(), "".into(), "ü".into()])
        .meta("scores", vec![0.5f32, -1.0])
        .meta("types", vec![1i32, 2, 3]);
    writer.tensor("a", ElementType::F32, &[2, 3]).unwrap();
    writer.tensor("b", ElementType::Q4_0, &[3, 2, 32]).unwrap();
    let mut body = writer.start(Vec::new()).unwrap();
    body.tensor("a", &[1; 24]).unwrap();
    body.tensor("b", &[2; 108]).unwrap();
    body.finish().unwrap()
}

fn open(bytes: Vec<u8>) -> Result<Gguf> {
    Gguf::from_bytes("test.gguf", bytes)
}

/// The error of opening `bytes`: one line that starts with the file.
fn fault(bytes: Vec<u8>) -> String {
    let error = open(bytes).unwrap_err().to_string();
    assert!(error.starts_with("test.gguf: "), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

/// Reads all there is to read.
fn exhaust(gguf: &Gguf) {
    for (key, value) in gguf.meta().iter() {
        assert!(gguf.meta().value(key).is_some());
        assert!(!value.to_string().is_empty());
        let _ = gguf.meta().get::<u32>(key);
        let _ = gguf.meta().get::<Vec<&str>>(key);
        let _ = gguf.meta().get::<Vec<f32>>(key);
    }
    for info in gguf.tensors() {
        if let Ok(view) = gguf.tensor(info.name) {
            let view = view.unwrap();
            assert_eq!(view.shape, info.shape);
            assert_eq!(Some(view.bytes.len()), info.bytes);
        }
    }
}

#[test]
fn what_was_written_is_read() {
    let gguf = open(sample()).unwrap();
    let meta = gguf.meta();
    assert_eq!(meta.require::<&str>("general.architecture").unwrap(), "llama");
    assert_eq!(meta.require::<u16>("llama.block_count").unwrap(), 2);
    assert_eq!(meta.require::<u32>("llama.long").unwrap(), 7);
    assert_eq!(meta.require::<f32>("llama.eps").unwrap(), 1e-5);
    assert!(meta.require::<bool>("llama.flag").unwrap());
    assert_eq!(meta.require::<i64>("llama.shift").unwrap(), -3);
    assert_eq!(meta.require::<Vec<&str>>("tokens").unwrap(), ["a", "", "ü"]);
    assert_eq!(meta.require::<Vec<f32>>("scores").unwrap(), [0.5, -1.0]);
    assert_eq!(meta.require::<Vec<u32>>("types").unwrap(), [1, 2, 3]);
    assert_eq!(meta.get::<u32>("no").unwrap(), None);
    let keys: Vec<&str> = meta.iter().map(|(key, _)| key).collect();
    assert_eq!(keys[..2], ["general.architecture", "llama.block_count"]);

    let a = gguf.tensor("a").unwrap().unwrap();
    assert_eq!((a.ty, a.shape, a.bytes), (ElementType::F32, &[2, 3][..], &[1; 24][..]));
    let b = gguf.tensor("b").unwrap().unwrap();
    assert_eq!((b.ty, b.shape, b.bytes), (ElementType::Q4_0, &[3, 2, 32][..], &[2; 108][..]));
    assert!(gguf.tensor("c").unwrap().is_none());
    assert_eq!(gguf.tensors().map(|t| t.name).collect::<Vec<_>>(), ["a", "b"]);
    exhaust(&gguf);
}

#[test]
fn getters_say_what_they_found() {
    let gguf = open(sample()).unwrap();
    let meta = gguf.meta();
    let message = |e: Error| e.to_string();
    assert_eq!(
        meta.get::<u32>("llama.shift").map_err(message),
        Err("test.gguf: metadata `llama.shift` is integer -3; expected u32".into())
    );
    assert_eq!(
        meta.get::<u32>("tokens").map_err(message),
        Err("test.gguf: metadata `tokens` is array of 3 string; expected u32".into())
    );
    assert_eq!(
        meta.get::<Vec<u32>>("scores").map_err(message),
        Err("test.gguf: metadata `scores` is float 0.5 at index 0; expected array of u32".into())
    );
    assert_eq!(
        meta.require::<u32>("no").map_err(message),
        Err("test.gguf: metadata `no` is missing; expected u32".into())
    );
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample();
    // The last tensor ends before the padding of the file does.
    let needed = bytes.len() - (128 - 108);
    for n in 0..needed {
        fault(bytes[..n].to_vec());
    }
    open(bytes[..needed].to_vec()).unwrap();
}

#[test]
fn wrong_beginnings_are_named() {
    let with = |at: usize, new: &[u8]| {
        let mut bytes = sample();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    assert!(fault(with(0, b"GGML")).contains("starts with \"GGML\"; expected \"GGUF\""));
    assert!(fault(with(4, &1u32.to_le_bytes())).contains("GGUF version 1; expected 2 or 3"));
    assert!(fault(with(4, &3u32.to_be_bytes())).contains("big-endian GGUF file (version 3)"));
    assert!(fault(with(8, &(1u64 << 60).to_le_bytes())).contains("tensor count"));
    assert!(fault(with(16, &(1u64 << 60).to_le_bytes())).contains("metadata count"));
    assert!(fault(with(24, &u64::MAX.to_le_bytes())).contains("claims 18446744073709551615 bytes"));
    open(with(4, &2u32.to_le_bytes())).unwrap();
}

/// A file with one tensor line of the given dimensions, type and offset, and 1 KiB of data.
fn one_tensor(dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.push(b't');
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
    bytes.extend(ty.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 1024, 0);
    bytes
}

#[test]
fn impossible_tensors_are_named() {
    open(one_tensor(&[256], 0, 0)).unwrap();
    assert!(fault(one_tensor(&[1, 1, 1, 1, 1], 0, 0)).contains("5 dimensions; expected 1 to 4"));
    assert!(fault(one_tensor(&[], 0, 0)).contains("0 dimensions"));
    assert!(fault(one_tensor(&[8, 0], 0, 0)).contains("a dimension of 0"));
    assert!(fault(one_tensor(&[1 << 40, 1 << 40], 0, 0)).contains("larger than memory"));
    assert!(fault(one_tensor(&[u64::MAX], 0, 0)).contains("rows of"));
    assert!(fault(one_tensor(&[257], 0, 0)).contains("is it cut short?"));
    assert!(fault(one_tensor(&[33], 2, 0)).contains("rows of 33; expected a multiple of 32"));
    assert!(fault(one_tensor(&[8], 0, 8)).contains("no multiple of the alignment 32"));
    assert!(fault(one_tensor(&[8], 0, u64::MAX - 31)).contains("is it cut short?"));
}

#[test]
fn unknown_types_are_refused_only_when_asked_for() {
    for (ty, name) in [(18, "IQ3_XXS (type 18)"), (999, "type 999")] {
        let gguf = open(one_tensor(&[256], ty, 0)).unwrap();
        assert_eq!(gguf.tensors().next().unwrap().bytes, None);
        let error = gguf.tensor("t").unwrap_err().to_string();
        assert!(error.contains(&format!("tensor `t` has the type {name};")), "{error}");
    }
}

#[test]
fn duplicates_and_overlaps_are_refused() {
    let mut writer = Writer::new();
    writer.meta("k", 1u32).meta("k", 2u32);
    assert!(fault(writer.start(Vec::new()).unwrap().finish().unwrap()).contains("`k` stands there twice"));

    let two = |second: &str, offset: Option<u64>| {
        let mut writer = Writer::new();
        writer.tensor("t", ElementType::F32, &[16]).unwrap();
        writer.tensor(second, ElementType::F32, &[16]).unwrap();
        let mut body = writer.start(Vec::new()).unwrap();
        body.tensor("t", &[0; 64]).unwrap();
        body.tensor(second, &[0; 64]).unwrap();
        let mut bytes = body.finish().unwrap();
        if let Some(offset) = offset {
            // The offset ends the directory: counts (24), then two lines of 33.
            bytes[24 + 66 - 8..24 + 66].copy_from_slice(&offset.to_le_bytes());
        }
        bytes
    };
    open(two("u", None)).unwrap();
    assert!(fault(two("t", None)).contains("tensor `t` stands there twice"));
    assert!(fault(two("u", Some(32))).contains("tensors `t` and `u` overlap"));
}

#[test]
fn alignment_is_honoured_and_checked() {
    let with = |alignment: MetaValue| {
        let mut writer = Writer::new();
        writer.meta("general.alignment", alignment);
        writer.start(Vec::new()).unwrap().finish().unwrap()
    };
    open(with(MetaValue::U32(64))).unwrap();
    assert!(fault(with(MetaValue::U32(0))).contains("expected a power of two"));
    assert!(fault(with(MetaValue::U32(24))).contains("expected a power of two"));
    assert!(fault(with(MetaValue::F32(32.0))).contains("is float 32; expected u32"));
}

#[test]
fn nested_arrays_are_bounded() {
    let nested = |depth: u32| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.push(b'k');
        bytes.extend(9u32.to_le_bytes());
        for _ in 1..depth {
            bytes.extend(9u32.to_le_bytes());
            bytes.extend(1u64.to_le_bytes());
        }
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(5u32.to_le_bytes());
        bytes
    };
    let gguf = open(nested(2)).unwrap();
    assert_eq!(gguf.meta().require::<Vec<Vec<u32>>>("k").unwrap(), [[5]]);
    assert!(fault(nested(5000)).contains("nested more than 4 deep"));
}

#[test]
fn split_models_are_joined_from_any_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = |i: u32| dir.path().join(format!("m-{i:05}-of-00003.gguf"));
    let write = |i: u32, total: i32| {
        let mut writer = Writer::new();
        writer.meta("split.no", (i - 1) as u16).meta("split.count", 3u16);
        writer.meta("split.tensors.count", total);
        let name = format!("t{i}");
        writer.tensor(&name, ElementType::F32, &[4]).unwrap();
        let mut body = writer.start(std::fs::File::create(path(i)).unwrap()).unwrap();
        body.tensor(&name, &[i as u8; 16]).unwrap();
        body.finish().unwrap();
    };
    (1..=3).for_each(|i| write(i, 3));
    for start in 1..=3 {
        let gguf = Gguf::open(path(start)).unwrap();
        assert_eq!(gguf.paths().collect::<Vec<_>>(), [path(1), path(2), path(3)]);
        assert_eq!(gguf.tensors().map(|t| t.name).collect::<Vec<_>>(), ["t1", "t2", "t3"]);
        assert_eq!(gguf.tensor("t3").unwrap().unwrap().bytes, [3; 16]);
        gguf.release("t3");
        assert_eq!(gguf.tensor("t3").unwrap().unwrap().bytes, [3; 16]);
    }
    write(1, 4);
    let error = Gguf::open(path(1)).unwrap_err().to_string();
    assert!(error.contains("the parts hold 3 tensors"), "{error}");
    std::fs::copy(path(1), path(2)).unwrap();
    let error = Gguf::open(path(1)).unwrap_err().to_string();
    assert!(error.contains("is part 1 of 3; expected part 2 of 3"), "{error}");
    std::fs::remove_file(path(2)).unwrap();
    let error = Gguf::open(path(1)).unwrap_err().to_string();
    assert!(error.contains("m-00002-of-00003.gguf: No such file"), "{error}");
    let other = dir.path().join("renamed.gguf");
    std::fs::rename(path(1), &other).unwrap();
    let error = Gguf::open(&other).unwrap_err().to_string();
    assert!(error.contains("expected a name that ends in `-00001-of-00003.gguf`"), "{error}");
}

#[test]
fn releasing_keeps_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.gguf");
    let data: Vec<u8> = (0..1u32 << 20).map(|i| ((i * 7) >> 3) as u8).collect();
    let mut writer = Writer::new();
    writer.tensor("t", ElementType::F32, &[1 << 18]).unwrap();
    let mut body = writer.start(std::fs::File::create(&path).unwrap()).unwrap();
    body.tensor("t", &data).unwrap();
    body.finish().unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.tensor("t").unwrap().unwrap().bytes, data);
    gguf.release("t");
    assert_eq!(gguf.tensor("t").unwrap().unwrap().bytes, data);
}

#[test]
fn writer_checks_its_use() {
    assert!(Writer::new().tensor("t", ElementType::Q4_0, &[33]).is_err());
    assert!(Writer::new().tensor("t", ElementType::F32, &[]).is_err());
    let mut writer = Writer::new();
    writer.tensor("t", ElementType::F32, &[1]).unwrap();
    let mut body = writer.start(Vec::new()).unwrap();
    assert!(body.tensor("u", &[0; 4]).is_err());
    let mut writer = Writer::new();
    writer.tensor("t", ElementType::F32, &[1]).unwrap();
    assert!(writer.start(Vec::new()).unwrap().finish().is_err());
}

proptest! {
    #[test]
    fn flipped_bits_never_panic(flips in proptest::collection::vec((0usize..600, 0u8..8), 1..6)) {
        let mut bytes = sample();
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        if let Ok(gguf) = open(bytes) {
            exhaust(&gguf);
        }
    }

    #[test]
    fn replaced_words_never_panic(at in 0usize..600, word in prop_oneof![any::<u64>(), (0u32..64).prop_map(|s| 1 << s)]) {
        let mut bytes = sample();
        let at = at % (bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        if let Ok(gguf) = open(bytes) {
            exhaust(&gguf);
        }
    }
}
