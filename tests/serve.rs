//! `air serve` as its clients meet it, with the embedded model: the same answers as alone, whole or in pieces, one form
//! for all that is wrong, and an end that leaves nobody without an answer.

#[path = "serve/attack.rs"]
mod attack;
#[path = "common/bad_requests.rs"]
mod bad_requests;
#[path = "common/http.rs"]
mod http;
#[path = "serve/json_schema.rs"]
mod json_schema;
#[path = "common/models.rs"]
mod models;
#[path = "serve/openapi.rs"]
mod openapi;
#[path = "serve/operations.rs"]
mod operations;
#[path = "serve/probabilities.rs"]
mod probabilities;
#[path = "common/program.rs"]
mod program;
#[path = "serve/safety.rs"]
mod safety;
#[path = "serve/tls.rs"]
mod tls;

use http::{Response, Server};
use models::{Temp, altered};
use program::{air, err, out, run, temp_file};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn text(body: &Value) -> String {
    let choice = &body["choices"][0];
    choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap_or_else(|| panic!("{body}")).to_string()
}

/// The pieces of a stream's choice, joined, and why it ended.
fn joined(events: &[Value], choice: u64) -> (String, Value) {
    let (mut text, mut reason) = (String::new(), Value::Null);
    for c in events.iter().filter_map(|e| e["choices"].get(0)).filter(|c| c["index"] == choice) {
        text += c["delta"]["content"].as_str().or(c["text"].as_str()).unwrap_or("");
        assert!(reason.is_null(), "nothing comes behind the end: {c}");
        reason = c["finish_reason"].clone();
    }
    (text, reason)
}

#[test]
fn answers_are_what_the_same_requests_get_alone() {
    let server = Server::start(&[]);
    let alone = |args: &[&str]| out(&air(&["generate"]).args(args).output().unwrap());
    let greedy = json!({ "prompt": "ROMEO:", "max_tokens": 24, "temperature": 0 });
    let seeded =
        json!({ "prompt": "JULIET:", "max_tokens": 24, "seed": 5, "temperature": 1.5, "model": "embedded demo model" });
    let chat = json!({ "messages": [{ "role": "user", "content": "What news?" }], "max_completion_tokens": 12, "temperature": 0 });
    let want = [
        (COMPLETIONS, greedy, alone(&["-p", "ROMEO:", "-n", "24", "-t", "0"])),
        (COMPLETIONS, seeded, alone(&["-p", "JULIET:", "-n", "24", "-t", "1.5", "--seed", "5"])),
        (CHAT, chat, alone(&["--chat", "-p", "What news?", "-n", "12", "-t", "0"])),
    ];
    for (path, mut body, want) in want {
        let whole = server.post(path, &body);
        assert_eq!(whole.status, 200, "{}", whole.body);
        let whole = whole.json();
        assert_eq!(text(&whole), want);
        let usage = &whole["usage"];
        let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], sum);

        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        let stream = server.post(path, &body);
        assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
        let events = stream.events();
        assert_eq!(joined(&events, 0), (want, whole["choices"][0]["finish_reason"].clone()));
        let [rest @ .., last, done] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((done, &last["choices"]), (&json!("[DONE]"), &json!([])));
        for field in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(last["usage"][field], usage[field], "{last}");
        }
        assert!(rest.iter().all(|e| e["usage"].is_null() && e["id"] == last["id"]), "{rest:?}");
        if path == CHAT {
            assert_eq!(rest[0]["choices"][0]["delta"]["role"], "assistant");
        }
    }
}

