//! What the bodies of responses have in them, as the document shows it. Tests hold what is written against it: a field
//! that is not here fails, and so does one that is here and not written.

use super::shape::{Field, List, Names, Object, Shape};
use crate::sample::Range;

const ANY_NUMBER: Range = Range { low: f64::NEG_INFINITY, high: f64::INFINITY, words: "any" };
const LOGPROB: Shape = Shape::Number(&ANY_NUMBER);
const COUNT: Shape = Shape::Whole(0, u32::MAX as i128);
/// A field that is there and says nothing.
const NEVER: Shape = Shape::OrNull(&Shape::Only(&[]));
const ANSWERS: Shape = Shape::Word(&["assistant"]);
const REASON: Shape = Shape::Word(&["stop", "length"]);
const IDS: Shape = Shape::List(&List { of: COUNT, what: "token ids", least: 0, most: usize::MAX });
const TEXTS: Shape = Shape::List(&List { of: Shape::Text, what: "texts", least: 0, most: usize::MAX });

/// What is said of every request that is refused or fails.
pub static ERROR: Object = Object {
    name: "Error",
    about: "why a request is not answered",
    fields: &[&[Field::must("error", Shape::Object(&PROBLEM), "what is wrong")]],
};
static PROBLEM: Object = Object {
    name: "Problem",
    about: "what is wrong with a request, or with the server",
    fields: &[&[
        Field::must("message", Shape::Text, "for people"),
        Field::must("type", Shape::Word(&["invalid_request_error", "rate_limit_error", "server_error"]), "which kind"),
        Field::must("param", Shape::OrNull(&Shape::Text), "the field that is wrong: `messages[3].role`"),
        Field::must("code", Shape::OrNull(&Shape::Text), "for programs, where the status says too little"),
    ]],
};

/// The answer to a conversation.
pub static CHAT: Object = Object {
    name: "ChatCompletion",
    about: "the answer to a conversation",
    fields: &[HEAD, CHAT_HEAD, &[Field::must("choices", list(&CHAT_CHOICES), CHOICES), USED]],
};
const CHAT_HEAD: &[Field] = &[Field::must("object", Shape::Word(&["chat.completion"]), "what this is")];
static CHAT_CHOICES: List = several(Shape::Object(&CHAT_CHOICE));
static CHAT_CHOICE: Object = Object {
    name: "ChatChoice",
    about: "one answer",
    fields: &[
        CHOICE,
        &[
            Field::must("message", Shape::Object(&ANSWER), "what is answered"),
            Field::must("logprobs", Shape::OrNull(&Shape::Object(&CHAT_LOGPROBS)), PROBABLE),
            Field::must("finish_reason", REASON, ENDED),
        ],
    ],
};
static ANSWER: Object = Object {
    name: "AnswerMessage",
    about: "what the model says",
    fields: &[&[
        Field::must("role", ANSWERS, "who says it"),
        Field::must("content", Shape::Text, "the text"),
        Field::must("refusal", NEVER, "air never has one"),
    ]],
};

/// A piece of the answer to a conversation.
pub static CHAT_CHUNK: Object = Object {
    name: "ChatCompletionChunk",
    about: "a piece of the answer to a conversation",
    fields: &[
        HEAD,
        &[
            Field::must("object", Shape::Word(&["chat.completion.chunk"]), "what this is"),
            Field::must("choices", list(&CHAT_PIECES), CHOICES),
            SO_FAR,
        ],
    ],
};
static CHAT_PIECES: List = several(Shape::Object(&CHAT_PIECE));
static CHAT_PIECE: Object = Object {
    name: "ChatPiece",
    about: "a piece of one answer",
    fields: &[
        CHOICE,
        &[
            Field::must("delta", Shape::Object(&DELTA), "what comes behind the pieces before it"),
            Field::must("logprobs", Shape::OrNull(&Shape::Object(&CHAT_LOGPROBS)), PROBABLE),
            Field::must("finish_reason", Shape::OrNull(&REASON), ENDED),
        ],
    ],
};
static DELTA: Object = Object {
    name: "Delta",
    about: "what a piece adds",
    fields: &[&[
        Field::may("role", ANSWERS, "who says it; in the first piece"),
        Field::may("content", Shape::Text, "the text"),
        Field::may("refusal", NEVER, "air never has one"),
    ]],
};

