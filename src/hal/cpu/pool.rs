//! The threads: one job at a time, cut into tasks that threads claim one by one.
//!
//! Each thread has a range of its own, which it walks forward, because neighbouring tasks read neighbouring memory and
//! what was asked for ahead of time is then its own; whoever is through takes from the far end of the longest range.
//!
//! Threads spin for a moment between jobs, because the next one usually comes within microseconds, then sleep; an idle
//! pool costs nothing. The caller works too. A job is over when all its tasks have run; a thread that wakes up
//! late finds nothing to claim. A panic in a task ends the job with an error, and the pool stays usable.
//!
//! One word holds the job's number (upper half) and how many tasks are unclaimed (lower half). Claiming is a
//! compare-and-swap of the whole word, so it succeeds only for the current job; until all claimed tasks are done the job
//! is current, which is why the pointer that was read before the claim is still good after it. A claim is a right to one
//! task, and the ranges hold at least as many tasks as there are claims without one, so the search for it ends.

use crate::error::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A task: the thread's number (0 is the caller) and the task's.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Rounds of waiting before a thread sleeps: some tens of microseconds.
const SPIN: u32 = 2000;

/// Persistent threads.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Job number and unclaimed tasks.
    state: AtomicU64,
    /// Points to the caller's `&Task`, while a job runs.
    job: AtomicPtr<()>,
    ranges: Vec<Range>,
    done: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

/// Tasks that a thread has before it: the first (upper half) and the end (lower half). On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Range(AtomicU64);

impl Range {
    fn set(&self, first: u32, end: u32) {
        self.0.store(u64::from(first) << 32 | u64::from(end), Ordering::Relaxed);
    }

    fn len(&self) -> u32 {
        let range = self.0.load(Ordering::Relaxed);
        (range as u32).saturating_sub((range >> 32) as u32)
    }

    /// Takes the first task, or the last one.
    fn take(&self, last: bool) -> Option<usize> {
        let mut range = self.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = (range >> 32, range & UNCLAIMED);
            if first >= end {
                return None;
            }
            let (rest, taken) = if last { (range - 1, end - 1) } else { (range + (1 << 32), first) };
            match self.0.compare_exchange_weak(range, rest, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken as usize),
                Err(now) => range = now,
            }
        }
    }
}

const UNCLAIMED: u64 = 0xffff_ffff;

