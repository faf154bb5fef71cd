//! Connections: accepted up to a bound, each with a limit to how long it may be silent or deaf. Where TLS is spoken, it
//! begins in the connection's own task: nobody else waits for a client that does not answer.
//!
//! Its own loop and not axum's, which knows neither a timeout for headers nor one for a client that does not read.

use super::app::{App, router, watching};
use super::socket::Bound;
use crate::error::{Error, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

/// Most connections.
const MAX_CONNECTIONS: u64 = 8192;
/// Most of them to the port of those who watch.
const WATCHERS: usize = 32;
/// Files that the process opens for other things.
const OTHER_FILES: u64 = 128;
/// Bytes that a connection reads ahead; a head that does not fit is refused with 431.
const MAX_HEAD: usize = 64 << 10;
/// How often measured times are counted, though nobody asks for them.
const TIDY: Duration = Duration::from_secs(5);
/// How often files are looked at that may have changed.
const FILES: Duration = Duration::from_secs(1);
/// Pause when the system gives no further connection.
const REST: Duration = Duration::from_millis(50);

/// A server that accepts connections.
pub struct Listening {
    stop: watch::Sender<bool>,
    /// For the port of those who watch, to whom it is open as long as the server is.
    _last: watch::Sender<bool>,
    room: Arc<Room>,
}

/// Connections that there may be.
struct Room {
    free: Arc<Semaphore>,
    most: usize,
}

impl Room {
    fn new(most: usize) -> Arc<Room> {
        Arc::new(Room { free: Arc::new(Semaphore::new(most)), most })
    }

    fn taken(&self) -> usize {
        self.most - self.free.available_permits()
    }
}

impl Listening {
    /// Begins to accept.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn start(
        runtime: &tokio::runtime::Runtime,
        app: Arc<App>,
        main: Bound,
        watched: Option<Bound>,
    ) -> Result<Listening> {
        let _inside = runtime.enter();
        let (stop, stopped) = watch::channel(false);
        let (last, ended) = watch::channel(false);
        let room = Room::new(connections());
        let local = |at: &Bound| at.address.ip().is_loopback();
        let door = Door { router: router(app.clone(), local(&main)), tls: true, app: app.clone() };
        runtime.spawn(accept(listener(main)?, door, stopped, room.clone()));
        if let Some(at) = watched {
            let door = Door { router: watching(app.clone(), local(&at)), tls: false, app: app.clone() };
            // Who watches finds a place however many ask.
            runtime.spawn(accept(listener(at)?, door, ended, Room::new(WATCHERS)));
        }
        runtime.spawn(tidy(app.clone()));
        runtime.spawn(refresh(app));
        Ok(Listening { stop, _last: last, room })
    }

    /// Accepts no more, and ends connections with the request that they are at.
    pub fn stop(&self) {
        // Without a receiver there is nothing left to stop.
        let _ = self.stop.send(true);
    }

    /// How many connections there are to the API.
    pub fn connections(&self) -> usize {
        self.room.taken()
    }
}

/// What is behind a port.
#[derive(Clone)]
struct Door {
    router: Router,
    /// Whether TLS is spoken, where the server has a certificate.
    tls: bool,
    app: Arc<App>,
}

fn listener(at: Bound) -> Result<TcpListener> {
    TcpListener::from_std(at.socket).map_err(|e| Error::io(at.address.to_string(), "cannot listen", &e))
}

/// As many as there may be open files, of which the system is asked for more where it allows that.
fn connections() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = MAX_CONNECTIONS + OTHER_FILES;
    let raised = maximum.map_or(wanted, |m| m.min(wanted));
    let files = match current {
        Some(current) if current < raised => {
            let more = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum });
            more.map_or(current, |()| raised)
        }
        Some(current) => current.min(wanted),
        None => wanted,
    };
    files.saturating_sub(OTHER_FILES).clamp(8, MAX_CONNECTIONS) as usize
}

async fn tidy(app: Arc<App>) {
    loop {
        tokio::time::sleep(TIDY).await;
        app.metrics.tidy();
    }
}

/// On a thread that may wait: the files may lie on a drive that does not answer.
async fn refresh(app: Arc<App>) {
    loop {
        tokio::time::sleep(FILES).await;
        let app = app.clone();
        // It does not panic; if it does, there is the next time.
        let _ = tokio::task::spawn_blocking(move || app.refresh()).await;
    }
}

async fn accept(listener: TcpListener, door: Door, mut stopped: watch::Receiver<bool>, room: Arc<Room>) {
    loop {
        let place = async { room.free.clone().acquire_owned().await.expect("it is never closed") };
        let next = async {
            let place = place.await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            _ = stopped.changed() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (door, stopped) = (door.clone(), stopped.clone());
                tokio::spawn(async move {
                    connection(stream, door, stopped).await;
                    drop(place);
                });
            }
            // Of this connection, or of all for a while: too many open files.
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

/// One connection to its end.
async fn connection(stream: TcpStream, door: Door, mut stopped: watch::Receiver<bool>) {
    let Door { router, tls, app } = door;
    // Tokens are small and wanted at once; without it they only come later.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(app.options.patience.deaf));
    let stream = Box::pin(stream);
    let Some(tls) = app.tls.as_ref().filter(|_| tls) else { return speak(stream, router, &app, stopped).await };
    let begun = tokio::select! {
        biased;
        // It has not asked for anything.
        _ = stopped.changed() => return,
        begun = timeout(app.options.patience.head, tls.acceptor().accept(stream)) => begun,
    };
    match begun {
        Ok(Ok(stream)) => speak(stream, router, &app, stopped).await,
        // Its client has noticed, and whoever sets up a server may want to know.
        Ok(Err(e)) => tracing::debug!("a client does not agree on TLS: {e}"),
        Err(_) => tracing::debug!("a client does not begin TLS"),
    }
}

/// HTTP, until one of both ends it.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    app: &App,
    mut stopped: watch::Receiver<bool>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(app.options.patience.head).max_buf_size(MAX_HEAD);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        // What is wrong with a connection its client has noticed.
        _ = connection.as_mut() => return,
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
