//! Memory that becomes short while a model runs: the same text at every level, what was given back comes back, and new
//! work is refused or waits.

#[path = "common/passes.rs"]
mod passes;
#[path = "common/pressure.rs"]
mod pressure;
#[path = "common/requests.rs"]
mod requests;

use air_rs::config::Size;
use air_rs::engine::{Engine, Event, Level, LoadOptions, Request, load};
use air_rs::error::Error;
use air_rs::format::{Catalogue, gguf};
use air_rs::io;
use passes::history;
use pressure::{PLENTY, SHORT, Script, reached};
use requests::{engine, greedy, ids, tokens};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Some count what the process has, so one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn scripted(model: &str, options: LoadOptions) -> (Engine, Arc<Script>) {
    let script = Arc::new(Script::new(PLENTY));
    (engine(model, LoadOptions { gauge: Some(script.clone()), ..options }), script)
}

fn kept_tokens(e: &Engine, prompt: Vec<u32>) -> u32 {
    e.submit(greedy(prompt, 3)).unwrap().text().unwrap().1.usage.kept_tokens
}

#[test]
fn kept_texts_are_dropped_and_kept_again_when_there_is_room() {
    let _alone = alone();
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
    let _alone = alone();
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

/// A model that fitted, on a machine that has no memory for a reader when weights are given back: what runs ends with
/// an error that says so, what is new is refused or waits, and the weights come as soon as there is a reader.
#[test]
fn work_that_could_not_be_done_waits_for_a_reader() {
    let _alone = alone();
    let want = ids(&Engine::load(&demo_file(), &demo(None, "auto"), &mut |_, _| ()).unwrap(), greedy(tokens(9, 1), 5));
    let script = Arc::new(Script::new(PLENTY));
    let refused: Vec<String> = (2..10_000).map(|n| format!("open@{n}")).collect();
    let faults = Some(Arc::new(io::Faults::parse(&refused.join(",")).unwrap()));
    let mut options = LoadOptions { gauge: Some(script.clone()), ..demo(None, "auto") };
    options.reader.faults = faults;
    let e = Engine::load(&demo_file(), &options, &mut |_, _| ()).unwrap();
    let mut runs = e.submit(Request { ignore_eos: true, ..greedy(tokens(9, 1), 110) }).unwrap();
    let Some(Ok(Event::Token(_))) = runs.next() else { panic!("it begins") };
    // Short for two looks: what is kept goes, and weights. Then memory is free again, but there is no reader.
    script.set(&[SHORT, SHORT, PLENTY]);
    reached(&e, Level::Panels);
    let refused = e.submit(greedy(tokens(9, 1), 5)).unwrap().text().unwrap_err();
    assert_eq!(refused.to_string(), "memory is short: there is none to read weights into; try again later");
    let ended = runs.find_map(Result::err).expect("it needs weights that cannot be read").to_string();
    assert!(ended.contains("the thread that reads weights has ended"), "{ended}");
    assert_eq!(ids(&e, Request { patient: true, ..greedy(tokens(9, 1), 5) }), want);
    reached(&e, Level::Normal);
    assert_eq!(ids(&e, greedy(tokens(9, 1), 5)), want);
}

/// One that waits for memory ends with the engine.
#[test]
fn an_engine_that_is_dropped_does_not_wait_for_memory() {
    let _alone = alone();
    let (e, script) = scripted("llama-gqa", LoadOptions::default());
    script.set(&[SHORT]);
    reached(&e, Level::Refuse);
    let waits = e.submit(Request { patient: true, ..greedy(tokens(5, 2), 3) }).unwrap();
    script.looked(5);
    drop(e);
    assert!(waits.text().is_err());
}

/// Loaded with all it wants, or with the least that works, read in several ways.
fn demo(budget: Option<u64>, kind: &str) -> LoadOptions {
    LoadOptions {
        context: Some(128),
        max_sequences: 2,
        max_rows: 24,
        ram_budget: budget.map(Size::Bytes),
        reader: io::Options { kind: io::Kind::named(kind).unwrap(), ..io::Options::default() },
        ..LoadOptions::default()
    }
}

fn demo_file() -> Catalogue {
    gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/demo.gguf")).unwrap()
}

/// A budget with which about half of the demo's weights are streamed.
fn half() -> u64 {
    let Err(Error::Limit(text)) = load(&demo_file(), &demo(Some(1), "auto"), &mut |_, _| ()) else { panic!() };
    let mib = text.split("smallest that works is ").nth(1).unwrap().split(' ').next().unwrap();
    (mib.parse::<u64>().unwrap() + 3) << 20
}

#[test]
fn weights_go_and_come_back_between_passes_and_the_bits_are_the_same() {
    let _alone = alone();
    let mut all = load(&demo_file(), &demo(None, "auto"), &mut |_, _| ()).unwrap().1;
    let want = history(&mut all, |_, _| ());
    for kind in io::KINDS.iter().map(|k| k.0) {
        for budget in [None, Some(half())] {
            let mut runner = load(&demo_file(), &demo(budget, kind), &mut |_, _| ()).unwrap().1;
            let (loaded, rows) = (runner.residence().plan.parts.clone(), runner.pass_rows());
            assert_eq!(runner.residence().plan.streams(), budget.is_some());
            let (mut given, mut taken) = (0, 0);
            for round in 0..6 {
                let seen = history(&mut runner, |runner, pass| match (round + pass) % 4 {
                    0 => given += runner.give_weights(1 << 20).unwrap(),
                    1 => runner.shrink_ring(pass % 2 == 0).unwrap(),
                    2 => given += runner.give_weights(1 << 30).unwrap(),
                    _ => taken += runner.take_weights((1 << 20) * (1 + pass as u64)).unwrap(),
                });
                assert!(seen == want, "{kind} {budget:?} {round}");
            }
            while runner.take_weights(1 << 20).unwrap() > 0 {}
            assert!(given > 3 << 20 && taken > 1 << 20, "{given} {taken}");
            runner.shrink_ring(false).unwrap();
            assert_eq!((&runner.residence().plan.parts, runner.pass_rows()), (&loaded, rows));
            assert!(history(&mut runner, |_, _| ()) == want, "{kind} {budget:?}");
        }
    }
}

#[test]
fn the_interpreter_keeps_its_weights() {
    let _alone = alone();
    let options = LoadOptions { exact: true, ..demo(None, "auto") };
    let mut runner = load(&demo_file(), &options, &mut |_, _| ()).unwrap().1;
    assert!(matches!(runner.give_weights(1), Err(Error::Unsupported { .. })));
}

/// A generation that is driven through all levels and back, again and again.
#[test]
fn a_text_is_the_same_through_all_levels() {
    let _alone = alone();
    let prompt = || greedy(tokens(30, 1), 90);
    for (budget, kind) in [(None, "auto"), (Some(half()), "auto"), (Some(half()), "pread")] {
        let want = ids(&Engine::load(&demo_file(), &demo(budget, kind), &mut |_, _| ()).unwrap(), prompt());
        let script = Arc::new(Script::new(PLENTY));
        let options = LoadOptions { gauge: Some(script.clone()), ..demo(budget, kind) };
        let e = Engine::load(&demo_file(), &options, &mut |_, _| ()).unwrap();
        let mut seen = vec![];
        for event in e.submit(prompt()).unwrap() {
            let Event::Token(token) = event.unwrap() else { break };
            seen.push(token.id);
            match seen.len() % 30 {
                3 => script.set(&[SHORT]),
                15 => script.set(&[PLENTY]),
                _ => {}
            }
            // One level after another, and the text goes on meanwhile.
            if seen.len() % 30 == 12 {
                reached(&e, Level::Refuse);
            }
        }
        assert!(seen == want, "{budget:?} {kind}");
        reached(&e, Level::Normal);
        assert_eq!(ids(&e, prompt()), want);
        let report = e.pressure();
        // Once up and once down at least; a slow machine may turn round before it is all the way back.
        assert!(report.changes >= 6 && report.highest == Level::Refuse, "{report:?}");
    }
}

/// Bytes of memory of this process.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// What is given back is much more than a count of pages that lags behind may be wrong by.
#[test]
#[cfg(target_os = "linux")]
fn memory_goes_back_to_the_system_and_nothing_leaks() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut air = std::process::Command::new(env!("CARGO_BIN_EXE_air"));
    air.env_clear().args(["synth", "tiny-llama", "--quant", "F16", "--layers", "40", "-o"]).arg(&path);
    let made = air.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut runner = load(&gguf::open(&path).unwrap(), &demo(None, "auto"), &mut |_, _| ()).unwrap().1;
    history(&mut runner, |_, _| ());
    let kept = runner.residence().plan.kept;
    let before = resident();
    let given = runner.give_weights(1 << 40).unwrap();
    runner.give_state_back();
    assert!(given > 40 << 20 && given * 10 > kept * 9, "{given} of {kept}");
    // A ring of 16 MiB has come instead.
    runner.shrink_ring(true).unwrap();
    let small = resident();
    assert!(small + given < before + (20 << 20), "{before} bytes before, {small} after {given} were given back");
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut open = 0;
    for i in 0..100 {
        runner.shrink_ring(i % 2 == 0).unwrap();
        runner.take_weights(given / 3).unwrap();
        runner.give_weights(1 << 40).unwrap();
        if i == 0 {
            open = descriptors();
        }
    }
    assert_eq!(descriptors(), open);
    runner.shrink_ring(true).unwrap();
    let end = resident();
    assert!(end < small + given / 5, "{small} bytes at first, {end} at the end");
}
