//! What templates expect of Python: JSON as `json.dumps` writes it, `strftime`, methods of strings and dicts.
//!
//! The template engine has most of it (its contrib crate's `pycompat`); here is what transformers adds to its own
//! environment. What could make much out of little is measured by `bounds`.

use super::bounds::{MAX_STRING, MAX_WIDTH, check_join, check_replace, printf, text_len, too_large};
use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};
use minijinja_contrib::pycompat;
use std::time::{SystemTime, UNIX_EPOCH};

/// Deepest nesting of a value written as JSON.
const MAX_DEPTH: usize = 200;

/// What `raise_exception` was called with. The name tells it from errors of the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// The message of `raise_exception`, if that is where the error began.
pub(super) fn raised(e: &Error) -> Option<&str> {
    let mut source = std::error::Error::source(e);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return Some(message);
        }
        source = cause.source();
    }
    None
}

/// Adds everything to an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    for name in ["length", "count"] {
        environment.add_filter(name, |v: &Value| if v.is_undefined() { Ok(0) } else { filters::length(v) });
    }
    environment.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        if text_len(&message) > MAX_STRING {
            return Err(too_large("the message of raise_exception"));
        }
        let message = message.to_string();
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
}

/// Methods of strings and dicts; those whose result can be much longer than their arguments are measured first.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    let arg = |i: usize| args.get(i).and_then(Value::as_str);
    match (name, arg(0), arg(1)) {
        ("format", ..) if value.as_str().is_some() => return printf(FormatStyle::StrFormat, text, args),
        ("replace", Some(old), Some(new)) => check_replace(text, old, new)?,
        ("join", ..) if value.as_str().is_some() => {
            args.first().map_or(Ok(()), |items| check_join(items, text.len()))?
        }
        ("removeprefix", Some(prefix), None) if value.as_str().is_some() => {
            return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
        }
        ("removesuffix", Some(suffix), None) if value.as_str().is_some() => {
            return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
        }
        ("title", None, None) if value.as_str().is_some() => return Ok(Value::from(title(text))),
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// `str.title`: a letter is upper case unless one that has a case stands before it.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// A JSON value as the template engine holds it.
pub(super) fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(s) => Value::from(s.as_str()),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect(),
        serde_json::Value::Object(map) => Value::from_pairs(map.iter().map(|(k, v)| (k.as_str(), from_json(v)))),
    }
}

/// `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(value: &Value, ensure_ascii: Option<bool>, indent: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(named.get::<Option<Value>>("indent")?).filter(|v| !v.is_none());
    let indent = match &indent {
        None => None,
        Some(v) => {
            let (width, unit) = v.as_str().map_or((v.as_usize(), " "), |text| (Some(text.len()), text));
            let width = width.filter(|&w| w <= MAX_WIDTH).ok_or_else(|| too_large("the indent of tojson"))?;
            Some(if v.as_str().is_some() { unit.into() } else { unit.repeat(width) })
        }
    };
    let separators: Option<Vec<String>> = match named.get::<Option<Value>>("separators")?.filter(|v| !v.is_none()) {
        None => None,
        Some(pair) => {
            check_join(&pair, 0)?;
            Some(pair.try_iter()?.map(|v| v.to_string()).collect())
        }
    };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators are two strings")),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let ensure_ascii = ensure_ascii.or(named.get("ensure_ascii")?).unwrap_or(false);
    let sort_keys = named.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    named.assert_all_used()?;
    let mut json = Json { out: String::new(), indent, item, key, ensure_ascii, sort_keys };
    json.value(value, 0)?;
    Ok(Value::from(json.out))
}

