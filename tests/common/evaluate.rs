//! Running a model without its engine.

use air_rs::engine::{Chunk, Outputs, Runner};

/// Logits at every position of a new sequence, fed in chunks.
pub fn evaluate(runner: &mut Runner, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let seq = runner.kv().create();
    let mut out = vec![];
    for tokens in tokens.chunks(chunk) {
        runner.run([Chunk { seq, tokens, outputs: Outputs::All }]).unwrap();
        out.extend_from_slice(runner.logits());
    }
    runner.kv().release(seq);
    out
}
