//! Text and tokens: from text to ids, from ids to text, and from messages to a prompt.
//!
//! [`Tokenizer`] reads the vocabulary that a checkpoint's metadata holds (`tokenizer.ggml.*`) in the two kinds that
//! models of today use, SentencePiece BPE (`spm`) and byte-level BPE (`bpe` behind the cuts of `split`), and gives the
//! ids that llama.cpp gives. [`Detokenizer`] goes back, token by token. Everything here works on strings in
//! memory and knows no files, no model and no sampling. A text is UTF-8: whoever reads bytes from outside checks them.

mod bpe;
mod chat;
mod detokenizer;
mod finder;
mod merge;
mod special;
mod split;
mod spm;
pub mod synthetic;
#[cfg(test)]
mod testing;
mod tokenizer;
mod unicode;
mod unicode_table;
mod vocab;

pub use chat::{ChatTemplate, Message, RenderOptions, TEMPLATE_THREAD};
pub use detokenizer::Detokenizer;
pub use split::pre_tokenizers;
pub use tokenizer::Tokenizer;
pub use vocab::TokenKind;
