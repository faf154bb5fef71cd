//! Panels of small files through small rings, on drives that fail.

use super::*;
use crate::format::Extent;
use crate::hal::{Home, Panel, Wanted};
use crate::plan::{self, Needs, Part};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Byte `i` of panel `n`.
fn byte(n: usize, i: usize) -> u8 {
    (n * 31 + i * 7 + i / 256) as u8
}

/// Bytes of panel `n`.
pub fn len(n: usize) -> usize {
    3000 + n * 517 % 2000
}

/// A file of panels with these homes (and whether only outputs use them), and its plan.
pub fn model(homes: &[(Home, bool)], slots: usize) -> (tempfile::NamedTempFile, Vec<Arc<Source>>, Plan) {
    let mut bytes = vec![];
    let (mut parts, mut panels) = (vec![], vec![]);
    for (n, &(home, outputs)) in homes.iter().enumerate() {
        let extent = Extent { source: 0, offset: bytes.len() as u64, len: len(n) as u64 };
        bytes.extend((0..len(n)).map(|i| byte(n, i)));
        parts.push(Part { unit: 0, extent, outputs, home });
        panels.push(Panel { number: n as u32, rows: n..n + 1, home });
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let sources = vec![Arc::new(Source::open(file.path()).unwrap())];
    let slot_bytes = 5000 + 2 * 4096;
    let (needs, cache) = (Needs::default(), plan::Cache::default());
    let plan = Plan {
        panels: vec![panels],
        parts,
        slots,
        slot_bytes,
        needs,
        budget: 0,
        kept: 0,
        cache,
        host: None,
        beside: false,
    };
    (file, sources, plan)
}

pub fn options(kind: &str, faults: &str) -> io::Options {
    let faults = (!faults.is_empty()).then(|| Arc::new(io::Faults::parse(faults).unwrap()));
    io::Options { kind: io::Kind::named(kind).unwrap(), depth: 3, faults }
}

/// Reads a panel and compares every byte.
pub fn take(supply: &dyn Supply, n: usize, uses: u32) -> Result<()> {
    let mut seen = 0;
    supply.panel(n as u32, uses, &mut |bytes| {
        assert!(bytes.iter().enumerate().all(|(i, &b)| b == byte(n, i)), "panel {n} has other bytes");
        seen = bytes.len();
    })?;
    assert_eq!(seen, len(n));
    Ok(())
}

pub const M: (Home, bool) = (Home::Memory, false);
pub const S: (Home, bool) = (Home::Stream, false);
pub const O: (Home, bool) = (Home::Stream, true);
const C: (Home, bool) = (Home::Cache, false);
pub const D: (Home, bool) = (Home::Drive, false);

/// Panels of a pass, in order.
pub fn streamed(homes: &[(Home, bool)], outputs: bool) -> Vec<usize> {
    let of = |o: bool| (0..homes.len()).filter(move |&n| homes[n] == (Home::Stream, o));
    of(false).chain(of(true).filter(|_| outputs)).collect()
}

#[test]
fn passes_bring_every_panel_whatever_the_ring_and_the_reader() {
    let homes = [D, M, S, O, S, M, S, S, M, O, S];
    for kind in io::KINDS.iter().map(|k| k.0) {
        for slots in [1, 2, 3, 40] {
            let (_file, sources, plan) = model(&homes, slots);
            let mut streamer = Streamer::open(&sources, &plan, &options(kind, ""), None).unwrap();
            let supply = streamer.supply();
            (0..homes.len()).filter(|&n| homes[n] == M).for_each(|n| take(&*supply, n, 1).unwrap());
            streamer.stream(&plan).unwrap();
            for outputs in [true, false, false, true, true] {
                streamer.begin(outputs);
                for n in streamed(&homes, outputs) {
                    take(&*supply, n, 2).unwrap();
                    take(&*supply, n, 2).unwrap();
                }
            }
            let mut row = [0; 10];
            supply.bytes(0, 100, &mut row).unwrap();
            assert!(row.iter().enumerate().all(|(i, &b)| b == byte(0, 100 + i)));
        }
    }
}

#[test]
fn threads_share_panels_and_take_turns() {
    let homes = [S; 30];
    let (_file, sources, plan) = model(&homes, 4);
    let mut streamer = Streamer::open(&sources, &plan, &options("auto", "delay/9,short/5,eintr/7"), None).unwrap();
    let supply = streamer.supply();
    streamer.stream(&plan).unwrap();
    for _ in 0..20 {
        streamer.begin(true);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < 3 * homes.len()) {
                        take(&*supply, i / 3, 3).unwrap();
                    }
                });
            }
        });
    }
    let counters = streamer.counters();
    let pass: usize = (0..homes.len()).map(len).sum();
    // The ring may hold panels of the next pass.
    assert!((20 * pass..=20 * pass + 4 * 5000).contains(&(counters.bytes as usize)), "{counters:?}");
}

