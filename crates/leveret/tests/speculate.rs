//! Speculation seen from outside: `bench speculate`, `run --stats` and `chat`, on a tiny model.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{fails, leveret, stderr, stdout};
use serde_json::Value;

/// A model of a few thousand weights, and a home without measurements of earlier runs.
struct Tiny {
    model: PathBuf,
    home: tempfile::TempDir,
}

impl Tiny {
    /// `None` where the fixtures are missing, which is an error in CI.
    fn find() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/llama/target");
        if !root.exists() {
            assert!(std::env::var_os("CI").is_none(), "{} is missing", root.display());
            return None;
        }
        Some(Self { model: root, home: tempfile::tempdir().unwrap() })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = leveret();
        command.env("LEVERET_HOME", self.home.path()).args(args);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `bench speculate` with its JSON.
    fn speculate(&self, prompts: &[(&str, &str)], args: &[&str]) -> (Output, Value) {
        let json = self.path("out.json");
        let mut command = self.command(&["bench", "speculate"]);
        command
            .arg(&self.model)
            .args(["--max-tokens", "24", "--context", "200", "--json"])
            .arg(&json)
            .args(args);
        command.arg("--prompts");
        for (name, text) in prompts {
            std::fs::write(self.path(name), text).unwrap();
            command.arg(self.path(name));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        (output, serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap())
    }
}

const TURNS: &str = r#"{"question_id": 1, "category": "writing", "turns": ["a b a b a b", "a b"]}
{"question_id": 2, "category": "math", "turns": ["1 2 1 2"]}
{"question_id": 3, "category": "math", "turns": ["3 4 3 4"]}
"#;
const CODE: &str = r#"{"task_id": "HumanEval/0", "prompt": "def f(x):\n    return x\n"}"#;

#[test]
fn the_figures_have_their_form() {
    let Some(tiny) = Tiny::find() else { return };
    let (html, svg) = (tiny.path("out.html"), tiny.path("out.svg"));
    let files = [("spec.jsonl", TURNS), ("human_eval.jsonl", CODE)];
    let args = ["--drafters", "suffix,auto", "--control", "price,fixed:2", "--temperature", "0,0.8"];
    let files_args = ["--html", html.to_str().unwrap(), "--svg", svg.to_str().unwrap()];
    let (output, json) = tiny.speculate(&files, &[&args[..], &files_args].concat());
    assert!(json["threads"].as_u64().unwrap() > 0 && json["model"].is_string());
    assert!(json["baseline"]["tps"].as_f64().unwrap() > 0.0);
    let configs = json["configs"].as_array().unwrap();
    // 2 drafters, 2 controls, 2 temperatures; all, the one file of several categories, and 3 of these.
    assert_eq!(configs.len(), 8 * 5);
    let count =
        |category: &str| configs.iter().find(|c| c["category"] == category).unwrap()["prompts"].clone();
    assert_eq!([count("all"), count("spec"), count("math"), count("human_eval")], [4, 3, 2, 1]);
    for config in configs {
        let keys: Vec<&str> = config.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "drafter",
                "control",
                "accept",
                "temperature",
                "category",
                "prompts",
                "tps",
                "speedup",
                "speedup_ci",
                "tau",
                "acceptance_by_depth",
                "parked_share",
                "worst_prompt_ratio",
                "texts_equal"
            ]
        );
        assert_eq!(config["texts_equal"], true);
        assert_eq!(config["accept"], "match");
        assert!(config["temperature"] == 0.0 || config["temperature"] == 0.8, "{config}");
        let number = |key: &str| config[key].as_f64().unwrap();
        assert!(number("tps") > 0.0 && number("speedup") > 0.0 && number("tau") >= 1.0, "{config}");
        let ends: Vec<f64> =
            config["speedup_ci"].as_array().unwrap().iter().map(|end| end.as_f64().unwrap()).collect();
        assert!(ends.len() == 2 && ends[0] <= ends[1], "{config}");
        assert!((0.0..=1.0).contains(&number("parked_share")), "{config}");
        let depths = config["acceptance_by_depth"].as_array().unwrap();
        assert!(depths.iter().all(|share| (0.0..=1.0).contains(&share.as_f64().unwrap())), "{config}");
        if config["control"] == "fixed:2" {
            assert!(!depths.is_empty() && depths.len() <= 2, "{config}");
        }
    }
    assert!(stdout(&output).contains("plain decoding at temperature 0.8"), "{}", stdout(&output));
    // Without a sweep too, what was named beside price is what it is compared with.
    let details = json["details"]["configs"].as_array().unwrap();
    assert!(
        details.iter().all(|c| (c["control"] == "price") == (c["best_fixed"] == "fixed:2")),
        "{details:?}"
    );

    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.matches("<svg").count() == 4);
    for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "the page asks for something outside: {outside}");
    }
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg xmlns="));
}

