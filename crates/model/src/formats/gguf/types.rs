//! Tensor type ids of GGUF, those that this engine decodes and those that it can only name.

use crate::formats::safetensors::Dtype;
use leveret_kernels::ElementType;
use std::fmt;

/// A tensor type id as it stands in a file. Displayed as its name, `type N` if unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(pub u32);

/// Ids of the supported types.
const SUPPORTED: [(u32, ElementType); 16] = [
    (0, ElementType::F32),
    (1, ElementType::F16),
    (2, ElementType::Q4_0),
    (3, ElementType::Q4_1),
    (6, ElementType::Q5_0),
    (7, ElementType::Q5_1),
    (8, ElementType::Q8_0),
    (10, ElementType::Q2K),
    (11, ElementType::Q3K),
    (12, ElementType::Q4K),
    (13, ElementType::Q5K),
    (14, ElementType::Q6K),
    (20, ElementType::Iq4Nl),
    (23, ElementType::Iq4Xs),
    (30, ElementType::BF16),
    (39, ElementType::Mxfp4),
];

/// Names of further types that files in the wild have.
const NAMED: [(u32, &str); 17] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
];

impl TypeId {
    /// The id under which a supported type is written.
    pub fn of(ty: ElementType) -> Option<Self> {
        let (id, _) = SUPPORTED.iter().find(|(_, known)| *known == ty)?;
        Some(Self(*id))
    }

    /// The type, if this engine decodes it.
    pub fn element(self) -> Option<ElementType> {
        let (_, ty) = SUPPORTED.iter().find(|(id, _)| *id == self.0)?;
        Some(*ty)
    }

    /// The id of a type of integers.
    pub(crate) fn of_integers(dtype: Dtype) -> Option<Self> {
        (24..=27).map(Self).find(|id| id.integer() == Some(dtype))
    }

    /// The type of a tensor of integers, as other formats call it.
    pub fn integer(self) -> Option<Dtype> {
        match self.0 {
            24 => Some(Dtype::I8),
            25 => Some(Dtype::I16),
            26 => Some(Dtype::I32),
            27 => Some(Dtype::I64),
            _ => None,
        }
    }

    /// Bytes of `row` elements: `None` if their size is not known, an error if blocks do not fit.
    pub(super) fn row_bytes(self, row: usize) -> Option<Result<usize, usize>> {
        match (self.element(), self.integer()) {
            (Some(ty), _) => Some(ty.row_bytes(row).ok_or(ty.block_len())),
            (None, Some(ty)) => Some(row.checked_mul(ty.bitsize() / 8).ok_or(1)),
            (None, None) => None,
        }
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ty) = self.element() {
            return f.write_str(ty.name());
        }
        match NAMED.iter().find(|(id, _)| *id == self.0) {
            Some((id, name)) => write!(f, "{name} (type {id})"),
            None => write!(f, "type {}", self.0),
        }
    }
}
