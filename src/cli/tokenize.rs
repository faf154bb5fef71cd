//! `air tokenize`: a text's tokens, and back.
//!
//! Only the header of the model file is read. A text is taken as it is, without trimming; it must be UTF-8. Pieces are
//! shown with control characters escaped, and as `\x` escapes where a token is part of a character.

use super::settings::{ModelOnly, SettingArgs};
use super::{human, input, model, output};
use crate::error::{Error, Result};
use crate::text::{TokenKind, Tokenizer};
use serde_json::{Value as Json, json};
use std::io::Write;
use std::path::PathBuf;

/// Characters of a piece that are shown.
const SHOWN: usize = 200;

/// Show the tokens of a text, or with --decode the text of tokens
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("format").args(["ids", "json"])))]
pub struct Args {
    /// Text; without it, or with `-`, stdin is read
    #[arg(value_name = "TEXT", conflicts_with = "file", allow_hyphen_values = true)]
    text: Option<String>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Do not add the tokens that the model puts before and behind a text
    #[arg(long)]
    no_bos: bool,
    /// Take special tokens in the text for plain text; with --decode, do not show them
    #[arg(long)]
    no_special: bool,
    /// Print only the ids, comma separated
    #[arg(long)]
    ids: bool,
    /// Turn ids, separated by commas or spaces, into text
    #[arg(long, conflicts_with_all = ["ids", "no_bos"])]
    decode: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs<ModelOnly>,
}

/// Prints the tokens or the text.
pub fn run(args: Args) -> Result<()> {
    let settings = args.settings.resolve()?;
    let catalogue = model::open(&settings)?;
    let tokenizer = Tokenizer::from_meta(&catalogue.meta)?;
    let text = match (&args.text, &args.file) {
        (_, Some(path)) => input::file(path)?,
        (Some(text), _) if text != "-" => text.clone(),
        _ => input::stdin("no text is given: say TEXT or --file FILE, or pipe it in")?,
    };
    if args.decode {
        let text = tokenizer.decode(&parse_ids(&text, &tokenizer)?, !args.no_special);
        return if args.json { output::json(&json!({ "text": text })) } else { output::answer(&(text + "\n")) };
    }
    let ids = tokenizer.encode(&text, !args.no_bos, !args.no_special);
    output::stream(|out| print(out, &tokenizer, &ids, &args))
}

fn print(out: &mut dyn Write, tokenizer: &Tokenizer, ids: &[u32], args: &Args) -> std::io::Result<()> {
    if args.ids {
        let list: Vec<String> = ids.iter().map(u32::to_string).collect();
        return writeln!(out, "{}", list.join(","));
    }
    if args.json {
        let tokens: Vec<Json> = ids.iter().map(|&id| token_json(tokenizer, id)).collect();
        return writeln!(out, "{:#}", json!({ "count": ids.len(), "tokens": tokens }));
    }
    for &id in ids {
        writeln!(out, "{id:>8}  {}", piece(&tokenizer.token_bytes(id)))?;
    }
    writeln!(out, "{} tokens", human::thousands(ids.len() as u64))
}

fn token_json(tokenizer: &Tokenizer, id: u32) -> Json {
    let bytes = tokenizer.token_bytes(id);
    let kind = match tokenizer.token_kind(id) {
        TokenKind::Normal => "normal",
        TokenKind::Unknown => "unknown",
        TokenKind::Control => "control",
        TokenKind::UserDefined => "user-defined",
        TokenKind::Unused => "unused",
        TokenKind::Byte => "byte",
        TokenKind::Undefined => "undefined",
    };
    // A part of a character has no text of its own.
    json!({ "id": id, "piece": std::str::from_utf8(&bytes).ok(), "bytes": bytes, "kind": kind })
}

/// A piece for people, in quotes.
fn piece(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(_) => format!("'{}'", human::foreign(bytes, SHOWN)),
        Err(_) => format!("'{}'", bytes.escape_ascii()),
    }
}

fn parse_ids(text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let id = |word: &str| match word.parse() {
        Ok(id) if (id as usize) < tokenizer.len() => Ok(id),
        _ => Err(Error::Invalid(format!(
            "`{}` is no token id; ids of this model are 0 to {}",
            human::foreign(word.as_bytes(), SHOWN),
            tokenizer.len() - 1
        ))),
    };
    words.map(id).collect()
}
