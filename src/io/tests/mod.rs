//! Every reader: the very bytes of the file or a named error, whatever the drive does.

mod system;

use super::*;
use crate::error::Error;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir_in};

/// Bytes of the slots.
const SLOT: usize = 64 << 10;

/// A folder on a real drive where there is one: beside the test program, not in memory.
fn folder() -> TempDir {
    tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

/// Bytes that repeat nowhere near.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 23) as u8).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// A file of some bytes that is not a multiple of anything, and its source.
fn file(folder: &TempDir, len: usize) -> (PathBuf, Vec<u8>, Arc<Source>) {
    let (path, bytes) = (folder.path().join("file"), pattern(len));
    write(&path, &bytes);
    let source = Source::open(&path).unwrap();
    (path, bytes, Arc::new(source))
}

fn faults(text: &str) -> Option<Arc<Faults>> {
    Some(Arc::new(Faults::parse(text).unwrap()))
}

/// All readers that this machine allows.
fn kinds() -> Vec<Kind> {
    let all = KINDS.iter().map(|row| row.1);
    all.filter(|&kind| kind != Kind::Uring || system::has_uring()).collect()
}

/// Reads with all slots; results by tag, in the order of the tags.
fn read_all(reader: &mut dyn Reader, slots: Vec<Arc<Slot>>, reads: &[Read]) -> Vec<Result<Vec<u8>>> {
    let mut free = slots;
    let mut results = HashMap::new();
    let mut next = reads.iter().enumerate();
    loop {
        while let Some(slot) = free.pop() {
            let Some((i, read)) = next.next() else { break };
            reader.submit(Read { tag: i as u64, ..*read }, slot);
        }
        if reader.in_flight() == 0 {
            break;
        }
        let done = reader.wait();
        let len = reads[done.tag as usize].len;
        let bytes = done.result.map(|()| done.slot.bytes()[done.start..done.start + len].to_vec());
        assert!(results.insert(done.tag, bytes).is_none(), "each read ends once");
        free.push(done.slot);
    }
    assert_eq!(results.len(), reads.len());
    (0..reads.len() as u64).map(|tag| results.remove(&tag).unwrap()).collect()
}

/// Opens a reader for sources and reads.
fn run(sources: &[Arc<Source>], options: &Options, reads: &[Read]) -> Vec<Result<Vec<u8>>> {
    let slots = slots(6, SLOT).unwrap();
    let mut reader = open(sources, &slots, options).unwrap().reader;
    read_all(reader.as_mut(), slots, reads)
}

/// Reads of all kinds: the whole, tails, single bytes, none, and some by chance.
fn reads(len: usize) -> Vec<Read> {
    let most = SLOT - 2 * ALIGN;
    let at = |offset: usize, len: usize| Read { source: 0, offset: offset as u64, len, tag: 0 };
    let mut reads: Vec<Read> = (0..len).step_by(most).map(|offset| at(offset, most.min(len - offset))).collect();
    reads.extend([at(0, 1), at(len - 1, 1), at(4095, 2), at(4096, 4096), at(len - 5000, 5000), at(7, 0), at(len, 0)]);
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for _ in 0..60 {
        let offset = random(len);
        reads.push(at(offset, random(most.min(len - offset)) + 1));
    }
    reads
}

fn is(wanted: &[u8], read: &Read, got: &Result<Vec<u8>>) -> bool {
    let offset = read.offset as usize;
    got.as_ref().is_ok_and(|got| *got == wanted[offset..offset + read.len])
}

#[test]
fn every_reader_gives_the_very_bytes_of_files_and_of_memory() {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 700_001);
    let memory = Arc::new(Source::embedded("memory", bytes.clone()));
    let mut reads = reads(bytes.len());
    reads.extend(reads.clone().iter().map(|read| Read { source: 1, ..*read }));
    for kind in kinds() {
        for (depth, faults) in [(1, None), (3, None), (9, None), (2, faults("no-direct"))] {
            let options = Options { kind, depth, faults };
            let results = run(&[Arc::clone(&source), Arc::clone(&memory)], &options, &reads);
            for (read, got) in reads.iter().zip(&results) {
                assert!(is(&bytes, read, got), "{kind:?}, {depth} at once: {read:?} {:?}", got.as_ref().err());
            }
        }
    }
}

