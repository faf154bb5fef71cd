//! What a bad day does to a server, scenario by scenario, and whether it held.
//!
//! Each scenario starts servers of its own and gives rows: what was asked, what was seen, and what should be. A row is
//! hard, where every run must hold it (no token lost or in another's stream, no 5xx, no stream without an end), or a
//! target of time or memory, which a busy machine may miss: it is printed as missed, and only a hard one fails the
//! program. Client and server share the machine's cores, so times are compared with those of the same client.

mod attack;
mod fake;
mod overload;
mod pairs;
mod signals;
mod slow;

use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Which scenarios, and of which program.
#[derive(clap::Args)]
pub struct Args {
    /// Only the scenario of this name (with --stress)
    #[arg(long, requires = "stress", value_parser = clap::builder::PossibleValuesParser::new(SCENARIOS.map(|(name, _)| name)))]
    only: Option<String>,
    /// A tenth of the work (with --stress)
    #[arg(long, requires = "stress")]
    quick: bool,
    /// The program whose server is asked (with --stress)
    #[arg(long, requires = "stress", default_value = env!("CARGO_BIN_EXE_air"))]
    air: PathBuf,
}

impl Args {
    /// How much of something is done: all, or a tenth.
    fn of(&self, all: usize) -> usize {
        if self.quick { all.div_ceil(10) } else { all }
    }
}

/// What became of one thing that was asked.
pub struct Row {
    asked: String,
    seen: String,
    target: String,
    held: bool,
    /// That it was missed fails the program.
    hard: bool,
    /// Everything that was measured.
    figures: Value,
}

impl Row {
    /// What must hold in every run.
    fn hard(asked: impl Into<String>, seen: impl Into<String>, target: impl Into<String>, held: bool) -> Row {
        let (asked, seen, target) = (asked.into(), seen.into(), target.into());
        Row { asked, seen, target, held, hard: true, figures: Value::Null }
    }

    /// What a busy machine may miss.
    fn soft(asked: impl Into<String>, seen: impl Into<String>, target: impl Into<String>, held: bool) -> Row {
        Row { hard: false, ..Row::hard(asked, seen, target, held) }
    }

    fn with(self, figures: Value) -> Row {
        Row { figures, ..self }
    }

    fn verdict(&self) -> &'static str {
        match (self.held, self.hard) {
            (true, _) => "held",
            (false, true) => "BROKEN",
            (false, false) => "missed",
        }
    }
}

/// What a scenario gives, or why it could not be played.
type Played = Result<Vec<Row>, String>;
type Scenario = fn(&Args) -> std::pin::Pin<Box<dyn Future<Output = Played> + '_>>;

const SCENARIOS: [(&str, Scenario); 5] = [
    ("fake", |args| Box::pin(fake::play(args))),
    ("overload", |args| Box::pin(overload::play(args))),
    ("slow", |args| Box::pin(slow::play(args))),
    ("signals", |args| Box::pin(signals::play(args))),
    ("attack", |args| Box::pin(attack::play(args))),
];

/// Plays the scenarios and prints what came of them; whether something hard was missed.
pub async fn run(args: &Args) -> bool {
    let mut all = vec![];
    for (name, play) in SCENARIOS.iter().filter(|(name, _)| args.only.as_deref().is_none_or(|only| only == *name)) {
        eprintln!("{name} …");
        let rows = play(args).await.unwrap_or_else(|e| vec![Row::hard("to play it", e, "it can be played", false)]);
        all.extend(rows.into_iter().map(|row| (*name, row)));
    }
    table(&all);
    let rows: Vec<Value> = all.iter().map(|(name, row)| {
        json!({ "scenario": name, "asked": row.asked, "seen": row.seen, "target": row.target, "verdict": row.verdict(), "figures": row.figures })
    }).collect();
    println!("{:#}", json!({ "quick": args.quick, "rows": rows }));
    all.iter().any(|(_, row)| row.hard && !row.held)
}

fn table(rows: &[(&str, Row)]) {
    println!("| scenario | asked | seen | target | |\n|---|---|---|---|---|");
    for (name, row) in rows {
        println!("| {name} | {} | {} | {} | {} |", row.asked, row.seen, row.target, row.verdict());
    }
    println!();
}

/// In milliseconds.
fn ms(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1e3)
}
