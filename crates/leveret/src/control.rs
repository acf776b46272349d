//! How far commands guess: the rule, and what passes cost on this machine, which is measured once
//! and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use leveret_kernels::Isa;
use leveret_model::{Model, Precision, Source};
use leveret_spec::{Control, CostCurve, measure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::machine;
use crate::model::Loaded;
use crate::pull;

/// The option of every command that guesses ahead.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ControlArgs {
    /// How it is decided how far to guess: price, ratio, fixed:N rows, or pmin:P for tokens at least
    /// that likely. The text is the same with each, only the speed differs; unless another --accept
    /// than match is asked for.
    #[arg(long, value_name = "RULE", default_value = "price")]
    pub(crate) control: Control,
}

/// Most time for the measurement of a target, and of a draft model beside it.
const BUDGET: Duration = Duration::from_millis(1600);
const DRAFT_BUDGET: Duration = Duration::from_millis(400);

/// What a measurement holds for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Setting {
    model: PathBuf,
    bytes: u64,
    cpu: String,
    /// Instruction set of the kernels.
    isa: String,
    threads: usize,
    kv: String,
    /// What became of the weights at load.
    precision: String,
    version: String,
}

/// A measurement as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    setting: Setting,
    curve: CostCurve,
}

/// Where the curve of a model on this machine is kept, beside the fetched models.
#[derive(Debug)]
pub(crate) struct Costs {
    setting: Setting,
    /// `None` where no home folder is known.
    path: Option<PathBuf>,
    budget: Duration,
}

/// A pass that takes less of its time on the curve says that something disturbed the measurement.
const DOUBTFUL: f64 = 0.8;

impl Costs {
    pub(crate) fn of(loaded: &Loaded, source: &Source) -> Self {
        Self::new(&loaded.model, source, loaded.precision, BUDGET)
    }

    /// Those of a draft model, which matter less.
    pub(crate) fn of_draft(model: &Model, source: &Source, precision: Precision) -> Self {
        Self::new(model, source, precision, DRAFT_BUDGET)
    }

    fn new(model: &Model, source: &Source, precision: Precision, budget: Duration) -> Self {
        let setting = Setting {
            model: fs::canonicalize(source.path()).unwrap_or_else(|_| source.path().to_owned()),
            bytes: source.file_bytes(),
            cpu: machine::cpu(),
            isa: format!("{:?}", Isa::current()),
            threads: model.threads(),
            kv: format!("{:?}", model.kv_type()),
            precision: format!("{precision:?}"),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let path = pull::home().ok().and_then(|home| Some(home.join("costs").join(file_name(&setting)?)));
        Self { setting, path, budget }
    }

    /// The time of a pass of `model` by its rows: from an earlier run, or measured now.
    ///
    /// # Errors
    /// A pass that fails. What cannot be read or written is measured again next time.
    pub(crate) fn curve(&self, model: &mut Model) -> Result<CostCurve> {
        match self.path.as_deref().and_then(|path| read(path, &self.setting)) {
            Some(curve) => Ok(curve),
            None => self.measure(model),
        }
    }

    /// The same, measured now in less than two seconds, and kept.
    ///
    /// # Errors
    /// A pass that fails.
    pub(crate) fn measure(&self, model: &mut Model) -> Result<CostCurve> {
        let curve = measure(model, self.budget)?;
        if let Some(path) = &self.path {
            // A folder that cannot be written to costs the time of measuring again, and no more.
            let _ = write(path, &Kept { setting: self.setting.clone(), curve: curve.clone() });
        }
        Ok(curve)
    }

    /// Has the curve measured again next time if a pass of one row takes `seconds`, far less than it says: the machine
    /// was busier then.
    pub(crate) fn review(&self, curve: &CostCurve, seconds: Option<f64>) {
        if seconds.is_some_and(|seconds| seconds < DOUBTFUL * curve.time(1, 0)) {
            // What cannot be deleted stays.
            let _ = self.path.as_deref().map(fs::remove_file);
        }
    }
}

fn file_name(setting: &Setting) -> Option<String> {
    let hash = Sha256::digest(serde_json::to_vec(setting).ok()?);
    let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{hex}.json"))
}

fn read(path: &Path, setting: &Setting) -> Option<CostCurve> {
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (kept.setting == *setting).then_some(kept.curve)
}

/// Writes a file of its own and renames it, so that no reader sees half of it.
fn write(path: &Path, kept: &Kept) -> Result<()> {
    let folder = path.parent().context("no folder")?;
    fs::create_dir_all(folder)?;
    let file = part(folder);
    fs::write(&file, serde_json::to_vec_pretty(kept)?)?;
    Ok(fs::rename(&file, path)?)
}

fn part(folder: &Path) -> PathBuf {
    folder.join(format!(".{}.part", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_for_its_setting_alone() {
        let folder = tempfile::tempdir().unwrap();
        let setting = Setting {
            model: "m.gguf".into(),
            bytes: 5,
            cpu: "c".into(),
            isa: "Avx2".into(),
            threads: 2,
            kv: "F16".into(),
            precision: "AsStored".into(),
            version: "1".into(),
        };
        let path = folder.path().join("costs").join(file_name(&setting).unwrap());
        let curve = CostCurve::new(&[(1, 0.01), (8, 0.013)]).unwrap();
        assert_eq!(read(&path, &setting), None);
        write(&path, &Kept { setting: setting.clone(), curve: curve.clone() }).unwrap();
        assert_eq!(read(&path, &setting), Some(curve.clone()));
        // Passes that are much quicker than it says have it measured again, others do not.
        let costs = Costs { setting: setting.clone(), path: Some(path.clone()), budget: BUDGET };
        for seconds in [None, Some(0.009), Some(0.02)] {
            costs.review(&curve, seconds);
            assert!(path.exists(), "{seconds:?}");
        }
        costs.review(&curve, Some(0.006));
        assert!(!path.exists());
        let quantised = Setting { precision: "Quantize(Q4_0)".into(), ..setting.clone() };
        for other in [Setting { threads: 1, ..setting.clone() }, quantised] {
            assert_ne!(file_name(&other), file_name(&setting));
            assert_eq!(read(&path, &other), None);
        }
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path, &setting), None);
    }
}
