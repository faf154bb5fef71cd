//! Admission by pages of state: requests share what there is by what they can need, in order of arrival, and get what
//! they get alone.

#[path = "common/models.rs"]
mod models;
#[path = "common/requests.rs"]
mod requests;

use air_rs::engine::{Engine, Event, FinishReason, Finished, Generation, LoadOptions, Request, StateSize};
use air_rs::format::gguf;
use air_rs::meta::Value;
use air_rs::sample::Params;
use models::altered;
use requests::{engine, greedy, ids, tokens};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn options(max_sequences: usize, positions: u64) -> LoadOptions {
    LoadOptions { max_sequences, state: StateSize::Positions(positions), ..LoadOptions::default() }
}

/// With a context that takes hours to fill.
fn endless(options: LoadOptions) -> Engine {
    let long = altered("llama-gqa.gguf", |meta| {
        meta.insert("llama.context_length", Value::U32(1 << 20), None);
    });
    Engine::load(&gguf::open(Path::new(&*long)).unwrap(), &options, &mut |_, _| ()).unwrap()
}

/// Reads so many tokens, for each of which there was a pass.
fn passes(g: &mut Generation, n: usize) {
    for _ in 0..n {
        assert!(matches!(g.next(), Some(Ok(Event::Token(_)))));
    }
}

fn ended(g: Generation) -> (Vec<u32>, Finished) {
    let (mut ids, mut end) = (vec![], None);
    for event in g {
        match event.unwrap() {
            Event::Token(t) => ids.push(t.id),
            Event::Finished(f) => end = Some(f),
            Event::Prompt(_) | Event::Read(_) => {}
        }
    }
    (ids, end.unwrap())
}

#[test]
fn many_requests_share_little_state_and_get_what_they_get_alone() {
    for model in ["qwen3-tied", "qwen2-window"] {
        let sampled = |i: u32| {
            let sampling = Params { temperature: 1.0, seed: Some(u64::from(i)), ..Params::default() };
            // Some begin alike.
            Request { sampling, ..greedy(tokens(5 + i * 11 % 90, i % 4), 3 + i * 5 % 40) }
        };
        let alone = engine(model, LoadOptions { max_rows: 16, ..LoadOptions::default() });
        let want: Vec<Vec<u32>> = (0..40).map(|i| ids(&alone, sampled(i))).collect();
        // Just one of the longest, and some.
        for positions in [160, 320, 10_000] {
            let e = engine(model, LoadOptions { max_rows: 16, ..options(5, positions) });
            let all: Vec<_> = (0..40).map(|i| e.submit(sampled(i)).unwrap()).collect();
            for (i, g) in all.into_iter().enumerate() {
                assert_eq!(ended(g).0, want[i], "{model}, {positions} positions, request {i}");
            }
        }
    }
}

#[test]
fn short_requests_run_beside_a_long_one_and_none_overtakes_one_that_waits() {
    let e = endless(options(4, 2048));
    let mut long = e.submit(greedy(tokens(1000, 1), 1000)).unwrap();
    passes(&mut long, 1);
    // Some 800 positions are neither taken nor reserved.
    assert_eq!(ids(&e, greedy(tokens(4, 2), 100)).len(), 100, "it runs while the long one does");
    let waits = e.submit(greedy(tokens(1000, 3), 60)).unwrap();
    let behind = e.submit(greedy(tokens(4, 4), 3)).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let done = done.clone();
        move || {
            let answer = ended(behind).0;
            done.store(true, Ordering::SeqCst);
            answer
        }
    });
    passes(&mut long, 500);
    assert!(!done.load(Ordering::SeqCst), "there was room for it, but another came first");
    drop(long);
    let (answer, end) = ended(waits);
    assert_eq!((answer.len(), end.reason), (60, FinishReason::Length));
    assert_eq!(thread.join().unwrap().len(), 3);
}

#[test]
fn one_that_waits_can_be_cancelled_and_holds_up_nobody_then() {
    let e = endless(options(4, 2048));
    let mut long = e.submit(greedy(tokens(1000, 1), 1000)).unwrap();
    passes(&mut long, 1);
    let waits = e.submit(greedy(tokens(1000, 3), 60)).unwrap();
    let behind = e.submit(greedy(tokens(4, 4), 30)).unwrap();
    passes(&mut long, 5);
    waits.cancel();
    let end = ended(waits).1;
    assert_eq!((end.reason, end.usage.read_tokens), (FinishReason::Cancelled, 0), "nothing was computed");
    assert_eq!(ended(behind).0.len(), 30);
    passes(&mut long, 1);
    // Together with the engine.
    let waits = e.submit(greedy(tokens(1000, 3), 60)).unwrap();
    passes(&mut long, 5);
    drop(e);
    assert!(waits.last().unwrap().is_err() && long.last().unwrap().is_err());
}

