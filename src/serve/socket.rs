//! The sockets that a server listens on. They are bound before anything else, so that what is wrong is known at once, and
//! said in the words of the flags that gave them. One that other machines reach needs keys, or somebody who says that
//! none are needed.

use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

/// Connections that the system keeps until they are accepted, if it allows that: a thousand may come at once, and who
/// finds no room tries again after a second. `TcpListener::bind` asks for 128.
const BACKLOG: i32 = 4096;

/// The flags that say where a socket listens.
pub struct Flags {
    host: &'static str,
    port: &'static str,
}

/// Of the API.
pub const MAIN: Flags = Flags { host: "--host", port: "--port" };
/// Of those who watch it.
pub const METRICS: Flags = Flags { host: "--metrics-host", port: "--metrics-port" };

/// One that is bound.
pub struct Bound {
    pub socket: TcpListener,
    pub address: SocketAddr,
}

impl Bound {
    /// Binds one; port 0 is any that is free. Only where it is `open` may other machines reach it.
    ///
    /// # Errors
    /// `Invalid` for a host that is none, or one that needs keys; `Io` for an address that cannot be had.
    pub fn new(host: &str, port: u16, open: bool, flags: &Flags) -> Result<Bound> {
        let at = resolve(host, port, flags)?;
        if !at.ip().is_loopback() && !open {
            return Err(Error::Invalid(format!(
                "{} {host} can be reached from other machines: give --api-key-file FILE, or --insecure to let anybody in",
                flags.host
            )));
        }
        let failed = |e: std::io::Error| {
            let port = flags.port;
            let hint = match e.kind() {
                ErrorKind::AddrInUse => format!("; somebody has it already: give another {port}, or 0 for any"),
                ErrorKind::PermissionDenied => format!("; ports below 1024 need rights: give another {port}"),
                _ => String::new(),
            };
            Error::Io { file: at.to_string(), problem: format!("cannot listen: {e}{hint}") }
        };
        let socket = TcpListener::bind(at).map_err(failed)?;
        // Once more, with room.
        rustix::net::listen(&socket, BACKLOG).map_err(|e| failed(e.into()))?;
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Bound { socket, address })
    }
}

fn resolve(host: &str, port: u16, flags: &Flags) -> Result<SocketAddr> {
    // `[::1]` is how an IPv6 address stands before a port.
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok((ip, port).into());
    }
    let found = (bare, port).to_socket_addrs().ok().and_then(|mut all| all.next());
    let none = format!("{} {host} is no address of this machine; give 127.0.0.1 or 0.0.0.0", flags.host);
    found.ok_or(Error::Invalid(none))
}
