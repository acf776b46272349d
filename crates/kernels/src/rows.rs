//! Loops over the rows of row-major buffers, shared out over the team where there are enough of them.

use crate::team::Team;

/// A pointer that blocks of a loop may share because each touches its own part.
#[derive(Debug)]
pub(crate) struct Shared<T>(*mut T, usize);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

// SAFETY: whoever dereferences the pointer upholds that no two threads touch the same elements.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// The slice behind a shared look at a unique reference.
    pub(crate) fn behind(slice: &&mut [T]) -> Self {
        let slice: *const &mut [T] = slice;
        // SAFETY: reads the reference itself (pointer and length), not what it points at.
        let raw: *mut [T] = unsafe { slice.cast::<*mut [T]>().read() };
        Self(raw.cast(), raw.len())
    }

    /// The whole slice, for reading.
    ///
    /// # Safety
    /// The slice this was made of is still borrowed, and nobody writes its elements meanwhile.
    pub(crate) unsafe fn all<'a>(self) -> &'a [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0, self.1) }
    }

    /// Elements `start .. start + len`.
    ///
    /// # Safety
    /// They lie in the slice this was made of, the slice is still borrowed, and nobody else holds any of them.
    pub(crate) unsafe fn part<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        debug_assert!(start + len <= self.1);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Elements in all from which on a loop over rows is worth a second thread, which takes a microsecond to join.
const SHARED_FROM: usize = 4096;

/// Calls `f(row)` for every row, of which each has about `width` elements to work on.
pub(crate) fn each_row(team: &Team, rows: usize, width: usize, f: impl Fn(usize) + Sync) {
    if rows * width < SHARED_FROM {
        return (0..rows).for_each(f);
    }
    team.run(rows, f);
}

/// Calls `f(row, part of a, part of b)` for every row; `a` and `b` are whole numbers of rows of the given widths
/// (the widths count elements; a width of zero gives empty parts).
///
/// # Panics
/// When the buffers hold different numbers of rows.
pub fn par_rows<A: Send, B: Send>(
    team: &Team,
    (a, a_width): (&mut [A], usize),
    (b, b_width): (&mut [B], usize),
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let rows = a.len().checked_div(a_width).or_else(|| b.len().checked_div(b_width)).unwrap_or(0);
    assert!(a.len() == rows * a_width && b.len() == rows * b_width, "buffers of different numbers of rows");
    let (a, b) = (Shared::new(a), Shared::new(b));
    // What is done for a narrow row seldom ends with its elements: they are chosen among others, or looked up.
    let width = (a_width + b_width).max(1024);
    each_row(team, rows, width, |row| {
        // SAFETY: every row is visited once, and rows do not overlap.
        let (a, b) = unsafe { (a.part(row * a_width, a_width), b.part(row * b_width, b_width)) };
        f(row, a, b);
    });
}