#[test]
fn who_came_last_gives_its_pages_up_and_its_answer_is_the_same() {
    let sampled = |i: u32| {
        let sampling = Params { temperature: 1.0, seed: Some(u64::from(i)), ..Params::default() };
        let stop = vec!["never said".to_string()];
        Request { sampling, stop, ..greedy(tokens(3 + i, i), 900) }
    };
    let alone = endless(options(1, 1024));
    let want: Vec<_> = (0..4).map(|i| ended(alone.submit(sampled(i)).unwrap())).collect();
    let e = endless(options(4, 1024));
    let mut all: Vec<_> = (0..4).map(|i| e.submit(sampled(i)).unwrap()).collect();
    // Each begins, though the longest answers of two would not fit.
    let last = all.pop().unwrap();
    let first: Vec<_> = all.iter_mut().map(|g| g.next().unwrap().unwrap()).collect();
    assert!(first.iter().all(|e| matches!(e, Event::Token(_))));
    for (i, g) in all.into_iter().enumerate() {
        let (ids, end) = ended(g);
        let Event::Token(token) = &first[i] else { unreachable!() };
        assert_eq!(([&[token.id], &ids[..]].concat(), &end.text), (want[i].0.clone(), &want[i].1.text), "request {i}");
        assert_eq!(end.usage.prompt_tokens, 3 + i as u32);
        assert_eq!(end.usage.generated_tokens, 900);
        assert_eq!(end.usage.read_tokens, 3 + i as u32, "what is read again counts once");
    }
    assert_eq!(ended(last).0, want[3].0);
}

#[test]
fn who_gave_its_pages_up_can_be_cancelled() {
    let e = endless(options(2, 1024));
    let mut first = e.submit(greedy(tokens(4, 1), 1000)).unwrap();
    let mut second = e.submit(greedy(tokens(4, 2), 1000)).unwrap();
    passes(&mut second, 1);
    passes(&mut first, 990);
    second.cancel();
    assert_eq!(ended(second).1.reason, FinishReason::Cancelled);
    assert_eq!(ended(first).0.len(), 10);
    assert_eq!(ids(&e, greedy(tokens(4, 3), 1000)).len(), 1000, "all pages are free again");
}

#[test]
fn kept_state_gives_way_but_what_is_gone_on_from_last() {
    let e = engine("llama-gqa", options(8, 96));
    let kept = |prompt: &[u32], n| ended(e.submit(greedy(prompt.to_vec(), n)).unwrap()).1.usage.kept_tokens;
    let (a, b) = (tokens(30, 1), tokens(20, 2));
    assert_eq!(kept(&a, 3), 0);
    assert_eq!(kept(&b, 1), 0);
    // Both are kept on a page each; a third finds room beside them.
    assert_eq!(kept(&a, 2), 29);
    assert_eq!(kept(&b, 2), 19);
    // All three pages: what it does not begin with is forgotten.
    assert_eq!(kept(&a, 60), 29);
    assert_eq!(kept(&b, 2), 0);
    // And what shares nothing takes the place of all.
    assert_eq!(kept(&tokens(90, 3), 7), 0);
    assert_eq!(kept(&a, 2), 0);
}

#[test]
fn what_never_fits_is_refused_at_once_and_says_what_would() {
    let e = engine("llama-gqa", options(4, 70));
    let error = |r: Request| e.submit(r).unwrap().text().unwrap_err().to_string();
    // 70 positions are three pages.
    let m = error(greedy(tokens(40, 1), 100));
    let want = "a prompt of 40 tokens and an answer of up to 100 need 139 positions, the sequence state holds 96; ask \
                for at most 57 tokens";
    assert_eq!(m, want);
    assert_eq!(ids(&e, greedy(tokens(40, 1), 57)).len(), 57);
    assert_eq!(error(greedy(tokens(97, 1), 1)), "the prompt has 97 tokens, the sequence state holds 96; shorten it");
    assert!(e.evaluate(tokens(97, 1)).unwrap().next().unwrap().is_err());
    assert_eq!(e.evaluate(tokens(96, 1)).unwrap().map(|l| l.unwrap().positions).sum::<usize>(), 96);
    let none = options(4, 0);
    let e = Engine::load(&requests::catalogue("llama-gqa"), &none, &mut |_, _| ()).unwrap_err().to_string();
    assert!(e.contains("at least 1 position"), "{e}");
}

