//! Bodies that are right, and what is said of those that are not.

use super::*;
use serde_json::json;

fn read(endpoint: Endpoint, body: Value) -> Result<Ask> {
    Ask::read(endpoint, body, &Params::default(), Some(99))
}

fn chat(extra: Value) -> Result<Ask> {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "a" }] });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    read(Endpoint::Chat, body)
}

#[test]
fn every_field_reaches_the_request() {
    let ask = chat(json!({
        "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.25, "top_k": 3, "min_p": 0.125, "typical_p": 0.75,
        "repetition_penalty": 1.5, "presence_penalty": -1, "frequency_penalty": 2, "seed": -1, "stop": ["x", "yz"],
        "logit_bias": { "5": -100 }, "user": "u", "metadata": { "a": [1] }, "n": 1, "stream": false, "tools": [],
        "response_format": { "type": "text" }, "logprobs": null, "audio": null,
    }))
    .unwrap();
    let want = Params {
        temperature: 0.5,
        top_p: 0.25,
        top_k: 3,
        min_p: 0.125,
        typical_p: 0.75,
        repetition_penalty: 1.5,
        presence_penalty: -1.0,
        frequency_penalty: 2.0,
        seed: Some(u64::MAX),
        logit_bias: vec![(5, -100.0)],
        ..Params::default()
    };
    let prompt = Prompt::Messages(vec![Message::new("user", "a")]);
    let plain = Ask {
        endpoint: Endpoint::Chat,
        model: Some("m".into()),
        stream: false,
        include_usage: false,
        prompts: vec![prompt],
        n: 1,
        echo: false,
        priority: 0,
        time_limit: None,
        logprobs: None,
        token_ids: false,
        max_tokens: Some(7),
        sampling: want,
        stop: vec!["x".into(), "yz".into()],
    };
    assert_eq!(ask, plain);

    let ask = read(Endpoint::Completions, json!({ "prompt": "a", "stop": "x", "max_tokens": null })).unwrap();
    let want = Ask {
        endpoint: Endpoint::Completions,
        model: None,
        prompts: vec![Prompt::Text("a".into())],
        max_tokens: Some(99),
        sampling: Params::default(),
        stop: vec!["x".into()],
        ..plain
    };
    assert_eq!(ask, want);
    assert_eq!(chat(json!({ "max_tokens": 5, "max_completion_tokens": 5 })).unwrap().max_tokens, Some(5));
}

#[test]
fn content_may_come_in_parts() {
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    let body = json!({ "messages": [{ "role": "developer", "content": parts }, { "role": "user", "content": "" }] });
    let want = vec![Message::new("system", "ab"), Message::new("user", "")];
    assert_eq!(read(Endpoint::Chat, body).unwrap().prompts, [Prompt::Messages(want)]);
}

