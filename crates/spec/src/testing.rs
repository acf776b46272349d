//! A target without a network: its logits are a hash of the text before them. It checks every
//! pass and commit against the rules of `leveret_model::Target`.

use leveret_model::{Cache, Error, LogitRows, Pass, Result, Tap, Target};

/// Logits `spread * h(last 2 tokens, v) + h(all tokens, v)` with hashes `h` in 0..1. With a great
/// spread the text soon repeats itself, and yet no two texts have the same logits.
#[derive(Debug)]
pub(crate) struct HashTarget {
    vocab: usize,
    spread: f32,
    max_context: usize,
    rows: Vec<Vec<f32>>,
    /// Rows of every pass so far.
    pub(crate) passes: Vec<usize>,
}

impl HashTarget {
    pub(crate) fn new(vocab: usize, spread: f32, max_context: usize) -> Self {
        Self { vocab, spread, max_context, rows: Vec::new(), passes: Vec::new() }
    }

    /// Logits after a text.
    pub(crate) fn row(&self, path: &[u32]) -> Vec<f32> {
        let whole = path.iter().fold(1, |h, &t| mix(h ^ u64::from(t)));
        let near = path.iter().rev().take(2).fold(2, |h, &t| mix(h ^ u64::from(t)));
        let unit = |h: u64| (h >> 40) as f32 / (1 << 24) as f32;
        (0..self.vocab as u64).map(|v| self.spread * unit(mix(near ^ v)) + unit(mix(whole ^ v))).collect()
    }
}

/// Murmur's finaliser.
pub(crate) fn mix(h: u64) -> u64 {
    let h = (h ^ h >> 33).wrapping_add(0x1234_5678_9abc_def1).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let h = (h ^ h >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}

#[derive(Debug)]
pub(crate) struct HashCache {
    committed: Vec<u32>,
    pass: Vec<(u32, Option<usize>)>,
    capacity: usize,
}

impl Cache for HashCache {
    fn len(&self) -> usize {
        self.committed.len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn commit(&mut self, path: &[usize]) -> Result<()> {
        let mut parent = None;
        for &row in path {
            let &(token, found) = self.pass.get(row).ok_or_else(|| Error::request("no such row"))?;
            if found != parent {
                return Err(Error::request("not a path"));
            }
            parent = Some(row);
            self.committed.push(token);
        }
        self.pass.clear();
        Ok(())
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.committed.truncate(len);
        Ok(())
    }
}

impl Target for HashTarget {
    type Cache = HashCache;

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn max_context(&self) -> usize {
        self.max_context
    }

    fn new_cache(&self, capacity: usize) -> Result<HashCache> {
        Ok(HashCache { committed: Vec::new(), pass: Vec::new(), capacity })
    }

    fn forward(&mut self, passes: &mut [Pass<'_, HashCache>], _taps: &[Tap]) -> Result<()> {
        self.rows.clear();
        for pass in passes {
            let n = pass.tokens.len();
            self.passes.push(n);
            if n == 0 || pass.cache.committed.len() + n > pass.cache.capacity {
                return Err(Error::request(format!("{n} rows do not fit")));
            }
            pass.cache.pass.clear();
            for (row, &token) in pass.tokens.iter().enumerate() {
                let parent = pass.parents.map_or(row.checked_sub(1), |parents| parents[row]);
                if token as usize >= self.vocab || parent.is_some_and(|p| p >= row) {
                    return Err(Error::request("bad row"));
                }
                pass.cache.pass.push((token, parent));
                let wanted = match pass.logits {
                    LogitRows::None => false,
                    LogitRows::Last => row + 1 == n,
                    LogitRows::All => true,
                };
                if wanted {
                    let mut path = Vec::new();
                    let mut at = Some(row);
                    while let Some(r) = at {
                        path.push(pass.cache.pass[r].0);
                        at = pass.cache.pass[r].1;
                    }
                    path.extend(pass.cache.committed.iter().rev());
                    path.reverse();
                    self.rows.push(self.row(&path));
                }
            }
        }
        Ok(())
    }

    fn logits(&self, index: usize) -> &[f32] {
        &self.rows[index]
    }

    fn feature(&self, _tap: usize, _row: usize) -> &[f32] {
        &[]
    }
}
