//! The HTTP server: OpenAI's API over one engine.
//!
//! A connection is hyper's, a request axum's, an answer the engine's: what is asked is read and turned into tokens on a
//! blocking thread, submitted, and its events come back through a channel that the engine's thread fills and never waits
//! for. A client that leaves drops its answer, and that cancels it.
//!
//! The socket is bound before the model is loaded, so that a port in use is known at once; until the model is ready, and
//! while the server ends, requests are refused with 503, and new connections not taken. The first signal ends it politely: nothing new is taken, what
//! runs may end within the grace period, the rest is cut off with an error that says so. The second ends it at once.
//!
//! It is safe by default: it listens on the loopback address only, asks for keys elsewhere, believes no other host's
//! name and no other page's script, and bounds bodies, headers, connections, waiting and silence. It writes
//! no prompt down; what the engine keeps of ended texts, for those that begin alike, is in memory and each tenant's own.

mod about;
mod access;
mod answer;
mod app;
mod document;
mod files;
mod guard;
mod input;
mod keys;
mod limits;
mod listen;
mod metrics;
mod places;
mod refusal;
mod routes;
mod socket;
mod sse;
#[cfg(test)]
mod tests;
mod tls;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::sample::Params;
use app::App;
use listen::Listening;
use socket::Bound;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use tls::TlsFiles;

/// How a server listens and what it takes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name or address to listen on.
    pub host: String,
    /// Port; 0 is any that is free.
    pub port: u16,
    /// Host and port of `/metrics`, `/health` and `/ready`, which ask for no keys and speak no TLS; without it all are
    /// with the rest, behind its TLS.
    pub metrics: Option<(String, u16)>,
    /// File of the keys of which requests must have one, but for those that ask for signs of life or the document.
    pub keys: Option<PathBuf>,
    /// Speak TLS with this certificate.
    pub tls: Option<TlsFiles>,
    /// Listen on other than loopback addresses without keys.
    pub insecure: bool,
    /// Further names of the model; the first is the one that answers bear.
    pub aliases: Vec<String>,
    /// Where a request says nothing about sampling.
    pub sampling: Params,
    /// Where a request says nothing about its length; the rest of the context, when not given.
    pub max_tokens: Option<u32>,
    /// Choices that may run or wait at once; more are refused with 429.
    pub most: usize,
    /// How long an answer may take, waiting included, if that is limited.
    pub timeout: Option<Duration>,
    /// How long answers may go on after the first signal to end.
    pub grace: Duration,
    /// How long clients may take.
    pub patience: Patience,
}

/// How long clients may take before their connection is closed.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the head of a request to come, between requests, and for TLS to begin.
    pub head: Duration,
    /// For a body to come.
    pub body: Duration,
    /// To read anything of what is sent to them.
    pub deaf: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Patience { head: seconds(30), body: seconds(30), deaf: seconds(60) }
    }
}

/// What a server is told while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// To go on.
    Nothing,
    /// To read its files again.
    Reload,
    /// To end.
    End,
}

/// A socket that is bound, and what will be answered there.
pub struct Server {
    app: Arc<App>,
    bound: Bound,
    watched: Option<Bound>,
    runtime: tokio::runtime::Runtime,
}

/// Threads for connections; what is long runs elsewhere.
const THREADS: usize = 2;
/// Threads on which bodies are read and texts become tokens.
const BLOCKING_THREADS: usize = 8;
/// How often the thread that started the server looks what it is told.
const LOOK: Duration = Duration::from_millis(50);
/// How long cut-off answers may take to say so, and what is no answer to come to its end.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Server {
    /// Binds its sockets.
    ///
    /// # Errors
    /// `Invalid` for a host that is none, or one that needs keys; `Io` for an address that cannot be had, and for a file
    /// of keys or a certificate that cannot be read.
    pub fn bind(options: Options) -> Result<Server> {
        let open = options.keys.is_some() || options.insecure;
        let bound = Bound::new(&options.host, options.port, open, &socket::MAIN)?;
        let watched = options.metrics.as_ref();
        let watched = watched.map(|(host, port)| Bound::new(host, *port, open, &socket::METRICS)).transpose()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("air-http")
            .enable_all()
            .build()
            .map_err(|e| Error::io("the server", "cannot start threads", &e))?;
        Ok(Server { app: Arc::new(App::new(options)?), bound, watched, runtime })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// How clients begin what they ask for.
    pub fn url(&self) -> String {
        let scheme = if self.app.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.bound.address)
    }

    /// Where its figures are, if that is a port of their own.
    pub fn metrics_url(&self) -> Option<String> {
        self.watched.as_ref().map(|at| format!("http://{}/metrics", at.address))
    }

    /// Answers until `told` says to end: first that the model is being loaded, then what is asked of it. `load` loads it;
    /// `ready` hears of it when requests are answered.
    ///
    /// # Errors
    /// Those of `load`; `Engine` when the engine ends by itself.
    pub fn run(
        self,
        load: impl FnOnce() -> Result<Engine>,
        ready: impl FnOnce(&Engine) -> Result<()>,
        mut told: impl FnMut() -> Told,
    ) -> Result<()> {
        let Server { app, bound, watched, runtime } = self;
        let listening = Listening::start(&runtime, app.clone(), bound, watched)?;
        let engine = load()?;
        warm(&engine)?;
        app.set(engine);
        app.engine().map_or(Ok(()), ready)?;
        let result = loop {
            match told() {
                Told::Nothing => {}
                Told::Reload => app.reload(),
                Told::End => break Ok(()),
            }
            if app.engine().is_some_and(|e| e.silent_for().is_none()) {
                break Err(Error::Engine("the engine has stopped; see above, and start the server again".into()));
            }
            std::thread::sleep(LOOK);
        };
        let grace = app.options.grace;
        app.end();
        listening.stop();
        // A connection that asks for nothing does not hold the end up.
        let mut quiet = None;
        wait(grace, || {
            let idle = app.places.taken() == 0;
            quiet = idle.then(|| quiet.unwrap_or_else(Instant::now));
            listening.connections() == 0 || quiet.is_some_and(|since| since.elapsed() > LAST_WORDS)
        });
        app.cut();
        wait(LAST_WORDS, || listening.connections() == 0);
        runtime.shutdown_timeout(LAST_WORDS);
        result
    }
}

fn wait(most: Duration, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() && begun.elapsed() < most {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One token through the whole model: what is slow the first time is not slow for the first client.
fn warm(engine: &Engine) -> Result<()> {
    let request = crate::engine::Request { max_tokens: 1, ..Default::default() };
    match engine.submit(request)?.text() {
        // A model without a token to start from is warmed by its first client.
        Ok(_) | Err(Error::Invalid(_)) => Ok(()),
        Err(e) => Err(e),
    }
}
