//! Requests to engines of tiny models.

use air_rs::engine::{Engine, Event, LoadOptions, Request};
use air_rs::format::{Catalogue, gguf};
use air_rs::sample::Params;
use std::path::Path;

/// A model of `tests/goldens/families`.
pub fn catalogue(name: &str) -> Catalogue {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
    gguf::open(&dir.join(format!("{name}.gguf"))).unwrap()
}

/// An engine that runs one.
pub fn engine(name: &str, options: LoadOptions) -> Engine {
    Engine::load(&catalogue(name), &options, &mut |_, _| ()).unwrap()
}

/// A text that the tiny models have tokens for; texts of different salt begin differently.
pub fn tokens(n: u32, salt: u32) -> Vec<u32> {
    (0..n).map(|i| 3 + (i * 7 + i * i * salt + salt) % 30).collect()
}

/// A request that ends with its length only.
pub fn greedy(prompt: Vec<u32>, max_tokens: u32) -> Request {
    let sampling = Params { temperature: 0.0, ..Params::default() };
    Request { prompt, max_tokens, sampling, ignore_eos: true, ..Request::default() }
}

/// The tokens of an answer.
pub fn ids(e: &Engine, r: Request) -> Vec<u32> {
    let token = |event| match event {
        Ok(Event::Token(t)) => Some(t.id),
        Ok(Event::Finished(_) | Event::Prompt(_) | Event::Read(_)) => None,
        Err(e) => panic!("{e}"),
    };
    e.submit(r).unwrap().filter_map(token).collect()
}
