//! Models that are larger than their memory: the same bits as resident ones, on every reader and on drives that fail.

#[path = "common/passes.rs"]
mod passes;

use air_rs::config::Size;
use air_rs::engine::{Chunk, Engine, Event, FinishReason, LoadOptions, Outputs, Request, Runner, load};
use air_rs::error::Error;
use air_rs::format::{Catalogue, gguf};
use air_rs::io;
use air_rs::sample::Params;
use passes::history;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Budgets count what the process has, so one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn catalogue() -> Catalogue {
    gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/demo.gguf")).unwrap()
}

/// A mixture of experts of a synthetic shape.
fn mixture(shape: &str, quant: &str, layers: usize) -> Catalogue {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixture.gguf");
    let mut air = Command::new(env!("CARGO_BIN_EXE_air"));
    air.env_clear().args(["synth", shape, "--quant", quant, "--layers", &layers.to_string(), "-o"]).arg(&path);
    let made = air.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // An open file outlives its folder.
    gguf::open(&path).unwrap()
}

fn options(budget: Option<u64>, kind: &str, faults: &str) -> LoadOptions {
    let faults = (!faults.is_empty()).then(|| Arc::new(io::Faults::parse(faults).unwrap()));
    LoadOptions {
        context: Some(128),
        max_sequences: 2,
        max_rows: 24,
        ram_budget: budget.map(Size::Bytes),
        reader: io::Options { kind: io::Kind::named(kind).unwrap(), faults, ..io::Options::default() },
        ..LoadOptions::default()
    }
}

/// The smallest budget that works now, in bytes, as the refusal of a smaller one names it.
fn smallest(catalogue: &Catalogue) -> u64 {
    let Err(Error::Limit(text)) = load(catalogue, &options(Some(1), "auto", ""), &mut |_, _| ()) else {
        panic!("a byte was enough")
    };
    let mib = text.split("smallest that works is ").nth(1).unwrap().split(' ').next().unwrap();
    // The process itself grows a little between one load and the next.
    (mib.parse::<u64>().unwrap() + 1) << 20
}

