//! GGUF there and back: against a file of the `gguf` package with every type, and against the oracle's own reading of
//! real vocabularies.

#[path = "common/oracles.rs"]
mod oracles;

use air_rs::format::gguf::{self, TensorPlan, Writer};
use air_rs::meta::{Array, Meta, Strings, Value};
use air_rs::quant::Kind;
use oracles::oracles;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf/every_type.gguf")
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("air-gguf-{}-{name}", std::process::id()))
}

#[test]
fn every_type_as_the_gguf_package_writes_it() {
    let catalogue = gguf::open(&golden()).unwrap();
    let strings: Strings = ["a", "", "ß"].into_iter().collect();
    let expected = [
        ("general.architecture", Value::String(b"golden".to_vec())),
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("f32", Value::F32(1.5)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("grüß Gott".into())),
        ("u64", Value::U64((1 << 63) + 1)),
        ("i64", Value::I64(-(1 << 62))),
        ("f64", Value::F64(0.1)),
        ("u8s", Value::Array(Array::U8(vec![1, 255]))),
        ("i8s", Value::Array(Array::I8(vec![-1, 127]))),
        ("u16s", Value::Array(Array::U16(vec![1, u16::MAX]))),
        ("i16s", Value::Array(Array::I16(vec![-1, i16::MAX]))),
        ("u32s", Value::Array(Array::U32(vec![1, u32::MAX]))),
        ("i32s", Value::Array(Array::I32(vec![-1, i32::MAX]))),
        ("f32s", Value::Array(Array::F32(vec![0.5, -2.0]))),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("strings", Value::Array(Array::String(strings))),
        ("u64s", Value::Array(Array::U64(vec![1, u64::MAX]))),
        ("i64s", Value::Array(Array::I64(vec![-1, i64::MAX]))),
        ("f64s", Value::Array(Array::F64(vec![0.1]))),
        ("nested", Value::Array(Array::Array(vec![Array::I32(vec![1, 2]), Array::I32(vec![3])]))),
    ];
    let found: Vec<_> = catalogue.meta.iter().collect();
    assert_eq!(found, expected.iter().map(|(k, v)| (*k, v)).collect::<Vec<_>>());

    let shapes: Vec<_> = catalogue.tensors.values().map(|t| (t.name.as_str(), t.format.name, &t.shape[..])).collect();
    assert_eq!(shapes, [("matrix", "F32", &[3, 2][..]), ("half", "F16", &[5]), ("blocks", "Q8_0", &[32, 2])]);
    let mut bytes = vec![0; 68];
    catalogue.read(&catalogue.tensors["blocks"], 0, &mut bytes).unwrap();
    assert_eq!(bytes, (0..68).collect::<Vec<u8>>());
}

#[test]
fn writing_gives_the_same_bytes_as_the_gguf_package() {
    let catalogue = gguf::open(&golden()).unwrap();
    let path = temporary("again.gguf");
    let plans: Vec<_> = catalogue
        .tensors
        .values()
        .map(|t| TensorPlan { name: t.name.clone(), format: t.format, shape: t.shape.clone() })
        .collect();
    let mut writer = Writer::create(&path, &catalogue.meta, &plans).unwrap();
    for t in catalogue.tensors.values() {
        let mut bytes = vec![0; t.extent.len as usize];
        catalogue.read(t, 0, &mut bytes).unwrap();
        bytes.chunks(7).for_each(|chunk| writer.write(chunk).unwrap());
    }
    let announced = writer.file_bytes();
    assert!(!path.exists(), "the name is given when the file is whole");
    writer.finish().unwrap();
    let (ours, theirs) = (std::fs::read(&path).unwrap(), std::fs::read(golden()).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ours.len() as u64, announced);
    assert!(ours == theirs);
}

fn one_tensor(name: &str) -> [TensorPlan; 1] {
    [TensorPlan { name: name.into(), format: Kind::F32.format(), shape: vec![8] }]
}

#[test]
fn a_writer_that_stops_early_leaves_nothing() {
    let path = temporary("half.gguf");
    let part = temporary("half.gguf.part");
    let mut writer = Writer::create(&path, &Meta::default(), &one_tensor("a")).unwrap();
    writer.write(&[0; 16]).unwrap();
    assert!(part.exists());
    drop(writer);
    assert!(!part.exists() && !path.exists());

    let mut writer = Writer::create(&path, &Meta::default(), &one_tensor("a")).unwrap();
    writer.write(&[0; 16]).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("0 of 1 tensors"), "{error}");
    assert!(!part.exists() && !path.exists());
}

#[test]
fn a_writer_refuses_what_does_not_fit() {
    let path = temporary("refused.gguf");
    let mut writer = Writer::create(&path, &Meta::default(), &one_tensor("a")).unwrap();
    assert!(writer.write(&[0; 33]).is_err());
    writer.write(&[0; 32]).unwrap();
    assert!(writer.write(&[0; 1]).is_err());
    writer.write(&[]).unwrap();
    writer.finish().unwrap();
    std::fs::remove_file(&path).unwrap();
    for bad in [one_tensor(""), one_tensor(&"x".repeat(65))] {
        assert!(Writer::create(&path, &Meta::default(), &bad).is_err());
    }
    let twice = [one_tensor("a"), one_tensor("a")].concat();
    assert!(Writer::create(&path, &Meta::default(), &twice).is_err());
    let odd = [TensorPlan { name: "a".into(), format: Kind::Q4_K.format(), shape: vec![100] }];
    let error = Writer::create(&path, &Meta::default(), &odd).unwrap_err().to_string();
    assert!(error.contains("tensor a cannot be written: rows of 100 elements cannot be Q4_K"), "{error}");
    let nowhere = Path::new("/nonexistent/folder/x.gguf");
    let error = Writer::create(nowhere, &Meta::default(), &one_tensor("a")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/folder/x.gguf.part: cannot create"), "{error}");
}

#[test]
fn written_metadata_leaves_out_what_described_another_file() {
    let path = temporary("own.gguf");
    let mut meta = Meta::new("test");
    meta.insert("split.count", Value::U16(3), None);
    meta.insert("general.alignment", Value::U32(4096), None);
    meta.insert("general.name", Value::String(b"x".to_vec()), None);
    Writer::create(&path, &meta, &[]).unwrap().finish().unwrap();
    let catalogue = gguf::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(catalogue.meta.iter().map(|(k, _)| k).collect::<Vec<_>>(), ["general.name"]);
}

/// Where the oracles' sources are, if they are here.
fn vocabularies() -> Option<Vec<PathBuf>> {
    let folder = std::fs::read_dir(oracles().join("llama-src/vendor/llama.cpp/models")).ok()?;
    let files = folder.filter_map(|entry| Some(entry.ok()?.path()));
    Some(files.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect())
}

#[test]
fn real_vocabularies_survive_reading_and_writing() {
    let Some(files) = vocabularies() else {
        eprintln!("skipped: llama.cpp's vocabularies are not in AIR_ORACLES");
        return;
    };
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let catalogue = gguf::open(&file).unwrap();
        let path = temporary("vocabulary.gguf");
        Writer::create(&path, &catalogue.meta, &[]).unwrap().finish().unwrap();
        let (ours, theirs) = (std::fs::read(&path).unwrap(), std::fs::read(&file).unwrap());
        std::fs::remove_file(&path).unwrap();
        // after the version; the padding at the end may be missing
        let n = theirs.len().min(ours.len());
        assert!(ours[8..n] == theirs[8..n] && ours.len().abs_diff(theirs.len()) < 32, "{}", file.display());
    }
}
