//! The bodies of requests: bounded in bytes and time, JSON in UTF-8. What JSON becomes in memory is bounded too: an empty
//! object is two bytes, and some hundred when it is read.

use super::app::App;
use super::refusal::Refusal;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that bodies take at once, of all clients, as they came and as they are read.
const MAX_HELD: usize = 256 << 20;
/// Longest body, in bytes.
pub const MAX_BODY: usize = 4 << 20;
/// Most bytes that the values of one body take.
const MAX_VALUES: usize = 64 << 20;
/// Bytes of a longer body that are read, and forgotten, so that its client hears why it is refused: most look for an
/// answer only when they have sent all.
const MAX_IGNORED: u64 = 64 << 20;

/// The bytes of a body that says that it is JSON, or says nothing.
pub struct Bytes {
    bytes: Vec<u8>,
    /// Until they are dropped.
    held: Share,
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
        let said = request.body().size_hint().lower();
        // Who asks first has not sent it yet.
        let asks = request.headers().contains_key(header::EXPECT) && said > MAX_BODY as u64;
        if asks || said > MAX_IGNORED {
            return Err(Refusal::too_large(MAX_BODY));
        }
        let share = Share { of: app.held.clone(), bytes: 0 };
        let all = async {
            let mut body = request.into_body();
            let read =
                if said > MAX_BODY as u64 { Err(Refusal::too_large(MAX_BODY)) } else { read(&mut body, share).await };
            if read.is_err() {
                ignore(body).await;
            }
            read
        };
        tokio::time::timeout(app.options.patience.body, all).await.unwrap_or_else(|_| Err(Refusal::too_slow()))
    }
}

/// Reads what is left of a body, and forgets it.
async fn ignore(mut body: Body) {
    let mut left = MAX_IGNORED;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(more) = left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) else { return };
        left = more;
    }
}

/// Reads a body to its end.
async fn read(body: &mut Body, mut share: Share) -> Result<Bytes, Refusal> {
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
    Ok(Bytes { bytes, held: share })
}

impl Bytes {
    /// The JSON that it is. For a blocking thread.
    ///
    /// # Errors
    /// 400 with what is no JSON, and where, and for too many values; 503 when others' take the memory.
    pub fn json(&mut self) -> Result<Value, Refusal> {
        let values = weight(&self.bytes);
        if values > MAX_VALUES {
            let problem =
                format!("the body has so many values that they take {} MiB; {} may", values >> 20, MAX_VALUES >> 20);
            return Err(Refusal::invalid(problem));
        }
        self.held.grow(values)?;
        serde_json::from_slice(&self.bytes).map_err(|e| Refusal::invalid(format!("the body is not JSON: {e}")))
    }
}

/// Bytes that the values of JSON take when they are read, at most; of what is no JSON, anything.
fn weight(json: &[u8]) -> usize {
    let (mut bytes, mut text, mut escaped) = (0, false, false);
    for &byte in json {
        if text {
            (text, escaped) = (byte != b'"' || escaped, byte == b'\\' && !escaped);
            continue;
        }
        // Lists grow by doubling: each value may have its place twice. An object has a table too.
        bytes += match byte {
            b'"' => {
                text = true;
                48
            }
            b',' => 64,
            b'[' => 128,
            b':' => 128,
            b'{' => 512,
            _ => 0,
        };
    }
    bytes
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
    fn values_are_weighed_before_they_are_read() {
        assert_eq!(weight(br#""a,[{:\\\"{{""#), 48);
        assert_eq!(weight(br#"["\\",{"a":1}]"#), 128 + 48 + 64 + 512 + 48 + 128);
        let body = |piece: &str| {
            let bytes = format!("[{}1]", piece.repeat(MAX_BODY / piece.len() - 1)).into_bytes();
            Bytes { bytes, held: Share { of: Arc::default(), bytes: 0 } }
        };
        for (piece, want) in [("{},", false), ("[],", false), ("\"\",", false), ("1,", false), ("12345,", true)] {
            assert_eq!(body(piece).json().is_ok(), want, "{piece}");
        }
        // Each alone may be read; all together would take too much.
        let mut held = Bytes { bytes: b"[1]".to_vec(), held: Share { of: Arc::new(MAX_HELD.into()), bytes: 0 } };
        assert!(held.json().is_err());
    }

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
