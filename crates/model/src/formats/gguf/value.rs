//! Metadata values: their types in the file, and their conversion to Rust types.

use super::cursor::Cursor;
use std::fmt;

/// A metadata value. Integers of every width are one thing, and so are both floats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `u8`, `u16`, `u32` or `u64`.
    Unsigned(u64),
    /// `i8`, `i16`, `i32` or `i64`.
    Signed(i64),
    /// `f32` or `f64`.
    Float(f64),
    /// `bool`.
    Bool(bool),
    /// A string.
    Str(&'a str),
    /// What claims to be a string, but is not UTF-8.
    NotUtf8(&'a [u8]),
    /// An array.
    Array(Array<'a>),
}

/// Elements of one type, still encoded.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(super) ty: ValueType,
    pub(super) count: usize,
    pub(super) bytes: &'a [u8],
}

/// Type ids of metadata values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// In the order of the ids in the file.
    const ALL: [(ValueType, &'static str); 13] = [
        (ValueType::U8, "u8"),
        (ValueType::I8, "i8"),
        (ValueType::U16, "u16"),
        (ValueType::I16, "i16"),
        (ValueType::U32, "u32"),
        (ValueType::I32, "i32"),
        (ValueType::F32, "f32"),
        (ValueType::Bool, "bool"),
        (ValueType::Str, "string"),
        (ValueType::Array, "array"),
        (ValueType::U64, "u64"),
        (ValueType::I64, "i64"),
        (ValueType::F64, "f64"),
    ];

    pub(super) fn read(cursor: &mut Cursor<'_>, what: &str) -> Result<Self, String> {
        let at = cursor.at;
        let id = cursor.u32(what)?;
        let known = Self::ALL.get(id as usize).map(|(ty, _)| *ty);
        known.ok_or_else(|| format!("{what} at byte {at} is {id}; expected 0 to 12"))
    }

    pub(super) fn id(self) -> u32 {
        self as u32
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The fewest bytes a value can take.
    pub(super) fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }

    /// Whether every value takes exactly [`least_bytes`](Self::least_bytes).
    fn is_fixed(self) -> bool {
        !matches!(self, Self::Str | Self::Array)
    }
}

/// How deep arrays may lie in arrays. No known file has any that do.
const MAX_NESTING: usize = 4;

impl<'a> Value<'a> {
    /// Reads the value of type `ty` at the cursor, `what` naming it in errors.
    pub(super) fn read(ty: ValueType, cursor: &mut Cursor<'a>, what: &str) -> Result<Self, String> {
        Self::read_nested(ty, cursor, what, 0)
    }

    fn read_nested(ty: ValueType, cursor: &mut Cursor<'a>, what: &str, depth: usize) -> Result<Self, String> {
        Ok(match ty {
            ValueType::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array(what)?).into()),
            ValueType::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array(what)?).into()),
            ValueType::U32 => Value::Unsigned(cursor.u32(what)?.into()),
            ValueType::U64 => Value::Unsigned(cursor.u64(what)?),
            ValueType::I8 => Value::Signed(i8::from_le_bytes(cursor.array(what)?).into()),
            ValueType::I16 => Value::Signed(i16::from_le_bytes(cursor.array(what)?).into()),
            ValueType::I32 => Value::Signed(i32::from_le_bytes(cursor.array(what)?).into()),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(cursor.array(what)?)),
            ValueType::F32 => Value::Float(f32::from_le_bytes(cursor.array(what)?).into()),
            ValueType::F64 => Value::Float(f64::from_le_bytes(cursor.array(what)?)),
            ValueType::Bool => Value::Bool(cursor.array::<1>(what)? != [0]),
            ValueType::Str => {
                let bytes = cursor.string(what)?;
                std::str::from_utf8(bytes).map_or(Value::NotUtf8(bytes), Value::Str)
            }
            ValueType::Array => Value::Array(Array::read(cursor, what, depth)?),
        })
    }
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>, what: &str, depth: usize) -> Result<Self, String> {
        if depth == MAX_NESTING {
            return Err(format!("{what} holds arrays nested more than {MAX_NESTING} deep"));
        }
        let ty = ValueType::read(cursor, what)?;
        let count = cursor.count(ty.least_bytes(), what)?;
        let start = cursor.at;
        if ty.is_fixed() {
            // `count` has checked that the product is at most what is left.
            cursor.take((count * ty.least_bytes()) as u64, what)?;
        } else {
            for _ in 0..count {
                match ty {
                    ValueType::Str => drop(cursor.string(what)?),
                    _ => drop(Self::read(cursor, what, depth + 1)?),
                }
            }
        }
        let bytes = &cursor.bytes[start..cursor.at];
        Ok(Self { ty, count, bytes })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes, 0);
        let ty = self.ty;
        // The bytes were walked when the array was read, so no element fails.
        (0..self.count).map_while(move |_| Value::read(ty, &mut cursor, "element").ok())
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Value::Array(*self))
    }
}

/// One line for people: the type, and the value where it is short.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 60;
        match self {
            Value::Unsigned(v) => write!(f, "integer {v}"),
            Value::Signed(v) => write!(f, "integer {v}"),
            Value::Float(v) => write!(f, "float {v}"),
            Value::Bool(v) => write!(f, "bool {v}"),
            Value::Str(v) => match v.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "string {:?}... ({} bytes)", &v[..end], v.len()),
                None => write!(f, "string {v:?}"),
            },
            Value::NotUtf8(v) => write!(f, "string of {} bytes that is not UTF-8", v.len()),
            Value::Array(v) => write!(f, "array of {} {}", v.count, v.ty.name()),
        }
    }
}

/// A Rust type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// What a value must be to succeed, for errors.
    fn expected() -> String;

    /// Converts `value`, or says what was found instead.
    fn from_value(value: Value<'a>) -> Result<Self, String>;
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl FromValue<'_> for $ty {
            fn expected() -> String {
                stringify!($ty).into()
            }

            fn from_value(value: Value<'_>) -> Result<Self, String> {
                let fitting = match value {
                    Value::Unsigned(v) => v.try_into().ok(),
                    Value::Signed(v) => v.try_into().ok(),
                    _ => None,
                };
                fitting.ok_or_else(|| value.to_string())
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, usize, i32, i64);

impl FromValue<'_> for f32 {
    fn expected() -> String {
        "f32".into()
    }

    fn from_value(value: Value<'_>) -> Result<Self, String> {
        match value {
            Value::Float(v) => Ok(v as f32),
            other => Err(other.to_string()),
        }
    }
}

impl FromValue<'_> for bool {
    fn expected() -> String {
        "bool".into()
    }

    fn from_value(value: Value<'_>) -> Result<Self, String> {
        match value {
            Value::Bool(v) => Ok(v),
            other => Err(other.to_string()),
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    fn expected() -> String {
        "string".into()
    }

    fn from_value(value: Value<'a>) -> Result<Self, String> {
        match value {
            Value::Str(v) => Ok(v),
            other => Err(other.to_string()),
        }
    }
}

impl<'a, T: FromValue<'a>> FromValue<'a> for Vec<T> {
    fn expected() -> String {
        format!("array of {}", T::expected())
    }

    fn from_value(value: Value<'a>) -> Result<Self, String> {
        let Value::Array(array) = value else {
            return Err(value.to_string());
        };
        let element = |(i, v)| T::from_value(v).map_err(|found| format!("{found} at index {i}"));
        array.iter().enumerate().map(element).collect()
    }
}
