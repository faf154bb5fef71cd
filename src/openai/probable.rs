//! How probable tokens were, in the two forms that the API has for it.

use crate::engine::Token;
use crate::sample::Logprobs;
use crate::text::Tokenizer;
use serde_json::{Map, Value, json};

/// A token's text; bytes that are no text of their own are shown as U+FFFD, and whole beside it.
fn text(id: u32, tokenizer: &Tokenizer) -> String {
    String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned()
}

/// Of chats: a list of tokens, each with its bytes and those in its place.
pub(super) fn chat(tokens: &[(usize, Token)], tokenizer: &Tokenizer) -> Value {
    let one = |id: u32, logprob: f32| {
        let bytes = tokenizer.token_bytes(id);
        json!({ "token": text(id, tokenizer), "logprob": logprob, "bytes": bytes.as_ref() })
    };
    let told = tokens.iter().filter_map(|(_, token)| Some((token.id, token.logprobs.as_ref()?)));
    let list = told.map(|(id, l)| {
        let mut entry = one(id, l.chosen);
        entry["top_logprobs"] = l.top.iter().map(|&(id, logprob)| one(id, logprob)).collect();
        entry
    });
    json!({ "content": list.collect::<Vec<_>>(), "refusal": null })
}

/// Of completions: lists beside each other.
pub(super) fn completions(tokens: &[(usize, Token)], tokenizer: &Tokenizer) -> Value {
    let (mut texts, mut chosen, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
    for (at, token) in tokens {
        let map = |l: &Logprobs| {
            let mut map = Map::new();
            // The token itself is always there, behind those that are more probable.
            for (id, logprob) in l.top.iter().copied().chain([(token.id, l.chosen)]) {
                // Two tokens may have one text: the more probable one stands.
                map.entry(text(id, tokenizer)).or_insert_with(|| json!(logprob));
            }
            map
        };
        texts.push(text(token.id, tokenizer));
        // Of a prompt's first token nothing is known.
        chosen.push(token.logprobs.as_ref().map(|l| l.chosen));
        top.push(token.logprobs.as_ref().map(map));
        offsets.push(*at);
    }
    json!({ "tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets })
}
