//! Servers that are told to end at any moment: whoever was promised an answer hears its end, and the process is gone
//! in time.

use super::{Args, Played, Row};
use crate::client::{End, Question, prompt};
use crate::load::joined;
use crate::server::Server;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How many servers there are at once, so that time passes faster.
const TOGETHER: usize = 3;
/// Clients of each server, who ask again and again.
const CLIENTS: usize = 12;
/// Beyond the grace period: last words, and a busy machine.
const LATE: Duration = Duration::from_secs(15);

/// What became of the streams of a server.
#[derive(Default)]
struct Ends {
    /// By how they ended.
    counts: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

pub async fn play(args: &Args) -> Played {
    let times = args.of(200);
    let mut all = Ends::default();
    let mut exits = vec![];
    for from in (0..times).step_by(TOGETHER) {
        let some = from..times.min(from + TOGETHER);
        let tasks = some.map(|i| tokio::spawn(once(args.air.clone(), i))).collect();
        for one in joined(tasks).await {
            let (ends, exit) = one?;
            ends.counts.into_iter().for_each(|(how, n)| *all.counts.entry(how).or_default() += n);
            all.wrong.extend(ends.wrong);
            exits.extend(exit);
        }
    }
    let counts: Vec<String> = all.counts.iter().map(|(how, n)| format!("{n} {how}")).collect();
    let told = |wrong: &[String], right: String| match wrong.first() {
        Some(first) => format!("{} wrong, as {first}", wrong.len()),
        None => right,
    };
    let asked = format!("SIGTERM {times} times at a random moment, {CLIENTS} clients each");
    Ok(vec![
        Row::hard(asked, told(&all.wrong, counts.join(", ")), "each accepted stream has its end", all.wrong.is_empty())
            .with(json!({ "ends": all.counts, "wrong": all.wrong.iter().take(10).collect::<Vec<_>>() })),
        Row::hard(
            "the processes",
            told(&exits, format!("{times} left with 0")),
            "leave in time with 0",
            exits.is_empty(),
        ),
    ])
}

/// One server: how its streams ended, and what was wrong with its own end.
async fn once(air: std::path::PathBuf, i: usize) -> Result<(Ends, Option<String>), String> {
    let grace = i % 2;
    let mut server =
        Server::start(&air, &["--device", "fake:3", "--max-num-seqs", "8", "--grace", &grace.to_string()])?;
    let body = json!({ "prompt": prompt(i, 8), "max_tokens": 150, "temperature": 0 });
    let question = Arc::new(Question::learn(&server.target(None), body).await?);
    let clients = (0..CLIENTS).map(|_| tokio::spawn(ask(question.clone()))).collect();
    // From before the first token to the middle of the second round.
    tokio::time::sleep(Duration::from_millis(random(i as u64) % 1000)).await;
    server.end();
    let exit = match server.ended(Duration::from_secs(grace as u64) + LATE).await {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("{status}: {}", server.said())),
        None => Some(format!("not within {} s: {}", LATE.as_secs(), server.said())),
    };
    // Whoever still waits for a server that did not end hears of it now.
    drop(server);
    let mut ends = Ends::default();
    for heard in joined(clients).await.into_iter().flatten() {
        match heard {
            Ok(how) => *ends.counts.entry(how).or_default() += 1,
            Err(why) => ends.wrong.push(format!("server {i}: {why}")),
        }
    }
    Ok((ends, exit))
}

/// Asks until the server is not there any more: how each answer ended, or what was wrong with that.
async fn ask(question: Arc<Question>) -> Vec<Result<String, String>> {
    let mut ends = vec![];
    loop {
        let heard = question.ask().await;
        ends.push(match (heard.status, heard.end) {
            (_, End::Unanswered(_)) => return ends,
            (200, End::Whole) => Ok("whole".into()),
            (200, End::Told(code)) if code == "shutting_down" => Ok("told that it ends".into()),
            (503 | 429, End::Refused) => Ok("refused".into()),
            (status, end) => Err(format!("status {status}, {end:?}")),
        });
    }
}

/// A number that looks like any other (splitmix64).
fn random(i: u64) -> u64 {
    let mut x = i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