#[test]
fn choices_and_prompts_each_have_their_place() {
    let server = Server::start(&[]);
    let one = |prompt: &str, seed: u64| {
        text(
            &server
                .post(COMPLETIONS, &json!({ "prompt": prompt, "max_tokens": 9, "seed": seed, "temperature": 2 }))
                .json(),
        )
    };
    let mut body = json!({ "prompt": ["ROMEO:", "JULIET:"], "n": 2, "max_tokens": 9, "seed": 7, "temperature": 2 });
    let want = [one("ROMEO:", 7), one("ROMEO:", 8), one("JULIET:", 7), one("JULIET:", 8)];
    let whole = server.post(COMPLETIONS, &body).json();
    let have: Vec<&Value> = whole["choices"].as_array().unwrap().iter().collect();
    assert_eq!(have.len(), 4);
    for (i, want) in want.iter().enumerate() {
        assert_eq!((&have[i]["index"], have[i]["text"].as_str().unwrap()), (&json!(i), want.as_str()));
    }
    body["stream"] = json!(true);
    let events = server.post(COMPLETIONS, &body).events();
    for (i, want) in want.iter().enumerate() {
        assert_eq!(&joined(&events, i as u64).0, want);
    }
    // The prompt back, and tokens for texts.
    let tokens = server.post("/tokenize", &json!({ "prompt": "ROMEO:" })).json();
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    let echo = json!({ "prompt": tokens["tokens"], "echo": true, "max_tokens": 9, "seed": 7, "temperature": 2 });
    assert_eq!(text(&server.post(COMPLETIONS, &echo).json()), format!("ROMEO:{}", want[0]));
    let back = server.post("/detokenize", &json!({ "tokens": tokens["tokens"] })).json();
    assert_eq!(back, json!({ "prompt": "ROMEO:" }));
    let prompt = server.post("/apply-template", &json!({ "messages": [{ "role": "user", "content": "hi" }] })).json();
    assert_eq!(prompt, json!({ "prompt": "ROMEO:\nhi\n\nJULIET:\n" }));
}

