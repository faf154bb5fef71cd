//! Memory that becomes short while a model runs: the same text at every level, what was given back comes back, and new
//! work is refused or waits.

#[path = "common/pressure.rs"]
mod pressure;
#[path = "common/requests.rs"]
mod requests;

use air_rs::engine::{Engine, Event, Level, LoadOptions, Request};
use pressure::{PLENTY, SHORT, Script, reached};
use requests::{engine, greedy, ids, tokens};
use std::sync::Arc;
use std::time::Duration;

fn scripted(model: &str, options: LoadOptions) -> (Engine, Arc<Script>) {
    let script = Arc::new(Script::new(PLENTY));
    (engine(model, LoadOptions { gauge: Some(script.clone()), ..options }), script)
}

fn kept_tokens(e: &Engine, prompt: Vec<u32>) -> u32 {
    e.submit(greedy(prompt, 3)).unwrap().text().unwrap().1.usage.kept_tokens
}

#[test]
fn kept_texts_are_dropped_and_kept_again_when_there_is_room() {
    let (e, script) = scripted("llama-gqa", LoadOptions { max_sequences: 3, ..LoadOptions::default() });
    assert_eq!((kept_tokens(&e, tokens(40, 1)), kept_tokens(&e, tokens(40, 1))), (0, 39));
    // Short for a moment, while nothing runs.
    script.set(&[SHORT, PLENTY, SHORT]);
    script.looked(3);
    script.set(&[PLENTY]);
    reached(&e, Level::Normal);
    assert_eq!((kept_tokens(&e, tokens(40, 1)), kept_tokens(&e, tokens(40, 1))), (0, 39));
    let report = e.pressure();
    assert!(report.highest > Level::Normal && report.changes >= 2, "{report:?}");
}

#[test]
fn new_work_is_refused_or_waits_and_what_runs_goes_on() {
    let (e, script) = scripted("llama-gqa", LoadOptions { max_sequences: 3, ..LoadOptions::default() });
    let want = ids(&e, greedy(tokens(9, 1), 200));
    let mut runs = e.submit(greedy(tokens(9, 1), 200)).unwrap();
    let Some(Ok(Event::Token(first))) = runs.next() else { panic!("it begins") };
    script.set(&[SHORT]);
    reached(&e, Level::Refuse);
    let refused = e.submit(greedy(tokens(5, 2), 3)).unwrap().text().unwrap_err().to_string();
    assert_eq!(refused, "memory is short: 0 MiB are free; try again later");
    let mut waits = e.together();
    waits.submit(Request { patient: true, ..greedy(tokens(5, 2), 3) }, 7).unwrap();
    let rest: Vec<u32> =
        runs.filter_map(|event| if let Event::Token(t) = event.unwrap() { Some(t.id) } else { None }).collect();
    assert!(first.id == want[0] && rest == want[1..]);
    script.looked(20);
    assert!(waits.next_within(Duration::ZERO).unwrap().is_none(), "it waits");
    script.set(&[PLENTY]);
    let mut heard = 0;
    while waits.running() > 0 {
        heard += waits.next_within(Duration::from_secs(1)).unwrap().map_or(0, |(_, event)| event.map(|_| 1).unwrap());
    }
    assert_eq!(heard, 4, "three tokens and the end");
    reached(&e, Level::Normal);
    assert_eq!(ids(&e, greedy(tokens(9, 1), 200)), want);
}

/// One that waits for memory ends with the engine.
#[test]
fn an_engine_that_is_dropped_does_not_wait_for_memory() {
    let (e, script) = scripted("llama-gqa", LoadOptions::default());
    script.set(&[SHORT]);
    reached(&e, Level::Refuse);
    let waits = e.submit(Request { patient: true, ..greedy(tokens(5, 2), 3) }).unwrap();
    script.looked(5);
    drop(e);
    assert!(waits.text().is_err());
}
