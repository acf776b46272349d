//! `leveret list`: the catalogue, and whatever else is in the store and in the hub's cache.

use std::io::Write;
use std::process::ExitCode;

use indicatif::HumanBytes;
use serde_json::json;

use crate::catalogue::Catalogue;
use crate::pull::{Store, hub_models};
use crate::streams::stdout;

/// Show the models that have a name and those that are here.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

/// One line of the list.
struct Line {
    name: String,
    bytes: u64,
    licence: String,
    place: Option<String>,
    title: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let lines = lines(&Catalogue::load()?, &Store::open()?);
    let mut out = stdout();
    if args.json {
        let entry = |line: &Line| {
            json!({
                "name": line.name, "title": line.title, "bytes": line.bytes,
                "licence": line.licence, "path": line.place,
            })
        };
        let list: Vec<_> = lines.iter().map(entry).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = lines.iter().map(|line| line.name.len()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {:>11}  {:<28}  WHERE", "NAME", "SIZE", "LICENCE")?;
    for line in &lines {
        let size = HumanBytes(line.bytes).to_string();
        let licence = line.licence.split(',').next().unwrap_or_default();
        let place = line.place.as_deref().unwrap_or("not here yet; leveret pull fetches it");
        writeln!(out, "{:width$}  {size:>11}  {licence:<28}  {place}", line.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(catalogue: &Catalogue, store: &Store) -> Vec<Line> {
    let named = catalogue.models.iter().map(|entry| Line {
        name: entry.name.clone(),
        bytes: entry.bytes,
        licence: entry.licence.clone(),
        place: store.holds(entry).then(|| store.path(&entry.name).display().to_string()),
        title: match entry.name == catalogue.default {
            true => format!("{} (default)", entry.title),
            false => entry.title.clone(),
        },
    });
    let own = store.models().into_iter().filter(|(name, _)| catalogue.get(name).is_none());
    let own = own.map(|(name, bytes)| {
        let path = store.path(&name);
        (name, path, bytes)
    });
    let other = own.chain(hub_models()).map(|(name, path, bytes)| Line {
        name,
        bytes,
        licence: "not known".into(),
        place: Some(path.display().to_string()),
        title: String::new(),
    });
    named.chain(other).collect()
}