#[test]
fn an_answer_ends_with_what_there_is_when_its_time_is_over() {
    let logged = operations::Logged::start(&["--device", "fake:20", "--timeout", "1"]);
    let ask = |more: Value| {
        let mut body =
            json!({ "prompt": "ROMEO:", "max_tokens": 5000, "logit_bias": { "2": -100, "0": -100, "1": -100 } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        logged.server.post(COMPLETIONS, &body)
    };
    for more in [json!({ "timeout": 0.3 }), json!({})] {
        let body = ask(more).json();
        assert_eq!(body["choices"][0]["finish_reason"], "length", "{body}");
        let n = body["usage"]["completion_tokens"].as_u64().unwrap();
        assert!((1..200).contains(&n), "{n} tokens");
    }
    // What was not begun is no answer, and may be asked for again.
    for more in [json!({}), json!({ "n": 3 }), json!({ "stream": true }), json!({ "stream": true, "n": 3 })] {
        let mut body = more.clone();
        body["timeout"] = json!(0);
        let refused = ask(body);
        let several = more == json!({ "stream": true, "n": 3 });
        // A stream's status is sent before more is known than that one of its choices has ended.
        assert_eq!(
            (refused.status, refused.head.contains("retry-after: ")),
            if several { (200, false) } else { (503, true) }
        );
        let error = if several { refused.events().pop().unwrap() } else { refused.json() }["error"].clone();
        assert_eq!((&error["code"], &error["type"]), (&json!("timeout"), &json!("server_error")), "{error}");
        assert!(error["message"].as_str().unwrap().contains(" s and no token was generated"), "{error}");
    }
    // OpenAI has no word for it; the log has.
    logged.wait(|text| (text.matches(" finish=timeout").count() == 6).then_some(()));
    assert_eq!(logged.text().matches(" answered ").count(), 6, "{}", logged.text());
    assert!(logged.server.get("/metrics").body.contains("\nair_timeouts_total 10\n"));
}

#[test]
fn what_is_wrong_has_its_status_and_names_its_field() {
    let server = Server::start(&["--alias", "bard"]);
    let with = |extra: Value| {
        let mut body = json!({ "prompt": "a", "max_tokens": 1 });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body.to_string()
    };
    let deep = "[".repeat(100_000);
    let long = "a ".repeat(4000);
    for (body, status, param, want) in [
        ("", 400, None, "the body is not JSON"),
        ("no json", 400, None, "the body is not JSON"),
        ("[]", 400, None, "body must be a JSON object"),
        (deep.as_str(), 400, None, "recursion limit exceeded"),
        (&with(json!({ "temperature": "hot" })), 400, Some("temperature"), "must be a number"),
        (&with(json!({ "top_p": 7 })), 400, Some("top_p"), "it must be from 0 to 1"),
        (&with(json!({ "max_tokens": -1 })), 400, Some("max_tokens"), "it must be 0 to 4294967295"),
        (&with(json!({ "max_tokens": 1u64 << 63 })), 400, Some("max_tokens"), "it must be 0 to 4294967295"),
        (&with(json!({ "n": 0 })), 400, Some("n"), "it must be 1 to 128"),
        (&with(json!({ "stop": [""] })), 400, Some("stop[0]"), "has 0 bytes"),
        (&with(json!({ "logit_bias": { "99999": 1 } })), 400, Some("logit_bias"), "names token 99999"),
        (&with(json!({ "tools": [{}] })), 400, Some("tools"), "which is not supported"),
        (&with(json!({ "prompt": long })), 400, Some("prompt"), "the context holds 512"),
        (&with(json!({ "prompt": [999_999] })), 400, Some("prompt"), "has token 999999"),
        (&with(json!({ "model": "gpt-9" })), 404, Some("model"), "there is bard, air demo (Shakespeare)"),
        (&with(json!({ "frobnicate": 1 })), 400, Some("frobnicate"), "is not a field that air knows"),
    ] {
        let response = server.ask("POST", COMPLETIONS, &[], body);
        let shown: String = body.chars().take(60).collect();
        assert_eq!(response.status, status, "{shown}: {}", response.body);
        let error = response.json()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains(want), "{shown}: {error}");
        assert_eq!(error["param"].as_str(), param, "{shown}: {error}");
    }
    // Clients shorten what they ask where they find this code.
    let talk = json!({ "messages": [{ "role": "user", "content": long }] });
    for (path, body, field) in [(COMPLETIONS, json!({ "prompt": long }), "prompt"), (CHAT, talk, "messages")] {
        let refused = server.post(path, &body);
        let error = refused.json()["error"].clone();
        assert_eq!((refused.status, &error["param"]), (400, &json!(field)), "{error}");
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!("context_length_exceeded"), &json!("invalid_request_error"))
        );
    }
    for (method, path, head, status) in [
        ("GET", "/nope", &[][..], 404),
        ("GET", COMPLETIONS, &[], 405),
        ("GET", "/v1/models/none", &[], 404),
        ("GET", "/v1/models/%FF", &[], 400),
        ("POST", "/health", &[], 405),
        ("GET", "/v1/models/bard", &[], 200),
        ("GET", "/v1/models", &["Host: evil.example"], 403),
        ("GET", "/v1/models", &["Origin: http://evil.example"], 403),
        ("GET", "/v1/models", &["Origin: http://localhost"], 200),
        ("POST", COMPLETIONS, &["Content-Type: text/plain", "Content-Length: 0"], 400),
        ("POST", COMPLETIONS, &["Content-Length: 99999999"], 413),
    ] {
        let response = server.ask(method, path, head, "");
        assert_eq!(response.status, status, "{method} {path} {head:?}: {}", response.body);
        assert_eq!(status != 200, response.json()["error"]["message"].is_string(), "{}", response.body);
        assert!(response.head.contains("x-request-id: "), "{}", response.head);
    }
    let models = server.get("/v1/models").json();
    assert_eq!((&models["data"][0]["id"], models["data"].as_array().unwrap().len()), (&json!("bard"), 1));
    // Bytes that are no UTF-8.
    let mut stream = server.send("POST", COMPLETIONS, &["Content-Type: application/json", "Content-Length: 15"], "");
    stream.write_all(b"{\"prompt\":\"\xff\xff\"}").unwrap();
    assert_eq!(Response::read(stream).status, 400);
    // It lives.
    assert_eq!(server.get("/health").json()["status"], "ok");
    assert_eq!(server.get("/ready").json()["model"], "bard");
    assert_eq!(server.ask("POST", COMPLETIONS, &[], &with(json!({ "model": "bard" }))).json()["model"], "bard");
}

