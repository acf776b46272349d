//! What every command does with a model: find it, open it, turn prompts into tokens and tokens
//! into text.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use leveret_model::drafters::recognise;
use leveret_model::formats::gguf::Meta;
use leveret_model::template::ChatTemplate;
use leveret_model::tokenizer::{StreamDecoder, Tokenizer};
use leveret_model::{ElementType, KvType, LoadOptions, Model, Precision, SetAside, Source, Team};
use leveret_spec::Detokenizer;
use serde_json::{Map, Value, json};

use crate::pull;
use crate::streams::tell;

/// How a model is loaded.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
    /// Type of the cached keys and values.
    #[arg(long, value_enum, default_value = "f16")]
    pub(crate) kv: Kv,
    /// Quantise the weights of a safetensors model, and of a drafter, as they are loaded.
    #[arg(long, value_name = "TYPE", value_parser = one_of(&QUANTIZED))]
    pub(crate) quantize: Option<ElementType>,
    /// Most tokens of prompt and output together; the default is 4096, or what the model allows if that is less.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) context: Option<usize>,
}

/// How many threads compute.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ThreadArgs {
    /// Threads to compute on; the default is one for each physical core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadArgs {
    pub(crate) fn count(self) -> usize {
        self.threads.map_or_else(Team::default_threads, usize::from)
    }
}

/// Type of cached keys and values.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kv {
    F16,
    F32,
}

/// A type of weights and its name on the command line.
type Named = (&'static str, ElementType);

/// Types that weights can be quantised to.
const QUANTIZED: [Named; 3] =
    [("q8_0", ElementType::Q8_0), ("q4_0", ElementType::Q4_0), ("q4_k", ElementType::Q4K)];

/// Types that weights can be written in.
pub(crate) const WRITTEN: [Named; 5] = {
    let [a, b, c] = QUANTIZED;
    [a, b, c, ("bf16", ElementType::BF16), ("f32", ElementType::F32)]
};

/// Parses the name of one of `types`.
pub(crate) fn one_of(types: &'static [Named]) -> impl TypedValueParser<Value = ElementType> {
    let named = move |text: String| types.iter().find(|(name, _)| *name == text).map(|&(_, ty)| ty);
    PossibleValuesParser::new(types.iter().map(|&(name, _)| name))
        .try_map(move |text| named(text).ok_or("not one of the types"))
}

/// Tokens of context when none are asked for.
const CONTEXT: usize = 4096;

/// Parses a whole number of at least 1.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".into()),
        Ok(n) => Ok(n),
    }
}

impl EngineArgs {
    /// Most tokens of a text by a model that allows `most`.
    pub(crate) fn context_within(&self, most: usize) -> usize {
        self.context.unwrap_or(CONTEXT).min(most)
    }

    /// The same for the engine.
    pub(crate) fn load_options(&self) -> LoadOptions {
        LoadOptions {
            threads: self.threads.count(),
            kv: match self.kv {
                Kv::F16 => KvType::F16,
                Kv::F32 => KvType::F32,
            },
            precision: self.quantize.map_or(Precision::AsStored, Precision::Quantize),
            context: self.context,
        }
    }
}

/// Finds a model and opens its files.
pub(crate) fn open(name: Option<&str>) -> Result<Source> {
    Ok(Source::open(pull::resolve(name)?)?)
}

/// A loaded model with all that goes with it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Where its files are.
    pub(crate) path: PathBuf,
    /// Whether they hold layers that guess.
    pub(crate) guesses: bool,
    pub(crate) model: Model,
    /// What became of its weights, and becomes of a drafter's.
    pub(crate) precision: Precision,
    pub(crate) words: Words,
    /// Token whose rows guess further tokens, in models that were trained so.
    pub(crate) mask: Option<u32>,
}

/// What is left out of a multimodal model's files, for people; `None` if nothing is.
pub(crate) fn note_of(source: &Source) -> Option<String> {
    let SetAside { tensors, bytes } = source.set_aside()?;
    Some(format!("{tensors} tensors for images and sound ({}) are skipped: text only", HumanBytes(bytes)))
}

/// Loads weights and tokenizer side by side.
pub(crate) fn load(source: &Source, options: &LoadOptions) -> Result<Loaded> {
    if let Some(note) = note_of(source) {
        tell!("{}: {note}", source.path().display());
    }
    let (words, model) = std::thread::scope(|scope| {
        let words = scope.spawn(|| Words::open(source));
        let model = Model::load(source, options);
        (words.join(), model)
    });
    let model = model?;
    let words = words.map_err(|_| anyhow!("{}: the tokenizer failed", source.path().display()))??;
    let mask = source.mask_token()?.or_else(|| {
        ["<|mask|>", "<mask>", "[MASK]", "<|MASK|>"].iter().find_map(|text| words.tokenizer.id_of(text))
    });
    let (path, guesses) = (source.path().to_owned(), recognise(source).is_some());
    Ok(Loaded { path, guesses, model, precision: options.precision, words, mask })
}

/// Tokenizer and chat template of a model.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
}

impl Words {
    /// Reads them from the model's files.
    pub(crate) fn open(source: &Source) -> Result<Self> {
        let tokenizer = source.tokenizer()?;
        let template = source.chat_template(&tokenizer)?;
        Ok(Self { template, tokenizer: Arc::new(tokenizer) })
    }

    /// Tokens of a prompt that is to be continued as it stands.
    pub(crate) fn raw_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode_prompt(text, true)?)
    }

    /// Tokens of a conversation in the model's chat format, up to where its turn begins; of the
    /// bare text if the model has no such format.
    pub(crate) fn chat_prompt(&self, user: &str, system: Option<&str>) -> Result<Vec<u32>> {
        let system = system.map(|text| message("system", text));
        self.conversation(system.into_iter().chain([message("user", user)]).collect())
    }

    /// Tokens of a conversation of [`message`]s up to where the model's turn begins; of the bare
    /// texts one after the other if the model has no chat format.
    pub(crate) fn conversation(&self, messages: Vec<Value>) -> Result<Vec<u32>> {
        let Some(template) = &self.template else {
            let texts: Vec<&str> =
                messages.iter().filter_map(|message| message["content"].as_str()).collect();
            return self.raw_prompt(&texts.join("\n"));
        };
        let text = template.render(&messages.into(), None, true, &Map::new()).context("chat template")?;
        self.raw_prompt(&text)
    }

    /// Makes text of a session's tokens.
    pub(crate) fn detokenizer(&self) -> Box<dyn Detokenizer> {
        Box::new(Speaker { tokenizer: Arc::clone(&self.tokenizer), stream: StreamDecoder::new() })
    }
}

/// A message of a conversation.
pub(crate) fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Text of a stream of tokens.
struct Speaker {
    tokenizer: Arc<Tokenizer>,
    stream: StreamDecoder,
}

impl Detokenizer for Speaker {
    fn push(&mut self, token: u32, text: &mut String) {
        text.push_str(&self.stream.push(&self.tokenizer, token));
    }

    fn finish(&mut self, text: &mut String) {
        text.push_str(&self.stream.finish());
    }
}

/// A text value of a GGUF file's metadata, empty if there is none.
pub(crate) fn meta_text<'a>(meta: &'a Meta, key: &str) -> &'a str {
    meta.get::<&str>(key).ok().flatten().unwrap_or_default()
}
