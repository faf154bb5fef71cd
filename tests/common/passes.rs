//! A history of passes, to be compared with the same one under other circumstances.

use air_rs::engine::{Chunk, Outputs, Runner};

/// Prompts in chunks with and without logits, two sequences, single tokens; the bits of all logits. `between` is called before each pass.
pub fn history(runner: &mut Runner, mut between: impl FnMut(&mut Runner, usize)) -> Vec<u32> {
    let (a, b) = (runner.kv().create(), runner.kv().create());
    let text: Vec<u32> = (0..40).map(|i| 3 + i * 5 % 60).collect();
    let chunk = |seq, tokens, outputs| Chunk { seq, tokens, outputs };
    let mut seen = vec![];
    for (i, chunks) in [
        vec![chunk(a, &text[..24], Outputs::None)],
        vec![chunk(a, &text[24..30], Outputs::Last), chunk(b, &text[..11], Outputs::None)],
        vec![chunk(a, &text[30..31], Outputs::Last), chunk(b, &text[11..12], Outputs::Last)],
        vec![chunk(b, &text[12..30], Outputs::All)],
        vec![chunk(a, &text[31..32], Outputs::Last)],
    ]
    .into_iter()
    .enumerate()
    {
        between(runner, i);
        runner.run(chunks).unwrap();
        seen.extend(runner.logits().iter().map(|x| x.to_bits()));
    }
    runner.kv().release(a);
    runner.kv().release(b);
    seen
}
