//! What the bodies of requests may have in them: the tables that refuse, and that the document shows.
//!
//! What air cannot do stands here too, with the values that ask for nothing of it. Bounds that depend on several fields,
//! on the model or on the server (choices of all prompts together, the vocabulary, the context) are checked where these
//! are known.

use super::shape::{Field, List, Names, Object, Shape};
use crate::sample::{MAX_STOP_BYTES, MAX_STOPS, Range};

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 4096;
/// Most biased tokens.
const MAX_BIASES: usize = 1024;
/// Most choices of one answer: prompts times `n`.
pub const MAX_CHOICES: usize = 128;
/// Most tokens whose probability is told in the place of one.
const MAX_LOGPROBS: i128 = 20;
/// Most texts that end an answer: half of what there may be, as the model's chat template has some of its own.
const MAX_REQUEST_STOPS: usize = MAX_STOPS / 2;
/// Most tokens to make a text of.
const MAX_TOKENS: usize = 1 << 20;
/// Most bytes of a `custom_id`.
pub const MAX_ID: usize = 512;

const PRIORITY: Shape = Shape::Whole(i32::MIN as i128, i32::MAX as i128);
/// Of `timeout`: more than a day is none.
const SECONDS: Range = Range::new(0.0, 86_400.0, "seconds, from 0 to 86400");
const COUNT: Shape = Shape::Whole(0, u32::MAX as i128);
const LOGPROBS: Shape = Shape::Whole(0, MAX_LOGPROBS);
const IDS: Shape = Shape::List(&List { of: COUNT, what: "token ids", least: 0, most: usize::MAX });

const SOME_IDS: Shape = Shape::List(&List { of: COUNT, what: "token ids", least: 1, most: usize::MAX });
const PROMPTS: Shape = Shape::List(&List {
    of: Shape::Either(&[Shape::Text, IDS]),
    what: "texts or lists of token ids",
    least: 1,
    most: MAX_CHOICES,
});
const PARTS: Shape =
    Shape::List(&List { of: Shape::Object(&TEXT_PART), what: "text parts", least: 0, most: usize::MAX });
const MESSAGES: Shape =
    Shape::List(&List { of: Shape::Object(&MESSAGE), what: "messages", least: 1, most: MAX_MESSAGES });
const STOP: Shape = Shape::Bytes(1, MAX_STOP_BYTES);
const STOPS: Shape = Shape::List(&List { of: STOP, what: "texts", least: 0, most: MAX_REQUEST_STOPS });
const BIASES: Shape = Shape::Names(&Names {
    value: Shape::Number(&Range::BIAS),
    numbers: true,
    most: MAX_BIASES,
    problem: "must give a number for each token id",
});

/// Body of `/v1/chat/completions`.
pub static CHAT: Object = Object {
    name: "ChatCompletionRequest",
    about: "a conversation to be answered",
    fields: &[
        &[
            Field::must("messages", MESSAGES, "the conversation so far"),
            Field::or("logprobs", Shape::Flag, "false", "tell how probable the answer's tokens are"),
            Field::may("top_logprobs", LOGPROBS, "and of so many others in each place; needs logprobs to be true"),
        ],
        COMMON,
        SAMPLING,
        PASSED,
        UNDONE,
    ],
};

/// Body of `/v1/completions`.
pub static COMPLETION: Object = Object {
    name: "CompletionRequest",
    about: "texts to go on from",
    fields: &[
        &[
            Field::must(
                "prompt",
                Shape::Either(&[Shape::Text, SOME_IDS, PROMPTS]),
                "the text to go on from, its token ids, or several of either",
            ),
            Field::or("echo", Shape::Flag, "false", "the prompt stands before the answer, and its tokens in logprobs"),
            Field::may(
                "logprobs",
                LOGPROBS,
                "tell how probable the answer's tokens are, and so many others in each place",
            ),
        ],
        COMMON,
        SAMPLING,
        PASSED,
        UNDONE,
    ],
};