/// A writer of JSON with Python's layout.
struct Json {
    out: String,
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Json {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH || self.out.len() > MAX_STRING {
            return Err(too_large("a value for tojson"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(['[', ']'], items.len(), depth, |json, i| json.value(&items[i], depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list(['{', '}'], keys.len(), depth, |json, i| {
                    json.string(&keys[i].to_string());
                    json.out.push_str(&json.key.clone());
                    json.value(&value.get_item(&keys[i])?, depth + 1)
                })?;
            }
            kind => {
                let problem = format!("a value of kind {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        ends: [char; 2],
        len: usize,
        depth: usize,
        mut each: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(ends[0]);
        for i in 0..len {
            if i > 0 {
                self.out.push_str(&self.item.clone());
            }
            self.new_line(depth + 1);
            each(self, i)?;
        }
        if len > 0 {
            self.new_line(depth);
        }
        self.out.push(ends[1]);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A number as Python's `repr` writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let x = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    match x {
        _ if x.is_nan() => "NaN".into(),
        _ if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ if x != 0.0 && !(1e-4..1e16).contains(&x.abs()) => {
            let text = format!("{x:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        _ => format!("{x:?}"),
    }
}

/// The function `strftime_now(format)` at a moment, in UTC.
pub(super) fn strftime_at(now: SystemTime) -> Value {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    Value::from_function(move |format: &str| -> Result<String, Error> { strftime(format, seconds) })
}

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// C's `strftime` in the C locale, for seconds since 1970; a `-` after the `%` drops leading zeros, as in glibc.
fn strftime(format: &str, seconds: i64) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let Some(field) = directive.and_then(|d| time_field(d, seconds)) else {
            let name: String = directive.into_iter().collect();
            return Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now knows no %{name}")));
        };
        let kept = if bare { field.trim_start_matches(['0', ' ']) } else { &field };
        out.push_str(if kept.is_empty() { "0" } else { kept });
    }
    Ok(out)
}

/// What a directive of `strftime` stands for.
fn time_field(directive: char, seconds: i64) -> Option<String> {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let weekday = DAYS[days.rem_euclid(7) as usize];
    let month_name = MONTHS[month as usize - 1];
    Some(match directive {
        'Y' => format!("{year:04}"),
        'y' => format!("{:02}", year.rem_euclid(100)),
        'm' => format!("{month:02}"),
        'd' => format!("{day:02}"),
        'e' => format!("{day:>2}"),
        'H' => format!("{hour:02}"),
        'I' => format!("{:02}", (hour + 11) % 12 + 1),
        'M' => format!("{minute:02}"),
        'S' => format!("{:02}", second % 60),
        'p' => if hour < 12 { "AM" } else { "PM" }.into(),
        'j' => format!("{:03}", days - days_before(year) + 1),
        'a' => weekday[..3].into(),
        'A' => weekday.into(),
        'b' | 'h' => month_name[..3].into(),
        'B' => month_name.into(),
        'F' => format!("{year:04}-{month:02}-{day:02}"),
        'T' => format!("{hour:02}:{minute:02}:{:02}", second % 60),
        '%' => "%".into(),
        _ => return None,
    })
}

/// Days from 1970-01-01 to the first of January of a year.
fn days_before(year: i64) -> i64 {
    let y = year - 1;
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) - 719_162
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while days_before(year + 1) <= days {
        year += 1;
    }
    let leap = days_before(year + 1) - days_before(year) == 366;
    let mut day = days - days_before(year);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let at = |seconds, format| strftime(format, seconds).unwrap();
        assert_eq!(at(0, "%d %b %Y %H:%M:%S %A %j %p %I"), "01 Jan 1970 00:00:00 Thursday 001 AM 12");
        assert_eq!(
            at(951_782_400 + 86_399, "%F %T %a %B %y %-d %-H %e %%"),
            "2000-02-29 23:59:59 Tue February 00 29 23 29 %"
        );
        assert_eq!(at(4_102_444_799, "%d.%m.%Y day %j"), "31.12.2099 day 365");
        assert_eq!(at(-1, "%Y-%m-%d"), "1969-12-31");
        assert!(strftime("%Q", 0).is_err() && strftime("%", 0).is_err());
        assert_eq!(
            (1970..2400).map(|y| civil(days_before(y))).collect::<Vec<_>>(),
            (1970..2400).map(|y| (y, 1, 1)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn numbers_look_as_in_python() {
        for (x, want) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (123456789.0, "123456789.0"),
            (1e-4, "0.0001"),
            (f64::NAN, "NaN"),
            (-f64::INFINITY, "-Infinity"),
            (0.0, "0.0"),
        ] {
            assert_eq!(number(&Value::from(x)), want);
        }
        assert_eq!(number(&Value::from(-3)), "-3");
    }

    #[test]
    fn titles_look_as_in_python() {
        assert_eq!(title("they're b3ll o'CLOCK été 中a"), "They'Re B3Ll O'Clock Été 中A");
    }
}
