//! A load on `air serve` that checks what it gets.
//!
//! ```console
//! $ air serve -m model.gguf &
//! $ cargo bench --bench serve_load -- --streams 16 --requests 64 --max-tokens 64
//! ```
//!
//! It asks for each of its prompts once alone and whole, and then for all of them in streams, many at once: by the law
//! of equal bits each stream must join to the tokens that its prompt got alone, so that one that is lost, repeated or in
//! another's stream shows. `--streams N` keeps N requests running (a closed loop), `--rate R` begins R a second whatever
//! becomes of the others (an open one). On stdout: one JSON object of what was measured here, by the client's clock.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// What is asked of the server, and how.
#[derive(clap::Parser, Clone)]
#[command(about = "A load on air serve that checks what it gets")]
struct Args {
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// Requests that run at once
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// Requests in all
    #[arg(long, default_value_t = 64)]
    requests: usize,
    /// Begin so many requests a second instead, whatever becomes of the others
    #[arg(long)]
    rate: Option<f64>,
    /// Tokens of each answer, if it does not end before
    #[arg(long, default_value_t = 64)]
    max_tokens: u32,
    /// Different prompts
    #[arg(long, default_value_t = 16)]
    prompts: usize,
    /// Words of each prompt
    #[arg(long, default_value_t = 16)]
    words: usize,
    /// The server's key
    #[arg(long)]
    key: Option<String>,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// What came of one request.
struct Outcome {
    status: u16,
    /// From the request to its status.
    answered: Duration,
    /// From the request to the first token.
    first: Option<Duration>,
    /// Between tokens.
    between: Vec<Duration>,
    tokens: u64,
    /// Why it is not what it should be.
    wrong: Option<String>,
}

fn main() {
    let args = <Args as clap::Parser>::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let report = runtime.expect("the machine has threads").block_on(run(args));
    println!("{report:#}");
    std::process::exit(i32::from(report["wrong"].as_array().is_some_and(|w| !w.is_empty())));
}

/// A prompt unlike the others from its first word on.
fn prompt(args: &Args, i: usize) -> String {
    (0..args.words).map(|w| format!("word{} ", (i * 7919 + w * 104_729) % 9973)).collect()
}

async fn run(args: Args) -> Value {
    let args = Arc::new(args);
    let mut alone = vec![];
    for i in 0..args.prompts.max(1) {
        alone.push(expected(&args, i).await.unwrap_or_else(|e| panic!("prompt {i} alone: {e}")));
    }
    let alone = Arc::new(alone);
    let begun = Instant::now();
    let outcomes = match args.rate {
        Some(rate) => open_loop(&args, &alone, rate).await,
        None => closed_loop(&args, &alone).await,
    };
    report(&args, &outcomes, begun.elapsed())
}

async fn closed_loop(args: &Arc<Args>, alone: &Arc<Vec<Vec<u64>>>) -> Vec<Outcome> {
    let next = Arc::new(AtomicUsize::new(0));
    let worker = |_| {
        let (args, alone, next) = (args.clone(), alone.clone(), next.clone());
        tokio::spawn(async move {
            let mut outcomes = vec![];
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= args.requests {
                    return outcomes;
                }
                outcomes.push(stream(&args, i % alone.len(), &alone).await);
            }
        })
    };
    joined((0..args.streams).map(worker).collect()).await.into_iter().flatten().collect()
}

async fn open_loop(args: &Arc<Args>, alone: &Arc<Vec<Vec<u64>>>, rate: f64) -> Vec<Outcome> {
    let mut tasks = vec![];
    let begun = Instant::now();
    for i in 0..args.requests {
        tokio::time::sleep_until((begun + Duration::from_secs_f64(i as f64 / rate)).into()).await;
        let (args, alone) = (args.clone(), alone.clone());
        tasks.push(tokio::spawn(async move { stream(&args, i % alone.len(), &alone).await }));
    }
    joined(tasks).await
}

async fn joined<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut all = vec![];
    for task in tasks {
        all.push(task.await.expect("a task of this program does not panic"));
    }
    all
}

