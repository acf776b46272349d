//! The directory of a zip archive whose entries are stored as they are, with the extensions for
//! archives above 4 GiB. Written after the format's specification (APPNOTE 6.3).

use std::collections::BTreeMap;
use std::ops::Range;

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_PLACE: u32 = 0x0706_4b50;
const ENTRY: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// Fixed parts of the records.
const END_LEN: usize = 22;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
/// Tag of the extra field with 64-bit sizes.
const SIZES_64: u16 = 1;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// Name and bytes of every entry.
pub(super) fn entries(file: &[u8]) -> Result<BTreeMap<String, Range<usize>>, String> {
    let Some((count, mut at)) = directory(file) else {
        return Err("is no zip archive, as PyTorch writes since 1.6, or is cut short: save it again".into());
    };
    let mut entries = BTreeMap::new();
    for i in 0..count {
        let (name, bytes, next) =
            entry(file, at).ok_or_else(|| format!("has a damaged archive directory at entry {i}"))?;
        let bytes = bytes.map_err(|why| format!("archive entry `{name}` {why}"))?;
        entries.insert(name, bytes);
        at = next;
    }
    Ok(entries)
}

/// Number of entries and where their directory begins.
fn directory(file: &[u8]) -> Option<(u64, usize)> {
    // The record ends the file, but for a comment of up to 64 KiB.
    let first = file.len().saturating_sub(END_LEN + usize::from(u16::MAX));
    let last = file.len().checked_sub(END_LEN)?;
    let end = (first..=last).rev().find(|&at| u32_at(file, at) == Some(END))?;
    let (count, at) = (u16_at(file, end + 10)?, u32_at(file, end + 16)?);
    let place = end.checked_sub(20).filter(|&at| u32_at(file, at) == Some(END_64_PLACE));
    let (count, at) = match place {
        Some(place) => {
            let end = usize::try_from(u64_at(file, place + 8)?).ok()?;
            (u32_at(file, end)? == END_64).then_some(())?;
            (u64_at(file, end.checked_add(32)?)?, u64_at(file, end.checked_add(48)?)?)
        }
        None => (count.into(), at.into()),
    };
    Some((count, usize::try_from(at).ok()?))
}

type Entry = (String, Result<Range<usize>, String>, usize);

/// The entry whose record begins at `at`, and where the next begins.
fn entry(file: &[u8], at: usize) -> Option<Entry> {
    let record = file.get(at..)?;
    (u32_at(record, 0)? == ENTRY && record.len() >= ENTRY_LEN).then_some(())?;
    let method = u16_at(record, 10)?;
    let lens = [u16_at(record, 28)?, u16_at(record, 30)?, u16_at(record, 32)?].map(usize::from);
    let name = record.get(ENTRY_LEN..ENTRY_LEN + lens[0])?;
    let extra = record.get(ENTRY_LEN + lens[0]..ENTRY_LEN + lens[0] + lens[1])?;
    let name = super::super::quoted(&String::from_utf8_lossy(name));
    let next = at.checked_add(ENTRY_LEN + lens.iter().sum::<usize>())?;
    if method != 0 {
        return Some((name, Err(format!("is compressed (method {method}), expected it as it is")), next));
    }
    // Fields that are all ones stand in the extra field, in this order.
    let mut wide = sizes_64(extra);
    let mut field = |at: usize| match u32_at(record, at)? {
        u32::MAX => {
            let value = u64_at(wide, 0)?;
            wide = &wide[8..];
            usize::try_from(value).ok()
        }
        value => usize::try_from(value).ok(),
    };
    let (unpacked, stored, local) = (field(24)?, field(20)?, field(42)?);
    let bytes = data(file, local, stored).filter(|_| unpacked == stored);
    Some((name, bytes.ok_or_else(|| "does not lie in the file: is it cut short?".into()), next))
}

fn sizes_64(mut extra: &[u8]) -> &[u8] {
    while let (Some(tag), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let end = (4 + usize::from(len)).min(extra.len());
        if tag == SIZES_64 {
            return &extra[4..end];
        }
        extra = &extra[end..];
    }
    &[]
}

/// The bytes behind the local header at `local`.
fn data(file: &[u8], local: usize, len: usize) -> Option<Range<usize>> {
    let header = file.get(local..)?;
    (u32_at(header, 0)? == LOCAL).then_some(())?;
    let skipped = usize::from(u16_at(header, 26)?) + usize::from(u16_at(header, 28)?);
    let start = local.checked_add(LOCAL_LEN + skipped)?;
    let end = start.checked_add(len)?;
    (end <= file.len()).then_some(start..end)
}
