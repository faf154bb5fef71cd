//! Metadata of a checkpoint: typed values under dotted keys, as GGUF defines them.
//!
//! The getters convert between the integer widths that writers mix freely, and refuse everything else with an error
//! that names file, key and byte offset. String arrays (vocabularies of 150 000 entries) are one buffer, not one
//! allocation each. Strings are bytes here: GGUF promises UTF-8, files break the promise, and a tokenizer needs the
//! bytes as they are.

use crate::error::{Error, Result};
use indexmap::IndexMap;

/// A list of byte strings in one buffer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    /// Appends one string.
    pub fn push(&mut self, s: &[u8]) {
        self.bytes.extend_from_slice(s);
        self.ends.push(self.bytes.len());
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The `i`-th string.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[start..end])
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i).expect("i is below len"))
    }
}

impl<'a> FromIterator<&'a str> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a str>>(iter: I) -> Self {
        let mut out = Strings::default();
        iter.into_iter().for_each(|s| out.push(s.as_bytes()));
        out
    }
}

/// One metadata value. Arrays are homogeneous, as in GGUF; nested arrays are allowed.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are GGUF's types by their names")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(Vec<u8>),
    Array(Array),
}

/// A homogeneous array.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are GGUF's types by their names")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Strings),
    Array(Vec<Array>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::F64(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::Array(v) => v.len(),
        }
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type's name, as GGUF calls it.
    pub fn element_type(&self) -> &'static str {
        match self {
            Array::U8(_) => "uint8",
            Array::I8(_) => "int8",
            Array::U16(_) => "uint16",
            Array::I16(_) => "int16",
            Array::U32(_) => "uint32",
            Array::I32(_) => "int32",
            Array::U64(_) => "uint64",
            Array::I64(_) => "int64",
            Array::F32(_) => "float32",
            Array::F64(_) => "float64",
            Array::Bool(_) => "bool",
            Array::String(_) => "string",
            Array::Array(_) => "array",
        }
    }

    /// All elements as integers; `None` when the array holds something else.
    pub fn integers(&self) -> Option<Vec<i64>> {
        Some(match self {
            Array::U8(v) => v.iter().map(|&x| x.into()).collect(),
            Array::I8(v) => v.iter().map(|&x| x.into()).collect(),
            Array::U16(v) => v.iter().map(|&x| x.into()).collect(),
            Array::I16(v) => v.iter().map(|&x| x.into()).collect(),
            Array::U32(v) => v.iter().map(|&x| x.into()).collect(),
            Array::I32(v) => v.iter().map(|&x| x.into()).collect(),
            Array::U64(v) => v.iter().map(|&x| i64::try_from(x).ok()).collect::<Option<_>>()?,
            Array::I64(v) => v.clone(),
            _ => return None,
        })
    }
}

impl Value {
    /// The type's name, as GGUF calls it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "uint8",
            Value::I8(_) => "int8",
            Value::U16(_) => "uint16",
            Value::I16(_) => "int16",
            Value::U32(_) => "uint32",
            Value::I32(_) => "int32",
            Value::U64(_) => "uint64",
            Value::I64(_) => "int64",
            Value::F32(_) => "float32",
            Value::F64(_) => "float64",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(_) => "array",
        }
    }

    /// The value as an integer, if it is one.
    pub fn integer(&self) -> Option<i64> {
        Some(match *self {
            Value::U8(x) => x.into(),
            Value::I8(x) => x.into(),
            Value::U16(x) => x.into(),
            Value::I16(x) => x.into(),
            Value::U32(x) => x.into(),
            Value::I32(x) => x.into(),
            Value::U64(x) => i64::try_from(x).ok()?,
            Value::I64(x) => x,
            _ => return None,
        })
    }
}

/// The metadata of one checkpoint, in file order.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    file: String,
    entries: IndexMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    value: Value,
    offset: Option<u64>,
}

