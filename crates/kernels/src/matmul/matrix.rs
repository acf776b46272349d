//! A weight matrix in the layout that the kernels stream: packed once, at load.

use super::pack::{Layout, pack_panel};
use super::unpack::unpack_row;
use crate::element::ElementType;
use crate::isa::Isa;
use crate::memory::{Huge, Pages};
use crate::rows::Shared;
use crate::team::Team;
use std::ops::Range;

/// Why bytes cannot become a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatrixError {
    /// The type's blocks do not divide the row.
    Width {
        /// Element type of the source.
        ty: ElementType,
        /// Elements per row.
        cols: usize,
    },
    /// The source has another number of bytes than rows and columns call for.
    Bytes {
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The size overflows, or memory for it is refused.
    Memory {
        /// Bytes asked for (saturated).
        bytes: usize,
    },
}

impl std::fmt::Display for MatrixError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Width { ty, cols } => {
                write!(f, "rows of {cols} elements, but {} comes in blocks of {}", ty.name(), ty.block_len())
            }
            Self::Bytes { found, expected } => write!(f, "{found} bytes, expected {expected}"),
            Self::Memory { bytes } => write!(f, "no memory for a matrix of {bytes} bytes"),
        }
    }
}

impl std::error::Error for MatrixError {}

/// Packed bytes after which the reader of the source is told how far packing has come.
const BAND: usize = 16 << 20;

/// How [`Matrix::pack_in_bands`] goes about it.
pub struct Packing<'a> {
    /// Called with each range of the source bytes, in order, that will not be read again.
    pub read: &'a (dyn Fn(Range<usize>) + Sync),
    /// Whether the whole model is so small that huge pages cost its load little: then it gets them at once, else
    /// between passes after the load.
    pub small: bool,
}

impl std::fmt::Debug for Packing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packing").field("small", &self.small).finish_non_exhaustive()
    }
}

impl Default for Packing<'_> {
    fn default() -> Self {
        Self { read: &|_| {}, small: false }
    }
}

/// Packed weights `[rows, cols]`: `rows` output features of `cols` inputs each.
#[derive(Debug)]
pub struct Matrix {
    ty: ElementType,
    rows: usize,
    cols: usize,
    pub(super) layout: Layout,
    panel_bytes: usize,
    data: Pages,
    bias: Option<Vec<f32>>,
}

impl Matrix {
    /// Packs row-major stored weights. Panels are packed in parallel.
    ///
    /// # Errors
    /// When the bytes do not fit the shape, or memory is refused.
    pub fn pack(
        team: &Team,
        ty: ElementType,
        bytes: &[u8],
        rows: usize,
        cols: usize,
    ) -> Result<Self, MatrixError> {
        Self::pack_in_bands(team, ty, bytes, rows, cols, &Packing::default())
    }

    /// As [`pack`](Self::pack), told when parts of the source have been read for the last time.
    ///
    /// # Errors
    /// As [`pack`](Self::pack).
    pub fn pack_in_bands(
        team: &Team,
        ty: ElementType,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        packing: &Packing<'_>,
    ) -> Result<Self, MatrixError> {
        let stored_row = ty.row_bytes(cols).ok_or(MatrixError::Width { ty, cols })?;
        let expected = stored_row.checked_mul(rows).ok_or(MatrixError::Memory { bytes: usize::MAX })?;
        if bytes.len() != expected {
            return Err(MatrixError::Bytes { found: bytes.len(), expected });
        }
        let lanes = Isa::current().lanes();
        let layout = Layout::of(ty, lanes);
        let panel_bytes = layout.panel_bytes(cols);
        let panels = rows.div_ceil(lanes);
        let size = panels.checked_mul(panel_bytes).ok_or(MatrixError::Memory { bytes: usize::MAX })?;
        let huge = if packing.small { Huge::AtOnce } else { Huge::IfQuick };
        let mut data = Pages::for_weights(size, huge).ok_or(MatrixError::Memory { bytes: size })?;
        let packed = Shared::new(data.bytes_mut());
        let pack_panel = |panel: usize| {
            // SAFETY: panels do not overlap and each is visited once.
            let packed = unsafe { packed.part(panel * panel_bytes, panel_bytes) };
            let first = panel * lanes;
            match bytes.get(first * stored_row..(first + lanes) * stored_row) {
                Some(stored) => pack_panel(ty, stored, cols, layout, packed),
                // Lanes without a row repeat the last: nobody reads their sums.
                None => {
                    let row = |lane: usize| &bytes[(first + lane).min(rows - 1) * stored_row..][..stored_row];
                    let stored: Vec<&[u8]> = (0..lanes).map(row).collect();
                    pack_panel(ty, &stored.concat(), cols, layout, packed);
                }
            }
        };
        // A few panels a block: enough work to be worth a claim.
        let per_block = (128 * 1024 / panel_bytes.max(1)).max(1);
        let per_band = (BAND / panel_bytes.max(1)).max(1);
        for band in (0..panels).step_by(per_band) {
            let band = band..(band + per_band).min(panels);
            data.prepare(band.start * panel_bytes..band.end * panel_bytes);
            team.run(band.len().div_ceil(per_block), |block| {
                let first = band.start + block * per_block;
                let panels = first..(first + per_block).min(band.end);
                data.populate(panels.start * panel_bytes..panels.end * panel_bytes);
                panels.for_each(pack_panel);
            });
            let row = |panel: usize| (panel * lanes).min(rows) * stored_row;
            (packing.read)(row(band.start)..row(band.end));
        }
        Ok(Self { ty, rows, cols, layout, panel_bytes, data, bias: None })
    }

    /// The matrix with a bias `[rows]` that every product gets added.
    ///
    /// # Panics
    /// When the bias has another length than the matrix has rows.
    pub fn with_bias(mut self, mut bias: Vec<f32>) -> Self {
        assert_eq!(bias.len(), self.rows, "a bias has one value per matrix row");
        bias.resize(self.panels() * self.layout.lanes, 0.0);
        self.bias = Some(bias);
        self
    }

    /// Writes row `row` (`cols` values) as f32, without bias.
    ///
    /// # Panics
    /// When there is no such row, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "a row of the matrix and a buffer for it");
        let lanes = self.layout.lanes;
        unpack_row(self.ty, self.panel(row / lanes), self.layout, row % lanes, out);
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Type of the stored weights.
    pub fn element_type(&self) -> ElementType {
        self.ty
    }

    /// Bytes in memory, all of which a product reads.
    pub fn bytes(&self) -> usize {
        self.data.bytes().len()
    }

    /// Bytes that a matrix takes once packed.
    pub fn packed_bytes(ty: ElementType, rows: usize, cols: usize) -> usize {
        let layout = Layout::of(ty, Isa::current().lanes());
        rows.div_ceil(layout.lanes) * layout.panel_bytes(cols)
    }

    pub(super) fn panels(&self) -> usize {
        self.panels_of(self.rows)
    }

    /// Panels that hold the first `features` rows.
    pub(super) fn panels_of(&self, features: usize) -> usize {
        features.div_ceil(self.layout.lanes)
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        &self.data.bytes()[panel * self.panel_bytes..][..self.panel_bytes]
    }

    /// The bias, padded to whole panels.
    pub(super) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }
}
