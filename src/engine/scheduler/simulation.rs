//! Days of a server in moments: the scheduler over a backend that computes nothing, on a clock that is turned by hand.
//!
//! Each run draws a machine (little state, few rows, windows or none, memory that comes and goes, passes that fail) and
//! its clients (some ask alike, some leave, some read slowly, some ask for what cannot be), all from one seed. Whoever is
//! answered must hear each token that its text alone would get, in order, none twice, and one end; and when all have
//! gone, so have their pages. A run that fails says its seed: `AIR_SEED=N` runs that one only.

use super::super::device::{Place, Room};
use super::super::load::{LoadOptions, StateSize, finish, prepare_on};
use super::super::pressure::Reading;
use super::super::pulse::Pulse;
use super::super::relief::{Gauge, Relief};
use super::super::request::{Command, Event, FinishReason, Logits, Request};
use super::*;
use crate::engine::clock::ByHand;
use crate::format::{Catalogue, gguf};
use crate::hal::Batch;
use crate::hal::fake::{Fake, chosen};
use crate::sample::Params;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A token that no pass survives.
const POISON: u32 = 7;

/// Draws, each run its own (splitmix64).
#[derive(Clone)]
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// From `least` to `most`.
    fn within(&mut self, least: usize, most: usize) -> usize {
        least + (self.next() % (most - least + 1) as u64) as usize
    }

    /// Once in `n` times.
    fn once_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// Memory that comes and goes.
#[derive(Debug)]
struct Weather {
    clock: Arc<ByHand>,
    free: AtomicU64,
}

impl Gauge for Weather {
    fn read(&self) -> Reading {
        let at = Clock::ByHand(self.clock.clone()).now() - self.clock.begun();
        Reading { free: self.free.load(Ordering::Relaxed), held: 1 << 30, at }
    }

    fn every(&self) -> Duration {
        Duration::ZERO
    }
}

/// One client.
struct Client {
    arrives: Duration,
    /// Leaves then, whatever has come.
    leaves: Option<Duration>,
    /// Hears no more than so many tokens.
    hears: usize,
    asks: Asks,
    cancel: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
    asked: bool,
}

enum Asks {
    Answer(Request),
    /// The logits of a text, of which it takes one piece in so many milliseconds.
    Text {
        tokens: Vec<u32>,
        every: u64,
        rows: Option<Receiver<Result<Logits>>>,
        next: Duration,
    },
}

/// What a client has heard.
#[derive(Default)]
struct Heard {
    tokens: Vec<u32>,
    /// Tokens of the prompt, and what was most probable in their places.
    read: Vec<(u32, Option<u32>)>,
    end: Option<Result<super::super::request::Finished>>,
    after_the_end: bool,
}

/// A run.
struct Day {
    scheduler: Scheduler,
    commands: Sender<Command>,
    clock: Arc<ByHand>,
    weather: Arc<Weather>,
    clients: Vec<Client>,
    draw: Draw,
    stormy: bool,
    /// Whether passes fail by chance.
    faulty: bool,
    windows: Vec<Option<u32>>,
    pages: Vec<usize>,
    tokenizer: Arc<Tokenizer>,
}

impl Day {
    fn new(seed: u64, models: &[(Catalogue, Arc<Tokenizer>)]) -> Day {
        let mut draw = Draw(seed);
        let (catalogue, tokenizer) = &models[draw.within(0, models.len() - 1)];
        let clock = Arc::new(ByHand::new());
        let weather = Arc::new(Weather { clock: clock.clone(), free: AtomicU64::new(1 << 40) });
        let (stormy, faulty) = (draw.once_in(4), draw.once_in(3));
        let options = LoadOptions {
            max_sequences: draw.within(1, 7),
            state: StateSize::Positions(draw.within(1, 14) as u64 * 32),
            max_rows: draw.within(1, 40),
            max_outputs: draw.within(1, 9),
            context: Some(draw.within(60, 256) as u32),
            gauge: Some(weather.clone()),
            ..LoadOptions::default()
        };
        let work = work(Draw(draw.next()), clock.clone(), faulty);
        let place = Place { backend: Box::new(Fake::new(work)), room: Room::Machine };
        let prepared = prepare_on(place, catalogue, &options).unwrap();
        let windows: Vec<Option<u32>> = prepared.lowered.groups.iter().map(|g| g.window).collect();
        let (_, mut runner) = finish(prepared, catalogue, &mut |_, _| ()).unwrap();
        let most_kept = if draw.once_in(3) { draw.within(0, 1 << 16) as u64 } else { u64::MAX };
        let relief = Relief::new(&runner, &options);
        let pages = runner.kv().free_pages();
        let (commands, inbox) = crossbeam::channel::bounded(QUEUE);
        let queue = Queue { commands: inbox, closed: Arc::default(), pulse: Arc::new(Pulse::new()) };
        let mut scheduler = Scheduler::new(runner, relief, tokenizer.clone(), queue, options.max_sequences, most_kept);
        scheduler.clock = Clock::ByHand(clock.clone());
        scheduler.bounds.stretch = draw.within(1, 16) as u32;
        let clients = (0..draw.within(1, 24)).map(|_| client(&mut draw, scheduler.bounds)).collect();
        let tokenizer = tokenizer.clone();
        Day { scheduler, commands, clock, weather, clients, draw, stormy, faulty, windows, pages, tokenizer }
    }

