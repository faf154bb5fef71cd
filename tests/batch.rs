//! `air batch` as a user meets it, with the embedded model: every request is answered once, as it is alone, whatever
//! happens to the process.

#[path = "common/models.rs"]
mod models;
#[path = "common/program.rs"]
mod program;

use models::{Temp, altered, tiny};
use program::{air, err, out, run, temp_file};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Stdio};

/// A request of the completions endpoint.
fn completion(id: &str, body: Value) -> String {
    json!({ "custom_id": id, "method": "POST", "url": "/v1/completions", "body": body }).to_string() + "\n"
}

fn greedy(i: usize) -> String {
    let body = json!({ "prompt": format!("Scene {i}. ROMEO:"), "max_tokens": 1 + i % 4, "temperature": 0 });
    completion(&format!("r{i}"), body)
}

fn lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line: {:?}", text.lines().last());
    text.lines().map(|l| serde_json::from_str(l).expect("each line is JSON")).collect()
}

/// The answers' texts by their `custom_id`, of which each is there once.
fn texts(path: &str) -> BTreeMap<String, String> {
    let all = lines(path);
    let text = |l: &Value| {
        assert_eq!((&l["response"]["status_code"], &l["error"]), (&json!(200), &Value::Null), "{l}");
        let choice = &l["response"]["body"]["choices"][0];
        let text = choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap();
        (l["custom_id"].as_str().unwrap().to_string(), text.to_string())
    };
    let map: BTreeMap<_, _> = all.iter().map(text).collect();
    assert_eq!(map.len(), all.len(), "a request was answered twice");
    map
}

/// The messages of what failed, by `custom_id` or `line N`.
fn errors(path: &str) -> BTreeMap<String, String> {
    let failed = lines(path).into_iter().filter(|l| !l["error"].is_null());
    let error = |l: Value| {
        assert_eq!(l["response"]["body"]["error"]["message"], l["error"]["message"], "{l}");
        let id = l["custom_id"].as_str().map_or_else(|| format!("line {}", l["line"]), str::to_string);
        (id, l["error"]["message"].as_str().unwrap().to_string())
    };
    failed.map(error).collect()
}

