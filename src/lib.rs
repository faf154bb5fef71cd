//! air: an LLM inference engine that runs models larger than the machine's memory.
//!
//! # The one law
//!
//! A pass over a transformer costs the bytes that it must carry over the slowest link, almost independently of how
//! many tokens ride on it, until compute catches up. Everything here is shaped by it: weights are kept in their
//! quantised form and decoded in registers, a pass carries the rows of all sequences at once, and every speed that air
//! prints was measured and stands beside the limit that the machine's own bandwidth sets.
//!
//! # The house
//!
//! Imports go down only; `tests/house.rs` enforces it, and that `unsafe` stays in `hal`, `io` and `ffi`.
//!
//! | floor | modules | what it is |
//! |---|---|---|
//! | faces | [`cli`], [`serve`] | what people type; what programs ask over HTTP |
//! | engine | [`engine`], [`openai`] | requests, scheduling, one pass after another; what others' programs ask |
//! | model | [`arch`], [`lower`] | families as data; from a description to programs and stages |
//! | memory | [`plan`], [`stream`], [`kv`] | what lives where; the weights that come from the drive; which page of state belongs to which positions of which sequence |
//! | hands | [`hal`], [`io`], [`format`](mod@format) | devices; direct reads; files. They do not know each other |
//! | words | [`quant`], [`op`], [`sample`], [`text`] | number formats, the instruction set, choosing tokens, tokens and text |
//! | ground | [`error`], [`meta`], [`source`], [`config`]; `ffi` | what everybody needs; libraries of NVIDIA's as their headers declare them, written by bindgen |
//!
//! # A weight's way
//!
//! [`format::gguf`] reads a header into a [`format::Catalogue`]: tensors as checked byte ranges, nothing else. [`arch`]
//! turns the metadata into a [`arch::ModelSpec`], pure data; [`lower`] turns the spec into programs over values, one
//! for each distinct shape of layer, and stages that bind programs to weights. [`plan`] cuts each weight into panels and
//! gives each a home; [`io`] reads them past the page cache and [`stream`] hands them out: those that are kept once, as
//! the backend loads them into its own layout, the others in every pass, in the order of use. What a device
//! with memory of its own does not keep is carried there, or computed by the processor beside it where few tokens ride
//! ([`hal::Hybrid`]).
//!
//! # A token's way
//!
//! Text becomes ids ([`text::Tokenizer`]), ids become a [`engine::Request`] in a bounded queue; the engine's thread
//! gives it a sequence (behind the pages that an earlier text left, where both begin alike: [`kv::Prefixes`]), builds a
//! batch of rows (prompts and single tokens of all sequences mixed) and launches every stage once for all rows. State is
//! reserved stretch by stretch; where it runs out, who can wait or came last gives its pages up and reads its text again. Logits go through the sampler
//! ([`sample`]), the token through the streaming detokenizer and the stop texts, and out as an [`engine::Event`].
//!
//! # The arithmetic
//!
//! [`hal::exact`] interprets programs in plain Rust with float64 sums: it is the specification, and agrees with Hugging
//! Face transformers to 1e-5 on the families' goldens. [`hal::cpu`] is fast. It has *one arithmetic definition per
//! format*: activations are quantised in fixed blocks, block sums are exact integers, one fused multiply-add per
//! block in block order, one accumulator per output, attention page by page. So every instruction set, chunking,
//! thread count and set of neighbours gives the same bits, and tests compare bits.
//!
//! # What a change costs
//!
//! A dense family: a file in [`arch`] and a row of its table. A number format: a file in [`quant`], a row, and what the
//! fast backend needs to be fast. An instruction: the enum, the interpreter, the fast backend and a test case.
//! A setting: a row of [`config`]'s table. A kernel for GPUs: a file in `kernels/`, which `build.rs` compiles where the
//! feature `cuda` is on, and its launcher in `hal::cuda`.
//!
//! # Using it as a library
//!
//! ```
//! use air_rs::engine::{Engine, Event, LoadOptions, Request, demo};
//!
//! let engine = Engine::load(&demo()?, &LoadOptions::default(), &mut |_done, _total| ())?;
//! let prompt = engine.tokenizer().encode("ROMEO:", true, true);
//! let request = Request { prompt, max_tokens: 20, ..Request::default() };
//! let mut tokens = 0;
//! for event in engine.submit(request)? {
//!     match event? {
//!         Event::Prompt(_) | Event::Read(_) => {}
//!         Event::Token(token) => {
//!             print!("{}", token.text);
//!             tokens += 1;
//!         }
//!         Event::Finished(end) => println!("{} ({} tokens)", end.text, end.usage.generated_tokens),
//!     }
//! }
//! assert!(tokens > 0);
//! # Ok::<(), air_rs::error::Error>(())
//! ```

pub mod config;
pub mod error;
#[cfg(feature = "cuda")]
#[path = "../ffi/mod.rs"]
pub mod ffi;
pub mod meta;
pub mod source;

pub mod op;
pub mod quant;
pub mod sample;
pub mod text;

pub mod format;
pub mod hal;
pub mod io;

pub mod kv;
pub mod plan;
pub mod stream;

pub mod arch;
pub mod lower;

pub mod engine;
pub mod openai;

pub mod serve;

pub mod cli;