#[test]
fn faults_at_every_call_bring_the_bytes_or_an_error_that_names_the_place() {
    let folder = folder();
    let (path, bytes, source) = file(&folder, 300_001);
    let reads: Vec<Read> = reads(bytes.len()).into_iter().take(8).collect();
    for kind in kinds() {
        for fault in ["eio", "eagain", "eintr", "short", "delay"] {
            let mut k = 1;
            loop {
                let faults = faults(&format!("{fault}@{k},seed={k}"));
                let options = Options { kind, depth: 3, faults: faults.clone() };
                let results = run(&[Arc::clone(&source)], &options, &reads);
                let mut failed = 0;
                for (read, got) in reads.iter().zip(&results) {
                    match got {
                        Err(Error::Io { file, problem }) if fault == "eio" => {
                            assert_eq!(*file, path.display().to_string());
                            let named = format!("cannot read {} bytes at {}: ", read.len, read.offset);
                            assert!(problem.starts_with(&named) && problem.contains("os error 5"), "{problem}");
                            failed += 1;
                        }
                        got => assert!(is(&bytes, read, got), "{kind:?} {fault}@{k}: {read:?} {got:?}"),
                    }
                }
                let calls = faults.unwrap().calls();
                assert_eq!(failed, usize::from(fault == "eio" && k <= calls), "{kind:?} {fault}@{k} of {calls}");
                if k > calls {
                    assert!(calls >= 7, "{kind:?}: {calls} calls are not all that there were");
                    break;
                }
                k += 1;
            }
        }
    }
}

#[test]
fn a_drive_that_often_misbehaves_still_gives_the_bytes() {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 500_003);
    let reads = reads(bytes.len());
    for kind in kinds() {
        for seed in 0..5 {
            // Which read meets a fault depends on the order of answers; one page in 400,000 meets sixteen on end.
            let faults = faults(&format!("short/4,eintr/6,eagain/9,seed={seed}"));
            let results = run(&[Arc::clone(&source)], &Options { kind, depth: 4, faults }, &reads);
            for (read, got) in reads.iter().zip(&results) {
                assert!(is(&bytes, read, got), "{kind:?}, seed {seed}: {read:?} {:?}", got.as_ref().err());
            }
        }
    }
}

#[test]
fn refusals_without_end_are_given_up() {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 100_000);
    for kind in kinds() {
        for (fault, named) in [("eagain/1", "os error 11"), ("eintr/1", "os error 4"), ("short/1", "no more bytes")] {
            let read = Read { source: 0, offset: 1, len: 4000, tag: 0 };
            let options = Options { kind, depth: 2, faults: faults(fault) };
            let got = run(&[Arc::clone(&source)], &options, &[read]).remove(0);
            let text = got.unwrap_err().to_string();
            assert!(text.contains(named) && text.contains("16 tries"), "{kind:?} {fault}: {text}");
        }
    }
    assert_eq!(bytes.len(), 100_000);
}

#[test]
fn what_leaves_the_file_is_refused_by_name() {
    let folder = folder();
    let (path, _, source) = file(&folder, 10_000);
    let reads = [(9_999, 2), (u64::MAX, 1), (10_001, 0), (0, 10_001)];
    let reads = reads.map(|(offset, len)| Read { source: 0, offset, len, tag: 0 });
    for kind in kinds() {
        let results = run(&[Arc::clone(&source)], &Options { kind, ..Options::default() }, &reads);
        for (read, got) in reads.iter().zip(results) {
            let text = got.unwrap_err().to_string();
            let start = format!("{}: cannot read {} bytes at {}: ", path.display(), read.len, read.offset);
            assert_eq!(text, start + "the file has 10000 bytes");
        }
    }
}

#[test]
fn a_file_that_is_truncated_while_in_use_is_an_error_and_one_that_is_replaced_is_still_read() {
    for kind in kinds() {
        let folder = folder();
        let (path, bytes, source) = file(&folder, 200_000);
        let slots = slots(3, SLOT).unwrap();
        let mut reader = open(&[source], &slots, &Options { kind, ..Options::default() }).unwrap().reader;
        let read = |offset, len| Read { source: 0, offset, len, tag: 0 };
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        write(&path, &vec![0; 200_000]);
        let got = read_all(reader.as_mut(), slots, &[read(5, 50_000), read(150_000, 50_000)]);
        assert!(is(&bytes, &read(5, 50_000), &got[0]) && is(&bytes, &read(150_000, 50_000), &got[1]));
        let old = File::options().write(true).open(folder.path().join("old")).unwrap();
        std::fs::remove_file(folder.path().join("old")).unwrap();
        for len in [120_001, 4096 * 20, 4096] {
            old.set_len(len).unwrap();
            let slots = super::slots(3, SLOT).unwrap();
            let reads = [read(len - 1000, 1000), read(len - 1000, 1001), read(130_000, 3), read(len - 1000, 30_000)];
            let got = read_all(reader.as_mut(), slots, &reads);
            assert!(is(&bytes, &reads[0], &got[0]), "{kind:?}: what is there is read: {:?}", got[0].as_ref().err());
            for (read, got) in reads.iter().zip(&got).skip(1) {
                let text = got.as_ref().unwrap_err().to_string();
                let wanted = format!("truncated while in use: it had 200000 bytes, now it has {len}");
                assert!(text.ends_with(&wanted) && text.contains(&format!("at {}", read.offset)), "{kind:?}: {text}");
            }
        }
    }
}

