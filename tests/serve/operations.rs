//! What whoever runs a server sees of it and tells it: its log, signals, certificates, a port for its figures.

use super::*;
use std::collections::BTreeMap;

/// A server whose log is kept.
pub struct Logged {
    pub server: Server,
    log: Temp,
}

/// A line of the log about a request, by the names of its fields.
type Line = BTreeMap<String, String>;

impl Logged {
    pub fn start(args: &[&str]) -> Logged {
        let log = Temp::new("log");
        let server = Server::start_with(args, std::fs::File::create(&*log).unwrap());
        Logged { server, log }
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(&*self.log).unwrap()
    }

    /// Waits until the log has something; with a watchdog.
    pub fn wait<T>(&self, mut look: impl FnMut(&str) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if let Some(found) = look(&text) {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the log does not say it: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The line of a request.
    fn line(&self, id: &str) -> Line {
        let found = |line: &&str| line.ends_with('\n') && line.contains(&format!(" id={id} "));
        let line = self.wait(|text| text.split_inclusive('\n').find(found).map(str::to_string));
        let fields = line.split_whitespace().filter_map(|word| word.split_once('='));
        let how = ["answered", "client left", "cut off"].iter().find(|how| line.contains(&format!(" {how} ")));
        let how = ("how".to_string(), how.unwrap_or_else(|| panic!("{line}")).to_string());
        fields.map(|(k, v)| (k.to_string(), v.trim_matches('"').to_string())).chain([how]).collect()
    }
}

fn id(head: &str) -> String {
    let line = head.lines().find_map(|l| l.strip_prefix("x-request-id: "));
    line.unwrap_or_else(|| panic!("no id: {head}")).to_string()
}

/// The head of an answer, of which nothing more is read.
fn head(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn each_request_has_a_line_when_it_ends() {
    let keys = temp_file("keys", "the-first-key\n");
    let logged = Logged::start(&["--api-key-file", &keys, "--log", "debug"]);
    let server = &logged.server;
    let ask =
        |body: &Value| server.ask("POST", COMPLETIONS, &["Authorization: Bearer the-first-key"], &body.to_string());
    let body = |stream: bool| {
        json!({ "prompt": "ROMEO: but soft", "n": 2, "max_tokens": 9, "temperature": 0, "stream": stream,
            "stream_options": stream.then(|| json!({ "include_usage": true })) })
    };
    let (whole, stream) = (ask(&body(false)), ask(&body(true)));
    let events = stream.events();
    for (response, usage) in [(&whole, &whole.json()["usage"]), (&stream, &events[events.len() - 2]["usage"])] {
        let line = logged.line(&id(&response.head));
        for (field, want) in [
            ("how", "answered"),
            ("method", "POST"),
            ("path", COMPLETIONS),
            ("status", "200"),
            ("finish", "length"),
            ("prompt", &usage["prompt_tokens"].to_string()),
            ("cached", &usage["prompt_tokens_details"]["cached_tokens"].to_string()),
            ("generated", &usage["completion_tokens"].to_string()),
            // printf the-first-key | sha256sum | head -c 16
            ("tenant", "780f2123b898ee8c"),
        ] {
            assert_eq!(line.get(field).map(String::as_str), Some(want), "{field}: {line:?}");
        }
        let ms = |field: &str| line[field].parse::<u64>().unwrap();
        assert!(ms("first_ms") <= ms("ms") && ms("head_ms") <= ms("ms"), "{line:?}");
    }
    // What asks nothing of the engine, and what is refused.
    let health = logged.line(&id(&server.get("/health").head));
    assert_eq!((health["how"].as_str(), health.get("prompt"), health.get("tenant")), ("answered", None, None));
    assert_eq!(logged.line(&id(&server.ask("HEAD", "/health", &[], "").head))["how"], "answered");
    let stranger = logged.line(&id(&server.post(COMPLETIONS, &json!({ "prompt": "a" })).head));
    assert_eq!((stranger["status"].as_str(), stranger.get("tenant")), ("401", None));
    assert_eq!(logged.line(&id(&server.get("/made/up").head))["path"], "other");
    let text = logged.text();
    for secret in ["the-first-key", "soft", "/made"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(text.matches(" id=").count(), 6, "one each: {text}");
}

#[test]
fn those_who_watch_do_not_fill_the_log() {
    let watch = |server: &Server| ["/health", "/ready", "/metrics"].map(|path| id(&server.get(path).head));
    let logged = Logged::start(&[]);
    let ids = watch(&logged.server);
    // Others do, and so does what is not as it should be.
    for (method, path, status) in [
        ("GET", "/v1/models", "200"),
        ("GET", "/openapi.json", "200"),
        ("HEAD", "/health", "200"),
        ("POST", "/ready", "405"),
    ] {
        let line = logged.line(&id(&logged.server.ask(method, path, &[], "").head));
        assert_eq!((line["path"].as_str(), line["status"].as_str()), (path, status));
    }
    let text = logged.text();
    assert!(ids.iter().all(|id| !text.contains(id)), "{text}");
    let logged = Logged::start(&["--log", "debug"]);
    for id in watch(&logged.server) {
        let line = logged.line(&id);
        assert_eq!((line["how"].as_str(), line["status"].as_str()), ("answered", "200"));
    }
    logged.wait(|text| (text.matches(" DEBUG ").count() >= 3).then_some(()));
}

#[test]
fn the_log_tells_of_clients_that_left_and_answers_that_were_cut_off() {
    let model = endless();
    let mut logged = Logged::start(&["-m", &model, "--grace", "0"]);
    let body = |stream: bool| json!({ "prompt": [5, 6], "stream": stream, "logit_bias": { "2": -100 } }).to_string();
    let open = |stream: bool| logged.server.send("POST", COMPLETIONS, &[], &body(stream));
    let mut left = open(true);
    let left_id = id(&head(&mut left));
    left.read_exact(&mut [0; 200]).unwrap();
    drop(left);
    let line = logged.line(&left_id);
    assert_eq!((line["how"].as_str(), line["status"].as_str(), line["prompt"].as_str()), ("client left", "200", "2"));
    assert!(line["generated"].parse::<u64>().unwrap() > 0 && !line.contains_key("finish"), "{line:?}");
    // Before it was told anything.
    drop(open(false));
    logged.wait(|text| text.contains(" status=499 ").then_some(()));
    assert!(
        logged.server.get("/metrics").body.contains("air_requests_total{path=\"/v1/completions\",status=\"499\"} 1")
    );
    let (mut stream, whole) = (open(true), open(false));
    let cut_id = id(&head(&mut stream));
    stream.read_exact(&mut [0; 200]).unwrap();
    let both = || logged.server.get("/metrics").body.contains("air_running 2\n");
    logged.wait(|_| both().then_some(()));
    logged.server.signal(Signal::TERM);
    let whole = Response::read(whole);
    stream.read_to_end(&mut vec![]).unwrap();
    assert!(logged.server.child.wait().unwrap().success());
    for (id, status) in [(cut_id, "200"), (id(&whole.head), "503")] {
        let line = logged.line(&id);
        assert_eq!((line["how"].as_str(), line["status"].as_str()), ("cut off", status), "{line:?}");
    }
}

#[test]
fn changed_keys_are_read_again_and_a_hangup_reads_them_at_once() {
    let keys = temp_file("keys", "the-first-key\n");
    let logged = Logged::start(&["--api-key-file", &keys]);
    let said = |want: &str, times: usize| logged.wait(|text| (text.matches(want).count() >= times).then_some(()));
    std::fs::write(&*keys, "the-second-key\nthe-third-key\n").unwrap();
    said("the keys were read again keys=2", 1);
    // Nothing has changed, so nothing but the signal makes it read.
    for time in 2..4 {
        logged.server.signal(Signal::HUP);
        said("the keys were read again keys=2", time);
    }
    std::fs::write(&*keys, "short\n").unwrap();
    said("the keys stay as they were", 1);
    assert!(logged.text().contains("line 1: the key has 5 characters"), "{}", logged.text());
    // Nobody writes into a pipe: who reads it waits for ever.
    std::fs::remove_file(&*keys).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &*keys, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    said("is no file, which could be read again as the keys", 1);
    logged.server.signal(Signal::HUP);
    said("is no file, which could be read again as the keys", 2);
    let models = |key: &str| logged.server.ask("GET", "/v1/models", &[&format!("Authorization: Bearer {key}")], "");
    assert_eq!((models("the-first-key").status, models("the-third-key").status), (401, 200));
    let other = Logged::start(&[]);
    other.server.signal(Signal::HUP);
    other.wait(|text| text.contains("there are no keys and no certificate to read again").then_some(()));
    assert_eq!(other.server.get("/health").status, 200);
}

#[test]
fn those_who_watch_have_a_port_of_their_own() {
    let keys = temp_file("keys", "the-first-key\n");
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let (cert, key) = (temp_file("cert", &made.cert.pem()), temp_file("key", &made.signing_key.serialize_pem()));
    let open = Logged::start(&["--metrics-port", "0"]);
    let closed =
        Logged::start(&["--metrics-port", "0", "--api-key-file", &keys, "--tls-cert", &cert, "--tls-key", &key]);
    for logged in [&open, &closed] {
        let port = watched(logged);
        let get = |path: &str, head: &[&str]| {
            let mut stream = http::connect(port);
            stream.write_all(http::request("GET", path, head, "").as_bytes()).unwrap();
            Response::read(stream)
        };
        assert!(get("/metrics", &[]).body.contains("air_build_info"));
        assert_eq!((get("/health", &[]).status, get("/ready", &[]).status), (200, 200));
        assert_eq!((get("/v1/models", &[]).status, get("/metrics", &["Host: evil.example"]).status), (404, 403));
    }
    let status = |path| open.server.get(path).status;
    assert_eq!((status("/metrics"), status("/health"), status("/ready"), status("/v1/models")), (404, 200, 200, 200));
    // Its document has what is there.
    let paths = open.server.get("/openapi.json").json()["paths"].clone();
    assert!(paths.get("/health").is_some() && paths.get("/metrics").is_none(), "{paths}");
}

#[test]
fn those_who_watch_see_the_end_to_its_end() {
    let mut logged = Logged::start(&["--device", "fake:20", "--metrics-port", "0", "--grace", "60"]);
    let port = watched(&logged);
    let get = |path: &str| {
        let mut stream = http::connect(port);
        stream.write_all(http::request("GET", path, &[], "").as_bytes()).unwrap();
        Response::read(stream)
    };
    let body = json!({ "prompt": [5, 6], "max_tokens": 1000, "stream": true }).to_string();
    let mut running = logged.server.send("POST", COMPLETIONS, &[], &body);
    head(&mut running);
    let idle = http::connect(port);
    logged.server.signal(Signal::TERM);
    logged.wait(|_| (get("/ready").status == 503).then_some(()));
    assert!(get("/metrics").body.contains("air_running 1\n"));
    // Neither is it waited for.
    drop(running);
    assert!(logged.server.child.wait().unwrap().success());
    drop(idle);
}

/// The port of those who watch, as the server says it.
fn watched(logged: &Logged) -> u16 {
    let text = logged.text();
    let at = text
        .lines()
        .find_map(|l| l.split_once("http://127.0.0.1:")?.1.strip_suffix("/metrics has figures for Prometheus"));
    at.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}
