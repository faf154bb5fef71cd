//! Readers and the system they run on: what stays in the page cache, and what the system refuses.

use super::*;

/// Pages of a file that are in the page cache.
fn cached_pages(path: &Path) -> usize {
    let file = File::open(path).unwrap();
    // SAFETY: nobody changes the file; only the map's extent is used.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    let mut pages = vec![0u8; map.len().div_ceil(ALIGN)];
    // SAFETY: the map has that length, and the vector a byte for each of its pages.
    let rc = unsafe { libc::mincore(map.as_ptr() as *mut _, map.len(), pages.as_mut_ptr().cast()) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    pages.iter().filter(|&&p| p & 1 == 1).count()
}

/// Drops a file that was written to its drive from the page cache.
fn evict(path: &Path) {
    let file = File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn direct_reads_leave_nothing_in_the_page_cache() {
    let folder = folder();
    let (path, bytes, source) = file(&folder, 600_001);
    evict(&path);
    if cached_pages(&path) > 0 {
        return eprintln!("skipped: the file system keeps all pages in memory");
    }
    let reads = reads(bytes.len());
    for kind in [Kind::Auto, Kind::Pread] {
        for faults in [None, faults("no-direct"), faults("short/3")] {
            let options = Options { kind, depth: 4, faults };
            assert!(run(&[Arc::clone(&source)], &options, &reads).iter().all(|got| got.is_ok()));
            assert_eq!(cached_pages(&path), 0, "{options:?}");
            let (rows, _) = RowReader::open(&[Arc::clone(&source)], &options).unwrap();
            rows.read(0, 12_345, &mut [0; 6000]).unwrap();
            assert_eq!(cached_pages(&path), 0, "rows, {options:?}");
        }
    }
    assert!(run(&[source], &Options { kind: Kind::Mmap, ..Options::default() }, &reads).iter().all(|got| got.is_ok()));
    assert!(cached_pages(&path) > 0, "pages that are cached are seen");
}

/// Opens, and reads everything rightly; what is said about it.
fn opened(kind: Kind, fault: &str) -> (String, String) {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 200_001);
    let slots = slots(6, SLOT).unwrap();
    let Opened { mut reader, note } =
        open(&[source], &slots, &Options { kind, depth: 3, faults: faults(fault) }).unwrap();
    let reads = reads(bytes.len());
    let results = read_all(reader.as_mut(), slots, &reads);
    assert!(reads.iter().zip(&results).all(|(read, got)| is(&bytes, read, got)), "{kind:?} {fault}");
    (reader.description(), note.unwrap_or_default())
}

#[test]
fn refusals_are_said_once_and_the_bytes_are_the_same() {
    let (description, note) = opened(Kind::Pread, "no-direct");
    assert_eq!(description, "pread, 3 threads, buffered");
    assert!(note.contains("direct reads are refused") && note.contains("page cache"), "{note}");
    let (description, note) = opened(Kind::Auto, "no-uring");
    assert!(description.starts_with("pread, 3 threads"), "{description}");
    assert!(note.contains("io_uring is refused") && note.contains("os error 1"), "{note}");
    let (_, note) = opened(Kind::Auto, "no-uring,no-direct");
    assert!(note.contains("direct reads are refused") && note.contains("; io_uring is refused"), "{note}");
    assert!(opened(Kind::Mmap, "").0.starts_with("mmap"));
    let source = Arc::new(Source::embedded("memory", vec![1]));
    let options = Options { kind: Kind::Uring, faults: faults("no-uring"), ..Options::default() };
    let error = open(&[source], &[], &options).err().unwrap();
    assert!(matches!(&error, Error::Unsupported { .. }) && error.to_string().contains("`auto`"), "{error}");
}

/// Whether this machine allows io_uring at all.
pub fn has_uring() -> bool {
    let source = Arc::new(Source::embedded("memory", vec![1]));
    let opened = open(&[source], &[], &Options { kind: Kind::Uring, ..Options::default() });
    if let Err(e) = &opened {
        eprintln!("skipped: {e}");
    }
    opened.is_ok()
}

#[test]
fn without_registration_the_ring_still_reads() {
    if !has_uring() {
        return;
    }
    let (description, note) = opened(Kind::Uring, "no-registration");
    assert!(description.ends_with("nothing registered"), "{description}");
    assert!(note.contains("registering") && note.contains("ulimit -l"), "{note}");
}

/// Without the right to lock any amount of memory, which root has.
#[cfg(target_os = "linux")]
#[test]
fn a_small_limit_of_locked_memory_is_survived() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let Some(limit) = limit.filter(|&limit| limit <= 64 << 20) else {
        return eprintln!("skipped: this system limits no locked memory");
    };
    if !has_uring() {
        return;
    }
    // The right belongs to the thread.
    let work = move || {
        let mut rights = capabilities(None).unwrap();
        rights.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, rights).unwrap();
        let folder = folder();
        let (_, bytes, source) = file(&folder, 100_001);
        let slots = slots(2, limit as usize / 2 + (1 << 20)).unwrap();
        let options = Options { kind: Kind::Uring, ..Options::default() };
        let Opened { mut reader, note } = open(&[source], &slots, &options).unwrap();
        let note = note.unwrap();
        assert!(note.contains("registering") && note.contains("os error 12"), "{note}");
        let reads = reads(bytes.len());
        let results = read_all(reader.as_mut(), slots, &reads);
        assert!(reads.iter().zip(&results).all(|(read, got)| is(&bytes, read, got)));
    };
    std::thread::spawn(work).join().unwrap();
}

#[test]
fn slots_that_are_not_registered_are_filled_too() {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 300_000);
    let registered = slots(2, SLOT).unwrap();
    let mut reader = open(&[source], &registered, &Options::default()).unwrap().reader;
    drop(registered);
    let reads = reads(bytes.len());
    for slots in [slots(1, SLOT).unwrap(), slots(5, 2 * SLOT).unwrap(), slots(3, 8 << 20).unwrap()] {
        let results = read_all(reader.as_mut(), slots, &reads);
        assert!(reads.iter().zip(&results).all(|(read, got)| is(&bytes, read, got)));
    }
}

#[test]
fn a_reader_goes_from_thread_to_thread() {
    let folder = folder();
    let (_, bytes, source) = file(&folder, 300_000);
    for (kind, faults) in [(Kind::Auto, None), (Kind::Auto, faults("no-direct")), (Kind::Pread, None)] {
        let slots = slots(6, SLOT).unwrap();
        let mut reader = open(&[Arc::clone(&source)], &slots, &Options { kind, depth: 6, faults }).unwrap().reader;
        let mut reader = std::thread::spawn(move || {
            for (i, slot) in slots.into_iter().enumerate() {
                reader.submit(Read { source: 0, offset: i as u64 * 50_000, len: 50_000, tag: i as u64 }, slot);
            }
            reader
        })
        .join()
        .unwrap();
        for _ in 0..6 {
            let done = reader.wait();
            done.result.unwrap();
            let from = done.tag as usize * 50_000;
            assert!(done.slot.bytes()[done.start..done.start + 50_000] == bytes[from..from + 50_000]);
        }
    }
}
