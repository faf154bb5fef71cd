//! The choice among figures, what is remembered, and a true file.

use super::*;
use crate::error::Error;
use crate::io::{Faults, Kind};
use std::path::Path;
use tempfile::tempdir;

fn drive(block: usize, depth: usize, rate: f64) -> Drive {
    Drive { rate, block, depth }
}

#[test]
fn the_least_of_the_fastest_is_chosen() {
    let (k256, m1, m4) = (256 << 10, 1 << 20, 4 << 20);
    assert_eq!(best(&[]), None);
    let deep_is_slow = [drive(m1, 1, 1.2e9), drive(m1, 2, 1.5e9), drive(m1, 4, 1.52e9), drive(m1, 32, 1.1e9)];
    assert_eq!(best(&deep_is_slow).unwrap(), deep_is_slow[1]);
    let deep_is_fast = [drive(m1, 1, 2e9), drive(m1, 4, 6e9), drive(m1, 16, 7e9), drive(m1, 32, 7.1e9)];
    assert_eq!(best(&deep_is_fast).unwrap(), deep_is_fast[2]);
    let blocks = [drive(k256, 2, 1.51e9), drive(m1, 2, 1.5e9), drive(m4, 2, 1.52e9)];
    assert_eq!(best(&blocks).unwrap(), blocks[1], "1 MiB where it is as fast");
    let large = [drive(k256, 2, 1.0e9), drive(m1, 2, 1.5e9), drive(m4, 2, 1.7e9)];
    assert_eq!(best(&large).unwrap(), large[2]);
}

#[test]
fn one_burst_does_not_count() {
    assert_eq!(second_best(&[3.0, 9.0, 2.0, 4.0]), 4.0);
    assert_eq!(second_best(&[2.0, 1.0]), 1.0);
    assert_eq!(second_best(&[7.0]), 7.0);
}

#[test]
fn what_says_nothing_about_a_drive_is_not_measured() {
    let small = Arc::new(Source::open(Path::new("Cargo.toml")).unwrap());
    let memory = Arc::new(Source::embedded("memory", vec![0; SMALLEST as usize]));
    for source in [small, memory] {
        assert!(probe(&source, &Options::default(), false).unwrap().is_none());
    }
}

#[test]
fn what_was_found_is_remembered_until_it_is_old_or_damaged() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("air/drive.json");
    let cache = Cache::at(path.clone());
    assert!(cache.get("a").is_none());
    let (a, b) = ([drive(1 << 20, 2, 1.5e9), drive(1 << 18, 1, 1e9)], [drive(1 << 22, 32, 7e9)]);
    cache.put("a", &a);
    cache.put("b", &b);
    let found = |key| cache.get(key).map(|found| found.0);
    assert_eq!((found("a").unwrap(), found("b").unwrap(), found("c")), (a.to_vec(), b.to_vec(), None));
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing lies around");
    let good = std::fs::read_to_string(&path).unwrap();
    cache.forget("c");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), good);
    cache.forget("a");
    assert!(found("a").is_none() && found("b").is_some());
    cache.put("a", &a);
    let then = |seconds: i64| {
        let mut whole: serde_json::Value = serde_json::from_str(&good).unwrap();
        let at = whole["drives"]["a"]["at"].as_i64().unwrap();
        whole["drives"]["a"]["at"] = (at - seconds).into();
        std::fs::write(&path, whole.to_string()).unwrap();
        cache.get("a").map(|found| found.1.as_secs())
    };
    assert!(then(6 * 86400).is_some_and(|age| age >= 6 * 86400));
    assert!(then(8 * 86400).is_none() && then(-86400).is_none());
    for (from, to) in [
        ("\"depth\": 2", "\"depth\": 0"),
        ("1048576", "1048577"),
        ("\"version\": 1", "\"version\": 0"),
        ("1500000000", "-1"),
        ("\"at\"", "\"as\""),
        ("{", "["),
        ("\"tried\"", "\"t\""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        std::fs::write(&path, bad).unwrap();
        assert!(cache.get("a").is_none(), "{from} -> {to}");
    }
    std::fs::write(&path, b"\xff\x00nonsense").unwrap();
    assert!(cache.get("b").is_none());
    cache.put("b", &b);
    assert_eq!(found("b").unwrap(), b, "a damaged file is replaced");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    cache.put("b", &b);
    assert!(cache.get("b").is_none());
}

#[test]
fn a_file_is_probed_once() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    // No blocks on the drive: reads cost little, and the figures mean nothing here.
    std::fs::File::create(&path).unwrap().set_len(SMALLEST + 4321).unwrap();
    let source = Arc::new(Source::open(&path).unwrap());
    let cache = Cache::at(folder.path().join("cache/drive.json"));
    let options = Options { kind: Kind::Pread, ..Options::default() };
    let run = |fresh| probe_with(&source, &options, fresh, Some(&cache)).unwrap().unwrap();
    let first = run(false);
    assert!(first.age.is_none() && first.reader.starts_with("pread, "), "{first:?}");
    assert!(first.tried.len() >= DEPTHS.len() && first.tried.contains(&first.best));
    assert!(first.tried.iter().all(|d| d.rate > 0.0 && d.block * d.depth <= MOST_MEMORY));
    let again = run(false);
    assert!(again.age.is_some());
    assert_eq!((&again.tried, again.best, &again.reader), (&first.tried, first.best, &first.reader));
    assert!(run(true).age.is_none());
    let other = Options { kind: Kind::Mmap, ..Options::default() };
    assert!(probe_with(&source, &other, false, Some(&cache)).unwrap().unwrap().age.is_none(), "another reader");
    let faulty = Options { faults: Some(Arc::new(Faults::parse("eio@40").unwrap())), ..options.clone() };
    let error = probe_with(&source, &faulty, true, None).unwrap_err();
    assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains("os error 5"), "{error}");
}
