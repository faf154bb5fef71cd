//! `air tokenize` as a user meets it.

#[path = "common/raw_gguf.rs"]
mod raw_gguf;

use raw_gguf::{Raw, V};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A file with a SentencePiece vocabulary: 0 `<unk>`, 1 `<s>`, 2 `</s>`, the bytes from 3, then words from 259.
fn model(name: &str) -> PathBuf {
    let mut tokens: Vec<Vec<u8>> = [&b"<unk>"[..], b"<s>", b"</s>"].map(Vec::from).to_vec();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>").into_bytes()));
    tokens.extend(["▁", "a", "b", "▁a"].map(|w| w.as_bytes().to_vec()));
    let kinds = (0..tokens.len()).map(|i| {
        if i == 0 {
            2
        } else if i < 3 {
            3
        } else if i < 259 {
            6
        } else {
            1
        }
    });
    let keys = [
        ("general.architecture", "llama".into()),
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.scores", V::F32s((0..tokens.len()).map(|i| -(i as f32)).collect())),
        ("tokenizer.ggml.token_type", V::I32s(kinds.collect())),
        ("tokenizer.ggml.tokens", V::Strs(tokens)),
    ];
    let path = std::env::temp_dir().join(format!("air-tokenize-{}-{name}.gguf", std::process::id()));
    std::fs::write(&path, Raw::file(&keys, &[("t", &[1], 0, vec![0; 4])]).bytes).unwrap();
    path
}

fn run(model: &PathBuf, args: &[&str], stdin: &[u8]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    c.arg("tokenize").arg("-m").arg(model).args(args).current_dir(std::env::temp_dir()).env_clear();
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

fn text(o: Output) -> String {
    assert_eq!(o.status.code(), Some(0), "{}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8(o.stdout).unwrap()
}

fn error(o: Output, code: i32) -> String {
    assert_eq!(o.status.code(), Some(code));
    assert!(o.stdout.is_empty());
    String::from_utf8(o.stderr).unwrap()
}

#[test]
fn texts_and_their_ids() {
    let m = model("ids");
    assert_eq!(text(run(&m, &["--ids", "ab a"], b"")), "1,262,261,262\n");
    assert_eq!(text(run(&m, &["--ids", "--no-bos", "a"], b"")), "262\n");
    assert_eq!(text(run(&m, &["--ids", "--no-bos", "</s>"], b"")), "2\n");
    assert_ne!(text(run(&m, &["--ids", "--no-bos", "--no-special", "</s>"], b"")), "2\n");
    assert_eq!(text(run(&m, &["--ids", "--no-bos", "-"], b"a\n")), "262,13\n", "stdin is taken as it is");
    assert_eq!(text(run(&m, &["--ids", ""], b"")), "1\n");
    let file = m.with_extension("txt");
    std::fs::write(&file, "a\n").unwrap();
    assert_eq!(text(run(&m, &["--ids", "--file", file.to_str().unwrap()], b"")), "1,262,13\n");
    std::fs::write(&file, b"ab\xff").unwrap();
    let e = error(run(&m, &["--ids", "--file", file.to_str().unwrap()], b""), 1);
    assert!(e.contains("is not UTF-8 at byte 2"), "{e}");
    std::fs::remove_file(file).unwrap();
    std::fs::remove_file(m).unwrap();
}

#[test]
fn pieces_as_a_table_and_as_json() {
    let m = model("table");
    assert_eq!(
        text(run(&m, &["aé\x1b"], b"")).lines().collect::<Vec<_>>(),
        [
            "       1  '<s>'",
            "     262  ' a'",
            "     198  '\\xc3'",
            "     172  '\\xa9'",
            "      30  '\\u{1b}'",
            "5 tokens"
        ]
    );
    let json: serde_json::Value = serde_json::from_str(&text(run(&m, &["--json", "é"], b""))).unwrap();
    assert_eq!((&json["count"], &json["tokens"][1]["piece"]), (&4.into(), &" ".into()));
    assert_eq!((&json["tokens"][2]["kind"], &json["tokens"][2]["piece"]), (&"byte".into(), &serde_json::Value::Null));
    std::fs::remove_file(m).unwrap();
}

#[test]
fn ids_and_their_text() {
    let m = model("decode");
    assert_eq!(text(run(&m, &["--decode", "1,262,198 172"], b"")), "<s>aé\n");
    assert_eq!(text(run(&m, &["--decode", "--no-special", "-"], b"1\n262\n2")), "a\n");
    let e = error(run(&m, &["--decode", "1,263"], b""), 1);
    assert!(e.contains("`263` is no token id; ids of this model are 0 to 262"), "{e}");
    assert!(error(run(&m, &["--decode", "x"], b""), 1).contains("`x` is no token id"));
    std::fs::remove_file(m).unwrap();
}

#[test]
fn bad_usage_is_told() {
    let m = model("usage");
    assert!(error(run(&m, &["--ids", "--json", "a"], b""), 2).contains("cannot be used with"));
    assert!(error(run(&m, &["a", "--file", "f"], b""), 2).contains("cannot be used with"));
    assert!(error(run(&PathBuf::from("none.gguf"), &["a"], b""), 1).contains("none.gguf"));
    std::fs::remove_file(m).unwrap();
}
