//! The server's OpenAPI document against the server: what it says is read is read, what it says is refused is refused,
//! and what is written is what it says. `scripts/check_openapi.sh` asks the same of thousands of requests.

use super::http::{Response, Server};
use super::json_schema::{check, resolve};
use super::program::temp_file;
use super::{CHAT, COMPLETIONS};
use serde_json::{Value, json};

/// The operations of a document, with their paths and methods.
fn operations(document: &Value) -> Vec<(&String, &String, &Value)> {
    let methods = |(path, item)| -> Vec<_> {
        let item: &Value = item;
        item.as_object().unwrap().iter().map(|(method, operation)| (path, method, operation)).collect()
    };
    document["paths"].as_object().unwrap().iter().flat_map(methods).collect()
}

/// The schema of a path's body.
fn body<'a>(document: &'a Value, path: &str) -> &'a Value {
    &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
}

/// Holds a response against what the document says of it.
fn conforms(document: &Value, path: &str, method: &str, response: &Response) {
    let responses = &document["paths"][path][method]["responses"];
    let told = responses.get(response.status.to_string());
    let told = resolve(document, told.unwrap_or_else(|| panic!("{method} {path}: {} is not there", response.status)));
    let head = |name: &str| response.head.lines().find_map(|l| l.strip_prefix(&format!("{name}: ")));
    for name in told["headers"].as_object().unwrap().keys() {
        assert!(head(&name.to_ascii_lowercase()).is_some(), "{method} {path}: no {name} in {}", response.head);
    }
    let kind = head("content-type").unwrap_or_default().split(';').next().unwrap();
    let schema = &told["content"].get(kind).unwrap_or_else(|| panic!("{method} {path}: {kind} is not there"))["schema"];
    match kind {
        "application/json" => check(document, schema, &response.json(), path).unwrap(),
        "text/event-stream" => {
            let events = response.events();
            let (last, chunks) = events.split_last().unwrap();
            assert_eq!(last, "[DONE]");
            for chunk in chunks {
                check(document, &schema["properties"]["data"]["anyOf"][0]["contentSchema"], chunk, path).unwrap();
            }
        }
        _ => check(document, schema, &json!(response.body), path).unwrap(),
    }
}

#[test]
fn every_endpoint_is_there_and_answers() {
    let server = Server::start(&["--temperature", "0.25"]);
    let document = server.get("/openapi.json").json();
    let found: Vec<&str> = operations(&document).iter().map(|(path, ..)| path.as_str()).collect();
    let more = ["/v1/models", "/v1/models/{id}", "/tokenize", "/detokenize", "/apply-template"];
    let open = ["/health", "/ready", "/metrics", "/openapi.json"];
    assert_eq!(found, [&[CHAT, COMPLETIONS][..], &more, &open].concat());
    for (path, method, operation) in operations(&document) {
        let at = path.replace("{id}", "embedded demo model").replace(' ', "%20");
        let response = server.ask(&method.to_ascii_uppercase(), &at, &[], "");
        // Of an empty body something can be said.
        let want = if operation.get("requestBody").is_some() { 400 } else { 200 };
        assert_eq!(response.status, want, "{method} {path}: {}", response.body);
        conforms(&document, path, method, &response);
        let other = if method == "get" { "POST" } else { "GET" };
        assert_eq!(server.ask(other, &at, &[], "").status, 405, "{other} {path}");
        assert!(operation.get("security").is_none() && operation["responses"].get("401").is_none());
    }
    // Every name refers to something, and nothing is named in vain.
    let text = document.to_string();
    let refers: Vec<&str> = text.split("\"$ref\":\"").skip(1).map(|r| r.split('"').next().unwrap()).collect();
    refers.iter().for_each(|at| assert!(document.pointer(&at[1..]).is_some(), "{at}"));
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(refers.contains(&format!("#/components/schemas/{name}").as_str()), "{name}");
    }
    // What holds where a body says nothing: here, and always.
    let fields = &resolve(&document, body(&document, CHAT))["properties"];
    assert_eq!((&fields["temperature"]["default"], &fields["top_p"]["default"]), (&json!(0.25), &json!(0.9)));
    assert_eq!((&fields["n"]["default"], &fields["n"]["maximum"]), (&json!(1), &json!(128)));
    assert_eq!(fields["seed"]["minimum"], json!(i64::MIN));
    assert_eq!(fields["seed"]["maximum"], json!(u64::MAX));
}

#[test]
fn keys_are_in_it_where_they_are_asked_for() {
    let server = Server::start(&["--api-key-file", &temp_file("keys", "first-key\n")]);
    let document = server.get("/openapi.json").json();
    assert_eq!(document["components"]["securitySchemes"]["key"], json!({ "type": "http", "scheme": "bearer" }));
    for (path, method, operation) in operations(&document) {
        let response = server.ask(&method.to_ascii_uppercase(), &path.replace("{id}", "x"), &[], "");
        conforms(&document, path, method, &response);
        let keyed = operation.get("security") == Some(&json!([{ "key": [] }]));
        assert_eq!((keyed, operation["responses"].get("401").is_some()), (response.status == 401, keyed), "{path}");
    }
}