#[test]
fn dropping_a_reader_waits_for_its_reads() {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 200_000);
    for kind in kinds() {
        for depth in [1, 2, 6] {
            let slots = slots(6, SLOT).unwrap();
            let options = Options { kind, depth, faults: faults("delay/1") };
            let mut reader = open(&[Arc::clone(&source)], &slots, &options).unwrap().reader;
            for (i, slot) in slots.into_iter().enumerate() {
                reader.submit(Read { source: 0, offset: i as u64 * 30_000, len: 30_000, tag: i as u64 }, slot);
            }
            let first = reader.wait();
            drop(reader);
            let from = first.tag as usize * 30_000;
            assert!(first.slot.bytes()[first.start..first.start + 30_000] == bytes[from..from + 30_000]);
        }
    }
}

#[test]
fn a_stalled_drive_does_not_hold_its_caller() {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 10_000);
    let slot = slots(1, SLOT).unwrap().remove(0);
    let options = Options { kind: Kind::Pread, depth: 1, faults: faults("stall@1") };
    let mut reader = open(&[source], &[], &options).unwrap().reader;
    reader.submit(Read { source: 0, offset: 0, len: 10_000, tag: 7 }, slot);
    assert!(reader.wait_for(Duration::from_millis(1)).is_none() && reader.in_flight() == 1);
    let done = reader.wait();
    assert!(done.slot.bytes()[..10_000] == bytes && done.tag == 7 && reader.in_flight() == 0);
}

#[test]
#[should_panic(expected = "one owner")]
fn a_slot_that_somebody_sees_is_not_filled() {
    let slot = slots(1, SLOT).unwrap().remove(0);
    let memory = Arc::new(Source::embedded("memory", vec![0; 10]));
    let mut reader = open(&[memory], &[], &Options::default()).unwrap().reader;
    reader.submit(Read { source: 0, offset: 0, len: 1, tag: 0 }, Arc::clone(&slot));
}

#[test]
#[should_panic(expected = "too small")]
fn a_slot_must_have_two_pages_more_than_the_read() {
    let slot = slots(1, 3 * ALIGN).unwrap().remove(0);
    let memory = Arc::new(Source::embedded("memory", vec![0; 10_000]));
    let mut reader = open(&[memory], &[], &Options::default()).unwrap().reader;
    reader.submit(Read { source: 0, offset: 0, len: ALIGN + 1, tag: 0 }, slot);
}

#[test]
fn rows_are_read_from_several_threads() {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 400_001);
    let memory = Arc::new(Source::embedded("memory", bytes.clone()));
    let sources = [source, memory];
    for faults in [None, faults("short/3,eintr/4,seed=2"), faults("no-direct")] {
        let options = Options { faults, ..Options::default() };
        let (rows, _) = RowReader::open(&sources, &options).unwrap();
        std::thread::scope(|scope| {
            for t in 0..4usize {
                let (rows, bytes) = (&rows, &bytes);
                scope.spawn(move || {
                    for (i, len) in [1usize, 34, 4096, 70_000, 200_000, 0].into_iter().enumerate() {
                        let offset = t * 50_001 + i;
                        let mut out = vec![0; len];
                        rows.read(t % 2, offset as u64, &mut out).unwrap();
                        assert!(out == bytes[offset..offset + len]);
                    }
                });
            }
        });
        assert!(rows.read(0, 400_000, &mut [0; 2]).unwrap_err().to_string().contains("the file has 400001 bytes"));
    }
    let options = Options { faults: faults("eio@1"), ..Options::default() };
    let (rows, _) = RowReader::open(&sources, &options).unwrap();
    assert!(rows.read(0, 3, &mut [0; 2]).unwrap_err().to_string().contains("cannot read 2 bytes at 3: "));
    let mut two = [0; 2];
    rows.read(0, 3, &mut two).unwrap();
    assert_eq!(two, bytes[3..5]);
}

#[test]
fn names_find_their_reader() {
    for (name, kind, _) in KINDS {
        assert_eq!(Kind::named(name).unwrap(), *kind);
    }
    assert!(Kind::named("floppy").unwrap_err().to_string().contains("auto, "));
    for depth in [0, MOST_DEPTH + 1] {
        assert!(matches!(open(&[], &[], &Options { depth, ..Options::default() }), Err(Error::Invalid(_))));
    }
}
