//! What all requests share, and which of them goes where.

use super::Options;
use super::guard;
use super::keys::Keys;
use super::metrics::{Instruments, Metrics};
use super::places::Places;
use super::refusal::Refusal;
use super::routes::{ROUTES, Route, Who};
use super::tls::Tls;
use crate::engine::{ChatFormat, Engine};
use crate::error::{Error, Result};
use crate::openai::now;
use axum::{Router, middleware};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// What all requests share.
pub struct App {
    pub options: Options,
    pub keys: Option<Arc<Keys>>,
    pub tls: Option<Tls>,
    pub metrics: Metrics,
    loaded: OnceLock<Loaded>,
    ending: AtomicBool,
    /// Wakes answers that are to be cut off.
    pub cut: Cut,
    /// One for each choice that runs or waits.
    pub places: Arc<Places>,
    /// Bytes of bodies that are held now.
    pub held: Arc<AtomicUsize>,
}

/// Says that answers are cut off now.
#[derive(Default)]
pub struct Cut {
    now: AtomicBool,
    wake: Notify,
}

impl Cut {
    /// Whether they are.
    pub fn is_now(&self) -> bool {
        self.now.load(Ordering::Acquire)
    }

    /// Comes when answers are cut off.
    pub async fn wait(&self) {
        let woken = self.wake.notified();
        if !self.is_now() {
            woken.await;
        }
    }
}

/// A model that is ready.
pub struct Loaded {
    pub engine: Engine,
    /// Of its template, if it has one; or what is wrong with that.
    chat: Result<Option<ChatFormat>, String>,
    /// What the model may be called; answers bear the first.
    pub names: Vec<String>,
    pub instruments: Arc<Instruments>,
    /// When it became ready, in seconds since 1970.
    pub created: u64,
}

impl App {
    /// # Errors
    /// Those of the files of keys and certificates.
    pub fn new(options: Options) -> Result<App> {
        let keys = options.keys.as_deref().map(Keys::open).transpose()?.map(Arc::new);
        let tls = options.tls.clone().map(Tls::open).transpose()?;
        let places = Arc::new(Places::new(options.most));
        let metrics = Metrics::new()?;
        Ok(App {
            options,
            keys,
            tls,
            metrics,
            loaded: OnceLock::new(),
            ending: false.into(),
            cut: Cut::default(),
            places,
            held: Arc::default(),
        })
    }

    /// The model is ready. One whose chat template does not compile completes texts.
    pub fn set(&self, engine: Engine) {
        let chat = ChatFormat::new(&engine).map_err(|e| e.to_string());
        if let Err(problem) = &chat {
            tracing::warn!("conversations will be refused: {problem}");
        }
        let names = names(&self.options.aliases, engine.info().name.as_deref(), &engine.info().file);
        // Set once, by the thread that runs the server.
        let instruments = Instruments::new(&self.metrics, names.first().map_or("", String::as_str));
        let instruments = Arc::new(instruments);
        let _ = self.loaded.set(Loaded { engine, chat, names, instruments, created: now() });
    }

    pub fn engine(&self) -> Option<&Engine> {
        self.loaded.get().map(|l| &l.engine)
    }

    /// What was counted, for Prometheus.
    pub fn measured(&self) -> String {
        self.metrics.text(self.loaded.get().map(|l| (&l.engine, &*l.instruments)))
    }

    /// The model, if requests are taken now.
    pub fn loaded(&self) -> Result<&Loaded, Refusal> {
        match self.loaded.get() {
            _ if self.ending.load(Ordering::Relaxed) => Err(Refusal::ending()),
            None => Err(Refusal::later("the model is being loaded; try again later")),
            Some(loaded) => Ok(loaded),
        }
    }

    /// Reads its files again.
    pub fn reload(&self) {
        if let Some(keys) = &self.keys {
            keys.reload();
        }
        if let Some(tls) = &self.tls {
            tls.reload();
        }
        if self.keys.is_none() && self.tls.is_none() {
            tracing::info!("there are no keys and no certificate to read again");
        }
    }