/// A tiny model's whole state is little: what is wanted fits, but for more than each sequence can use.
#[test]
fn state_is_as_large_as_wanted_where_it_fits() {
    let base = LoadOptions { max_sequences: 6, ..LoadOptions::default() };
    let pages = |options: LoadOptions| {
        let mut runner = air_rs::engine::load(&requests::catalogue("llama-gqa"), &options, &mut |_, _| ()).unwrap().1;
        (runner.kv().free_pages()[0], runner.context())
    };
    let up_to = |n, context| pages(LoadOptions { state: StateSize::UpTo(n), context, ..base.clone() });
    assert_eq!(pages(base.clone()), (6 * 256 / 32, 256));
    assert_eq!(up_to(1 << 40, None), (6 * 256 / 32, 256));
    assert_eq!(up_to(1000, None), (32, 256));
    assert_eq!(up_to(1, None), (8, 256), "a context is the least");
    assert_eq!(up_to(1, Some(40)), (2, 40));
    assert_eq!(up_to(100, Some(40)), (4, 40));
}

#[test]
fn what_begins_alike_is_read_once_also_while_it_is_read() {
    for (model, shares) in [("llama-gqa", true), ("qwen2-window", false)] {
        let alone = engine(model, options(1, 4096));
        let sampled = |i: u32| {
            let sampling = Params { temperature: 1.0, seed: Some(u64::from(i)), ..Params::default() };
            // 96 tokens are alike: three pages.
            let prompt = [tokens(96, 1), tokens(3 + i % 40, i)].concat();
            Request { sampling, ..greedy(prompt, 20) }
        };
        let want: Vec<_> = (0..9).map(|i| ids(&alone, sampled(i))).collect();
        let e = engine(model, LoadOptions { max_rows: 16, ..options(6, 4096) });
        let all: Vec<_> = (0..9).map(|i| e.submit(sampled(i)).unwrap()).collect();
        let ends: Vec<_> = all.into_iter().map(ended).collect();
        for (i, (ids, end)) in ends.iter().enumerate() {
            assert_eq!(ids, &want[i], "{model}, request {i}");
            assert!(i == 0 || !shares || end.usage.kept_tokens >= 96, "{model}, request {i}: {:?}", end.usage);
        }
        assert_eq!(ends[0].1.usage.kept_tokens, 0);
    }
}

#[test]
fn who_waits_for_a_beginning_goes_on_when_its_reader_leaves() {
    let e = endless(LoadOptions { max_rows: 16, ..options(4, 4096) });
    let first = e.submit(greedy(tokens(2000, 1), 5)).unwrap();
    let second = e.submit(greedy([tokens(1990, 1), tokens(9, 2)].concat(), 5)).unwrap();
    // Others are not held up.
    assert_eq!(ids(&e, greedy(tokens(4, 3), 2)).len(), 2);
    first.cancel();
    drop(first);
    assert_eq!(ended(second).0.len(), 5);
}

#[test]
fn one_tenant_s_crowd_does_not_hold_up_another_and_nobody_sees_what_others_asked() {
    let e = endless(options(2, 1 << 14));
    let of = |tenant: u64, prompt: Vec<u32>| Request { tenant, ..greedy(prompt, 40) };
    let mut crowd: Vec<_> = (0..30).map(|i| e.submit(of(1, tokens(64, i))).unwrap()).collect();
    // Two of the crowd run already, one may have been chosen before the other came.
    passes(&mut crowd[0], 1);
    let end = ended(e.submit(of(2, tokens(64, 0))).unwrap()).1;
    assert_eq!(end.usage.kept_tokens, 0, "the same text was another's");
    // What ended before it says so; the last of the crowd cannot have.
    let last = crowd.pop().unwrap();
    last.cancel();
    assert_eq!(ended(last).1.usage.generated_tokens, 0, "it waited for the whole crowd");
    assert_eq!(ended(e.submit(of(2, tokens(64, 0))).unwrap()).1.usage.kept_tokens, 63, "this one was its own");
    drop(crowd);
}

