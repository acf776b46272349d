//! Methods and filters of strings that the engine lacks, or has otherwise than Python.

use minijinja::value::{Kwargs, Rest, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Calls a method of `text`; `None` for those that the engine's own emulation of Python has.
pub(super) fn method(
    state: &State<'_, '_>,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "removeprefix" => {
            let (affix,) = from_args::<(&str,)>(args)?;
            text.strip_prefix(affix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (affix,) = from_args::<(&str,)>(args)?;
            text.strip_suffix(affix).unwrap_or(text).into()
        }
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "partition" => {
            let (separator,) = from_args::<(&str,)>(args)?;
            let found = text.split_once(separator);
            parts(found.map_or([text, "", ""], |(before, after)| [before, separator, after]))
        }
        "rpartition" => {
            let (separator,) = from_args::<(&str,)>(args)?;
            let found = text.rsplit_once(separator);
            parts(found.map_or(["", "", text], |(before, after)| [before, separator, after]))
        }
        "find" => find(text, args, false)?.map_or((-1).into(), Value::from),
        "rfind" => find(text, args, true)?.map_or((-1).into(), Value::from),
        "index" => find(text, args, false)?.ok_or_else(|| fault("substring not found"))?.into(),
        "rindex" => find(text, args, true)?.ok_or_else(|| fault("substring not found"))?.into(),
        "center" => padded(state, text, args, centred)?.into(),
        "ljust" => padded(state, text, args, |_, _| 0)?.into(),
        "rjust" => padded(state, text, args, |missing, _| missing)?.into(),
        "zfill" => {
            let (width,) = from_args::<(i64,)>(args)?;
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            let zeros = room(state, text, width, 1)?;
            format!("{sign}{}{digits}", "0".repeat(zeros)).into()
        }
        "title" => {
            from_args::<()>(args)?;
            title(text).into()
        }
        "swapcase" => {
            from_args::<()>(args)?;
            let swapped = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            };
            text.chars().map(swapped).collect::<String>().into()
        }
        "casefold" => {
            from_args::<()>(args)?;
            text.to_lowercase().replace('ß', "ss").into()
        }
        _ => return Ok(None),
    }))
}

fn fault(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(String::from).collect()
}

/// `split` and, from the end, `rsplit`: at a separator, or at runs of white space.
fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, most, options) = from_args::<(Option<&str>, Option<i64>, Kwargs)>(args)?;
    let separator = separator.or(options.get("sep")?);
    let most = most.or(options.get("maxsplit")?).unwrap_or(-1);
    options.assert_all_used()?;
    let most = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut found: Vec<&str> = match separator {
        Some("") => return Err(fault("empty separator")),
        Some(separator) if from_end => text.rsplitn(most, separator).collect(),
        Some(separator) => text.splitn(most, separator).collect(),
        None => words(text, most, from_end),
    };
    if from_end {
        found.reverse();
    }
    Ok(parts(found))
}

/// At most `most` pieces between white space, the last of which is all that is left.
fn words(text: &str, most: usize, from_end: bool) -> Vec<&str> {
    let trimmed = |text: &'_ str| if from_end { text.trim_end().len() } else { text.trim_start().len() };
    let mut rest = text;
    let mut found = Vec::new();
    loop {
        let kept = trimmed(rest);
        rest = if from_end { &rest[..kept] } else { &rest[rest.len() - kept..] };
        if rest.is_empty() {
            return found;
        }
        let cut = if from_end { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let Some(cut) = cut.filter(|_| found.len() + 1 < most) else {
            found.push(rest);
            return found;
        };
        let width = rest[cut..].chars().next().map_or(0, char::len_utf8);
        let (before, after) = (&rest[..cut], &rest[cut + width..]);
        let (word, left) = if from_end { (after, before) } else { (before, after) };
        found.push(word);
        rest = left;
    }
}

/// Where a part stands first, or last, between two characters, counted in characters.
fn find(text: &str, args: &[Value], last: bool) -> Result<Option<usize>, Error> {
    let (part, start, end) = from_args::<(&str, Option<i64>, Option<i64>)>(args)?;
    let length = text.chars().count();
    // From the end where negative, as in a slice.
    let place = |at: i64| {
        let near = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX).min(length);
        if at < 0 { length - near } else { near }
    };
    let (start, end) = (start.map_or(0, place), end.map_or(length, place));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let Some(within) = text.get(byte(start)..byte(end)) else { return Ok(None) };
    let found = if last { within.rfind(part) } else { within.find(part) };
    Ok(found.map(|found| start + within[..found].chars().count()))
}

/// Characters that `text` lacks to be `width` long, paid for before they are made.
fn room(state: &State<'_, '_>, text: &str, width: i64, bytes: usize) -> Result<usize, Error> {
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    state.consume_fuel((missing.saturating_mul(bytes) / 64) as u64)?;
    Ok(missing)
}

/// `text` with as many fills before it as `before` says of those that are missing for a width.
fn padded(
    state: &State<'_, '_>,
    text: &str,
    args: &[Value],
    before: impl Fn(usize, usize) -> usize,
) -> Result<String, Error> {
    let (width, fill) = from_args::<(i64, Option<&str>)>(args)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(fault("the fill must be one character"));
    }
    let missing = room(state, text, width, fill.len())?;
    let left = before(missing, missing + text.chars().count());
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
}

/// Of `missing` fills those on the left of a text that is to be in the middle of `width`.
fn centred(missing: usize, width: usize) -> usize {
    missing / 2 + (missing & width & 1)
}

/// Every letter behind a letter small, every other one large.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut titled = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            titled.extend(c.to_lowercase());
        } else {
            titled.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    titled
}

/// The filter `center`.
pub(super) fn center(state: &State<'_, '_>, text: &str, width: Option<i64>) -> Result<String, Error> {
    padded(state, text, &[width.unwrap_or(80).into()], centred)
}

/// The filter `indent`: by so many spaces or by a text; the first line and empty ones if asked for.
pub(super) fn indent(state: &State<'_, '_>, text: &str, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args: Vec<Value> = args.0.into_iter().map(Value::from).collect();
    let (width, first, blank, options) =
        from_args::<(Option<Value>, Option<bool>, Option<bool>, Kwargs)>(&args)?;
    let width = width.or(options.get("width")?);
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = blank.or(options.get("blank")?).unwrap_or(false);
    options.assert_all_used()?;
    let space = match width {
        Some(width) if width.as_str().is_some() => width.to_string(),
        Some(width) => " ".repeat(room(state, "", i64::try_from(width)?, 1)?),
        None => " ".repeat(4),
    };
    state.consume_fuel((text.matches('\n').count().saturating_mul(space.len()) / 64) as u64)?;
    let mut indented = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        indented.push_str(if i > 0 { "\n" } else { "" });
        let line = line.strip_suffix('\r').unwrap_or(line);
        if if i > 0 { blank || !line.is_empty() } else { first } {
            indented.push_str(&space);
        }
        indented.push_str(line);
    }
    Ok(indented)
}

/// The filters `escape` and `e`.
pub(super) fn escape(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let text = value.to_string();
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    Value::from_safe_string(escaped)
}
