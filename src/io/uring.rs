//! Reads that the kernel does while nobody waits: io_uring.
//!
//! The caller's own thread puts reads into a ring of memory that it shares with the kernel and finds answers there; one
//! system call moves many. The slots that the reader was opened with are registered: their pages stay where they are,
//! and the kernel need not look them up for every read. Where registration is refused (a small limit of locked memory)
//! reads go without. Containers often refuse io_uring altogether, and old kernels lack parts of it, so opening makes
//! sure of it with true reads.
//!
//! No more than `depth` reads are in the kernel's hands; the others wait here. Memory that the kernel may still write
//! to is never given back: dropping waits for it, and for a drive that never answers leaves it. Reads belong to the
//! thread that submits them; when it ends, the kernel gives them up, and they are begun again by whoever waits.

use super::faults::Refusal;
use super::memory::{ALIGN, Area, Slot, slots};
use super::pread::finish;
use super::target::{Target, how};
use super::transfer::Transfer;
use super::{Done, Options, Read, Reader};
use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kernel takes no more registered buffers, and none that is larger.
const MOST_BUFFERS: usize = 16384;
const LARGEST_BUFFER: usize = 1 << 30;

/// Bytes asked for by one entry, whose length has 32 bits; the rest follows as after any short read.
const LARGEST_READ: usize = 1 << 30;

/// Pause after a refusal of the system call that waits.
const PAUSE: Duration = Duration::from_millis(1);

/// A drive that does not answer for so long keeps the memory.
const LONGEST_DROP: Duration = Duration::from_secs(60);

/// A ring and the reads that it holds.
pub(super) struct Uring {
    ring: IoUring,
    targets: Arc<[Target]>,
    options: Options,
    registered: Registered,
    /// Reads in the kernel's hands, by the number that it returns with the answer.
    busy: Vec<Option<Transfer>>,
    waiting: VecDeque<Transfer>,
    done: VecDeque<Done>,
    in_flight: usize,
}

/// What the kernel knows already.
#[derive(Default)]
struct Registered {
    /// Files, by the number of their target.
    files: bool,
    /// Start and length of buffers, ascending; the kernel knows them by their place here.
    buffers: Vec<(usize, usize)>,
    /// Keeps the buffers: their addresses must not come to mean something else.
    _areas: Vec<Arc<Area>>,
}

impl Registered {
    /// The number of the buffer that holds this memory.
    fn buffer(&self, start: usize, len: usize) -> Option<u16> {
        let i = self.buffers.partition_point(|b| b.0 <= start).checked_sub(1)?;
        let (begin, size) = self.buffers[i];
        (start - begin + len <= size).then_some(i as u16)
    }
}

