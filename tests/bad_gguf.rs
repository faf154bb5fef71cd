//! Every kind of bad GGUF that has broken a peer: a clear error with file, field and offset.

#[path = "common/raw_gguf.rs"]
mod raw_gguf;

use air_rs::error::Error;
use air_rs::format::gguf;
use raw_gguf::{Raw, V};
use std::path::PathBuf;

/// A folder of its own, gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("air-bad-gguf-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const F32: u32 = 0;
const Q4_0: u32 = 2;

/// One key, one tensor `a` of 2 x 3 floats.
fn good() -> Raw {
    let keys = [("general.architecture", "llama".into()), ("general.alignment", V::U32(32))];
    Raw::file(&keys, &[("a", &[2, 3], F32, vec![1; 24]), ("b", &[2], F32, vec![2; 8])])
}

/// Opens bytes that are bad, and checks field, offset and words of the error; the file is always named.
#[track_caller]
fn refuse(bytes: &[u8], field: &str, offset: usize, words: &str) {
    let folder = Folder::new();
    let path = folder.write("bad.gguf", bytes);
    let error = gguf::open(&path).expect_err("the file is bad");
    let Error::File { file, field: f, offset: o, problem } = &error else { panic!("another error: {error}") };
    assert_eq!(file, &path.display().to_string());
    assert_eq!((f.as_str(), *o), (field, Some(offset as u64)), "{error}");
    assert!(problem.contains(words), "`{problem}` does not contain `{words}`");
    assert!(error.to_string().contains(&format!("at byte {offset}")), "{error}");
}

/// Overwrites a field of the good file and expects the error at that field.
#[track_caller]
fn refuse_patch(label: &str, bytes: &[u8], field: &str, words: &str) {
    let raw = good();
    let offset = raw.mark(label).offset;
    refuse(&raw.patch(label, bytes).bytes, field, offset, words);
}

/// Overwrites a field of tensor `a`; the error stands at the beginning of its info.
#[track_caller]
fn refuse_tensor(label: &str, bytes: &[u8], words: &str) {
    let raw = good();
    let offset = raw.mark("tensor a: name length").offset;
    refuse(&raw.patch(label, bytes).bytes, "tensor a", offset, words);
}

#[test]
fn the_unchanged_file_opens() {
    let folder = Folder::new();
    let catalogue = gguf::open(&folder.write("good.gguf", &good().bytes)).unwrap();
    assert_eq!(catalogue.tensors["a"].shape, [2, 3]);
    let mut bytes = [0; 8];
    catalogue.read(&catalogue.tensors["b"], 0, &mut bytes).unwrap();
    assert_eq!(bytes, [2; 8]);
}

#[test]
fn other_kinds_of_file_are_named() {
    let safetensors = [b"\x40\0\0\0\0\0\0\0{\"a\":{".as_slice(), &[b' '; 64]].concat();
    refuse(&safetensors, "magic", 0, "safetensors");
    refuse(b"PK\x03\x04\x14\0\0\0\x08\x08", "magic", 0, "PyTorch");
    refuse(b"<!DOCTYPE html><html>", "magic", 0, "web page");
    refuse(b"version https://git-lfs.github.com/spec/v1\n", "magic", 0, "Git LFS");
    refuse(b"tjgg\x03\0\0\0", "magic", 0, "GGJT");
    refuse(b"", "magic", 0, "empty");
    refuse(b"GG", "magic", 0, "GG");
    refuse(&[0; 100], "magic", 0, "zeros");
}

#[test]
fn unknown_versions() {
    refuse_patch("version", &1u32.to_le_bytes(), "version", "version 1 is not supported");
    refuse_patch("version", &4u32.to_le_bytes(), "version", "version 4 is not known");
    refuse_patch("version", &0u32.to_le_bytes(), "version", "version 0 is not known");
}

#[test]
fn big_endian() {
    refuse_patch("version", &3u32.to_be_bytes(), "version", "big-endian");
}

#[test]
fn counts_beyond_the_file() {
    refuse_patch("tensor count", &u64::MAX.to_le_bytes(), "tensor count", "truncated or damaged");
    refuse_patch("tensor count", &1000u64.to_le_bytes(), "tensor count", "1000 entries");
    refuse_patch("metadata count", &(1u64 << 60).to_le_bytes(), "metadata count", "truncated or damaged");
}

#[test]
fn string_lengths_beyond_the_file() {
    let label = "key general.architecture: name length";
    refuse_patch(label, &u64::MAX.to_le_bytes(), "metadata key 0", "truncated or damaged");
    let label = "key general.architecture: value length";
    refuse_patch(label, &5000u64.to_le_bytes(), "general.architecture", "5000 bytes are declared");
    let label = "tensor a: name length";
    refuse_patch(label, &(1u64 << 40).to_le_bytes(), "tensor 0", "truncated or damaged");
}

