//! Many questions at once, in a closed or an open loop, and what is told of their answers.

use crate::client::{End, Outcome, Question};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Connections of this program, which are files.
const FILES: u64 = 16_384;

/// Asks the system for as many files as there may be connections, where it gives them.
pub fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|now| now < FILES) {
        // What is missing shows where it is wanted.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(maximum.map_or(FILES, |m| m.min(FILES))), maximum });
    }
}

/// Quantiles of times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    pub n: usize,
}

/// What came of many requests.
pub struct Summary {
    pub statuses: BTreeMap<u16, usize>,
    pub time: Duration,
    pub tokens: u64,
    /// To the first token.
    pub first: Times,
    /// From one token to the next.
    pub between: Times,
    /// To a 429.
    pub refused: Times,
    /// What is not as it should be, the first few; and how many there are.
    pub wrong: Vec<String>,
    pub all_wrong: usize,
}

/// Keeps so many requests running until so many have been answered.
pub async fn closed_loop(questions: &Arc<Vec<Question>>, streams: usize, requests: usize) -> Summary {
    let (next, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let worker = |_| {
        let (questions, next) = (questions.clone(), next.clone());
        tokio::spawn(async move {
            let mut outcomes = vec![];
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= requests {
                    return outcomes;
                }
                outcomes.push(questions[i % questions.len()].ask().await);
            }
        })
    };
    let outcomes: Vec<Outcome> = joined((0..streams).map(worker).collect()).await.into_iter().flatten().collect();
    Summary::of(&outcomes, begun.elapsed())
}

/// Begins so many requests a second, whatever becomes of the others.
pub async fn open_loop(questions: &Arc<Vec<Question>>, rate: f64, requests: usize) -> Summary {
    let (mut tasks, begun) = (vec![], Instant::now());
    for i in 0..requests {
        tokio::time::sleep_until((begun + Duration::from_secs_f64(i as f64 / rate)).into()).await;
        let questions = questions.clone();
        tasks.push(tokio::spawn(async move { questions[i % questions.len()].ask().await }));
    }
    Summary::of(&joined(tasks).await, begun.elapsed())
}

/// What tasks make, each.
pub async fn joined<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut all = vec![];
    for task in tasks {
        all.push(task.await.expect("a task of this program does not panic"));
    }
    all
}

impl Times {
    /// Of some times.
    pub fn of(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        let at = |q: f64| times.get(((times.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or_default();
        Times { p50: at(0.5), p99: at(0.99), max: at(1.0), n: times.len() }
    }

    fn json(&self) -> Value {
        let ms = |d: Duration| (self.n > 0).then_some(d.as_secs_f64() * 1e3);
        json!({ "p50": ms(self.p50), "p99": ms(self.p99), "max": ms(self.max), "n": self.n })
    }
}

impl Summary {
    /// Of some outcomes.
    pub fn of(outcomes: &[Outcome], time: Duration) -> Summary {
        let mut statuses = BTreeMap::new();
        outcomes.iter().for_each(|o| *statuses.entry(o.status).or_default() += 1);
        let wrong = |o: &Outcome| match &o.end {
            End::Whole | End::Refused => None,
            End::Unanswered(why) | End::Told(why) | End::Wrong(why) => Some(why.clone()),
        };
        let refused = outcomes.iter().filter(|o| o.status == 429).map(|o| o.answered).collect();
        let wrong: Vec<String> = outcomes.iter().filter_map(wrong).collect();
        Summary {
            statuses,
            time,
            tokens: outcomes.iter().map(|o| o.tokens).sum(),
            first: Times::of(outcomes.iter().filter_map(|o| o.first).collect()),
            between: Times::of(outcomes.iter().flat_map(|o| o.between.iter().copied()).collect()),
            refused: Times::of(refused),
            all_wrong: wrong.len(),
            wrong: wrong.into_iter().take(10).collect(),
        }
    }

    /// Tokens a second, of all together.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.time.as_secs_f64()
    }

    /// How many were answered.
    pub fn answered(&self) -> usize {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    /// How many were answered with a status that says that the server failed.
    pub fn failed(&self) -> usize {
        self.statuses.range(500..).map(|(_, n)| n).sum()
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let statuses: BTreeMap<String, usize> = self.statuses.iter().map(|(s, n)| (s.to_string(), *n)).collect();
        json!({
            "requests": self.statuses.values().sum::<usize>(),
            "statuses": statuses,
            "seconds": self.time.as_secs_f64(),
            "tokens": self.tokens,
            "tokens_per_second": self.rate(),
            "ttft_ms": self.first.json(),
            "between_ms": self.between.json(),
            "refused_ms": self.refused.json(),
            "wrong": self.wrong,
        })
    }
}
