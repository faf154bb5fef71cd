//! The bodies of requests: bounded in bytes and time, JSON in UTF-8.

use super::app::App;
use super::refusal::Refusal;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use std::sync::Arc;

/// Longest body, in bytes.
pub const MAX_BODY: usize = 4 << 20;

/// The bytes of a body that says that it is JSON, or says nothing.
pub struct Bytes(axum::body::Bytes);

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
        let read = Limited::new(request.into_body(), MAX_BODY).collect();
        match tokio::time::timeout(app.options.patience.body, read).await {
            Err(_) => Err(Refusal::too_slow()),
            Ok(Ok(body)) => Ok(Bytes(body.to_bytes())),
            Ok(Err(e)) if e.is::<LengthLimitError>() => Err(Refusal::too_large(MAX_BODY)),
            Ok(Err(e)) => Err(Refusal::invalid(format!("the body cannot be read: {e}"))),
        }
    }
}

impl Bytes {
    /// The JSON that it is. For a blocking thread.
    ///
    /// # Errors
    /// 400 with what is no JSON, and where.
    pub fn json(&self) -> Result<Value, Refusal> {
        serde_json::from_slice(&self.0).map_err(|e| Refusal::invalid(format!("the body is not JSON: {e}")))
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
