//! GGUF files made by hand, byte by byte, with a list of where each field stands.
//!
//! It shares no code with the library and checks nothing, so tests can say "this length, but wrong".

#![allow(dead_code, reason = "each test program writes other kinds of value")]

/// A field of the header.
#[derive(Debug, Clone)]
pub struct Mark {
    /// `version`, `key general.alignment: type`, `tensor a: dim 0` …
    pub label: String,
    pub offset: usize,
    pub len: usize,
}

#[derive(Debug, Clone)]
pub enum V {
    U8(u8),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(u8),
    Str(Vec<u8>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    Strs(Vec<Vec<u8>>),
    /// Arrays in an array: `depth` levels, the innermost of no numbers.
    Nested(usize),
}

impl From<&str> for V {
    fn from(s: &str) -> V {
        V::Str(s.into())
    }
}

/// A file in the making.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    pub bytes: Vec<u8>,
    pub marks: Vec<Mark>,
}

impl Raw {
    /// Magic, version and counts.
    pub fn new(version: u32, tensors: u64, keys: u64) -> Raw {
        let mut raw = Raw::default();
        raw.put("magic", b"GGUF");
        raw.put("version", &version.to_le_bytes());
        raw.put("tensor count", &tensors.to_le_bytes());
        raw.put("metadata count", &keys.to_le_bytes());
        raw
    }

    /// A whole file: keys, tensors of (name, dims, type number, data) one after the other, aligned to 32.
    pub fn file(keys: &[(&str, V)], tensors: &[(&str, &[u64], u32, Vec<u8>)]) -> Raw {
        let mut raw = Raw::new(3, tensors.len() as u64, keys.len() as u64);
        keys.iter().for_each(|(k, v)| raw.key(k, v));
        let mut offset = 0;
        for (name, dims, kind, data) in tensors {
            raw.tensor(name, dims, *kind, offset);
            offset += (data.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, data) in tensors {
            raw.align(32);
            raw.bytes.extend(data);
        }
        raw
    }

    pub fn put(&mut self, label: &str, bytes: &[u8]) {
        self.marks.push(Mark { label: label.into(), offset: self.bytes.len(), len: bytes.len() });
        self.bytes.extend(bytes);
    }

    fn string(&mut self, label: &str, s: &[u8]) {
        self.put(&format!("{label} length"), &(s.len() as u64).to_le_bytes());
        self.put(label, s);
    }

    pub fn key(&mut self, key: &str, value: &V) {
        self.string(&format!("key {key}: name"), key.as_bytes());
        let kind = |raw: &mut Raw, t: u32| raw.put(&format!("key {key}: type"), &t.to_le_bytes());
        let value_label = format!("key {key}: value");
        match value {
            V::U8(x) => (kind(self, 0), self.put(&value_label, &[*x])).1,
            V::U32(x) => (kind(self, 4), self.put(&value_label, &x.to_le_bytes())).1,
            V::I32(x) => (kind(self, 5), self.put(&value_label, &x.to_le_bytes())).1,
            V::F32(x) => (kind(self, 6), self.put(&value_label, &x.to_le_bytes())).1,
            V::Bool(x) => (kind(self, 7), self.put(&value_label, &[*x])).1,
            V::U64(x) => (kind(self, 10), self.put(&value_label, &x.to_le_bytes())).1,
            V::Str(s) => (kind(self, 8), self.string(&value_label, s)).1,
            V::F32s(v) => {
                kind(self, 9);
                self.array(key, 6, v.len());
                v.iter().for_each(|x| self.put(&value_label, &x.to_le_bytes()));
            }
            V::I32s(v) => {
                kind(self, 9);
                self.array(key, 5, v.len());
                v.iter().for_each(|x| self.put(&value_label, &x.to_le_bytes()));
            }
            V::Strs(v) => {
                kind(self, 9);
                self.array(key, 8, v.len());
                v.iter().for_each(|s| self.string(&value_label, s));
            }
            V::Nested(depth) => {
                kind(self, 9);
                (1..*depth).for_each(|_| self.array(key, 9, 1));
                self.array(key, 4, 0);
            }
        }
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.put(&format!("key {key}: element type"), &kind.to_le_bytes());
        self.put(&format!("key {key}: array length"), &(len as u64).to_le_bytes());
    }

    pub fn tensor(&mut self, name: &str, dims: &[u64], kind: u32, offset: u64) {
        self.string(&format!("tensor {name}: name"), name.as_bytes());
        self.put(&format!("tensor {name}: dimensions"), &(dims.len() as u32).to_le_bytes());
        for (i, d) in dims.iter().enumerate() {
            self.put(&format!("tensor {name}: dim {i}"), &d.to_le_bytes());
        }
        self.put(&format!("tensor {name}: type"), &kind.to_le_bytes());
        self.put(&format!("tensor {name}: offset"), &offset.to_le_bytes());
    }

    pub fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// The first field of that label.
    pub fn mark(&self, label: &str) -> &Mark {
        self.marks.iter().find(|m| m.label == label).unwrap_or_else(|| panic!("no field {label}"))
    }

    /// Overwrites a field.
    pub fn patch(mut self, label: &str, bytes: &[u8]) -> Raw {
        let Mark { offset, len, .. } = *self.mark(label);
        assert_eq!(len, bytes.len(), "{label}");
        self.bytes[offset..offset + len].copy_from_slice(bytes);
        self
    }
}