    /// Reads again what has changed of what is looked at.
    pub fn refresh(&self) {
        if let Some(keys) = &self.keys {
            keys.refresh();
        }
    }

    /// Nothing new is taken any more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Cuts off what still runs.
    pub fn cut(&self) {
        self.cut.now.store(true, Ordering::Release);
        self.cut.wake.notify_waiters();
    }
}

/// What a model may be called: as the user says, as its metadata says, and as its file is called.
fn names(aliases: &[String], name: Option<&str>, file: &str) -> Vec<String> {
    let path = Path::new(file);
    let part = |p: Option<&std::ffi::OsStr>| p.map(|p| p.to_string_lossy().into_owned());
    let all = aliases.iter().cloned().chain(name.map(str::to_string)).chain(part(path.file_stem()));
    let mut names: Vec<String> = vec![];
    for name in all.chain(part(path.file_name())).filter(|n| !n.is_empty()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl Loaded {
    /// Whether the model goes by a name; none is as good.
    ///
    /// # Errors
    /// 404, with the names that there are.
    pub fn check(&self, wanted: Option<&str>) -> Result<(), Refusal> {
        match wanted {
            Some(name) if !self.names.iter().any(|n| n == name) => Err(Refusal::no_model(name, &self.names)),
            _ => Ok(()),
        }
    }

    /// How conversations become prompts, if the model has a template for that.
    ///
    /// # Errors
    /// `Invalid` when it does not compile.
    pub fn chat(&self) -> Result<Option<&ChatFormat>> {
        self.chat.as_ref().map(Option::as_ref).map_err(|problem| Error::Invalid(problem.clone()))
    }

    pub fn name(&self) -> &str {
        self.names.first().map_or("model", String::as_str)
    }
}

/// Which request goes where. Whether only this machine reaches it is `local`.
pub fn router(app: Arc<App>, local: bool) -> Router {
    let own_port = app.options.metrics.is_some();
    let some_here = |keyed: bool| some(|who| who.keyed() == keyed && who.is_here(own_port));
    let keyed = some_here(true).layer(middleware::from_fn_with_state(app.clone(), guard::keys));
    let open = app.keys.is_none();
    whole(keyed.merge(some_here(false)), app, guard::Origin { local, open })
}

/// What a port of its own has for those who watch the server.
pub fn watching(app: Arc<App>, local: bool) -> Router {
    whole(some(Who::watches), app, guard::Origin { local, open: true })
}

/// Some of the endpoints.
fn some(which: impl Fn(Who) -> bool) -> Router<Arc<App>> {
    let add = |router: Router<Arc<App>>, route: &Route| router.route(route.path, (route.handler)());
    ROUTES.iter().filter(|route| which(route.who)).fold(Router::new(), add)
}

/// With what holds for every request.
fn whole(routes: Router<Arc<App>>, app: Arc<App>, from: guard::Origin) -> Router {
    let unknown = |uri: axum::http::Uri| async move { Refusal::no_path(uri.path()) };
    let method = |uri: axum::http::Uri, m: axum::http::Method| async move { Refusal::no_method(uri.path(), &m) };
    let routes = routes.fallback(unknown).method_not_allowed_fallback(method);
    routes.layer(middleware::from_fn_with_state((app.clone(), from), guard::every)).with_state(app)
}

/// What is wrong with a request as the library says it.
impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Refusal::of(&e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_goes_by_its_names_each_once() {
        let names = names(&["a".into(), "qwen".into()], Some("qwen"), "/models/qwen-q4.gguf");
        assert_eq!(names, ["a", "qwen", "qwen-q4", "qwen-q4.gguf"]);
        assert_eq!(super::names(&[], None, "embedded demo model"), ["embedded demo model"]);
    }
}
