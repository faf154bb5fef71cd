//! How much each key may ask for: requests and tokens per minute.
//!
//! A bucket for each, as large as a minute's allowance and filled evenly. A request takes one from the first when it
//! comes, and from the second as many tokens as its prompt has and its answer may have; what it did not need comes back at
//! its end. One that may need more than a minute's tokens is admitted when the bucket is full, and leaves a debt. The
//! clock is told, so that tests need not wait.

use std::time::{Duration, Instant};

/// What a key may ask for in a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub requests: Option<u32>,
    pub tokens: Option<u32>,
}

/// How much of it is left.
#[derive(Debug)]
pub struct Allowance {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Per minute; as much fits into it.
    size: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(size: u32, now: Instant) -> Bucket {
        Bucket { size: size.into(), left: size.into(), at: now }
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + seconds * self.size / 60.0).min(self.size);
        self.at = now;
    }

    /// How long until there is as much as this; an hour at most, as others' answers may end before.
    fn wait(&self, wanted: f64) -> Option<Duration> {
        let missing = wanted - self.left;
        // At least a request a minute, or somebody who is never admitted would be told to come again.
        (missing > 0.0).then(|| Duration::from_secs_f64((missing * 60.0 / self.size.max(1.0)).min(3600.0)))
    }
}

impl Allowance {
    /// All of it.
    pub fn new(limits: Limits, now: Instant) -> Allowance {
        let bucket = |size: Option<u32>| size.map(|size| Bucket::new(size, now));
        Allowance { requests: bucket(limits.requests), tokens: bucket(limits.tokens) }
    }

    /// Admits a request that may need so many tokens.
    ///
    /// # Errors
    /// How long it must wait; nothing was taken.
    pub fn admit(&mut self, now: Instant, tokens: u64) -> Result<(), Duration> {
        let mut both = [(&mut self.requests, 1.0), (&mut self.tokens, tokens as f64)];
        let mut wait = None;
        for (bucket, wanted) in &mut both {
            if let Some(bucket) = bucket {
                bucket.fill(now);
                wait = wait.max(bucket.wait(wanted.min(bucket.size).max(1.0)));
            }
        }
        if let Some(wait) = wait {
            return Err(wait);
        }
        for (bucket, wanted) in both {
            if let Some(bucket) = bucket {
                bucket.left -= wanted;
            }
        }
        Ok(())
    }

    /// Of the tokens that a request might need, it has used so many.
    pub fn settle(&mut self, reserved: u64, used: u64, now: Instant) {
        if let Some(bucket) = &mut self.tokens {
            bucket.left += reserved as f64 - used as f64;
            bucket.fill(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(from: Instant, seconds: f64) -> Instant {
        from + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn requests_come_back_evenly() {
        let t = Instant::now();
        let mut a = Allowance::new(Limits { requests: Some(6), tokens: None }, t);
        assert!((0..6).all(|_| a.admit(t, 1).is_ok()));
        assert_eq!(a.admit(t, 1), Err(Duration::from_secs(10)));
        assert!(a.admit(after(t, 9.9), 1).is_err());
        assert!(a.admit(after(t, 10.1), 1).is_ok());
        assert!(a.admit(after(t, 10.2), 1).is_err());
        // Never more than a minute's, however long nothing came.
        let later = after(t, 1e6);
        assert_eq!((0..9).filter(|_| a.admit(later, 1).is_ok()).count(), 6);
    }

    #[test]
    fn tokens_that_may_be_needed_are_taken_and_the_others_come_back() {
        let t = Instant::now();
        let mut a = Allowance::new(Limits { requests: None, tokens: Some(600) }, t);
        assert!(a.admit(t, 400).is_ok());
        // 100 are missing, at ten a second.
        assert_eq!(a.admit(t, 300), Err(Duration::from_secs(10)));
        a.settle(400, 50, t);
        assert!(a.admit(t, 300).is_ok());
        a.settle(300, 0, t);
        assert!(a.admit(t, 551).is_err() && a.admit(t, 550).is_ok());
    }

    #[test]
    fn more_than_a_minutes_tokens_leave_a_debt_that_is_paid_before_anything_more() {
        let t = Instant::now();
        let mut a = Allowance::new(Limits { requests: None, tokens: Some(600) }, t);
        assert!(a.admit(t, 900).is_ok());
        // 300 and one at ten a second.
        assert_eq!(a.admit(t, 1), Err(Duration::from_secs_f64(30.1)));
        a.settle(900, 800, t);
        assert!(a.admit(after(t, 20.2), 1).is_ok());
        // Never more than a minute's.
        a.settle(1_000_000, 0, after(t, 21.0));
        assert!(a.admit(after(t, 21.0), 600).is_ok() && a.admit(after(t, 21.0), 1).is_err());
        let mut none = Allowance::new(Limits { requests: None, tokens: Some(0) }, t);
        assert!(none.admit(after(t, 1e5), 0).is_err());
    }

    #[test]
    fn without_limits_all_is_admitted() {
        let t = Instant::now();
        let mut a = Allowance::new(Limits::default(), t);
        a.settle(0, u64::MAX, t);
        assert!((0..1000).all(|_| a.admit(t, 1).is_ok()));
        let mut none = Allowance::new(Limits { requests: Some(0), tokens: None }, t);
        assert!(none.admit(after(t, 1e5), 1).is_err());
    }
}
