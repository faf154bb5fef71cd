//! How probable tokens were: of prompts, of answers, and where a stop text cuts an answer.

use super::http::Server;
use super::{CHAT, COMPLETIONS, joined, text};
use serde_json::{Value, json};

/// The prompt with an answer of none, and both together: what the same text gives when it is all prompt.
#[test]
fn a_prompt_that_is_wanted_back_brings_its_probabilities() {
    let server = Server::start(&["--max-num-seqs", "3"]);
    let body = json!({ "prompt": "ROMEO:", "max_tokens": 6, "temperature": 0, "logprobs": 2, "echo": true, "n": 2 });
    let whole = server.post(COMPLETIONS, &body).json();
    let both = &whole["choices"][0];
    assert_eq!(both["logprobs"], whole["choices"][1]["logprobs"]);
    let list = |choice: &Value, of: &str| choice["logprobs"][of].as_array().unwrap().clone();
    let (tokens, chosen) = (list(both, "tokens"), list(both, "token_logprobs"));
    assert!(chosen[0].is_null() && chosen[1..].iter().all(|p| p.as_f64().unwrap() <= 0.0), "{chosen:?}");
    assert!(both["logprobs"]["top_logprobs"][0].is_null());
    let joined: String = tokens.iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(joined, text(&json!({ "choices": [both] })));
    // Each token's place in the text, the prompt's and the answer's.
    let places = list(both, "text_offset");
    for (token, at) in tokens.iter().zip(&places) {
        let behind: String = joined.chars().skip(at.as_u64().unwrap() as usize).collect();
        assert!(behind.starts_with(token.as_str().unwrap()), "{token} at {at} of {joined}");
    }
    let all = json!({ "prompt": joined, "max_tokens": 0, "logprobs": 2, "echo": true });
    let all = server.post(COMPLETIONS, &all).json()["choices"][0].clone();
    assert_eq!(all["logprobs"], both["logprobs"], "as it was chosen, so it is read");
    // In a stream the pieces join to the same lists.
    let mut stream = body.clone();
    stream["stream"] = json!(true);
    let events = server.post(COMPLETIONS, &stream).events();
    let first = events.iter().filter_map(|e| e["choices"].get(0)).filter(|c| c["index"] == 0);
    let pieces: Vec<Value> =
        first.filter_map(|c| c["logprobs"]["token_logprobs"].as_array()).flatten().cloned().collect();
    assert_eq!(pieces, chosen);
}