/// Stages of three panels, each used by several tiles: a pass reads each panel once, in a ring that holds a stage and
/// one place more, also behind passes that were given up.
#[test]
fn a_panel_stays_until_the_last_tile_of_its_stage() {
    let homes = [S, M, S, S, S, M, S, S, S, S, S, O, O];
    let tiled = |supply: &dyn Supply, streamer: &Streamer, tiles: usize, until: usize| {
        streamer.begin(true);
        for stage in streamed(&homes, false).chunks(3).take(until) {
            for tile in 1..=tiles {
                streamer.again(tile < tiles);
                for &n in stage {
                    take(supply, n, 2).unwrap();
                    take(supply, n, 2).unwrap();
                }
            }
        }
        if until >= homes.len() {
            [11, 12].into_iter().for_each(|n| take(supply, n, 1).unwrap());
        }
    };
    let pass: usize = streamed(&homes, true).into_iter().map(len).sum();
    for (kind, faults) in [("auto", "delay/3,short/5"), ("pread", ""), ("pread", "eintr/5")] {
        for slots in [4, 5, 9, 30] {
            let (_file, sources, plan) = model(&homes, slots);
            let mut streamer = Streamer::open(&sources, &plan, &options(kind, faults), None).unwrap();
            lock(&streamer.shared.state).patience = Duration::from_secs(20);
            let supply = streamer.supply();
            [1, 5].into_iter().for_each(|n| take(&*supply, n, 1).unwrap());
            streamer.stream(&plan).unwrap();
            let before = streamer.counters().bytes;
            for tiles in [4, 1, 7, 2, 3] {
                tiled(&*supply, &streamer, tiles, usize::MAX);
            }
            let bytes = (streamer.counters().bytes - before) as usize;
            // The ring may hold panels of the next pass.
            assert!((5 * pass..=6 * pass).contains(&bytes), "{bytes} for 5 passes of {pass}");
            // Given up between tiles, then all of a pass again.
            for stages in 0..3 {
                tiled(&*supply, &streamer, 3, stages);
                streamer.again(true);
                take(&*supply, [0, 4, 8][stages], 1).unwrap();
                tiled(&*supply, &streamer, 2, usize::MAX);
            }
        }
    }
}

/// Each read of a short run fails once: the pass that needed it ends with an error that names the file, or all its
/// panels are right; the next pass is right.
#[test]
fn a_read_that_fails_is_the_error_of_its_pass_alone() {
    let homes = [S, M, S, S, O, S];
    let count = |fault: &str| {
        let (file, sources, plan) = model(&homes, 2);
        let opened = Streamer::open(&sources, &plan, &options("pread", fault), None);
        let mut failures = vec![];
        let mut streamer = match opened {
            Ok(streamer) => streamer,
            Err(e) => return vec![e.to_string()],
        };
        let supply = streamer.supply();
        if let Err(e) = take(&*supply, 1, 1) {
            return vec![e.to_string()];
        }
        streamer.stream(&plan).unwrap();
        for _ in 0..6 {
            streamer.begin(true);
            let pass = streamed(&homes, true).into_iter().try_for_each(|n| take(&*supply, n, 1));
            failures.extend(pass.err().map(|e| e.to_string()));
        }
        let name = file.path().display().to_string();
        assert!(failures.iter().all(|f| f.contains(&name)), "{failures:?}");
        failures
    };
    for k in 1..25 {
        let failures = count(&format!("eio@{k}"));
        assert!(failures.len() <= 1, "read {k}: {failures:?}");
        assert_eq!(count(&format!("short@{k},eagain@{},eintr@{}", k + 1, k + 3)), Vec::<String>::new());
    }
    assert!((1..25).any(|k| !count(&format!("eio@{k}")).is_empty()));
}

