//! The table against the `gguf` package's decoder (goldens of `scripts/goldens/quants.py`), and its own consistency.

use super::*;

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/goldens/quant/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}; scripts/goldens/quants.py writes it"))
}

#[test]
fn every_format_decodes_as_the_gguf_package_does() {
    for format in FORMATS {
        let data = golden(format.name);
        let per_block = format.block_bytes + 4 * format.block_len;
        let n = data.len() / per_block;
        assert!(n >= 6 && data.len() == n * per_block, "{}: the golden holds whole blocks", format.name);
        let (blocks, expected) = data.split_at(n * format.block_bytes);
        let mut got = vec![0.0; n * format.block_len];
        (format.decode)(blocks, &mut got);
        for (i, (got, expected)) in got.iter().zip(expected.as_chunks::<4>().0).enumerate() {
            let expected = f32::from_le_bytes(*expected);
            // A NaN's sign and payload are the hardware's choice; every other bit is the format's.
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(same, "{} element {i}: {got} ({:08x}) for {expected}", format.name, got.to_bits());
        }
    }
}

#[test]
fn rows_are_consistent() {
    for (i, f) in FORMATS.iter().enumerate() {
        assert_eq!(f.kind as usize, i, "{}: rows stand in the order of Kind", f.name);
        assert_eq!(format!("{:?}", f.kind), f.name);
        assert_eq!(f.kind.format(), f);
        let mut covered: Vec<usize> = f.fields.iter().flat_map(|x| x.at..x.at + x.len).collect();
        covered.sort_unstable();
        assert!(covered.into_iter().eq(0..f.block_bytes), "{}: fields fill the block", f.name);
        assert!(f.fields.iter().all(|x| x.len % x.unit == 0), "{}: units divide their fields", f.name);
        assert_eq!(Format::by_ggml_id(f.ggml_id).unwrap(), f);
        assert_eq!(Format::by_name(&f.name.to_lowercase()).unwrap(), f);
        assert!(refused::reason(f.ggml_id).is_none(), "{} is both read and refused", f.name);
    }
}

#[test]
fn other_numbers_are_refused_by_name() {
    let names = [
        (4, "Q4_2"),
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (26, "I32"),
        (28, "F64"),
        (33, "Q4_0_8_8"),
        (38, "IQ4_NL_8_8"),
        (40, "NVFP4"),
        (42, "Q2_0"),
    ];
    for (id, name) in names {
        let message = Format::by_ggml_id(id).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("Q4_K"), "{id}: {message}");
    }
    for id in 0..43 {
        let message = Format::by_ggml_id(id).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(!message.contains("does not define"), "{id} is a number that ggml gave: {message}");
    }
    for id in [43, 1000, u32::MAX] {
        let message = Format::by_ggml_id(id).unwrap_err().to_string();
        assert!(message.contains(&id.to_string()) && message.contains("does not define"), "{message}");
    }
    assert!(Format::by_name("Q9_Z").unwrap_err().to_string().contains("IQ4_XS"));
}