#[test]
fn choices_of_one_prompt_share_its_last_page_too() {
    let sampled = |i: u32| {
        let sampling = Params { temperature: 1.0, seed: Some(u64::from(i)), ..Params::default() };
        Request { sampling, ..greedy(tokens(75, 1), 50) }
    };
    let alone = engine("llama-gqa", options(1, 4096));
    let want: Vec<_> = (0..4).map(|i| ids(&alone, sampled(i))).collect();
    let e = engine("llama-gqa", LoadOptions { max_rows: 16, ..options(4, 4096) });
    let all: Vec<_> = (0..4).map(|i| e.submit(sampled(i)).unwrap()).collect();
    let ends: Vec<_> = all.into_iter().map(ended).collect();
    assert!(ends.iter().zip(&want).all(|((ids, _), want)| ids == want));
    let kept: Vec<u32> = ends.iter().map(|(_, end)| end.usage.kept_tokens).collect();
    assert_eq!(kept, [0, 74, 74, 74], "all but the token whose logits are wanted");
}

#[test]
fn who_is_urgent_comes_first_of_one_s_own() {
    let e = endless(options(1, 4096));
    let mut long = e.submit(greedy(tokens(4, 1), 1000)).unwrap();
    passes(&mut long, 1);
    let (to, order) = std::sync::mpsc::channel();
    for (name, priority) in [("later", 5), ("as usual", 0), ("urgent", -5), ("as usual too", 0)] {
        let to = to.clone();
        let sink = move |event| !matches!(event, Ok(Event::Finished(_))) || to.send(name).is_ok();
        let request = Request { priority, ..greedy(tokens(4, 2), 3) };
        e.submit_to(request, Arc::default(), Arc::new(sink)).unwrap();
    }
    passes(&mut long, 5);
    drop(long);
    let order: Vec<&str> = order.iter().take(4).collect();
    assert_eq!(order, ["urgent", "as usual", "as usual too", "later"]);
}

#[test]
fn who_has_a_time_limit_gets_what_there_is_when_it_is_over() {
    // So much that no machine gets there in time.
    let e = endless(options(1, 1 << 16));
    let within =
        |ms| Request { time_limit: Some(std::time::Duration::from_millis(ms)), ..greedy(tokens(4, 1), 65_000) };
    let mut long = e.submit(within(200)).unwrap();
    passes(&mut long, 1);
    // It waits, and never begins.
    let (ids, end) = ended(e.submit(within(0)).unwrap());
    assert_eq!((ids.len(), end.reason, end.usage.read_tokens), (0, FinishReason::TimeLimit, 0));
    let (ids, end) = ended(long);
    assert_eq!((end.reason, end.usage.generated_tokens), (FinishReason::TimeLimit, ids.len() as u32 + 1));
    assert_eq!(self::ids(&e, greedy(tokens(4, 3), 30)).len(), 30);
}

/// What ended texts hold has a bound of its own, if that is wanted.
#[test]
fn what_is_kept_may_be_bounded() {
    let none = Some(air_rs::config::Size::Bytes(0));
    for (prefix_cache, want) in [(None, 40), (none, 0)] {
        let e = engine("llama-gqa", LoadOptions { prefix_cache, ..options(4, 4096) });
        let kept = |n| ended(e.submit(greedy(tokens(n, 1), 2)).unwrap()).1.usage.kept_tokens;
        assert_eq!((kept(40), kept(41)), (0, want));
    }
}

/// A kept page that only the last search found gives way too.
#[test]
fn one_that_is_alone_grows_to_all_of_the_state() {
    let e = endless(options(1, 1024));
    let start = tokens(45, 1);
    assert_eq!(ids(&e, greedy(start.clone(), 4)).len(), 4);
    let (ids, end) = ended(e.submit(greedy(start, 980)).unwrap());
    assert_eq!((ids.len(), end.usage.kept_tokens), (980, 44));
}

#[test]
fn a_prompt_that_is_read_aloud_does_not_hold_up_those_behind_it() {
    let e = endless(LoadOptions { max_rows: 16, ..options(3, 1 << 14) });
    let mut aloud = e.submit(Request { prompt_logprobs: Some(0), ..greedy(tokens(3000, 1), 0) }).unwrap();
    assert!(matches!(aloud.next(), Some(Ok(Event::Read(_)))));
    assert_eq!(ids(&e, greedy(tokens(100, 2), 2)).len(), 2);
    aloud.cancel();
    assert_eq!(ended(aloud).1.reason, FinishReason::Cancelled, "it has read all: the other waited for it");
}