#[test]
fn a_pass_that_is_given_up_leaves_nothing_behind() {
    let homes = [S, S, S, S, S, O];
    for slots in [2, 3, 6, 20] {
        let (_file, sources, plan) = model(&homes, slots);
        let mut streamer = Streamer::open(&sources, &plan, &options("auto", "delay/2"), None).unwrap();
        let supply = streamer.supply();
        streamer.stream(&plan).unwrap();
        for given_up in 0..homes.len() {
            streamer.begin(true);
            streamed(&homes, true).into_iter().take(given_up).for_each(|n| take(&*supply, n, 1).unwrap());
            // One of several uses, then no more.
            take(&*supply, given_up, 2).unwrap();
            streamer.begin(given_up % 2 == 0);
            streamed(&homes, given_up % 2 == 0).into_iter().for_each(|n| take(&*supply, n, 1).unwrap());
        }
    }
}

#[test]
fn a_user_that_panics_gives_its_panel_back() {
    let homes = [S, S, S];
    let (_file, sources, plan) = model(&homes, 1);
    let mut streamer = Streamer::open(&sources, &plan, &options("auto", ""), None).unwrap();
    let supply = streamer.supply();
    streamer.stream(&plan).unwrap();
    streamer.begin(true);
    let panics = std::panic::AssertUnwindSafe(|| supply.panel(0, 1, &mut |_| panic!("told to")));
    assert!(std::panic::catch_unwind(panics).is_err());
    take(&*supply, 1, 1).unwrap();
}

#[test]
fn a_drive_that_is_silent_is_an_error_and_no_hang() {
    let (_file, sources, plan) = model(&[S, S], 1);
    let mut streamer = Streamer::open(&sources, &plan, &options("pread", ""), None).unwrap();
    lock(&streamer.shared.state).patience = Duration::from_millis(30);
    let supply = streamer.supply();
    streamer.stream(&plan).unwrap();
    streamer.begin(true);
    // The only place is held by the first panel, so the second cannot come.
    take(&*supply, 0, 2).unwrap();
    let silent = Shared::acquire(&streamer.shared, 1).map(|_| ()).unwrap_err();
    assert!(silent.to_string().contains("has not answered"), "{silent}");
}

#[test]
fn a_file_that_was_cut_short_is_an_error_that_says_so() {
    let homes = [S; 40];
    let (file, sources, plan) = model(&homes, 2);
    let mut streamer = Streamer::open(&sources, &plan, &options("auto", ""), None).unwrap();
    let supply = streamer.supply();
    streamer.stream(&plan).unwrap();
    streamer.begin(true);
    (0..homes.len()).for_each(|n| take(&*supply, n, 1).unwrap());
    file.as_file().set_len(100).unwrap();
    streamer.begin(true);
    let failed = (0..homes.len()).try_for_each(|n| take(&*supply, n, 1)).unwrap_err().to_string();
    assert!(failed.contains("truncated"), "{failed}");
}

/// Two panels that are streamed, then two parts of each of eight experts, which have room in some places.
pub fn mixture(places: usize) -> (tempfile::NamedTempFile, Vec<Arc<Source>>, Plan) {
    let mut homes = vec![M, S, S];
    homes.extend([C; 16]);
    let (file, sources, mut plan) = model(&homes, 3);
    let experts = (3..11).map(|n| vec![n, n + 8]).collect();
    plan.cache = plan::Cache { experts, places, sizes: vec![5000 + 2 * 4096; 2] };
    (file, sources, plan)
}

