//! Clients that take their time: a thousand whose requests come byte by byte, and a hundred who ask for long streams and
//! read nothing of them. Those who behave must not notice.
//!
//! The kernel takes megabytes for a client on the same machine before the server notices that it is deaf; these make
//! their connections with small segments and a small window, so that it notices after a hundred tokens. Other runs have
//! as many long streams that are read: what of the difference is their work, and not their deafness.

use super::pairs::{self, PAIRS, Pair};
use super::{Args, Played, Row};
use crate::client::{Question, Target};
use crate::load::closed_loop;
use crate::models::altered;
use crate::server::Server;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Who sends byte by byte, and how often one.
const DRIPPING: usize = 1000;
const DRIP: Duration = Duration::from_secs(1);
/// Who asks for long streams.
const LONG: usize = 100;
/// Who behaves, and what each asks for.
const GOOD: usize = 16;
const TOKENS: u32 = 32;
/// Requests of a run.
const REQUESTS: usize = 100;
/// How much longer they may wait.
const SLOWER: f64 = 1.5;
/// Until all others are at it.
const BEGIN: Duration = Duration::from_secs(4);

pub async fn play(args: &Args) -> Played {
    let model = altered("llama-gqa.gguf", |meta| {
        meta.insert("llama.context_length", air_rs::meta::Value::U32(1 << 20), None);
    });
    let mut server = Server::start(
        &args.air,
        &["-m", &model, "--device", "fake:20", "--max-num-seqs", "128", "--max-queue", "1024", "--grace", "0"],
    )?;
    let target = server.target(None);
    let mut questions = vec![];
    for i in 0..GOOD as u32 {
        let prompt: Vec<u32> = (0..8).map(|w| 3 + (i * 7 + w * 5 + w * w * i) % 30).collect();
        questions.push(Question::learn(&target, asked(json!(prompt), TOKENS)).await?);
    }
    let (questions, mut read, mut slow, mut stayed) = (Arc::new(questions), vec![], vec![], usize::MAX);
    for _ in 0..args.of(PAIRS) {
        for (pairs, are_slow) in [(&mut read, false), (&mut slow, true)] {
            let quiet = closed_loop(&questions, GOOD, REQUESTS).await;
            let mut others = others(&target, are_slow);
            tokio::time::sleep(BEGIN).await;
            let loaded = closed_loop(&questions, GOOD, REQUESTS).await;
            while others.try_join_next().is_some() {}
            stayed = stayed.min(if are_slow { others.len() } else { usize::MAX });
            others.shutdown().await;
            // Until the server has noticed that they are gone.
            tokio::time::sleep(BEGIN / 4).await;
            pairs.push(Pair { quiet, loaded });
        }
    }
    let figures = json!({ "slow": pairs::json(&slow), "read": pairs::json(&read) });
    let [first, between] = pairs::slower(&slow, "those who behave", SLOWER);
    let [first_read, between_read] = pairs::slower(&read, "the same where all read", SLOWER);
    slow.extend(read);
    let sound = sound(stayed, server.lives(), &slow).with(figures);
    Ok(vec![sound, first, between, first_read, between_read])
}

/// Clients who ask for long streams: they read them, or they do not, and a thousand are slow at asking.
fn others(target: &Target, are_slow: bool) -> JoinSet<()> {
    let long = |i: usize| {
        let mut body = asked(json!([3 + i % 30, 3 + i / 30]), 1 << 19);
        (body["stream"], body["logprobs"]) = (json!(true), json!(5));
        target.request(&body)
    };
    let mut others = JoinSet::new();
    for i in 0..LONG {
        match are_slow {
            true => others.spawn(is_deaf(target.address.clone(), long(i))),
            false => others.spawn(reads(target.address.clone(), long(i))),
        };
    }
    (0..if are_slow { DRIPPING } else { 0 }).for_each(|_| drop(others.spawn(drips(target.address.clone()))));
    others
}

fn sound(stayed: usize, lives: bool, pairs: &[Pair]) -> Row {
    let unsound = pairs::unsound(pairs.iter().flat_map(|p| [&p.quiet, &p.loaded]));
    let all = pairs.iter().all(|p| p.quiet.answered() == REQUESTS && p.loaded.answered() == REQUESTS);
    let lived = if lives { "lives" } else { "is gone" };
    let told =
        unsound.clone().unwrap_or_else(|| format!("all answered; {stayed} of the slow stayed; the server {lived}"));
    Row::hard(
        format!("{DRIPPING} that send byte by byte and {LONG} that do not read, beside {GOOD} that behave"),
        told,
        "all answered and right",
        unsound.is_none() && all && lives,
    )
}

fn asked(prompt: Value, max_tokens: u32) -> Value {
    // Without the bias noise would end it.
    json!({ "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logit_bias": { "2": -100 } })
}

/// Sends the head of a request that never comes to its end.
async fn drips(address: String) {
    loop {
        let Ok(mut connection) = TcpStream::connect(&address).await else { return };
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".bytes();
        for byte in head.chain(std::iter::repeat(b'x')) {
            tokio::time::sleep(DRIP).await;
            if connection.write_all(&[byte]).await.is_err() {
                // It has been shown out, and comes again.
                break;
            }
        }
    }
}

/// Asks for a stream and reads it.
async fn reads(address: String, request: Vec<u8>) {
    let Ok(mut connection) = TcpStream::connect(&address).await else { return };
    let mut bytes = vec![0; 64 << 10];
    if connection.write_all(&request).await.is_ok() {
        while connection.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
    }
}

/// Asks for a stream and reads nothing.
async fn is_deaf(address: String, request: Vec<u8>) {
    if let Ok(mut connection) = narrow(&address)
        && connection.write_all(&request).await.is_ok()
    {
        std::future::pending::<()>().await;
    }
}

/// A connection that takes little at once.
fn narrow(address: &str) -> std::io::Result<TcpStream> {
    let address: std::net::SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_recv_buffer_size(4096)?;
    socket.set_tcp_mss(536)?;
    socket.connect(&address.into())?;
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket.into())
}
