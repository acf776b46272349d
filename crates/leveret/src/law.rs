//! The law, checked: same seed, same text.
//!
//! [`Reference`] is what plain decoding computes, row by row. Whatever else a pass may hold, at
//! whatever size, on however many threads, a row's logits must be those bits. [`Plain`] is a text;
//! its tokens must not depend on the drafter. The first difference ends a check and says where.

use anyhow::{Result, bail};
use leveret_model::{Cache, LogitRows, Pass, Target};

mod texts;

pub use texts::{CONTROLS, Compared, DRAFTERS, Plain, check_text, samplings};

/// Rows of a verification pass that are checked.
pub const PASS_ROWS: [usize; 7] = [1, 2, 3, 5, 8, 13, 32];
/// Rows of a prompt's chunk that are checked.
pub const CHUNKS: [usize; 4] = [1, 7, 64, 512];
/// Rows whose logits are compared.
const TAIL: usize = 40;
/// Tokens before them, where the model and the text have as many.
const PREFIX: usize = 530;
/// Main path of the checked tree.
const TREE_DEPTH: usize = 6;

/// What plain decoding computes for one text.
#[derive(Debug)]
pub struct Reference {
    tokens: Vec<u32>,
    prefix: usize,
    /// Logits after each token of the tail.
    logits: Vec<Vec<f32>>,
}

