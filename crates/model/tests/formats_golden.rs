//! Weight files against their reference: exact values of every block format, and every file of
//! the golden folders opened and read through.

use leveret_kernels::ElementType;
use leveret_kernels::quant::{dequantize, mxfp4_from_pairs, packing, quantize, unpack_codes, unpack_scales};
use leveret_model::formats::safetensors::Dtype;
use leveret_model::formats::{Folder, Gguf, Safetensors, TensorView};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden")
}

/// Files below `dir`, of any depth, that `keep` accepts.
fn walk(dir: &Path, keep: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if keep(&path) {
            found.push(path.clone());
        }
        if path.is_dir() {
            walk(&path, keep, found);
        }
    }
}

fn values(view: &TensorView<'_>) -> Vec<f32> {
    let mut out = vec![0.0; view.shape.iter().product()];
    dequantize(view.ty, view.bytes, &mut out).unwrap();
    out
}

/// The formula that repackers use, evaluated from codes and scales.
fn composed(ty: ElementType, bytes: &[u8]) -> Vec<f32> {
    let packing = packing(ty).unwrap();
    let mut codes = vec![0; ty.block_len()];
    let mut out = Vec::new();
    for block in bytes.chunks_exact(ty.block_bytes()) {
        unpack_codes(ty, block, &mut codes);
        let s = unpack_scales(ty, block);
        out.extend(codes.iter().enumerate().map(|(i, &c)| {
            let g = i / packing.group_len;
            let point = match packing.codebook {
                Some(table) => f32::from(table[usize::from(c)]),
                None => f32::from(c) - f32::from(packing.offset),
            };
            s.d * f32::from(s.scales[g]) * point + s.m * f32::from(s.mins[g])
        }));
    }
    out
}

#[test]
fn dequantised_values_are_exact() {
    let golden = golden();
    let mut types = BTreeSet::new();
    for case in ["gguf-quant-llama", "gguf-quant-qwen2"] {
        let mut references = Vec::new();
        let is_reference = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("dequant-")
        };
        walk(&golden.join(case), &is_reference, &mut references);
        assert!(!references.is_empty());
        for path in references {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let model = format!("model-{}.gguf", stem.strip_prefix("dequant-").unwrap());
            let gguf = Gguf::open(path.with_file_name(&model)).unwrap();
            let reference = Safetensors::open(&path).unwrap();
            for name in reference.names() {
                let expected = values(&reference.tensor(&name).unwrap().unwrap());
                let view = gguf.tensor(&name).unwrap().unwrap();
                // The reference may hold the first rows only.
                let found = values(&view);
                assert!(found.len() >= expected.len(), "{model} {name}");
                for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                    assert!(a == b, "{model} {name}[{i}]: {a} is not {b}");
                }
                assert_eq!(composed(view.ty, view.bytes), found, "{model} {name}");
                types.insert(view.ty.name());
            }
        }
    }
    let expected =
        ["IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"];
    assert_eq!(types.into_iter().collect::<Vec<_>>(), expected);
}

