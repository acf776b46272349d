//! The contract for scripts: what goes where, and exit codes.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{fails, leveret, stderr, stdout};
use serde_json::Value;

/// A file of prompts.
const PROMPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/prompts/adversarial.jsonl");

/// The default model, fetched if need be.
fn model() -> PathBuf {
    leveret::pull::resolve(None).unwrap()
}

/// `leveret run` on the default model.
fn run(args: &[&str]) -> Command {
    let mut command = leveret();
    command.arg("run").arg("--model").arg(model()).args(args);
    command
}

fn json(args: &[&str]) -> Value {
    let output = run(args).args(["--output", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn help_and_version_are_answers() {
    for args in [&["--help"][..], &["--version"], &["run", "--help"], &["bench", "speed", "--help"]] {
        let output = leveret().args(args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn usage_errors_are_one_line_and_code_2() {
    let cases: [(&[&str], &str); 20] = [
        (&["run"], "required"),
        (&["run", "a", "--prompt-file", "b"], "cannot be used with"),
        (&["run", "a", "--temperature", "-1"], "temperature is -1"),
        (&["run", "a", "--temperature", "NaN"], "temperature is NaN"),
        (&["run", "a", "--temperature", "warm"], "invalid value 'warm'"),
        (&["run", "a", "--top-p", "0"], "top_p is 0"),
        (&["run", "a", "--min-p", "1.5"], "min_p is 1.5"),
        (&["run", "a", "--repetition-penalty", "0"], "repetition_penalty is 0"),
        (&["run", "a", "--logit-bias", "12"], "expected ID=BIAS"),
        (&["run", "a", "--max-tokens", "0"], "at least 1"),
        (&["run", "a", "--threads", "0"], "invalid value '0'"),
        (&["run", "a", "--drafter", "oracle"], "expected none, auto, or some of suffix"),
        (&["run", "a", "--logprobs", "3"], "--logprobs needs --output json"),
        (&["run", "a", "--quantize", "q9"], "possible values: q8_0, q4_0, q4_k"),
        (&["run", "a", "--confidence", "0.5"], "--confidence needs --accept confadapt"),
        (&["chat", "--accept", "confadapt"], "--accept confadapt needs leveret run"),
        (&["bench", "law", "m"], "required"),
        (&["bench", "law", "m", "--prompts", PROMPTS, "--drafters", "sufix"], "expected none, auto"),
        (
            &["bench", "speculate", "m", "--prompts", PROMPTS, "--drafters", "none"],
            "name something that guesses",
        ),
        (&["dance"], "unrecognized subcommand"),
    ];
    for (args, expected) in cases {
        let error = fails(leveret().args(args), 2);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn readers_may_leave() {
    let args = ["-n", "8", "--raw", "--stats", "json", "One, two, three,"];
    let expected = run(&args).output().unwrap().stdout;
    let mut child = run(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout == expected, "{:?}", output.status);

    let mut child = run(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && !stderr(&output).contains("error"), "{}", stderr(&output));
}

#[test]
fn an_unknown_instruction_set_is_one_line_and_code_2() {
    let error = fails(leveret().arg("list").env("LEVERET_ISA", "avx-512"), 2);
    assert!(error.contains("avx-512") && error.contains("portable, avx2, avxvnni, avx512"), "{error}");
    for good in ["", "avx512", "avx512-vnni", "portable"] {
        assert!(leveret().arg("list").env("LEVERET_ISA", good).output().unwrap().status.success(), "{good}");
    }
}

#[test]
fn a_bad_model_is_one_line_and_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
    let good = std::fs::read(model()).unwrap();
    let mut flipped = good[..1 << 20].to_vec();
    flipped[4..8].copy_from_slice(&99u32.to_le_bytes());
    let mut oversized = good[..1 << 20].to_vec();
    oversized[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let at = good.windows(5).position(|bytes| bytes == b"llama").unwrap();
    let mut architecture = good.clone();
    architecture[at..at + 5].copy_from_slice(b"rwkv9");
    write("empty.gguf", b"");
    write("text.gguf", b"this is not a model\n");
    write("truncated.gguf", &good[..good.len() / 2]);
    write("header.gguf", &good[..1000]);
    write("version.gguf", &flipped);
    write("oversized.gguf", &oversized);
    write("architecture.gguf", &architecture);
    for folder in ["none", "config", "weights"] {
        std::fs::create_dir(path(folder)).unwrap();
    }
    write("config/config.json", b"{\"model_type\": \"llama\"");
    write("weights/config.json", br#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#);
    let mut header = u64::MAX.to_le_bytes().to_vec();
    header.extend(b"{}");
    write("weights/model.safetensors", &header);

    let names = [
        "empty.gguf",
        "text.gguf",
        "truncated.gguf",
        "header.gguf",
        "version.gguf",
        "oversized.gguf",
        "architecture.gguf",
        "none",
        "config",
        "weights",
        "absent.gguf",
    ];
    for name in names {
        for command in ["run", "inspect", "tokenize", "template"] {
            let mut process = leveret();
            let given = path(name);
            match command {
                "run" => process.args(["run", "hello", "--model"]).arg(&given),
                "template" => process.arg(command).arg(&given).args(["--messages", "/dev/null"]),
                _ => process.arg(command).arg(&given),
            };
            process.stdin(Stdio::null());
            // A file whose weights alone are damaged still has a tokenizer and a template.
            if command != "run" && ["truncated.gguf", "architecture.gguf"].contains(&name) {
                continue;
            }
            let error = fails(&mut process, 1);
            assert!(error.contains(dir.path().to_str().unwrap()), "{command} {name}: {error}");
        }
    }
    let error = fails(leveret().args(["inspect"]).arg(path("architecture.gguf")), 1);
    assert!(error.contains("rwkv9"), "{error}");
}

#[test]
fn other_bad_requests_are_one_line_and_code_1() {
    let long = "word ".repeat(3000);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("long.txt"), long).unwrap();
    let long = dir.path().join("long.txt");
    let cases: [(&[&str], &str); 6] = [
        (&["--prompt-file", "/nonexistent/prompt"], "/nonexistent/prompt"),
        (&["--prompt-file", long.to_str().unwrap(), "--context", "512"], "the context holds 512"),
        (&["hello", "--context", "1000000"], "1000000"),
        (&["hello", "--logit-bias", "4000000=1"], "outside the vocabulary"),
        (&["--raw", ""], "empty"),
        (&["--prompt-file", "/"], "/"),
    ];
    for (args, expected) in cases {
        let error = fails(&mut run(args), 1);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

#[test]
fn the_json_object_has_its_keys() {
    let object = json(&["What is a hare?", "--max-tokens", "24", "--logprobs", "2"]);
    let ids = object["ids"].as_array().unwrap();
    assert!(!ids.is_empty() && ids.len() <= 24);
    assert!(object["prompt_ids"].as_array().unwrap().len() > 5);
    assert!(["stop", "length"].contains(&object["finish_reason"].as_str().unwrap()));
    assert!(!object["text"].as_str().unwrap().is_empty());
    for key in ["prompt_seconds", "decode_seconds", "tokens_per_second"] {
        assert!(object[key].as_f64().unwrap() > 0.0, "{key}");
    }
    for key in ["rounds", "drafted", "accepted"] {
        assert!(object[key].is_u64(), "{key}");
    }
    assert_eq!(object["logprobs"].as_array().unwrap().len(), ids.len());
    assert_eq!(object["logprobs"][0]["top"].as_array().unwrap().len(), 2);
}

#[test]
fn text_ids_and_json_say_the_same() {
    let prompt = ["List three colours.", "--max-tokens", "32", "--temperature", "0.7", "--seed", "3"];
    let object = json(&prompt);
    let text = run(&prompt).output().unwrap();
    assert_eq!(stdout(&text), object["text"].as_str().unwrap());
    let told = stderr(&text);
    let summary = told.lines().last().unwrap();
    assert!(summary.contains("tokens/s") && summary.contains("tokens per round"), "{told}");

    let ids = stdout(&run(&prompt).args(["--output", "ids"]).output().unwrap());
    let ids: Vec<u64> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(serde_json::to_value(&ids).unwrap(), object["ids"]);
}

#[test]
fn no_setting_of_speed_changes_the_text() {
    let prompt =
        ["Repeat after me: one two three, one two three.", "--max-tokens", "40", "--temperature", "0.9"];
    let ids = |more: &[&str]| json(&[&prompt[..], more].concat())["ids"].clone();
    let plain = ids(&["--drafter", "none"]);
    assert_eq!(ids(&["--drafter", "suffix"]), plain);
    assert_eq!(ids(&["--drafter", "auto", "--threads", "1"]), plain);
    assert_eq!(ids(&["--threads", "3"]), plain);
    assert_ne!(ids(&["--seed", "1"]), plain);
}

#[test]
fn heads_guess_from_the_model_s_files_and_from_their_own() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    let drafter = golden.join("eagle3/drafter-specforge").display().to_string();
    let cases =
        [("qwen35", "own".to_owned()), ("qwen35", "auto".into()), ("eagle3", format!("model:{drafter}"))];
    for (case, drafter) in cases {
        let ids = |drafter: &str| {
            let mut command = leveret();
            command.arg("run").arg("--model").arg(golden.join(case).join("target"));
            command.args([
                "--raw",
                "--max-tokens",
                "40",
                "--output",
                "ids",
                "--store",
                "off",
                "--drafter",
                drafter,
            ]);
            let output = command.arg("the hare and the").output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            stdout(&output)
        };
        assert_eq!(ids(&drafter), ids("none"), "{case} with {drafter}");
    }

    // The MTP layer alone, in a file of its own.
    let dir = tempfile::tempdir().unwrap();
    let target = golden.join("qwen35/target");
    std::fs::copy(target.join("config.json"), dir.path().join("config.json")).unwrap();
    let alone = dir.path().join("mtp.safetensors");
    write_tensors(&target.join("model.safetensors"), "mtp.", &alone);
    let drafter = format!("model:{}", alone.display());
    let ids = |drafter: &str| {
        let mut command = leveret();
        command.args(["run", "--raw", "--max-tokens", "40", "--output", "ids", "--store", "off"]);
        command.args(["--drafter", drafter]).arg("--model").arg(&target);
        let output = command.arg("the hare and the").output().unwrap();
        assert!(output.status.success() && !stderr(&output).contains("not used"), "{}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(ids(&drafter), ids("none"));
    let shown =
        leveret().arg("inspect").arg(&alone).arg("--json").arg("--target").arg(&target).output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (&shown["drafter"]["family"], &shown["drafter"]["target"]["fits"]),
        (&"mtp".into(), &true.into())
    );
    let error = fails(leveret().args(["run", "--raw", "a", "--model"]).arg(&alone), 1);
    assert!(error.contains("--drafter model:"), "{error}");

    let other = golden.join("llama/target").display().to_string();
    let error = fails(leveret().args(["run", "--raw", "--drafter", "own", "--model", &other, "a"]), 1);
    assert!(error.contains("no layers that guess"), "{error}");
}

/// Writes the tensors of a safetensors file whose names begin with `prefix` to another one.
fn write_tensors(from: &Path, prefix: &str, to: &Path) {
    let bytes = std::fs::read(from).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors.as_object().unwrap().iter().filter(|(name, _)| name.starts_with(prefix)) {
        let at = |i: usize| end + tensor["data_offsets"][i].as_u64().unwrap() as usize;
        let start = data.len();
        data.extend_from_slice(&bytes[at(0)..at(1)]);
        let mut tensor = tensor.clone();
        tensor["data_offsets"] = vec![start, data.len()].into();
        header.insert(name.clone(), tensor);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(to, [&length, header.as_bytes(), &data].concat()).unwrap();
}

#[test]
fn stop_raw_and_prompt_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "1, 2, 3, 4, 5, 6, 7,").unwrap();
    let args = ["--raw", "--max-tokens", "24", "--prompt-file", file.to_str().unwrap()];
    let whole = json(&args)["text"].as_str().unwrap().to_owned();
    assert!(whole.starts_with(" 8"), "{whole:?}");
    let cut = json(&[&args[..], &["--stop", "9"]].concat());
    assert_eq!(cut["finish_reason"], "stop");
    assert_eq!(cut["text"].as_str().unwrap(), &whole[..whole.find('9').unwrap()]);

    let mut child = run(&["--raw", "--max-tokens", "24", "--prompt-file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"1, 2, 3, 4, 5, 6, 7,").unwrap();
    assert_eq!(stdout(&child.wait_with_output().unwrap()), whole);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let script =
        r#""$0" run --model "$1" "Count to one hundred." --max-tokens 200 2>"$2" | head -c 5 >/dev/null"#;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_leveret")]).arg(model()).arg(&log);
    assert!(shell.status().unwrap().success());
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(!told.contains("error") && !told.contains("panicked"), "{told}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_text_cleanly() {
    use std::io::Read;
    let mut child = run(&["Write a long story about a hare.", "--output", "text", "--context", "2048"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It is writing once the first byte is here.
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).lines().last().unwrap().contains("tokens/s"), "{}", stderr(&output));
}

#[test]
fn tokenize_and_template() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let say = |args: &[&str]| {
        let output = leveret().arg(args[0]).arg(model()).args(&args[1..]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let text = write("text", "Hello <|im_end|>");
    let plain = say(&["tokenize", "--file", &text]);
    let special = say(&["tokenize", "--file", &text, "--special"]);
    assert_eq!(special.split_whitespace().last(), Some("2"));
    assert!(plain.split_whitespace().count() > special.split_whitespace().count());
    assert_eq!(
        say(&["tokenize", "--file", &text, "--special", "--pieces"]).lines().count(),
        special.split_whitespace().count()
    );

    let list = write("list.json", r#"[{"role": "user", "content": "Hi"}]"#);
    let object = write(
        "object.json",
        r#"{"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": false}"#,
    );
    let asked = say(&["template", "--messages", &list]);
    assert!(asked.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "{asked:?}");
    assert_eq!(format!("{}<|im_start|>assistant\n", say(&["template", "--messages", &object])), asked);

    let bad = write("bad.json", r#"{"turns": []}"#);
    let error = fails(leveret().arg("template").arg(model()).args(["--messages", &bad]), 1);
    assert!(error.contains("has no key messages"), "{error}");
}

#[test]
fn inspect_tells_what_a_model_needs() {
    let output = leveret().arg("inspect").arg(model()).arg("--json").output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["architecture"], "llama");
    assert_eq!(object["layers"], 30);
    let number = |key: &str| object[key].as_u64().unwrap();
    assert!(number("bytes_per_token") > 50_000_000 && number("bytes_per_token") <= number("file_bytes"));
    assert!(number("memory_bytes") >= number("weight_bytes") + number("cache_bytes"));
    let types: u64 = object["types"].as_array().unwrap().iter().map(|ty| ty["bytes"].as_u64().unwrap()).sum();
    assert!(types <= number("file_bytes"));
    let table = stdout(&leveret().arg("inspect").arg(model()).output().unwrap());
    assert!(table.contains("memory needed") && table.contains("Q4_1"), "{table}");
}

#[test]
fn inspect_explains_a_drafter() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    let assistant = golden.join("gemma4-31b/assistant");
    let inspect = |target: Option<&str>| {
        let mut command = leveret();
        command.arg("inspect").arg(&assistant).arg("--json");
        if let Some(target) = target {
            command.arg("--target").arg(golden.join(target));
        }
        let output = command.output().unwrap();
        let object: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        object["drafter"].clone()
    };
    let alone = inspect(None);
    assert_eq!((&alone["family"], &alone["target"]), (&"gemma4-assistant".into(), &Value::Null));
    let fitting = inspect(Some("gemma4-31b/gguf/target-bf16.gguf"));
    assert_eq!(fitting["target"]["fits"], true);
    assert_eq!(fitting["bytes_per_step"], alone["bytes_per_step"]);
    assert_eq!(fitting["taps"].as_array().unwrap().len(), 5);
    let foreign = inspect(Some("llama/target"));
    assert_eq!(foreign["target"]["fits"], false);
    assert!(foreign["target"]["why"].as_str().unwrap().contains("sliding window"), "{foreign}");

    let error = fails(leveret().args(["run", "hello", "--model"]).arg(&assistant), 1);
    assert!(error.contains("holds a drafter") && error.contains("--drafter"), "{error}");
}

#[test]
fn bench_speed_writes_its_figures() {
    let dir = tempfile::tempdir().unwrap();
    let (json, svg) = (dir.path().join("speed.json"), dir.path().join("speed.svg"));
    let mut command = leveret();
    command.args(["bench", "speed"]).arg(model()).args(["--quick", "--contexts", "0", "--json"]).arg(&json);
    let output = command.arg("--svg").arg(&svg).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let figures: Value = serde_json::from_slice(&std::fs::read(Path::new(&json)).unwrap()).unwrap();
    for key in ["decode_tps", "prefill_tps", "bandwidth_gbps", "bandwidth_share"] {
        assert!(figures[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let rows: Vec<&String> = figures["pass_ms"].as_object().unwrap().keys().collect();
    assert_eq!(rows, ["1", "2", "3", "4", "5", "6", "8", "12", "16", "24", "32"]);
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg"));
}
