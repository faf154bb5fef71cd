//! Why a request is not answered: one form for all, OpenAI's.

use crate::error::Error;
use crate::openai;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Response, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// Statuses of refusals, and what each says.
pub const STATUSES: &[(u16, &str)] = &[
    (400, "The request is wrong, or asks for what the model or the server cannot do."),
    (401, "There is no key, or it is not one of this server's."),
    (403, "The request comes from another site's page, or under another host's name."),
    (404, "There is no such model, or no such path."),
    (405, "The path does not take this method."),
    (408, "The body did not come in time."),
    (413, "The body is too large."),
    (429, "As much runs or waits as may, or the key's share of this minute is used up."),
    (500, "The server failed."),
    (
        503,
        "The model is being loaded, the server ends, it has no memory for more just now, or the answer's time was over \
         before it had a token.",
    ),
];
/// Statuses that say when to come again.
pub const RETRY: &[u16] = &[429, 503];

/// A status and the body that goes with it.
#[derive(Debug, Clone)]
pub struct Refusal {
    status: u16,
    body: Value,
    /// Seconds after which the same request may be answered.
    retry_after: Option<u64>,
}

impl Refusal {
    fn new(status: u16, kind: &str, param: Option<&str>, code: Option<&str>, message: impl Into<String>) -> Refusal {
        debug_assert!(STATUSES.iter().any(|(known, _)| *known == status), "{status} is not documented");
        let message: String = message.into();
        let body = json!({ "error": { "message": message, "type": kind, "param": param, "code": code } });
        Refusal { status, body, retry_after: None }
    }

    fn retry(self, seconds: u64) -> Refusal {
        debug_assert!(RETRY.contains(&self.status), "{} is not documented to say when", self.status);
        Refusal { retry_after: Some(seconds), ..self }
    }

    /// For an error of the library.
    pub fn of(e: &Error) -> Refusal {
        let (status, body) = openai::error(e);
        Refusal { status, body, retry_after: RETRY.contains(&status).then_some(1) }
    }

    pub fn invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(400, "invalid_request_error", None, None, message)
    }

    pub fn later(message: &str) -> Refusal {
        Refusal::new(503, "server_error", None, Some("not_ready"), message).retry(1)
    }

    pub fn ending() -> Refusal {
        Refusal::new(503, "server_error", None, Some("shutting_down"), "the server is ending; ask another one").retry(1)
    }

    pub fn timed_out(waited: std::time::Duration) -> Refusal {
        let seconds = waited.as_secs_f64();
        let message = format!(
            "the request waited {seconds:.1} s and no token was generated before its time was over (`timeout`, or the \
             server's --timeout); try again later, or give it more time"
        );
        Refusal::new(503, "server_error", None, Some("timeout"), message).retry(1)
    }

    pub fn full(most: usize) -> Refusal {
        let message = format!("{most} answers run or wait already; try again later");
        Refusal::new(429, "rate_limit_error", None, Some("rate_limit_exceeded"), message).retry(1)
    }

    pub fn too_much(wait: std::time::Duration) -> Refusal {
        let message = "the key's requests or tokens of this minute are used up";
        let seconds = wait.as_secs_f64().ceil() as u64;
        Refusal::new(429, "rate_limit_error", None, Some("rate_limit_exceeded"), message).retry(seconds.max(1))
    }

    pub fn no_key() -> Refusal {
        let message = "a key is needed: send `Authorization: Bearer KEY`";
        Refusal::new(401, "invalid_request_error", None, Some("invalid_api_key"), message)
    }

    pub fn wrong_key() -> Refusal {
        Refusal::new(401, "invalid_request_error", None, Some("invalid_api_key"), "the key is not one of this server's")
    }

    pub fn forbidden(message: impl Into<String>) -> Refusal {
        Refusal::new(403, "invalid_request_error", None, None, message)
    }

    pub fn no_model(name: &str, names: &[String]) -> Refusal {
        let shown: String = name.chars().take(80).collect();
        let message = format!("model `{shown}` is not here; there is {}", names.join(", "));
        Refusal::new(404, "invalid_request_error", Some("model"), Some("model_not_found"), message)
    }

    pub fn no_path(path: &str) -> Refusal {
        let shown: String = path.chars().take(80).collect();
        Refusal::new(404, "invalid_request_error", None, Some("unknown_url"), format!("there is no {shown} here"))
    }

    pub fn no_method(path: &str, method: &Method) -> Refusal {
        let (path, method): (String, String) =
            (path.chars().take(80).collect(), method.as_str().chars().take(20).collect());
        let message = format!("{path} does not take {method}");
        Refusal::new(405, "invalid_request_error", None, Some("method_not_allowed"), message)
    }

    pub fn too_large(most: usize) -> Refusal {
        let message = format!("the body has more than {} MiB", most >> 20);
        Refusal::new(413, "invalid_request_error", None, None, message)
    }

    pub fn too_slow() -> Refusal {
        Refusal::new(408, "invalid_request_error", None, None, "the body did not come in time")
    }

    pub fn broken() -> Refusal {
        Refusal::new(500, "server_error", None, None, "the server failed at this request; others are not touched")
    }

    /// Its body, as it also stands in a stream that had begun.
    pub fn body(&self) -> &Value {
        &self.body
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        let mut response = Response::new(Body::from(self.body.to_string()));
        *response.status_mut() =
            axum::http::StatusCode::from_u16(self.status).unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
