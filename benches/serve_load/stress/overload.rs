//! Ten times as many requests as a server can answer: those it takes are answered as if the others were not there, and
//! the others hear at once that they are not taken.
//!
//! The baseline is a server that is exactly full: as many clients as it has places, each of which asks again as soon as
//! it has its answer. Whoever is taken waits there for as many others as under any load.

use super::pairs::{self, PAIRS, Pair};
use super::{Args, Played, Row, ms};
use crate::client::{Question, Target, prompt};
use crate::load::{Summary, closed_loop, joined, open_loop};
use crate::server::Server;
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// 5 ms a pass; answers that run, and those that run or wait.
const SERVER: [&str; 6] = ["--device", "fake:5", "--max-num-seqs", "16", "--max-queue", "32"];
const RUNNING: usize = 16;
const PLACES: usize = 32;
/// Times the capacity.
const OVER: f64 = 10.0;
/// Seconds of that in each run.
const SECONDS: usize = 4;
/// Requests of a run that is just full.
const FULL: usize = 300;
/// How much longer those who are taken may wait.
const SLOWER: f64 = 1.3;
/// How long those who are not taken may wait to hear it.
const REFUSED: Duration = Duration::from_millis(100);
/// Tenths of the load that each key asks for.
const TENTHS: [f64; 4] = [7.0, 1.0, 1.0, 1.0];
/// The least part of an equal share that each key must get.
const FAIR: f64 = 0.75;

pub async fn play(args: &Args) -> Played {
    let server = Server::start(&args.air, &SERVER)?;
    let questions = questions(&server.target(None)).await?;
    let just = closed_loop(&questions, RUNNING, args.of(1000)).await;
    let capacity = just.answered() as f64 / just.time.as_secs_f64();
    let (rate, mut pairs) = (capacity * OVER, vec![]);
    for _ in 0..args.of(PAIRS) {
        let quiet = closed_loop(&questions, PLACES, FULL).await;
        let loaded = open_loop(&questions, rate, rate as usize * SECONDS).await;
        pairs.push(Pair { quiet, loaded });
    }
    drop(server);
    let asked = format!("{rate:.0} requests/s for {SECONDS} s, where {capacity:.0} can be answered");
    let all: Vec<&Summary> = pairs.iter().flat_map(|p| [&p.quiet, &p.loaded]).collect();
    let mut rows = vec![sound(&asked, &all).with(pairs::json(&pairs))];
    rows.extend(pairs::slower(&pairs, "those taken", SLOWER));
    rows.push(refused(pairs.iter().map(|p| &p.loaded)));
    rows.extend(with_keys(args, rate).await?);
    Ok(rows)
}

async fn questions(target: &Target) -> Result<Arc<Vec<Question>>, String> {
    let mut all = vec![];
    for i in 0..PLACES {
        let body = json!({ "prompt": prompt(i, 8), "max_tokens": 32, "temperature": 0 });
        all.push(Question::learn(target, body).await?);
    }
    Ok(Arc::new(all))
}

/// Whatever was taken is whole and right, and whoever was not was told so.
fn sound(asked: &str, seen: &[&Summary]) -> Row {
    let answered: usize = seen.iter().map(|s| s.answered()).sum();
    let refused: usize = seen.iter().map(|s| s.refused.n).sum();
    let unsound = pairs::unsound(seen.iter().copied());
    let told = unsound.clone().unwrap_or_else(|| format!("{answered} answered, {refused} told 429, no other status"));
    let all: usize = seen.iter().flat_map(|s| s.statuses.values()).sum();
    Row::hard(asked, told, "200 and right, or 429", unsound.is_none() && answered + refused == all)
}

/// The slowest of some runs.
fn refused<'a>(seen: impl IntoIterator<Item = &'a Summary>) -> Row {
    let slowest = seen.into_iter().map(|s| s.refused).max_by_key(|t| t.p99).unwrap_or_default();
    let told = format!("p99 {}, longest {}", ms(slowest.p99), ms(slowest.max));
    Row::soft("time to a 429", told, format!("p99 < {}", ms(REFUSED)), slowest.p99 < REFUSED)
}

/// The same load from several keys, one of which asks for most of it.
async fn with_keys(args: &Args, rate: f64) -> Played {
    let mut file = tempfile::NamedTempFile::new().map_err(|e| format!("no file for keys: {e}"))?;
    let keys: Vec<String> = (0..TENTHS.len()).map(|i| format!("stress-key-{i}")).collect();
    writeln!(file, "{}", keys.join("\n")).map_err(|e| format!("cannot write keys: {e}"))?;
    let path = file.path().to_str().ok_or("the temporary folder has no UTF-8 name")?;
    let server = Server::start(&args.air, &[&SERVER[..], &["--api-key-file", path]].concat())?;
    let mut loads = vec![];
    for (key, tenths) in keys.iter().zip(TENTHS) {
        let questions = questions(&server.target(Some(key))).await?;
        let rate = rate * tenths / 10.0;
        loads.push((questions, rate, rate as usize * SECONDS));
    }
    let load = |(questions, rate, n)| tokio::spawn(async move { open_loop(&questions, rate, n).await });
    let seen = joined(loads.into_iter().map(load).collect()).await;
    let answered: Vec<usize> = seen.iter().map(Summary::answered).collect();
    let equal = answered.iter().sum::<usize>() as f64 / answered.len() as f64;
    let least = answered.iter().min().copied().unwrap_or(0) as f64 / equal;
    let asked = format!("the same from {} keys, one asks for {:.0} % of it", keys.len(), TENTHS[0] * 10.0);
    Ok(vec![
        sound(&asked, &seen.iter().collect::<Vec<_>>()),
        Row::soft(
            "answers of each key",
            format!("{answered:?}, the least {least:.2} of an equal share"),
            format!(">= {FAIR} of it"),
            least >= FAIR,
        )
        .with(json!(seen.iter().map(Summary::json).collect::<Vec<_>>())),
        refused(&seen),
    ])
}