    fn now(&self) -> Duration {
        self.scheduler.clock.now() - self.clock.begun()
    }

    /// To the end: everybody has come, and nothing is left to do.
    fn pass_by(&mut self) {
        for turn in 0.. {
            assert!(turn < 1_000_000, "it never ends");
            self.clients_act();
            if self.stormy && self.draw.once_in(50) {
                let free = if self.draw.once_in(2) { 1 << 40 } else { 1 << 20 };
                self.weather.free.store(free, Ordering::Relaxed);
            }
            match self.scheduler.turn() {
                Turn::Worked => self.look(),
                Turn::Over => panic!("the engine is still wanted"),
                Turn::Idle if self.clients.iter().all(|c| c.asked) && self.scheduler.is_idle() => return,
                Turn::Idle => {
                    // Until somebody comes or goes, or memory is looked at again.
                    self.weather.free.store(1 << 40, Ordering::Relaxed);
                    self.clock.turn(Duration::from_millis(5));
                }
            }
        }
    }

    /// What holds after every pass.
    fn look(&mut self) {
        let s = &mut self.scheduler;
        assert!(s.active.len() + s.behind.len() <= s.max_sequences);
        assert!(s.active.iter().all(|a| !a.job.pending().is_empty()), "who has nothing to read has ended");
    }

    fn clients_act(&mut self) {
        let now = self.now();
        let submitted = self.scheduler.clock.now();
        for c in &mut self.clients {
            if !c.asked && c.arrives <= now {
                c.asked = true;
                let heard = c.heard.clone();
                let command = match &mut c.asks {
                    Asks::Answer(request) => {
                        let hears = c.hears;
                        let events = Arc::new(move |event| hear(&heard, event, hears));
                        Command::Generate { request: request.clone(), events, cancel: c.cancel.clone(), submitted }
                    }
                    Asks::Text { tokens, rows, .. } => {
                        let (to, from) = crossbeam::channel::bounded(2);
                        *rows = Some(from);
                        Command::Evaluate { tokens: tokens.clone(), rows: to }
                    }
                };
                self.commands.try_send(command).unwrap();
            }
            if c.leaves.is_some_and(|at| at <= now) {
                c.cancel.store(true, Ordering::Relaxed);
            }
            if let Asks::Text { tokens, every, rows: Some(from), next } = &mut c.asks
                && *next <= now
            {
                *next = now + Duration::from_millis(*every);
                if c.leaves.is_some_and(|at| at <= now) {
                    *from = crossbeam::channel::never();
                } else if let Ok(piece) = from.try_recv() {
                    read(&mut c.heard.lock().unwrap(), tokens, piece, &self.windows);
                }
            }
        }
    }

