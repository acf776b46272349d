//! Lines of the user: with editing and history on a terminal, as they come from a pipe.

use std::io::{BufRead, IsTerminal, Stdin};

use anyhow::Result;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// What the user did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Said this; of one or several lines.
    Text(String),
    /// Gave a command: one line that begins with a slash, which is left out here.
    Command(String),
    /// Thought better of it.
    Interrupted,
    /// Left.
    End,
}

/// Where lines come from.
#[derive(Debug)]
pub(super) enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe(Stdin),
}

/// Line that begins and ends a text of several lines.
const FENCE: &str = "\"\"\"";

impl Input {
    /// Standard input.
    pub(super) fn new() -> Result<Self> {
        let stdin = std::io::stdin();
        match stdin.is_terminal() {
            true => Ok(Self::Terminal(Box::new(DefaultEditor::new()?))),
            false => Ok(Self::Pipe(stdin)),
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// What the user says next.
    pub(super) fn read(&mut self, prompt: &str) -> Result<Line> {
        let said = joined(|first| self.line(if first { prompt } else { "... " }))?;
        if let Self::Terminal(editor) = self {
            // A history that cannot take it in is no reason to stop.
            let _ = match &said {
                Line::Text(text) => editor.add_history_entry(text),
                Line::Command(command) => editor.add_history_entry(format!("/{command}")),
                Line::Interrupted | Line::End => Ok(false),
            };
        }
        Ok(said)
    }

    fn line(&mut self, prompt: &str) -> Result<Line> {
        match self {
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error.into()),
            },
            Self::Pipe(stdin) => {
                let mut line = String::new();
                if stdin.lock().read_line(&mut line)? == 0 {
                    return Ok(Line::End);
                }
                Ok(Line::Text(line.trim_end_matches(['\n', '\r']).to_owned()))
            }
        }
    }
}

/// Joins lines that belong together; `next` is told whether it is asked for the first one.
fn joined(mut next: impl FnMut(bool) -> Result<Line>) -> Result<Line> {
    let first = match next(true)? {
        Line::Text(line) => line,
        other => return Ok(other),
    };
    let fenced = first.trim() == FENCE;
    if let Some(command) = first.trim().strip_prefix('/').filter(|_| !first.ends_with('\\')) {
        return Ok(Line::Command(command.to_owned()));
    }
    let mut lines = Vec::new();
    let mut line = first;
    let mut opening = fenced;
    loop {
        let goes_on = if fenced { opening || line.trim() != FENCE } else { line.ends_with('\\') };
        if fenced {
            if !opening && goes_on {
                lines.push(line);
            }
        } else {
            lines.push(line.strip_suffix('\\').unwrap_or(&line).to_owned());
        }
        opening = false;
        if !goes_on {
            return Ok(Line::Text(lines.join("\n")));
        }
        line = match next(false)? {
            Line::Text(line) => line,
            Line::Command(_) | Line::Interrupted => return Ok(Line::Interrupted),
            // What is there is what was meant.
            Line::End => return Ok(Line::Text(lines.join("\n"))),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Line> {
        let mut lines = text.lines();
        let mut said = Vec::new();
        loop {
            let line =
                joined(|_| Ok(lines.next().map_or(Line::End, |line| Line::Text(line.to_owned())))).unwrap();
            if line == Line::End {
                return said;
            }
            said.push(line);
        }
    }

    #[test]
    fn lines_are_joined_where_they_say_so() {
        let text = |text: &str| Line::Text(text.into());
        assert_eq!(read("a\nb"), [text("a"), text("b")]);
        assert_eq!(read("a\\\nb\\\nc\nd"), [text("a\nb\nc"), text("d")]);
        assert_eq!(read("\"\"\"\na\\\n\nb\n\"\"\"\nc"), [text("a\\\n\nb"), text("c")]);
        assert_eq!(read("\"\"\"\nopen"), [text("open")], "the end closes everything");
        assert_eq!(read("a\\"), [text("a")]);
    }

    #[test]
    fn only_a_line_by_itself_is_a_command() {
        let text = |text: &str| Line::Text(text.into());
        assert_eq!(read(" /save a b\na/b"), [Line::Command("save a b".into()), text("a/b")]);
        assert_eq!(read("\"\"\"\n/quit\nb\n\"\"\""), [text("/quit\nb")]);
        assert_eq!(read("/* a\\\nb */"), [text("/* a\nb */")]);
    }
}
