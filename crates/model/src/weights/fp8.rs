//! Matrices of 8-bit floats with one scale, as Mistral publishes them. They are widened to 16 bits:
//! no kernel multiplies them as they are.

use super::pack::{MatrixShape, Pack};
use super::tensors::Place;
use super::{Precision, Tensors};
use crate::Result;
use crate::formats::safetensors::Dtype;
use crate::load::Source;
use leveret_kernels::ElementType;

/// What a matrix's scale may be called.
const SCALES: [&str; 2] = ["qscale_weight", "weight_scale"];

impl<P: Pack> Tensors<'_, P> {
    /// `{name}.weight` `[rows, cols]` if its values are E4M3, times its scale. The scale of
    /// activations is left out: ours are not rounded to 8 bits.
    pub(super) fn fp8(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        bias: &Option<Vec<f32>>,
        place: Option<Place<'_>>,
    ) -> Result<Option<P::Matrix>> {
        let weight = format!("{name}.weight");
        let Some(raw) = self.source.raw(&weight).filter(|raw| raw.dtype == Dtype::F8_E4M3) else {
            return Ok(None);
        };
        if raw.shape != [rows, cols] {
            let what =
                format!("has the shape {:?}, expected {:?} from the configuration", raw.shape, [rows, cols]);
            return Err(self.fault(&weight, &what));
        }
        let scale = self.fp8_scale(name)?;
        // Known, and of no use.
        let _ = self.source.raw(&format!("{name}.qscale_act"));
        let wide = MatrixShape { ty: ElementType::F32, rows, cols };
        let stored = match self.precision {
            Precision::Float => wide,
            _ => MatrixShape { ty: ElementType::BF16, ..wide },
        };
        if self.pack.team().is_none() {
            return self.pack(&weight, stored, &[], bias.clone()).map(Some);
        }
        let values = (0..=u8::MAX).map(|code| e4m3(code) * scale);
        let row = |row| &raw.bytes[place.map_or(row, |place| place(row)) * cols..][..cols];
        let codes = (0..rows).flat_map(|r| row(r).iter().map(|&code| usize::from(code)));
        let bytes: Vec<u8> = match stored.ty {
            ElementType::BF16 => {
                let table: Vec<[u8; 2]> =
                    values.map(|value| half::bf16::from_f32(value).to_le_bytes()).collect();
                codes.flat_map(|code| table[code]).collect()
            }
            _ => {
                let table: Vec<[u8; 4]> = values.map(f32::to_le_bytes).collect();
                codes.flat_map(|code| table[code]).collect()
            }
        };
        let matrix = self.pack(&weight, stored, &bytes, bias.clone())?;
        self.source.release(&weight);
        Ok(Some(matrix))
    }

    /// The scale of `{name}.weight`.
    fn fp8_scale(&self, name: &str) -> Result<f32> {
        let scale = SCALES.iter().map(|end| format!("{name}.{end}")).find(|name| self.source.has(name));
        let Some(scale_name) = scale else {
            let weight = format!("{name}.weight");
            return Err(self.fault(&weight, &format!("has no scale; expected {name}.{}", SCALES[0])));
        };
        let scale = self.scalar(&scale_name)?;
        scale.ok_or_else(|| self.fault(&scale_name, "is no single number"))
    }

    /// A tensor of one float, whatever its number of dimensions.
    fn scalar(&self, name: &str) -> Result<Option<f32>> {
        let Some(tensor) = self.source.tensor(name)? else { return Ok(None) };
        let shape = tensor.shape.to_vec();
        if shape.iter().any(|&d| d != 1) {
            return Ok(None);
        }
        Ok(self.vector(name, &shape)?.first().copied())
    }
}

/// The tensor `weight` as `f32` rows, times its scale; `None` if its values are not E4M3.
///
/// # Errors
/// It has no scale, or one that is no number.
pub(crate) fn widened(source: &Source, weight: &str) -> Result<Option<(MatrixShape, Vec<u8>)>> {
    let Some(raw) = source.raw(weight).filter(|raw| raw.dtype == Dtype::F8_E4M3) else { return Ok(None) };
    let name = weight.strip_suffix(".weight").unwrap_or(weight);
    let scale = Tensors::plain(source).fp8_scale(name)?;
    let bytes = raw.bytes.iter().flat_map(|&code| (e4m3(code) * scale).to_le_bytes()).collect();
    let (cols, outer) = raw.shape.split_last().map_or((1, &[] as &[usize]), |(&cols, outer)| (cols, outer));
    Ok(Some((MatrixShape { ty: ElementType::F32, rows: outer.iter().product(), cols }, bytes)))
}

/// The value of an E4M3 code: 1 bit of sign, 4 of exponent with a bias of 7, 3 of mantissa, no
/// infinities.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 != 0 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::e4m3;

    #[test]
    fn codes_of_e4m3() {
        assert_eq!([0x00, 0x80, 0x38, 0xb8].map(e4m3), [0.0, -0.0, 1.0, -1.0]);
        assert_eq!([0x7e, 0x01, 0x08, 0x3c].map(e4m3), [448.0, 1.0 / 512.0, 1.0 / 64.0, 1.5]);
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }
}
