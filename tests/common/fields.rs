//! Where each field of a valid GGUF stands: a walk over the header that shares no code with the library.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Number of keys, tensors, elements or dimensions, or the length of a string.
    Count,
    /// A type number.
    Type,
    /// A value, a dimension or an offset.
    Number,
    /// The bytes of a key, a name or a string.
    Text,
}

#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub kind: Kind,
    pub offset: usize,
    pub len: usize,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: Vec<Field>,
}

impl Walk<'_> {
    fn take(&mut self, kind: Kind, len: usize) -> u64 {
        self.fields.push(Field { kind, offset: self.at, len });
        let mut word = [0; 8];
        word[..len.min(8)].copy_from_slice(&self.bytes[self.at..self.at + len.min(8)]);
        self.at += len;
        u64::from_le_bytes(word)
    }

    fn string(&mut self) {
        let len = self.take(Kind::Count, 8) as usize;
        self.take(Kind::Text, len);
    }

    fn value(&mut self, kind: u64) {
        match kind {
            8 => self.string(),
            9 => {
                let element = self.take(Kind::Type, 4);
                let n = self.take(Kind::Count, 8);
                (0..n).for_each(|_| self.value(element));
            }
            _ => {
                let len = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize];
                self.take(Kind::Number, len);
            }
        }
    }
}

/// All fields of the header, in order.
pub fn fields(bytes: &[u8]) -> Vec<Field> {
    let mut w = Walk { bytes, at: 4, fields: vec![] };
    w.take(Kind::Type, 4);
    let tensors = w.take(Kind::Count, 8);
    let keys = w.take(Kind::Count, 8);
    for _ in 0..keys {
        w.string();
        let kind = w.take(Kind::Type, 4);
        w.value(kind);
    }
    for _ in 0..tensors {
        w.string();
        let dims = w.take(Kind::Count, 4);
        for _ in 0..dims {
            w.take(Kind::Number, 8);
        }
        w.take(Kind::Type, 4);
        w.take(Kind::Number, 8);
    }
    w.fields
}
