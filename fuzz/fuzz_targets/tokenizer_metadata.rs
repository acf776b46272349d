//! Tokenizer metadata of any content but the right types: built into a tokenizer, and used.
#![no_main]

use leveret_model::tokenizer::{GgufVocab, StreamDecoder, Tokenizer};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    model: u8,
    pre: u8,
    free: &'a str,
    tokens: Vec<&'a str>,
    /// Tokens that nearly every vocabulary needs: one per byte of text.
    byte_tokens: bool,
    scores: Option<Vec<f32>>,
    token_types: Option<Vec<u8>>,
    merges: Option<Vec<Merge<'a>>>,
    ids: [Option<u16>; 5],
    flags: [Option<bool>; 2],
    text: &'a str,
    parse_special: bool,
    decoded: Vec<u16>,
}

#[derive(Arbitrary, Debug)]
enum Merge<'a> {
    Text(&'a str),
    Of(u8, u8),
}

fuzz_target!(|input: Input<'_>| {
    let models = ["gpt2", "llama", "gemma4", input.free];
    let families = ["default", "llama-bpe", "qwen2", "smollm", "gpt-4o", "gpt-2", input.free];
    let bytes: Vec<String> = match (input.byte_tokens, input.model % 4) {
        (false, _) => Vec::new(),
        (true, 0) => (33..127u8).map(|b| char::from(b).to_string()).collect(),
        (true, _) => (0..=255u8).map(|b| format!("<0x{b:02X}>")).collect(),
    };
    let mut tokens: Vec<&str> = bytes.iter().map(String::as_str).collect();
    tokens.extend(&input.tokens);
    // With byte tokens, lengths fit, so that more than the length check is reached.
    let fit = |n: usize| if input.byte_tokens { tokens.len() } else { n };
    let scores = input.scores.map(|mut v| {
        v.resize(fit(v.len()), -1.0);
        v
    });
    let token_types = input.token_types.map(|v| {
        let mut v: Vec<u32> = v.into_iter().map(u32::from).collect();
        v.resize(fit(v.len()), 1);
        v
    });
    let merges: Option<Vec<String>> = input.merges.map(|merges| {
        let token = |i: u8| tokens.get(usize::from(i)).copied().unwrap_or("a");
        let text = |merge| match merge {
            Merge::Text(text) => str::to_owned(text),
            Merge::Of(left, right) => format!("{} {}", token(left), token(right)),
        };
        merges.into_iter().map(text).collect()
    });
    let [bos, eos, eot, eom, unknown] = input.ids.map(|id| id.map(u32::from));
    let vocab = GgufVocab {
        model: models[usize::from(input.model) % models.len()],
        pre: Some(families[usize::from(input.pre) % families.len()]),
        tokens,
        scores,
        token_types,
        merges: merges.as_ref().map(|merges| merges.iter().map(String::as_str).collect()),
        bos,
        eos,
        eot,
        eom,
        unknown,
        add_bos: input.flags[0],
        add_space_prefix: input.flags[1],
    };
    let tokenizer = match Tokenizer::from_gguf_vocab(Path::new("fuzz.gguf"), &vocab) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert!(!error.to_string().contains('\n'), "{error}"),
    };
    if let Ok(ids) = tokenizer.encode_prompt(input.text, input.parse_special) {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        let _ = tokenizer.decode(&ids);
    }
    let ids: Vec<u32> = input.decoded.into_iter().map(u32::from).collect();
    let _ = tokenizer.decode(&ids);
    let mut stream = StreamDecoder::new();
    for &id in &ids {
        let _ = stream.push(&tokenizer, id);
        let _ = (tokenizer.token_bytes(id), tokenizer.token_text(id), tokenizer.is_end(id));
    }
    let _ = stream.finish();
});
