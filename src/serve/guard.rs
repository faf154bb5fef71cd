//! What stands before every request: who asks, from where, and that a failure stays its own.

use super::access::{Line, Notes};
use super::app::App;
use super::refusal::Refusal;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Who can send requests here.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// Only this machine.
    pub local: bool,
    /// Also who has no key. Whoever has one may come by any name: a browser gives none to other sites' pages.
    pub open: bool,
}

/// Every response says which request it answers, as the log does, and a panic ends its own request only.
pub async fn every(State((app, from)): State<(Arc<App>, Origin)>, mut request: Request, next: Next) -> Response {
    let line = Line::begin(app, &mut request);
    let response = match place(from, &request) {
        Err(refusal) => refusal.into_response(),
        Ok(()) => AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Refusal::broken().into_response()),
    };
    line.follow(response)
}

/// A page of another site must not speak through a browser to a server that only this machine should reach: neither by
/// a name that it has pointed here (DNS rebinding) nor by a script.
///
/// # Errors
/// 400 for a request that does not say where it goes (RFC 9112, 3.2), 403 for those.
fn place(from: Origin, request: &Request) -> Result<(), Refusal> {
    let Origin { local, open } = from;
    let headers = request.headers();
    let said = |name| headers.get_all(name).iter().map(|v: &HeaderValue| v.to_str().unwrap_or("?"));
    let mut hosts = said(header::HOST);
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || (first.is_none() && request.version() == Version::HTTP_11) {
        return Err(Refusal::invalid("a request has one Host header, which says where it goes"));
    }
    // The target of a request counts where it has a host.
    let host = request.uri().authority().map(|a| a.as_str()).or(first);
    if local && open && host.is_some_and(|host| !is_local(host)) {
        let problem = "Host is not this machine: the server listens on the loopback address only; behind a proxy, give it \
            keys (--api-key-file)";
        return Err(Refusal::forbidden(problem));
    }
    let mut origins = said(header::ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, from)| from));
    if open && origins.any(|from| host != Some(from)) {
        return Err(Refusal::forbidden("Origin is another site's, which may not ask here without a key"));
    }
    Ok(())
}

/// Whether a host, with or without a port, is this machine by a name that nobody else gives out.
fn is_local(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or(("", "")),
        None => host.split_at(host.rfind(':').unwrap_or(host.len())),
    };
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
    let local = |ip: std::net::IpAddr| ip.to_canonical().is_loopback();
    port && (name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(local))
}

/// Who asks; 0 is anybody. And what is noted of it.
#[derive(Debug, Clone)]
pub struct Caller {
    pub tenant: u64,
    pub notes: Notes,
}

/// Where there are keys, a request must have one.
pub async fn keys(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let notes = request.extensions().get::<Notes>().cloned().unwrap_or_default();
    let mut who = 0;
    if let Some(keys) = &app.keys {
        let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let key = given.and_then(|v| match v.split_at_checked(7) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"Bearer ") => Some(key.trim_ascii()),
            _ => None,
        });
        let Some(key) = key else { return Refusal::no_key().into_response() };
        match keys.accept(key) {
            None => return Refusal::wrong_key().into_response(),
            Some(tenant) => who = tenant,
        }
        notes.tenant(who);
    }
    request.extensions_mut().insert(Caller { tenant: who, notes });
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn local_names_are_those_that_nobody_else_gives_out() {
        for host in
            ["localhost", "LocalHost:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:8080", "[::1]", "[::ffff:127.0.0.1]"]
        {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "10.0.0.1:80",
            "[::2]:1",
            "",
            "[",
            "127.0.0.1.example.com",
            "[::1]evil.com",
            "127.0.0.1:evil",
            "::1",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