#[test]
fn keys_and_names_too_long() {
    let raw = Raw::file(&[(&"k".repeat(65_536), V::U8(0))], &[]);
    refuse(&raw.bytes, "metadata key 0", 24, "at most 65535");
    let raw = Raw::file(&[], &[(&"t".repeat(65), &[1], F32, vec![0; 4])]);
    refuse(&raw.bytes, "tensor 0", 24, "at most 64");
}

#[test]
fn array_lengths_beyond_the_file() {
    let raw = Raw::file(&[("x", V::F32s(vec![1.0]))], &[]);
    let offset = raw.mark("key x: array length").offset;
    let raw = raw.patch("key x: array length", &(u64::MAX / 4).to_le_bytes());
    refuse(&raw.bytes, "x", offset, "truncated or damaged");
    let raw = Raw::file(&[("x", V::Strs(vec![b"a".to_vec()]))], &[]);
    let offset = raw.mark("key x: array length").offset;
    let raw = raw.patch("key x: array length", &2u64.to_le_bytes());
    refuse(&raw.bytes, "x", offset, "2 entries of at least 8 bytes");
}

#[test]
fn unknown_value_types() {
    refuse_patch("key general.alignment: type", &13u32.to_le_bytes(), "general.alignment", "value type 13");
}

#[test]
fn arrays_nested_too_deep() {
    let folder = Folder::new();
    let raw = Raw::file(&[("x", V::Nested(4))], &[]);
    gguf::open(&folder.write("deep.gguf", &raw.bytes)).unwrap();
    let raw = Raw::file(&[("x", V::Nested(5))], &[]);
    let offset = raw.marks.iter().rfind(|m| m.label == "key x: element type").unwrap().offset - 12;
    refuse(&raw.bytes, "x", offset, "nested deeper than 4");
    // as many as a file of this size can hold: the error must come before the stack ends
    let raw = Raw::file(&[("x", V::Nested(1_000_000))], &[]);
    refuse(&raw.bytes, "x", raw.mark("key x: element type").offset + 3 * 12, "nested deeper than 4");
}

/// An empty array is 12 bytes in a file and 56 in memory, so their number is bounded, whatever keys they stand under.
#[test]
fn arrays_nested_too_often() {
    let file = |counts: &[u64]| {
        let mut raw = Raw::new(3, 0, counts.len() as u64);
        for (i, &n) in counts.iter().enumerate() {
            raw.put("name length", &1u64.to_le_bytes());
            raw.put("name", &[b'a' + i as u8]);
            raw.put("type", &9u32.to_le_bytes());
            raw.put(&format!("array {i}"), &[&9u32.to_le_bytes()[..], &n.to_le_bytes()].concat());
            (0..n).for_each(|_| raw.put("empty array", &[&4u32.to_le_bytes()[..], &[0; 8]].concat()));
        }
        raw
    };
    let folder = Folder::new();
    gguf::open(&folder.write("many.gguf", &file(&[1 << 15, 1 << 15]).bytes)).unwrap();
    let raw = file(&[1 << 15, (1 << 15) + 1]);
    refuse(&raw.bytes, "b", raw.mark("array 1").offset, "a header may have 65536 of them in all");
}

#[test]
fn bools_that_are_neither() {
    let raw = Raw::file(&[("x", V::Bool(2))], &[]);
    refuse(&raw.bytes, "x", raw.mark("key x: value").offset, "must be 0 or 1, it is 2");
}

#[test]
fn wrong_value_type_for_a_key() {
    let raw = Raw::file(&[("general.alignment", "32".into())], &[]);
    refuse(&raw.bytes, "general.alignment", 24, "must be an integer, it is string");
    let raw = Raw::file(&[("split.count", V::F32(2.0))], &[]);
    refuse(&raw.bytes, "split.count", 24, "must be an integer, it is float32");
}

#[test]
fn alignment_zero_or_no_power_of_two() {
    for n in [0, 33, 48] {
        let raw = good();
        let offset = raw.mark("key general.alignment: name length").offset;
        let raw = raw.patch("key general.alignment: value", &(n as u32).to_le_bytes());
        refuse(&raw.bytes, "general.alignment", offset, &format!("{n} is not a power of two"));
    }
}

#[test]
fn duplicate_keys() {
    let raw = Raw::file(&[("x", V::U8(1)), ("x", V::U8(1))], &[]);
    let offset = raw.marks.iter().rfind(|m| m.label == "key x: name length").unwrap().offset;
    refuse(&raw.bytes, "x", offset, "twice");
}

