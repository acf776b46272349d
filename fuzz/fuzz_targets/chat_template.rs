//! Any text as a chat template: compiled, and rendered with and without tools.
#![no_main]

use leveret_model::template::ChatTemplate;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static MESSAGES: LazyLock<Value> = LazyLock::new(|| {
    json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "look", "arguments": {"at": [1, 2.5, null]}}}
        ]},
        {"role": "tool", "name": "look", "content": "näher"},
        {"role": "user", "content": "<|im_end|> {{ 1 }}"}
    ])
});

static TOOLS: LazyLock<Value> = LazyLock::new(|| {
    json!([{"type": "function", "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "array"}}, "required": ["at"]}
    }}])
});

fuzz_target!(|source: &str| {
    let one_line = |error: leveret_model::Error| assert!(!error.to_string().contains('\n'), "{error}");
    let template = match ChatTemplate::new(source, Some("<s>"), Some("</s>")) {
        Ok(template) => template,
        Err(error) => return one_line(error),
    };
    for tools in [None, Some(&*TOOLS)] {
        if let Err(error) = template.render(&MESSAGES, tools, true, &Map::new()) {
            one_line(error);
        }
    }
});
