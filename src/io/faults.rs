//! A drive that misbehaves on purpose: what readers must survive, at the calls that tests name.
//!
//! Faults sit where the system answers, below the readers' own logic, so trying again and going on after short reads
//! are what is exercised. A faulty answer spoils the bytes that it does not vouch for: a reader that believes in them
//! is found out. Setting `AIR_IO_FAULT` lets the program itself run on such a drive:
//!
//! `eio@3` the third read fails · `short/10` about one read in ten brings less (by the seed) · `eagain`, `eintr`
//! passing refusals · `delay@2` 2 ms · `stall@5` 2 s · `seed=7` · `no-direct`, `no-registration`, `no-uring` refused
//! at opening · `open@2` the second reader is refused; several with commas between them.

use crate::error::{Error, Result};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The environment variable.
pub const VARIABLE: &str = "AIR_IO_FAULT";

/// What can happen to a read.
const KINDS: &[(&str, Fault)] = &[
    ("eio", Fault::Fails(libc::EIO)),
    ("eagain", Fault::Fails(libc::EAGAIN)),
    ("eintr", Fault::Fails(libc::EINTR)),
    ("short", Fault::Short),
    ("delay", Fault::Late(Duration::from_millis(2))),
    ("stall", Fault::Late(Duration::from_secs(2))),
];

/// What can be refused at opening.
const REFUSALS: &[(&str, Refusal)] =
    &[("no-direct", Refusal::Direct), ("no-registration", Refusal::Registration), ("no-uring", Refusal::Uring)];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Fails(i32),
    Short,
    Late(Duration),
}

/// What a faulty drive does not offer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Refusal {
    Direct,
    Registration,
    Uring,
}

#[derive(Debug, Clone, Copy)]
enum When {
    /// The call of that number, from 1.
    At(u64),
    /// About one in so many, by the seed.
    OneIn(u64),
}

/// Which calls misbehave, and how. All readers that share it count together, their openings too.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<(Fault, When)>,
    refusals: Vec<Refusal>,
    /// Openings of readers that are refused, from 1.
    refused: Vec<u64>,
    seed: u64,
    calls: AtomicU64,
    openings: AtomicU64,
}

impl Faults {
    /// Those that the environment asks for.
    ///
    /// # Errors
    /// `Invalid` where the variable makes no sense.
    pub fn from_env() -> Result<Option<Arc<Faults>>> {
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let text = text.to_str().ok_or_else(|| Error::Invalid(format!("{VARIABLE} is not text")))?;
        Ok(Some(Arc::new(Faults::parse(text)?)))
    }

