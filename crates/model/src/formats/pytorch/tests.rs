//! A file that PyTorch saved, and damaged ones.

use super::places;
use crate::formats::safetensors::Dtype;
use std::path::Path;

fn golden() -> Vec<u8> {
    let path = "../../../shared/golden/eagle3/drafter-safeailab/pytorch_model.bin";
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_same_tensors_as_in_safetensors() {
    let file = golden();
    let found = places(&file).unwrap();
    let other = crate::formats::Safetensors::open(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/golden/eagle3/drafter-specforge/model.safetensors"),
    )
    .unwrap();
    assert_eq!(
        found.keys().cloned().collect::<std::collections::BTreeSet<_>>(),
        other.names().into_iter().collect()
    );
    for (name, place) in &found {
        let expected = other.raw(name).unwrap();
        assert_eq!((place.dtype, &place.shape[..]), (expected.dtype, expected.shape), "{name}");
        assert_eq!(&file[place.bytes.clone()], expected.bytes, "{name}");
    }
    assert_eq!(found["d2t"].dtype, Dtype::I64);
}

#[test]
fn cut_and_changed_files_are_refused_or_read_within_bounds() {
    let file = golden();
    for len in (0..file.len()).step_by(97) {
        assert!(places(&file[..len]).is_err(), "{len} bytes");
    }
    // Every byte of the pickle and of the directory at the end.
    let pickled = 0..1600;
    let directory = file.len() - 1800..file.len();
    for at in pickled.chain(directory) {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = file.clone();
            changed[at] ^= change;
            for place in places(&changed).into_iter().flatten().map(|(_, place)| place) {
                assert!(place.bytes.end <= changed.len());
            }
        }
    }
}

#[test]
fn a_pickle_that_wants_to_run_something_is_refused() {
    // `os.system` called and its result returned: no dictionary.
    let bytes = b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.";
    let error = super::pickle::tensors(bytes).unwrap_err();
    assert!(error.contains("no dictionary"), "{error}");
    let error = super::pickle::tensors(b"\x80\x02cos\nsystem\no.").unwrap_err();
    assert!(error.contains("operation 0x6f"), "{error}");
}

#[test]
fn texts_stay_in_the_pickle_however_often_they_are_used() {
    // A text of 1 MiB is name and storage key of 10 000 items: 20 GB if each had copies of its own.
    let long = "x".repeat(1 << 20);
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\0".to_vec();
    bytes.extend([text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text(&long)].concat());
    bytes.extend(b"q\x01\x87q\x02");
    // The arguments of a tensor: storage, offset, size, stride. Then the dictionary.
    bytes.extend(b"(h\x02QK\0K\x01\x85K\x01\x85tq\x03}");
    for _ in 0..10_000 {
        // name, function, arguments, call, item
        bytes.extend(b"h\x01h\0h\x03Rs");
    }
    bytes.push(b'.');
    let found = super::pickle::tensors(&bytes).unwrap();
    let (name, tensor) = found.first_key_value().unwrap();
    assert_eq!((found.len(), *name), (1, &*long));
    assert_eq!(tensor.storage.as_ptr(), name.as_ptr());
}

#[test]
fn a_name_with_a_line_break_stays_on_the_line_of_the_error() {
    let mut file = golden();
    let name = b"midlayer.self_attn.q_proj.weight";
    let at = file.windows(name.len()).position(|bytes| bytes == name).unwrap();
    file[at] = b'\n';
    // The first storage of the archive's directory is gone: the tensor in it is named.
    let at = file.windows(7).rposition(|bytes| &bytes[1..] == b"data/1").unwrap();
    file[at + 6] = b'x';
    let name = |error: crate::Error| error.to_string();
    let error = crate::formats::Safetensors::from_pickled_bytes("test.bin", file).map_err(name).unwrap_err();
    assert!(!error.contains('\n') && error.contains("lies in"), "{error}");
}