static CHAT_LOGPROBS: Object = Object {
    name: "ChatLogprobs",
    about: "how probable tokens were",
    fields: &[&[Field::must("content", list(&TOLD), "each token"), Field::must("refusal", NEVER, "air never has one")]],
};
static TOLD: List = several(Shape::Object(&TOKEN_LOGPROB));
static TOKEN_LOGPROB: Object = Object {
    name: "TokenLogprob",
    about: "how probable a token was, and those in its place",
    fields: &[ONE_LOGPROB, &[Field::must("top_logprobs", list(&TOP), "the most probable ones")]],
};
static TOP: List = several(Shape::Object(&TOP_LOGPROB));
static TOP_LOGPROB: Object =
    Object { name: "TopLogprob", about: "how probable a token would have been", fields: &[ONE_LOGPROB] };
static BYTES: List = several(Shape::Whole(0, 255));
const ONE_LOGPROB: &[Field] = &[
    Field::must("token", Shape::Text, "its text; U+FFFD for bytes that are none of their own"),
    Field::must("logprob", LOGPROB, "the logarithm of its probability"),
    Field::must("bytes", list(&BYTES), "its bytes"),
];

/// How texts go on.
pub static COMPLETION: Object = Object {
    name: "Completion",
    about: "how texts go on",
    fields: &[HEAD, TEXT_HEAD, &[Field::must("choices", list(&TEXT_CHOICES), CHOICES), USED]],
};
const TEXT_HEAD: &[Field] = &[Field::must("object", Shape::Word(&["text_completion"]), "what this is")];
static TEXT_CHOICES: List = several(Shape::Object(&TEXT_CHOICE));
static TEXT_CHOICE: Object = Object {
    name: "CompletionChoice",
    about: "how one text goes on",
    fields: &[CHOICE, TEXT_OF, &[Field::must("finish_reason", REASON, ENDED)]],
};

/// A piece of how texts go on.
pub static COMPLETION_CHUNK: Object = Object {
    name: "CompletionChunk",
    about: "a piece of how texts go on",
    fields: &[HEAD, TEXT_HEAD, &[Field::must("choices", list(&TEXT_PIECES), CHOICES), SO_FAR]],
};
static TEXT_PIECES: List = several(Shape::Object(&TEXT_PIECE));
static TEXT_PIECE: Object = Object {
    name: "CompletionPiece",
    about: "a piece of how one text goes on",
    fields: &[CHOICE, TEXT_OF, &[Field::must("finish_reason", Shape::OrNull(&REASON), ENDED)]],
};
static TEXT_OF: &[Field] = &[
    Field::must("text", Shape::Text, "the text"),
    Field::must("logprobs", Shape::OrNull(&Shape::Object(&COMPLETION_LOGPROBS)), PROBABLE),
];
static COMPLETION_LOGPROBS: Object = Object {
    name: "CompletionLogprobs",
    about: "how probable tokens were: lists beside each other",
    fields: &[&[
        Field::must("tokens", TEXTS, "their texts"),
        Field::must(
            "token_logprobs",
            list(&LOGPROBS),
            "the logarithms of their probabilities; null for the first of a prompt",
        ),
        Field::must(
            "top_logprobs",
            list(&TOPS),
            "those of the most probable ones in their places and of themselves, by their texts",
        ),
        Field::must("text_offset", IDS, "where their texts begin, in characters"),
    ]],
};
static LOGPROBS: List = several(Shape::OrNull(&LOGPROB));
static TOPS: List = several(Shape::OrNull(&Shape::Names(&Names {
    value: LOGPROB,
    numbers: false,
    most: usize::MAX,
    problem: "must give a number for each token",
})));