impl Uring {
    /// Sets it up and reads a page of every file; the line says where registration is refused.
    ///
    /// # Errors
    /// What the system says where it refuses.
    pub fn new(targets: Arc<[Target]>, given: &[Arc<Slot>], options: &Options) -> io::Result<(Uring, Option<String>)> {
        if options.refuse(Refusal::Uring) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let ring = IoUring::new(options.depth as u32)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel is older than 5.11"));
        }
        let mut uring = Uring {
            ring,
            targets,
            options: Options { faults: None, ..options.clone() },
            registered: Registered::default(),
            busy: (0..options.depth).map(|_| None).collect(),
            waiting: VecDeque::new(),
            done: VecDeque::new(),
            in_flight: 0,
        };
        let scratch = slots(1, 3 * ALIGN).map_err(io::Error::other)?.remove(0);
        let refused = uring.register(given, &scratch, options).err();
        let fallen = uring.try_files(scratch)?;
        let note = refused.or(fallen).map(|e| {
            format!("io_uring: registering buffers or files is refused ({e}; see `ulimit -l`); reading without")
        });
        uring.options = options.clone();
        Ok((uring, note))
    }

    /// Makes files and buffers known. What was refused is read without.
    fn register(&mut self, given: &[Arc<Slot>], scratch: &Arc<Slot>, options: &Options) -> io::Result<()> {
        if options.refuse(Refusal::Registration) {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let fds: Vec<i32> = self.targets.iter().map(|t| t.file().map_or(-1, |file| file.as_raw_fd())).collect();
        if fds.iter().any(|&fd| fd >= 0) {
            self.ring.submitter().register_files(&fds)?;
            self.registered.files = true;
        }
        let mut parts: Vec<(usize, usize)> = given.iter().chain([scratch]).map(|slot| slot.place()).collect();
        parts.retain(|part| part.1 <= LARGEST_BUFFER);
        parts.sort_unstable();
        let mut buffers: Vec<(usize, usize)> = vec![];
        for (start, len) in parts {
            match buffers.last_mut().filter(|b| b.0 + b.1 == start && b.1 + len <= LARGEST_BUFFER) {
                Some(before) => before.1 += len,
                None => buffers.push((start, len)),
            }
        }
        buffers.truncate(MOST_BUFFERS);
        let vectors = |&(start, len): &(usize, usize)| libc::iovec { iov_base: start as *mut _, iov_len: len };
        let vectors: Vec<libc::iovec> = buffers.iter().map(vectors).collect();
        // SAFETY: the buffers are parts of areas that are kept below, as long as the ring has them.
        unsafe { self.ring.submitter().register_buffers(&vectors)? };
        self.registered.buffers = buffers;
        self.registered._areas = given.iter().chain([scratch]).map(|slot| Arc::clone(slot.area())).collect();
        Ok(())
    }

    /// Reads the beginning of every file; where that fails with what is registered, without, and the error is of
    /// before.
    fn try_files(&mut self, mut scratch: Arc<Slot>) -> io::Result<Option<io::Error>> {
        let mut fallen = None;
        let mut source = 0;
        while source < self.targets.len() {
            let len = self.targets[source].source.len().min(ALIGN as u64) as usize;
            self.submit(Read { source, offset: 0, len, tag: 0 }, scratch);
            let done = self.wait();
            scratch = done.slot;
            match done.result {
                Ok(()) => source += 1,
                Err(e) if self.registered.files => {
                    fallen = Some(io::Error::other(e));
                    self.registered = Registered::default();
                    // what stays registered is not used
                    let _ = self.ring.submitter().unregister_buffers();
                    let _ = self.ring.submitter().unregister_files();
                }
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(fallen)
    }

    /// Gives waiting reads to the kernel, as many as it may hold.
    fn pump(&mut self) {
        for i in 0..self.busy.len() {
            if self.waiting.is_empty() {
                break;
            }
            if self.busy[i].is_some() {
                continue;
            }
            let Some(mut transfer) = self.waiting.pop_front() else { break };
            let entry = self.entry(&mut transfer).user_data(i as u64);
            // SAFETY: the memory belongs to the transfer, which stays in `busy`, untouched, until the kernel's answer;
            // the files are open as long as the targets.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            // the ring has room for all that may be busy; else the next answer makes some
            match pushed {
                Ok(()) => self.busy[i] = Some(transfer),
                Err(_) => return self.waiting.push_front(transfer),
            }
        }
        // what is not taken now is taken by the next call
        let _ = self.ring.submit();
    }

    /// What to ask the kernel for.
    fn entry(&self, transfer: &mut Transfer) -> squeue::Entry {
        let number = transfer.read.source;
        let (offset, window) = transfer.window();
        let (start, len) = (window.as_mut_ptr(), window.len().min(LARGEST_READ));
        let file = self.targets[number].file().expect("only files are given to the kernel").as_raw_fd();
        let buffer = self.registered.buffer(start as usize, len);
        let (fixed, len) = (Fixed(number as u32), len as u32);
        match (buffer, self.registered.files) {
            (Some(b), true) => opcode::ReadFixed::new(fixed, start, len, b).offset(offset).build(),
            (Some(b), false) => opcode::ReadFixed::new(Fd(file), start, len, b).offset(offset).build(),
            (None, true) => opcode::Read::new(fixed, start, len).offset(offset).build(),
            (None, false) => opcode::Read::new(Fd(file), start, len).offset(offset).build(),
        }
    }

    /// Takes what the kernel has answered.
    fn reap(&mut self) {
        loop {
            let Some(answer) = self.ring.completion().next() else { break };
            let Some(mut transfer) = self.busy[answer.user_data() as usize].take() else { continue };
            let target = &self.targets[transfer.read.source];
            let answer = match answer.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Ok(n as usize),
            };
            let answer = match &self.options.faults {
                Some(faults) => faults.answer(transfer.window().1, answer),
                None => answer,
            };
            match transfer.answer(target, answer) {
                Some(result) => self.done.push_back(transfer.done(target, result)),
                None => {
                    std::thread::sleep(transfer.pause());
                    self.waiting.push_front(transfer);
                }
            }
        }
        if !self.waiting.is_empty() {
            self.pump();
        }
    }

    /// Sleeps until the kernel has an answer, or for that time.
    fn sleep(&self, time: Duration) {
        let time = Timespec::from(time);
        if let Err(e) = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)) {
            let expected = matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR));
            if !expected {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Reader for Uring {
    fn description(&self) -> String {
        let without = if self.registered.buffers.is_empty() { ", nothing registered" } else { "" };
        format!("io_uring, {} at once, {}{without}", self.busy.len(), how(&self.targets))
    }

    fn submit(&mut self, read: Read, slot: Arc<Slot>) {
        let target = &self.targets[read.source];
        let transfer = Transfer::new(read, slot, target);
        self.in_flight += 1;
        match transfer {
            Err(done) => self.done.push_back(done),
            Ok(transfer) if target.file().is_none() => {
                self.done.push_back(finish(transfer, target, self.options.faults.as_deref()));
            }
            Ok(transfer) => {
                self.waiting.push_back(transfer);
                self.pump();
            }
        }
    }

    fn wait_for(&mut self, time: Duration) -> Option<Done> {
        assert!(self.in_flight > 0, "nothing is being read");
        let end = Instant::now() + time;
        loop {
            self.reap();
            if let Some(done) = self.done.pop_front() {
                self.in_flight -= 1;
                return Some(done);
            }
            self.sleep(end.checked_duration_since(Instant::now())?);
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let end = Instant::now() + LONGEST_DROP;
        while self.busy.iter().any(Option::is_some) {
            if Instant::now() > end {
                // Better lost than written to after it has another owner.
                std::mem::forget(std::mem::take(&mut self.busy));
                return;
            }
            self.sleep(Duration::from_secs(1));
            while let Some(answer) = self.ring.completion().next() {
                self.busy[answer.user_data() as usize] = None;
            }
        }
        // The system would keep the buffers' memory for a while after the ring is gone.
        let _ = self.ring.submitter().unregister_buffers();
    }
}
