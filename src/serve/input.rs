//! The bodies of requests: bounded in bytes and time, JSON in UTF-8.

use super::app::App;
use super::refusal::Refusal;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of bodies that are held at once, of all clients.
const MAX_HELD: usize = 256 << 20;
/// Longest body, in bytes.
pub const MAX_BODY: usize = 4 << 20;

/// The bytes of a body that says that it is JSON, or says nothing.
pub struct Bytes {
    bytes: Vec<u8>,
    /// Until they are dropped.
    _held: Share,
}

/// Bytes of bodies, counted among those of all clients until it is dropped.
struct Share {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.bytes += bytes;
        match self.of.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_HELD {
            true => Err(Refusal::later("too many large requests are being read; try again later")),
            false => Ok(()),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl FromRequest<Arc<App>> for Bytes {
    type Rejection = Refusal;

    async fn from_request(request: Request<Body>, app: &Arc<App>) -> Result<Self, Refusal> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let json = |kind: &header::HeaderValue| {
            let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
            kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json")
        };
        if kind.is_some_and(|kind| !json(kind)) {
            return Err(Refusal::invalid("Content-Type must be application/json"));
        }
        if request.body().size_hint().lower() > MAX_BODY as u64 {
            return Err(Refusal::too_large(MAX_BODY));
        }
        let share = Share { of: app.held.clone(), bytes: 0 };
        let read = tokio::time::timeout(app.options.patience.body, read(request.into_body(), share)).await;
        read.unwrap_or_else(|_| Err(Refusal::too_slow()))
    }
}

/// Reads a body to its end.
async fn read(mut body: Body, mut share: Share) -> Result<Bytes, Refusal> {
    let mut bytes = vec![];
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refusal::invalid(format!("the body cannot be read: {e}")))?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BODY {
            return Err(Refusal::too_large(MAX_BODY));
        }
        share.grow(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(Bytes { bytes, _held: share })
}

impl Bytes {
    /// The JSON that it is. For a blocking thread.
    ///
    /// # Errors
    /// 400 with what is no JSON, and where.
    pub fn json(&self) -> Result<Value, Refusal> {
        serde_json::from_slice(&self.bytes).map_err(|e| Refusal::invalid(format!("the body is not JSON: {e}")))
    }
}

/// Runs what takes time on a thread that may take it.
///
/// # Errors
/// Those of `work`; 500 when it panics.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Refusal::broken()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_together_have_a_bound_and_give_their_bytes_back() {
        let all = Arc::<AtomicUsize>::default();
        let share = || Share { of: all.clone(), bytes: 0 };
        let mut shares: Vec<Share> = (0..MAX_HELD / MAX_BODY).map(|_| share()).collect();
        assert!(shares.iter_mut().all(|s| s.grow(MAX_BODY).is_ok()));
        assert!(share().grow(1).is_err());
        shares.pop();
        assert!(share().grow(MAX_BODY).is_ok());
        drop(shares);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
