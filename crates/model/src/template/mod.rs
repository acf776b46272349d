//! Chat templates: messages to the text that a model was trained to continue.
//!
//! A template is a program that comes with the model, written for Python's Jinja. It runs here
//! with bounded work and memory, and what it sees of Python is in `python` and `strings`. One way round the
//! bound is left in the engine: joining (`~`), comparing or formatting a list that a template made
//! to hold itself many times over.

mod clock;
mod python;
pub(crate) mod source;
mod strings;

use std::path::Path;

use minijinja::Environment;
use serde_json::{Map, Value};

use crate::formats::gguf::Meta;
use crate::formats::quoted;
use crate::{Error, Result};

/// Work a rendering may do, in units of one instruction or 64 bytes of text: several hundred
/// times what a long conversation takes, and less than a second.
const FUEL: u64 = 1_000_000;

/// Longest template; published ones are a tenth of it.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Stack of the thread that compiles and renders. A template can nest an expression with every
/// character and a value with every instruction, and walking those recurses: the limits above
/// run out before this does.
const STACK_BYTES: usize = 256 << 20;

const MAIN: &str = "chat template";
const TOOL_USE: &str = "chat template for tools";

/// A compiled chat template, with the variant for tools where a model has one.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
    has_tool_use: bool,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of its variables `bos_token` and
    /// `eos_token`.
    ///
    /// # Errors
    /// The template is not well formed; the message names the line.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        let mut environment = python::environment();
        environment.set_fuel(Some(FUEL));
        let mut template =
            Self { environment, bos: bos.map(Into::into), eos: eos.map(Into::into), has_tool_use: false };
        template.add(MAIN, source)?;
        Ok(template)
    }

    /// Adds the variant that is used when tools are given.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_tool_use(mut self, source: &str) -> Result<Self> {
        self.add(TOOL_USE, source)?;
        self.has_tool_use = true;
        Ok(self)
    }

    /// The template of a GGUF file, or `None` if it has none.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn from_gguf(meta: &Meta, bos: Option<&str>, eos: Option<&str>) -> Result<Option<Self>> {
        let sources = source::in_gguf(meta)?;
        Self::from_sources(meta.path(), sources, bos, eos)
    }

    /// The template of a Hugging Face folder, or `None` if it has none.
    ///
    /// # Errors
    /// A file that cannot be read; otherwise as for [`new`](Self::new).
    pub fn from_folder(dir: &Path, bos: Option<&str>, eos: Option<&str>) -> Result<Option<Self>> {
        let sources = source::in_folder(dir)?;
        Self::from_sources(dir, sources, bos, eos)
    }

    fn from_sources(
        path: &Path,
        sources: source::Sources,
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> Result<Option<Self>> {
        let Some(main) = sources.main else { return Ok(None) };
        let mut template = Self::new(&main, bos, eos);
        if let Some(tool_use) = &sources.tool_use {
            template = template.and_then(|template| template.with_tool_use(tool_use));
        }
        template.map(Some).map_err(|error| Error::format(path, error.to_string()))
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::request(format!(
                "{name} has {} bytes; expected at most {MAX_SOURCE_BYTES}",
                source.len()
            )));
        }
        let source = source::without_generation_tags(source);
        on_deep_stack(|| self.environment.add_template_owned(name, source))
    }

    /// Renders a conversation. `messages` is a list of objects with `role` and `content`; `tools`
    /// a list of function descriptions; `extra` holds further variables of the template, which
    /// take precedence over all others.
    ///
    /// # Errors
    /// The template refuses the conversation, uses something unknown, or does too much work.
    pub fn render(
        &self,
        messages: &Value,
        tools: Option<&Value>,
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String> {
        let mut variables = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            variables.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("messages", Some(messages.clone()));
        set("tools", tools.cloned());
        set("add_generation_prompt", Some(add_generation_prompt.into()));
        set("bos_token", self.bos.clone().map(Value::from));
        set("eos_token", self.eos.clone().map(Value::from));
        variables.extend(extra.clone());

        let name = if tools.is_some() && self.has_tool_use { TOOL_USE } else { MAIN };
        on_deep_stack(|| {
            let template = self.environment.get_template(name)?;
            template.render(minijinja::value::Serde(&variables))
        })
    }
}

/// Runs the template engine where its recursion has room.
fn on_deep_stack<T: Send>(run: impl FnOnce() -> Result<T, minijinja::Error> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || run().map_err(|error| describe(&error)))
            .map_err(|error| Error::request(format!("no thread for the chat template: {error}")))?
            .join()
            .unwrap_or_else(|_| Err(Error::request("the chat template engine failed")))
    })
}

/// One line: which template, which line of it, and what is wrong, down to the first cause.
fn describe(error: &minijinja::Error) -> Error {
    let place = match (error.name(), error.line()) {
        (Some(name), Some(line)) => format!("{name}, line {line}"),
        _ => MAIN.into(),
    };
    let what = match error.kind() {
        minijinja::ErrorKind::OutOfFuel => {
            "too much work: the template does not end or makes too much text".into()
        }
        kind => error.detail().map_or_else(|| kind.to_string(), Into::into),
    };
    Error::request(format!("{place}: {}", quoted(&what)))
}
