//! Panels that a device copies from behind its pass's back, and those that the host keeps for it.

use super::tests::{D, M, O, S, model, options, streamed, take};
use super::*;
use crate::hal::{Home, LOANS, Loan};
use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const H: (Home, bool) = (Home::Host, false);

fn lend(supply: &Arc<dyn Supply>, n: usize) -> Box<dyn Loan> {
    supply.clone().lend(n as u32).unwrap()
}

fn is(loan: &dyn Loan, supply: &dyn Supply, n: usize) -> bool {
    let mut want = vec![0; super::tests::len(n)];
    supply.bytes(n as u32, 0, &mut want).unwrap();
    loan.bytes() == want
}

/// Loans may be held while the next panel is waited for, and over the end of a pass, whether it ended well or not: the
/// places are theirs until they come back, and then they are filled again.
#[test]
fn what_is_lent_keeps_its_place() {
    let homes = [S, M, S, S, S, O, S, S];
    for slots in [3, 4, 40] {
        let (_file, sources, plan) = model(&homes, slots);
        let mut streamer = Streamer::open(&sources, &plan, &options("auto", "delay/3"), None).unwrap();
        let supply = streamer.supply();
        take(&*supply, 1, 1).unwrap();
        streamer.stream(&plan).unwrap();
        let mut held: VecDeque<(usize, Box<dyn Loan>)> = VecDeque::new();
        for pass in 0..30 {
            let outputs = pass % 3 != 1;
            streamer.begin(outputs);
            // Every fifth pass is given up.
            let until = if pass % 5 == 4 { 3 } else { homes.len() };
            for n in streamed(&homes, outputs).into_iter().take(until) {
                if held.len() == LOANS {
                    held.pop_front();
                }
                held.push_back((n, lend(&supply, n)));
                for (n, loan) in &held {
                    assert!(is(&**loan, &*supply, *n), "panel {n} in pass {pass} with {slots} places");
                }
            }
        }
        drop(held);
        streamer.begin(true);
        streamed(&homes, true).into_iter().for_each(|n| take(&*supply, n, 1).unwrap());
    }
}

#[test]
fn panels_that_the_host_keeps_are_read_once() {
    let homes = [H, D, M, H, S, M, H, O, (Home::Host, true)];
    for drive in [true, false] {
        let homes: Vec<_> = homes.iter().map(|&h| if drive || h.0 != Home::Stream { h } else { H }).collect();
        let (_file, sources, plan) = model(&homes, 3);
        let mut streamer = Streamer::open(&sources, &plan, &options("auto", ""), None).unwrap();
        let supply = streamer.supply();
        [2, 5].into_iter().for_each(|n| take(&*supply, n, 1).unwrap());
        let mut read = vec![];
        streamer.keep(&plan, &|_, _, _| false, &mut |bytes| read.push(bytes as usize)).unwrap();
        let kept: Vec<usize> = (0..homes.len()).filter(|&n| homes[n].0 == Home::Host).collect();
        assert_eq!(read, kept.iter().map(|&n| super::tests::len(n)).collect::<Vec<_>>());
        streamer.stream(&plan).unwrap();
        let loaded = streamer.counters().bytes;
        for _ in 0..3 {
            streamer.begin(true);
            for n in (0..homes.len()).filter(|&n| matches!(homes[n].0, Home::Host | Home::Stream)) {
                // More than `LOANS` at a time: these have memory of their own.
                let loans: Vec<_> = kept.iter().map(|&n| lend(&supply, n)).collect();
                assert!(loans.iter().zip(&kept).all(|(loan, &n)| is(&**loan, &*supply, n)));
                take(&*supply, n, 1).unwrap();
            }
        }
        assert_eq!(drive, streamer.counters().bytes > loaded, "what is kept is not read again");
    }
}

/// What a processor has in its own layout is lent in it, with room behind; single bytes are those of the file.
#[test]
fn kept_panels_may_lie_as_a_processor_has_them() {
    let (_file, sources, plan) = model(&[S, H, M, H], 3);
    let mut streamer = Streamer::open(&sources, &plan, &options("auto", ""), None).unwrap();
    let supply = streamer.supply();
    take(&*supply, 2, 1).unwrap();
    let last = super::tests::len(3);
    let backwards = |_, rows: &[u8], out: &mut [u8]| {
        assert_eq!(out.len(), 16 * rows.len(), "whole groups");
        let (tail, mirrored) = (out.len() - rows.len(), rows.iter().rev());
        out[tail..].iter_mut().zip(mirrored).for_each(|(to, from)| *to = *from);
        rows.len() == last
    };
    streamer.keep(&plan, &backwards, &mut |_| ()).unwrap();
    streamer.stream(&plan).unwrap();
    streamer.begin(true);
    assert!(is(&*lend(&supply, 1), &*supply, 1), "what was not arranged is as in the file");
    let (mut rows, loan) = (vec![0; last], lend(&supply, 3));
    supply.bytes(3, 0, &mut rows).unwrap();
    rows.reverse();
    assert_eq!(loan.bytes().len(), 16 * last);
    assert_eq!(loan.bytes()[15 * last..], rows);
}

/// Counts what is pinned.
#[derive(Debug)]
struct Pins {
    now: Arc<AtomicUsize>,
    refuses: bool,
}

struct Pinned(Arc<AtomicUsize>, usize);

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, SeqCst);
    }
}

impl Pinner for Pins {
    fn pin(&self, start: *mut u8, len: usize) -> Result<Box<dyn Any + Send + Sync>, String> {
        assert!((start as usize).is_multiple_of(4096));
        if self.refuses {
            return Err("no more of it".into());
        }
        self.now.fetch_add(len, SeqCst);
        Ok(Box::new(Pinned(self.now.clone(), len)))
    }
}

#[test]
fn the_ring_and_what_the_host_keeps_are_pinned_while_they_live() {
    let (_file, sources, plan) = model(&[S, H, M, H], 3);
    for refuses in [false, true] {
        let now = Arc::new(AtomicUsize::new(0));
        let pins: Arc<dyn Pinner> = Arc::new(Pins { now: now.clone(), refuses });
        let mut streamer = Streamer::open(&sources, &plan, &options("auto", ""), Some(pins)).unwrap();
        let supply = streamer.supply();
        let ring = now.load(SeqCst);
        take(&*supply, 2, 1).unwrap();
        streamer.keep(&plan, &|_, _, _| false, &mut |_| ()).unwrap();
        let both = now.load(SeqCst);
        streamer.stream(&plan).unwrap();
        streamer.begin(true);
        [0, 1, 3].into_iter().for_each(|n| take(&*supply, n, 1).unwrap());
        streamer.resize(4).unwrap();
        assert_eq!(streamer.note().is_some_and(|n| n.contains("no more of it")), refuses, "{:?}", streamer.note());
        if !refuses {
            assert!(ring >= 3 * plan.slot_bytes as usize && both > ring, "{ring} and {both} bytes");
            assert!(now.load(SeqCst) > both, "a ring of more places");
        }
        drop((streamer, supply));
        assert_eq!(now.load(SeqCst), 0, "memory that is gone is not held");
    }
}
