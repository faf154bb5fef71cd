//! `air info` on files of every kind.

#[path = "common/raw_gguf.rs"]
mod raw_gguf;

use raw_gguf::{Raw, V};
use std::path::PathBuf;
use std::process::{Command, Output};

fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("air-info-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    path
}

fn info(args: &[&str]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    c.arg("info").args(args).current_dir(std::env::temp_dir()).env_clear().output().unwrap()
}

fn model() -> Raw {
    let keys = [
        ("general.architecture", "grand-piano".into()),
        ("general.name", V::Str(b"evil\x1b[2J name".to_vec())),
        ("grand-piano.context_length", V::U32(4096)),
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.pre", "llama-bpe".into()),
        ("tokenizer.ggml.tokens", V::Strs((0..10).map(|i| vec![b'a' + i]).collect())),
        ("tokenizer.chat_template", "{{ x }}".into()),
    ];
    Raw::file(&keys, &[("a", &[4, 2], 0, vec![0; 32]), ("b", &[32], 8, vec![0; 34])])
}

#[test]
fn the_report() {
    let path = write("report.gguf", &model().bytes);
    let o = info(&[path.to_str().unwrap(), "--tensors"]);
    let text = String::from_utf8(o.stdout).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(o.status.code(), Some(0));
    for part in [
        "grand-piano",
        "evil\\u{1b}[2J name",
        "4,096 tokens",
        "gpt2 (llama-bpe), 10 tokens",
        "the architecture \"grand-piano\" is not supported",
        "40 in 66 B, 13.20 bits each",
        "10 string [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", …]",
        "a  4 x 2  F32   32 B",
        "b  32     Q8_0  34 B",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
}

#[test]
fn the_report_as_json() {
    let path = write("json.gguf", &model().bytes);
    let o = info(&["--model", path.to_str().unwrap(), "--json", "--tensors"]);
    std::fs::remove_file(&path).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(json["supported"], false);
    assert_eq!(json["parameters"], 40);
    assert_eq!(json["formats"][0]["format"], "Q8_0");
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"]["length"], 10);
    assert_eq!(json["tensors"][0]["shape"], serde_json::json!([4, 2]));
    assert_eq!(json["metadata"]["general.name"], "evil\u{1b}[2J name");
}

#[test]
fn errors() {
    let missing = info(&["no-such-file.gguf"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(missing.stderr).unwrap(),
        "error: no-such-file.gguf: cannot open: No such file or directory (os error 2)\n"
    );
    let raw = model().patch("version", &9u32.to_le_bytes());
    let path = write("bad.gguf", &raw.bytes);
    let bad = info(&[path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        String::from_utf8(bad.stderr).unwrap().contains("bad.gguf: version at byte 4: GGUF version 9 is not known")
    );
}
