//! Writing GGUF version 3: first the front of the file, then tensor data as a stream.

use super::header::DEFAULT_ALIGNMENT;
use super::types::TypeId;
use super::value::{FromValue, Value, ValueType};
use leveret_kernels::ElementType;
use std::io::{self, Write};

/// Collects metadata and the tensor directory; [`start`](Self::start) writes them.
#[derive(Debug, Default)]
pub struct Writer {
    meta: Vec<(String, MetaValue)>,
    tensors: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    name: String,
    ty: TypeId,
    shape: Vec<usize>,
    bytes: u64,
}

/// A metadata value to write, with its width in the file.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum MetaValue {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(String),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
    Strs(Vec<String>),
}

impl From<&str> for MetaValue {
    fn from(value: &str) -> Self {
        Self::Str(value.into())
    }
}

impl MetaValue {
    /// A value that was read, to be written again; `None` for arrays of arrays and broken text.
    pub fn copied(value: Value<'_>) -> Option<Self> {
        fn list<'a, T: FromValue<'a>>(value: Value<'a>) -> Option<Vec<T>>
        where
            Vec<T>: FromValue<'a>,
        {
            Vec::from_value(value).ok()
        }
        Some(match value {
            Value::Unsigned(v) => u32::try_from(v).map_or(Self::U64(v), Self::U32),
            Value::Signed(v) => i32::try_from(v).map_or(Self::I64(v), Self::I32),
            Value::Float(v) if f64::from(v as f32) == v => Self::F32(v as f32),
            Value::Float(v) => Self::F64(v),
            Value::Bool(v) => Self::Bool(v),
            Value::Str(v) => Self::Str(v.into()),
            Value::NotUtf8(_) => return None,
            Value::Array(array) => match array.ty {
                ValueType::U8 | ValueType::U16 | ValueType::U32 => Self::U32s(list(value)?),
                ValueType::I8 | ValueType::I16 | ValueType::I32 => Self::I32s(list(value)?),
                ValueType::F32 => Self::F32s(list(value)?),
                ValueType::Bool => Self::Bools(list(value)?),
                ValueType::Str => Self::Strs(list::<&str>(value)?.into_iter().map(Into::into).collect()),
                _ => return None,
            },
        })
    }
}

macro_rules! from {
    ($($ty:ty => $variant:ident),*) => {$(
        impl From<$ty> for MetaValue {
            fn from(value: $ty) -> Self {
                Self::$variant(value)
            }
        }
    )*};
}

from!(u8 => U8, u16 => U16, u32 => U32, u64 => U64, i32 => I32, i64 => I64, f32 => F32, f64 => F64);
from!(bool => Bool, String => Str, Vec<u32> => U32s, Vec<i32> => I32s, Vec<f32> => F32s);
from!(Vec<bool> => Bools, Vec<String> => Strs);

impl Writer {
    /// A file without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry. Keys must differ.
    pub fn meta(&mut self, key: &str, value: impl Into<MetaValue>) -> &mut Self {
        self.meta.push((key.into(), value.into()));
        self
    }

    /// Plans a tensor of row-major `shape`, outermost dimension first. Names must differ.
    ///
    /// Fails if rows are not whole blocks of `ty`, or there are not 1 to 4 dimensions.
    pub fn tensor(&mut self, name: &str, ty: ElementType, shape: &[usize]) -> io::Result<&mut Self> {
        let (&row, outer) = shape.split_last().unwrap_or((&0, &[]));
        let bytes = ty.row_bytes(row).and_then(|row| outer.iter().try_fold(row, |n, &d| n.checked_mul(d)));
        let id = TypeId::of(ty);
        let (Some(bytes @ 1..), Some(ty), 1..=4) = (bytes, id, shape.len()) else {
            let ty = ty.name();
            let what = format!("tensor `{name}`: shape {shape:?} cannot be stored as {ty}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        self.tensors.push(Planned { name: name.into(), ty, shape: shape.into(), bytes: bytes as u64 });
        Ok(self)
    }

    /// Plans a tensor of integers, as [`Gguf::integers`](super::Gguf::integers) gives it.
    pub fn integers(&mut self, name: &str, ty: TypeId, shape: &[usize], bytes: usize) -> &mut Self {
        self.tensors.push(Planned { name: name.into(), ty, shape: shape.into(), bytes: bytes as u64 });
        self
    }

    /// Bytes of all planned tensors' data, padding included.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| padded(tensor.bytes)).sum()
    }

    /// Writes everything before the tensor data. The data must follow, see [`Body`].
    pub fn start<W: Write>(self, out: W) -> io::Result<Body<W>> {
        let mut front = Vec::new();
        front.extend(b"GGUF");
        front.extend(3u32.to_le_bytes());
        front.extend((self.tensors.len() as u64).to_le_bytes());
        front.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            put_str(&mut front, key);
            value.put(&mut front);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_str(&mut front, &tensor.name);
            front.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                front.extend((dim as u64).to_le_bytes());
            }
            front.extend(tensor.ty.0.to_le_bytes());
            front.extend(offset.to_le_bytes());
            offset += padded(tensor.bytes);
        }
        front.resize(padded(front.len() as u64) as usize, 0);
        let mut body = Body { out, planned: self.tensors.into_iter() };
        body.out.write_all(&front)?;
        Ok(body)
    }
}

