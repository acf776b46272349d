//! The key-value part of a GGUF file. Strings and arrays stay in the file's bytes.

use super::cursor::Cursor;
use super::value::{Array, FromValue, Value, ValueType};
use crate::formats::map::FileBytes;
use crate::{Error, Result};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Metadata by key, in file order.
#[derive(Debug)]
pub struct Meta {
    file: Arc<FileBytes>,
    entries: Vec<Entry>,
    /// Indices of `entries`, sorted by key.
    by_key: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    key: Box<str>,
    slot: Slot,
}

/// A value whose strings and arrays are ranges of the file.
#[derive(Debug)]
enum Slot {
    Plain(Value<'static>),
    Str(Range<usize>),
    Array { ty: ValueType, count: usize, bytes: Range<usize> },
}

impl Meta {
    /// Reads `count` entries at the cursor, which must run over the bytes of `file`.
    pub(super) fn read(file: &Arc<FileBytes>, cursor: &mut Cursor<'_>, count: usize) -> Result<Self, String> {
        let mut entries = Vec::new();
        for i in 0..count {
            let key = cursor.name(&format!("metadata key {i}"))?;
            let what = format!("metadata `{key}`");
            let ty = ValueType::read(cursor, &format!("{what}: value type"))?;
            let value = Value::read(ty, cursor, &what)?;
            // Values end where the cursor now stands.
            let tail = |n: usize| cursor.at - n..cursor.at;
            let slot = match value {
                Value::Str(v) => Slot::Str(tail(v.len())),
                Value::NotUtf8(v) => Slot::Str(tail(v.len())),
                Value::Array(v) => Slot::Array { ty: v.ty, count: v.count, bytes: tail(v.bytes.len()) },
                Value::Unsigned(v) => Slot::Plain(Value::Unsigned(v)),
                Value::Signed(v) => Slot::Plain(Value::Signed(v)),
                Value::Float(v) => Slot::Plain(Value::Float(v)),
                Value::Bool(v) => Slot::Plain(Value::Bool(v)),
            };
            let key = key.into();
            entries.push(Entry { key, slot });
        }
        let by_key = super::sorted_unique(&entries, |e| &e.key)
            .map_err(|key| format!("metadata key `{key}` stands there twice"))?;
        let file = Arc::clone(file);
        Ok(Self { file, entries, by_key })
    }

    /// The file that holds these entries.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|e| (&*e.key, self.decode(&e.slot)))
    }

    /// The value of `key` as it stands.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        let found = self.by_key.binary_search_by(|&i| (*self.entries[i].key).cmp(key));
        let index = self.by_key[found.ok()?];
        Some(self.decode(&self.entries[index].slot))
    }

    /// The value of `key` as `T`: an integer of any width that fits, `f32`, `bool`, `&str` or a
    /// `Vec` of these. `None` if there is no such key; an error if its value is something else.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        T::from_value(value).map(Some).map_err(|found| {
            let expected = T::expected();
            let what = format!("metadata `{key}` is {found}; expected {expected}");
            Error::format(self.path(), what)
        })
    }

    /// Like [`get`](Self::get), but the key must be there.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.get(key)?.ok_or_else(|| {
            let what = format!("metadata `{key}` is missing; expected {}", T::expected());
            Error::format(self.path(), what)
        })
    }

    fn decode<'a>(&'a self, slot: &Slot) -> Value<'a> {
        match slot {
            Slot::Plain(value) => *value,
            Slot::Str(range) => {
                let bytes = &self.file[range.clone()];
                std::str::from_utf8(bytes).map_or(Value::NotUtf8(bytes), Value::Str)
            }
            Slot::Array { ty, count, bytes } => {
                Value::Array(Array { ty: *ty, count: *count, bytes: &self.file[bytes.clone()] })
            }
        }
    }
}
