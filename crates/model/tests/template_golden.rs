//! Rendered conversations against Python's Jinja: `tokenizers/chat-templates.json`.

mod common;

use common::{find_model, golden, golden_json};
use leveret_model::formats::Gguf;
use leveret_model::template::ChatTemplate;
use serde_json::{Map, Value, json};

fn render(template: &ChatTemplate, chat: &Value) -> Result<String, String> {
    let prompt = chat["add_generation_prompt"].as_bool().unwrap();
    template
        .render(&chat["messages"], chat.get("tools"), prompt, &Map::new())
        .map_err(|error| error.to_string())
}

fn compare(name: &str, template: &ChatTemplate, chats: &Value, rendered: &Value) {
    for (chat, wanted) in rendered.as_object().unwrap() {
        let found = render(template, &chats[chat]);
        match wanted.as_str() {
            Some(wanted) => assert_eq!(found.as_deref(), Ok(wanted), "{name}, {chat}"),
            None => assert!(found.is_err(), "{name}, {chat}: expected {wanted}, found {found:?}"),
        }
    }
}

fn variables(entry: &Value) -> (Option<&str>, Option<&str>) {
    let variables = &entry["variables"];
    (variables["bos_token"].as_str(), variables["eos_token"].as_str())
}

#[test]
fn own_templates() {
    let goldens = golden_json("tokenizers/chat-templates.json");
    for (name, entry) in goldens["own_templates"].as_object().unwrap() {
        let (bos, eos) = variables(entry);
        let template = ChatTemplate::new(entry["template"].as_str().unwrap(), bos, eos).unwrap();
        compare(name, &template, &goldens["chats"], &entry["rendered"]);
    }
}

#[test]
fn real_templates() {
    let goldens = golden_json("tokenizers/chat-templates.json");
    for (key, file) in [
        ("smollm2", "smollm2-135m-instruct"),
        ("qwen2.5-coder", "qwen2.5-coder-1.5b-instruct"),
        ("gemma3", "gemma-3-270m"),
    ] {
        let Some(path) = find_model(file) else {
            eprintln!("{file}: not fetched, not tested");
            continue;
        };
        let gguf = Gguf::open(path).unwrap();
        let entry = &goldens["real"][key];
        let (bos, eos) = variables(entry);
        let template = ChatTemplate::from_gguf(gguf.meta(), bos, eos).unwrap();
        match entry.get("rendered") {
            Some(rendered) => compare(key, &template.unwrap(), &goldens["chats"], rendered),
            None => assert!(template.is_none(), "{key} has no template"),
        }
    }
}

#[test]
fn template_of_a_folder() {
    let folder = golden("llama/target");
    let template = ChatTemplate::from_folder(&folder, None, None).unwrap().unwrap();
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}],
        "add_generation_prompt": true});
    let wanted = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(&template, &chat).unwrap(), wanted);
    assert!(ChatTemplate::from_folder(&golden("sampling"), None, None).unwrap().is_none());
}
