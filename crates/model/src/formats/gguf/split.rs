//! Models split over several files, named `NAME-00001-of-00003.gguf` and so on.

use super::header::Header;
use super::meta::Meta;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The split that the metadata of one file declares: which part it is, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) index: u16,
    pub(super) count: u16,
}

impl Split {
    /// `None` for a model in one file.
    pub(super) fn of(meta: &Meta) -> Result<Option<Self>> {
        let count = meta.get::<u16>("split.count")?.unwrap_or(0);
        if count <= 1 {
            return Ok(None);
        }
        let index = meta.require::<u16>("split.no")?;
        if index >= count {
            let what = format!("metadata `split.no` is {index}; expected less than {count}");
            return Err(Error::format(meta.path(), what));
        }
        Ok(Some(Self { index, count }))
    }

    /// Paths of all parts, given the path of this one.
    pub(super) fn paths(self, own: &Path) -> Result<Vec<PathBuf>> {
        let tail = |index: u16| format!("-{:05}-of-{:05}.gguf", index + 1, self.count);
        let name = own.file_name().and_then(|name| name.to_str());
        let stem = name.and_then(|name| name.strip_suffix(&tail(self.index)));
        let Some(stem) = stem else {
            let what = format!(
                "is part {} of a model split into {}; expected a name that ends in `{}`, \
                 with the other parts beside it",
                self.index + 1,
                self.count,
                tail(self.index)
            );
            return Err(Error::format(own, what));
        };
        let part = |index| own.with_file_name(format!("{stem}{}", tail(index)));
        Ok((0..self.count).map(part).collect())
    }

    /// Checks that `header` is part `index` of this split.
    pub(super) fn check_part(self, index: u16, header: &Header) -> Result<()> {
        let expected = Split { index, ..self };
        let found = Split::of(&header.meta)?;
        if found == Some(expected) {
            return Ok(());
        }
        let found = match found {
            Some(s) => format!("part {} of {}", s.index + 1, s.count),
            None => "a model in one file".into(),
        };
        let what = format!("is {found}; expected part {} of {}", index + 1, self.count);
        Err(Error::format(header.meta.path(), what))
    }
}

/// Checks the number of tensors in all parts against the one that the first part declares.
pub(super) fn check_total(meta: &Meta, found: usize) -> Result<()> {
    match meta.get::<usize>("split.tensors.count")? {
        Some(expected) if expected != found => Err(Error::format(
            meta.path(),
            format!("the parts hold {found} tensors; metadata `split.tensors.count` is {expected}"),
        )),
        _ => Ok(()),
    }
}
