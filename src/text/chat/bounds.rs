//! Operations of templates that could make a gigabyte out of a short argument, and what holds them back.
//!
//! The template engine counts steps, not bytes. Each operation here is measured first, refused when its result could
//! be longer than `MAX_STRING`, and then left to the engine.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, StringInput, Value, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, filters};
use std::fmt::Write;

/// Widest field, indentation or separator.
pub(super) const MAX_WIDTH: usize = 1000;
/// Longest string that one operation of this folder may make.
pub(super) const MAX_STRING: usize = 16 << 20;

/// Puts the measured filters in place of the engine's.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("indent", indent);
    environment.add_filter("format", |text: &str, args: Rest<ValueOrKwargs>| {
        printf(FormatStyle::Printf, text, &args.into_values())
    });
    environment.add_filter("join", join);
    environment.add_filter("replace", replace);
    environment.add_filter("string", string);
    // Pads to any length, and no template uses them.
    environment.remove_filter("slice");
    environment.remove_filter("batch");
}

/// The error of what passes a bound.
pub(super) fn too_large(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} is too large"))
}

fn within(len: usize, what: &str) -> Result<(), Error> {
    if len > MAX_STRING { Err(too_large(what)) } else { Ok(()) }
}

/// Bytes of a value as text; a text that is too long is not counted to its end. Counting does not make the text: a
/// value that holds another twice, which holds another twice, is short to write down and endless to print.
pub(super) fn text_len(value: &Value) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0 += text.len();
            if self.0 > MAX_STRING { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let mut count = Count(0);
    match value.as_str() {
        Some(text) => text.len(),
        None => write!(count, "{value}").map_or(MAX_STRING + 1, |()| count.0),
    }
}

/// Whether `text` with every `old` made `new` stays within the bound.
pub(super) fn check_replace(text: &str, old: &str, new: &str) -> Result<(), Error> {
    let most = if old.is_empty() { text.len() + 1 } else { text.len() / old.len() };
    match most.saturating_mul(new.len()) > MAX_STRING {
        true => within(text.matches(old).count().saturating_mul(new.len()), "the result of replace"),
        false => Ok(()),
    }
}

/// Whether the items, joined, stay within the bound; `between` is the length of what joins them.
pub(super) fn check_join(items: &Value, between: usize) -> Result<(), Error> {
    let Ok(items) = items.try_iter() else { return Ok(()) }; // the engine says what is wrong with them
    let mut len = 0usize;
    for item in items {
        len = len.saturating_add(text_len(&item)).saturating_add(between);
        within(len, "the result of join")?;
    }
    Ok(())
}

/// `str.format` or `%`, without fields of absurd width. A field may name the same argument again and again.
pub(super) fn printf(style: FormatStyle, text: &str, args: &[Value]) -> Result<Value, Error> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    let wide = |run: &str| run.parse::<usize>().map_or(true, |width| width > MAX_WIDTH);
    if text.contains(['%', '{']) && numbers.any(wide) {
        return Err(too_large("the width of a format"));
    }
    let longest = args.iter().map(text_len).max().unwrap_or(0);
    within(longest.saturating_mul(text.matches(['%', '{']).count()), "the result of format")?;
    format(style, text, args).map(Value::from)
}

fn join(
    state: &mut State,
    items: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    named: Kwargs,
) -> Result<Value, Error> {
    let between = joiner.as_ref().map(|j| j.as_str().len()).or(named.peek::<&str>("d").ok().map(str::len));
    check_join(items, between.unwrap_or(0))?;
    filters::join(state, items, joiner, attribute, named)
}

fn replace(
    state: &mut State,
    text: StringInput<'_>,
    old: StringInput<'_>,
    new: StringInput<'_>,
) -> Result<Value, Error> {
    check_replace(text.as_str(), old.as_str(), new.as_str())?;
    filters::replace(state, text, old, new)
}

fn string(state: &State, value: &Value) -> Result<Value, Error> {
    within(text_len(value), "the text of a value")?;
    filters::string(state, value)
}

fn indent(
    text: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let asked = width.or(named.peek("width").ok()).unwrap_or(4);
    let lines = 1 + text.as_str().matches('\n').count();
    within(lines.saturating_mul(asked).saturating_add(text.as_str().len()), "the result of indent")?;
    filters::indent(text, width, first, blank, named)
}
