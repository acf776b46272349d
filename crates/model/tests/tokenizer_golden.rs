//! Token ids against published tokenizers: `tokenizers/{tiny,real}-models.json`.

mod common;

use std::path::Path;
use std::time::Instant;

use common::{find_model, golden, golden_json};
use leveret_model::formats::Gguf;
use leveret_model::tokenizer::{StreamDecoder, Tokenizer};
use serde_json::Value;

fn from_gguf(path: &Path) -> Tokenizer {
    Tokenizer::from_gguf(Gguf::open(path).unwrap().meta()).unwrap()
}

/// Panics with every difference between golden cases and what `encode` makes of their texts.
fn compare(name: &str, cases: &Value, encode: impl Fn(&str, &Value) -> Vec<u32>) {
    let cases = cases.as_array().unwrap();
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let wanted: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let found = encode(text, case);
        if found != wanted {
            wrong.push(format!("{text:?}\n  found  {found:?}\n  wanted {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} differ\n{}", wrong.len(), wrong.join("\n"));
}

fn compare_tiny(name: &str, tokenizer: &Tokenizer, golden: &Value) {
    compare(name, &golden["plain"], |text, _| tokenizer.encode(text, false).unwrap());
    compare(name, &golden["special"], |text, _| tokenizer.encode(text, true).unwrap());
    for case in golden["plain"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        check_decoding(tokenizer, text);
    }
}

/// Decoding gives the text back, whole or in pieces.
fn check_decoding(tokenizer: &Tokenizer, text: &str) {
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.decode(&ids), text);
    let mut stream = StreamDecoder::new();
    let mut pieces: String = ids.iter().map(|id| stream.push(tokenizer, *id)).collect();
    pieces.push_str(&stream.finish());
    assert_eq!(pieces, text);
}

#[test]
fn tiny_models_from_folders() {
    let goldens = golden_json("tokenizers/tiny-models.json");
    for (name, golden_ids) in goldens["models"].as_object().unwrap() {
        let tokenizer = Tokenizer::from_folder(&golden(&format!("{name}/target"))).unwrap();
        compare_tiny(name, &tokenizer, golden_ids);
    }
}

#[test]
fn tiny_models_from_gguf() {
    let goldens = golden_json("tokenizers/tiny-models.json");
    for (name, golden_ids) in goldens["models"].as_object().unwrap() {
        let tokenizer = from_gguf(&golden(&format!("{name}/gguf/target-bf16.gguf")));
        compare_tiny(name, &tokenizer, golden_ids);
    }
}

#[test]
fn both_layouts_name_the_same_special_tokens() {
    for name in ["llama", "qwen2", "qwen3", "qwen35", "gpt-oss", "gemma3", "gemma4-e", "ministral3"] {
        let folder = Tokenizer::from_folder(&golden(&format!("{name}/target"))).unwrap();
        let gguf = from_gguf(&golden(&format!("{name}/gguf/target-bf16.gguf")));
        assert_eq!(folder.bos(), gguf.bos(), "{name}");
        assert_eq!(folder.eos(), gguf.eos(), "{name}");
        assert_eq!(folder.vocab_size(), gguf.vocab_size(), "{name}");
        let text = "Hello, wörld!\n\n  12345 <|im_end|> <end_of_turn>";
        for special in [false, true] {
            let (a, b) = (folder.encode(text, special).unwrap(), gguf.encode(text, special).unwrap());
            assert_eq!(a, b, "{name}");
        }
        for id in 0..folder.vocab_size() as u32 {
            assert_eq!(folder.token_bytes(id), gguf.token_bytes(id), "{name} {id}");
            // The converter writes some of gemma4's special tokens down as ordinary ones.
            if name != "gemma4-e" {
                assert_eq!(folder.is_special(id), gguf.is_special(id), "{name} {id}");
            }
        }
    }
}

#[test]
fn real_models() {
    let goldens = golden_json("tokenizers/real-models.json");
    let mut found = 0;
    for (key, file) in [
        ("smollm2", "smollm2-135m-instruct"),
        ("gemma3", "gemma-3-270m"),
        ("qwen2.5-coder", "qwen2.5-coder-1.5b-instruct"),
        ("qwen2.5-coder", "qwen2.5-coder-0.5b-instruct"),
    ] {
        let Some(path) = find_model(file) else {
            eprintln!("{file}: not fetched, not tested");
            continue;
        };
        found += 1;
        let golden = &goldens["models"][key];
        let tokenizer = from_gguf(&path);
        assert_eq!(Some(tokenizer.vocab_size() as u64), golden["vocab"].as_u64());
        assert_eq!(tokenizer.bos().map(u64::from), golden["bos"].as_u64());
        assert_eq!(tokenizer.eos().map(u64::from), golden["eos"].as_u64());
        assert_eq!(Some(tokenizer.adds_bos()), golden["add_bos"].as_bool());
        compare(key, &golden["plain"], |text, _| tokenizer.encode(text, false).unwrap());
        compare(key, &golden["special"], |text, case| {
            tokenizer.encode(text, case["parse_special"].as_bool().unwrap()).unwrap()
        });
        compare(key, &golden["with_bos"], |text, _| tokenizer.encode_prompt(text, true).unwrap());
        for case in golden["plain"].as_array().unwrap() {
            check_decoding(&tokenizer, case["text"].as_str().unwrap());
        }
    }
    eprintln!("{found} real models compared");
}

/// Start-up waits for this: `cargo test --release -p leveret-model --test tokenizer_golden --
/// --ignored --nocapture build_times`.
#[test]
#[ignore = "a measurement"]
fn build_times() {
    let milliseconds = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    for file in ["smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-1.5b-instruct"] {
        let Some(path) = find_model(file) else { continue };
        let gguf = Gguf::open(&path).unwrap();
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                let start = Instant::now();
                Tokenizer::from_gguf(gguf.meta()).unwrap();
                milliseconds(start)
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let tokenizer = Tokenizer::from_gguf(gguf.meta()).unwrap();
        let text = "The hare ran over the field, 1234 times;\n\tfn main() { run(); }\n".repeat(2000);
        let start = Instant::now();
        let ids = tokenizer.encode(&text, true).unwrap();
        println!(
            "{file}: built in {:.1} ms (median of 9, least {:.1}), {} ids of {} kB in {:.1} ms",
            times[4],
            times[0],
            ids.len(),
            text.len() / 1000,
            milliseconds(start)
        );
    }
    if let Some(folder) = std::env::var_os("LEVERET_FOLDER") {
        let start = Instant::now();
        Tokenizer::from_folder(folder.as_ref()).unwrap();
        println!("folder: {:.1} ms", milliseconds(start));
    }
}
