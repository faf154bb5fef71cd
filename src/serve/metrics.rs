//! What the server did, for Prometheus: under air's own names and under vLLM's, which routers and dashboards know.
//!
//! Everything here was counted or measured; nothing tells of a prompt. The registry belongs to its server, so several
//! servers of one process do not mix.

use crate::engine::{Engine, Event, FinishReason, Finished, Usage};
use crate::error::{Error, Result};
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Upper edges of times to a first token and of whole answers, in seconds: a drive may take minutes.
const LONG: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Of times between tokens.
const SHORT: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const HELP: &[(&str, &str)] = &[
    ("air_build_info", "Always 1; the version is its label"),
    ("air_requests_total", "Requests answered, by path and status"),
    ("air_tokens_total", "Tokens of prompts that were read, of prompts that earlier requests had left, and generated"),
    ("air_ttft_seconds", "From a request's arrival in the engine to its first token"),
    ("air_inter_token_seconds", "From one token of an answer to the next"),
    ("air_request_seconds", "From a request's arrival in the engine to its end"),
    ("air_timeouts_total", "Answers that ended because their time was over"),
    ("air_running", "Answers that are being generated"),
    ("air_queue_depth", "Answers that wait for a place"),
    ("air_kv_pages", "Pages of sequence state: used, kept of ended texts and given when wanted, free"),
    ("air_stream_bytes_total", "Bytes of weights that came from the drive"),
    ("vllm:num_requests_running", "As air_running"),
    ("vllm:num_requests_waiting", "As air_queue_depth"),
    ("vllm:kv_cache_usage_perc", "Share of the pages of sequence state that is used, 0 to 1"),
    ("vllm:prompt_tokens_total", "Tokens of prompts"),
    ("vllm:generation_tokens_total", "Tokens generated"),
    ("vllm:time_to_first_token_seconds", "As air_ttft_seconds"),
    ("vllm:inter_token_latency_seconds", "As air_inter_token_seconds"),
    ("vllm:e2e_request_latency_seconds", "As air_request_seconds"),
    ("vllm:request_success_total", "Answers that ended, by why"),
];

const HISTOGRAMS: &[(&str, &[f64])] = &[
    ("air_ttft_seconds", LONG),
    ("air_inter_token_seconds", SHORT),
    ("air_request_seconds", LONG),
    ("vllm:time_to_first_token_seconds", LONG),
    ("vllm:inter_token_latency_seconds", SHORT),
    ("vllm:e2e_request_latency_seconds", LONG),
];

/// The registry of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(k, v)| Label::new(*k, v.to_string())).collect();
    Key::from_parts(name, labels)
}

impl Metrics {
    /// An empty one.
    ///
    /// # Errors
    /// `Engine` when the tables above make no sense.
    pub fn new() -> Result<Metrics> {
        let wrong = |e| Error::Engine(format!("the metrics' tables are wrong: {e}"));
        let mut builder = PrometheusBuilder::new();
        for (name, edges) in HISTOGRAMS {
            builder = builder.set_buckets_for_metric(Matcher::Full((*name).into()), edges).map_err(wrong)?;
        }
        let recorder = builder.build_recorder();
        for (name, help) in HELP {
            // What is described is only shown where it is registered too, whichever kind it is.
            recorder.describe_counter((*name).into(), None, (*help).into());
        }
        let metrics = Metrics { handle: recorder.handle(), recorder };
        metrics.gauge("air_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        Ok(metrics)
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &Metadata::new(module_path!(), Level::INFO, None))
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &Metadata::new(module_path!(), Level::INFO, None))
    }

    fn histogram(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
        self.recorder.register_histogram(&key(name, labels), &Metadata::new(module_path!(), Level::INFO, None))
    }

    /// A request was answered. `path` is one of the server's own, so that nobody makes up new ones.
    pub fn answered(&self, path: &str, status: u16) {
        self.counter("air_requests_total", &[("path", path), ("status", &status.to_string())]).increment(1);
    }

    /// Measured times go to where they are counted; otherwise they would gather for as long as nobody asks.
    pub fn tidy(&self) {
        self.handle.run_upkeep();
    }

    /// The text for Prometheus, with what the engine says now.
    pub fn text(&self, engine: Option<(&Engine, &Instruments)>) -> String {
        if let Some((engine, instruments)) = engine {
            instruments.look(engine);
        }
        self.handle.run_upkeep();
        self.handle.render()
    }
}

/// What is measured of one model's answers.
pub struct Instruments {
    first: [Histogram; 2],
    between: [Histogram; 2],
    whole: [Histogram; 2],
    read: Counter,
    cached: Counter,
    generated: [Counter; 2],
    prompt: Counter,
    stopped: Counter,
    cut: Counter,
    aborted: Counter,
    timeouts: Counter,
    running: [Gauge; 2],
    waiting: [Gauge; 2],
    used: Gauge,
    kept: Gauge,
    free: Gauge,
    share: Gauge,
    streamed: Counter,
}

