//! What a template sees of Python: the set-up that transformers gives to Jinja.

use std::fmt::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use super::strings;

/// An environment in which published templates behave as they do in transformers.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    environment.add_filter("center", strings::center);
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    for name in ["escape", "e"] {
        environment.add_filter(name, strings::escape);
    }
    environment.add_filter("float", float);
    environment.add_filter("indent", strings::indent);
    environment.add_filter("int", int);
    environment.add_filter("string", to_text);
    environment.add_filter("tojson", to_json);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordcount", |text: &str| words(text));
    environment.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| super::clock::now(format));
    // In Python strings and mappings can be indexed and iterated too.
    environment.add_test("sequence", |value: &Value| is_container(value));
    environment
        .add_test("iterable", |value: &Value| is_container(value) || value.kind() == ValueKind::Iterable);
    environment
}

fn is_container(value: &Value) -> bool {
    use ValueKind::{Map, Seq, String, Undefined};
    matches!(value.kind(), Map | Seq | String | Undefined)
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// Writes a value where the template prints it.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.as_object().is_some() || is_float(value) {
        return out.write_str(&to_text(state, value)?).map_err(Error::from);
    }
    minijinja::escape_formatter(out, state, value)
}

fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

/// Text of `length` characters at most, and `leeway` more: cut behind a word, unless words may be
/// cut, with `end` instead of what is missing.
fn truncate(
    text: &str,
    length: Option<usize>,
    cut_words: Option<bool>,
    end: Option<&str>,
    options: Kwargs,
) -> Result<String, Error> {
    let length = options.get::<Option<usize>>("length")?.or(length).unwrap_or(255);
    let cut_words = options.get::<Option<bool>>("killwords")?.or(cut_words).unwrap_or(false);
    let end = options.get::<Option<&str>>("end")?.or(end).unwrap_or("...");
    let leeway = options.get::<Option<usize>>("leeway")?.unwrap_or(5);
    options.assert_all_used()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = if cut_words { kept.as_str() } else { kept.rsplit_once(' ').map_or(&*kept, |(kept, _)| kept) };
    Ok(format!("{kept}{end}"))
}

/// Runs of letters, digits and underscores.
fn words(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

/// `str()`.
fn to_text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut metered = Metered::new(state);
    let written = match value.as_object() {
        Some(_) => metered.repr(value),
        None => metered.scalar(value),
    };
    written.map_err(|error| metered.cause(error))?;
    Ok(metered.text)
}

/// Text that pays for itself as it grows. A list may hold itself many times over, or be made on
/// demand, so that its text is beyond all proportion to the work of making it.
struct Metered<'s, 't, 'e> {
    text: String,
    state: &'s State<'t, 'e>,
    failure: Option<Error>,
}

impl<'s, 't, 'e> Metered<'s, 't, 'e> {
    fn new(state: &'s State<'t, 'e>) -> Self {
        Self { text: String::new(), state, failure: None }
    }

    /// `repr()`. Unlike the formatter of the standard library it stops at the first failure.
    fn repr(&mut self, value: &Value) -> std::fmt::Result {
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
                let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
                self.write_str(open)?;
                for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                    self.write_str(if i > 0 { ", " } else { "" })?;
                    self.repr(&item)?;
                }
                let single = value.is_tuple() && value.len() == Some(1);
                self.write_str(if single { "," } else { "" })?;
                self.write_str(close)
            }
            ValueKind::Map => {
                self.write_str("{")?;
                for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                    self.write_str(if i > 0 { ", " } else { "" })?;
                    self.repr(&key)?;
                    self.write_str(": ")?;
                    self.repr(&value.get_item(&key).unwrap_or_default())?;
                }
                self.write_str("}")
            }
            _ if is_float(value) => self.scalar(value),
            _ => write!(self, "{value:?}"),
        }
    }

    fn scalar(&mut self, value: &Value) -> std::fmt::Result {
        match f64::try_from(value.clone()) {
            Ok(number) if is_float(value) => self.write_str(&python_float(number)),
            _ => write!(self, "{value}"),
        }
    }

    /// What ended the writing.
    fn cause(&mut self, error: impl std::fmt::Display) -> Error {
        let other = || Error::new(ErrorKind::InvalidOperation, error.to_string());
        self.failure.take().unwrap_or_else(other)
    }
}

impl std::fmt::Write for Metered<'_, '_, '_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // Walking a value costs more than copying its bytes.
        match self.state.consume_fuel(text.len().div_ceil(4) as u64) {
            Ok(()) => self.text.push_str(text),
            Err(error) => {
                self.failure = Some(error);
                return Err(std::fmt::Error);
            }
        }
        Ok(())
    }
}

