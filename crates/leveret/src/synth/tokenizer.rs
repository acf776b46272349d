//! A vocabulary for random weights: one token per byte, so that any text can be read, and words that
//! are never read but may be written.

use serde_json::{Map, Value, json};

/// Ends a text.
const END: &str = "<|endoftext|>";
const TURN: &str = "<|im_start|>";
const TURN_END: &str = "<|im_end|>";

/// `tokenizer.json` with `vocab` tokens: bytes, words, and at the end the special ones.
pub(super) fn tokenizer(vocab: usize) -> Value {
    let special = [END, TURN, TURN_END];
    let plain = vocab - special.len();
    let bytes = (0..=255u8).map(|byte| letter(byte).to_string());
    let words = (0..).map(word);
    let tokens: Map<String, Value> =
        bytes.chain(words).take(plain).enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = |(i, content): (usize, &str)| {
        json!({
            "id": plain + i, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.into_iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": tokens,
            "merges": [],
        },
    })
}

/// `tokenizer_config.json`.
pub(super) fn config() -> Value {
    let template = format!(
        "{{%- for m in messages -%}}{{{{ '{TURN}' + m['role'] + '\\n' + m['content'] + '{TURN_END}\\n' }}}}{{%- endfor -%}}\
         {{%- if add_generation_prompt -%}}{{{{ '{TURN}assistant\\n' }}}}{{%- endif -%}}"
    );
    json!({"eos_token": END, "pad_token": END, "add_bos_token": false, "chat_template": template})
}

/// The id of the token that ends a text.
pub(super) fn end(vocab: usize) -> usize {
    vocab - 3
}

/// The letter that stands for a byte in byte-level vocabularies: itself where it can be seen, else one
/// from 256 on.
fn letter(byte: u8) -> char {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !visible(b)).count() as u32;
    char::from_u32(256 + before).unwrap_or(' ')
}

/// The `n`-th word: a space and at least two letters.
fn word(n: usize) -> String {
    let mut rest = n;
    let mut letters = Vec::new();
    while letters.len() < 2 || rest > 0 {
        letters.push(char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
    }
    letters.push(letter(b' '));
    letters.into_iter().rev().collect()
}