impl Instruments {
    /// Those of a model.
    pub fn new(m: &Metrics, model: &str) -> Instruments {
        let of = &[("model_name", model)][..];
        let ended = |why: &str| m.counter("vllm:request_success_total", &[of[0], ("finished_reason", why)]);
        let tokens = |kind: &str| m.counter("air_tokens_total", &[("kind", kind)]);
        let pages = |state: &str| m.gauge("air_kv_pages", &[("state", state)]);
        Instruments {
            first: [m.histogram("air_ttft_seconds", &[]), m.histogram("vllm:time_to_first_token_seconds", of)],
            between: [m.histogram("air_inter_token_seconds", &[]), m.histogram("vllm:inter_token_latency_seconds", of)],
            whole: [m.histogram("air_request_seconds", &[]), m.histogram("vllm:e2e_request_latency_seconds", of)],
            read: tokens("read"),
            cached: tokens("cached"),
            generated: [tokens("generated"), m.counter("vllm:generation_tokens_total", of)],
            prompt: m.counter("vllm:prompt_tokens_total", of),
            stopped: ended("stop"),
            cut: ended("length"),
            aborted: ended("abort"),
            timeouts: m.counter("air_timeouts_total", &[]),
            running: [m.gauge("air_running", &[]), m.gauge("vllm:num_requests_running", of)],
            waiting: [m.gauge("air_queue_depth", &[]), m.gauge("vllm:num_requests_waiting", of)],
            used: pages("used"),
            kept: pages("kept"),
            free: pages("free"),
            share: m.gauge("vllm:kv_cache_usage_perc", of),
            streamed: m.counter("air_stream_bytes_total", &[("tier", "drive")]),
        }
    }

    /// Asks the engine how it is.
    fn look(&self, engine: &Engine) {
        let now = engine.occupancy();
        self.running.iter().for_each(|g| g.set(now.running as f64));
        self.waiting.iter().for_each(|g| g.set(now.waiting as f64));
        let used = now.pages.saturating_sub(now.free_pages + now.kept_pages);
        self.used.set(used as f64);
        self.kept.set(now.kept_pages as f64);
        self.free.set(now.free_pages as f64);
        self.share.set(used as f64 / (now.pages as f64).max(1.0));
        self.streamed.absolute(engine.streamed().bytes);
    }

    /// Counts the tokens that an answer has taken since it had taken `before`.
    fn count(&self, before: &Usage, now: &Usage) {
        let more = |of: fn(&Usage) -> u32| u64::from(of(now).saturating_sub(of(before)));
        let (read, cached) = (more(|u| u.read_tokens), more(|u| u.kept_tokens));
        self.read.increment(read);
        self.cached.increment(cached);
        self.prompt.increment(read + cached);
        self.generated.iter().for_each(|c| c.increment(more(|u| u.generated_tokens)));
    }

    fn ended(&self, end: &Finished, begun: Instant) {
        if end.reason == FinishReason::TimeLimit {
            self.timeouts.increment(1);
        }
        match end.reason {
            FinishReason::Stop => &self.stopped,
            FinishReason::Length | FinishReason::TimeLimit => &self.cut,
            FinishReason::Cancelled => &self.aborted,
        }
        .increment(1);
        self.whole.iter().for_each(|h| h.record(begun.elapsed()));
    }
}

/// The stopwatch of one choice of an answer, on the engine's thread.
pub struct Stopwatch {
    begun: Instant,
    last: Mutex<Last>,
}

/// As far as a choice has been heard and counted.
#[derive(Default)]
struct Last {
    token: Option<Instant>,
    usage: Usage,
}

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Stopwatch {
        Stopwatch { begun: Instant::now(), last: Mutex::default() }
    }

    /// Takes note of an event. Tokens are counted as they come: a prompt's with the first of its answer.
    pub fn hear(&self, event: &Event, instruments: &Instruments) {
        let usage = match event {
            Event::Prompt(_) | Event::Read(_) => return,
            Event::Token(token) => &token.usage,
            Event::Finished(end) => &end.usage,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        instruments.count(&last.usage, usage);
        last.usage = *usage;
        if let Event::Finished(end) = event {
            return instruments.ended(end, self.begun);
        }
        let now = Instant::now();
        match last.token.replace(now) {
            None => instruments.first.iter().for_each(|h| h.record(now - self.begun)),
            Some(last) => instruments.between.iter().for_each(|h| h.record(now - last)),
        }
    }
}
