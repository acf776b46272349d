//! What `--drafter` can name, and how it becomes a drafter.
//!
//! A name is read once ([`DrafterSpec`]), what it needs is loaded once for a model
//! ([`DrafterSpec::load`]), and every text being written gets a drafter of its own
//! ([`DrafterSource::build`]).

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use leveret_spec::Drafter;
use leveret_spec::drafters::SuffixDrafter;

use crate::draft_model::DraftModel;
use crate::model::Loaded;

/// The option of every command that guesses ahead.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrafterArgs {
    /// What guesses ahead: none, auto, suffix, or model:NAME for another model (name or path). The text is the same with each; only the speed differs.
    #[arg(long, value_name = "DRAFTER", default_value = "auto")]
    pub(crate) drafter: DrafterSpec,
}

/// What guesses ahead. Its text form is that of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DrafterSpec {
    /// Nothing: plain decoding.
    None,
    /// The best that is there for the model; today the suffix drafter.
    Auto,
    /// Repetitions of earlier text.
    Suffix,
    /// Another model, by name or path.
    Model(String),
}

impl FromStr for DrafterSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            "suffix" => Ok(Self::Suffix),
            _ => match text.split_once(':') {
                Some(("model", name)) if !name.is_empty() => Ok(Self::Model(name.to_owned())),
                _ => Err("expected none, auto, suffix or model:NAME".into()),
            },
        }
    }
}

impl fmt::Display for DrafterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Auto => f.write_str("auto"),
            Self::Suffix => f.write_str("suffix"),
            Self::Model(name) => write!(f, "model:{name}"),
        }
    }
}

impl DrafterSpec {
    /// Loads what drafters of this kind share for a target: weights, files, earlier texts.
    ///
    /// # Errors
    /// Files that are missing or do not fit the target.
    pub(crate) fn load(&self, target: &Loaded) -> Result<DrafterSource> {
        Ok(DrafterSource(match self {
            Self::None => None,
            Self::Auto | Self::Suffix => Some(Box::new(|| Ok(Box::new(SuffixDrafter::default())))),
            Self::Model(name) => {
                let model = DraftModel::load(name, target)?;
                Some(Box::new(move || model.drafter()))
            }
        }))
    }
}

/// Makes drafters of one kind for one target, one for each text.
pub(crate) struct DrafterSource(Option<Make>);

type Make = Box<dyn Fn() -> Result<Box<dyn Drafter>>>;

impl DrafterSource {
    /// A drafter for a new text; `None` for plain decoding.
    ///
    /// # Errors
    /// No memory for what it keeps.
    pub(crate) fn build(&self) -> Result<Option<Box<dyn Drafter>>> {
        self.0.as_ref().map(|make| make()).transpose()
    }
}

impl fmt::Debug for DrafterSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DrafterSource").field(&self.0.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["none", "auto", "suffix", "model:smollm2-135m-instruct", "model:/a/b:c.gguf"] {
            assert_eq!(name.parse::<DrafterSpec>().unwrap().to_string(), name);
        }
        assert!("oracle".parse::<DrafterSpec>().unwrap_err().contains("suffix"));
    }
}
