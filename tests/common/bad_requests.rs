//! Requests that a server refuses, and clients that leave: a list that repeats itself with other numbers.
//!
//! Each says what may come back, or that nobody stays to read it. None of them may hurt anybody else.

use serde_json::{Value, json};

/// What a bad client sends, and what it does then.
pub struct Bad {
    /// In words.
    pub what: &'static str,
    pub bytes: Vec<u8>,
    pub then: Then,
}

/// What a bad client does when it has sent.
pub enum Then {
    /// Reads the answer, which has one of these statuses; or none, where the connection is closed while it still sends.
    Read(&'static [u16]),
    /// Reads so many bytes and leaves in the middle.
    Leave(usize),
}

/// Longest body that a server takes.
const MAX_BODY: usize = 4 << 20;

/// How many kinds there are.
pub const KINDS: usize = 18;

/// The `i`th bad request; those of one kind differ by `i / KINDS`.
pub fn bad(i: usize) -> Bad {
    let n = i / KINDS;
    let one = |what, then, bytes| Bad { what, bytes, then };
    let refused = |what, body: &Value| one(what, Then::Read(&[400]), post(body.to_string().as_bytes()));
    match i % KINDS {
        0 => one("broken JSON", Then::Read(&[400]), post(BROKEN[n % BROKEN.len()].as_bytes())),
        1 => {
            let (open, deep) = ([&b"["[..], b"{\"a\":", b"[{\"prompt\":["][n % 3], 100_000);
            one("deep nesting", Then::Read(&[400]), post(&[b"{\"prompt\":", &open.repeat(deep)[..]].concat()))
        }
        2 => {
            let text = [" ", "a", "é", "\\n"][n % 4];
            let body = format!("{{\"prompt\":\"{}\"}}", text.repeat((MAX_BODY - 100) / text.len()));
            one("4 MiB of text", Then::Read(&[400]), post(body.as_bytes()))
        }
        3 => one("more than 4 MiB", Then::Read(&[413]), post(&vec![b' '; MAX_BODY + 1])),
        4 => refused("a wrong type", &with(WRONG[n % WRONG.len()].0, WRONG[n % WRONG.len()].1)),
        5 => refused("an unknown field", &with(["frobnicate", "", "\u{0}", "prompt "][n % 4], "1")),
        6 => one("invalid UTF-8", Then::Read(&[400]), post(INVALID[n % INVALID.len()])),
        7 => {
            let field = ["max_tokens", "temperature", "n", "top_p", "seed", "logprobs"][n % 6];
            let number = ["1e999", "-1e999", "1e400", "-9223372036854775809", "0.1e-999999999999", "1.5.5"][n / 6 % 6];
            // Not made by a library, which would not write them. The fifth is a zero, which some fields may be.
            let body = format!("{{\"prompt\":\"a\",\"max_tokens\":1,\"{field}\":{number}}}");
            one("an absurd number", Then::Read(&[200, 400]), post(body.as_bytes()))
        }
        8 => one("half a head", Then::Leave(0), head("POST", "/v1/completions", "Content-Len").into_bytes()),
        9 => {
            let half = head("POST", "/v1/completions", "Content-Length: 1000\r\n\r\n{\"prompt\": \"a");
            one("half a body", Then::Leave(0), half.into_bytes())
        }
        10 => {
            let body = json!({ "prompt": format!("Scene {n}."), "max_tokens": 100, "stream": true, "temperature": 0 });
            one("leaving a stream", Then::Leave(400 + n % 7 * 300), post(body.to_string().as_bytes()))
        }
        11 => {
            let body = json!({ "prompt": format!("Act {n}."), "max_tokens": 30, "n": 3, "seed": n });
            one("leaving an answer", Then::Leave(0), post(body.to_string().as_bytes()))
        }
        12 => {
            let method = ["GET", "PUT", "DELETE", "PATCH", "BREW", "post"][n % 6];
            one(
                "a wrong method",
                Then::Read(&[405]),
                format!("{}\r\n", head(method, "/v1/completions", "")).into_bytes(),
            )
        }
        13 => {
            let line = format!("X-{}: {}\r\n\r\n", n % 10, "x".repeat(200 << 10));
            one("an oversized head", Then::Read(&[431]), head("POST", "/v1/completions", &line).into_bytes())
        }
        14 => {
            let lines: String = (0..500).map(|i| format!("X-{i}: y\r\n")).collect();
            one("too many headers", Then::Read(&[431]), head("GET", "/health", &format!("{lines}\r\n")).into_bytes())
        }
        15 => one("no HTTP", Then::Read(&[400]), NO_HTTP[n % NO_HTTP.len()].to_vec()),
        16 => {
            let sizes = ["zz", "ffffffffffffffffff", "-1", ""][n % 4];
            let body = format!("Transfer-Encoding: chunked\r\n\r\n{sizes}\r\n{{}}\r\n0\r\n\r\n");
            one("chunks of no size", Then::Read(&[400]), head("POST", "/v1/completions", &body).into_bytes())
        }
        _ => {
            let path = ["/../../etc/passwd", "/v1/models/%00", "/%ff", "/v1/completions/", "/metrics/x"][n % 5];
            one("a path that is none", Then::Read(&[400, 404]), format!("{}\r\n", head("GET", path, "")).into_bytes())
        }
    }
}

const BROKEN: &[&str] =
    &["", "{", "{\"prompt\":", "{\"prompt\": \"a\",}", "nul", "\"", "{\"prompt\": \"\\ud800\"}", "{}}", "[1"];

/// Values that these fields do not take, as JSON.
const WRONG: &[(&str, &str)] = &[
    ("prompt", "{}"),
    ("prompt", "[[\"a\"]]"),
    ("prompt", "[1, \"a\"]"),
    ("prompt", "[-1]"),
    ("prompt", "null"),
    ("max_tokens", "\"many\""),
    ("max_tokens", "[]"),
    ("temperature", "true"),
    ("stop", "{\"a\": 1}"),
    ("stop", "[[]]"),
    ("stream", "\"yes\""),
    ("stream_options", "7"),
    ("logit_bias", "[1]"),
    ("logit_bias", "{\"a\": 1}"),
    ("n", "\"2\""),
    ("model", "4"),
    ("seed", "1.5"),
];

const INVALID: &[&[u8]] = &[
    b"{\"prompt\":\"\xff\xfe\"}",
    b"\xff\xfe{\x00}\x00",
    b"{\"prompt\":\"\xed\xa0\x80\"}",
    b"{\"\xc3\":1}",
    b"\x00\x00",
];

const NO_HTTP: &[&[u8]] = &[
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"\x00\x00\x00\x00\r\n\r\n",
    b"GET /health HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n bad header\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n{}",
];

/// A request with a field that is not as it should be.
fn with(field: &str, value: &str) -> Value {
    let mut body = json!({ "prompt": "a", "max_tokens": 1 });
    body[field] = serde_json::from_str(value).expect("the table has JSON");
    body
}

fn head(method: &str, path: &str, rest: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{rest}")
}

fn post(body: &[u8]) -> Vec<u8> {
    let lines = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    [head("POST", "/v1/completions", &lines).as_bytes(), body].concat()
}
