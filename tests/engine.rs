//! The engine as its users see it, on tiny models: the same bits for the same request whatever runs beside it, and
//! every way for a generation to end.

#[path = "common/evaluate.rs"]
mod evaluate;
#[path = "common/models.rs"]
mod models;
#[path = "common/requests.rs"]
mod requests;

use air_rs::engine::{Chunk, Engine, Event, FinishReason, Generation, LoadOptions, Outputs, Request, Runner, load};
use air_rs::format::gguf;
use air_rs::meta::Value;
use air_rs::quant::Kind;
use air_rs::sample::Params;
use air_rs::text::{Tokenizer, synthetic};
use evaluate::evaluate;
use models::{altered, rewritten};
use requests::{catalogue, engine, greedy, ids, tokens};
use std::path::Path;

fn runner(name: &str, options: &LoadOptions) -> Runner {
    load(&catalogue(name), options, &mut |_, _| ()).unwrap().1
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A dense model, one with a window in some layers, one with experts; on both backends.
fn cases() -> Vec<(&'static str, LoadOptions)> {
    let base = LoadOptions { max_sequences: 4, ..LoadOptions::default() };
    let exact = LoadOptions { exact: true, ..base.clone() };
    ["llama-gqa", "qwen2-window", "qwen3moe-2of6"]
        .into_iter()
        .flat_map(|m| [(m, base.clone()), (m, exact.clone())])
        .collect()
}

#[test]
fn a_vocabulary_of_another_size_than_the_embedding_is_refused_before_the_weights_are_read() {
    let mut catalogue = catalogue("llama-gqa");
    let mut meta = catalogue.meta.clone();
    let size = Tokenizer::from_meta(&meta).unwrap().len();
    synthetic::copy_padded(&catalogue.meta, &mut meta, size + 1).unwrap();
    catalogue.meta = meta;
    let read = &mut |_, _| panic!("weights are read");
    let Err(error) = Engine::load(&catalogue, &LoadOptions::default(), read) else { panic!("it is loaded") };
    let want = format!("tokenizer.ggml.tokens: the vocabulary has {} tokens, the embedding {size} rows", size + 1);
    assert!(error.to_string().ends_with(&want), "{error}");
}

#[test]
fn more_layers_than_the_tensors_could_be_are_refused() {
    let mut catalogue = catalogue("llama-gqa");
    let tensors = catalogue.tensors.len();
    catalogue.meta.insert("llama.block_count", Value::U32(tensors as u32 / 9 + 1), Some(7));
    let error = air_rs::arch::spec(&catalogue).unwrap_err().to_string();
    let want = format!("llama.block_count at byte 7: {} layers cannot be in {tensors} tensors", tensors / 9 + 1);
    assert!(error.ends_with(&want), "{error}");
}

#[test]
fn chunks_neighbours_and_threads_change_no_bit() {
    for (model, options) in cases() {
        let name = format!("{model}, exact {}", options.exact);
        let prompt = tokens(100, 5);
        let mut one = runner(model, &LoadOptions { threads: Some(1), ..options.clone() });
        let want = bits(&evaluate(&mut one, &prompt, 64));
        for chunk in [1, 7, 64] {
            let mut two = runner(model, &LoadOptions { threads: Some(2), ..options.clone() });
            assert_eq!(bits(&evaluate(&mut two, &prompt, chunk)), want, "{name}: chunks of {chunk}, two threads");
        }
        // Passes of 12 rows and of 4 with different threads, both ways.
        for (threads, batch) in [(1, 3), (3, 1)] {
            let options = LoadOptions { threads: Some(threads), threads_batch: Some(batch), ..options.clone() };
            let have = bits(&evaluate(&mut runner(model, &options), &prompt, 12));
            assert_eq!(have, want, "{name}: {threads} threads, {batch} in batches");
        }
        // Beside two others, whose rows come before, between and after.
        let mut r = runner(model, &options);
        let vocab = r.vocab();
        let ids = [r.kv().create(), r.kv().create(), r.kv().create()];
        let others = [tokens(40, 2), tokens(90, 9)];
        let mut have = vec![];
        for i in 0..prompt.len() {
            let part = |t: &[u32]| t.get(i..i + 1).map_or(vec![], <[u32]>::to_vec);
            let (a, b) = (part(&others[0]), part(&others[1]));
            let mut chunks = vec![];
            if !a.is_empty() {
                chunks.push(Chunk { seq: ids[0], tokens: &a, outputs: Outputs::None });
            }
            let mine = chunks.len();
            chunks.push(Chunk { seq: ids[1], tokens: &prompt[i..i + 1], outputs: Outputs::All });
            if !b.is_empty() {
                chunks.push(Chunk { seq: ids[2], tokens: &b, outputs: Outputs::All });
            }
            assert_eq!(mine, usize::from(!a.is_empty()));
            r.run(chunks.iter().copied()).unwrap();
            have.extend_from_slice(&r.logits()[..vocab]);
        }
        assert_eq!(bits(&have), want, "{name}: with neighbours");
    }
}

#[test]
fn forks_and_restores_continue_with_the_same_bits() {
    for (model, options) in cases() {
        let mut r = runner(model, &options);
        let vocab = r.vocab();
        let (past, next) = (tokens(45, 3), tokens(20, 8));
        let whole = [past.clone(), next.clone()].concat();
        let want = bits(&evaluate(&mut r, &whole, 64)[past.len() * vocab..]);

        let original = r.kv().create();
        r.run([Chunk { seq: original, tokens: &past, outputs: Outputs::None }]).unwrap();
        let fork = r.kv().fork(original);
        // Both go on, in different directions, on the page that they share.
        let (there, further) = (tokens(10, 1), tokens(10, 2));
        r.run([Chunk { seq: original, tokens: &there, outputs: Outputs::None }]).unwrap();
        r.run([Chunk { seq: fork, tokens: &next, outputs: Outputs::All }]).unwrap();
        assert_eq!(bits(r.logits()), want, "{model}: a fork");
        r.run([Chunk { seq: original, tokens: &further, outputs: Outputs::All }]).unwrap();
        let have = bits(r.logits());
        let alone = evaluate(&mut r, &[past.clone(), there, further].concat(), 64);
        assert_eq!(have, bits(&alone[(past.len() + 10) * vocab..]), "{model}: the original after its fork");
        r.kv().restore(original, past.len() as u32).unwrap();
        r.run([Chunk { seq: original, tokens: &next, outputs: Outputs::All }]).unwrap();
        assert_eq!(bits(r.logits()), want, "{model}: a restore");
    }
}

/// Quantised keys and values stay near the float ones (head sizes are multiples of 32 in the demo model only, so the
/// tiny models must refuse).
#[test]
fn state_formats_that_do_not_fit_the_heads_are_refused() {
    let options = LoadOptions { k_type: Some(Kind::Q8_0), ..LoadOptions::default() };
    let e = load(&catalogue("llama-gqa"), &options, &mut |_, _| ()).err().unwrap().to_string();
    assert!(e.contains("Q8_0") && e.contains("f16"), "{e}");
    let options = LoadOptions { v_type: Some(Kind::Q6_K), ..LoadOptions::default() };
    let e = load(&catalogue("llama-gqa"), &options, &mut |_, _| ()).err().unwrap().to_string();
    assert!(e.contains("Q6_K") && e.contains("q8_0"), "{e}");
}

#[test]
fn requests_that_run_together_get_what_they_get_alone() {
    let e = engine("qwen3-tied", LoadOptions { max_sequences: 3, max_rows: 16, ..LoadOptions::default() });
    let sampled = |i: u32| {
        let sampling = Params { temperature: 1.0, seed: Some(u64::from(i)), ..Params::default() };
        Request { sampling, ..greedy(tokens(5 + i * 9, i), 20) }
    };
    let alone: Vec<Vec<u32>> = (0..8).map(|i| ids(&e, sampled(i))).collect();
    let together: Vec<_> = (0..8).map(|i| e.submit(sampled(i)).unwrap()).collect();
    for (i, g) in together.into_iter().enumerate() {
        let have: Vec<u32> = g
            .filter_map(|event| match event.unwrap() {
                Event::Token(t) => Some(t.id),
                Event::Finished(_) | Event::Prompt(_) | Event::Read(_) => None,
            })
            .collect();
        assert_eq!(have, alone[i], "request {i}");
    }
    assert!(alone.iter().all(|a| a.len() == 20));
    assert_ne!(alone[0], alone[1]);
}

/// Greedy generation is the argmax of the logits that an evaluation of the same text gives.
#[test]
fn greedy_tokens_are_the_largest_logits() {
    let e = engine("llama-gqa", LoadOptions { max_rows: 16, ..LoadOptions::default() });
    let prompt = tokens(37, 2);
    let answer = ids(&e, greedy(prompt.clone(), 12));
    let whole = [prompt.clone(), answer.clone()].concat();
    let logits: Vec<f32> = e.evaluate(whole).unwrap().flat_map(|l| l.unwrap().values).collect();
    let vocab = e.info().spec.vocab;
    for (i, &id) in answer.iter().enumerate() {
        let row = &logits[(prompt.len() - 1 + i) * vocab..][..vocab];
        let best = (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(id as usize, best, "token {i}");
    }
}

#[test]
fn a_generation_ends_at_its_length_and_at_the_context() {
    let e = engine("llama-gqa", LoadOptions { context: Some(40), ..LoadOptions::default() });
    let (_, f) = e.submit(greedy(tokens(10, 1), 6)).unwrap().text().unwrap();
    assert_eq!((f.reason, f.usage.prompt_tokens, f.usage.generated_tokens), (FinishReason::Length, 10, 6));
    // 40 positions hold the prompt and 30 more tokens; the token after the last position needs none.
    let (_, f) = e.submit(greedy(tokens(10, 1), 1000)).unwrap().text().unwrap();
    assert_eq!((f.reason, f.usage.generated_tokens), (FinishReason::Length, 31));
    let (text, f) = e.submit(greedy(tokens(10, 1), 0)).unwrap().text().unwrap();
    assert_eq!((text.as_str(), f.reason, f.usage.generated_tokens), ("", FinishReason::Length, 0));
}

#[test]
fn bad_requests_are_answered_by_name_and_the_engine_lives() {
    let e = engine("llama-gqa", LoadOptions { context: Some(40), ..LoadOptions::default() });
    let error = |r: Request| e.submit(r).unwrap().text().unwrap_err().to_string();
    let m = error(greedy(tokens(41, 1), 5));
    assert!(m.contains("41 tokens") && m.contains("40"), "{m}");
    let m = error(greedy(vec![5, 9999], 5));
    assert!(m.contains("9999"), "{m}");
    let m = error(Request { sampling: Params { top_p: 7.0, ..Params::default() }, ..greedy(vec![5], 5) });
    assert!(m.contains("top_p"), "{m}");
    let m = error(Request { stop: vec![String::new()], ..greedy(vec![5], 5) });
    assert!(m.contains("stop"), "{m}");
    assert!(e.evaluate(vec![1; 41]).unwrap().next().unwrap().is_err());
    assert_eq!(ids(&e, greedy(vec![], 3)).len(), 3, "an empty prompt starts from BOS");
}

/// Float32 weights of which one is NaN.
fn poisoned(tensor: &'static str, at: usize, options: LoadOptions) -> Engine {
    let damage = |name: &str, bytes: &mut [u8]| {
        if name == tensor {
            bytes[at * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    };
    let file = rewritten("llama-gqa.gguf", |_| (), damage);
    Engine::load(&gguf::open(Path::new(&*file)).unwrap(), &options, &mut |_, _| ()).unwrap()
}

#[test]
fn the_layer_that_gives_nan_is_named() {
    for (tensor, culprit) in [
        ("token_embd.weight", "embed gave NaN"),
        ("blk.0.ffn_down.weight", "layer 0 feed-forward gave NaN"),
        ("blk.1.attn_norm.weight", "layer 1 gave NaN"),
        ("output.weight", "the logits are NaN"),
    ] {
        for exact in [false, true] {
            let e = poisoned(tensor, 0, LoadOptions { exact, ..LoadOptions::default() });
            let error = e.submit(greedy(vec![0, 5], 3)).unwrap().text().unwrap_err().to_string();
            assert!(error.contains(culprit), "{tensor}, exact {exact}: {error}");
        }
    }
}

#[test]
fn a_text_that_overflows_ends_alone() {
    let options = LoadOptions { max_sequences: 3, ..LoadOptions::default() };
    let whole = engine("llama-gqa", options.clone());
    let want = ids(&whole, greedy(tokens(4, 1), 200));
    let unused = (3..60).find(|t| !want.contains(t) && !tokens(4, 1).contains(t)).unwrap();
    let e = poisoned("token_embd.weight", unused as usize * whole.info().spec.width, options);
    let sound = e.submit(greedy(tokens(4, 1), 200)).unwrap();
    let mut ends = vec![];
    for _ in 0..5 {
        ends.push(e.submit(greedy(vec![5, unused, 6], 3)).unwrap().text().unwrap_err().to_string());
    }
    assert!(ends.iter().all(|e| e.contains("embed gave NaN")), "{ends:?}");
    let token = |event| match event {
        Ok(Event::Token(t)) => Some(t.id),
        Ok(Event::Finished(_) | Event::Prompt(_) | Event::Read(_)) => None,
        Err(e) => panic!("{e}"),
    };
    assert_eq!(sound.filter_map(token).collect::<Vec<u32>>(), want);
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_part_of_it() {
    let e = engine("llama-gqa", LoadOptions::default());
    let (text, _) = e.submit(greedy(tokens(6, 4), 30)).unwrap().text().unwrap();
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[8..11].iter().collect();
    let request = Request { stop: vec![stop.clone()], ..greedy(tokens(6, 4), 30) };
    let (cut, f) = e.submit(request).unwrap().text().unwrap();
    assert_eq!(cut, text.split(&stop).next().unwrap());
    assert_eq!(f.reason, FinishReason::Stop);
}

/// With a context that takes hours to fill.
fn endless(options: LoadOptions) -> Engine {
    let long = altered("llama-gqa.gguf", |meta| {
        meta.insert("llama.context_length", Value::U32(1 << 20), None);
    });
    Engine::load(&gguf::open(Path::new(&*long)).unwrap(), &options, &mut |_, _| ()).unwrap()
}

#[test]
fn cancelled_and_dropped_generations_free_their_place() {
    let e = endless(LoadOptions::default());
    for _ in 0..5 {
        let mut g = e.submit(greedy(tokens(4, 1), 1 << 20)).unwrap();
        g.next().unwrap().unwrap();
        drop(g);
    }
    let mut g = e.submit(greedy(tokens(4, 1), 1 << 20)).unwrap();
    g.next().unwrap().unwrap();
    g.cancel();
    let end = g.last().unwrap().unwrap();
    assert!(matches!(end, Event::Finished(f) if f.reason == FinishReason::Cancelled));
    assert_eq!(ids(&e, greedy(tokens(4, 1), 3)).len(), 3);
}

#[test]
fn an_evaluation_that_nobody_reads_holds_up_nobody() {
    let e = engine("llama-gqa", LoadOptions { max_rows: 4, max_sequences: 2, ..LoadOptions::default() });
    let text = tokens(90, 6);
    let slow = e.evaluate(text.clone()).unwrap();
    assert_eq!(ids(&e, greedy(tokens(4, 1), 30)).len(), 30);
    let other = e.evaluate(text).unwrap();
    let late: Vec<f32> = other.flat_map(|l| l.unwrap().values).collect();
    assert_eq!(bits(&slow.flat_map(|l| l.unwrap().values).collect::<Vec<_>>()), bits(&late));
    // Those that are dropped in the middle give their places back.
    for _ in 0..20 {
        let dropped = [6, 7].map(|salt| e.evaluate(tokens(90, salt)).unwrap());
        let started = dropped.map(|mut d| (d.next().unwrap().unwrap(), d));
        drop(started);
    }
    assert_eq!(ids(&e, greedy(tokens(4, 1), 60)).len(), 60);
}

/// The next turn of a chat: what was read before is not read again, and the answer is the same.
#[test]
fn a_request_goes_on_where_an_earlier_one_stopped() {
    for (model, options) in cases() {
        for max_sequences in [1, 3] {
            let name = format!("{model}, exact {}, {max_sequences} sequences", options.exact);
            let options = LoadOptions { max_sequences, ..options.clone() };
            let ask = |e: &Engine, prompt: &[u32]| {
                let sampling = Params { temperature: 1.5, seed: Some(9), ..Params::default() };
                let request = Request { sampling, ..greedy(prompt.to_vec(), 25) };
                let (mut ids, mut kept) = (vec![], 0);
                for event in e.submit(request).unwrap() {
                    match event.unwrap() {
                        Event::Token(t) => ids.push(t.id),
                        Event::Finished(f) => kept = f.usage.kept_tokens as usize,
                        Event::Prompt(_) | Event::Read(_) => {}
                    }
                }
                (ids, kept)
            };
            let fresh = |prompt: &[u32]| ask(&engine(model, options.clone()), prompt);
            let e = engine(model, options.clone());
            let first = tokens(40, 3);
            let (answer, kept) = ask(&e, &first);
            assert_eq!((&answer, kept), (&fresh(&first).0, 0), "{name}");
            let next = [first.clone(), answer, tokens(9, 5)].concat();
            let (answer, kept) = ask(&e, &next);
            assert_eq!((&answer, kept), (&fresh(&next).0, 64), "{name}: all but the last token, which was not read");
            // Another text that begins alike; a window may have moved on.
            let other = [&first[..30], &tokens(9, 1)].concat();
            let (answer, kept) = ask(&e, &other);
            assert_eq!(answer, fresh(&other).0, "{name}: another text");
            assert!(kept == 30 || model.contains("window") && kept == 0, "{name}: {kept}");
            // The same again, of which the last token must be read for its logits; and one that shares nothing.
            let (answer, kept) = ask(&e, &other);
            assert_eq!((&answer, kept), (&fresh(&other).0, other.len() - 1), "{name}: the same again");
            let last = tokens(50, 4);
            assert_ne!(last[0], first[0]);
            assert_eq!(ask(&e, &last), (fresh(&last).0, 0), "{name}: something else");
        }
    }
}

#[test]
fn what_waits_has_a_bound_and_goes_with_the_engine() {
    let e = endless(LoadOptions::default());
    let mut running = e.submit(greedy(tokens(4, 1), 1 << 20)).unwrap();
    let mut waiting = vec![];
    let refused = loop {
        // Between two requests the engine has its turns.
        running.next().unwrap().unwrap();
        match e.submit(greedy(tokens(4, 1), 1)) {
            Ok(g) => waiting.push(g),
            Err(e) => break e.to_string(),
        }
        assert!(waiting.len() <= 8192, "nothing bounds what waits");
    };
    // As many as the engine has seen, and as many again that it has not.
    assert_eq!((waiting.len(), refused.contains("4096 requests are waiting")), (8192, true), "{refused}");
    drop(e);
    assert!(running.last().unwrap().is_err() && waiting.into_iter().all(|g| g.last().unwrap().is_err()));
}

#[test]
fn a_number_of_sequences_that_cannot_be_is_refused() {
    for n in [0, air_rs::engine::MAX_SEQUENCES + 1] {
        let options = LoadOptions { max_sequences: n, ..LoadOptions::default() };
        let e = load(&catalogue("llama-gqa"), &options, &mut |_, _| ()).err().unwrap().to_string();
        assert!(e.contains(&format!("{n} sequences")), "{e}");
    }
}

#[test]
fn evaluations_give_the_logits_of_every_position() {
    let e = engine("llama-gqa", LoadOptions { max_rows: 16, exact: true, ..LoadOptions::default() });
    let prompt = tokens(50, 6);
    let parts: Vec<_> = e.evaluate(prompt.clone()).unwrap().map(Result::unwrap).collect();
    let have: Vec<f32> = parts.iter().flat_map(|l| l.values.clone()).collect();
    assert_eq!(parts.iter().map(|l| l.positions).sum::<usize>(), 50);
    let mut r = runner("llama-gqa", &LoadOptions { exact: true, ..LoadOptions::default() });
    assert_eq!(bits(&have), bits(&evaluate(&mut r, &prompt, 50)));
    assert_eq!(e.evaluate(vec![]).unwrap().count(), 0);
}

/// What an evaluation of the prompt gives, though an earlier text has left its state, and the answer is the same.
#[test]
fn how_probable_a_prompt_was_is_told_of_each_token_once() {
    use air_rs::sample::Logprobs;
    let e = engine("llama-gqa", LoadOptions { max_rows: 16, max_sequences: 3, ..LoadOptions::default() });
    let prompt = tokens(45, 3);
    let answer = ids(&e, greedy(prompt.clone(), 5));
    let vocab = e.info().spec.vocab;
    let logits: Vec<f32> = e.evaluate(prompt.clone()).unwrap().flat_map(|l| l.unwrap().values).collect();
    let behind = logits.chunks(vocab).zip(&prompt[1..]).map(|(row, &id)| (id, Some(Logprobs::of(row, id, 2))));
    let want: Vec<(u32, Option<Logprobs>)> = std::iter::once((prompt[0], None)).chain(behind).collect();
    let asked = || Request { prompt_logprobs: Some(2), ..greedy(prompt.clone(), 5) };
    let all: Vec<Generation> = (0..3).map(|_| e.submit(asked()).unwrap()).collect();
    for g in all {
        let (mut read, mut ids) = (vec![], vec![]);
        for event in g {
            match event.unwrap() {
                Event::Read(more) => read.extend(more),
                Event::Token(t) => ids.push(t.id),
                Event::Finished(f) => assert_eq!((f.usage.kept_tokens, f.usage.read_tokens), (0, 45)),
                Event::Prompt(_) => {}
            }
        }
        assert_eq!((&read, &ids), (&want, &answer));
    }
    // Nothing need be generated.
    let none = Request { prompt_logprobs: Some(0), ..greedy(vec![9], 0) };
    let first = e.submit(none).unwrap().next().unwrap().unwrap();
    assert_eq!(first, Event::Read(vec![(9, None)]));
}
