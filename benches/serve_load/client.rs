//! A client as small as one can be: each request has a connection of its own and speaks HTTP/1.0, so that a body is
//! what comes until the connection ends. Streams are read event by event, and their tokens compared with those that the
//! same request got alone and whole.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A watchdog: no answer here takes so long.
const LONGEST: Duration = Duration::from_secs(300);

/// A server, and who asks it.
#[derive(Clone)]
pub struct Target {
    pub address: String,
    pub key: Option<String>,
}

/// A request, and the tokens that it must get.
pub struct Question {
    address: String,
    /// As it is sent, for a stream.
    request: Vec<u8>,
    want: Vec<u64>,
}

/// How an answer ended.
#[derive(Debug, PartialEq)]
pub enum End {
    /// With `[DONE]` and all its tokens.
    Whole,
    /// It was refused by its status.
    Refused,
    /// There was no status.
    Unanswered(String),
    /// With an error event, which has this code; the tokens before it are right.
    Told(String),
    /// Its tokens are not those that it should have, or it just ends.
    Wrong(String),
}

/// What came of one request.
pub struct Outcome {
    /// 0 where there was none.
    pub status: u16,
    /// From the request to its status.
    pub answered: Duration,
    /// From the request to the first token.
    pub first: Option<Duration>,
    /// Between tokens.
    pub between: Vec<Duration>,
    pub tokens: u64,
    pub end: End,
}

/// A prompt unlike the others from its first word on.
pub fn prompt(i: usize, words: usize) -> String {
    (0..words).map(|w| format!("word{} ", (i * 7919 + w * 104_729) % 9973)).collect()
}

impl Target {
    /// A request for completions as it is sent.
    pub fn request(&self, body: &Value) -> Vec<u8> {
        let (body, key) = (body.to_string(), self.key.iter().map(|k| format!("Authorization: Bearer {k}\r\n")));
        let (key, n) = (key.collect::<String>(), body.len());
        let head = "POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        format!("{head}{key}Content-Length: {n}\r\n\r\n{body}").into_bytes()
    }
}

/// Sends a request; the connection and the status of the answer, whose head is read.
pub async fn send(address: &str, request: &[u8]) -> std::io::Result<(u16, BufReader<TcpStream>)> {
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    connection.write_all(request).await?;
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
    while !line.trim().is_empty() {
        line.clear();
        connection.read_line(&mut line).await?;
    }
    Ok((status, connection))
}

fn ids(choice: &Value) -> Option<Vec<u64>> {
    choice["token_ids"].as_array()?.iter().map(Value::as_u64).collect()
}

impl Question {
    /// Asks for it alone and whole: what it got then it must always get.
    pub async fn learn(target: &Target, mut body: Value) -> Result<Question, String> {
        body["return_token_ids"] = json!(true);
        let (status, mut connection) =
            send(&target.address, &target.request(&body)).await.map_err(|e| e.to_string())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
        let answer: Value = serde_json::from_str(&answer).map_err(|e| format!("status {status}: {e}: {answer}"))?;
        let want = ids(&answer["choices"][0]).ok_or_else(|| format!("status {status}: {answer}"))?;
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        Ok(Question { address: target.address.clone(), request: target.request(&body), want })
    }

    /// Asks for it in a stream.
    pub async fn ask(&self) -> Outcome {
        let begun = Instant::now();
        let (answered, end) = (Duration::ZERO, End::Refused);
        let mut o = Outcome { status: 0, answered, first: None, between: vec![], tokens: 0, end };
        if tokio::time::timeout(LONGEST, self.heard(begun, &mut o)).await.is_err() {
            o.end = End::Wrong(format!("no end within {} s", LONGEST.as_secs()));
        }
        o
    }

    async fn heard(&self, begun: Instant, o: &mut Outcome) {
        match send(&self.address, &self.request).await {
            Err(e) => o.end = End::Unanswered(e.to_string()),
            Ok((status, connection)) => {
                (o.status, o.answered) = (status, begun.elapsed());
                if status == 200 {
                    o.end = self.read(connection, begun, o).await.unwrap_or_else(End::Wrong);
                }
            }
        }
    }

    /// Reads the events of a stream to their end.
    async fn read(&self, mut connection: BufReader<TcpStream>, begun: Instant, o: &mut Outcome) -> Result<End, String> {
        let (mut line, mut all, mut last) = (String::new(), vec![], begun);
        let right = |all: &[u64]| if self.want.starts_with(all) { Ok(()) } else { Err(differs(all, &self.want)) };
        loop {
            line.clear();
            if connection.read_line(&mut line).await.map_err(|e| e.to_string())? == 0 {
                return Err(format!("the stream ended without [DONE] after {} tokens", all.len()));
            }
            let Some(data) = line.strip_prefix("data: ").map(str::trim_end) else { continue };
            if data == "[DONE]" {
                let whole = all.len() == self.want.len();
                return right(&all).and(if whole { Ok(End::Whole) } else { Err(differs(&all, &self.want)) });
            }
            let event: Value = serde_json::from_str(data).map_err(|e| format!("{e}: {data}"))?;
            if let Some(error) = event.get("error") {
                let code = error["code"].as_str().unwrap_or_else(|| error["message"].as_str().unwrap_or("none"));
                return right(&all).map(|()| End::Told(code.into()));
            }
            o.tokens = event["usage"]["completion_tokens"].as_u64().unwrap_or(o.tokens);
            if let Some(new) = ids(&event["choices"][0]) {
                all.extend(new);
                let now = Instant::now();
                match o.first {
                    None => o.first = Some(now - begun),
                    Some(_) => o.between.push(now - last),
                }
                last = now;
            }
        }
    }
}

fn differs(ids: &[u64], want: &[u64]) -> String {
    let same = ids.iter().zip(want).take_while(|(a, b)| a == b).count();
    format!("{} tokens instead of {}, alike for {same}", ids.len(), want.len())
}
