//! Arrays that numpy wrote.

use std::path::Path;

/// Shape and values of a float32 array from a `.npy` file, version 1, C order.
pub fn read(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}: npy version 1", path.display());
    let header = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let text = std::str::from_utf8(&bytes[10..header]).unwrap();
    assert!(text.contains("'<f4'") && text.contains("False"), "float32 in C order: {text}");
    let shape = text.split_once('(').unwrap().1.split_once(')').unwrap().0;
    let shape: Vec<usize> = shape.split(',').filter_map(|d| d.trim().parse().ok()).collect();
    let values: Vec<f32> = bytes[header..].as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(shape.iter().product::<usize>(), values.len(), "{}: the shape is that of the values", path.display());
    (shape, values)
}
