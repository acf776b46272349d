//! What loading makes of the bytes of one matrix: packed for the kernels, or only measured.

use crate::load::Source;
use leveret_kernels::quant;
use leveret_kernels::{ElementType, Matrix, Packing, Team, par_rows};

/// What loading makes of the stored bytes of one matrix.
pub(crate) trait Pack {
    type Matrix;

    /// Packs the bytes of one matrix.
    fn pack(&self, shape: MatrixShape, bytes: &[u8], bias: Option<Vec<f32>>) -> Result<Self::Matrix, String>;

    /// The threads that conversions share; absent if bytes do not matter.
    fn team(&self) -> Option<&Team>;
}

/// Type and size of a matrix as it will lie in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixShape {
    pub(crate) ty: ElementType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Packs for the kernels.
pub(crate) struct Repack<'a> {
    pub(crate) team: &'a Team,
    /// Where the bytes come from: it lets go of each part that is packed.
    pub(crate) source: &'a Source,
}

/// Size of the weight files up to which huge pages are worth their wait at load.
const SMALL: u64 = 128 << 20;

impl Pack for Repack<'_> {
    type Matrix = Matrix;

    fn pack(&self, shape: MatrixShape, bytes: &[u8], bias: Option<Vec<f32>>) -> Result<Matrix, String> {
        let MatrixShape { ty, rows, cols } = shape;
        let source = self.source;
        let packing = Packing {
            read: &|range| source.release_part(&bytes[range]),
            small: source.file_bytes() <= SMALL,
        };
        let matrix =
            Matrix::pack_in_bands(self.team, ty, bytes, rows, cols, &packing).map_err(|e| e.to_string())?;
        Ok(match bias {
            Some(bias) => matrix.with_bias(bias),
            None => matrix,
        })
    }

    fn team(&self) -> Option<&Team> {
        Some(self.team)
    }
}

/// Keeps the shapes only.
pub(crate) struct Measure;

impl Pack for Measure {
    type Matrix = MatrixShape;

    fn pack(&self, shape: MatrixShape, _: &[u8], _: Option<Vec<f32>>) -> Result<MatrixShape, String> {
        Ok(shape)
    }

    fn team(&self) -> Option<&Team> {
        None
    }
}

/// The type that weights are quantised to: the one wanted if its blocks fit the rows, else one with
/// short blocks and no fewer bits, else what is stored.
pub(crate) fn fitting(wanted: ElementType, stored: MatrixShape) -> ElementType {
    let fits = |ty: &ElementType| ty.row_bytes(stored.cols).is_some();
    [wanted, ElementType::Q8_0].into_iter().find(fits).unwrap_or(stored.ty)
}

/// Re-encodes `[rows, cols]` weights row by row.
///
/// # Errors
/// Sizes that do not fit, and a type that nothing is encoded in.
pub(crate) fn convert(
    team: &Team,
    stored: MatrixShape,
    bytes: &[u8],
    ty: ElementType,
) -> Result<Vec<u8>, String> {
    let MatrixShape { ty: from_ty, rows, cols } = stored;
    let fault =
        |what: String| format!("cannot be converted from {} to {}: {what}", from_ty.name(), ty.name());
    if !matches!(ty, ElementType::F32 | ElementType::BF16) {
        quant::quantize(ty, &[], &mut Vec::new()).map_err(|error| fault(error.to_string()))?;
    }
    let sizes = |ty: ElementType| {
        let row = ty.row_bytes(cols)?;
        Some((row, row.checked_mul(rows)?))
    };
    let Some(((from, _), (to, len))) = sizes(from_ty).filter(|&(_, all)| all == bytes.len()).zip(sizes(ty))
    else {
        return Err(fault(format!(
            "{} bytes do not hold {rows} rows of {cols} in whole blocks",
            bytes.len()
        )));
    };
    let mut out = vec![0; len];
    par_rows(team, (&mut out, to), (&mut [] as &mut [u8], 0), |row, out, _| {
        let mut values = vec![0.0; cols];
        let mut encoded = Vec::with_capacity(to);
        let source = &bytes[row * from..][..from];
        // Sizes and type were checked above, so neither step can fail.
        if quant::dequantize(from_ty, source, &mut values).is_err() {
            return;
        }
        match ty {
            ElementType::F32 => encoded.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            ElementType::BF16 => {
                encoded.extend(values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()));
            }
            _ if quant::quantize(ty, &values, &mut encoded).is_err() => return,
            _ => {}
        }
        out.copy_from_slice(&encoded);
    });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_converted_is_refused() {
        let team = Team::new(1);
        let stored = MatrixShape { ty: ElementType::F32, rows: 2, cols: 256 };
        let refused = |bytes: usize, ty| convert(&team, stored, &vec![0; bytes], ty).unwrap_err();
        // Nothing is encoded in these.
        for ty in [ElementType::Q6K, ElementType::F16] {
            assert!(refused(2048, ty).contains(ty.name()));
        }
        assert!(refused(2044, ElementType::Q8_0).contains("2044 bytes"));
        assert_eq!(convert(&team, stored, &[0; 2048], ElementType::Q8_0).map(|out| out.len()), Ok(544));
    }
}
