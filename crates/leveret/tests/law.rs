//! The law on the default model and on every golden family: same bits whatever the pass, same
//! tokens whatever the drafter. Larger models are checked by `leveret bench law`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret::law::{CONTROLS, Compared, DRAFTERS, Plain, Reference, samplings};
use leveret::prompts::{self, Prompt};
use leveret_model::drafters::{LanguageModel, Network};
use leveret_model::formats::Safetensors;
use leveret_model::template::ChatTemplate;
use leveret_model::tokenizer::Tokenizer;
use leveret_model::{Files, LoadOptions, Model, Source, Target};
use leveret_spec::drafters::{NetworkDrafter, TranslatedDrafter};
use leveret_spec::{Control, Drafter};
use serde_json::{Map, json};

/// Prompts that are continued.
const PROMPTS: usize = 60;
/// Tokens of each continuation.
const TOKENS: usize = 32;
/// Longest prompt, so that the test stays in minutes.
const LONGEST: usize = 300;

/// A folder beside the checkout. Where it is missing a developer's test says so and goes on; in CI
/// it fails.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing; CI needs it", path.display());
    // Past the test harness, which hides what a passing test prints.
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {} is missing", path.display());
    None
}

/// Prompts of all kinds, or of our own where the shared ones are missing.
fn all_prompts() -> Vec<Prompt> {
    let Some(dir) = shared("prompts") else {
        let subjects =
            ["hares", "rivers", "the number seven", "a lost key", "bread", "night trains", "sorting"];
        let forms = [
            "Explain",
            "Write a poem about",
            "List five facts about",
            "Continue this list: one,",
            "Translate into French:",
            "Write a function about",
        ];
        let prompt =
            |i: usize| format!("{} {}.", forms[i % forms.len()], subjects[i / forms.len() % subjects.len()]);
        return (0..PROMPTS)
            .map(|i| Prompt {
                name: i.to_string(),
                category: "task".into(),
                file: "tasks".into(),
                turns: vec![prompt(i)],
                raw: i % 7 == 0,
            })
            .collect();
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().flat_map(|path| prompts::read(path).unwrap()).collect()
}

#[test]
fn tokens_do_not_depend_on_the_drafter() {
    let source = Source::open(leveret::pull::resolve(None).unwrap()).unwrap();
    let tokenizer = Arc::new(source.tokenizer().unwrap());
    let Files::Gguf(gguf) = source.files() else { panic!("the default model is a GGUF file") };
    let template = ChatTemplate::from_gguf(gguf.meta(), None, None).unwrap().unwrap();
    let encode = |prompt: &Prompt| {
        let chat = json!([{"role": "user", "content": prompt.text()}]);
        let text = if prompt.raw {
            prompt.text().to_owned()
        } else {
            template.render(&chat, None, true, &Map::new()).unwrap()
        };
        tokenizer.encode_prompt(&text, true).unwrap()
    };
    let short: Vec<(String, Vec<u32>)> = all_prompts()
        .iter()
        .map(|prompt| (prompt.name.clone(), encode(prompt)))
        .filter(|(_, ids)| ids.len() <= LONGEST)
        .collect();
    assert!(short.len() >= PROMPTS);
    let mut model = Model::load(&source, &LoadOptions::default()).unwrap();
    let mut sums = [Compared::default(); DRAFTERS.len()];
    for i in 0..PROMPTS {
        let (name, ids) = &short[i * short.len() / PROMPTS];
        let ways = samplings(i as u64, TOKENS);
        // Each way of drawing in turn; each drafter under each rule of control in turn.
        let (how, params) = &ways[i % ways.len()];
        let plain = Plain::write(&mut model, ids, params, tokenizer.end_ids()).unwrap();
        for (k, drafter) in DRAFTERS.iter().enumerate() {
            let control = CONTROLS[(i / ways.len() + k) % CONTROLS.len()];
            let what = format!("{name}, {how}, drafter {drafter}");
            sums[k] += plain.compare(&mut model, plain.drafter(drafter), control, &what).unwrap();
        }
    }
    println!("{sums:?}");
    for (sum, drafter) in sums.iter().zip(DRAFTERS) {
        // A test of drafts that never drafts would prove nothing.
        assert!(sum.accepted > 100 && sum.drafted > sum.accepted, "{drafter}: {sum:?}");
    }
}

#[test]
fn texts_of_every_golden_family_do_not_depend_on_the_drafter() {
    let Some(dir) = shared("golden") else { return };
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut sum = Compared::default();
    for (i, path) in cases.iter().flat_map(|case| targets(case)).enumerate() {
        let source = Source::open(&path).unwrap();
        let mut model = Model::load(&source, &LoadOptions::default()).unwrap();
        let prompt: Vec<u32> = (20..50).map(|id| id % 7 * 3 + 12).collect();
        let ways = samplings(i as u64, 24);
        for (j, (how, params)) in [&ways[i % ways.len()], &ways[(i + 3) % ways.len()]].into_iter().enumerate()
        {
            let plain = Plain::write(&mut model, &prompt, params, &[]).unwrap();
            for (k, drafter) in DRAFTERS.iter().enumerate() {
                let control = CONTROLS[(i + j + k) % CONTROLS.len()];
                let what = format!("{}, {how}, drafter {drafter}", path.display());
                sum += plain.compare(&mut model, plain.drafter(drafter), control, &what).unwrap();
            }
        }
    }
    assert!(sum.tokens > 1000 && sum.accepted > 100, "{sum:?}");
}

/// A draft model of a golden family, for a target of another or the same.
struct Small {
    network: Arc<dyn Network>,
    /// Tokenizers of the target and of its own, where they spell text in different tokens.
    translation: Option<(Arc<Tokenizer>, Arc<Tokenizer>)>,
}

impl Small {
    fn new(source: &Source, target: &Source) -> Self {
        let tokenizer = |source: &Source| Arc::new(source.tokenizer().unwrap());
        let (own, targets) = (tokenizer(source), tokenizer(target));
        let vocab = own.vocab_size() as u32;
        let same = (0..vocab).all(|id| own.token_text(id) == targets.token_text(id));
        let model = Model::load(source, &LoadOptions::default()).unwrap();
        let vocab = model.vocab_size();
        let mut network = LanguageModel::new(model, vocab, 0).unwrap();
        if let Some(mask) = source.mask_token().unwrap() {
            network = network.with_mask(mask, 4).unwrap();
        }
        Self { network: Arc::new(network), translation: (!same).then_some((targets, own)) }
    }

    fn drafter(&self, capacity: usize) -> Box<dyn Drafter> {
        let network = Arc::clone(&self.network);
        match self.translation.clone() {
            None => Box::new(NetworkDrafter::new(network, capacity).unwrap()),
            Some((target, own)) => Box::new(TranslatedDrafter::new(network, capacity, target, own).unwrap()),
        }
    }
}

/// With the target's vocabulary, with another, and with masks that guess a block; after a text that is read at once,
/// and after one of which only the end is affordable.
#[test]
fn texts_do_not_depend_on_the_draft_model() {
    let Some(golden) = shared("golden") else { return };
    let open = |case: &str| Source::open(golden.join(case).join("target")).unwrap();
    let pairs = [("llama", "llama"), ("llama", "gemma3"), ("gemma3", "llama"), ("mask-token", "mask-token")];
    for (target, small) in pairs {
        let (source, own) = (open(target), open(small));
        let mut model = Model::load(&source, &LoadOptions::default()).unwrap();
        let (small, name) = (Small::new(&own, &source), small);
        assert_eq!(small.translation.is_some(), target != name);
        let tokenizer = source.tokenizer().unwrap();
        for line in ["the next man and the other", &"the next man in there, and then the main;\n".repeat(10)]
        {
            let prompt = tokenizer.encode_prompt(line, true).unwrap();
            let [greedy, drawn, ..] = samplings(3, 40);
            for (how, params) in [greedy, drawn] {
                let plain = Plain::write(&mut model, &prompt, &params, &[]).unwrap();
                let mut sum = Compared::default();
                for control in [Control::Fixed(16), Control::Price] {
                    let drafter = small.drafter(model.max_context());
                    let what = format!("{target}, {} tokens, {how}, model {name}", prompt.len());
                    sum += plain.compare(&mut model, Some(drafter), control, &what).unwrap();
                }
                println!("{target}, {} tokens, {how}, model {name}: {sum:?}", prompt.len());
                assert!(sum.drafted > 0, "{target}, {how}, model {name}: {sum:?}");
                // One that is the target itself is right.
                assert!(sum.accepted > 0 || target != name, "{target}, {how}, model {name}: {sum:?}");
            }
        }
    }
}

#[test]
fn logits_of_the_default_model_do_not_depend_on_the_pass() {
    let source = Source::open(leveret::pull::resolve(None).unwrap()).unwrap();
    let text: String = all_prompts().iter().take(30).map(|prompt| prompt.text()).collect();
    let tokens = source.tokenizer().unwrap().encode(&text, false).unwrap();
    check_bits(&source, &tokens);
}

#[test]
fn logits_of_every_golden_family_do_not_depend_on_the_pass() {
    let Some(dir) = shared("golden") else { return };
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut checked = Vec::new();
    for case in cases {
        let Ok(golden) = Safetensors::open(case.join("golden.safetensors")) else { continue };
        let Some(raw) = golden.raw("p1.seq_ids").or_else(|| golden.raw("p0.seq_ids")) else { continue };
        let ids: Vec<u32> =
            raw.bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect();
        // Long enough for every window and block to be crossed.
        let ids: Vec<u32> = ids.iter().copied().cycle().take(140).collect();
        for path in targets(&case) {
            let source = Source::open(&path).unwrap();
            check_bits(&source, &ids);
            checked.push(path);
        }
    }
    for family in [
        "llama",
        "qwen2",
        "qwen3",
        "qwen3-moe",
        "ministral3",
        "mistral-sliding",
        "qwen35",
        "qwen35-moe",
        "gemma3",
        "gemma4-e",
        "gemma4-31b",
        "gemma4-26b-a4b",
        "gpt-oss",
        "gguf-quant-llama",
    ] {
        assert!(
            checked.iter().any(|path| path.components().any(|part| part.as_os_str() == family)),
            "{family}"
        );
    }
}

/// Folders and files of a case that hold a target.
fn targets(case: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for dir in [case.to_path_buf(), case.join("gguf")] {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        paths.extend(entries.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            let gguf = name.ends_with(".gguf") && (name.starts_with("target") || name.starts_with("model-"));
            gguf || (path.is_dir() && name.starts_with("target"))
        }));
    }
    paths.sort();
    paths
}

fn check_bits(source: &Source, tokens: &[u32]) {
    let mut reference = None;
    for threads in [1, 2, 3] {
        let options = LoadOptions { threads, ..LoadOptions::default() };
        let mut model = Model::load(source, &options).unwrap();
        let reference = reference.get_or_insert_with(|| Reference::new(&mut model, tokens).unwrap());
        let setting = format!("{}, {threads} threads", source.path().display());
        assert!(reference.check(&mut model, &setting).unwrap() > 100);
    }
}