    /// From text such as `eio@3,short/10,seed=7`.
    ///
    /// # Errors
    /// `Invalid`, naming the item that makes no sense and what would.
    pub fn parse(text: &str) -> Result<Faults> {
        let mut faults = Faults::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            faults.add(item).ok_or_else(|| {
                let kinds: Vec<&str> = KINDS.iter().map(|k| k.0).collect();
                let refusals: Vec<&str> = REFUSALS.iter().map(|r| r.0).collect();
                let (kinds, refusals) = (kinds.join(", "), refusals.join(", "));
                let what =
                    format!("KIND@CALL or KIND/ONE_IN with one of {kinds}, or open@N, or seed=N, or one of {refusals}");
                Error::Invalid(format!("{VARIABLE}: `{item}` is no fault: {what}"))
            })?;
        }
        Ok(faults)
    }

    fn add(&mut self, item: &str) -> Option<()> {
        if let Some(&(_, refusal)) = REFUSALS.iter().find(|(name, _)| *name == item) {
            self.refusals.push(refusal);
        } else if let Some(opening) = item.strip_prefix("open@") {
            self.refused.push(opening.parse().ok().filter(|&n| n > 0)?);
        } else if let Some(seed) = item.strip_prefix("seed=") {
            self.seed = seed.parse().ok()?;
        } else {
            let at = item.find(['@', '/'])?;
            let &(_, fault) = KINDS.iter().find(|(name, _)| *name == &item[..at])?;
            let n = item[at + 1..].parse().ok().filter(|&n| n > 0)?;
            let when = if item[at..].starts_with('@') { When::At(n) } else { When::OneIn(n) };
            self.rules.push((fault, when));
        }
        Some(())
    }

    /// Reads that were answered so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self, what: Refusal) -> bool {
        self.refusals.contains(&what)
    }

    /// A reader is opened.
    ///
    /// # Errors
    /// `Limit` where it is to be refused.
    pub(super) fn open(&self) -> Result<()> {
        let opening = self.openings.fetch_add(1, Ordering::Relaxed) + 1;
        match self.refused.contains(&opening) {
            true => Err(Error::Limit(format!("{VARIABLE} refuses reader {opening}"))),
            false => Ok(()),
        }
    }

    /// The answer as the reader sees it, for a call that was to fill `window`.
    pub(super) fn answer(&self, window: &mut [u8], answer: io::Result<usize>) -> io::Result<usize> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let chance = splitmix(self.seed ^ call.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let hit = |when: When| match when {
            When::At(n) => n == call,
            When::OneIn(n) => chance.is_multiple_of(n),
        };
        let Some(&(fault, _)) = self.rules.iter().find(|rule| hit(rule.1)) else { return answer };
        let (keep, answer) = match fault {
            Fault::Late(time) => {
                std::thread::sleep(time);
                return answer;
            }
            Fault::Fails(errno) => (0, Err(io::Error::from_raw_os_error(errno))),
            Fault::Short => {
                let keep = answer.map_or(0, |n| (chance >> 32) as usize % n.max(1));
                (keep, Ok(keep))
            }
        };
        window[keep..].fill(0xa5);
        answer
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str, calls: u64) -> Vec<String> {
        let faults = Faults::parse(text).unwrap();
        let one = |_| match faults.answer(&mut [1; 8], Ok(8)) {
            Ok(8) => "fine".to_string(),
            Ok(n) => format!("short {}", n < 8),
            Err(e) => format!("{:?}", e.raw_os_error()),
        };
        (0..calls).map(one).collect()
    }

    #[test]
    fn faults_come_when_they_are_named() {
        assert_eq!(seen("", 2), ["fine", "fine"]);
        assert_eq!(seen("eio@2", 3), ["fine", "Some(5)", "fine"]);
        assert_eq!(seen("eintr@1, eagain@2 ,short@3,delay@4", 4), ["Some(4)", "Some(11)", "short true", "fine"]);
        let often = seen("eio/4,seed=3", 400).iter().filter(|s| *s != "fine").count();
        assert!((60..140).contains(&often), "{often} of 400");
        assert_eq!(seen("eio/4,seed=3", 400), seen("eio/4,seed=3", 400));
        assert_ne!(seen("eio/4,seed=3", 400), seen("eio/4,seed=4", 400));
    }

    #[test]
    fn bytes_that_an_answer_does_not_vouch_for_are_spoilt() {
        for (text, errs) in [("eio@1", true), ("short@1", false)] {
            let mut window = [1; 1000];
            let answer = Faults::parse(text).unwrap().answer(&mut window, Ok(1000));
            assert_eq!(answer.is_err(), errs);
            let good = answer.unwrap_or(0);
            assert!(window[..good].iter().all(|&b| b == 1) && window[good..].iter().all(|&b| b == 0xa5));
        }
    }

    #[test]
    fn openings_are_refused_when_they_are_named() {
        let faults = Faults::parse("open@2,eio@1,open@3").unwrap();
        let refused: Vec<bool> = (0..4).map(|_| faults.open().is_err()).collect();
        assert_eq!(refused, [false, true, true, false]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in [
            "open@0",
            "open@",
            "open/2",
            "eio",
            "eio@0",
            "eio@x",
            "eio@",
            "fire@1",
            "seed=",
            "seed=-1",
            "no-drive",
            "eio@1,short/0",
            "@1",
        ] {
            let error = Faults::parse(text).unwrap_err().to_string();
            let item = text.split(',').next_back().unwrap();
            assert!(error.contains(&format!("AIR_IO_FAULT: `{item}`")) && error.contains("eagain"), "{error}");
        }
    }
}
