//! The tokenizer metadata of a GGUF file, read without checks: the files are known good.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use leveret_model::tokenizer::GgufVocab;

/// A metadata value.
#[derive(Debug)]
pub(crate) enum Value {
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }
}

/// All metadata of a file.
#[derive(Debug)]
pub(crate) struct Metadata(HashMap<String, Value>);

impl Metadata {
    pub(crate) fn read(path: &Path) -> Self {
        let mut source = Source(BufReader::new(File::open(path).unwrap()));
        assert_eq!(source.u32(), u32::from_le_bytes(*b"GGUF"));
        let (_version, _tensors, entries) = (source.u32(), source.u64(), source.u64());
        Self((0..entries).map(|_| (source.text(), source.typed())).collect())
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn int(&self, key: &str) -> Option<u32> {
        match self.0.get(key)? {
            Value::Int(int) => Some(u32::try_from(*int).unwrap()),
            _ => None,
        }
    }

    fn list<'a, T>(&'a self, key: &str, item: impl Fn(&'a Value) -> T) -> Option<Vec<T>> {
        match self.0.get(key)? {
            Value::List(list) => Some(list.iter().map(item).collect()),
            _ => None,
        }
    }

    pub(crate) fn vocab(&self) -> GgufVocab<'_> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        GgufVocab {
            model: self.text(&key("model")).unwrap(),
            pre: self.text(&key("pre")),
            tokens: self.list(&key("tokens"), Value::text).unwrap(),
            scores: self.list(&key("scores"), |value| match value {
                Value::Float(float) => *float as f32,
                other => panic!("{other:?}"),
            }),
            token_types: self.list(&key("token_type"), |value| match value {
                Value::Int(int) => *int as u32,
                other => panic!("{other:?}"),
            }),
            merges: self.list(&key("merges"), Value::text),
            bos: self.int(&key("bos_token_id")),
            eos: self.int(&key("eos_token_id")),
            eot: self.int(&key("eot_token_id")),
            eom: self.int(&key("eom_token_id")),
            unknown: self.int(&key("unknown_token_id")),
            add_bos: self.int(&key("add_bos_token")).map(|int| int != 0),
            add_space_prefix: self.int(&key("add_space_prefix")).map(|int| int != 0),
        }
    }
}

struct Source(BufReader<File>);

impl Source {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn text(&mut self) -> String {
        let mut bytes = vec![0; self.u64() as usize];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn typed(&mut self) -> Value {
        let ty = self.u32();
        self.value(ty)
    }

    fn value(&mut self, ty: u32) -> Value {
        match ty {
            0 | 7 => Value::Int(self.bytes::<1>()[0].into()),
            1 => Value::Int((self.bytes::<1>()[0] as i8).into()),
            2 => Value::Int(u16::from_le_bytes(self.bytes()).into()),
            3 => Value::Int(i16::from_le_bytes(self.bytes()).into()),
            4 => Value::Int(self.u32().into()),
            5 => Value::Int(i32::from_le_bytes(self.bytes()).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()).into()),
            8 => Value::Text(self.text()),
            9 => {
                let (ty, len) = (self.u32(), self.u64());
                Value::List((0..len).map(|_| self.value(ty)).collect())
            }
            10 | 11 => Value::Int(self.u64() as i64),
            12 => Value::Float(f64::from_le_bytes(self.bytes())),
            other => panic!("value type {other}"),
        }
    }
}
