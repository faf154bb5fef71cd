//! What an answer says of the events that it hears, whole and in chunks.

use super::*;
use crate::engine::{Engine, FinishReason, LoadOptions, Usage, demo};
use crate::openai::Ask;
use crate::sample::{Logprobs, Params};

fn engine() -> Engine {
    Engine::load(&demo().unwrap(), &LoadOptions::default(), &mut |_, _| ()).unwrap()
}

fn ask(endpoint: Endpoint, body: Value) -> Ask {
    Ask::read(endpoint, body, &Params::default(), Some(9)).unwrap()
}

fn token(id: u32, text: &str, logprobs: Option<Logprobs>) -> Event {
    let (characters, usage) = (text.chars().count() as u32, Usage::default());
    Event::Token(Token { id, text: text.into(), characters, logprobs, usage })
}

fn end(text: &str, reason: FinishReason) -> Event {
    let usage = Usage { prompt_tokens: 5, kept_tokens: 2, generated_tokens: 3, ..Usage::default() };
    Event::Finished(Finished { reason, text: text.into(), usage })
}

#[test]
fn the_chunks_of_a_chat_are_its_body() {
    let engine = engine();
    let body = json!({ "messages": [{ "role": "user", "content": "a" }], "n": 2 });
    let mut answer =
        Answer::new(&ask(Endpoint::Chat, body), "x", "m", engine.tokenizer().clone(), [String::new(), String::new()]);
    let mut texts = [String::new(), String::new()];
    let beginning = answer.beginning();
    assert_eq!(beginning.len(), 2);
    assert_eq!(beginning[1]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(beginning[1]["object"], "chat.completion.chunk");
    let events =
        [(0, token(1, "He", None)), (1, token(2, "", None)), (0, token(3, "llo", None)), (1, token(4, "Ho", None))];
    for (i, event) in events.into_iter().chain([(0, end("!", FinishReason::Stop)), (1, end("", FinishReason::Length))])
    {
        assert!(!answer.is_done());
        let silent = matches!(&event, Event::Token(t) if t.text.is_empty());
        let Some(chunk) = answer.hear(i, event) else {
            assert!(silent);
            continue;
        };
        assert!(!silent, "an empty piece is not sent");
        assert_eq!(chunk["choices"][0]["index"], i);
        texts[i].push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or(""));
    }
    assert!(answer.is_done());
    let body = answer.body();
    assert_eq!((&body["id"], &body["object"]), (&json!("chatcmpl-x"), &json!("chat.completion")));
    assert_eq!(body["choices"][0]["message"]["content"], "Hello!");
    assert_eq!(body["choices"][1]["message"]["content"], "Ho");
    assert_eq!(texts, ["Hello!", "Ho"]);
    assert_eq!(
        (&body["choices"][0]["finish_reason"], &body["choices"][1]["finish_reason"]),
        (&json!("stop"), &json!("length"))
    );
    // Two choices of one prompt read it once.
    let usage = json!({ "prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11,
        "prompt_tokens_details": { "cached_tokens": 2 } });
    assert_eq!(body["usage"], usage);
    assert_eq!((&answer.usage_chunk()["usage"], &answer.usage_chunk()["choices"]), (&usage, &json!([])));
}