#[test]
fn answers_are_what_the_same_requests_get_alone() {
    let chat = |id: &str, content: Value| {
        let body = json!({ "model": "any", "messages": [{ "role": "user", "content": content }], "temperature": 0,
            "max_completion_tokens": 12 });
        json!({ "custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body }).to_string() + "\n"
    };
    let mut input = completion("a", json!({ "prompt": "ROMEO:", "max_tokens": 24, "temperature": 0 }));
    input += "\n"; // a blank line is nothing
    input += &completion("b", json!({ "prompt": "JULIET:", "max_tokens": 24, "seed": 5, "temperature": 1.5 }));
    input += &chat("c", json!("What news?"));
    input += &chat("d", json!([{ "type": "text", "text": "What " }, { "type": "text", "text": "news?" }]));
    let input = temp_file("in.jsonl", input.trim_end());
    for exact in [false, true] {
        let output = Temp::new("out.jsonl");
        let flags: &[&str] = if exact { &["--exact"] } else { &[] };
        let o = air(&["batch", &input, &output, "--json"]).args(flags).output().unwrap();
        assert!(o.status.success(), "{}", err(&o));
        let alone = |args: &[&str]| out(&air(&["generate"]).args(args).args(flags).output().unwrap());
        let have = texts(&output);
        assert_eq!(have["a"], alone(&["-p", "ROMEO:", "-n", "24", "-t", "0"]));
        assert_eq!(have["b"], alone(&["-p", "JULIET:", "-n", "24", "-t", "1.5", "--seed", "5"]));
        assert_eq!(have["c"], alone(&["--chat", "-p", "What news?", "-n", "12", "-t", "0"]));
        assert_eq!(have["d"], have["c"]);
        // The summary is the sum of the lines.
        let summary: Value = serde_json::from_str(&out(&o)).unwrap();
        for (field, of) in [("prompt_tokens", "prompt_tokens"), ("generated_tokens", "completion_tokens")] {
            let usage = |l: Value| l["response"]["body"]["usage"][of].as_u64().unwrap();
            assert_eq!(summary[field], lines(&output).into_iter().map(usage).sum::<u64>(), "{summary}");
        }
        assert_eq!((&summary["requests"], &summary["answered"], &summary["errors"]), (&json!(4), &json!(4), &json!(0)));
        for l in lines(&output) {
            let body = &l["response"]["body"];
            let (usage, reason) = (&body["usage"], body["choices"][0]["finish_reason"].as_str().unwrap());
            let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
            assert_eq!(usage["total_tokens"], sum);
            assert!(reason == "length" || reason == "stop", "{reason}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_line_is_its_answer() {
    let ok = json!({ "prompt": "a", "max_tokens": 1 });
    let with = |field: &str, value: Value| {
        let mut line = json!({ "custom_id": "x", "method": "POST", "url": "/v1/completions", "body": ok });
        line["custom_id"] = format!("{field}-{}", value.to_string().len()).into();
        line[field] = value;
        line.to_string() + "\n"
    };
    let mut bytes: Vec<u8> = vec![];
    bytes.extend(completion("good", ok.clone()).bytes());
    bytes.extend(b"no json\n"); // line 2
    bytes.extend([b"[".repeat(100_000).as_slice(), b"\n"].concat()); // line 3
    bytes.extend(b"{\"custom_id\": \"\xff\"}\n"); // line 4
    bytes.extend(with("custom_id", json!(5)).bytes()); // line 5
    bytes.extend([b"\"".as_slice(), &b"a".repeat(5 << 20), b"\"\n"].concat()); // line 6
    bytes.extend(with("method", json!("GET")).bytes());
    bytes.extend(with("url", json!("/v1/embeddings")).bytes());
    bytes.extend(with("body", json!({ "prompt": "a", "n": 2 })).bytes());
    bytes.extend(with("body", json!({ "prompt": "a", "top_p": 7 })).bytes());
    bytes.extend(with("body", json!({ "prompt": "a ".repeat(2000) })).bytes());
    bytes.extend(with("more", json!(1)).bytes());
    bytes.extend(completion("last", ok.clone()).trim_end().bytes());
    let (input, output) = (temp_file("bad.jsonl", ""), Temp::new("out.jsonl"));
    std::fs::write(&*input, bytes).unwrap();
    let o = run(&["batch", &input, &output]);
    assert!(o.status.success(), "{}", err(&o));
    assert!(out(&o).contains("errors           11\n"), "{}", out(&o));
    assert_eq!(lines(&output).len(), 13);
    let errors = errors(&output);
    for (id, want) in [
        ("line 2", "the line is not JSON: "),
        ("line 3", "the line is not JSON: recursion limit exceeded"),
        ("line 4", "the line is not JSON: invalid unicode"),
        ("line 5", "custom_id must be a text of 1 to 512 bytes"),
        ("line 6", "the line has more than 4 MiB"),
        ("method-5", "method must be POST"),
        ("url-16", "url is `/v1/embeddings`; it must be "),
        ("body-20", "n is 2, which is not supported"),
        ("body-24", "top_p is 7; it must be from 0 to 1"),
        ("body-4013", "the prompt has "),
        ("more-1", "more is not a field that air knows"),
    ] {
        assert!(errors.get(id).is_some_and(|e| e.contains(want)), "{id}: {errors:#?}");
    }
    // They are answered: the same command has nothing to do, and needs no model for it.
    let o = run(&["batch", &input, &output, "-m", "/nonexistent.gguf"]);
    assert!(o.status.success() && out(&o).contains("answered before  13\n"), "{}{}", out(&o), err(&o));
    assert_eq!(lines(&output).len(), 13);
}

#[test]
fn a_model_without_a_template_answers_texts_only() {
    let chat = json!({ "custom_id": "c", "method": "POST", "url": "/v1/chat/completions",
        "body": { "messages": [{ "role": "user", "content": "abc" }] } });
    let input = completion("t", json!({ "prompt": "abc", "max_tokens": 2 })) + &chat.to_string();
    let (input, output) = (temp_file("in.jsonl", &input), Temp::new("out.jsonl"));
    let o = run(&["batch", &input, &output, "-m", &tiny("llama-gqa.gguf")]);
    assert!(o.status.success(), "{}", err(&o));
    let failed = errors(&output);
    assert!(failed.len() == 1 && failed["c"].ends_with("is not supported: use /v1/completions"), "{failed:?}");

    // And one whose template refuses what it is given.
    let refusing = altered("llama-gqa.gguf", |meta| {
        let template = "{{ raise_exception('only kings may speak') }}";
        meta.insert("tokenizer.chat_template", air_rs::meta::Value::String(template.into()), None);
    });
    let output = Temp::new("out.jsonl");
    let o = run(&["batch", &input, &output, "-m", &refusing]);
    assert!(o.status.success(), "{}", err(&o));
    let failed = errors(&output);
    assert!(failed.len() == 1 && failed["c"].contains("only kings may speak"), "{failed:?}");
}

#[test]
fn an_answer_that_had_no_time_is_an_error_and_no_empty_text() {
    let input = completion("late", json!({ "prompt": "abc", "max_tokens": 2, "timeout": 0 }))
        + &completion("soon", json!({ "prompt": "abc", "max_tokens": 2, "timeout": 3600 }));
    let (input, output) = (temp_file("in.jsonl", &input), Temp::new("out.jsonl"));
    let o = run(&["batch", &input, &output]);
    assert!(o.status.success(), "{}", err(&o));
    let failed = errors(&output);
    assert!(failed.len() == 1 && failed["late"].contains("(`timeout`) was over"), "{failed:?}");
}

#[test]
fn inputs_and_outputs_that_cannot_be_are_refused_before_anything_runs() {
    let (input, output) = (temp_file("in.jsonl", &(greedy(1) + &greedy(2))), Temp::new("out.jsonl"));
    let refused = |input: &str, output: &str, want: &str| {
        let o = run(&["batch", input, output, "-m", "/nonexistent.gguf"]);
        assert_eq!(o.status.code(), Some(1), "{want}");
        assert!(err(&o).contains(want), "{want}: {}", err(&o));
    };
    let twice = temp_file("twice.jsonl", &(greedy(1) + "\n" + &greedy(2) + &greedy(1)));
    refused(&twice, &output, "lines 1 and 4 have the same custom_id, `r1`; it must be unique");
    refused("/nonexistent.jsonl", &output, "/nonexistent.jsonl: cannot read");
    refused("/dev/null", &output, "/dev/null: is not a regular file");
    assert!(!std::path::Path::new(&*output).exists());
    refused(&input, "/dev/null", "/dev/null: is not a regular file");
    refused(&input, &input, "is the input");
    refused(&input, "/nonexistent/out.jsonl", "/nonexistent/out.jsonl: cannot open");
    // Files of others stay as they are.
    let answer = r#"{"id":"batch_req_1","custom_id":"r9","response":{},"error":null}"#.to_string() + "\n";
    for (text, want) in [
        (answer.as_str(), "line 1 answers custom_id `r9`, which the input does not have; name another output"),
        (&greedy(1), "line 1 is not an answer of a batch"),
        ("notes\n", "line 1 is not JSON"),
        ("no end of line", "line 1 is not one that air was writing"),
    ] {
        let other = temp_file("other.jsonl", text);
        refused(&input, &other, want);
        assert_eq!(std::fs::read_to_string(&*other).unwrap(), text);
    }
    let other = temp_file("other.jsonl", &answer);
    let o = run(&["batch", &input, &other, "--force"]);
    assert!(o.status.success(), "{}", err(&o));
    let ids: Vec<Value> = lines(&other).iter().map(|l| l["custom_id"].clone()).collect();
    assert_eq!((ids.len(), &ids[0]), (3, &json!("r9")));
    // A second process.
    let locked = std::fs::File::create(&*output).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
    refused(&input, &output, "another process is writing it");
    let o = run(&["batch", "--max-num-seqs", "0", &input, &output]);
    assert_eq!(o.status.code(), Some(2));
}

/// `air batch` in the background, with little memory of its own for the sequences.
fn start(input: &str, output: &str, more: &[&str]) -> Child {
    let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_air"));
    c.args(["batch", input, output, "--threads", "1"]).args(more).env_clear();
    c.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn size(path: &str) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// Waits until a file has grown beyond a size, or the process that writes it has ended.
fn grown(child: &mut Child, path: &str, beyond: u64) {
    while size(path) <= beyond && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_hundred_kills_lose_no_answer_and_double_none() {
    const REQUESTS: usize = 500;
    let input = temp_file("in.jsonl", &(0..REQUESTS).map(greedy).collect::<String>());
    let (whole, output) = (Temp::new("whole.jsonl"), Temp::new("out.jsonl"));
    let o = run(&["batch", &input, &whole]);
    assert!(o.status.success(), "{}", err(&o));
    let want = texts(&whole);
    assert_eq!(want.len(), REQUESTS);

    let mut seed = 3u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    let (mut kills, mut torn) = (0, 0);
    for at in 0..100 {
        let before = size(&output);
        let mut child = start(&input, &output, &["--max-num-seqs", ["1", "4", "9"][at % 3]]);
        match at % 4 {
            // While it starts.
            0 => std::thread::sleep(std::time::Duration::from_micros(random(40_000))),
            // A line has some 450 bytes.
            _ => grown(&mut child, &output, before + random(2000)),
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // What a kill seldom does and a power cut may do: the last line is there in part.
        let text = std::fs::read(&*output).unwrap_or_default();
        if random(3) == 0 && !text.is_empty() {
            let last = text[..text.len() - 1].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            let keep = last as u64 + random((text.len() - last) as u64);
            let file = std::fs::OpenOptions::new().write(true).open(&*output).unwrap();
            file.set_len(keep).unwrap();
            if random(2) == 0 {
                file.set_len(keep + 100).unwrap(); // as zeros
                torn += 1;
            }
        }
    }
    assert!(torn > 5 && kills == 100, "{torn}");
    let o = run(&["batch", &input, &output]);
    assert!(o.status.success(), "{}", err(&o));
    assert_eq!(texts(&output), want);
}

#[test]
fn ctrl_c_says_how_to_go_on() {
    let request = |i: usize| completion(&format!("r{i}"), json!({ "prompt": "a", "max_tokens": 60, "temperature": 0 }));
    let input = temp_file("in.jsonl", &(0..300).map(request).collect::<String>());
    let output = Temp::new("out.jsonl");
    let mut child = start(&input, &output, &["--max-num-seqs", "2"]);
    grown(&mut child, &output, 0);
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.code(), Some(130), "{}", err(&o));
    let n = lines(&output).len();
    let want = format!("{n} of 300 requests are answered; the same command goes on from there\ncancelled\n");
    assert!(n < 300 && err(&o).ends_with(&want), "{}", err(&o));
    let o = run(&["batch", &input, &output]);
    assert!(
        o.status.success() && err(&o).contains(&format!("{n} of 300 requests are answered already")),
        "{}",
        err(&o)
    );
    let all = texts(&output);
    assert_eq!((all.len(), all.values().collect::<BTreeSet<_>>().len()), (300, 1));
}

/// A limit on the size of files stands for a full drive.
#[test]
fn a_full_drive_is_an_error_and_tears_nothing() {
    let input = temp_file("in.jsonl", &(0..60).map(greedy).collect::<String>());
    let output = Temp::new("out.jsonl");
    let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" batch \"$1\" \"$2\"";
    let o = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_air"), &input, &output])
        .output()
        .unwrap();
    assert_eq!(o.status.code(), Some(1), "{}", err(&o));
    assert!(err(&o).contains(&format!("error: {}: cannot write", &*output)), "{}", err(&o));
    let n = lines(&output).len();
    assert!((1..60).contains(&n), "{n}");
    // As if the line could not have been taken back.
    let half = format!("{{\"id\":\"batch_req_{}", "0".repeat(200));
    std::fs::OpenOptions::new().append(true).open(&*output).unwrap().write_all(half.as_bytes()).unwrap();
    let o = run(&["batch", &input, &output]);
    assert!(o.status.success(), "{}", err(&o));
    assert_eq!(texts(&output).len(), 60);
}
