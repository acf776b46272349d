//! The part of the pickle language in which a dictionary of tensors is written, after the
//! documentation of Python's `pickletools`.
//!
//! Values are small and live in lists that only grow, and texts stay where they are in the pickle, so
//! that no input nests deeply, repeats itself without end or takes more than a fixed multiple of its
//! own length in memory.

use super::Dtype;
use std::collections::BTreeMap;

/// A tensor and the storage that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor<'a> {
    pub(super) dtype: Dtype,
    pub(super) storage: &'a str,
    /// Elements before its first.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
}

/// A value on the stack. Numbers are indices into the reader's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Mark,
    Int(i64),
    Text(usize),
    Tuple(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
    /// Whatever is of no use for tensors.
    Other,
}

/// The names from Python's modules that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    Storage(Dtype),
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Other,
}

/// The place of every tensor by its name; of two with one name the last counts, as in Python. A
/// checkpoint that keeps them under `state_dict`, `model` or `module` is understood.
pub(super) fn tensors(bytes: &[u8]) -> Result<BTreeMap<&str, Tensor<'_>>, String> {
    let mut reader = Reader { bytes, ..Reader::default() };
    let result = loop {
        if let Some(result) = reader.step().map_err(|what| format!("pickle at byte {}: {what}", reader.at))? {
            break result;
        }
    };
    let Value::Dict(mut dict) = result else { return Err("pickle: holds no dictionary of tensors".into()) };
    for name in ["state_dict", "model", "module"] {
        let inner = reader.dicts[dict].iter().rfind(|(key, _)| *key == name);
        if let Some((_, Value::Dict(inner))) = inner {
            dict = *inner;
        }
    }
    let tensor = |&(name, value): &(_, Value)| match value {
        Value::Tensor(tensor) => Some((name, reader.tensors[tensor].clone())),
        _ => None,
    };
    Ok(reader.dicts[dict].iter().filter_map(tensor).collect())
}

#[derive(Debug, Default)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: Vec<Value>,
    texts: Vec<&'a str>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(&'a str, Value)>>,
    storages: Vec<(Dtype, &'a str)>,
    tensors: Vec<Tensor<'a>>,
}

