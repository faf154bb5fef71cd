//! Seeded streams of a real model while others send what is wrong as fast as they can: nobody's tokens may change.

use super::{Args, Played, Row, ms};
use crate::bad_requests::{Bad, KINDS, Then, bad};
use crate::client::{Question, prompt};
use crate::load::{Summary, closed_loop, joined};
use crate::server::Server;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Streams at once, each with its own seed.
const STREAMS: usize = 64;
/// Those who do not behave.
const ATTACKERS: usize = 8;
/// A watchdog: a bad request is answered before that.
const LONGEST: Duration = Duration::from_secs(60);

pub async fn play(args: &Args) -> Played {
    let mut server = Server::start(&args.air, &["--max-num-seqs", "96", "--max-queue", "1024", "--grace", "0"])?;
    let target = server.target(None);
    let mut questions = vec![];
    for i in 0..STREAMS {
        let body = json!({ "prompt": prompt(i, 8), "max_tokens": 48, "temperature": 0.9, "seed": 1000 + i });
        questions.push(Question::learn(&target, body).await?);
    }
    let questions = Arc::new(questions);
    let rounds = args.of(20);
    let quiet = closed_loop(&questions, STREAMS, STREAMS * rounds).await;
    let over = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicUsize::new(0));
    let attackers = (0..ATTACKERS).map(|_| tokio::spawn(attack(target.address.clone(), next.clone(), over.clone())));
    let attackers = attackers.collect();
    let seen = closed_loop(&questions, STREAMS, STREAMS * rounds).await;
    over.store(true, Ordering::Relaxed);
    let mut told = BTreeMap::<String, usize>::new();
    let mut wrong = vec![];
    for (kinds, unexpected) in joined(attackers).await {
        kinds.into_iter().for_each(|(what, n)| *told.entry(what).or_default() += n);
        wrong.extend(unexpected);
    }
    let sent: usize = told.values().sum();
    Ok(vec![
        alone(sent, &quiet, &seen),
        refused(told, &wrong),
        Row::hard("the server then", if server.lives() { "lives" } else { "is gone" }, "lives", server.lives()),
    ])
}

fn alone(sent: usize, quiet: &Summary, seen: &Summary) -> Row {
    let (answered, all) = (seen.answered(), quiet.statuses.values().sum::<usize>());
    let first = seen.wrong.first().map_or(String::new(), |w| format!("{} wrong, as {w}; ", seen.all_wrong));
    let between = (ms(seen.between.p99), ms(quiet.between.p99));
    Row::hard(
        format!("{all} seeded streams, {STREAMS} at once, beside {sent} bad requests of {KINDS} kinds"),
        format!("{answered} answered; {first}between tokens p99 {}, without the others {}", between.0, between.1),
        "each as alone",
        seen.all_wrong + quiet.all_wrong == 0 && answered == all,
    )
    .with(json!({ "quiet": quiet.json(), "attacked": seen.json() }))
}

fn refused(told: BTreeMap<String, usize>, wrong: &[String]) -> Row {
    let failed: usize = told.iter().filter(|(what, _)| what.contains(": 5")).map(|(_, n)| n).sum();
    let unexpected = wrong.first().map_or(String::new(), |w| format!(", {} unexpected, as {w}", wrong.len()));
    Row::hard(
        "what the bad ones are told",
        format!("{failed} times 5xx{unexpected}"),
        "its own status each, no 5xx",
        failed == 0 && wrong.is_empty(),
    )
    .with(json!({ "told": told, "unexpected": wrong.iter().take(10).collect::<Vec<_>>() }))
}

/// Sends bad requests until it is over: how often each kind was told what, and what nobody expected.
async fn attack(
    address: String,
    next: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
) -> (BTreeMap<String, usize>, Vec<String>) {
    let (mut told, mut wrong) = (BTreeMap::new(), vec![]);
    while !over.load(Ordering::Relaxed) {
        let bad = bad(next.fetch_add(1, Ordering::Relaxed));
        let status = tokio::time::timeout(LONGEST, send(&address, &bad)).await.unwrap_or(Some(0));
        let status = status.map_or("left".into(), |s| s.to_string());
        if let Then::Read(may) = bad.then
            && status != "left"
            && !may.iter().any(|s| s.to_string() == status)
        {
            wrong.push(format!("{}: {status}", bad.what));
        }
        *told.entry(format!("{}: {status}", bad.what)).or_default() += 1;
    }
    (told, wrong)
}

/// The status, unless it or the server left before there was one.
async fn send(address: &str, bad: &Bad) -> Option<u16> {
    let mut connection = TcpStream::connect(address).await.ok()?;
    // Who is refused in the middle may be told so, or not.
    let _ = connection.write_all(&bad.bytes).await;
    let mut answer = vec![];
    match bad.then {
        Then::Leave(n) => {
            connection.take(n as u64).read_to_end(&mut answer).await.ok()?;
            return None;
        }
        Then::Read(_) => connection.read_to_end(&mut answer).await.ok()?,
    };
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}