    /// What everybody must have heard.
    fn judge(&mut self) {
        let vocab = self.scheduler.bounds.vocab;
        for c in &mut self.clients {
            if let Asks::Text { tokens, rows: Some(from), .. } = &mut c.asks {
                for piece in from.try_iter() {
                    read(&mut c.heard.lock().unwrap(), tokens, piece, &self.windows);
                }
            }
            let heard = c.heard.lock().unwrap();
            assert!(!heard.after_the_end, "something came after the end");
            match &c.asks {
                Asks::Text { tokens, .. } => match &heard.end {
                    Some(Err(e)) => {
                        let refused = self.scheduler.bounds.check(tokens, 0).is_err();
                        assert!(refused || expected_error(e, tokens, self.faulty, self.stormy), "{e}");
                    }
                    _ => assert!(c.leaves.is_some() || heard.tokens.len() == tokens.len(), "logits are missing"),
                },
                Asks::Answer(request) => {
                    let bounds = self.scheduler.bounds;
                    let (want, reason) = answer(request, &self.windows, bounds, &self.tokenizer);
                    let got = &heard.tokens;
                    let behind = |n: usize| (n > 0).then(|| chosen(&request.prompt[..n], &self.windows, vocab));
                    for (i, &(id, most)) in heard.read.iter().enumerate().filter(|_| !request.prompt.is_empty()) {
                        assert_eq!((id, most), (request.prompt[i], behind(i)), "of another text");
                    }
                    match heard.end.as_ref().expect("everybody is told the end") {
                        Err(e) => {
                            assert!(want.starts_with(got), "{got:?} is not how {want:?} begins");
                            let text = [&request.prompt[..], got].concat();
                            let refused = bounds.check(&request.prompt, request.max_tokens).is_err();
                            assert!(refused || expected_error(e, &text, self.faulty, self.stormy), "{e}");
                        }
                        Ok(end) if end.reason == FinishReason::Cancelled => {
                            assert!(c.leaves.is_some() || got.len() >= c.hears, "nobody cancelled it");
                            assert!(want.starts_with(got), "{got:?} is not how {want:?} begins");
                        }
                        Ok(end) if end.reason == FinishReason::TimeLimit => {
                            assert!(request.time_limit.is_some() && want.starts_with(got), "{got:?} of {want:?}");
                        }
                        Ok(end) => {
                            assert_eq!((got, end.reason), (&want, reason));
                            let wanted = request.prompt_logprobs.map_or(0, |_| request.prompt.len().max(1));
                            assert_eq!(heard.read.len(), wanted, "of each token of the prompt, once");
                            let u = end.usage;
                            assert_eq!(u.prompt_tokens as usize, request.prompt.len().max(1));
                            assert_eq!(u.read_tokens + u.kept_tokens, u.prompt_tokens, "{u:?}");
                            let eog = u32::from(reason == FinishReason::Stop);
                            assert_eq!(u.generated_tokens as usize, got.len() + eog as usize);
                        }
                    }
                    assert!(got.iter().all(|&t| (t as usize) < vocab));
                }
            }
        }
        let s = &mut self.scheduler;
        assert!(s.is_idle() && s.arrived.is_deserted(), "somebody is still counted as present");
        s.kept.clear(s.runner.kv());
        assert_eq!(s.runner.kv().free_pages(), self.pages, "pages are lost");
    }
}

impl Scheduler {
    fn is_idle(&self) -> bool {
        self.active.is_empty() && self.arrived.len() == 0 && self.waiting.is_empty() && self.behind.is_empty()
    }
}

/// Whether a text may have ended so: it was poisoned, a pass failed by chance, or memory was short.
fn expected_error(e: &Error, text: &[u32], faulty: bool, stormy: bool) -> bool {
    match e {
        Error::Engine(_) => faulty || text.contains(&POISON),
        Error::Busy(_) => stormy,
        _ => false,
    }
}

/// What a pass does: it takes its time, and may fail.
fn work(mut draw: Draw, clock: Arc<ByHand>, faulty: bool) -> crate::hal::fake::Work {
    Box::new(move |batch: &Batch| {
        let stall = if draw.once_in(100) { 3000 } else { 0 };
        clock.turn(Duration::from_micros(500 + 100 * batch.rows.len() as u64 + 1000 * stall));
        let poisoned = batch.rows.iter().any(|r| r.token == POISON);
        match poisoned || (faulty && draw.once_in(30)) {
            true => Err(Error::Engine("the pass failed".into())),
            false => Ok(()),
        }
    })
}