impl Pool {
    /// A pool of `threads` threads, the caller's included (at least one).
    ///
    /// # Errors
    /// `Limit` where the system refuses a thread.
    pub fn new(threads: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            ranges: (0..threads.max(1)).map(|_| Range::default()).collect(),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Pool { shared, threads: vec![] };
        for n in 1..threads {
            let shared = pool.shared.clone();
            let spawned = std::thread::Builder::new().name(format!("air-cpu-{n}")).spawn(move || shared.work(n));
            pool.threads.push(spawned.map_err(|e| Error::Limit(format!("cannot start thread {n}: {e}")))?);
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `task(thread, i)` for every i below `tasks`, in no particular order.
    ///
    /// # Errors
    /// `Engine` when a task panicked.
    pub fn run(&mut self, tasks: usize, task: &Task) -> Result<()> {
        self.run_if(true, tasks, task)
    }

    /// The same in order: a task begins after all tasks before it have begun, for work that waits for what comes in
    /// order.
    ///
    /// # Errors
    /// `Engine` when a task panicked.
    pub fn run_in_order(&mut self, tasks: usize, task: &Task) -> Result<()> {
        let next = AtomicUsize::new(0);
        let threads = self.threads();
        self.run(threads, &|thread, _| {
            while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < tasks) {
                task(thread, i);
            }
        })
    }

    /// As `run`; on the calling thread alone unless sharing is `worth` it.
    ///
    /// # Errors
    /// `Engine` when a task panicked.
    pub fn run_if(&mut self, worth: bool, tasks: usize, task: &Task) -> Result<()> {
        let shared = &*self.shared;
        if !worth || tasks < 2 || self.threads.is_empty() {
            let all = || (0..tasks).for_each(|i| task(0, i));
            return catch_unwind(AssertUnwindSafe(all)).map_err(|_| panic_error());
        }
        let tasks = u32::try_from(tasks).map_err(|_| Error::Engine(format!("{tasks} tasks in one job")))?;
        shared.panicked.store(false, Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        let threads = shared.ranges.len() as u64;
        let cut = |n: u64| (u64::from(tasks) * n / threads) as u32;
        for (n, range) in (0..).zip(&shared.ranges) {
            range.set(cut(n), cut(n + 1));
        }
        let job: *const &Task = &task;
        shared.job.store(job.cast_mut().cast(), Ordering::Relaxed);
        let number = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        // Pairs with `sleep`: either the sleeper sees the new state or this thread sees the sleeper.
        shared.state.store(number << 32 | u64::from(tasks), Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            shared.wake.notify_all();
        }
        while shared.step(0) {}
        let mut waited = 0;
        while shared.done.load(Ordering::Acquire) < tasks as usize {
            waited += 1;
            if waited < SPIN { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if shared.panicked.load(Ordering::Relaxed) { Err(panic_error()) } else { Ok(()) }
    }
}

/// Rows of a pass that memory binds, as in decoding; the cores bind what has more.
const FEW: usize = 8;

/// The threads of passes with few rows and of those with many: one pool where both are as many.
#[derive(Debug)]
pub struct Pools {
    few: Pool,
    many: Option<Pool>,
}

impl Pools {
    /// `threads` for passes of up to eight rows, `batch` for all others.
    ///
    /// # Errors
    /// `Limit` where the system refuses a thread.
    pub fn new(threads: usize, batch: usize) -> Result<Self> {
        let many = (batch != threads).then(|| Pool::new(batch)).transpose()?;
        Ok(Pools { few: Pool::new(threads)?, many })
    }

    /// The pool for a pass with that many rows.
    pub fn of(&mut self, rows: usize) -> &mut Pool {
        match &mut self.many {
            Some(many) if rows > FEW => many,
            _ => &mut self.few,
        }
    }

    /// The pool for work that more threads always help.
    pub fn largest(&mut self) -> &mut Pool {
        match &mut self.many {
            Some(many) if many.threads() > self.few.threads() => many,
            _ => &mut self.few,
        }
    }

    /// Threads for few rows and for many.
    pub fn threads(&self) -> (usize, usize) {
        (self.few.threads(), self.many.as_ref().unwrap_or(&self.few).threads())
    }
}

fn panic_error() -> Error {
    Error::Engine("a CPU kernel panicked; its message is on standard error".into())
}

impl Shared {
    /// Claims and runs one task of the current job; false if there is none.
    fn step(&self, thread: usize) -> bool {
        let state = self.state.load(Ordering::Acquire);
        if state & UNCLAIMED == 0 {
            return false;
        }
        let job = self.job.load(Ordering::Relaxed);
        if self.state.compare_exchange(state, state - 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return true;
        }
        // SAFETY: the claim succeeded, so the job was current when its pointer was read and stays so until this task
        // counts as done; the caller keeps the reference alive until then.
        let task: &Task = unsafe { *job.cast::<&Task>() };
        let index = self.take(thread);
        if catch_unwind(AssertUnwindSafe(|| task(thread, index))).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }

    /// The task of a claim.
    fn take(&self, thread: usize) -> usize {
        let mut index = self.ranges[thread].take(false);
        loop {
            if let Some(index) = index {
                return index;
            }
            index = self.ranges.iter().max_by_key(|r| r.len()).and_then(|r| r.take(true));
        }
    }

    fn idle(&self) -> bool {
        self.state.load(Ordering::SeqCst) & UNCLAIMED == 0 && !self.stop.load(Ordering::SeqCst)
    }

    /// A thread's life.
    fn work(&self, thread: usize) {
        let mut waited = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.step(thread) {
                waited = 0;
            } else if waited < SPIN {
                waited += 1;
                std::hint::spin_loop();
            } else {
                self.sleep();
                waited = 0;
            }
        }
    }

    fn sleep(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.idle() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_for_any_number_of_threads() {
        for threads in 1..5 {
            let mut pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 3, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|thread, i| {
                    assert!(thread < threads);
                    counts[i].fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn tasks_in_order_begin_in_order() {
        for threads in [1, 3] {
            let mut pool = Pool::new(threads).unwrap();
            let begun = Mutex::new(vec![]);
            // What waits for its predecessor would wait for ever where that had not begun.
            pool.run_in_order(50, &|_, i| {
                begun.lock().unwrap().push(i);
                while begun.lock().unwrap().len() < i {
                    std::thread::yield_now();
                }
            })
            .unwrap();
            let mut begun = begun.into_inner().unwrap();
            begun.sort_unstable();
            assert_eq!(begun, (0..50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn passes_have_the_threads_for_their_rows() {
        let mut pools = Pools::new(1, 3).unwrap();
        assert_eq!([0, 1, 8, 9, 512].map(|rows| pools.of(rows).threads()), [1, 1, 1, 3, 3]);
        assert_eq!((pools.largest().threads(), pools.threads()), (3, (1, 3)));
        let mut pools = Pools::new(3, 1).unwrap();
        assert_eq!([8, 9].map(|rows| pools.of(rows).threads()), [3, 1]);
        assert_eq!((pools.largest().threads(), pools.threads()), (3, (3, 1)));
        let mut pools = Pools::new(2, 2).unwrap();
        assert_eq!([8, 9].map(|rows| pools.of(rows).threads()), [2, 2]);
        assert!(pools.many.is_none());
    }

    #[test]
    fn jobs_follow_each_other_closely_and_after_sleep() {
        let mut pool = Pool::new(3).unwrap();
        let total = AtomicUsize::new(0);
        for n in 0..3000 {
            pool.run(5, &|_, i| {
                total.fetch_add(i, Ordering::Relaxed);
            })
            .unwrap();
            if n % 1000 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        assert_eq!(total.into_inner(), 3000 * 10);
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_lives() {
        for threads in [1, 2] {
            let mut pool = Pool::new(threads).unwrap();
            let failed = pool.run(8, &|_, i| assert!(i != 3, "told to"));
            assert!(matches!(failed, Err(Error::Engine(_))), "{failed:?}");
            pool.run(8, &|_, _| {}).unwrap();
        }
    }
}