#[test]
fn probabilities_are_those_of_the_tokens() {
    let server = Server::start(&[]);
    let body = json!({ "prompt": "ROMEO:", "max_tokens": 6, "temperature": 0, "logprobs": 3 });
    let choice = server.post(COMPLETIONS, &body).json()["choices"][0].clone();
    let told = &choice["logprobs"];
    let tokens: Vec<&str> = told["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), choice["text"].as_str().unwrap());
    for (i, token) in tokens.iter().enumerate() {
        let (chosen, top) = (&told["token_logprobs"][i], told["top_logprobs"][i].as_object().unwrap());
        // Greedy: the chosen one is the most probable.
        assert_eq!((top.len(), top.keys().next().unwrap().as_str(), &top[*token]), (3, *token, chosen));
        assert!(top.values().map(|p| p.as_f64().unwrap().exp()).sum::<f64>() <= 1.0);
        assert_eq!(told["text_offset"][i], tokens[..i].concat().chars().count());
    }
    // Also where text is held back, since it may begin a stop text.
    let held = json!({ "prompt": "ROMEO:", "max_tokens": 6, "temperature": 0, "logprobs": 0, "stop": ["\nI'll be~"] });
    assert_eq!(server.post(COMPLETIONS, &held).json()["choices"][0]["logprobs"]["text_offset"], told["text_offset"]);
    let many = json!({ "prompt": "a", "max_tokens": 400, "n": 100, "logprobs": 20 });
    assert_eq!(server.post(COMPLETIONS, &many).json()["error"]["param"], "logprobs");
    // Which tokens they are.
    let ids = json!({ "prompt": "ROMEO:", "max_tokens": 6, "temperature": 0, "return_token_ids": true });
    let ids = server.post(COMPLETIONS, &ids).json()["choices"][0]["token_ids"].clone();
    assert_eq!(server.post("/detokenize", &json!({ "tokens": ids })).json()["prompt"], choice["text"]);
    // A bias changes what is chosen, not what the model says of it.
    let second = told["top_logprobs"][0].as_object().unwrap().keys().nth(1).unwrap().clone();
    let id =
        server.post("/tokenize", &json!({ "prompt": second, "add_special_tokens": false })).json()["tokens"][0].clone();
    let biased = json!({ "prompt": "ROMEO:", "max_tokens": 1, "temperature": 0, "logprobs": 3,
        "logit_bias": { id.to_string(): 100 } });
    let biased = server.post(COMPLETIONS, &biased).json()["choices"][0]["logprobs"].clone();
    assert_eq!(
        (&biased["tokens"][0], &biased["token_logprobs"][0]),
        (&json!(second), &told["top_logprobs"][0][&second])
    );
    // The token itself is told of, also where it is none of the most probable ones; a chat has those alone.
    let tops = |top: u64| {
        let body = json!({ "prompt": "ROMEO:", "max_tokens": 1, "temperature": 0, "logprobs": top,
            "logit_bias": { id.to_string(): 100 } });
        server.post(COMPLETIONS, &body).json()["choices"][0]["logprobs"]["top_logprobs"][0].clone()
    };
    let all = &told["top_logprobs"][0];
    let first = all.as_object().unwrap().keys().next().unwrap();
    assert_eq!(tops(0), json!({ &second: all[&second] }));
    assert_eq!(tops(1), json!({ first: all[first], &second: all[&second] }));
    assert_eq!(tops(2), tops(1), "it is there once");
    let chat = json!({ "messages": [{ "role": "user", "content": "a" }], "max_tokens": 1, "logprobs": true,
        "logit_bias": { id.to_string(): 100 } });
    let chat = server.post(CHAT, &chat).json()["choices"][0]["logprobs"]["content"][0].clone();
    assert_eq!((&chat["token"], &chat["top_logprobs"]), (&json!(second), &json!([])));
}

/// The tokens of an answer with a stop text join to its text, but for the end of the last one, whole and in a stream.
#[test]
fn tokens_that_a_stop_text_cuts_away_have_no_probabilities() {
    let server = Server::start(&[]);
    let body = json!({ "prompt": "ROMEO:", "max_tokens": 24, "temperature": 0, "logprobs": 1 });
    let all = server.post(COMPLETIONS, &body).json()["choices"][0].clone();
    let tokens: Vec<&str> = all["logprobs"]["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    // Two tokens; and from the middle of one on, where there is one with a middle.
    let long = (2..16).find(|&i| tokens[i].is_ascii() && tokens[i].len() > 2).unwrap();
    let stops = [tokens[8..10].concat(), format!("{}{}", &tokens[long][1..], tokens[long + 1])];
    for stop in stops {
        let mut body = body.clone();
        body["stop"] = json!(stop);
        let whole = server.post(COMPLETIONS, &body).json()["choices"][0].clone();
        let told = &whole["logprobs"];
        let (text, end) = (whole["text"].as_str().unwrap(), whole["text"].as_str().unwrap().chars().count() as u64);
        assert_eq!(text, all["text"].as_str().unwrap().split(&stop).next().unwrap());
        let offsets = told["text_offset"].as_array().unwrap();
        assert!(offsets.iter().all(|at| at.as_u64().unwrap() < end), "{end}: {told}");
        let n = offsets.len();
        for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(told[list].as_array().unwrap(), &all["logprobs"][list].as_array().unwrap()[..n], "{list}");
        }
        assert!(tokens[..n].concat().starts_with(text), "{text:?}: {told}");
        body["stream"] = json!(true);
        let events = server.post(COMPLETIONS, &body).events();
        assert_eq!(joined(&events, 0).0, text);
        let (mut shown, mut pieces) = (0, vec![]);
        for choice in events.iter().filter_map(|e| e["choices"].get(0)) {
            shown += choice["text"].as_str().unwrap().chars().count() as u64;
            let begin = choice["logprobs"]["text_offset"].as_array().cloned().unwrap_or_default();
            assert!(begin.iter().all(|at| at.as_u64().unwrap() < shown), "what is not shown is told of: {choice}");
            pieces.extend(begin);
        }
        assert_eq!(&pieces, offsets);
    }
    // And in a chat.
    let mut chat = json!({ "messages": [{ "role": "user", "content": "What news?" }], "max_tokens": 12,
        "temperature": 0, "logprobs": true });
    let ask = |body: &Value| -> (String, Vec<String>) {
        let body = server.post(CHAT, body).json();
        let list = body["choices"][0]["logprobs"]["content"].as_array().unwrap();
        (text(&body), list.iter().map(|t| t["token"].as_str().unwrap().to_string()).collect())
    };
    let (_, all) = ask(&chat);
    chat["stop"] = json!(all[4..6].concat());
    let (text, cut) = ask(&chat);
    assert_eq!(cut[..], all[..cut.len()]);
    // The last one begins within the text, if it does not end there.
    let (_, before) = cut.split_last().unwrap();
    assert!(before.concat().len() < text.len() && cut.concat().starts_with(&text), "{text:?}: {cut:?}");
}