/// A pass that uses some experts' first parts, then a streamed panel, then their second parts; each panel three times.
fn choose(supply: &dyn Supply, experts: &[u32]) -> Result<()> {
    let uses = |n: u32| (0..3).try_for_each(|_| take(supply, n as usize, 3));
    for part in [0, 8] {
        let mut wanted: Vec<Wanted> = experts.iter().map(|e| (e + 3 + part, 100 + e)).collect();
        supply.want(&mut wanted);
        for (number, name) in wanted {
            assert_eq!(number - 3 - part + 100, name);
            uses(number)?;
        }
        uses(1 + part / 8)?;
    }
    Ok(())
}

/// The experts that a pass uses: one to all of them.
fn choice(pass: u32) -> Vec<u32> {
    let some = (0..8).filter(|e| (e * 5 + pass * 3) % 8 <= pass % 9);
    some.collect()
}

#[test]
fn wanted_experts_come_whatever_the_room_and_the_reader() {
    for kind in io::KINDS.iter().map(|k| k.0) {
        for places in 1..=8 {
            let faults = if places % 2 == 0 { "delay/9,short/5,eintr/7" } else { "" };
            let (_file, sources, plan) = mixture(places);
            let mut streamer = Streamer::open(&sources, &plan, &options(kind, faults), None).unwrap();
            let supply = streamer.supply();
            take(&*supply, 0, 1).unwrap();
            streamer.stream(&plan).unwrap();
            let mut wanted = 0;
            for pass in 0..40 {
                streamer.begin(true);
                choose(&*supply, &choice(pass)).unwrap();
                wanted += choice(pass).len() as u64;
            }
            let counters = streamer.counters();
            assert_eq!(counters.hits + counters.misses, wanted);
            assert!(places < 8 || counters.misses == 8, "what has come stays where all have room: {counters:?}");
            let each: u64 = (3..19).map(|n| len(n) as u64).sum();
            assert!(counters.missed >= each && counters.missed < counters.bytes, "{counters:?}");
            assert!(places < 8 || counters.missed == each, "{counters:?}");
        }
    }
}

#[test]
fn threads_share_experts_in_the_order_that_was_given() {
    for places in [1, 3, 8] {
        let (_file, sources, plan) = mixture(places);
        let mut streamer = Streamer::open(&sources, &plan, &options("auto", "delay/5"), None).unwrap();
        let supply = streamer.supply();
        take(&*supply, 0, 1).unwrap();
        streamer.stream(&plan).unwrap();
        for pass in 0..30 {
            streamer.begin(true);
            for part in [0, 8] {
                let mut wanted: Vec<Wanted> = choice(pass).iter().map(|e| (e + 3 + part, 0)).collect();
                supply.want(&mut wanted);
                let next = AtomicUsize::new(0);
                std::thread::scope(|scope| {
                    for _ in 0..3 {
                        scope.spawn(|| {
                            while let Some(&(n, _)) = wanted.get(next.fetch_add(1, Ordering::Relaxed) / 4) {
                                take(&*supply, n as usize, 4).unwrap();
                            }
                        });
                    }
                });
            }
        }
    }
}

/// As for streamed panels: a read that fails is the error of the pass that wanted it, and of no other. A pass may also
/// be given up between any two panels.
#[test]
fn an_expert_that_fails_comes_in_the_next_pass() {
    let mut failures = 0;
    for k in 1..40 {
        let (file, sources, plan) = mixture(2 + k % 3);
        let Ok(mut streamer) = Streamer::open(&sources, &plan, &options("pread", &format!("eio@{k}")), None) else {
            continue;
        };
        let supply = streamer.supply();
        if take(&*supply, 0, 1).is_err() {
            continue;
        }
        streamer.stream(&plan).unwrap();
        let mut failed = vec![];
        for pass in 0..12 {
            streamer.begin(true);
            failed.extend(choose(&*supply, &choice(pass)).err().map(|e| e.to_string()));
            streamer.begin(true);
            let mut wanted: Vec<Wanted> = (3..8).map(|n| (n, 0)).collect();
            supply.want(&mut wanted);
            failed.extend(take(&*supply, wanted[0].0 as usize, 2).err().map(|e| e.to_string()));
        }
        assert!(failed.len() <= 1, "read {k}: {failed:?}");
        assert!(failed.iter().all(|f| f.contains(&file.path().display().to_string())), "{failed:?}");
        failures += failed.len();
    }
    assert!(failures > 5, "{failures}");
}
