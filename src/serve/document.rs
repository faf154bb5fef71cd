//! The server's OpenAPI document, made of what answers: the routes, the tables that bodies are held against, the
//! statuses of refusals.
//!
//! It is this server's: keys are in it where they are asked for, and defaults are those that hold here.

use super::Options;
use super::refusal::{RETRY, STATUSES};
use super::routes::{ROUTES, Reply, Route};
use crate::openai::replies;
use crate::openai::schema::Schemas;
use crate::openai::shape::Object;
use serde_json::{Map, Value, json};

/// What holds for all endpoints.
const ABOUT: &str = "OpenAI's API over one model. A field that is not known is refused, and so is one that asks for \
    what air cannot do; `null` is as good as left out. An unknown path gets 404, another method 405, and a head that is too \
    large 431.";
/// Of a stream.
const STREAM: &str = "The answer; where a stream is wanted, events whose data are its chunks. The last event's data are \
    `[DONE]`, or an error.";

/// The document of a server.
pub fn document(options: &Options) -> Value {
    let (mut schemas, keys) = (Schemas::new(&options.sampling), options.keys.is_some());
    let error = schemas.object(&replies::ERROR);
    let mut paths = Map::new();
    for route in ROUTES.iter().filter(|route| route.who.is_here(options.metrics.is_some())) {
        let method = if route.body.is_some() { "post" } else { "get" };
        paths.insert(route.path.replace("{*", "{"), json!({ method: operation(route, keys, &mut schemas) }));
    }
    let refusals = STATUSES.iter().map(|&(status, about)| (status.to_string(), refusal(status, about, &error)));
    let mut document = json!({
        "openapi": "3.1.0",
        "info": { "title": "air", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": { "schemas": schemas.named, "responses": refusals.collect::<Map<_, _>>() },
    });
    if options.keys.is_some() {
        document["components"]["securitySchemes"] = json!({ "key": { "type": "http", "scheme": "bearer" } });
    }
    document
}

fn operation(route: &Route, keys: bool, schemas: &mut Schemas) -> Value {
    let keyed = route.who.keyed() && keys;
    let mut operation = json!({ "operationId": route.id, "summary": route.about });
    if keyed {
        operation["security"] = json!([{ "key": [] }]);
    }
    if let Some((_, name)) = route.path.split_once("{*") {
        let name = name.trim_end_matches('}');
        operation["parameters"] =
            json!([{ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }]);
    }
    if let Some(body) = route.body {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schemas.object(body) } } });
    }
    let mut responses = Map::new();
    responses.insert("200".into(), reply(&route.reply, schemas));
    for (status, _) in STATUSES.iter().filter(|(status, _)| may_come(route, keyed, *status)) {
        responses.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{status}") }));
    }
    operation["responses"] = responses.into();
    operation
}

fn refusal(status: u16, about: &str, error: &Value) -> Value {
    let mut headers = said();
    if RETRY.contains(&status) {
        headers["Retry-After"] = header("Seconds after which the same request may be answered.", "integer");
    }
    if status == 401 {
        headers["WWW-Authenticate"] = header("How to say who asks.", "string");
    }
    json!({ "description": about, "headers": headers, "content": { "application/json": { "schema": error } } })
}

/// Whether a route may refuse with a status.
fn may_come(route: &Route, keyed: bool, status: u16) -> bool {
    match status {
        // No host, or two; another site's page; a bug.
        400 | 403 | 500 => true,
        401 => keyed,
        408 | 413 | 503 if route.body.is_some() => true,
        other => route.refusals.contains(&other),
    }
}

fn reply(reply: &Reply, schemas: &mut Schemas) -> Value {
    let mut json = |object: &Object| json!({ "application/json": { "schema": schemas.object(object) } });
    let (about, content) = match reply {
        Reply::Json(object) => ("What was asked for.", json(object)),
        Reply::Stream(whole, chunk) => {
            let mut content = json(whole);
            let events = events(schemas.object(chunk), &schemas.object(&replies::ERROR));
            content["text/event-stream"] = json!({ "schema": events });
            (STREAM, content)
        }
        Reply::Text(kind) => ("What was asked for.", json!({ *kind: { "schema": { "type": "string" } } })),
        Reply::Document => ("This document.", json!({ "application/json": { "schema": { "type": "object" } } })),
    };
    json!({ "description": about, "headers": said(), "content": content })
}

/// Each event of a stream, as OpenAPI 3.2 describes events.
fn events(chunk: Value, error: &Value) -> Value {
    let json = |of: &Value| json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": of });
    let data = json!({ "anyOf": [json(&chunk), json(error), { "enum": ["[DONE]"] }] });
    json!({ "type": "object", "description": "An event.", "properties": { "data": data }, "required": ["data"] })
}

/// What every response's head says.
fn said() -> Value {
    json!({ "x-request-id": header("The request's name in the log.", "string") })
}

fn header(about: &str, kind: &str) -> Value {
    json!({ "description": about, "required": true, "schema": { "type": kind } })
}
