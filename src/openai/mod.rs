//! OpenAI's requests and responses: what the batch command and a server share.
//!
//! A body is held against a table of fields (`bodies`) and then read field by field. What air cannot do is refused by the
//! field's name unless it has its default, and so is a field that nobody knows: a request never gets less than it asked
//! for in silence. Fields that only tell who asks are passed over. Where a body says nothing about sampling, air's
//! settings hold, not OpenAI's defaults. `model` is not compared with anything; the response names the model that
//! answered. Of these tables, and of those of what is written (`replies`), the server's document is made (`schema`).
//!
//! After OpenAI's API reference (chat completions, completions, batch), as of 2026. It knows nothing of HTTP or files.

mod batch;
pub mod bodies;
mod fields;
mod probable;
pub mod replies;
mod request;
mod response;
pub mod schema;
pub mod shape;
mod text;

pub use batch::{Line, answered, key, refused};
pub use request::{Ask, Endpoint, Wanted};
pub use response::{Answer, Tokens, error, new_id, now};
pub use text::{apply_template, detokenize, tokenize};
