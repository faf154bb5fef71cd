//! Metadata values: their type numbers, how they are read, how they are written.
//!
//! Arrays are read in pieces of the cursor's buffer into vectors that are never longer than the file could fill.
//! Nested arrays, which the format allows and hardly anybody writes, are bounded in depth and in number over the whole
//! header, because an empty one costs five times more memory than file.

use super::cursor::{Cursor, MAX_HEADER};
use crate::error::Result;
use crate::meta::{Array, Strings, Value};

/// Arrays in arrays in arrays: no deeper.
const MAX_DEPTH: usize = 4;
/// Arrays that are elements of arrays, in one header.
pub(super) const MAX_INNER: usize = 1 << 16;
/// Bytes converted at once.
const PIECE: usize = 64 << 10;

const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// Bytes of the type and length that begin an array.
const ARRAY_HEAD: u64 = 12;

trait Scalar: Sized + Copy {
    const SIZE: usize;
    fn get(bytes: &[u8]) -> Self;
    fn put(self, out: &mut Vec<u8>);
}

macro_rules! scalars {
    ($($t:ty),*) => {$(
        impl Scalar for $t {
            const SIZE: usize = size_of::<$t>();
            fn get(bytes: &[u8]) -> Self {
                <$t>::from_le_bytes(bytes.try_into().expect("callers pass SIZE bytes"))
            }
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
scalars!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// Reads a value: its type, then itself. `inner` is how many arrays within arrays the header may still have.
pub(super) fn read(c: &mut Cursor, inner: &mut usize) -> Result<Value> {
    let at = c.position();
    Ok(match c.u32()? {
        0 => Value::U8(one(c)?),
        1 => Value::I8(one(c)?),
        2 => Value::U16(one(c)?),
        3 => Value::I16(one(c)?),
        4 => Value::U32(one(c)?),
        5 => Value::I32(one(c)?),
        6 => Value::F32(one(c)?),
        7 => Value::Bool(bools(c, 1)?[0]),
        STRING => Value::String(c.string(MAX_HEADER as usize)?.to_vec()),
        ARRAY => Value::Array(array(c, 0, inner)?),
        10 => Value::U64(one(c)?),
        11 => Value::I64(one(c)?),
        12 => Value::F64(one(c)?),
        t => return Err(unknown(c, at, t)),
    })
}

fn unknown(c: &Cursor, at: u64, t: u32) -> crate::error::Error {
    c.error(at, format!("value type {t} is not known; GGUF has types 0 to 12"))
}

fn one<T: Scalar>(c: &mut Cursor) -> Result<T> {
    c.take(T::SIZE).map(T::get)
}

fn array(c: &mut Cursor, depth: usize, inner: &mut usize) -> Result<Array> {
    let at = c.position();
    let kind = c.u32()?;
    Ok(match kind {
        0 => Array::U8(many(c)?),
        1 => Array::I8(many(c)?),
        2 => Array::U16(many(c)?),
        3 => Array::I16(many(c)?),
        4 => Array::U32(many(c)?),
        5 => Array::I32(many(c)?),
        6 => Array::F32(many(c)?),
        7 => {
            let n = c.count(1)?;
            Array::Bool(bools(c, n)?)
        }
        STRING => Array::String(strings(c)?),
        ARRAY => Array::Array(arrays(c, at, depth + 1, inner)?),
        10 => Array::U64(many(c)?),
        11 => Array::I64(many(c)?),
        12 => Array::F64(many(c)?),
        t => return Err(unknown(c, at, t)),
    })
}

fn many<T: Scalar>(c: &mut Cursor) -> Result<Vec<T>> {
    let n = c.count(T::SIZE as u64)?;
    let mut out = Vec::with_capacity(n);
    while out.len() < n {
        let piece = (n - out.len()).min(PIECE / T::SIZE);
        out.extend(c.take(piece * T::SIZE)?.chunks_exact(T::SIZE).map(T::get));
    }
    Ok(out)
}

fn bools(c: &mut Cursor, n: usize) -> Result<Vec<bool>> {
    let mut out = Vec::with_capacity(n);
    while out.len() < n {
        let at = c.position();
        match c.array::<1>()? {
            [0] => out.push(false),
            [1] => out.push(true),
            [b] => return Err(c.error(at, format!("a bool must be 0 or 1, it is {b}"))),
        }
    }
    Ok(out)
}

fn strings(c: &mut Cursor) -> Result<Strings> {
    let n = c.count(8)?;
    let mut out = Strings::default();
    for _ in 0..n {
        out.push(c.string(MAX_HEADER as usize)?);
    }
    Ok(out)
}

fn arrays(c: &mut Cursor, at: u64, depth: usize, inner: &mut usize) -> Result<Vec<Array>> {
    if depth >= MAX_DEPTH {
        return Err(c.error(at, format!("arrays are nested deeper than {MAX_DEPTH}")));
    }
    let n = c.count(ARRAY_HEAD)?;
    *inner = inner.checked_sub(n).ok_or_else(|| {
        c.error(at, format!("{n} more arrays within arrays; a header may have {MAX_INNER} of them in all"))
    })?;
    (0..n).map(|_| array(c, depth, inner)).collect()
}

/// Appends a value as it stands in a file: its type, then itself.
pub(super) fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::U8(x) => put(0, *x, out),
        Value::I8(x) => put(1, *x, out),
        Value::U16(x) => put(2, *x, out),
        Value::I16(x) => put(3, *x, out),
        Value::U32(x) => put(4, *x, out),
        Value::I32(x) => put(5, *x, out),
        Value::F32(x) => put(6, *x, out),
        Value::Bool(x) => put(7, u8::from(*x), out),
        Value::String(s) => {
            STRING.put(out);
            write_string(s, out);
        }
        Value::Array(a) => {
            ARRAY.put(out);
            write_array(a, out);
        }
        Value::U64(x) => put(10, *x, out),
        Value::I64(x) => put(11, *x, out),
        Value::F64(x) => put(12, *x, out),
    }
}

/// Appends a string: its length, then its bytes.
pub(super) fn write_string(s: &[u8], out: &mut Vec<u8>) {
    (s.len() as u64).put(out);
    out.extend_from_slice(s);
}

fn put<T: Scalar>(kind: u32, x: T, out: &mut Vec<u8>) {
    kind.put(out);
    x.put(out);
}

fn put_all<T: Scalar>(kind: u32, v: &[T], out: &mut Vec<u8>) {
    array_head(kind, v.len(), out);
    v.iter().for_each(|x| x.put(out));
}

fn array_head(kind: u32, len: usize, out: &mut Vec<u8>) {
    kind.put(out);
    (len as u64).put(out);
}

fn write_array(array: &Array, out: &mut Vec<u8>) {
    match array {
        Array::U8(v) => put_all(0, v, out),
        Array::I8(v) => put_all(1, v, out),
        Array::U16(v) => put_all(2, v, out),
        Array::I16(v) => put_all(3, v, out),
        Array::U32(v) => put_all(4, v, out),
        Array::I32(v) => put_all(5, v, out),
        Array::F32(v) => put_all(6, v, out),
        Array::Bool(v) => {
            array_head(7, v.len(), out);
            out.extend(v.iter().map(|&b| u8::from(b)));
        }
        Array::String(v) => {
            array_head(STRING, v.len(), out);
            v.iter().for_each(|s| write_string(s, out));
        }
        Array::Array(v) => {
            array_head(ARRAY, v.len(), out);
            v.iter().for_each(|a| write_array(a, out));
        }
        Array::U64(v) => put_all(10, v, out),
        Array::I64(v) => put_all(11, v, out),
        Array::F64(v) => put_all(12, v, out),
    }
}