type Step<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or("ends too early")?;
        self.at += len;
        Ok(taken)
    }

    fn byte(&mut self) -> Step<usize> {
        Ok(self.take(1)?[0].into())
    }

    fn u32(&mut self) -> Step<usize> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)))
    }

    fn text(&mut self, len: usize) -> Step<()> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "a text that is not UTF-8")?;
        self.texts.push(text);
        self.stack.push(Value::Text(self.texts.len() - 1));
        Ok(())
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or("ends within a name")?;
        let line = std::str::from_utf8(self.take(len + 1)?).map_err(|_| "a name that is not UTF-8")?;
        Ok(&line[..len])
    }

    fn pop(&mut self) -> Step<Value> {
        self.stack.pop().ok_or_else(|| "takes from an empty stack".into())
    }

    /// The values behind the last mark, which goes too.
    fn pop_mark(&mut self) -> Step<Vec<Value>> {
        let mark = self.stack.iter().rposition(|&v| v == Value::Mark).ok_or("a mark is missing")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn tuple(&mut self, values: Vec<Value>) {
        self.tuples.push(values);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn tuple_of(&mut self, len: usize) -> Step<()> {
        let first = self.stack.len().checked_sub(len).ok_or("takes from an empty stack")?;
        let values = self.stack.split_off(first);
        self.tuple(values);
        Ok(())
    }

    fn remember(&mut self, place: usize) -> Step<()> {
        let value = *self.stack.last().ok_or("remembers nothing")?;
        if place > self.memo.len() {
            return Err(format!("remembers value {place} before value {}", self.memo.len()));
        }
        match self.memo.get_mut(place) {
            Some(known) => *known = value,
            None => self.memo.push(value),
        }
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Step<()> {
        let value = *self.memo.get(place).ok_or("recalls a value that was not remembered")?;
        self.stack.push(value);
        Ok(())
    }

    fn dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    /// Adds pairs to the dictionary on top; what is no dictionary of texts is let go.
    fn set(&mut self, values: &[Value]) -> Step<()> {
        let dict = *self.stack.last().ok_or("sets items of nothing")?;
        let Value::Dict(dict) = dict else { return Ok(()) };
        for pair in values.chunks_exact(2) {
            if let Value::Text(key) = pair[0] {
                self.dicts[dict].push((self.texts[key], pair[1]));
            }
        }
        Ok(())
    }

    /// One operation; the result at the last.
    fn step(&mut self) -> Step<Option<Value>> {
        let op = self.take(1)?[0];
        match op {
            b'.' => return self.pop().map(Some),
            0x80 => _ = self.take(1)?,
            0x95 => _ = self.take(8)?,
            b'(' => self.stack.push(Value::Mark),
            b'0' => _ = self.pop()?,
            b'}' => self.dict(),
            b'X' => {
                let len = self.u32()?;
                self.text(len)?;
            }
            0x8c => {
                let len = self.byte()?;
                self.text(len)?;
            }
            b'q' => {
                let place = self.byte()?;
                self.remember(place)?;
            }
            b'r' => {
                let place = self.u32()?;
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len())?,
            b'h' => {
                let place = self.byte()?;
                self.recall(place)?;
            }
            b'j' => {
                let place = self.u32()?;
                self.recall(place)?;
            }
            b'J' => {
                let value = self.u32()? as u32 as i32;
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.byte()? as i64;
                self.stack.push(Value::Int(value));
            }
            b'M' => {
                let bytes = self.take(2)?;
                self.stack.push(Value::Int(i64::from(bytes[0]) | i64::from(bytes[1]) << 8));
            }
            0x8a => {
                let len = self.byte()?;
                let bytes = self.take(len)?;
                self.stack.push(long(bytes));
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Other);
            }
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
            b']' => self.stack.push(Value::Other),
            b'a' => _ = self.pop()?,
            b'e' => _ = self.pop_mark()?,
            b')' => self.tuple(Vec::new()),
            b't' => {
                let values = self.pop_mark()?;
                self.tuple(values);
            }
            0x85..=0x87 => self.tuple_of(usize::from(op - 0x84))?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(global(module, name)));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = match (module, name) {
                    (Value::Text(module), Value::Text(name)) => global(self.texts[module], self.texts[name]),
                    _ => Global::Other,
                };
                self.stack.push(Value::Global(global));
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.stack.push(storage);
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let values = self.pop_mark()?;
                self.set(&values)?;
            }
            b'b' => _ = self.pop()?,
            other => {
                return Err(format!(
                    "operation 0x{other:02x}, which a dictionary of tensors does not need: save the state dictionary alone"
                ));
            }
        }
        Ok(None)
    }

    /// `('storage', type, key, device, elements)`.
    fn storage(&mut self, id: Value) -> Step<Value> {
        let parts = match id {
            Value::Tuple(tuple) => &self.tuples[tuple][..],
            _ => &[],
        };
        let [Value::Text(_), Value::Global(Global::Storage(dtype)), Value::Text(key), ..] = parts else {
            return Err("a storage of a type that is not known".into());
        };
        self.storages.push((*dtype, self.texts[*key]));
        Ok(Value::Storage(self.storages.len() - 1))
    }

    fn call(&mut self, function: Value, arguments: Value) -> Step<()> {
        let parts = match arguments {
            Value::Tuple(tuple) => &self.tuples[tuple][..],
            _ => &[],
        };
        match function {
            Value::Global(Global::OrderedDict) => self.dict(),
            Value::Global(Global::RebuildParameter) => {
                let tensor = parts.first().copied().unwrap_or(Value::Other);
                self.stack.push(tensor);
            }
            Value::Global(Global::RebuildTensor) => {
                let &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(size),
                    Value::Tuple(stride),
                    ..,
                ] = parts
                else {
                    return Err("a tensor with arguments of another kind".into());
                };
                let tensor = self.tensor(storage, offset, size, stride)?;
                self.tensors.push(tensor);
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            _ => self.stack.push(Value::Other),
        }
        Ok(())
    }

    fn tensor(&self, storage: usize, offset: i64, size: usize, stride: usize) -> Step<Tensor<'a>> {
        let sizes = |tuple: usize| {
            let size = |value: &Value| match value {
                Value::Int(n) => usize::try_from(*n).ok(),
                _ => None,
            };
            self.tuples[tuple].iter().map(size).collect::<Option<Vec<_>>>().ok_or("a size that is no number")
        };
        let (shape, strides) = (sizes(size)?, sizes(stride)?);
        let mut expected = 1usize;
        for (&size, &stride) in shape.iter().zip(&strides).rev() {
            if size > 1 && stride != expected {
                return Err(format!(
                    "a tensor of shape {shape:?} with strides {strides:?}, expected rows one after the other: save contiguous tensors"
                ));
            }
            expected = expected.saturating_mul(size);
        }
        if shape.len() != strides.len() || shape.len() > 8 {
            return Err(format!("a tensor of shape {shape:?} with strides {strides:?}"));
        }
        let offset = usize::try_from(offset).map_err(|_| format!("a tensor at offset {offset}"))?;
        let (dtype, storage) = self.storages[storage];
        Ok(Tensor { dtype, storage, offset, shape })
    }
}

/// A little-endian number of any length in two's complement.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Other;
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}

fn global(module: &str, name: &str) -> Global {
    match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", storage) => match storage {
            "FloatStorage" => Global::Storage(Dtype::F32),
            "HalfStorage" => Global::Storage(Dtype::F16),
            "BFloat16Storage" => Global::Storage(Dtype::BF16),
            "DoubleStorage" => Global::Storage(Dtype::F64),
            "LongStorage" => Global::Storage(Dtype::I64),
            "IntStorage" => Global::Storage(Dtype::I32),
            "ShortStorage" => Global::Storage(Dtype::I16),
            "CharStorage" => Global::Storage(Dtype::I8),
            "ByteStorage" => Global::Storage(Dtype::U8),
            "BoolStorage" => Global::Storage(Dtype::BOOL),
            _ => Global::Other,
        },
        _ => Global::Other,
    }
}
