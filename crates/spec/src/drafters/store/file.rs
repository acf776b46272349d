//! The file in which earlier texts are kept: a short header, the tokens, their order.
//!
//! All numbers are little-endian. A file is replaced as a whole by renaming, so that readers see the
//! old or the new one; writers take turns by a lock on a file beside it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::index::Index;

const MAGIC: [u8; 8] = *b"lvrtxts1";
/// Magic, key, check, number of tokens, length of the order.
const HEADER: usize = 40;
/// Bytes of a token in the file: itself, and its place in the order.
pub(super) const BYTES: usize = 8;

/// Why a file gives no texts.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is one of ours, but no longer whole: nothing is lost with it.
    Damaged(String),
    /// It is something else, or cannot be read: not ours to write over.
    Foreign(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Damaged(what) | Self::Foreign(what)) = self;
        f.write_str(what)
    }
}

/// Reads the texts of the model `key`; none where there is no file, or nothing in it.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn read(path: &Path, key: u64) -> Result<Index, Fault> {
    match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Ok(Index::default()),
        Ok(bytes) => parse(&bytes, key),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
        Err(error) => Err(Fault::Foreign(error.to_string())),
    }
}

fn parse(bytes: &[u8], key: u64) -> Result<Index, Fault> {
    if !bytes.starts_with(&MAGIC) {
        return Err(Fault::Foreign("is not a file of earlier texts; name another".into()));
    }
    let short = || Fault::Damaged("is shorter than its header".into());
    let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(short)?;
    let number = |i: usize| header[i * 8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if number(1) != key {
        return Err(Fault::Foreign("is of a model with another vocabulary; name another file".into()));
    }
    whole(body, number(2), number(3), number(4)).map_err(Fault::Damaged)
}

/// The texts, if `body` is what the header says of it.
fn whole(body: &[u8], expected: u64, tokens: u64, order: u64) -> Result<Index, String> {
    let (words, rest) = body.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    if !rest.is_empty() || tokens.checked_add(order) != Some(words.len() as u64) {
        return Err(format!("holds {} bytes of texts, its header says otherwise", body.len()));
    }
    if expected != check(&words) {
        return Err("is damaged: its check does not agree".into());
    }
    let (tokens, order) = words.split_at(tokens as usize);
    Ok(Index { tokens: tokens.to_vec(), order: order.to_vec() })
}

/// Puts `index` in the place of the file.
///
/// # Errors
/// What the system says.
pub(super) fn write(path: &Path, key: u64, index: &Index) -> io::Result<()> {
    let words = || index.tokens.iter().chain(&index.order);
    let mut bytes = Vec::with_capacity(HEADER + words().count() * 4);
    bytes.extend_from_slice(&MAGIC);
    let check = check(words());
    for number in [key, check, index.tokens.len() as u64, index.order.len() as u64] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    words().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));

    let draft = beside(path, &format!("{}.new", std::process::id()));
    let written = private(&draft).and_then(|mut file| file.write_all(&bytes));
    let renamed = written.and_then(|()| fs::rename(&draft, path));
    if renamed.is_err() {
        // What is half written is no use; that it stays is no further harm.
        let _ = fs::remove_file(&draft);
    }
    renamed
}

/// Waits for the turn to write. It ends when the file is dropped, or with the process.
///
/// # Errors
/// What the system says.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = File::options();
    let file = owner_only(options.create(true).append(true)).open(beside(path, "lock"))?;
    file.lock()?;
    Ok(file)
}

/// `path` with `.end` added to its name.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(end);
    path.with_file_name(name)
}

/// A new file for the owner alone: texts are nobody else's.
fn private(path: &Path) -> io::Result<File> {
    owner_only(File::options().create(true).write(true).truncate(true)).open(path)
}

#[cfg(unix)]
fn owner_only(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(not(unix))]
fn owner_only(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    options
}

/// FNV-1a over words in place of bytes.
fn check<'a>(words: impl IntoIterator<Item = &'a u32>) -> u64 {
    let step = |hash: u64, word: &u32| (hash ^ u64::from(*word)).wrapping_mul(0x0000_0100_0000_01b3);
    words.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}