/// Body of `/tokenize`.
pub static TOKENIZE: Object = Object {
    name: "TokenizeRequest",
    about: "a text, or a conversation in the form of the model's chat template: one of prompt, content and messages",
    fields: &[&[
        Field::may("prompt", Shape::Text, "the text"),
        Field::may("content", Shape::Text, "llama.cpp's name for prompt"),
        Field::may("messages", MESSAGES, "the conversation so far"),
        Field::or("add_special_tokens", Shape::Flag, "true", "with the token that begins a text, if the model has one"),
        MODEL_PASSED,
    ]],
};

/// Body of `/detokenize`.
pub static DETOKENIZE: Object = Object {
    name: "DetokenizeRequest",
    about: "tokens to make a text of",
    fields: &[&[
        Field::must(
            "tokens",
            Shape::List(&List { of: COUNT, what: "ids", least: 0, most: MAX_TOKENS }),
            "a list of token ids",
        ),
        MODEL_PASSED,
    ]],
};

/// Body of `/apply-template`.
pub static APPLY_TEMPLATE: Object = Object {
    name: "ApplyTemplateRequest",
    about: "a conversation to make a prompt of",
    fields: &[&[Field::must("messages", MESSAGES, "the conversation so far"), MODEL_PASSED]],
};

/// A line of a batch.
pub static LINE: Object = Object {
    name: "BatchLine",
    about: "a request under a name of its own",
    fields: &[&[
        Field::must("custom_id", Shape::Bytes(1, MAX_ID), "the name"),
        Field::must("method", Shape::Word(&["POST"]), "how it would be sent"),
        Field::must("url", Shape::Text, "where it would be sent"),
        Field::must("body", Shape::Any, "the request"),
    ]],
};

/// A message of a conversation.
pub static MESSAGE: Object = Object {
    name: "Message",
    about: "what somebody said",
    fields: &[&[
        Field::must("role", Shape::Word(&["system", "developer", "user", "assistant"]), "who said it"),
        Field::must("content", Shape::Either(&[Shape::Text, PARTS]), "what was said"),
        Field::may("name", Shape::Text, "of whoever said it, for templates that tell apart who has one role"),
        Field::passed("refusal", Shape::Only(&[]), NOT_DONE),
        Field::passed("tool_calls", Shape::Only(&["[]"]), NOT_DONE),
        Field::passed("audio", Shape::Only(&[]), NOT_DONE),
        Field::passed("function_call", Shape::Only(&[]), NOT_DONE),
    ]],
};

/// A part of a message.
pub static TEXT_PART: Object = Object {
    name: "TextPart",
    about: "a piece of a message; air reads texts only",
    fields: &[&[
        Field::must("type", Shape::Word(&["text"]), "which kind it is"),
        Field::must("text", Shape::Text, "the text"),
    ]],
};

/// `stream_options` of a body.
pub static STREAM_OPTIONS: Object = Object {
    name: "StreamOptions",
    about: "how a stream is sent",
    fields: &[&[
        Field::or("include_usage", Shape::Flag, "false", "a last chunk says what the answer took"),
        Field::passed("include_obfuscation", Shape::Flag, "air's streams have no padding either way"),
    ]],
};

const COMMON: &[Field] = &[
    Field::may("model", Shape::Text, "one of the names that /v1/models tells; any, when left out"),
    Field::or(
        "n",
        Shape::Whole(1, MAX_CHOICES as i128),
        "1",
        "choices for each prompt; all prompts together have at most as many as one may",
    ),
    Field::or("stream", Shape::Flag, "false", "send the answer as it grows, as server-sent events"),
    Field::may("stream_options", Shape::Object(&STREAM_OPTIONS), "how a stream is sent; needs stream to be true"),
    Field::or("return_token_ids", Shape::Flag, "false", "tell which tokens the answer is; vLLM's name for it"),
    Field::may("max_tokens", COUNT, "most tokens of the answer; the server's setting, or what the context leaves"),
    Field::may("max_completion_tokens", COUNT, "the newer name of max_tokens; where both are given they are equal"),
    Field::or("priority", PRIORITY, "0", "of one's own that wait, smaller ones come first; vLLM's name for it"),
    Field::may(
        "timeout",
        Shape::Number(&SECONDS),
        "seconds that it may take, from its coming on; then it ends with what there is, with 503 if that is nothing",
    ),
    Field::may("stop", Shape::Either(&[STOP, STOPS]), "texts that end the answer, which are not part of it"),
];

