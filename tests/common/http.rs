//! A server under test, and a client that is as small as one can be.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// `air serve` on a free port; ended when dropped.
pub struct Server {
    pub child: Child,
    pub port: u16,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub fn start(args: &[&str]) -> Server {
        Server::start_with(args, Stdio::null())
    }

    /// As `start`, with what it says about what it does.
    pub fn start_with(args: &[&str], said: impl Into<Stdio>) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_air"));
        command.args(["serve", "--port", "0"]).args(args).current_dir(std::env::temp_dir()).env_clear();
        let mut child = command.stdout(Stdio::piped()).stderr(said).spawn().expect("air starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        out.read_line(&mut line).expect("it says that it is ready");
        let port = line.trim().strip_suffix("/v1").and_then(|r| r.rsplit_once("://127.0.0.1:")).map(|r| r.1);
        Server { port: port.and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("not ready: {line:?}")), child }
    }

    /// A connection whose reads end after a while: a watchdog.
    pub fn connect(&self) -> TcpStream {
        connect(self.port)
    }

    /// Sends a request, with further lines of its head.
    pub fn send(&self, method: &str, path: &str, head: &[&str], body: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(request(method, path, head, body).as_bytes()).expect("it reads");
        stream
    }

    pub fn ask(&self, method: &str, path: &str, head: &[&str], body: &str) -> Response {
        Response::read(self.send(method, path, head, body))
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.ask("POST", path, &[], &body.to_string())
    }

    pub fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], "")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to a port of this machine.
pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// The text of a request that is the connection's last.
pub fn request(method: &str, path: &str, head: &[&str], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !head.iter().any(|line| line.starts_with("Host:")) {
        text += "Host: localhost\r\n";
    }
    if !body.is_empty() {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    head.iter().for_each(|line| text += &format!("{line}\r\n"));
    format!("{text}\r\n{body}")
}

/// What came back.
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    /// Reads to the end of the connection.
    pub fn read(mut stream: impl Read) -> Response {
        let mut bytes = vec![];
        stream.read_to_end(&mut bytes).expect("it answers");
        let text = String::from_utf8(bytes).expect("it answers in UTF-8");
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no HTTP: {text:?}"));
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(rest) } else { rest.to_string() };
        Response { status, head: head.to_ascii_lowercase(), body }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The events of a stream; the last is text where it is not JSON.
    pub fn events(&self) -> Vec<Value> {
        let data = self.body.split("\n\n").filter_map(|e| e.strip_prefix("data: "));
        data.map(|d| serde_json::from_str(d).unwrap_or_else(|_| Value::from(d))).collect()
    }
}

/// The bytes of a body in chunks; what was cut off is missing.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk begins with its size");
        let Some(piece) = more.get(..size).filter(|_| size > 0) else { break };
        body += piece;
        rest = more.get(size + 2..).unwrap_or("");
    }
    body
}