/// Sends a request; the connection and the status of the answer, whose head is read.
async fn send(args: &Args, i: usize, stream: bool) -> std::io::Result<(u16, BufReader<TcpStream>)> {
    let body = json!({ "prompt": prompt(args, i), "max_tokens": args.max_tokens, "temperature": 0, "stream": stream, "return_token_ids": true,
        "stream_options": stream.then(|| json!({ "include_usage": true })) });
    let (body, key) = (body.to_string(), args.key.iter().map(|k| format!("Authorization: Bearer {k}\r\n")));
    let head = format!(
        "POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n",
        key.collect::<String>(),
        body.len()
    );
    let mut connection = TcpStream::connect(&args.address).await?;
    connection.set_nodelay(true)?;
    connection.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    while !line.trim().is_empty() {
        line.clear();
        connection.read_line(&mut line).await?;
    }
    Ok((status, connection))
}

/// The tokens that a prompt gets alone.
async fn expected(args: &Args, i: usize) -> Result<Vec<u64>, String> {
    let (status, mut connection) = send(args, i, false).await.map_err(|e| e.to_string())?;
    let mut body = String::new();
    connection.read_to_string(&mut body).await.map_err(|e| e.to_string())?;
    let body: Value = serde_json::from_str(&body).map_err(|e| format!("status {status}: {e}: {body}"))?;
    ids(&body["choices"][0]).ok_or_else(|| format!("status {status}: {body}"))
}

fn ids(choice: &Value) -> Option<Vec<u64>> {
    choice["token_ids"].as_array()?.iter().map(Value::as_u64).collect()
}

/// One request in a stream, checked.
async fn stream(args: &Args, i: usize, alone: &[Vec<u64>]) -> Outcome {
    let begun = Instant::now();
    let mut o = Outcome { status: 0, answered: Duration::ZERO, first: None, between: vec![], tokens: 0, wrong: None };
    match send(args, i, true).await {
        Err(e) => o.wrong = Some(e.to_string()),
        Ok((status, connection)) => {
            (o.status, o.answered) = (status, begun.elapsed());
            if status == 200 {
                let told = read(connection, begun, &mut o).await;
                o.wrong = told.map_or_else(Some, |ids| (ids != alone[i]).then(|| differs(&ids, &alone[i])));
            }
        }
    }
    o
}

fn differs(ids: &[u64], want: &[u64]) -> String {
    let same = ids.iter().zip(want).take_while(|(a, b)| a == b).count();
    format!("{} tokens instead of {}, alike for {same}", ids.len(), want.len())
}

/// Reads the events of a stream to their end: its tokens.
async fn read(connection: BufReader<TcpStream>, begun: Instant, o: &mut Outcome) -> Result<Vec<u64>, String> {
    let (mut lines, mut all, mut last) = (connection.lines(), vec![], begun);
    while let Some(line) = lines.next_line().await.map_err(|e| e.to_string())? {
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            return Ok(all);
        }
        let event: Value = serde_json::from_str(data).map_err(|e| format!("{e}: {data}"))?;
        if event["error"].is_object() {
            return Err(event["error"]["message"].to_string());
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
    Err("the stream ended without [DONE]".into())
}

fn report(args: &Args, outcomes: &[Outcome], time: Duration) -> Value {
    let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
    outcomes.iter().for_each(|o| *statuses.entry(o.status.to_string()).or_default() += 1);
    let quantiles = |mut of: Vec<Duration>| {
        of.sort_unstable();
        let at = |q: f64| of.get(((of.len() as f64 - 1.0) * q).round() as usize).map(|d| d.as_secs_f64() * 1e3);
        json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0), "n": of.len() })
    };
    let tokens: u64 = outcomes.iter().map(|o| o.tokens).sum();
    let refused = outcomes.iter().filter(|o| o.status == 429).map(|o| o.answered).collect();
    let wrong: Vec<&String> = outcomes.iter().filter_map(|o| o.wrong.as_ref()).take(10).collect();
    json!({
        "streams": args.rate.is_none().then_some(args.streams),
        "rate": args.rate,
        "requests": outcomes.len(),
        "statuses": statuses,
        "seconds": time.as_secs_f64(),
        "tokens": tokens,
        "tokens_per_second": tokens as f64 / time.as_secs_f64(),
        "ttft_ms": quantiles(outcomes.iter().filter_map(|o| o.first).collect()),
        "between_ms": quantiles(outcomes.iter().flat_map(|o| o.between.iter().copied()).collect()),
        "refused_ms": quantiles(refused),
        "wrong": wrong,
    })
}