#[test]
fn duplicate_tensors() {
    let raw = Raw::file(&[], &[("a", &[1], F32, vec![0; 4]), ("a", &[1], F32, vec![0; 4])]);
    let offset = raw.marks.iter().rfind(|m| m.label == "tensor a: name length").unwrap().offset;
    refuse(&raw.bytes, "tensor a", offset, "twice");
}

#[test]
fn overlapping_tensors() {
    let raw = good();
    let offset = raw.mark("tensor b: name length").offset;
    refuse(&raw.patch("tensor b: offset", &0u64.to_le_bytes()).bytes, "tensor b", offset, "overlaps that of a");
    // begins inside another and ends behind it
    let raw = Raw::file(&[], &[("a", &[16], F32, vec![0; 64]), ("b", &[16], F32, vec![0; 64])]);
    let offset = raw.mark("tensor b: name length").offset;
    refuse(&raw.patch("tensor b: offset", &32u64.to_le_bytes()).bytes, "tensor b", offset, "overlaps that of a");
}

#[test]
fn misaligned_offsets() {
    refuse_tensor("tensor a: offset", &8u64.to_le_bytes(), "not a multiple of the alignment 32");
}

#[test]
fn offsets_that_overflow() {
    refuse_tensor("tensor a: offset", &(u64::MAX - 31).to_le_bytes(), "overflows");
    refuse_tensor("tensor a: offset", &(1u64 << 63).to_le_bytes(), "beyond the file's end");
}

#[test]
fn zero_dimensions() {
    refuse_patch("tensor a: dim 1", &0u64.to_le_bytes(), "tensor a", "dimension 1 is zero");
    refuse_patch("tensor a: dimensions", &0u32.to_le_bytes(), "tensor a", "0 dimensions");
}

#[test]
fn more_than_four_dimensions() {
    refuse_patch("tensor a: dimensions", &5u32.to_le_bytes(), "tensor a", "5 dimensions");
    refuse_patch("tensor a: dimensions", &u32::MAX.to_le_bytes(), "tensor a", "4294967295 dimensions");
}

#[test]
fn dimension_products_that_overflow() {
    refuse_tensor("tensor a: dim 0", &(u64::MAX / 2).to_le_bytes(), "overflows");
    refuse_tensor("tensor a: dim 0", &(1u64 << 61).to_le_bytes(), "overflows");
}

#[test]
fn tensor_beyond_the_file() {
    refuse_tensor("tensor a: dim 0", &2000u64.to_le_bytes(), "beyond the file's end");
    let raw = good();
    let cut = raw.bytes.len() - 1;
    refuse(&raw.bytes[..cut], "tensor b", raw.mark("tensor b: name length").offset, "truncated");
}

#[test]
fn header_cut_anywhere() {
    let raw = good();
    let end = raw.mark("tensor b: offset").offset + 8;
    let folder = Folder::new();
    for cut in 0..end {
        let path = folder.write("cut.gguf", &raw.bytes[..cut]);
        let error = gguf::open(&path).expect_err("the header is cut");
        let Error::File { offset: Some(offset), .. } = error else { panic!("no offset: {error}") };
        assert!(offset <= cut as u64, "{error}");
    }
}

#[test]
fn unknown_tensor_types() {
    refuse_patch("tensor a: type", &999u32.to_le_bytes(), "tensor a", "999");
    refuse_patch("tensor a: type", &16u32.to_le_bytes(), "tensor a", "IQ2_XXS");
    refuse_patch("tensor a: type", &4u32.to_le_bytes(), "tensor a", "Q4_2");
}

#[test]
fn rows_that_are_no_multiple_of_the_block() {
    refuse_tensor("tensor a: type", &Q4_0.to_le_bytes(), "rows of 2 elements cannot be Q4_0");
}

#[test]
fn names_that_are_not_utf8() {
    let label = "key general.architecture: name";
    let at = good().mark("key general.architecture: name length").offset;
    refuse(&good().patch(label, &[0xff; 20]).bytes, "metadata key 0", at, "not UTF-8");
    let at = good().mark("tensor a: name length").offset;
    refuse(&good().patch("tensor a: name", &[0xc3]).bytes, "tensor 0", at, "not UTF-8");
}

#[test]
fn a_missing_file_and_a_folder() {
    let folder = Folder::new();
    let error = gguf::open(&folder.0.join("none.gguf")).unwrap_err().to_string();
    assert!(error.contains("none.gguf: cannot open"), "{error}");
    let error = gguf::open(&folder.0).unwrap_err().to_string();
    assert!(error.contains("is a directory"), "{error}");
}