static USAGE: Object = Object {
    name: "Usage",
    about: "what an answer took, in tokens",
    fields: &[&[
        Field::must("prompt_tokens", WHOLE, "of the prompts"),
        Field::must("completion_tokens", WHOLE, "of the answers"),
        Field::must("total_tokens", WHOLE, "of both"),
        Field::must("prompt_tokens_details", Shape::Object(&DETAILS), "more of the prompts"),
    ]],
};
static DETAILS: Object = Object {
    name: "PromptTokensDetails",
    about: "where a prompt's tokens came from",
    fields: &[&[Field::must("cached_tokens", WHOLE, "an earlier request had left so many")]],
};

const WHOLE: Shape = Shape::Whole(0, u64::MAX as i128);
const HEAD: &[Field] = &[
    Field::must("id", Shape::Text, "the answer's name"),
    Field::must("created", WHOLE, "when it began, in seconds since 1970"),
    Field::must("model", Shape::Text, "the model that answers"),
];
const CHOICE: &[Field] = &[
    Field::must("index", COUNT, "which choice it is: all of the first prompt, then those of the next"),
    Field::may("token_ids", IDS, "the tokens of the text, where they are wanted"),
];
const USED: Field = Field::must("usage", Shape::Object(&USAGE), "what it took");
const SO_FAR: Field = Field::may("usage", Shape::Object(&USAGE), "what it took; in the last chunk, where it is wanted");
const CHOICES: &str = "all that were asked for; in a stream one, or none beside the usage";
const PROBABLE: &str = "how probable the tokens were, where it is wanted";
const ENDED: &str = "why it ended: an end of its own or a stop text, or its length or time";

/// Names of the model.
pub static MODELS: Object = Object {
    name: "ModelList",
    about: "the model under its names",
    fields: &[&[
        Field::must("object", Shape::Word(&["list"]), "what this is"),
        Field::must("data", list(&MODEL_ENTRIES), "each name"),
    ]],
};
static MODEL_ENTRIES: List = several(Shape::Object(&MODEL));
/// The model under a name.
pub static MODEL: Object = Object {
    name: "Model",
    about: "the model under a name",
    fields: &[&[
        Field::must("id", Shape::Text, "the name"),
        Field::must("object", Shape::Word(&["model"]), "what this is"),
        Field::must("created", WHOLE, "when it was ready, in seconds since 1970"),
        Field::must("owned_by", Shape::Word(&["air"]), "who answers"),
        Field::must("max_model_len", COUNT, CONTEXT),
    ]],
};
const CONTEXT: &str = "tokens that its context holds";

/// Tokens of a text.
pub static TOKENS: Object = Object {
    name: "Tokens",
    about: "tokens of a text",
    fields: &[&[
        Field::must("count", WHOLE, "how many"),
        Field::must("max_model_len", COUNT, CONTEXT),
        Field::must("tokens", IDS, "their ids"),
    ]],
};
/// A text that may be a prompt.
pub static PROMPT: Object = Object {
    name: "Prompt",
    about: "a text that may be a prompt",
    fields: &[&[Field::must("prompt", Shape::Text, "the text")]],
};
/// That the server lives.
pub static HEALTH: Object = Object {
    name: "Health",
    about: "the server lives",
    fields: &[&[Field::must("status", Shape::Word(&["ok"]), "how it is")]],
};
/// That requests are answered.
pub static READY: Object = Object {
    name: "Ready",
    about: "requests are answered",
    fields: &[&[
        Field::must("status", Shape::Word(&["ready"]), "how it is"),
        Field::must("model", Shape::Text, "the model that answers"),
    ]],
};

const fn list(list: &'static List) -> Shape {
    Shape::List(list)
}

const fn several(of: Shape) -> List {
    List { of, what: "of these", least: 0, most: usize::MAX }
}
