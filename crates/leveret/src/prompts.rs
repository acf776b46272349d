//! Prompt files as the benchmarks publish them: one JSON object a line.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use serde_json::Value;

/// One prompt of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its id in the file.
    pub name: String,
    /// The kind of task, as the file says, else the file's own name.
    pub category: String,
    /// Name of the file, without ending.
    pub file: String,
    /// What the user says, turn by turn; of a text to continue there is one. At least one.
    pub turns: Vec<String>,
    /// Whether it is to be continued as it stands (HumanEval) and not answered.
    pub raw: bool,
}

impl Prompt {
    /// The first turn, or the text to continue.
    pub fn text(&self) -> &str {
        &self.turns[0]
    }
}

/// Reads a file of `{"turns": […]}` (Spec-Bench, MT-Bench, code edits) or `{"prompt": …}`
/// (HumanEval) lines, packed by gzip or not.
///
/// # Errors
/// A file that cannot be read, or a line of another form.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(name)?;
    let text = unpacked(bytes).with_context(name)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let file = file.strip_suffix(".gz").unwrap_or(&file);
    let file = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
    parse(&file, &text).with_context(name)
}

/// The text of a file that may be a gzip archive, as HumanEval is published.
fn unpacked(bytes: Vec<u8>) -> Result<String> {
    const MOST: u64 = 1 << 30;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return String::from_utf8(bytes).context("expected text in UTF-8");
    }
    let mut text = String::new();
    MultiGzDecoder::new(&bytes[..]).take(MOST + 1).read_to_string(&mut text).context("gzip")?;
    if text.len() as u64 > MOST {
        bail!("gzip: unpacks to more than 1 GiB; expected a file of prompts");
    }
    Ok(text)
}

/// At most `count` prompts, evenly spread over the list.
pub fn spread(list: Vec<Prompt>, count: usize) -> Vec<Prompt> {
    let len = list.len();
    let chosen = |(i, prompt)| is_chosen(i, len, count).then_some(prompt);
    list.into_iter().enumerate().filter_map(chosen).collect()
}

/// At most `count` prompts of each category, evenly spread over it.
pub fn spread_by_category(list: Vec<Prompt>, count: usize) -> Vec<Prompt> {
    let key = |prompt: &Prompt| (prompt.file.clone(), prompt.category.clone());
    let mut sizes = BTreeMap::new();
    list.iter().for_each(|prompt| *sizes.entry(key(prompt)).or_insert(0) += 1);
    let mut seen: BTreeMap<_, usize> = BTreeMap::new();
    let mut list = list;
    list.retain(|prompt| {
        let key = key(prompt);
        let len = sizes.get(&key).copied().unwrap_or(0);
        let i = seen.entry(key).or_default();
        *i += 1;
        is_chosen(*i - 1, len, count)
    });
    list
}

/// Whether place `i` of `len` is one of `count` that are evenly spread, the first among them.
fn is_chosen(i: usize, len: usize, count: usize) -> bool {
    let count = count.min(len);
    let k = (i * count).div_ceil(len);
    k < count && k * len / count == i
}

fn parse(file: &str, text: &str) -> Result<Vec<Prompt>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompts: Vec<Prompt> = lines
        .map(|(i, line)| prompt(file, i, line).with_context(|| format!("line {}", i + 1)))
        .collect::<Result<_>>()?;
    if prompts.is_empty() {
        bail!("holds no prompts");
    }
    Ok(prompts)
}

fn prompt(file: &str, line: usize, text: &str) -> Result<Prompt> {
    let value: Value = serde_json::from_str(text)?;
    let name = match value.get("question_id").or_else(|| value.get("task_id")) {
        Some(Value::String(id)) => id.clone(),
        Some(id) => id.to_string(),
        None => (line + 1).to_string(),
    };
    let category = value["category"].as_str().unwrap_or(file).to_owned();
    let texts = value["turns"].as_array().into_iter().flatten();
    let turns: Option<Vec<String>> = texts.map(|turn| turn.as_str().map(str::to_owned)).collect();
    let file = file.to_owned();
    match (turns, value["prompt"].as_str()) {
        (Some(turns), _) if !turns.is_empty() => Ok(Prompt { name, category, file, turns, raw: false }),
        (Some(_), Some(text)) => Ok(Prompt { name, category, file, turns: vec![text.to_owned()], raw: true }),
        _ => bail!("expected an object with \"turns\" (an array of texts) or \"prompt\" (a text)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_benchmarks_publish() {
        let text = r#"{"question_id": 81, "category": "writing", "turns": ["a", "b"], "reference": []}

            {"task_id": "HumanEval/0", "prompt": "def f():", "test": ""}
            {"turns": ["c"]}"#;
        let read = parse("mixed", text).unwrap();
        let seen: Vec<_> =
            read.iter().map(|p| (&p.name[..], &p.category[..], p.turns.len(), p.raw)).collect();
        assert_eq!(
            seen,
            [("81", "writing", 2, false), ("HumanEval/0", "mixed", 1, true), ("4", "mixed", 1, false)]
        );
        for (bad, told) in [
            ("", "no prompts"),
            ("{\"turns\": []}", "line 1"),
            ("\n{", "line 2"),
            ("3", "line 1"),
            (r#"{"turns": ["a", 3]}"#, "line 1"),
        ] {
            assert!(format!("{:#}", parse("x", bad).unwrap_err()).contains(told), "{bad:?}");
        }
    }

    #[test]
    fn a_packed_file_is_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("HumanEval.jsonl.gz");
        let mut packed =
            flate2::write::GzEncoder::new(std::fs::File::create(&path).unwrap(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, b"{\"prompt\": \"def f():\"}\n").unwrap();
        drop(packed.finish().unwrap());
        let read = super::read(&path).unwrap();
        assert_eq!((&read[0].file[..], read[0].text()), ("HumanEval", "def f():"));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(format!("{:#}", super::read(&path).unwrap_err()).contains("gzip"));
    }

    #[test]
    fn a_limit_holds_for_each_category() {
        let line = |i: usize| {
            format!("{{\"category\": \"{}\", \"turns\": [\"{i}\"]}}\n", if i < 10 { "a" } else { "b" })
        };
        let list = parse("f", &(0..12).map(line).collect::<String>()).unwrap();
        let texts: Vec<String> =
            spread_by_category(list, 3).into_iter().map(|prompt| prompt.turns[0].clone()).collect();
        assert_eq!(texts, ["0", "3", "6", "10", "11"]);
        for (len, count) in [(1, 1), (7, 3), (82, 42), (5, 9)] {
            let chosen: Vec<usize> = (0..len).filter(|&i| is_chosen(i, len, count)).collect();
            let count = count.min(len);
            assert_eq!(chosen, (0..count).map(|k| k * len / count).collect::<Vec<_>>());
        }
    }
}