#[test]
fn neither_a_device_nor_a_pipe_is_a_model() {
    let folder = Folder::new();
    let pipe = folder.0.join("pipe.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [PathBuf::from("/dev/zero"), pipe] {
        let error = gguf::open(&path).unwrap_err().to_string();
        assert_eq!(error, format!("{}: is not a regular file; name a model file", path.display()));
    }
}

/// Three files of one tensor each: number, count and total as given for the second.
fn split(folder: &Folder, no: u32, count: u32, total: u32) -> PathBuf {
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        let (no, count, total) = if i == 1 { (no, count, total) } else { (i as u32, 3, 3) };
        let keys =
            [("split.no", V::U32(no)), ("split.count", V::U32(count)), ("split.tensors.count", V::I32(total as i32))];
        let raw = Raw::file(&keys, &[(name, &[1], F32, vec![i as u8; 4])]);
        folder.write(&format!("m-{:05}-of-00003.gguf", i + 1), &raw.bytes);
    }
    folder.0.join("m-00001-of-00003.gguf")
}

#[track_caller]
fn refuse_split(no: u32, count: u32, total: u32, field: &str, words: &str) {
    let folder = Folder::new();
    let error = gguf::open(&split(&folder, no, count, total)).unwrap_err();
    let Error::File { file, field: f, offset: Some(_), problem } = &error else { panic!("another error: {error}") };
    assert!(file.ends_with("m-00002-of-00003.gguf") && f == field && problem.contains(words), "{error}");
}

#[test]
fn split_files_that_fit() {
    let folder = Folder::new();
    let catalogue = gguf::open(&split(&folder, 1, 3, 3)).unwrap();
    assert_eq!(catalogue.tensors.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let mut bytes = [0; 4];
    catalogue.read(&catalogue.tensors["c"], 0, &mut bytes).unwrap();
    assert_eq!(bytes, [2; 4]);
}

#[test]
fn split_files_missing() {
    let folder = Folder::new();
    let path = split(&folder, 1, 3, 3);
    std::fs::remove_file(folder.0.join("m-00003-of-00003.gguf")).unwrap();
    let error = gguf::open(&path).unwrap_err().to_string();
    assert!(error.contains("m-00003-of-00003.gguf: cannot open") && error.contains("file 3 of a model"), "{error}");
}

#[test]
fn split_files_opened_by_another_than_the_first() {
    let folder = Folder::new();
    split(&folder, 1, 3, 3);
    let error = gguf::open(&folder.0.join("m-00002-of-00003.gguf")).unwrap_err().to_string();
    assert!(error.contains("file 2 of 3; open the first") && error.contains("m-00001-of-00003.gguf"), "{error}");
}

#[test]
fn split_files_reordered_or_disagreeing() {
    refuse_split(2, 3, 3, "split.no", "was it renamed?");
    refuse_split(1, 4, 3, "split.count", "it says 4, the first file says 3");
    refuse_split(1, 3, 5, "split.tensors.count", "it says 5, the first file says 3");
}

#[test]
fn split_file_under_another_name() {
    let folder = Folder::new();
    let path = split(&folder, 1, 3, 3);
    let renamed = folder.0.join("model.gguf");
    std::fs::rename(path, &renamed).unwrap();
    let error = gguf::open(&renamed).unwrap_err().to_string();
    assert!(error.contains("must be called NAME-00001-of-00003.gguf"), "{error}");
}

#[test]
fn legitimate_oddities() {
    let folder = Folder::new();
    // a vocabulary: no tensors, and no padding after the header
    let raw = Raw::file(&[("x", V::F32s(vec![])), ("y", V::Strs(vec![]))], &[]);
    let catalogue = gguf::open(&folder.write("vocab.gguf", &raw.bytes)).unwrap();
    assert!(catalogue.tensors.is_empty());
    assert_eq!(catalogue.meta.iter().count(), 2);
    // nothing at all
    gguf::open(&folder.write("nothing.gguf", &Raw::new(3, 0, 0).bytes)).unwrap();
    // version 2, a string value that is not UTF-8, tensors in any order of offsets, one dimension of one
    let mut raw = Raw::new(2, 2, 1);
    raw.key("x", &V::Str(vec![0xff]));
    raw.tensor("late", &[1, 1], F32, 32);
    raw.tensor("early", &[1], F32, 0);
    raw.align(32);
    raw.bytes.extend([0; 64]);
    let catalogue = gguf::open(&folder.write("v2.gguf", &raw.bytes)).unwrap();
    assert_eq!(catalogue.tensors["late"].shape, [1]);
}
