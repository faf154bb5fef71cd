//! What the server says about itself and its model, and about texts and tokens.

use super::app::{App, Loaded};
use super::input::{Bytes, blocking};
use super::refusal::Refusal;
use crate::openai;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// After so long without a sign of life the engine's thread is taken for stuck. A stage that comes from a slow drive may
/// take many seconds.
const SILENCE: Duration = Duration::from_secs(60);

type Said = Result<Json<Value>, Refusal>;

fn entry(loaded: &Loaded, name: &str) -> Value {
    let context = loaded.engine.info().context;
    json!({ "id": name, "object": "model", "created": loaded.created, "owned_by": "air", "max_model_len": context })
}

/// `GET /v1/models`
pub async fn models(State(app): State<Arc<App>>) -> Said {
    let loaded = app.loaded()?;
    // Its own names stand for it where it was not given others.
    let shown = app.options.aliases.len().max(1);
    let data: Vec<Value> = loaded.names.iter().take(shown).map(|name| entry(loaded, name)).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// `GET /v1/models/{id}`
pub async fn model(State(app): State<Arc<App>>, id: Result<Path<String>, PathRejection>) -> Said {
    let Path(id) = id.map_err(|e| Refusal::invalid(e.body_text()))?;
    let loaded = app.loaded()?;
    loaded.check(Some(&id))?;
    Ok(Json(entry(loaded, &id)))
}

/// `GET /health`: the process lives, and the engine's thread, if there is one, has not fallen silent.
pub async fn health(State(app): State<Arc<App>>) -> Said {
    match app.engine().map(|engine| engine.silent_for()) {
        Some(None) => Err(Refusal::later("the engine has stopped")),
        Some(Some(silence)) if silence > SILENCE => Err(Refusal::later("the engine shows no sign of life")),
        _ => Ok(Json(json!({ "status": "ok" }))),
    }
}

/// `GET /ready`: requests are answered now.
pub async fn ready(State(app): State<Arc<App>>) -> Said {
    let loaded = app.loaded()?;
    Ok(Json(json!({ "status": "ready", "model": loaded.name() })))
}

/// `GET /metrics`
pub async fn metrics(State(app): State<Arc<App>>) -> impl axum::response::IntoResponse {
    ([(axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.measured())
}

/// `GET /openapi.json`
pub async fn document(State(app): State<Arc<App>>) -> Json<Value> {
    Json(super::document::document(&app.options))
}

/// `POST /tokenize`
pub async fn tokenize(State(app): State<Arc<App>>, input: Bytes) -> Said {
    let say = |loaded: &Loaded, body: Value| {
        // Texts need no template.
        let chat = if body.get("messages").is_some() { loaded.chat()? } else { None };
        openai::tokenize(&loaded.engine, chat, body)
    };
    said(app, input, say).await
}

/// `POST /detokenize`
pub async fn detokenize(State(app): State<Arc<App>>, input: Bytes) -> Said {
    said(app, input, |loaded, body| openai::detokenize(&loaded.engine, body)).await
}

/// `POST /apply-template`
pub async fn apply_template(State(app): State<Arc<App>>, input: Bytes) -> Said {
    said(app, input, |loaded, body| openai::apply_template(&loaded.engine, loaded.chat()?, body)).await
}

async fn said(app: Arc<App>, mut input: Bytes, say: fn(&Loaded, Value) -> crate::error::Result<Value>) -> Said {
    blocking(move || {
        let loaded = app.loaded()?;
        Ok(Json(say(loaded, input.json()?)?))
    })
    .await
}
