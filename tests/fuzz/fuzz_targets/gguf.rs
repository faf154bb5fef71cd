//! Any bytes as a GGUF: opened, described and tokenised with. Every outcome but a result or an error is a bug.

#![no_main]

use air_rs::format::gguf;
use air_rs::source::Source;
use air_rs::text::Tokenizer;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let source = Source::embedded("fuzz", bytes.to_vec());
    let Ok(catalogue) = gguf::open_source(Arc::new(source)) else { return };
    let _ = air_rs::arch::spec(&catalogue);
    if let Ok(tokenizer) = Tokenizer::from_meta(&catalogue.meta) {
        let ids = tokenizer.encode("hello wörld </s> \n 123", true, true);
        tokenizer.decode(&ids, true);
    }
});
