//! Tokenizers under arbitrary text and faulty metadata.

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use common::golden;
use leveret_model::formats::Gguf;
use leveret_model::tokenizer::{GgufVocab, StreamDecoder, Tokenizer};
use proptest::collection::vec;
use proptest::prelude::*;

/// One tokenizer per family, byte-level ones first, each from both layouts.
static TOKENIZERS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let folder = |name| Tokenizer::from_folder(&golden(&format!("{name}/target"))).unwrap();
    let gguf = |name| {
        let path = golden(&format!("{name}/gguf/target-bf16.gguf"));
        Tokenizer::from_gguf(Gguf::open(path).unwrap().meta()).unwrap()
    };
    let names = ["llama", "qwen2", "qwen35", "gpt-oss", "gemma3", "gemma4-e"];
    names.into_iter().flat_map(|name| [folder(name), gguf(name)]).collect()
});

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = StreamDecoder::new();
    let mut text: String = ids.iter().map(|id| stream.push(tokenizer, *id)).collect();
    text.push_str(&stream.finish());
    text
}

/// Text with the marks that tokenizers treat specially.
fn texts() -> impl Strategy<Value = String> {
    let mark = prop::sample::select(vec![
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "▁",
        "'s",
        "'LL",
        "<|im_end|>",
        "<end_of_turn>",
        "<0x0A>",
        "1234567",
        "é",
        "e\u{301}",
        "👩‍👩‍👧",
        "日本語",
        "the ",
        "İ",
        "ǅ",
        "\u{0}",
        "\u{85}",
        "\u{2028}",
    ]);
    let part = prop_oneof![mark.prop_map(String::from), ".{0,6}", "[a-zA-Z ]{0,8}"];
    vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn text_survives_the_round_trip(text in texts()) {
        for tokenizer in TOKENIZERS.iter() {
            let ids = tokenizer.encode(&text, false).unwrap();
            // SentencePiece spells a space as ▁, so that a ▁ of the text comes back as one.
            let spaced = tokenizer.id_of("<0x0A>").is_some();
            let wanted = if spaced { text.replace('▁', " ") } else { text.clone() };
            prop_assert_eq!(tokenizer.decode(&ids), wanted);
            prop_assert!(ids.iter().all(|id| !tokenizer.is_special(*id)));
            tokenizer.encode(&text, true).unwrap();
        }
    }

    #[test]
    fn streaming_equals_decoding(ids in vec(0u32..400, 0..60)) {
        for tokenizer in TOKENIZERS.iter() {
            prop_assert_eq!(stream(tokenizer, &ids), tokenizer.decode(&ids));
        }
    }

    /// The merging here against that of the `tokenizers` crate, on random vocabularies.
    #[test]
    fn merging_equals_the_crate(
        picks in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..40),
        words in vec("[a-d]{0,24}", 1..8),
        whole_words in any::<bool>(),
    ) {
        let mut tokens: Vec<String> = ["a", "b", "c", "d"].map(String::from).into();
        let mut merges = Vec::new();
        for (left, right) in picks {
            let (left, right) = (left.get(&tokens).clone(), right.get(&tokens).clone());
            let joined = format!("{left}{right}");
            if merges.contains(&(left.clone(), right.clone())) || joined.len() > 30 {
                continue;
            }
            if !tokens.contains(&joined) {
                tokens.push(joined);
            }
            merges.push((left, right));
        }
        let ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
        let spelt: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
        let ours = Tokenizer::from_gguf_vocab(Path::new("random"), &GgufVocab {
            model: "gpt2",
            pre: Some(if whole_words { "llama-bpe" } else { "gpt-2" }),
            tokens: tokens.iter().map(String::as_str).collect(),
            merges: Some(spelt.iter().map(String::as_str).collect()),
            ..GgufVocab::default()
        })
        .unwrap();
        let theirs = tokenizers::models::bpe::BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
            .ignore_merges(whole_words)
            .build()
            .unwrap();
        for word in words {
            let wanted = tokenizers::Model::tokenize(&theirs, &word).unwrap();
            let wanted: Vec<u32> = wanted.iter().map(|token| token.id).collect();
            prop_assert_eq!(ours.encode(&word, false).unwrap(), wanted);
        }
    }
}

/// A small vocabulary that works, for spoiling.
fn sound(model: &str) -> GgufVocab<'_> {
    GgufVocab {
        model,
        pre: Some("gpt-2"),
        tokens: vec!["a", "b", "ab", "</s>", "▁"],
        scores: Some(vec![0.0, 0.0, -1.0, 0.0, 0.0]),
        token_types: Some(vec![1, 1, 1, 3, 1]),
        merges: Some(vec!["a b"]),
        eos: Some(3),
        ..GgufVocab::default()
    }
}

