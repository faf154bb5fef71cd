//! A load on `air serve` that checks what it gets.
//!
//! ```console
//! $ air serve -m model.gguf &
//! $ cargo bench --bench serve_load -- --streams 16 --requests 64 --max-tokens 64
//! $ cargo bench --bench serve_load -- --stress
//! ```
//!
//! It asks for each of its prompts once alone and whole, and then for all of them in streams, many at once: by the law
//! of equal bits each stream must join to the tokens that its prompt got alone, so that one that is lost, repeated or in
//! another's stream shows. `--streams N` keeps N requests running (a closed loop), `--rate R` begins R a second whatever
//! becomes of the others (an open one). On stdout: one JSON object of what was measured here, by the client's clock.
//!
//! `--stress` starts servers of its own and does to them what a bad day does (`stress`).

#[path = "../../tests/common/bad_requests.rs"]
mod bad_requests;
mod client;
mod load;
#[path = "../../tests/common/models.rs"]
mod models;
mod server;
mod stress;

use client::{Question, Target};
use load::Summary;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is asked for.
#[derive(clap::Parser)]
#[command(about = "A load on air serve that checks what it gets")]
struct Args {
    /// Start servers and do to them what a bad day does, instead
    #[arg(long)]
    stress: bool,
    #[command(flatten)]
    bad_day: stress::Args,
    #[command(flatten)]
    load: Load,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is asked of a server that runs, and how.
#[derive(clap::Args)]
struct Load {
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
}

fn main() {
    let args = <Args as clap::Parser>::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("the machine has threads");
    load::raise_files();
    let failed = match args.stress {
        true => runtime.block_on(stress::run(&args.bad_day)),
        false => {
            let report = runtime.block_on(run(&args.load));
            println!("{report:#}");
            report["wrong"].as_array().is_some_and(|w| !w.is_empty())
        }
    };
    std::process::exit(i32::from(failed));
}

async fn run(args: &Load) -> Value {
    let target = Target { address: args.address.clone(), key: args.key.clone() };
    let mut questions = vec![];
    for i in 0..args.prompts.max(1) {
        let body = json!({ "prompt": client::prompt(i, args.words), "max_tokens": args.max_tokens, "temperature": 0 });
        questions.push(Question::learn(&target, body).await.unwrap_or_else(|e| panic!("prompt {i} alone: {e}")));
    }
    let questions = Arc::new(questions);
    let summary = match args.rate {
        Some(rate) => load::open_loop(&questions, rate, args.requests).await,
        None => load::closed_loop(&questions, args.streams, args.requests).await,
    };
    report(args, &summary)
}

fn report(args: &Load, summary: &Summary) -> Value {
    let mut report = json!({ "streams": args.rate.is_none().then_some(args.streams), "rate": args.rate });
    let all = report.as_object_mut().expect("it is one");
    all.extend(summary.json().as_object().cloned().unwrap_or_default());
    report
}
