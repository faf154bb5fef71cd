//! Every endpoint, once: the router answers by this table, and the document shows it.

use super::app::App;
use super::{about, answer};
use crate::openai::shape::Object;
use crate::openai::{Endpoint, bodies, replies};
use axum::routing::{MethodRouter, get, post};
use std::sync::Arc;

/// An endpoint.
pub struct Route {
    /// As the router has it: `{*id}` is a piece that may have slashes.
    pub path: &'static str,
    /// Its name for generators of clients.
    pub id: &'static str,
    /// What it does, in few words.
    pub about: &'static str,
    /// Who may ask.
    pub who: Who,
    /// What is posted; it is a GET without.
    pub body: Option<&'static Object>,
    /// What comes back.
    pub reply: Reply,
    /// Statuses beside those that all have, and all of its kind.
    pub refusals: &'static [u16],
    /// What answers it.
    pub handler: fn() -> MethodRouter<Arc<App>>,
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Who has a key, where the server asks for any.
    Keyed,
    /// Anybody.
    Anybody,
    /// Anybody, also at the port of those who watch the server.
    Signs,
    /// Anybody at that port, where there is one; else who has a key, as it says what others do.
    Figures,
}

impl Who {
    /// Whether they may ask at the port of all others, where those who watch have their own or have not.
    pub fn is_here(self, own_port: bool) -> bool {
        self != Who::Figures || !own_port
    }

    /// Whether a key is needed at the port of all others, where the server asks for any.
    pub fn keyed(self) -> bool {
        matches!(self, Who::Keyed | Who::Figures)
    }

    /// Whether they may ask at the port of those who watch.
    pub fn watches(self) -> bool {
        matches!(self, Who::Signs | Who::Figures)
    }
}

/// What an endpoint says.
pub enum Reply {
    /// A JSON object.
    Json(&'static Object),
    /// One, or events with the second one, where a stream is wanted.
    Stream(&'static Object, &'static Object),
    /// Prometheus's text.
    Text(&'static str),
    /// The document itself.
    Document,
}

/// All of them.
pub const ROUTES: &[Route] = &[
    Route {
        path: Endpoint::Chat.url(),
        id: "createChatCompletion",
        about: "answers a conversation by the model's chat template",
        who: Who::Keyed,
        body: Some(&bodies::CHAT),
        reply: Reply::Stream(&replies::CHAT, &replies::CHAT_CHUNK),
        refusals: ANSWERS,
        handler: || post(|app, who, input| answer::answer(Endpoint::Chat, app, who, input)),
    },
    Route {
        path: Endpoint::Completions.url(),
        id: "createCompletion",
        about: "goes on from texts",
        who: Who::Keyed,
        body: Some(&bodies::COMPLETION),
        reply: Reply::Stream(&replies::COMPLETION, &replies::COMPLETION_CHUNK),
        refusals: ANSWERS,
        handler: || post(|app, who, input| answer::answer(Endpoint::Completions, app, who, input)),
    },
    Route {
        path: "/v1/models",
        id: "listModels",
        about: "the model under its names",
        who: Who::Keyed,
        body: None,
        reply: Reply::Json(&replies::MODELS),
        refusals: &[503],
        handler: || get(about::models),
    },
    Route {
        path: "/v1/models/{*id}",
        id: "retrieveModel",
        about: "the model under one of its names",
        who: Who::Keyed,
        body: None,
        reply: Reply::Json(&replies::MODEL),
        refusals: &[400, 404, 503],
        handler: || get(about::model),
    },
    Route {
        path: "/tokenize",
        id: "tokenize",
        about: "tokens of a text or of a conversation",
        who: Who::Keyed,
        body: Some(&bodies::TOKENIZE),
        reply: Reply::Json(&replies::TOKENS),
        refusals: &[],
        handler: || post(about::tokenize),
    },
    Route {
        path: "/detokenize",
        id: "detokenize",
        about: "the text of tokens",
        who: Who::Keyed,
        body: Some(&bodies::DETOKENIZE),
        reply: Reply::Json(&replies::PROMPT),
        refusals: &[],
        handler: || post(about::detokenize),
    },
    Route {
        path: "/apply-template",
        id: "applyTemplate",
        about: "the prompt of a conversation",
        who: Who::Keyed,
        body: Some(&bodies::APPLY_TEMPLATE),
        reply: Reply::Json(&replies::PROMPT),
        refusals: &[],
        handler: || post(about::apply_template),
    },
    Route {
        path: "/health",
        id: "health",
        about: "whether the engine shows signs of life",
        who: Who::Signs,
        body: None,
        reply: Reply::Json(&replies::HEALTH),
        refusals: &[503],
        handler: || get(about::health),
    },
    Route {
        path: "/ready",
        id: "ready",
        about: "whether requests are answered now",
        who: Who::Signs,
        body: None,
        reply: Reply::Json(&replies::READY),
        refusals: &[503],
        handler: || get(about::ready),
    },
    Route {
        path: "/metrics",
        id: "metrics",
        about: "what was counted and measured, for Prometheus",
        who: Who::Figures,
        body: None,
        reply: Reply::Text("text/plain"),
        refusals: &[],
        handler: || get(about::metrics),
    },
    Route {
        path: "/openapi.json",
        id: "openapi",
        about: "this document",
        who: Who::Anybody,
        body: None,
        reply: Reply::Document,
        refusals: &[],
        handler: || get(about::document),
    },
];

/// A model by another name; more than may wait, or than a key may ask for.
const ANSWERS: &[u16] = &[404, 429];