#[test]
fn what_is_wrong_or_cannot_be_done_is_named() {
    let user = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    for (extra, want) in [
        (json!({ "n": 0 }), "n is 0; it must be 1 to 128"),
        (json!({ "stream": "yes" }), "stream must be true or false"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options needs stream to be true"),
        (json!({ "stream": true, "stream_options": { "x": 1 } }), "stream_options.x is not a field that air knows"),
        (json!({ "top_logprobs": 2 }), "top_logprobs needs logprobs to be true"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs is 21; it must be 0 to 20"),
        (json!({ "logprobs": 1 }), "logprobs must be true or false"),
        (json!({ "echo": true }), "echo is not a field that air knows"),
        (json!({ "tools": [{ "type": "function" }] }), "tools is [{\"type\":\"function\"}], which is not supported"),
        (json!({ "response_format": { "type": "json_object" } }), "response_format is "),
        (json!({ "audio": {} }), "audio is not supported; leave it out"),
        (json!({ "temprature": 1 }), "temprature is not a field that air knows; leave it out"),
        (json!({ "prompt": "a" }), "prompt is not a field that air knows"),
        (json!({ "temperature": "hot" }), "temperature must be a number"),
        (json!({ "top_k": 1.5 }), "top_k must be a whole number, 0 or more"),
        (json!({ "max_tokens": -1 }), "max_tokens is -1; it must be 0 to 4294967295"),
        (json!({ "max_tokens": 1, "max_completion_tokens": 2 }), "max_tokens and max_completion_tokens differ"),
        (json!({ "seed": 0.5 }), "seed must be a whole number"),
        (json!({ "stop": [1] }), "stop[0] must be a text of 1 to 4096 bytes"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias must give a number for each token id"),
        (json!({ "model": 5 }), "model must be a text"),
        (json!({ "messages": null }), "messages is missing: the conversation so far"),
        (json!({ "messages": [] }), "messages has 0 messages; 1 to 4096 can be"),
        (json!({ "messages": "hi" }), "messages must be a list"),
        (json!({ "messages": ["hi"] }), "messages[0] must be a JSON object"),
        (json!({ "messages": [{ "content": "a" }] }), "messages[0].role is missing"),
        (
            json!({ "messages": [{ "role": "tool", "content": "a" }] }),
            "messages[0].role must be system, developer, user or assistant",
        ),
        (json!({ "messages": [{ "role": "user", "content": "a", "name": 5 }] }), "messages[0].name must be a text"),
        (
            json!({ "messages": [{ "role": "user", "content": "a", "audio": {} }] }),
            "messages[0].audio is not supported",
        ),
        (user(json!(null)), "messages[0].content is missing"),
        (user(json!(5)), "messages[0].content must be a text or a list of text parts"),
        (user(json!([{ "type": "image_url" }])), "messages[0].content[0].type must be text"),
        (user(json!([{ "type": "text" }])), "messages[0].content[0].text is missing"),
    ] {
        let e = chat(extra.clone()).unwrap_err().to_string();
        assert!(e.starts_with(want), "{extra}: {e}");
    }
    for (body, want) in [
        (
            json!({ "prompt": [] }),
            "prompt must be a text, a list of token ids or a list of 1 to 128 texts or lists of token ids",
        ),
        (json!({ "prompt": ["a", 1] }), "prompt must be a text, a list of token ids or a list of 1 to 128 "),
        (json!({ "prompt": [1, "a"] }), "prompt must be a text, a list of token ids or a list of 1 to 128 "),
        (json!({ "prompt": [-1] }), "prompt must be a text, a list of token ids or a list of 1 to 128 "),
        (json!({ "prompt": {} }), "prompt must be a text, a list of token ids or a list of 1 to 128 "),
        (json!({ "prompt": "a", "logprobs": 21 }), "logprobs is 21; it must be 0 to 20"),
        (json!({ "prompt": "a", "timeout": -1 }), "timeout is -1; it must be seconds, from 0 to 86400"),
        (json!({ "prompt": "a", "priority": 0.5 }), "priority"),
        (json!({ "prompt": ["a", "b"], "n": 65 }), "n is 65; it must be 1 to 64 with 2 prompts"),
    ] {
        let e = read(Endpoint::Completions, body.clone()).unwrap_err().to_string();
        assert!(e.starts_with(want), "{body}: {e}");
    }
    // Numbers are the nearest float64, to the last bit: the first is the bound, the second its neighbour.
    let hot = |t: &str| {
        read(Endpoint::Completions, serde_json::from_str(&format!(r#"{{"prompt": "a", "temperature": {t}}}"#)).unwrap())
    };
    assert!(hot("3.4028234663852886e+38").is_ok() && hot("3.402823466385289e+38").is_err());
    // The nearest float64 is the least seed.
    let below = r#"{"prompt": "a", "seed": -9223372036854775809}"#;
    let e = read(Endpoint::Completions, serde_json::from_str(below).unwrap()).unwrap_err().to_string();
    assert_eq!(e, "seed must be a whole number");
    let e = read(Endpoint::Completions, json!([])).unwrap_err().to_string();
    assert_eq!(e, "body must be a JSON object");
    assert_eq!(Endpoint::of("/v1/completions").unwrap(), Endpoint::Completions);
    let e = Endpoint::of("/v1/embeddings").unwrap_err().to_string();
    assert_eq!(e, "url is `/v1/embeddings`; it must be /v1/chat/completions or /v1/completions");
}

#[test]
fn prompts_come_as_texts_or_tokens() {
    let prompts = |p: Value| read(Endpoint::Completions, json!({ "prompt": p })).unwrap().prompts;
    let (text, tokens) = (|s: &str| Prompt::Text(s.into()), |ids: &[u32]| Prompt::Tokens(ids.to_vec()));
    assert_eq!(prompts(json!("a")), [text("a")]);
    assert_eq!(prompts(json!(["a", "b"])), [text("a"), text("b")]);
    assert_eq!(prompts(json!([1, 2])), [tokens(&[1, 2])]);
    assert_eq!(prompts(json!([[1, 2], [3], "c"])), [tokens(&[1, 2]), tokens(&[3]), text("c")]);
}

#[test]
fn who_takes_one_choice_refuses_more() {
    for (extra, want) in [
        (json!({ "n": 2 }), "n is 2, which is not supported; it must be 1, or left out"),
        (json!({ "stream": true }), "stream is true, which is not supported; it must be false, or left out"),
    ] {
        assert_eq!(chat(extra).unwrap().alone().unwrap_err().to_string(), want);
    }
    let several = read(Endpoint::Completions, json!({ "prompt": ["a", "b"] })).unwrap();
    assert!(several.alone().unwrap_err().to_string().starts_with("prompt has several texts"));
    assert!(chat(json!({ "n": 1 })).unwrap().alone().is_ok());
}
