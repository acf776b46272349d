//! Which positions the rows of a pass see: the committed ones, then their own path or each other.

use std::ops::Range;

/// The rows of one pass over one sequence. Slots `0..base` hold the committed positions `0..base`; row
/// `i` of the pass was written to slot `base + held + i`, behind `held` rows of passes before it that
/// it may follow though they are not committed.
#[derive(Debug, Clone, Copy)]
pub struct Visible<'a> {
    base: usize,
    held: usize,
    rows: usize,
    paths: Option<(&'a [u32], &'a [u32])>,
    /// Rows see those behind them too.
    mutual: bool,
}

impl<'a> Visible<'a> {
    /// Each row follows the one before: row `i` stands at position `base + i` and sees all up to itself.
    pub fn chain(base: usize, rows: usize) -> Self {
        Self { base, held: 0, rows, paths: None, mutual: false }
    }

    /// Row `i` stands at position `base + i` and sees the committed positions and all rows of the pass,
    /// within the window in both directions. Its arithmetic depends on the number of rows, as its result does.
    pub fn block(base: usize, rows: usize) -> Self {
        Self { base, held: 0, rows, paths: None, mutual: true }
    }

    /// Row `i` sees the committed positions and the rows
    /// `paths[offsets[i]..offsets[i + 1]]`: its ancestors in the pass, root first, itself last. Its
    /// position is `base` plus the number of its ancestors.
    ///
    /// # Panics
    /// If the offsets do not cut `paths` into such parts.
    pub fn tree(base: usize, paths: &'a [u32], offsets: &'a [u32]) -> Self {
        Self::tree_after(base, 0, paths, offsets)
    }

    /// As [`tree`](Self::tree), behind `held` rows that are not committed. Paths number these from 0
    /// and the rows of the pass after them; offsets are those of the rows of the pass alone.
    ///
    /// # Panics
    /// If the offsets do not cut `paths` into such parts.
    pub fn tree_after(base: usize, held: usize, paths: &'a [u32], offsets: &'a [u32]) -> Self {
        let rows = offsets.len().saturating_sub(1);
        let all = Self { base, held, rows, paths: Some((paths, offsets)), mutual: false };
        for row in 0..rows {
            let path = all.path(row).unwrap_or_default();
            let known = held + rows;
            assert!(
                path.last() == Some(&((held + row) as u32)) && path.iter().all(|&r| (r as usize) < known),
                "row {row} of {rows} behind {held} has the path {path:?}"
            );
        }
        all
    }

    /// Committed positions.
    pub fn base(&self) -> usize {
        self.base
    }

    /// Rows of the pass.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Slots behind the committed ones: of held rows and of the pass.
    pub(super) fn uncommitted(&self) -> usize {
        self.held + self.rows
    }

    /// Logical position of a row.
    pub fn position(&self, row: usize) -> usize {
        self.base + self.path(row).map_or(row, |path| path.len() - 1)
    }

    /// The positions that a row sees.
    pub(super) fn seen(&self, row: usize, window: Option<usize>) -> Range<usize> {
        let end = self.position(row) + 1;
        let window = window.unwrap_or(end + self.rows).max(1);
        let last =
            if self.mutual { (end - 1).saturating_add(window).min(self.base + self.rows) } else { end };
        end.saturating_sub(window)..last
    }

    /// The rows on a row's path; `None` where rows stand in order.
    pub(super) fn path(&self, row: usize) -> Option<&'a [u32]> {
        self.paths.map(|(paths, offsets)| &paths[offsets[row] as usize..offsets[row + 1] as usize])
    }

    /// Positions below this stand in the slot of their own number.
    pub(super) fn direct(&self) -> usize {
        match self.paths {
            Some(_) => self.base,
            None => self.base + self.rows,
        }
    }
}