fn bits(runner: &mut Runner) -> Vec<u32> {
    runner.logits().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn streamed_weights_give_the_bits_of_resident_ones() {
    let _alone = alone();
    let mut resident = load(&catalogue(), &options(None, "auto", ""), &mut |_, _| ()).unwrap().1;
    assert!(!resident.residence().plan.streams());
    let want = history(&mut resident, |_, _| ());
    for kind in io::KINDS.iter().map(|k| k.0) {
        for (more, faults) in [(0, ""), (1, "delay/7,short/5,eagain/6,eintr/6,seed=3"), (1, "no-direct")] {
            let options = options(Some(smallest(&catalogue()) + (more << 20)), kind, faults);
            let mut runner = load(&catalogue(), &options, &mut |_, _| ()).unwrap().1;
            assert!(runner.residence().plan.streamed() > 0, "{more}");
            assert!(history(&mut runner, |_, _| ()) == want, "{kind} {faults}");
            let counters = runner.stream().counters();
            assert!(counters.bytes > 4 * runner.residence().plan.streamed(), "{counters:?}");
        }
    }
}

/// A pass of several tiles has the bits of as many passes, and reads what is streamed once.
#[test]
fn a_long_prompt_reads_the_weights_once() {
    let _alone = alone();
    let tokens: Vec<u32> = (0..100).map(|i| 3 + i * 7 % 60).collect();
    let (a, b) = (&tokens[..90], &tokens[20..100]);
    for catalogue in [catalogue(), mixture("tiny-qwen3moe", "Q8_0", 4)] {
        let want = {
            let mut resident = load(&catalogue, &options(None, "auto", ""), &mut |_, _| ()).unwrap().1;
            assert_eq!(resident.pass_rows(), 24, "nothing is streamed");
            let mut read = |text: &[u32]| {
                let seq = resident.kv().create();
                for tokens in text.chunks(24) {
                    resident.run([Chunk { seq, tokens, outputs: Outputs::Last }]).unwrap();
                }
                bits(&mut resident)
            };
            [read(a), read(b)].concat()
        };
        for kind in io::KINDS.iter().map(|k| k.0) {
            let options = options(Some(smallest(&catalogue) + (1 << 20)), kind, "delay/9,short/7");
            let mut runner = load(&catalogue, &options, &mut |_, _| ()).unwrap().1;
            let plan = &runner.residence().plan;
            assert!(
                runner.pass_rows() >= 170 && plan.holds_stages(plan.slots, &runner.residence().units),
                "{}",
                plan.slots
            );
            let (streamed, dense) = (plan.streamed(), plan.cache.experts.is_empty());
            let before = runner.stream().counters().bytes;
            for _ in 0..4 {
                let (first, second) = (runner.kv().create(), runner.kv().create());
                // Both prompts end in this pass, in different tiles.
                let chunk = |(seq, tokens)| Chunk { seq, tokens, outputs: Outputs::Last };
                runner.run([(first, a), (second, b)].map(chunk)).unwrap();
                assert!(bits(&mut runner) == want, "{kind}");
                [first, second].into_iter().for_each(|seq| runner.kv().release(seq));
            }
            let bytes = runner.stream().counters().bytes - before;
            // The next pass may have been read ahead, or the first of these before.
            assert!(!dense || (3 * streamed..=5 * streamed).contains(&bytes), "{bytes} for 4 passes of {streamed}");
        }
    }
}

/// A pass that is given up between two tiles leaves the sequences as they were, and the next one is right.
#[test]
fn a_long_pass_can_be_given_up() {
    let _alone = alone();
    let tokens: Vec<u32> = (0..100).map(|i| 3 + i * 7 % 60).collect();
    let mut runner = load(&catalogue(), &options(Some(smallest(&catalogue())), "auto", ""), &mut |_, _| ()).unwrap().1;
    let seq = runner.kv().create();
    let chunk = Chunk { seq, tokens: &tokens, outputs: Outputs::Last };
    let mut launches = (0, 0);
    let watch = &mut |done, all| {
        launches = (done, all);
        Ok(())
    };
    runner.run_watched([chunk], watch).unwrap();
    let want = bits(&mut runner);
    // Embedding and head run whole, the layers in five tiles.
    assert!(launches.0 + 1 == launches.1 && launches.1 > 5 && launches.1 % 5 == 2, "{launches:?}");
    for stop in 1..launches.1 {
        runner.kv().restore(seq, 0).unwrap();
        let given_up =
            runner.run_watched([chunk], &mut |done, _| if done < stop { Ok(()) } else { Err(Error::Cancelled) });
        assert!(matches!(given_up, Err(Error::Cancelled)) && runner.kv().len(seq) == 0, "{stop}");
        runner.run([chunk]).unwrap();
        assert!(bits(&mut runner) == want, "{stop}");
    }
}

/// A long prompt says how far it is, if it is asked to, and one that is cancelled ends within its pass; the next
/// request is answered as ever.
#[test]
fn a_long_prompt_says_how_far_it_is_and_can_be_cancelled() {
    let _alone = alone();
    let start =
        || Engine::load(&catalogue(), &options(Some(smallest(&catalogue())), "auto", ""), &mut |_, _| ()).unwrap();
    let asked = |step: u32, progress| Request {
        prompt: (0..100).map(|i| 3 + i * step % 60).collect(),
        max_tokens: 5,
        ignore_eos: true,
        sampling: Params { temperature: 0.0, ..Params::default() },
        progress,
        ..Request::default()
    };
    let request = |progress| asked(7, progress);
    let engine = start();
    let (text, end) = engine.submit(request(false)).unwrap().text().unwrap();
    assert_eq!(end.usage.generated_tokens, 5);
    let engine = start();
    // Whether the pass had not ended before it was cancelled.
    let cancelled = |step: u32| {
        let generation = engine.submit(asked(step, true)).unwrap();
        let flag = generation.cancel_flag();
        let mut tokens = 0;
        for event in generation {
            match event.unwrap() {
                Event::Prompt(reading) => {
                    assert!(reading.all == 100 && reading.read < 100);
                    flag.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                Event::Token(_) => tokens += 1,
                Event::Read(_) => {}
                Event::Finished(end) => assert_eq!(end.reason, FinishReason::Cancelled),
            }
        }
        tokens == 0
    };
    assert!((8..40).any(cancelled));
    let all: Vec<Event> = engine.submit(request(true)).unwrap().map(Result::unwrap).collect();
    let read: Vec<u32> =
        all.iter().filter_map(|e| if let Event::Prompt(r) = e { Some(r.read) } else { None }).collect();
    assert!(!read.is_empty() && read.is_sorted() && *read.last().unwrap() > 90, "{read:?}");
    let (again, end) = engine.submit(request(false)).unwrap().text().unwrap();
    assert!(again == text && end.usage.kept_tokens == 99, "{}", end.usage.kept_tokens);
}

/// With room for any number of experts, down to where a batch wants more of them than there is room for.
#[test]
fn cached_experts_give_the_bits_of_resident_ones() {
    let _alone = alone();
    for (shape, quant, layers) in [("tiny-qwen3moe", "Q4_K_M", 24), ("tiny-mixtral", "F16", 6)] {
        let catalogue = mixture(shape, quant, layers);
        let want = history(&mut load(&catalogue, &options(None, "auto", ""), &mut |_, _| ()).unwrap().1, |_, _| ());
        let run = |more: u64, kind: &str, faults: &str| {
            let options = options(Some(smallest(&catalogue) + (more << 20)), kind, faults);
            let mut runner = load(&catalogue, &options, &mut |_, _| ()).unwrap().1;
            let cache = &runner.residence().plan.cache;
            let (places, experts) = (cache.places, cache.experts.len());
            assert!(history(&mut runner, |_, _| ()) == want, "{shape} {more} {kind} {faults}");
            let counters = runner.stream().counters();
            assert!(experts == 0 || counters.hits + counters.misses > 0, "{counters:?}");
            assert!(counters.missed > 0 || experts == 0, "{counters:?}");
            (places, experts)
        };
        let sizes: Vec<(usize, usize)> = (0..).map(|more| run(more, "auto", "")).take_while(|s| s.1 > 0).collect();
        assert!(sizes.len() > 2 && sizes[0].0 < sizes[0].1, "{shape}: {sizes:?}");
        for kind in io::KINDS.iter().map(|k| k.0) {
            for faults in ["delay/7,short/5,eagain/6,eintr/6,seed=3", "no-direct"] {
                assert!(run(0, kind, faults).1 > 0);
            }
        }
    }
}

/// Single tokens guess what a layer will want before it attends. The guesses are of that layer: nearly all are right,
/// where attention adds as little to the rows as random weights do.
#[test]
fn experts_that_were_guessed_are_used() {
    let _alone = alone();
    let catalogue = mixture("tiny-qwen3moe", "Q8_0", 24);
    let decode = |runner: &mut Runner, passes: u32| {
        let seq = runner.kv().create();
        let mut seen = vec![];
        for token in 0..passes {
            let tokens = &[3 + token * 5 % 60];
            runner.run([Chunk { seq, tokens, outputs: Outputs::Last }]).unwrap();
            seen.extend(bits(runner));
        }
        runner.kv().release(seq);
        seen
    };
    let want = decode(&mut load(&catalogue, &options(None, "auto", ""), &mut |_, _| ()).unwrap().1, 60);
    let mut runner = load(&catalogue, &options(Some(smallest(&catalogue)), "auto", ""), &mut |_, _| ()).unwrap().1;
    let cache = &runner.residence().plan.cache;
    assert!(cache.places < cache.experts.len());
    // Whether there is time for reads on a guess is the machine's affair; over so many passes there is some.
    let tried = (0..50).find(|_| {
        assert!(decode(&mut runner, 60) == want);
        runner.stream().counters().foreseen >= 100
    });
    let counters = runner.stream().counters();
    assert!(tried.is_some(), "nothing is guessed: {counters:?}");
    assert!(counters.foreseen_used * 10 >= counters.foreseen * 6, "{counters:?}");
    assert!(counters.read_for_nothing < counters.missed / 2, "{counters:?}");
    // Prompts do not guess.
    let before = runner.stream().counters();
    let (seq, tokens) = (runner.kv().create(), [5; 24]);
    runner.run([Chunk { seq, tokens: &tokens, outputs: Outputs::None }]).unwrap();
    assert_eq!(runner.stream().counters().foreseen, before.foreseen);
}

/// The bytes of the embedded model take the same way.
#[test]
fn a_model_in_memory_can_be_streamed_too() {
    let _alone = alone();
    let demo = air_rs::engine::demo().unwrap();
    let want = history(&mut load(&demo, &options(None, "auto", ""), &mut |_, _| ()).unwrap().1, |_, _| ());
    let mut streamed = load(&demo, &options(Some(smallest(&demo)), "auto", ""), &mut |_, _| ()).unwrap().1;
    assert!(streamed.residence().plan.streams() && history(&mut streamed, |_, _| ()) == want);
}

/// Each read fails, alone or with the 200 after it: loading or the request ends with an error that names the file, or
/// the text is the right one, and the engine goes on.
#[test]
fn a_drive_that_fails_once_never_gives_wrong_text() {
    let _alone = alone();
    let sampling = Params { temperature: 0.0, ..Params::default() };
    let request = || Request {
        prompt: vec![5, 9, 12, 30],
        max_tokens: 3,
        ignore_eos: true,
        sampling: sampling.clone(),
        ..Request::default()
    };
    let answer = |engine: &Engine| -> Result<Vec<u32>, Error> {
        let mut ids = vec![];
        for event in engine.submit(request()).unwrap() {
            if let Event::Token(token) = event? {
                ids.push(token.id);
            }
        }
        Ok(ids)
    };
    for (catalogue, name, step) in [(catalogue(), "demo.gguf", 3), (mixture("tiny-qwen3moe", "Q8_0", 4), "mixture", 7)]
    {
        // The process grows from load to load, so the budget does.
        let start = |faults: &str| {
            let budget = smallest(&catalogue);
            Engine::load(&catalogue, &options(Some(budget), "auto", faults), &mut |_, _| ())
        };
        let want = answer(&start("").unwrap()).unwrap();
        let (mut failed_loads, mut failed_requests) = (0, 0);
        for call in (1..150).step_by(step) {
            let row: Vec<String> = (call..call + 200).map(|n| format!("eio@{n}")).collect();
            for faults in [row[0].clone(), row.join(",")] {
                let engine = match start(&faults) {
                    Ok(engine) => engine,
                    Err(e) => {
                        assert!(e.to_string().contains(name), "{e}");
                        failed_loads += 1;
                        continue;
                    }
                };
                for _ in 0..2 {
                    match answer(&engine) {
                        Ok(ids) => assert_eq!(ids, want, "call {call}"),
                        Err(e) => {
                            assert!(e.to_string().contains(name), "{e}");
                            failed_requests += 1;
                        }
                    }
                }
            }
        }
        assert!(failed_loads > 0 && failed_requests > 0, "{name}: {failed_loads} {failed_requests}");
    }
}

#[test]
fn the_interpreter_needs_all_its_memory() {
    let _alone = alone();
    let options = LoadOptions { exact: true, ..options(Some(smallest(&catalogue())), "auto", "") };
    let refused = load(&catalogue(), &options, &mut |_, _| ()).err().unwrap().to_string();
    assert!(refused.contains("cannot be streamed here"), "{refused}");
}