impl Meta {
    /// Empty metadata of a file (the name is for messages).
    pub fn new(file: &str) -> Self {
        Meta { file: file.into(), entries: IndexMap::new() }
    }

    /// The file's name, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Sets a key; `offset` is where it stood in the file. Returns false when the key was there already (it is
    /// replaced).
    pub fn insert(&mut self, key: &str, value: Value, offset: Option<u64>) -> bool {
        self.entries.insert(key.into(), Entry { value, offset }).is_none()
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        self.entries.shift_remove(key);
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, e)| (k.as_str(), &e.value))
    }

    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).map(|e| &e.value)
    }

    /// An error about a key, with file and offset.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        let offset = self.entries.get(key).and_then(|e| e.offset);
        Error::File { file: self.file.clone(), field: key.into(), offset, problem: problem.into() }
    }

    fn wrong_type(&self, key: &str, want: &str) -> Error {
        let is = match self.get(key) {
            Some(Value::Array(a)) => format!("array of {}", a.element_type()),
            Some(v) => v.type_name().to_string(),
            None => "missing".into(),
        };
        self.error(key, format!("the value must be {want}, it is {is}"))
    }

    fn need<T>(&self, key: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| self.error(key, "this metadata key is missing; the file is incomplete or not a model"))
    }

    /// A non-negative integer below 2^32, if the key exists.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let n = value.integer().ok_or_else(|| self.wrong_type(key, "an integer"))?;
        let n = u32::try_from(n).map_err(|_| self.error(key, format!("{n} is out of range (0 to 2^32 - 1)")))?;
        Ok(Some(n))
    }

    /// A non-negative integer below 2^32.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.opt_u32(key).and_then(|v| self.need(key, v))
    }

    /// A finite float, if the key exists (integers are converted).
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let x = match value {
            Value::F32(x) => *x,
            Value::F64(x) => *x as f32,
            v => v.integer().ok_or_else(|| self.wrong_type(key, "a number"))? as f32,
        };
        if !x.is_finite() {
            return Err(self.error(key, format!("{x} is not a finite number")));
        }
        Ok(Some(x))
    }

    /// A finite float.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.opt_f32(key).and_then(|v| self.need(key, v))
    }

    /// A boolean, if the key exists.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(self.wrong_type(key, "a bool")),
        }
    }

    /// A UTF-8 string, if the key exists.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => {
                let s = std::str::from_utf8(s).map_err(|e| self.error(key, format!("is not UTF-8: {e}")))?;
                Ok(Some(s))
            }
            Some(_) => Err(self.wrong_type(key, "a string")),
        }
    }

    /// A UTF-8 string.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.opt_str(key).and_then(|v| self.need(key, v))
    }

    /// An array of strings, if the key exists.
    pub fn opt_strings(&self, key: &str) -> Result<Option<&Strings>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(s))) => Ok(Some(s)),
            Some(Value::Array(a)) if a.is_empty() => Ok(None),
            Some(_) => Err(self.wrong_type(key, "an array of strings")),
        }
    }

    /// An array of floats, if the key exists.
    pub fn opt_floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(v))) => Ok(Some(v.clone())),
            Some(Value::Array(Array::F64(v))) => Ok(Some(v.iter().map(|&x| x as f32).collect())),
            Some(_) => Err(self.wrong_type(key, "an array of floats")),
        }
    }

    /// An array of booleans, if the key exists.
    pub fn opt_bools(&self, key: &str) -> Result<Option<&[bool]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Bool(v))) => Ok(Some(v)),
            Some(_) => Err(self.wrong_type(key, "an array of bools")),
        }
    }

    /// An array of integers, if the key exists.
    pub fn opt_integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(a)) => {
                Ok(Some(a.integers().ok_or_else(|| self.wrong_type(key, "an array of integers"))?))
            }
            Some(_) => Err(self.wrong_type(key, "an array of integers")),
        }
    }
}