#[test]
fn who_has_no_key_gets_no_answer() {
    let file = temp_file("keys", "first-key\n");
    let server = Server::start(&["--api-key-file", &file]);
    let models = |key: &str| server.ask("GET", "/v1/models", &[&format!("Authorization: {key}")], "").status;
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": "a" })).status, 401);
    assert_eq!((models("Bearer first-key"), models("bearer first-key"), models("Bearer first-kez")), (200, 200, 401));
    assert_eq!((models("Basic first-key"), models("Bearer"), models("")), (401, 401, 401));
    assert_eq!(server.get("/health").status, 200, "a probe has no key");
    // What a key may ask for in a minute.
    let limited = temp_file("keys", "first-key rpm=2\n");
    let other = Server::start(&["--api-key-file", &limited]);
    let ask =
        || other.ask("POST", COMPLETIONS, &["Authorization: Bearer first-key"], r#"{"prompt": "a", "max_tokens": 1}"#);
    // What is refused, or makes no sense, uses nothing up.
    let never = json!({ "prompt": "a", "n": 128 }).to_string();
    assert_eq!(other.ask("POST", COMPLETIONS, &["Authorization: Bearer first-key"], &never).status, 400);
    assert_eq!((ask().status, ask().status), (200, 200));
    let refused = ask();
    assert_eq!((refused.status, refused.head.contains("retry-after: 30")), (429, true), "{}", refused.head);
    // The file changes while it runs; one that is broken changes nothing.
    std::fs::write(&*file, "").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(models("Bearer first-key"), 200);
    std::fs::write(&*file, "other-key\n").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!((models("Bearer other-key"), models("Bearer first-key")), (200, 401));
}

/// A model whose answers take hours.
fn endless() -> Temp {
    altered("llama-gqa.gguf", |meta| {
        meta.insert("llama.context_length", air_rs::meta::Value::U32(1 << 20), None);
    })
}

#[test]
fn more_than_may_wait_is_refused_and_a_client_that_leaves_makes_room() {
    let model = endless();
    let server = Server::start(&["-m", &model, "--max-num-seqs", "1", "--max-queue", "2"]);
    let body = json!({ "prompt": [5], "stream": true, "temperature": 0, "logit_bias": { "2": -100 } }).to_string();
    let mut streams = vec![];
    for _ in 0..2 {
        let mut stream = server.send("POST", COMPLETIONS, &[], &body);
        // Its head is there: the answer has begun, or waits.
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        streams.push(stream);
    }
    let never = server.post(COMPLETIONS, &json!({ "prompt": [[1], [2], [3]] }));
    assert_eq!((never.status, never.body.contains("2 can be (--max-queue)")), (400, true), "{}", never.body);
    let refused = server.post(COMPLETIONS, &json!({ "prompt": [[1], [2]] }));
    assert_eq!((refused.status, refused.head.contains("retry-after: ")), (429, true), "{}", refused.body);
    drop(streams);
    let begun = Instant::now();
    loop {
        match server.post(COMPLETIONS, &json!({ "prompt": [[1], [2]], "max_tokens": 1 })).status {
            200 => break,
            status => assert_eq!(status, 429),
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "what left still holds its place");
    }
}

#[test]
fn clients_that_leave_in_the_middle_of_anything_do_not_end_the_server() {
    let server = Server::start(&["--api-key-file", &temp_file("keys", "first-key\n")]);
    for _ in 0..20 {
        // Answers that nobody reads any more are written to a connection that is gone.
        let mut stream = server.connect();
        let request = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
        // It may be closed before all is sent.
        let _ = stream.write_all(request.repeat(400).as_bytes());
        drop(stream);
    }
    let mut stream = server.send("POST", "/tokenize", &["Authorization: Bearer first-key"], "{\"prompt\": \"a\"}");
    let _ = stream.write_all(b"more than was said");
    drop(stream);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn many_streams_together_are_each_as_alone() {
    let server = Server::start(&["--max-num-seqs", "8"]);
    let body = |i: usize, stream: bool| json!({ "prompt": format!("Scene {i}. ROMEO:"), "max_tokens": 12, "seed": i, "temperature": 1.2, "stream": stream });
    let wanted: Vec<String> = (0..24).map(|i| text(&server.post(COMPLETIONS, &body(i, false)).json())).collect();
    std::thread::scope(|scope| {
        let ask = |i: usize| joined(&server.post(COMPLETIONS, &body(i, true)).events(), 0).0;
        let threads: Vec<_> = (0..24).map(|i| scope.spawn(move || ask(i))).collect();
        for (thread, want) in threads.into_iter().zip(&wanted) {
            assert_eq!(&thread.join().unwrap(), want);
        }
    });
}

#[test]
fn ending_lets_answers_end_and_cuts_off_what_takes_too_long() {
    let model = endless();
    for (grace, most, whole) in [("30", 400, true), ("0", 100_000, false)] {
        let mut server = Server::start(&["-m", &model, "--grace", grace]);
        let body =
            json!({ "prompt": [5], "stream": true, "max_tokens": most, "logit_bias": { "2": -100 } }).to_string();
        let mut streams: Vec<_> = (0..4).map(|_| server.send("POST", COMPLETIONS, &[], &body)).collect();
        for stream in &mut streams {
            stream.read_exact(&mut [0; 12]).unwrap();
        }
        server.signal(Signal::TERM);
        for stream in streams {
            let mut rest = String::new();
            let mut stream = stream;
            stream.read_to_string(&mut rest).unwrap();
            let (done, told) = (rest.contains("data: [DONE]"), rest.contains("\"code\":\"shutting_down\""));
            assert_eq!((done, told), (whole, !whole), "{}", &rest[rest.len().saturating_sub(300)..]);
        }
        assert!(server.child.wait().unwrap().success());
    }
}

#[test]
fn who_asks_for_nothing_does_not_hold_the_end_up() {
    let mut server = Server::start(&["--grace", "60"]);
    let mut half = server.connect();
    half.write_all(b"GET /health HTTP/1.1\r\nHost: loc").unwrap();
    assert_eq!(server.get("/health").status, 200);
    server.signal(Signal::TERM);
    let begun = Instant::now();
    assert!(server.child.wait().unwrap().success());
    // A watchdog: the head may take 30 seconds, the grace period is 60.
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited for a head");
}

#[test]
fn a_server_that_cannot_listen_says_why() {
    let server = Server::start(&[]);
    let port = server.port.to_string();
    for (args, want) in [
        (&["-P", &port][..], "somebody has it already: give another --port"),
        (&["-H", "0.0.0.0", "-P", "0"], "--host 0.0.0.0 can be reached from other machines: give --api-key-file FILE"),
        (&["-P", "0", "--metrics-port", &port], "somebody has it already: give another --metrics-port"),
        (&["-P", "0", "--metrics-port", "0", "--metrics-host", "0.0.0.0"], "--metrics-host 0.0.0.0 can be reached"),
        (&["-P", "0", "--metrics-host", "::1"], "give --metrics-port N too"),
        (&["-H", "no.such.host.invalid"], "is no address of this machine"),
        (&["-H", "192.0.2.1", "--insecure"], "cannot listen"),
        (&["-P", "0", "--api-key-file", "/none/keys"], "cannot read the keys"),
        (&["-P", "0", "-m", "/none/model.gguf"], "/none/model.gguf"),
    ] {
        let o = run(&[&["serve"], args].concat());
        assert_eq!((o.status.code(), err(&o).contains(want)), (Some(1), true), "{args:?}: {}", err(&o));
    }
    assert_eq!(run(&["serve", "-P", "70000"]).status.code(), Some(2));
}

#[test]
fn metrics_count_what_was_answered() {
    let server = Server::start(&["--alias", "bard"]);
    let body = json!({ "prompt": "ROMEO:", "max_tokens": 7, "temperature": 0 });
    let usage: Vec<Value> = (0..3).map(|_| server.post(COMPLETIONS, &body).json()["usage"].clone()).collect();
    assert_eq!(server.post(COMPLETIONS, &json!({})).status, 400);
    assert_eq!(server.get("/made/up/by/somebody").status, 404);
    let response = server.get("/metrics");
    assert!(response.head.contains("content-type: text/plain; version=0.0.4"), "{}", response.head);
    let value = |name: &str| {
        let line = response.body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {}", response.body)).parse::<f64>().unwrap()
    };
    let sum = |of: &str| usage.iter().map(|u| u[of].as_f64().unwrap()).sum::<f64>();
    let cached: f64 = usage.iter().map(|u| u["prompt_tokens_details"]["cached_tokens"].as_f64().unwrap()).sum();
    assert_eq!(value("air_tokens_total{kind=\"generated\"}"), sum("completion_tokens"));
    // The token that warms it is generated by nobody's request.
    assert_eq!(value("air_tokens_total{kind=\"cached\"}"), cached);
    assert_eq!(value("air_tokens_total{kind=\"read\"}"), sum("prompt_tokens") - cached);
    assert_eq!(value("vllm:generation_tokens_total{model_name=\"bard\"}"), sum("completion_tokens"));
    assert_eq!(value("vllm:request_success_total{model_name=\"bard\",finished_reason=\"length\"}"), 3.0);
    assert_eq!(value("air_requests_total{path=\"/v1/completions\",status=\"200\"}"), 3.0);
    assert_eq!(value("air_requests_total{path=\"/v1/completions\",status=\"400\"}"), 1.0);
    assert_eq!(value("air_requests_total{path=\"other\",status=\"404\"}"), 1.0);
    assert_eq!(value("air_ttft_seconds_count"), 3.0);
    assert_eq!(value("air_inter_token_seconds_count"), sum("completion_tokens") - 3.0);
    assert_eq!(value("air_queue_depth"), 0.0);
    // The engine's thread shows that it is idle when it has had its next look.
    let begun = Instant::now();
    while !server.get("/metrics").body.contains("air_running 0\n") {
        assert!(begun.elapsed() < Duration::from_secs(10), "it says that it runs something");
    }
    assert!(value("air_kv_pages{state=\"free\"}") > 0.0);
    // Every series has a help and a type, each once.
    let named = |kind: &str| {
        let lines = response.body.lines().filter_map(|l| l.strip_prefix(&format!("# {kind} ")));
        lines.map(|l| l.split(' ').next().unwrap().to_string()).collect::<Vec<_>>()
    };
    let (types, helps) = (named("TYPE"), named("HELP"));
    assert_eq!(types.iter().collect::<std::collections::BTreeSet<_>>().len(), types.len());
    for t in &types {
        assert!(helps.contains(t), "{t} has no help");
    }
}

#[test]
fn metrics_count_tokens_as_they_come() {
    let server = Server::start(&["--device", "fake:20", "--alias", "bard"]);
    let body = json!({ "prompt": [5, 6, 7], "max_tokens": 60, "stream": true, "stream_options": { "include_usage": true },
        "logit_bias": { "0": -100, "1": -100, "2": -100 } });
    let stream = server.send("POST", COMPLETIONS, &[], &body.to_string());
    let counted = || {
        let text = server.get("/metrics").body;
        let value = |name: &str| -> u64 {
            text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).map_or(0, |n| n.parse().unwrap())
        };
        let kinds = ["generated", "read", "cached"].map(|k| value(&format!("air_tokens_total{{kind=\"{k}\"}}")));
        let names = ["generation", "prompt"].map(|k| value(&format!("vllm:{k}_tokens_total{{model_name=\"bard\"}}")));
        (names, kinds, value("vllm:e2e_request_latency_seconds_count{model_name=\"bard\"}"))
    };
    let begun = Instant::now();
    let mut seen = vec![];
    loop {
        let ([generated, prompt], _, ended) = counted();
        if ended > 0 {
            break;
        }
        // A token may come while the figures are written.
        assert!(prompt == 3 || (prompt == 0 && generated < 2), "{prompt} of the prompt, {generated} behind it");
        seen.push(generated);
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    seen.dedup();
    assert!(seen.len() > 5 && seen.is_sorted(), "they come one by one: {seen:?}");
    let events = Response::read(stream).events();
    let usage = events[events.len() - 2]["usage"].clone();
    assert_eq!((&usage["completion_tokens"], &usage["prompt_tokens"]), (&json!(60), &json!(3)));
    let (names, [generated, read, cached], _) = counted();
    assert_eq!((names, generated, read + cached), ([60, 3], 60, 3), "none is counted twice");
}
