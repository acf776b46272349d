//! The vocabulary of a drafter whose head has a part of the target's tokens only.

use crate::formats::safetensors::Dtype;
use crate::load::Source;
use crate::{Error, Result};

/// Target token of every row of a drafter's head.
pub(crate) type TokenMap = Box<[u32]>;

/// How a file says which target token a row of the head stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapRule {
    /// `d2t[row]` is to be added to the row (EAGLE-3 checkpoints).
    Offset,
    /// `d2t[row]` is the token (GGUF).
    Token,
}

/// Reads the map `d2t` of a head with `rows` rows for a target with `vocab` tokens, and compares it
/// with the membership `t2d`, where there is one. `None` if there is no map, and the head has a row
/// for every token, or `force` says to take the first rows for the first tokens.
///
/// # Errors
/// A map of another type or length, one that leads outside the vocabulary or to one token twice, or
/// that contradicts `t2d`; no map though the head has fewer rows than the target has tokens.
pub(crate) fn token_map(
    source: &Source,
    rule: MapRule,
    rows: usize,
    vocab: usize,
    force: bool,
) -> Result<Option<TokenMap>> {
    let fault = |what: String| Err(Error::format(source.path(), what));
    let Some(stored) = integers(source, "d2t")? else {
        if rows != vocab && !force {
            return fault(format!(
                "the head has {rows} rows for a target of {vocab} tokens, and no tensor `d2t` says which they are"
            ));
        }
        return Ok(None);
    };
    if stored.len() != rows {
        return fault(format!(
            "tensor `d2t` has {} entries, expected one for each of the {rows} rows of the head",
            stored.len()
        ));
    }
    let mut seen = vec![false; vocab];
    let mut map = Vec::with_capacity(rows);
    for (row, &entry) in stored.iter().enumerate() {
        let token = match rule {
            MapRule::Offset => entry.checked_add(row as i64),
            MapRule::Token => Some(entry),
        };
        let token = token.and_then(|token| usize::try_from(token).ok()).filter(|&token| token < vocab);
        let Some(token) = token else {
            return fault(format!(
                "tensor `d2t` maps row {row} with {entry} outside the target's {vocab} tokens: it was made for another target"
            ));
        };
        if std::mem::replace(&mut seen[token], true) {
            return fault(format!(
                "tensor `d2t` maps two rows to token {token} (the second is row {row}): it holds no {}",
                match rule {
                    MapRule::Offset => "offsets",
                    MapRule::Token => "token ids",
                }
            ));
        }
        map.push(token as u32);
    }
    if let Some(member) = integers(source, "t2d")? {
        // A longer one covers the padding of the embedding.
        if member.len() < vocab {
            return fault(format!(
                "tensor `t2d` has {} entries, expected one for each of the target's {vocab} tokens",
                member.len()
            ));
        }
        if let Some(token) = (0..vocab).find(|&token| seen[token] != (member[token] != 0)) {
            return fault(format!(
                "tensors `d2t` and `t2d` disagree about token {token}: one of them is of another drafter"
            ));
        }
    }
    Ok(Some(map.into()))
}

/// A list of integers or flags; `None` if there is no such tensor.
pub(crate) fn integers(source: &Source, name: &str) -> Result<Option<Vec<i64>>> {
    let Some(tensor) = source.raw(name) else { return Ok(None) };
    let values = match tensor.dtype {
        Dtype::I64 => tensor.bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Dtype::I32 => tensor.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
        Dtype::BOOL | Dtype::U8 => tensor.bytes.iter().map(|&b| b.into()).collect(),
        other => {
            let what = format!("tensor `{name}` has the type {other:?}, expected I64, I32 or BOOL");
            return Err(Error::format(source.path(), what));
        }
    };
    match tensor.shape.len() {
        1 => Ok(Some(values)),
        _ => {
            let what = format!("tensor `{name}` has the shape {:?}, expected one dimension", tensor.shape);
            Err(Error::format(source.path(), what))
        }
    }
}
