//! Experts that are read on a guess, on a drive that answers when it is told to.

use super::cache::Cache;
use super::counters::Counters;
use super::tests::{len, mixture, options, take};
use super::*;
use crate::hal::Wanted;
use crate::io::slots;
use crate::plan;
use std::collections::HashSet;

/// Reads that were begun, and what the drive may answer.
#[derive(Default)]
struct Desk {
    papers: Mutex<Papers>,
    news: Condvar,
}

#[derive(Default)]
struct Papers {
    /// Panels in the order in which their reads were begun.
    begun: Vec<u32>,
    waiting: VecDeque<(Read, Arc<Slot>)>,
    /// Reads that may end.
    let_go: usize,
    /// Panels whose next read fails.
    fail: HashSet<u32>,
    /// Panels that are read on a guess only.
    guessed: HashSet<u32>,
}

impl Desk {
    fn let_go(&self, reads: usize) {
        lock(&self.papers).let_go += reads;
        self.news.notify_all();
    }

    /// Waits until so many reads were begun, and says of which panels.
    fn begun(&self, reads: usize) -> Vec<u32> {
        let papers = lock(&self.papers);
        let patience = Duration::from_secs(20);
        let waits = |p: &mut Papers| p.begun.len() < reads;
        let (papers, end) = self.news.wait_timeout_while(papers, patience, waits).unwrap();
        assert!(!end.timed_out(), "{:?} were begun", papers.begun);
        papers.begun.clone()
    }
}

struct Slow(Arc<Desk>);

impl Reader for Slow {
    fn description(&self) -> String {
        "slow".into()
    }

    fn submit(&mut self, read: Read, slot: Arc<Slot>) {
        let mut papers = lock(&self.0.papers);
        papers.begun.push(read.tag as u32);
        papers.waiting.push_back((read, slot));
        let waiting: Vec<u32> = papers.waiting.iter().map(|w| w.0.tag as u32).collect();
        let guessed = papers.guessed.contains(&(read.tag as u32));
        let alone = waiting.len() <= 2 && waiting.iter().all(|n| papers.guessed.contains(n));
        assert!(!guessed || alone, "a read on a guess beside others: {waiting:?}");
        self.0.news.notify_all();
    }

    fn wait_for(&mut self, time: Duration) -> Option<Done> {
        let papers = lock(&self.0.papers);
        let waits = |p: &mut Papers| p.let_go == 0;
        let mut papers = self.0.news.wait_timeout_while(papers, time, waits).unwrap().0;
        papers.let_go = papers.let_go.checked_sub(1)?;
        let (read, slot) = papers.waiting.pop_front().expect("something is being read");
        let failed = papers.fail.remove(&(read.tag as u32));
        let result = if failed { Err(Error::Engine("told to fail".into())) } else { Ok(()) };
        Some(Done { tag: read.tag, slot, start: 0, result })
    }

    fn in_flight(&self) -> usize {
        lock(&self.0.papers).waiting.len()
    }
}

/// A stream from a desk. The file is kept open.
struct Table {
    desk: Arc<Desk>,
    streamer: Streamer,
    _file: tempfile::NamedTempFile,
}

impl Drop for Table {
    /// The stream ends once its reads have.
    fn drop(&mut self) {
        lock(&self.desk.papers).let_go = usize::MAX;
        self.desk.news.notify_all();
    }
}

/// Eight experts of the panels `3 + e` and `11 + e` with room for some, behind a ring of the panels 1 and 2, in a pass
/// whose reads wait for the desk.
fn table(places: usize) -> Table {
    let (_file, sources, mut plan) = mixture(places);
    plan.slots = 2;
    let mut streamer = Streamer::open(&sources, &plan, &options("pread", ""), None).unwrap();
    take(&*streamer.supply(), 0, 1).unwrap();
    streamer.stop();
    let desk = Arc::new(Desk::default());
    streamer.read_with(Box::new(Slow(desk.clone())), io::slots(2, plan.slot_bytes as usize).unwrap(), 4).unwrap();
    streamer.stream(&plan).unwrap();
    streamer.begin(true);
    Table { desk, streamer, _file }
}

fn want(streamer: &Streamer, panels: &[u32]) -> Vec<u32> {
    let mut wanted: Vec<Wanted> = panels.iter().map(|&n| (n, 0)).collect();
    streamer.supply().want(&mut wanted);
    wanted.iter().map(|w| w.0).collect()
}

fn used(streamer: &Streamer, panel: u32) -> Result<()> {
    streamer.supply().panel(panel, 1, &mut |_| ())
}