#[test]
fn a_sweep_says_what_control_loses() {
    let Some(tiny) = Tiny::find() else { return };
    let (output, json) =
        tiny.speculate(&[("p.jsonl", CODE)], &["--drafters", "suffix", "--sweep", "--rounds", "2"]);
    let details = json["details"]["configs"].as_array().unwrap();
    let price = details.iter().find(|c| c["control"] == "price" && c["category"] == "all").unwrap();
    // Every prompt is told by itself too, the slowest among them.
    let prompts = json["details"]["prompts"].as_array().unwrap();
    let ratios = prompts.iter().filter(|p| p["control"] == "price").map(|p| p["ratio"].as_f64().unwrap());
    let configs = json["configs"].as_array().unwrap();
    let all = configs.iter().find(|c| c["control"] == "price" && c["category"] == "all").unwrap();
    assert_eq!(ratios.fold(0.0, f64::max), all["worst_prompt_ratio"].as_f64().unwrap());
    assert!(price["best_fixed"].as_str().unwrap().contains(':') && price["regret"].as_f64().unwrap() < 1.0);
    assert_eq!(
        json["configs"].as_array().unwrap().len(),
        2 * 13,
        "price and 12 fixed settings; all and one category"
    );
    assert!(stdout(&output).contains("sweep") && stdout(&output).contains("pmin:0.7"));
}

#[test]
fn prompts_and_settings_that_make_no_sense_are_refused() {
    let Some(tiny) = Tiny::find() else { return };
    let bad = tiny.path("bad.jsonl");
    std::fs::write(&bad, "{\"text\": 3}\n").unwrap();
    let model = tiny.model.to_str().unwrap();
    let error =
        fails(&mut tiny.command(&["bench", "speculate", model, "--prompts", bad.to_str().unwrap()]), 1);
    assert!(error.contains("bad.jsonl") && error.contains("line 1"), "{error}");
    let cases = [
        (&["--drafters", "oracle"][..], "oracle"),
        (&["--control", "fixed:x"], "fixed:N"),
        (&["--accept", "all"], "match, rejection, block"),
        (&["--limit", "0"], "at least 1"),
    ];
    for (args, told) in cases {
        let error = fails(tiny.command(&["bench", "speculate", model, "--prompts", "p"]).args(args), 2);
        assert!(error.contains(told), "{args:?}: {error}");
    }
}