fn fault(vocab: &GgufVocab<'_>) -> String {
    let error = Tokenizer::from_gguf_vocab(Path::new("spoilt.gguf"), vocab).unwrap_err().to_string();
    assert!(error.starts_with("spoilt.gguf: "), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn sound_vocabularies_work() {
    let bpe = Tokenizer::from_gguf_vocab(Path::new("x"), &sound("gpt2")).unwrap();
    assert_eq!(bpe.encode("aabb", false).unwrap(), [0, 2, 1]);
    assert_eq!(bpe.end_ids(), [3]);
    // SentencePiece puts a space in front of every piece of text unless told otherwise.
    let spm = Tokenizer::from_gguf_vocab(Path::new("x"), &sound("llama")).unwrap();
    assert_eq!(spm.encode("ab</s>a", true).unwrap(), [4, 2, 3, 4, 0]);
    assert!(spm.encode("", true).unwrap().is_empty());
}

#[test]
fn faulty_metadata_is_named() {
    for model in ["gpt2", "llama", "gemma4"] {
        let vocab = GgufVocab { tokens: vec![], token_types: None, ..sound(model) };
        assert!(fault(&GgufVocab { eos: None, ..vocab }).contains("tokens: the vocabulary is empty"));
        let vocab = GgufVocab { token_types: Some(vec![1, 1]), ..sound(model) };
        assert!(fault(&vocab).contains("token_type has 2 entries; expected 5"));
        let vocab = GgufVocab { tokens: vec!["a", "b", "ab", "</s>", "a"], ..sound(model) };
        assert!(fault(&vocab).contains("\"a\" occurs twice, as 0 and as 4"));
        let vocab = GgufVocab { eos: Some(5), ..sound(model) };
        assert!(fault(&vocab).contains("eos_token_id is 5, but the vocabulary has 5 tokens"));
    }
    for model in ["gpt2", "gemma4"] {
        let missing = GgufVocab { merges: None, ..sound(model) };
        assert!(fault(&missing).contains("merges is missing"));
        let unknown = GgufVocab { merges: Some(vec!["a b", "b a"]), ..sound(model) };
        assert!(fault(&unknown).contains("merge 1 joins \"b\" and \"a\", but \"ba\" is not"));
        for merge in ["ab", "", " ", "é"] {
            let vocab = GgufVocab { merges: Some(vec![merge]), ..sound(model) };
            assert!(fault(&vocab).contains("merge 0 is"), "{merge:?}");
        }
    }
    let vocab = GgufVocab { scores: None, ..sound("llama") };
    assert!(fault(&vocab).contains("scores is missing"));
    let vocab = GgufVocab { scores: Some(vec![f32::NAN]), ..sound("llama") };
    assert!(fault(&vocab).contains("scores has 1 entries; expected 5"));
    assert!(fault(&sound("wordpiece")).contains("supported are gpt2, llama, gemma4"));
    let vocab = GgufVocab { pre: Some("klingon"), ..sound("gpt2") };
    assert!(fault(&vocab).contains("\"klingon\"; supported are default"));
}

#[test]
fn strange_scores_and_types_do_no_harm() {
    let scores = vec![f32::NAN, -f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY];
    let types = Some(vec![0, 7, 4_000_000_000, 3, 6]);
    let vocab = GgufVocab { scores: Some(scores), token_types: types, ..sound("llama") };
    let tokenizer = Tokenizer::from_gguf_vocab(Path::new("x"), &vocab).unwrap();
    tokenizer.encode("ab é", true).unwrap();
    tokenizer.decode(&[0, 1, 2, 3, 4, 5, u32::MAX]);
    assert_eq!(tokenizer.token_bytes(5), None);
}

#[test]
fn faulty_folders_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokenizer.json");
    let fault = || Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
    assert!(fault().contains("tokenizer.json: not found"));
    for (text, wanted) in [
        ("{", "not a usable tokenizer"),
        ("[]", "not a usable tokenizer"),
        (r#"{"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}"#, "\"Unigram\" is not supported"),
        (r#"{"model": {"vocab": {}, "merges": []}}"#, "the vocabulary is empty"),
        (r#"{"model": {"vocab": {"a": 4000000000}, "merges": []}}"#, "out of range"),
        (r#"{"model": {"vocab": {"a": -1}, "merges": []}}"#, "not a usable tokenizer"),
        (r#"{"model": {"vocab": {"a": 0, "b": 0}, "merges": []}}"#, "id 0 is given to both"),
        (r#"{"model": {"vocab": {"a": 0}, "merges": ["aa"]}}"#, "not two tokens and a space"),
        (r#"{"model": {"vocab": {"a": 0}, "merges": [["a", "a"]]}}"#, "\"aa\" is not in the"),
        (r#"{"model": {"vocab": {"a": 0}, "merges": [["a", "a", "a"]]}}"#, "not more"),
        (
            r#"{"model": {"vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}}"#,
            "prefixes or suffixes is not supported",
        ),
        (
            r#"{"added_tokens": [{"id": 0, "content": "b"}],
                "model": {"vocab": {"a": 0}, "merges": []}}"#,
            "id 0 is given to both",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = fault();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    std::fs::write(&file, r#"{"model": {"vocab": {"a": 0}, "merges": []}}"#).unwrap();
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("aba", false).unwrap(), [0, 0]);
    std::fs::write(dir.path().join("config.json"), "{").unwrap();
    assert!(fault().contains("config.json: not valid JSON"));
}

/// Runs of one character make patterns look far ahead.
#[test]
fn long_runs_are_tokenized_or_refused() {
    for part in [" ", "\n", "a", "A", "1", "-", "é", "日", "'", " \n", "\u{301}"] {
        let text = part.repeat(100_000);
        for tokenizer in TOKENIZERS.iter() {
            let ids = tokenizer.encode(&text, true).unwrap();
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}