/// A valid body of each endpoint.
fn valid() -> [(&'static str, Value); 5] {
    let messages = json!([{ "role": "user", "content": "What news?" }]);
    [
        (CHAT, json!({ "messages": messages, "max_tokens": 2 })),
        (COMPLETIONS, json!({ "prompt": "ROMEO:", "max_tokens": 2 })),
        ("/tokenize", json!({ "prompt": "ROMEO:" })),
        ("/detokenize", json!({ "tokens": [1, 2] })),
        ("/apply-template", json!({ "messages": messages })),
    ]
}

/// Values that some field takes.
fn values() -> Vec<Value> {
    let texts = [json!(""), json!("a"), json!("text"), json!("auto"), json!("a".repeat(4096)), json!("a".repeat(4097))];
    let numbers =
        [0.0, 1.0, -1.0, 0.5, 0.01, 0.009_999_999, 20.0, 21.0, 100.0, 100.5, -100.5, 128.0, 129.0, 1e39, -1e39];
    let whole =
        [json!(1), json!(u64::MAX), json!(i64::MIN), json!(1u64 << 32), json!(-1), json!(18_446_744_073_709_551_616.0)];
    let lists =
        [json!([]), json!([1, 2]), json!(["a", "b"]), json!([""]), json!([[1], "b"]), json!([1, "b"]), json!(["text"])];
    let many = [json!(vec!["a"; 64]), json!(vec!["a"; 65]), json!(vec!["a"; 129])];
    let message = |content: Value| json!([{ "role": "developer", "content": content }]);
    let talks = [
        message(json!("a")),
        message(json!([{ "type": "text", "text": "a" }])),
        message(json!([{ "type": "image_url" }])),
        message(Value::Null),
        json!([{ "role": "tool", "content": "a" }]),
        json!([{ "role": "user", "content": "a", "name": null, "tool_calls": [] }]),
        json!([{ "role": "user", "content": "a", "name": "b" }]),
    ];
    let objects = [
        json!({}),
        json!({ "1": 5 }),
        json!({ "+1": 5 }),
        json!({ "4294967296": 5 }),
        json!({ "1": "a" }),
        json!({ "type": "text" }),
    ];
    let options = [json!({ "include_usage": true }), json!({ "include_usage": 1 }), json!({ "more": 1, "less": null })];
    let flags = [json!(true), json!(false), Value::Null];
    let groups: [&[Value]; 9] =
        [&texts, &whole, &lists, &many, &talks, &objects, &options, &flags, &numbers.map(Value::from)];
    groups.concat()
}

/// What the schema cannot say: it depends on other fields, on the model, or on what a text is in bytes.
const BESIDES: &[&str] = &[
    "needs ",
    "the context holds",
    " differ;",
    "is not here",
    "vocabulary",
    "ids from 0 to",
    "not both",
    " prompts",
    "can be (--max-queue)",
    "has 0 bytes",
];

/// Every field with every value: the server refuses what the schema refuses, and little else.
#[test]
fn what_the_schema_allows_is_answered_and_nothing_else() {
    // Room for all choices of a body.
    let server = Server::start(&["--max-queue", "1024"]);
    let document = server.get("/openapi.json").json();
    let (mut answered, mut refused, mut besides) = (0, 0, 0);
    for (path, base) in valid() {
        let schema = body(&document, path);
        let names = resolve(&document, schema)["properties"].as_object().unwrap().keys();
        for name in names.map(String::as_str).chain(["unknown"]) {
            for value in values() {
                let mut body = base.clone();
                body[name] = value;
                let fits = check(&document, schema, &body, "body");
                let response = server.post(path, &body);
                conforms(&document, path, "post", &response);
                let shown: String = body.to_string().chars().take(200).collect();
                match (fits, response.status) {
                    (Ok(()), 200) => answered += 1,
                    (Err(_), 400) => refused += 1,
                    // Whether there was time enough no schema says.
                    (Ok(()), 503) if name == "timeout" => besides += 1,
                    (Ok(()), 400 | 404) if BESIDES.iter().any(|b| response.body.contains(b)) => besides += 1,
                    (fits, status) => panic!("{path} {shown}: {fits:?}, but {status} {}", response.body),
                }
            }
        }
    }
    assert!(answered > 500 && refused > 1000 && besides < answered, "{answered} {refused} {besides}");
}

#[test]
fn what_is_written_is_what_it_says() {
    let server = Server::start(&[]);
    let document = server.get("/openapi.json").json();
    for (path, base) in valid().into_iter().take(2) {
        let told = if path == CHAT { json!({ "logprobs": true, "top_logprobs": 2 }) } else { json!({ "logprobs": 2 }) };
        for extra in [json!({}), json!({ "n": 2, "return_token_ids": true }), told] {
            for stream in [json!(false), json!(true)] {
                let mut body = base.clone();
                body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
                body["stream"] = stream.clone();
                if stream == true {
                    body["stream_options"] = json!({ "include_usage": true });
                }
                let response = server.post(path, &body);
                assert_eq!(response.status, 200, "{}", response.body);
                conforms(&document, path, "post", &response);
            }
        }
        let mut late = base.clone();
        late["timeout"] = json!(0);
        let late = server.post(path, &late);
        assert_eq!(late.status, 503, "{}", late.body);
        conforms(&document, path, "post", &late);
        conforms(&document, path, "post", &server.ask("POST", path, &["Content-Length: 99999999"], ""));
        conforms(&document, path, "post", &server.ask("POST", path, &["Host: evil.example"], "{}"));
    }
    let missing = server.get("/v1/models/none");
    assert_eq!(missing.status, 404);
    conforms(&document, "/v1/models/{id}", "get", &missing);
    conforms(&document, "/v1/models/{id}", "get", &server.get("/v1/models/%FF"));
}