#[test]
fn guesses_are_read_on_an_idle_drive_and_wanted_panels_go_before_them() {
    let table = table(6);
    let Table { desk, streamer, .. } = &table;
    assert_eq!(desk.begun(2), [1, 2]);
    lock(&desk.papers).guessed = HashSet::from([3, 11, 4, 12, 5, 13]);
    streamer.foresee(&[3, 4, 5]);
    desk.let_go(1);
    used(streamer, 1).unwrap();
    desk.let_go(2);
    assert_eq!(desk.begun(5)[2..], [1, 3, 11], "once the ring is full");
    desk.let_go(1);
    assert_eq!(desk.begun(6)[5..], [4], "two at once");
    assert_eq!(want(streamer, &[7, 3]), [3, 7], "what has begun to come is asked for first");
    desk.let_go(1);
    assert_eq!(desk.begun(8)[6..], [7, 15], "one of a guess waits no more");
    desk.let_go(3);
    [3, 7].into_iter().for_each(|n| used(streamer, n).unwrap());
    assert_eq!(want(streamer, &[15, 11]), [11, 15]);
    [11, 15].into_iter().for_each(|n| used(streamer, n).unwrap());
    let have = streamer.counters();
    assert_eq!((have.foreseen, have.foreseen_used, have.read_for_nothing), (2, 1, len(4) as u64));
    assert_eq!((have.hits, have.misses), (0, 2), "an expert that came on a guess had to come");
    assert_eq!(have.missed, [3, 4, 7, 11, 15].map(len).iter().sum::<usize>() as u64);
    // What is left of it is wanted now.
    lock(&desk.papers).guessed.clear();
    want(streamer, &[4]);
    assert_eq!(desk.begun(9)[8..], [12]);
    desk.let_go(1);
    used(streamer, 4).unwrap();
    assert_eq!(streamer.counters().hits, 0);
}

/// Whether a guess comes true or not, the reads that it began may fail.
#[test]
fn a_guess_that_fails_is_read_again_once_it_is_wanted() {
    let table = table(6);
    let Table { desk, streamer, .. } = &table;
    desk.let_go(2);
    desk.begun(2);
    lock(&desk.papers).fail = HashSet::from([3, 12]);
    streamer.foresee(&[3, 4]);
    assert_eq!(desk.begun(4)[2..], [3, 11]);
    desk.let_go(2);
    assert_eq!(desk.begun(6)[4..], [4, 12]);
    // The first failed before it is wanted; the second fails when it is.
    assert_eq!(want(streamer, &[3, 12]).len(), 2);
    desk.let_go(4);
    [3, 12].into_iter().for_each(|n| used(streamer, n).unwrap());
    let again = desk.begun(8)[6..].to_vec();
    assert!(again == [3, 12] || again == [12, 3], "{again:?}");
    // One that nobody wants, then one that fails when it is wanted as well.
    lock(&desk.papers).fail = HashSet::from([5, 13]);
    streamer.foresee(&[5]);
    desk.begun(10);
    want(streamer, &[6]);
    desk.let_go(4);
    used(streamer, 6).unwrap();
    lock(&desk.papers).fail.insert(5);
    want(streamer, &[5]);
    desk.let_go(2);
    assert!(used(streamer, 5).unwrap_err().to_string().contains("told to fail"));
    streamer.begin(true);
    want(streamer, &[5]);
    // The ring is read anew, too.
    desk.let_go(3);
    used(streamer, 5).unwrap();
    assert_eq!(streamer.counters().foreseen, 3);
}

/// Only who is worth least leaves for a guess, and nobody that the step uses or the guess names.
#[test]
fn nobody_in_use_leaves_for_a_guess() {
    let plan = plan::Cache { experts: (0..8).map(|e| vec![e]).collect(), places: 5, sizes: vec![1] };
    let mut cache = Cache::new(&plan, vec![1; 8], slots(5, 1).unwrap());
    let mut counters = Counters::default();
    let done = |slot| Done { tag: 0, slot, start: 0, result: Ok(()) };
    let step = |cache: &mut Cache, experts: &[u32], counters: &mut Counters| {
        let mut wanted: Vec<Wanted> = experts.iter().map(|&e| (e, 0)).collect();
        cache.want(&mut wanted, counters);
        while let Some((number, slot)) = cache.next() {
            cache.arrive(number, done(slot));
        }
        experts.iter().for_each(|&e| assert!(cache.take(e).unwrap().is_ok() && !cache.give_back(e, 1)));
    };
    cache.begin(&mut counters);
    step(&mut cache, &[0, 1], &mut counters);
    step(&mut cache, &[2, 3], &mut counters);
    let come = |cache: &mut Cache| {
        let mut come = vec![];
        while let Some((number, slot)) = cache.next_ahead(0) {
            cache.arrive(number, done(slot));
            come.push(number);
        }
        come
    };
    cache.foresee(&[0, 5, 6, 7], &mut counters);
    assert_eq!(come(&mut cache), [5, 6], "to the free place and to that of 1; 2 and 3 were used just now");
    for e in [0, 2, 3, 5, 6] {
        assert!(cache.take(e).is_some(), "{e}");
        cache.give_back(e, 2);
    }
    assert!(cache.take(1).is_none());
    cache.begin(&mut counters);
    assert!(cache.next_ahead(0).is_none(), "a guess ends with its pass");
    assert_eq!((counters.foreseen, counters.foreseen_used, counters.read_for_nothing), (2, 0, 2));
}