#[test]
fn probabilities_have_the_form_of_the_endpoint() {
    let engine = engine();
    let id = engine.tokenizer().encode("a", false, false)[0];
    let piece = String::from_utf8(engine.tokenizer().token_bytes(id).into_owned()).unwrap();
    let told = || Some(Logprobs { chosen: -0.5, top: vec![(id, -0.5)] });
    let chat = json!({ "messages": [{ "role": "user", "content": "a" }], "logprobs": true, "top_logprobs": 1 });
    let mut answer = Answer::new(&ask(Endpoint::Chat, chat), "x", "m", engine.tokenizer().clone(), [String::new()]);
    let chunk = answer.hear(0, token(id, &piece, told())).unwrap();
    answer.hear(0, end("", FinishReason::Stop));
    let one = json!({ "token": piece, "logprob": -0.5, "bytes": piece.as_bytes() });
    let mut want = one.clone();
    want["top_logprobs"] = json!([one]);
    assert_eq!(chunk["choices"][0]["logprobs"]["content"], json!([want]));
    assert_eq!(answer.body()["choices"][0]["logprobs"]["content"], json!([want]));

    let completion = json!({ "prompt": "äb", "logprobs": 1 });
    let mut answer =
        Answer::new(&ask(Endpoint::Completions, completion), "x", "m", engine.tokenizer().clone(), ["äb".to_string()]);
    answer.hear(0, token(id, "é", told()));
    answer.hear(0, token(id, "", told()));
    answer.hear(0, end("", FinishReason::Stop));
    let body = answer.body();
    assert_eq!(body["choices"][0]["text"], "äbé");
    let want = json!({ "tokens": [piece, piece], "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{ &piece: -0.5 }, { &piece: -0.5 }], "text_offset": [2, 3] });
    assert_eq!(body["choices"][0]["logprobs"], want);
}

/// What a token says where `text` comes out of the `characters` that became certain with it.
fn held(id: u32, text: &str, characters: u32) -> Event {
    let logprobs = Some(Logprobs { chosen: -0.5, top: vec![] });
    Event::Token(Token { id, text: text.into(), characters, logprobs, usage: Usage::default() })
}

/// Where the tokens of a piece begin.
fn offsets(chunk: &Value) -> Vec<u64> {
    let list = chunk["choices"][0]["logprobs"]["text_offset"].as_array();
    list.map_or(vec![], |list| list.iter().map(|at| at.as_u64().unwrap()).collect())
}

#[test]
fn tokens_that_a_stop_text_cuts_away_are_not_told_of() {
    let engine = engine();
    for stream in [false, true] {
        let body = json!({ "prompt": "äb", "logprobs": 0, "stream": stream });
        let ask = ask(Endpoint::Completions, body);
        let mut answer = Answer::new(&ask, "x", "m", engine.tokenizer().clone(), ["äb".to_string()]);
        let mut hear = |event| offsets(&answer.hear(0, event).unwrap_or_default());
        // A token without a text waits for the next one, which may be the first of a stop text.
        assert_eq!((hear(held(1, "", 0)), hear(held(2, "cd", 2))), (vec![], vec![2, 2]));
        // It may begin a stop text, and does not.
        assert_eq!((hear(held(3, "", 1)), hear(held(4, "ef", 1))), (vec![], vec![4, 5]));
        // The stop text begins within a token.
        assert_eq!((hear(held(5, "g", 2)), hear(held(6, "", 0)), hear(held(7, "", 3))), (vec![6], vec![], vec![]));
        assert!(hear(end("", FinishReason::Stop)).is_empty());
        let body = answer.body();
        let told = body["choices"][0]["logprobs"]["text_offset"].clone();
        assert_eq!(told, if stream { json!([]) } else { json!([2, 2, 4, 5, 6]) });
    }
}

#[test]
fn tokens_behind_the_text_are_told_of_where_no_stop_text_is_cut_away() {
    let engine = engine();
    let ask = ask(Endpoint::Completions, json!({ "prompt": "a", "logprobs": 0 }));
    let mut answer = Answer::new(&ask, "x", "m", engine.tokenizer().clone(), [String::new()]);
    let mut hear = |event| offsets(&answer.hear(0, event).unwrap_or_default());
    // Held back, and then an unfinished character, and one without a text.
    assert_eq!((hear(held(1, "", 2)), hear(held(2, "", 0)), hear(held(3, "", 0))), (vec![], vec![], vec![]));
    assert_eq!(hear(end("ab\u{fffd}", FinishReason::Length)), vec![0, 2, 2]);
    assert_eq!(offsets(&answer.body()), [0, 2, 2]);
    // Nothing at all comes out.
    let mut answer = Answer::new(&ask, "x", "m", engine.tokenizer().clone(), [String::new()]);
    answer.hear(0, held(1, "", 0));
    answer.hear(0, end("", FinishReason::Length));
    assert_eq!(offsets(&answer.body()), [0]);
}

#[test]
fn errors_name_their_field_and_status() {
    let field = Error::Field { field: "top_p".into(), problem: "is 7".into() };
    let (status, body) = error(&field);
    assert_eq!(
        (status, &body["error"]["param"], &body["error"]["message"]),
        (400, &json!("top_p"), &json!("top_p is 7"))
    );
    assert_eq!(error(&Error::Busy("later".into())).0, 503);
    assert_eq!(error(&Error::Engine("broken".into())).1["error"]["type"], "server_error");
}
