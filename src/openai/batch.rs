//! Lines of OpenAI's batch files.
//!
//! An input line holds one request under a `custom_id`; an output line holds the same `custom_id` and the response. A
//! line without a usable `custom_id` is known by its number, which its output line has as `line`.

use super::bodies::{self, MAX_ID};
use super::fields::Fields;
use super::{Answer, Endpoint, error};
use crate::error::{Error, Result};
use serde_json::{Value, json};

/// A request of an input file.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What kind it is.
    pub endpoint: Endpoint,
    /// Its body, as it stands.
    pub body: Value,
}

impl Line {
    /// Reads an input line that is JSON.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub fn read(line: Value) -> Result<Line> {
        let mut f = Fields::new("the line", &bodies::LINE, line)?;
        // The line is known by it, before it is read.
        f.take("custom_id");
        f.take("method");
        let url = f.text("url")?.unwrap_or_default();
        let body = f.take("body").unwrap_or_default();
        f.finish();
        Ok(Line { endpoint: Endpoint::of(&url)?, body })
    }
}

/// The text of a `custom_id`, if it is one.
pub fn key(custom_id: Option<&Value>) -> Option<&str> {
    custom_id?.as_str().filter(|id| (1..=MAX_ID).contains(&id.len()))
}

/// The output line of an answer, without the line's end.
pub fn answered(custom_id: &str, id: &str, answer: &Answer) -> String {
    let response = json!({ "status_code": 200, "request_id": id, "body": answer.body() });
    json!({ "id": format!("batch_req_{id}"), "custom_id": custom_id, "response": response, "error": null }).to_string()
}

/// The output line of a request that failed; one without a `custom_id` is known by its number in the input, from 1 on.
pub fn refused(custom_id: Option<&str>, line: u64, id: &str, e: &Error) -> String {
    let (status, body) = error(e);
    let told = json!({ "code": body["error"]["type"], "message": body["error"]["message"] });
    let response = json!({ "status_code": status, "request_id": id, "body": body });
    let mut out =
        json!({ "id": format!("batch_req_{id}"), "custom_id": custom_id, "response": response, "error": told });
    if custom_id.is_none() {
        out["line"] = line.into();
    }
    out.to_string()
}