/// The open file: takes the data of each planned tensor, in order.
#[derive(Debug)]
pub struct Body<W> {
    out: W,
    planned: std::vec::IntoIter<Planned>,
}

impl<W: Write> Body<W> {
    /// Writes the data of the next tensor. Fails if another was planned, or another length.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let Some(planned) = self.planned.next() else {
            return Err(invalid(format!("tensor `{name}` was not planned")));
        };
        if planned.name != name || planned.bytes != bytes.len() as u64 {
            return Err(invalid(format!(
                "tensor `{name}` of {} bytes; expected `{}` of {} bytes",
                bytes.len(),
                planned.name,
                planned.bytes
            )));
        }
        self.out.write_all(bytes)?;
        let padding = padded(planned.bytes) - planned.bytes;
        self.out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding as usize])
    }

    /// Ends the file. Fails if a planned tensor is missing.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(missing) = self.planned.next() {
            let what = format!("tensor `{}` was planned but not written", missing.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn padded(n: u64) -> u64 {
    n.next_multiple_of(DEFAULT_ALIGNMENT)
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl MetaValue {
    /// Appends the type and the value.
    fn put(&self, out: &mut Vec<u8>) {
        fn scalar<const N: usize>(out: &mut Vec<u8>, ty: ValueType, bytes: [u8; N]) {
            out.extend(ty.id().to_le_bytes());
            out.extend(bytes);
        }
        fn array<T>(out: &mut Vec<u8>, ty: ValueType, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
            out.extend(ValueType::Array.id().to_le_bytes());
            out.extend(ty.id().to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| put(out, item));
        }
        match self {
            Self::U8(v) => scalar(out, ValueType::U8, v.to_le_bytes()),
            Self::U16(v) => scalar(out, ValueType::U16, v.to_le_bytes()),
            Self::U32(v) => scalar(out, ValueType::U32, v.to_le_bytes()),
            Self::U64(v) => scalar(out, ValueType::U64, v.to_le_bytes()),
            Self::I32(v) => scalar(out, ValueType::I32, v.to_le_bytes()),
            Self::I64(v) => scalar(out, ValueType::I64, v.to_le_bytes()),
            Self::F32(v) => scalar(out, ValueType::F32, v.to_le_bytes()),
            Self::F64(v) => scalar(out, ValueType::F64, v.to_le_bytes()),
            Self::Bool(v) => scalar(out, ValueType::Bool, [u8::from(*v)]),
            Self::Str(v) => {
                scalar(out, ValueType::Str, []);
                put_str(out, v);
            }
            Self::U32s(v) => array(out, ValueType::U32, v, |out, v| out.extend(v.to_le_bytes())),
            Self::I32s(v) => array(out, ValueType::I32, v, |out, v| out.extend(v.to_le_bytes())),
            Self::F32s(v) => array(out, ValueType::F32, v, |out, v| out.extend(v.to_le_bytes())),
            Self::Bools(v) => array(out, ValueType::Bool, v, |out, v| out.push(u8::from(*v))),
            Self::Strs(v) => array(out, ValueType::Str, v, |out, v| put_str(out, v)),
        }
    }
}