/// The GGUF of the MXFP4 checkpoint, the checkpoint itself and the same values as BF16 agree.
#[test]
fn mxfp4_is_the_same_in_every_layout() {
    let golden = golden();
    let case = golden.join("gpt-oss");
    let packed = Folder::open(case.join("target-mxfp4")).unwrap();
    let plain = Folder::open(case.join("target")).unwrap();
    let gguf = Gguf::open(case.join("gguf/target-mxfp4-bf16.gguf")).unwrap();

    let stem = "model.layers.0.mlp.experts.down_proj";
    let blocks = packed.raw(&format!("{stem}_blocks")).unwrap();
    let scales = packed.raw(&format!("{stem}_scales")).unwrap();
    assert_eq!((blocks.dtype, scales.dtype), (Dtype::U8, Dtype::U8));
    let mut converted = Vec::new();
    mxfp4_from_pairs(blocks.bytes, scales.bytes, &mut converted).unwrap();
    let [experts, rows, groups] = *scales.shape else { panic!("scales of shape {:?}", scales.shape) };
    assert_eq!(blocks.shape, [experts, rows, groups, 16]);

    let stored = gguf.tensor("blk.0.ffn_down_exps.weight").unwrap().unwrap();
    assert_eq!(stored.ty, ElementType::Mxfp4);
    assert_eq!(stored.shape, [experts, rows, groups * 32]);
    assert!(stored.bytes == converted);

    // The plain checkpoint has the input dimension outside of the output dimension.
    let reference = plain.tensor(stem).unwrap().unwrap();
    assert_eq!(reference.shape, [experts, groups * 32, rows]);
    let (reference, found) = (values(&reference), values(&stored));
    let columns = groups * 32;
    for e in 0..experts {
        for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let a = found[(e * rows + row) * columns + column];
            let b = reference[(e * columns + column) * rows + row];
            assert!(a == b, "expert {e} row {row} column {column}: {a} is not {b}");
        }
    }
    assert_eq!(composed(stored.ty, stored.bytes), found);
}

#[test]
fn every_golden_file_is_read_through() {
    let golden = golden();
    let (mut ggufs, mut folders) = (Vec::new(), Vec::new());
    walk(&golden, &|path| path.extension().is_some_and(|e| e == "gguf"), &mut ggufs);
    for path in &ggufs {
        let gguf = Gguf::open(path).unwrap();
        assert!(gguf.meta().require::<&str>("general.architecture").is_ok());
        for info in gguf.tensors() {
            if info.ty.element().is_some() {
                let view = gguf.tensor(info.name).unwrap().unwrap();
                assert!(values(&view).iter().all(|v| v.is_finite()), "{path:?} {}", info.name);
            }
            gguf.release(info.name);
        }
    }
    let is_folder = |path: &Path| {
        path.join("model.safetensors").is_file() || path.join("consolidated.safetensors").is_file()
    };
    walk(&golden, &is_folder, &mut folders);
    for path in &folders {
        let folder = Folder::open(path).unwrap();
        assert!(folder.names().len() > 0);
        for name in folder.names() {
            let raw = folder.raw(name).unwrap();
            assert_eq!(raw.bytes.len() * 8, raw.shape.iter().product::<usize>() * raw.dtype.bitsize());
        }
    }
    assert!(ggufs.len() >= 20 && folders.len() >= 20, "{} {}", ggufs.len(), folders.len());
}

/// Our encoders lose no more than the quantiser that made the goldens, on the same weights.
#[test]
fn encoders_match_the_reference_quantiser() {
    let golden = golden();
    let case = golden.join("gguf-quant-llama");
    let plain = Gguf::open(case.join("model-bf16.gguf")).unwrap();
    for (ty, model) in [
        (ElementType::Q8_0, "model-q8_0.gguf"),
        (ElementType::Q4_0, "model-q4_0.gguf"),
        (ElementType::Q4K, "model-q4_k.gguf"),
    ] {
        let reference = Gguf::open(case.join(model)).unwrap();
        let (mut ours, mut theirs) = (0.0, 0.0);
        for info in reference.tensors().filter(|info| info.ty.element() == Some(ty)) {
            let exact = values(&plain.tensor(info.name).unwrap().unwrap());
            let mut bytes = Vec::new();
            quantize(ty, &exact, &mut bytes).unwrap();
            let view = reference.tensor(info.name).unwrap().unwrap();
            theirs += squared_error(&exact, &values(&view));
            ours += squared_error(&exact, &values(&TensorView { bytes: &bytes, ..view }));
        }
        println!("{}: squared error {ours:.6}, reference {theirs:.6}", ty.name());
        assert!(ours > 0.0 && ours <= theirs * 1.001, "{}: {ours}, reference {theirs}", ty.name());
    }
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