fn client(draw: &mut Draw, bounds: Bounds) -> Client {
    let arrives = Duration::from_millis(draw.within(0, 60) as u64);
    let leaves = draw.once_in(5).then(|| arrives + Duration::from_millis(draw.within(0, 200) as u64));
    // Many begin alike, and some are too long.
    let alike = [0, 1, 31, 32, 33, 64, 90][draw.within(0, 6)];
    let own = draw.within(0, bounds.context as usize / 2 + 4);
    let which = draw.within(0, 2) as u32;
    let mut tokens: Vec<u32> = (0..alike as u32).map(|i| 8 + (i * 5 + which) % 40).collect();
    tokens.extend((0..own).map(|_| 8 + draw.within(0, 40) as u32));
    if draw.once_in(20) && !tokens.is_empty() {
        let at = draw.within(0, tokens.len() - 1);
        tokens[at] = POISON;
    }
    let asks = match draw.once_in(8) {
        true => Asks::Text { tokens, every: draw.within(1, 30) as u64, rows: None, next: Duration::ZERO },
        false => Asks::Answer(Request {
            prompt: tokens,
            max_tokens: [0, 1, 2, 20, 100, 250][draw.within(0, 5)],
            sampling: Params { temperature: 0.0, ..Params::default() },
            ignore_eos: !draw.once_in(4),
            tenant: draw.within(0, 2) as u64,
            prompt_logprobs: draw.once_in(8).then_some(1),
            priority: draw.within(0, 4) as i32 - 2,
            time_limit: draw.once_in(6).then(|| Duration::from_millis(draw.within(0, 300) as u64)),
            patient: draw.once_in(2),
            progress: draw.once_in(4),
            ..Request::default()
        }),
    };
    let hears = if draw.once_in(10) { draw.within(0, 20) } else { usize::MAX };
    Client { arrives, leaves, hears, asks, cancel: Arc::default(), heard: Arc::default(), asked: false }
}

/// Takes an event; false once nobody hears any more.
fn hear(heard: &Mutex<Heard>, event: Result<Event>, hears: usize) -> bool {
    let mut heard = heard.lock().unwrap();
    heard.after_the_end |= heard.end.is_some();
    match event {
        Ok(Event::Token(t)) => heard.tokens.push(t.id),
        Ok(Event::Prompt(p)) => assert!(p.read <= p.all),
        Ok(Event::Read(all)) => heard.read.extend(all.iter().map(|(id, l)| (*id, l.as_ref().map(|l| l.top[0].0)))),
        Ok(Event::Finished(f)) => heard.end = Some(Ok(f)),
        Err(e) => heard.end = Some(Err(e)),
    }
    heard.tokens.len() < hears
}

/// Takes a piece of logits: each row must choose what its text alone does.
fn read(heard: &mut Heard, text: &[u32], piece: Result<Logits>, windows: &[Option<u32>]) {
    heard.after_the_end |= heard.end.is_some();
    match piece {
        Err(e) => heard.end = Some(Err(e)),
        Ok(piece) => {
            assert_eq!(piece.first, heard.tokens.len(), "rows are lost or come twice");
            let vocab = piece.values.len() / piece.positions;
            for row in piece.values.chunks(vocab) {
                let at = heard.tokens.len();
                let best = (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
                assert_eq!(best, chosen(&text[..=at], windows, vocab), "the row of another text");
                heard.tokens.push(best);
            }
        }
    }
}

/// The answer that a request gets alone.
fn answer(r: &Request, windows: &[Option<u32>], bounds: Bounds, tokenizer: &Tokenizer) -> (Vec<u32>, FinishReason) {
    let mut text = r.prompt.clone();
    if text.is_empty() {
        text.extend(tokenizer.bos().or(tokenizer.eos()));
    }
    let mut answer = vec![];
    if r.max_tokens == 0 {
        return (answer, FinishReason::Length);
    }
    loop {
        let id = chosen(&text, windows, bounds.vocab);
        if tokenizer.is_eog(id) && !r.ignore_eos {
            return (answer, FinishReason::Stop);
        }
        answer.push(id);
        if answer.len() >= r.max_tokens as usize || text.len() >= bounds.context as usize {
            return (answer, FinishReason::Length);
        }
        text.push(id);
    }
}

#[test]
fn nothing_is_lost_repeated_or_crossed_on_any_day() {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
    let models: Vec<_> = ["llama-gqa", "qwen2-window", "mistral-window"]
        .map(|name| {
            let catalogue = gguf::open(&families.join(format!("{name}.gguf"))).unwrap();
            let tokenizer = Arc::new(Tokenizer::from_meta(&catalogue.meta).unwrap());
            (catalogue, tokenizer)
        })
        .into();
    let only: Option<u64> = std::env::var("AIR_SEED").ok().map(|s| s.parse().unwrap());
    let mut preempted = 0;
    for seed in only.map_or(0..2000, |seed| seed..seed + 1) {
        let mut run = || {
            let mut day = Day::new(seed, &models);
            day.pass_by();
            day.judge();
            preempted += day.scheduler.preempted;
        };
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut run)).is_err();
        assert!(!failed, "the day of AIR_SEED={seed}; see above");
    }
    assert!(only.is_some() || preempted > 100, "{preempted} gave their pages up: the days are too quiet");
}
