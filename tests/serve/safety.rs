//! Whom a server refuses, and that no request costs more than its share.

use super::*;

fn authorised(key: &str) -> String {
    format!("Authorization: Bearer {key}")
}

/// Sends the lines of a head; the status that comes.
fn told(server: &Server, lines: &[&str]) -> u16 {
    let mut stream = server.connect();
    stream.write_all(format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n")).as_bytes()).unwrap();
    Response::read(stream).status
}

#[test]
fn pages_of_other_sites_come_by_no_name() {
    let server = Server::start(&[]);
    let keyed = Server::start(&["--api-key-file", &temp_file("keys", "first-key\n")]);
    let (get, local, evil) = ("GET /v1/models HTTP/1.1", "Host: localhost", "Host: evil.example");
    let page = "Origin: http://evil.example";
    for (lines, want) in [
        (&[get, local][..], 200),
        (&["GET /v1/models HTTP/1.0"], 200),
        (&[get, local, "Origin: http://localhost"], 200),
        // RFC 9112, 3.2: a request says once where it goes.
        (&[get], 400),
        (&[get, local, evil], 400),
        (&[get, evil], 403),
        (&["GET http://evil.example/v1/models HTTP/1.1", local], 403),
        (&[get, "Host: [::1]evil.example"], 403),
        (&[get, local, page], 403),
        (&[get, local, "Origin: http://localhost", page], 403),
        (&["GET /health HTTP/1.1", evil], 403),
    ] {
        assert_eq!(told(&server, lines), want, "{lines:?}");
    }
    // Nobody else's page has the key; a proxy may come by its own name.
    let key = authorised("first-key");
    assert_eq!(told(&keyed, &[get, evil, page, &key]), 200);
    assert_eq!(told(&keyed, &[get, evil, page]), 401);
    // What others do is nobody's business; signs of life are.
    let statuses = ["/metrics", "/health", "/ready"].map(|path| keyed.get(path).status);
    assert_eq!(statuses, [401, 200, 200]);
    assert_eq!(told(&keyed, &["GET /metrics HTTP/1.1", local, &key]), 200);
}

#[test]
fn a_key_has_no_more_tokens_than_its_minute_however_many_it_asks_for_at_once() {
    let server = Server::start(&["--device", "fake:5", "--api-key-file", &temp_file("keys", "first-key tpm=100\n")]);
    let body = json!({ "prompt": [5, 6], "max_tokens": 58, "logit_bias": { "2": -100, "0": -100, "1": -100 } });
    let ask = || server.ask("POST", COMPLETIONS, &[&authorised("first-key")], &body.to_string());
    let statuses = |n: usize| {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..n).map(|_| scope.spawn(ask)).collect();
            all.into_iter().map(|t| t.join().unwrap().status).collect::<Vec<_>>()
        })
    };
    let mut first = statuses(6);
    first.sort_unstable();
    assert_eq!(first, [200, 429, 429, 429, 429, 429]);
    assert!(ask().head.contains("retry-after: "));
}

#[test]
fn many_small_values_take_no_memory() {
    let server = Server::start(&["--device", "fake"]);
    let status = || std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = || {
        let line = status().lines().find_map(|l| l.strip_prefix("VmHWM:").map(str::to_string)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    };
    let many = |piece: &str, n: usize| vec![piece; n].join(",");
    let bodies = [
        format!(r#"{{"prompt":"a","max_tokens":1,"metadata":[{}]}}"#, many(r#"{"a":1}"#, 500_000)),
        format!(r#"{{"prompt":[{}]}}"#, many("1", 2_000_000)),
        format!(r#"{{"unknown":[{}]}}"#, many("[]", 1_300_000)),
    ];
    let before = peak();
    std::thread::scope(|scope| {
        let ask = |body: &String| server.ask("POST", COMPLETIONS, &[], body);
        let all: Vec<_> = bodies.iter().cycle().take(12).map(|body| scope.spawn(move || ask(body))).collect();
        for thread in all {
            let response = thread.join().unwrap();
            assert!(response.status == 400 && response.body.contains("so many values"), "{}", response.body);
        }
    });
    let took = peak() - before;
    assert!(took < 256, "{took} MiB");
}

#[test]
fn who_sends_too_much_hears_it_when_all_is_sent() {
    let server = Server::start(&["--device", "fake"]);
    let body = "x".repeat(9 << 20);
    assert_eq!(server.ask("POST", COMPLETIONS, &[], &body).status, 413);
    // Who asks first is told at once.
    let mut stream = server.connect();
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 413");
}

#[test]
fn a_model_whose_template_is_broken_goes_on_from_texts() {
    let model = altered("llama-gqa.gguf", |meta| {
        let broken = "{% for m in messages %}".into();
        meta.insert("tokenizer.chat_template", air_rs::meta::Value::String(broken), None);
    });
    let server = Server::start(&["-m", &model]);
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": [5], "max_tokens": 1 })).status, 200);
    let messages = json!({ "messages": [{ "role": "user", "content": "a" }] });
    for path in [CHAT, "/apply-template", "/tokenize"] {
        let response = server.post(path, &messages);
        assert_eq!((response.status, response.body.contains("the chat template")), (400, true), "{}", response.body);
    }
}