#[test]
fn rounds_are_recorded() {
    let Some(tiny) = Tiny::find() else { return };
    let file = tiny.path("rounds.jsonl");
    let args =
        ["run", "--raw", "a b c a b c a b c", "-n", "40", "--drafter", "suffix", "--control", "fixed:3"];
    let mut command = tiny.command(&args);
    command
        .arg("--model")
        .arg(&tiny.model)
        .args(["--output", "json", "--stats", "json", "--stats-file"])
        .arg(&file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let total = records.pop().unwrap()["total"].clone();
    assert_eq!(records.len() as u64, object["rounds"].as_u64().unwrap());
    let sum = |key: &str| records.iter().map(|record| record[key].as_u64().unwrap()).sum::<u64>();
    for key in ["drafted", "accepted", "committed"] {
        assert_eq!(total[key].as_u64(), Some(sum(key)), "{key}");
    }
    assert_eq!(object["drafted"].as_u64(), Some(sum("drafted")));
    for record in &records {
        let drafted = record["drafted"].as_u64().unwrap();
        assert_eq!(record["rows"].as_u64().unwrap(), drafted + 1);
        let drafters = record["drafters"].as_array().unwrap();
        assert_eq!(drafters.iter().any(|name| name == "suffix"), drafted > 0, "{record}");
        assert!(record["seconds"]["forward"].as_f64().unwrap() > 0.0, "{record}");
    }
}

/// Says `lines` to a chat, and gives what came of it.
fn chat(tiny: &Tiny, args: &[&str], lines: &str) -> Output {
    let mut command = tiny.command(&["chat", "--context", "250", "--model"]);
    command.arg(&tiny.model).args(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_conversation_goes_on_from_what_was_read() {
    let Some(tiny) = Tiny::find() else { return };
    let saved = tiny.path("chat.json");
    let lines = format!(
        "/system be brief\nhello hello\n\"\"\"\ntwo\nlines\n\"\"\"\n/save {}\n/quit\nnot said\n",
        saved.display()
    );
    let output = chat(&tiny, &["-n", "12"], &lines);
    assert!(output.status.success(), "{}", stderr(&output));
    let messages: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    let roles: Vec<&str> = messages.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(messages[3]["content"], "two\nlines");
    // Standard output is the answers alone, each with the end of its line.
    let line = |text: &str| {
        if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
    };
    let answers = [2, 4].map(|i| line(messages[i]["content"].as_str().unwrap())).concat();
    assert_eq!(stdout(&output), answers);

    // The second answer read only what was new, and is what a fresh reading gives.
    let told = stderr(&output);
    let read: Vec<usize> = told
        .lines()
        .filter_map(|line| {
            line.split(", ").find(|part| part.contains("of the prompt read"))?.split(' ').next()?.parse().ok()
        })
        .collect();
    assert_eq!(read.len(), 2, "{told}");
    let ids = |list: &[Value]| {
        let file = tiny.path("messages.json");
        std::fs::write(&file, serde_json::to_string(list).unwrap()).unwrap();
        let template =
            tiny.command(&["template"]).arg(&tiny.model).arg("--messages").arg(&file).output().unwrap();
        std::fs::write(tiny.path("text"), &template.stdout).unwrap();
        let ids = tiny
            .command(&["tokenize"])
            .arg(&tiny.model)
            .args(["--special", "--file"])
            .arg(tiny.path("text"))
            .output();
        stdout(&ids.unwrap()).split_whitespace().count()
    };
    let whole = ids(&messages.as_array().unwrap()[..4]);
    assert!(read[1] < whole, "{} of {whole} read again", read[1]);
    let fresh = tiny
        .command(&["run", "--raw", "-n", "12", "--context", "250", "--prompt-file"])
        .arg(tiny.path("text"))
        .arg("--model")
        .arg(&tiny.model)
        .output()
        .unwrap();
    assert_eq!(stdout(&fresh), messages[4]["content"].as_str().unwrap());
}

#[test]
fn drafts_are_shown_in_colour_and_change_no_text() {
    let Some(tiny) = Tiny::find() else { return };
    let said = "a b c a b c a b c a b c\n/reset\n/nonsense\na b c a b c a b c a b c\n";
    let plain = chat(&tiny, &["-n", "60", "--drafter", "none"], said);
    let shown =
        chat(&tiny, &["-n", "60", "--drafter", "suffix", "--control", "fixed:4", "--show-drafts"], said);
    assert!(plain.status.success() && shown.status.success(), "{}", stderr(&shown));
    let coloured = stdout(&shown);
    let bare = coloured.replace("\x1b[32m", "").replace("\x1b[0m", "");
    assert_eq!(bare, stdout(&plain));
    assert!(coloured.contains("\x1b[32m"), "nothing was guessed: {}", stderr(&shown));
    assert!(stderr(&shown).contains("suffix (green)") && stderr(&shown).contains("there is no /nonsense"));
}

#[test]
fn a_message_too_long_costs_nothing_of_the_conversation() {
    let Some(tiny) = Tiny::find() else { return };
    let saved = tiny.path("long.json");
    let long = "a b c ".repeat(200);
    let lines = format!("hello\nagain\n{long}\n\"\"\"\n/quit\n\"\"\"\n/save {}\n", saved.display());
    let output = chat(&tiny, &["-n", "4"], &lines);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("error: the message is too long"), "{}", stderr(&output));
    let messages: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    let said: Vec<&str> =
        messages.as_array().unwrap().iter().step_by(2).map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["hello", "again", "/quit"]);
}

#[test]
fn a_conversation_that_outgrows_the_context_loses_its_beginning() {
    let Some(tiny) = Tiny::find() else { return };
    let saved = tiny.path("grown.json");
    let turns: String = (0..8).map(|i| format!("{i} {}\n", "a b c ".repeat(6))).collect();
    let output = chat(&tiny, &["-n", "4"], &format!("{turns}/save {}\n", saved.display()));
    assert!(stderr(&output).contains("messages are forgotten"), "{}", stderr(&output));
    let messages: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    let last = messages.as_array().unwrap().iter().rev().find(|m| m["role"] == "user").unwrap();
    assert!(last["content"].as_str().unwrap().starts_with('7'));
    assert!(messages.as_array().unwrap().len() < 16);
}

/// Draft models as they are loaded by name: with the target's vocabulary, with another, and one whose files say that it
/// guesses blocks.
#[test]
fn draft_models_change_no_text() {
    let Some(tiny) = Tiny::find() else { return };
    let target = |case: &str| tiny.model.join("../..").join(case).join("target");
    let blocks = tiny.path("blocks");
    std::fs::create_dir(&blocks).unwrap();
    for file in std::fs::read_dir(target("mask-token")).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), blocks.join(file.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(blocks.join("config.json")).unwrap();
    std::fs::write(blocks.join("config.json"), config.replace("mask_token_id", "pard_token")).unwrap();
    let prompts = tiny.path("prompts.jsonl");
    std::fs::write(&prompts, CODE).unwrap();
    let law = |case: &str, model: &Path| {
        let mut command = tiny.command(&["bench", "law", "--only-tokens", "-n", "24"]);
        let drafter = format!("model:{}", model.display());
        command.arg(target(case)).args(["--drafters", &drafter, "--prompts"]).arg(&prompts);
        command
    };
    let cases = [
        ("llama", target("llama"), false),
        ("llama", target("gemma3"), true),
        ("gemma3", target("llama"), true),
        ("mask-token", blocks.clone(), false),
    ];
    for (case, model, translated) in cases {
        let output = law(case, &model).output().unwrap();
        let (said, told) = (stdout(&output), stderr(&output));
        assert!(output.status.success() && said.contains("law holds"), "{told}");
        assert_eq!(told.contains("another vocabulary"), translated, "{told}");
        let drafted =
            said.split(" drafts accepted").next().and_then(|said| said.rsplit(' ').next()?.parse().ok());
        assert!(drafted > Some(0), "{said}");
    }
    let error = fails(&mut law("gemma3", &blocks), 1);
    assert!(error.contains("guesses blocks for its own vocabulary only"), "{error}");
}