impl Reference {
    /// Decodes `tokens` one row at a time, as many of them as are needed.
    ///
    /// # Errors
    /// Fewer than 2 tokens, or a pass that the target refuses.
    pub fn new<T: Target>(target: &mut T, tokens: &[u32]) -> Result<Self> {
        let len = tokens.len().min(PREFIX + TAIL).min(target.max_context().saturating_sub(TAIL));
        let prefix = len.saturating_sub(TAIL).max(len / 2);
        if prefix == 0 {
            bail!("the law: {} tokens are too few to check it", tokens.len());
        }
        let tokens = tokens[..len].to_vec();
        let mut cache = target.new_cache(len + TAIL)?;
        let mut logits = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            let wanted = if at < prefix { LogitRows::None } else { LogitRows::Last };
            forward(target, &mut cache, &[*token], None, wanted)?;
            cache.commit(&[0])?;
            if at >= prefix {
                logits.push(target.logits(0).to_vec());
            }
        }
        Ok(Self { tokens, prefix, logits })
    }

    /// Checks every size of chunk and of pass, trees, and passes over two sequences, against this
    /// reference. Returns the number of logits rows compared.
    ///
    /// # Errors
    /// The first logit that differs in a bit, or a pass that the target refuses.
    pub fn check<T: Target>(&self, target: &mut T, setting: &str) -> Result<usize> {
        let mut rows = 0;
        for chunk in CHUNKS {
            let mut cache = self.prefill(target, chunk)?;
            for m in PASS_ROWS {
                let what = format!("{setting}, prompt in chunks of {chunk}, passes of {m}");
                rows += self.check_passes(target, &mut cache, m, &what)?;
                self.rewind(target, &mut cache, &self.tokens[..self.prefix])?;
            }
            let what = format!("{setting}, prompt in chunks of {chunk}, tree");
            rows += self.check_tree(target, &mut cache, &what)?;
        }
        rows += self.check_two_sequences(target, setting)?;
        Ok(rows)
    }

    fn prefill<T: Target>(&self, target: &mut T, chunk: usize) -> Result<T::Cache> {
        let mut cache = target.new_cache(self.tokens.len() + TAIL)?;
        for rows in self.tokens[..self.prefix].chunks(chunk) {
            forward(target, &mut cache, rows, None, LogitRows::None)?;
            commit_all(&mut cache, rows.len())?;
        }
        Ok(cache)
    }

    /// Brings the cache back to where it had read `text`, which is what it begins with.
    fn rewind<T: Target>(&self, target: &mut T, cache: &mut T::Cache, text: &[u32]) -> Result<()> {
        if cache.truncate(text.len()).is_err() {
            // A recurrent state goes back to its beginning only.
            cache.truncate(0)?;
            forward(target, cache, text, None, LogitRows::None)?;
            commit_all(cache, text.len())?;
        }
        Ok(())
    }

    fn check_passes<T: Target>(
        &self,
        target: &mut T,
        cache: &mut T::Cache,
        m: usize,
        what: &str,
    ) -> Result<usize> {
        let tail = &self.tokens[self.prefix..];
        for (pass, rows) in tail.chunks(m).enumerate() {
            forward(target, cache, rows, None, LogitRows::All)?;
            for row in 0..rows.len() {
                same(&self.logits[pass * m + row], target.logits(row), || {
                    format!("{what}: row {row} at position {}", self.prefix + pass * m + row)
                })?;
            }
            commit_all(cache, rows.len())?;
        }
        Ok(tail.len())
    }

    /// A tree whose main path is the text, with a wrong branch of two rows beside every row of it.
    fn check_tree<T: Target>(&self, target: &mut T, cache: &mut T::Cache, what: &str) -> Result<usize> {
        let tail = &self.tokens[self.prefix..];
        let vocab = target.vocab_size() as u32;
        let wrong = |token: u32, by: u32| (token + by) % vocab;
        let (mut tokens, mut parents) = (Vec::new(), Vec::<Option<usize>>::new());
        let mut main: Vec<usize> = Vec::new();
        for &token in tail.iter().take(TREE_DEPTH) {
            let parent = main.last().copied();
            // The wrong branch stands before the right row, so that no slot is where a chain has it.
            tokens.extend([wrong(token, 1), wrong(token, 2), token]);
            parents.extend([parent, Some(tokens.len() - 3), parent]);
            main.push(tokens.len() - 1);
        }
        forward(target, cache, &tokens, Some(&parents), LogitRows::All)?;
        let tree: Vec<Vec<f32>> = (0..tokens.len()).map(|row| target.logits(row).to_vec()).collect();
        for (depth, &row) in main.iter().enumerate() {
            let place = || format!("{what}: row {row} at position {}", self.prefix + depth);
            same(&self.logits[depth], &tree[row], place)?;
        }

        // What stands behind the accepted path must not show that it once was a tree.
        cache.commit(&main)?;
        for (at, &token) in tail.iter().enumerate().skip(main.len()) {
            forward(target, cache, &[token], None, LogitRows::Last)?;
            let place = || format!("{what}: position {} after the commit", self.prefix + at);
            same(&self.logits[at], target.logits(0), place)?;
            cache.commit(&[0])?;
        }

        // The wrong branches, each decoded as if it were the text; the deepest first, so that the
        // right rows before each are still there.
        for depth in (0..main.len()).rev() {
            self.rewind(target, cache, &self.tokens[..self.prefix + depth])?;
            for row in [3 * depth, 3 * depth + 1] {
                forward(target, cache, &tokens[row..=row], None, LogitRows::Last)?;
                let place = || format!("{what}: row {row}, a branch at position {}", self.prefix + depth);
                same(target.logits(0), &tree[row], place)?;
                cache.commit(&[0])?;
            }
        }
        self.rewind(target, cache, &self.tokens[..self.prefix])?;
        Ok(tokens.len() + tail.len() - main.len())
    }

    /// One pass over this text and another that is its beginning.
    fn check_two_sequences<T: Target>(&self, target: &mut T, setting: &str) -> Result<usize> {
        let mut first = self.prefill(target, 64)?;
        let mut second = target.new_cache(self.tokens.len())?;
        let rows = self.tokens.len() - self.prefix;
        let mut passes = [
            Pass { cache: &mut second, tokens: &self.tokens[..rows], parents: None, logits: LogitRows::Last },
            Pass {
                cache: &mut first,
                tokens: &self.tokens[self.prefix..],
                parents: None,
                logits: LogitRows::All,
            },
        ];
        target.forward(&mut passes, &[])?;
        for (row, expected) in self.logits.iter().enumerate() {
            let place = || format!("{setting}, two sequences in one pass: row {row}");
            same(expected, target.logits(row + 1), place)?;
        }
        Ok(rows)
    }
}

fn forward<T: Target>(
    target: &mut T,
    cache: &mut T::Cache,
    tokens: &[u32],
    parents: Option<&[Option<usize>]>,
    logits: LogitRows,
) -> Result<()> {
    Ok(target.forward(&mut [Pass { cache, tokens, parents, logits }], &[])?)
}

fn commit_all(cache: &mut impl Cache, rows: usize) -> Result<()> {
    Ok(cache.commit(&(0..rows).collect::<Vec<_>>())?)
}

/// Compares bits.
fn same(expected: &[f32], found: &[f32], place: impl Fn() -> String) -> Result<()> {
    if expected.len() != found.len() {
        bail!("{}: {} logits, expected {}", place(), found.len(), expected.len());
    }
    match expected.iter().zip(found).position(|(a, b)| a.to_bits() != b.to_bits()) {
        None => Ok(()),
        Some(token) => bail!(
            "{}: logit of token {token} is {:?} ({:08x}), plain decoding has {:?} ({:08x})",
            place(),
            found[token],
            found[token].to_bits(),
            expected[token],
            expected[token].to_bits()
        ),
    }
}

#[cfg(test)]
mod tests;
