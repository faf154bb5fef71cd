//! Rings, orders and readers that change, are refused, or never answer.

use super::tests::{D, M, O, S, model, options, streamed, take};
use super::*;
use crate::hal::Home;

/// Rings and orders that change between passes, from none and to none, with panels read ahead that nobody wants then.
#[test]
fn rings_and_orders_change_between_passes() {
    let mut homes = [D, M, S, O, S, M, S, S, M, O, S];
    for kind in io::KINDS.iter().map(|k| k.0) {
        let (_file, sources, mut plan) = model(&homes, 4);
        let mut streamer = Streamer::open(&sources, &plan, &options(kind, "delay/5,seed=1"), None).unwrap();
        let supply = streamer.supply();
        (0..homes.len()).filter(|&n| homes[n] == M).for_each(|n| take(&*supply, n, 1).unwrap());
        streamer.stream(&plan).unwrap();
        for (round, slots) in [3, 8, 1, 5, 2, 8].into_iter().enumerate() {
            streamer.resize(slots).unwrap();
            assert_eq!(streamer.places(), slots);
            for outputs in [round % 2 == 0, true] {
                streamer.begin(outputs);
                streamed(&homes, outputs).into_iter().for_each(|n| take(&*supply, n, 1).unwrap());
            }
            // Every streamed panel is kept for a round, so that nothing comes any more.
            let moved = streamed(&homes, true);
            streamer.load(&moved.iter().map(|&n| n as u32).collect::<Vec<_>>()).unwrap();
            moved.iter().for_each(|&n| take(&*supply, n, 1).unwrap());
            let before = homes;
            for (home, part) in homes.iter_mut().zip(&mut plan.parts) {
                home.0 = if home.0 == Home::Stream { Home::Memory } else { home.0 };
                part.home = home.0;
            }
            streamer.stream(&plan).unwrap();
            streamer.begin(true);
            assert!(matches!(take(&*supply, 2, 1), Err(Error::Engine(_))), "the reading has ended");
            homes = before;
            plan.parts.iter_mut().zip(&homes).for_each(|(part, home)| part.home = home.0);
            streamer.stream(&plan).unwrap();
        }
    }
}

/// A reader that is refused when the ring changes: whoever asks is told at once, until one can be had.
#[test]
fn a_reader_that_is_refused_can_be_tried_again() {
    let homes = [S, O, S];
    let (_file, sources, plan) = model(&homes, 2);
    let mut streamer = Streamer::open(&sources, &plan, &options("auto", "open@2,open@3,open@5"), None).unwrap();
    let supply = streamer.supply();
    streamer.stream(&plan).unwrap();
    for (slots, again) in [(1, 2), (3, 1)] {
        assert!(matches!(streamer.resize(slots), Err(Error::Limit(_))));
        for left in (0..again).rev() {
            streamer.begin(true);
            assert!(matches!(take(&*supply, 0, 1), Err(Error::Engine(_))), "nothing is read");
            assert_eq!(streamer.stream(&plan).is_ok(), left == 0);
        }
        for outputs in [true, false, true] {
            streamer.begin(outputs);
            streamed(&homes, outputs).into_iter().for_each(|n| take(&*supply, n, 1).unwrap());
        }
        assert_eq!(streamer.places(), slots);
    }
}

/// A drive that never answers.
struct Silent(Vec<Arc<Slot>>);

impl Reader for Silent {
    fn description(&self) -> String {
        "silence".into()
    }

    fn submit(&mut self, _: Read, slot: Arc<Slot>) {
        self.0.push(slot);
    }

    fn wait_for(&mut self, time: Duration) -> Option<Done> {
        std::thread::sleep(time);
        None
    }

    fn in_flight(&self) -> usize {
        self.0.len()
    }
}

#[test]
fn reading_ends_also_where_the_drive_is_silent() {
    let (_file, sources, plan) = model(&[S; 4], 2);
    let mut streamer = Streamer::open(&sources, &plan, &options("pread", ""), None).unwrap();
    streamer.stream(&plan).unwrap();
    streamer.begin(true);
    let shared = streamer.shared.clone();
    streamer.close();
    let mut state = lock(&shared.state);
    (state.closed, state.patience, state.free) = (false, Duration::from_millis(10), io::slots(2, 20_000).unwrap());
    drop(state);
    let (ended, hear) = std::sync::mpsc::channel();
    let reading = shared.clone();
    std::thread::spawn(move || {
        reading.read(Box::new(Silent(vec![])), 2);
        ended.send(()).unwrap();
    });
    assert!(hear.recv_timeout(Duration::from_millis(50)).is_err(), "somebody may still want it");
    lock(&shared.state).closed = true;
    hear.recv_timeout(Duration::from_secs(20)).unwrap();
}
