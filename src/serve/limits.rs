//! How much each key may ask for: requests and tokens per minute.
//!
//! A bucket for each, as large as a minute's allowance and filled evenly. A request takes one from the first when it
//! comes; its tokens, of prompt and answer, are taken from the second when they are known, which may leave a debt: until
//! that is filled up nothing more is admitted. The clock is told, so that tests need not wait.

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

    /// How long until there is as much as this.
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

    /// Admits a request.
    ///
    /// # Errors
    /// How long it must wait; nothing was taken.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let mut wait = None;
        for (bucket, wanted) in [(&mut self.requests, 1.0), (&mut self.tokens, 1.0)] {
            if let Some(bucket) = bucket {
                bucket.fill(now);
                wait = wait.max(bucket.wait(wanted));
            }
        }
        match (wait, &mut self.requests) {
            (Some(wait), _) => Err(wait),
            (None, Some(bucket)) => {
                bucket.left -= 1.0;
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// Takes tokens that were computed.
    pub fn charge(&mut self, tokens: u64, now: Instant) {
        if let Some(bucket) = &mut self.tokens {
            bucket.fill(now);
            bucket.left -= tokens as f64;
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
        assert!((0..6).all(|_| a.admit(t).is_ok()));
        assert_eq!(a.admit(t), Err(Duration::from_secs(10)));
        assert!(a.admit(after(t, 9.9)).is_err());
        assert!(a.admit(after(t, 10.1)).is_ok());
        assert!(a.admit(after(t, 10.2)).is_err());
        // Never more than a minute's, however long nothing came.
        let later = after(t, 1e6);
        assert_eq!((0..9).filter(|_| a.admit(later).is_ok()).count(), 6);
    }

    #[test]
    fn tokens_may_leave_a_debt_that_is_paid_before_anything_more() {
        let t = Instant::now();
        let mut a = Allowance::new(Limits { requests: None, tokens: Some(600) }, t);
        assert!(a.admit(t).is_ok());
        a.charge(900, t);
        // 300 and one at ten a second.
        assert_eq!(a.admit(t), Err(Duration::from_secs_f64(30.1)));
        assert!(a.admit(after(t, 30.2)).is_ok());
    }

    #[test]
    fn without_limits_all_is_admitted() {
        let t = Instant::now();
        let mut a = Allowance::new(Limits::default(), t);
        a.charge(u64::MAX, t);
        assert!((0..1000).all(|_| a.admit(t).is_ok()));
        let mut none = Allowance::new(Limits { requests: Some(0), tokens: None }, t);
        assert!(none.admit(after(t, 1e5)).is_err());
    }
}