impl std::io::Write for Metered<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.write_str(&text).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Methods of strings, lists and dictionaries.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = strings::method(state, text, name, args)?
    {
        return Ok(result);
    }
    match (value.kind(), name) {
        // Nothing changes a list or a dictionary.
        (ValueKind::Seq | ValueKind::Map, "copy") => {
            from_args::<()>(args)?;
            Ok(value.clone())
        }
        (ValueKind::Seq, "index") => {
            let (wanted,) = from_args::<(&Value,)>(args)?;
            let place = value.try_iter()?.position(|item| item == *wanted);
            let missing = || Error::new(ErrorKind::InvalidOperation, "the item is not in the list");
            place.map(Value::from).ok_or_else(missing)
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// The filter `default`.
fn default(
    value: &Value,
    other: Option<Value>,
    falsy: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(options.get("default_value")?).unwrap_or_else(|| "".into());
    let falsy = falsy.or(options.get("boolean")?).unwrap_or(false);
    options.assert_all_used()?;
    Ok(if value.is_undefined() || falsy && !value.is_true() { other } else { value.clone() })
}

/// The filter `int`: what is no number is 0, or what is given for it.
fn int(
    state: &State<'_, '_>,
    value: &Value,
    other: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(options.get("default")?).unwrap_or_else(|| 0.into());
    let base = base.or(options.get("base")?);
    options.assert_all_used()?;
    minijinja::filters::int(state, &trimmed(value), Some(other), base, no_options())
}

/// The filter `float`, as `int`.
fn float(
    state: &State<'_, '_>,
    value: &Value,
    other: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(options.get("default")?).unwrap_or_else(|| 0.0.into());
    options.assert_all_used()?;
    minijinja::filters::float(state, &trimmed(value), Some(other), no_options())
}

fn trimmed(value: &Value) -> Value {
    value.as_str().map_or_else(|| value.clone(), |text| text.trim().into())
}

fn no_options() -> Kwargs {
    std::iter::empty::<(&str, Value)>().collect()
}

/// Most characters that a level of JSON is indented by.
const MAX_INDENT: usize = 64;

/// `json.dumps`, with `ensure_ascii=False` where nothing is said: nothing is escaped for HTML, keys keep their order.
fn to_json(
    state: &State<'_, '_>,
    value: &Value,
    ascii: Option<Value>,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let indent = match indent.or(options.get::<Option<Value>>("indent")?) {
        Some(value) if value.is_none() => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.chars().take(MAX_INDENT).collect(),
            None => " ".repeat(usize::try_from(value)?.min(MAX_INDENT)),
        }),
        None => None,
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = ascii.or(options.get("ensure_ascii")?).is_some_and(|ascii| ascii.is_true());
    options.assert_all_used()?;

    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
    };
    let mut metered = Metered::new(state);
    serde_json::to_writer(&mut metered, value).map_err(|error| metered.cause(error))?;
    let json: serde_json::Value =
        serde_json::from_str(&metered.text).map_err(|error| metered.cause(error))?;
    let mut writer = JsonWriter { out: Metered::new(state), indent, item, key, sort_keys };
    writer.value(&json, 0).map_err(|error| writer.out.cause(error))?;
    Ok(if ascii { escaped(&writer.out.text) } else { writer.out.text })
}

/// Everything beyond ASCII as the UTF-16 units that JSON writes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(out, "\\u{unit:04x}");
            }),
        }
    }
    out
}

/// Indents and separators may be far longer than what they stand between, so this is metered as well.
struct JsonWriter<'s, 't, 'e> {
    out: Metered<'s, 't, 'e>,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl JsonWriter<'_, '_, '_> {
    fn value(&mut self, value: &serde_json::Value, depth: usize) -> std::fmt::Result {
        match value {
            serde_json::Value::Array(list) if !list.is_empty() => {
                self.out.write_str("[")?;
                for (i, value) in list.iter().enumerate() {
                    self.separate(i, depth + 1)?;
                    self.value(value, depth + 1)?;
                }
                self.line(depth)?;
                self.out.write_str("]")
            }
            serde_json::Value::Object(map) if !map.is_empty() => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.out.write_str("{")?;
                for (i, (key, value)) in entries.into_iter().enumerate() {
                    self.separate(i, depth + 1)?;
                    self.out.write_str(&serde_json::Value::from(key.as_str()).to_string())?;
                    self.out.write_str(&self.key)?;
                    self.value(value, depth + 1)?;
                }
                self.line(depth)?;
                self.out.write_str("}")
            }
            serde_json::Value::Number(number) if number.is_f64() => {
                self.out.write_str(&python_float(number.as_f64().unwrap_or(f64::NAN)))
            }
            scalar => self.out.write_str(&scalar.to_string()),
        }
    }

    fn separate(&mut self, i: usize, depth: usize) -> std::fmt::Result {
        if i > 0 {
            self.out.write_str(&self.item)?;
        }
        self.line(depth)
    }

    fn line(&mut self, depth: usize) -> std::fmt::Result {
        let Some(indent) = &self.indent else { return Ok(()) };
        self.out.write_str("\n")?;
        (0..depth).try_for_each(|_| self.out.write_str(indent))
    }
}

/// The shortest digits that read back as the same number, with Python's form of exponents.
fn python_float(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}
