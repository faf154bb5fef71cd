//! Signals: Ctrl-C, output to a closed pipe, and the wish that files are read again.
//!
//! A command that runs long calls `watch` once and `check`s between pieces of work: the first Ctrl-C (or SIGTERM)
//! sets a flag, so that the command can remove what it has half written; the second removes that itself and ends
//! the process at once with code 130. A command that does not watch is ended by the first, as usual. `forward` hands
//! Ctrl-C to something that can be cancelled, such as a generation, for as long as it runs. SIGHUP ends a program; one
//! that calls `live_on_hangup` is asked by it to read its files again, as servers are everywhere.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{SigId, flag, low_level};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The flag that Ctrl-C sets. Cheap to copy to other threads.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

/// Takes Ctrl-C over from the system. Calling it again gives the same flag.
///
/// # Errors
/// `Io` when the system refuses the handler.
pub fn watch() -> Result<Interrupt> {
    if let Some(flag) = FLAG.get() {
        return Ok(Interrupt(flag.clone()));
    }
    let new = Arc::new(AtomicBool::new(false));
    let signals = [SIGINT, SIGTERM];
    let mut each = Signals::new(signals).map_err(|e| refused("Ctrl-C", &e))?;
    for signal in signals {
        flag::register(signal, new.clone()).map_err(|e| refused("Ctrl-C", &e))?;
    }
    // A thread may do at the second signal what a handler may not: take locks and remove files.
    let second = move || {
        if each.forever().nth(1).is_some() {
            let doomed = DOOMED.lock().unwrap_or_else(PoisonError::into_inner);
            doomed.iter().for_each(|path| drop(std::fs::remove_file(path)));
            low_level::exit(130);
        }
    };
    let thread = std::thread::Builder::new().name("air-ctrl-c".into()).spawn(second);
    thread.map_err(|e| refused("Ctrl-C", &e))?;
    Ok(Interrupt(FLAG.get_or_init(|| new).clone()))
}

/// Whether somebody watches and Ctrl-C was pressed since.
pub fn was_pressed() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Half-written files.
static DOOMED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// While it lives, a second Ctrl-C removes a file before it ends the process.
#[derive(Debug)]
pub struct Doomed(PathBuf);

impl Doomed {
    /// Names the file, which need not be there.
    pub fn new(path: PathBuf) -> Self {
        DOOMED.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        Doomed(path)
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        let mut doomed = DOOMED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = doomed.iter().position(|path| *path == self.0) {
            doomed.swap_remove(at);
        }
    }
}

/// Whether a write to a closed pipe ends the process.
static PIPE: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// A write to a closed pipe or connection is an error from here on: a server's clients come and go.
pub fn live_on_closed_pipe() {
    if let Some(ends) = PIPE.get() {
        ends.store(false, Ordering::Relaxed);
    }
}

/// Lets a write to a closed pipe end the process, which Rust's runtime would report as an error.
///
/// # Errors
/// `Io` when the system refuses the handler.
pub fn die_on_closed_pipe() -> Result<()> {
    let ends = PIPE.get_or_init(|| Arc::new(AtomicBool::new(true))).clone();
    flag::register_conditional_default(SIGPIPE, ends).map(drop).map_err(|e| refused("SIGPIPE", &e))
}

/// SIGHUP came, and nobody has asked yet.
static HANGUP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// SIGHUP does not end the process from here on; `was_hung_up` tells of it.
///
/// # Errors
/// `Io` when the system refuses the handler.
pub fn live_on_hangup() -> Result<()> {
    let flag = HANGUP.get_or_init(Arc::default).clone();
    flag::register(SIGHUP, flag).map(drop).map_err(|e| refused("SIGHUP", &e))
}

/// Whether SIGHUP came since this was asked last.
pub fn was_hung_up() -> bool {
    HANGUP.get().is_some_and(|flag| flag.swap(false, Ordering::Relaxed))
}

/// While it lives, Ctrl-C (or SIGTERM) also sets a flag of somebody else.
#[derive(Debug)]
pub struct Forward(Vec<SigId>);

/// Hands Ctrl-C to `flag`.
///
/// # Errors
/// `Io` when the system refuses the handler.
pub fn forward(flag: Arc<AtomicBool>) -> Result<Forward> {
    let ids = [SIGINT, SIGTERM].map(|signal| flag::register(signal, flag.clone()));
    ids.into_iter().collect::<std::io::Result<_>>().map(Forward).map_err(|e| refused("Ctrl-C", &e))
}

impl Drop for Forward {
    fn drop(&mut self) {
        for id in &self.0 {
            low_level::unregister(*id);
        }
    }
}

fn refused(signal: &str, e: &std::io::Error) -> Error {
    Error::io(signal, "cannot install the handler", e)
}

impl Interrupt {
    /// Whether Ctrl-C was pressed.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `Cancelled` when Ctrl-C was pressed.
    pub fn check(&self) -> Result<()> {
        if self.is_set() { Err(Error::Cancelled) } else { Ok(()) }
    }
}
