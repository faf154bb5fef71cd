//! The way through HTTP alone: a device that computes nothing, and as many streams as there may be.
//!
//! Its answers are noise, but determined by their prompts, so that each stream is checked as those of a real model are.

use super::{Args, Played, Row, ms};
use crate::client::{Question, prompt};
use crate::load::{Summary, closed_loop};
use crate::server::Server;
use serde_json::json;
use std::sync::Arc;

/// Tokens a second, of all streams together.
const TARGET: f64 = 20_000.0;
/// How much more memory may be held after many requests than after half of them.
const GROWTH: u64 = 16 << 20;
/// Tokens of each answer.
const TOKENS: u32 = 64;

pub async fn play(args: &Args) -> Played {
    let server = Server::start(
        &args.air,
        &["--device", "fake", "--max-num-seqs", "256", "--max-queue", "4096", "--grace", "0"],
    )?;
    let target = server.target(None);
    let mut questions = vec![];
    for i in 0..64 {
        let body = json!({ "prompt": prompt(i, 16), "max_tokens": TOKENS, "temperature": 0 });
        questions.push(Question::learn(&target, body).await?);
    }
    let questions = Arc::new(questions);
    let mut rows = vec![];
    for streams in [64, 256, 1000, 2000] {
        let requests = args.of(4000).max(streams);
        let seen = closed_loop(&questions, streams, requests).await;
        rows.extend(together(streams, &seen));
    }
    let mut held = vec![server.resident()];
    let half = args.of(10_000) / 2;
    for _ in 0..2 {
        let seen = closed_loop(&questions, 256, half).await;
        rows.push(whole(&format!("{half} requests, 256 at once"), &seen));
        held.push(server.resident());
    }
    let mib: Vec<String> = held.iter().map(|b| format!("{}", b >> 20)).collect();
    rows.push(
        Row::soft(
            format!("memory before, after {half}, after {} requests", 2 * half),
            format!("{} MiB", mib.join(", ")),
            format!("grows by < {} MiB in the second half", GROWTH >> 20),
            held[2] < held[1] + GROWTH,
        )
        .with(json!({ "resident": held })),
    );
    Ok(rows)
}

fn together(streams: usize, seen: &Summary) -> [Row; 2] {
    let asked = format!("{streams} streams at once");
    let told = format!(
        "{:.0} tok/s; first token p50 {}, p99 {}; between p99 {}",
        seen.rate(),
        ms(seen.first.p50),
        ms(seen.first.p99),
        ms(seen.between.p99)
    );
    let fast = Row::soft(asked.clone(), told, format!(">= {TARGET:.0} tok/s"), seen.rate() >= TARGET);
    [fast.with(seen.json()), whole(&asked, seen)]
}

/// Nothing was lost, repeated, or another's.
fn whole(asked: &str, seen: &Summary) -> Row {
    let requests: usize = seen.statuses.values().sum();
    let answered = seen.answered();
    let told = match seen.wrong.first() {
        Some(first) => format!("{} wrong, as {first}", seen.all_wrong),
        None => format!("{answered} of {requests} whole and right"),
    };
    Row::hard(asked, told, "all", seen.all_wrong == 0 && answered == requests).with(seen.json())
}