const SAMPLING: &[Field] = &[
    Field::setting(
        "temperature",
        &Range::TEMPERATURE,
        |p| &mut p.temperature,
        "divides the logits; 0 takes the most probable token",
    ),
    Field::setting("top_p", &Range::SHARE, |p| &mut p.top_p, "keep the most probable tokens that together reach this"),
    Field::setting(
        "min_p",
        &Range::SHARE,
        |p| &mut p.min_p,
        "keep tokens at least so probable, relative to the most probable one",
    ),
    Field::setting(
        "typical_p",
        &Range::SHARE,
        |p| &mut p.typical_p,
        "keep the most typical tokens that together reach this",
    ),
    Field::setting(
        "repetition_penalty",
        &Range::REPETITION,
        |p| &mut p.repetition_penalty,
        "makes recent tokens less probable; 1 is off",
    ),
    Field::setting(
        "presence_penalty",
        &Range::PENALTY,
        |p| &mut p.presence_penalty,
        "taken from the logit of each recent token",
    ),
    Field::setting(
        "frequency_penalty",
        &Range::PENALTY,
        |p| &mut p.frequency_penalty,
        "taken from a recent token's logit for each time it occurs",
    ),
    Field::may(
        "top_k",
        COUNT,
        "keep so many of the most probable tokens; 0 keeps all; the server's setting, when left out",
    ),
    Field::may("seed", Shape::Whole(i64::MIN as i128, u64::MAX as i128), "of the draws; one is drawn, when left out"),
    Field::may("logit_bias", BIASES, "added to the logits of tokens, by their ids"),
];

/// Fields that tell who asks and what for, but nothing about the answer.
const PASSED: &[Field] = &[
    Field::passed("user", Shape::Any, NOT_READ),
    Field::passed("metadata", Shape::Any, NOT_READ),
    Field::passed("safety_identifier", Shape::Any, NOT_READ),
    Field::passed("prompt_cache_key", Shape::Any, NOT_READ),
];
const MODEL_PASSED: Field = Field::passed("model", Shape::Any, NOT_READ);

/// Fields that air does not do, with the values that ask for nothing.
const UNDONE: &[Field] = &[
    Field::passed("best_of", Shape::Only(&["1"]), NOT_DONE),
    Field::passed("suffix", Shape::Only(&["\"\""]), NOT_DONE),
    Field::passed("store", Shape::Only(&["false"]), NOT_DONE),
    Field::passed("service_tier", Shape::Only(&["\"auto\"", "\"default\""]), NOT_DONE),
    Field::passed("response_format", Shape::Only(&["{\"type\":\"text\"}"]), NOT_DONE),
    Field::passed("modalities", Shape::Only(&["[\"text\"]"]), NOT_DONE),
    Field::passed("tools", Shape::Only(&["[]"]), NOT_DONE),
    Field::passed("tool_choice", Shape::Only(&["\"none\"", "\"auto\""]), NOT_DONE),
    Field::passed("parallel_tool_calls", Shape::Only(&["true", "false"]), NOT_DONE),
    Field::passed("functions", Shape::Only(&["[]"]), NOT_DONE),
    Field::passed("function_call", Shape::Only(&["\"none\"", "\"auto\""]), NOT_DONE),
    Field::passed("audio", Shape::Only(&[]), NOT_DONE),
    Field::passed("prediction", Shape::Only(&[]), NOT_DONE),
    Field::passed("reasoning_effort", Shape::Only(&[]), NOT_DONE),
    Field::passed("verbosity", Shape::Only(&["\"medium\""]), NOT_DONE),
    Field::passed("prompt_cache_retention", Shape::Only(&["\"in_memory\"", "\"in-memory\""]), NOT_DONE),
    Field::passed("web_search_options", Shape::Only(&[]), NOT_DONE),
];

const NOT_READ: &str = "taken, and nothing is made of it";
const NOT_DONE: &str = "not supported: it may have the value that asks for nothing, or be left out";
