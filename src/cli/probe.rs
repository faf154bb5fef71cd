//! `air probe`: how fast a drive reads, and which reads get that out of it.
//!
//! It reads the named file for about a second and remembers the answer for a week; other commands use it. All that was
//! tried is shown, because drives differ: on some, many reads at once are slower.

use super::{human, output};
use crate::error::{Error, Result};
use crate::io::{self, Drive, Faults, KINDS, Kind, Options, Probed};
use crate::source::Source;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Characters of the longest bar.
const BAR: usize = 40;

/// Measure how fast the drive of a file reads, and with which reads
#[derive(clap::Args)]
pub struct Args {
    /// A file on the drive, at least 64 MiB: the model
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Measure again also where the drive is known from the last seven days
    #[arg(long)]
    fresh: bool,
    /// How to read
    #[arg(long, value_name = "READER", default_value = "auto", value_parser = kinds())]
    io: Kind,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Readers by name, with what they are.
fn kinds() -> impl TypedValueParser<Value = Kind> {
    let values = KINDS.iter().map(|(name, _, about)| PossibleValue::new(*name).help(*about));
    PossibleValuesParser::new(values).try_map(|name| Kind::named(&name))
}

/// Prints what was found.
pub fn run(args: Args) -> Result<()> {
    let source = Arc::new(Source::open(&args.file)?);
    let options = Options { kind: args.io, faults: Faults::from_env()?, ..Options::default() };
    let Some(probed) = io::probe(&source, &options, args.fresh)? else {
        let (is, needed) = (human::bytes(source.len()), human::bytes(io::SMALLEST));
        let problem = format!("has {is}, too little to say anything about the drive; {needed} are needed");
        return Err(Error::Io { file: source.name().into(), problem });
    };
    if let Some(note) = &probed.note {
        output::note(note);
    }
    if args.json { output::json(&json(&source, &probed)) } else { output::report(&text(&source, &probed)) }
}

fn rate(drive: &Drive) -> String {
    format!("{}/s", human::bytes(drive.rate as u64))
}

/// Power-of-two bytes, as blocks are.
fn block(bytes: usize) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

fn text(source: &Source, probed: &Probed) -> String {
    let fastest = probed.tried.iter().map(|d| d.rate).fold(0.0, f64::max);
    let row = |d: &Drive| {
        let bar = "█".repeat((d.rate / fastest * BAR as f64).round() as usize);
        let chosen = if *d == probed.best { "  <- best" } else { "" };
        vec![block(d.block), format!("{} at once", d.depth), rate(d), format!("{bar}{chosen}")]
    };
    let rows: Vec<_> = probed.tried.iter().map(row).collect();
    let when = match probed.age {
        None => String::new(),
        Some(age) => format!(", measured {} ago (--fresh measures again)", ago(age.as_secs())),
    };
    let (name, best) = (human::foreign(source.name().as_bytes(), 200), &probed.best);
    let tried = human::table(&rows, &[0, 1, 2]);
    let (gives, size, depth) = (rate(best), block(best.block), best.depth);
    format!("{name}: {}{when}\n{tried}\nThe drive gives {gives}, in reads of {size}, {depth} at once.\n", probed.reader)
}

fn ago(seconds: u64) -> String {
    let (n, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

fn json(source: &Source, probed: &Probed) -> Value {
    let drive = |d: &Drive| json!({ "block_bytes": d.block, "depth": d.depth, "gbps": d.rate / 1e9 });
    json!({
        "file": source.name(),
        "reader": probed.reader,
        "note": probed.note,
        "age_seconds": probed.age.map(|age| age.as_secs()),
        "best": drive(&probed.best),
        "tried": probed.tried.iter().map(drive).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_report_shows_all_and_the_choice() {
        let drive = |block, depth, rate| Drive { rate, block, depth };
        let tried = vec![drive(256 << 10, 2, 0.75e9), drive(1 << 20, 1, 1e9), drive(1 << 20, 2, 1.5e9)];
        let age = Some(Duration::from_secs(7300));
        let probed = Probed { best: tried[2], tried, reader: "io_uring, direct".into(), age, note: None, key: None };
        let source = Source::embedded("model.gguf", vec![]);
        let report = text(&source, &probed);
        assert!(report.starts_with("model.gguf: io_uring, direct, measured 2 hours ago"), "{report}");
        let lines: Vec<&str> = report.lines().collect();
        let bars: Vec<usize> = lines[1..4].iter().map(|l| l.matches('█').count()).collect();
        assert_eq!(bars, [20, 27, 40]);
        assert!(
            lines[1].contains("256 KiB") && lines[3].ends_with("<- best") && !lines[2].contains("best"),
            "{report}"
        );
        assert!(report.ends_with("The drive gives 1.50 GB/s, in reads of 1 MiB, 2 at once.\n"), "{report}");
        let json = json(&source, &probed);
        assert_eq!((&json["best"]["gbps"], &json["best"]["depth"]), (&json!(1.5), &json!(2)));
        assert_eq!((json["tried"].as_array().unwrap().len(), &json["age_seconds"]), (3, &json!(7300)));
    }

    #[test]
    fn times() {
        assert_eq!((ago(1), ago(59)), ("1 second".into(), "59 seconds".into()));
        assert_eq!((ago(60), ago(7200), ago(3 * 86400)), ("1 minute".into(), "2 hours".into(), "3 days".into()));
    }
}
