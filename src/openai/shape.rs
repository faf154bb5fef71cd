//! What JSON may look like: one description that refuses what does not fit, and of which the document is made.
//!
//! A body is an [`Object`], a table of fields. [`Object::check`] holds a value against it, `fields` then takes what it
//! found, and `schema` writes the same table as JSON Schema: what is read and what is documented cannot differ. `null`
//! is as good as absent, under any name. A number without a fraction is whole, however it is written.

use crate::error::{Error, Result};
use crate::sample::{Params, Range};
use serde_json::{Map, Value};

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Anything.
    Any,
    /// A text.
    Text,
    /// A text of at least and at most so many bytes.
    Bytes(usize, usize),
    /// One of some texts.
    Word(&'static [&'static str]),
    /// True or false.
    Flag,
    /// A number.
    Number(&'static Range),
    /// A whole number, from the first to the last.
    Whole(i128, i128),
    /// A list.
    List(&'static List),
    /// An object whose fields have any names.
    Names(&'static Names),
    /// One of several.
    Either(&'static [Shape]),
    /// Something, or `null`; for what is told, as in what is asked every field may be `null`.
    OrNull(&'static Shape),
    /// An object with known fields.
    Object(&'static Object),
    /// One of some values, as JSON.
    Only(&'static [&'static str]),
}

/// A list.
#[derive(Debug)]
pub struct List {
    /// Each of what it has.
    pub of: Shape,
    /// What that is, in words.
    pub what: &'static str,
    /// So many at least.
    pub least: usize,
    /// So many at most.
    pub most: usize,
}

/// An object whose fields have any names.
#[derive(Debug)]
pub struct Names {
    /// Of each of them.
    pub value: Shape,
    /// The names are whole numbers.
    pub numbers: bool,
    /// So many at most.
    pub most: usize,
    /// What is wrong with one that is none of these.
    pub problem: &'static str,
}

/// An object with known fields.
#[derive(Debug)]
pub struct Object {
    /// Its name in the document.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Its fields; several tables, as some objects share them.
    pub fields: &'static [&'static [Field]],
}

/// A field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub shape: Shape,
    /// Whether it must be there.
    pub need: Need,
    /// What it is, as words that may go on.
    pub about: &'static str,
}

/// Whether a field must be there.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// Always.
    Must,
    /// No.
    May,
    /// No: then it is this JSON.
    Or(&'static str),
    /// No: then this parameter stays as the server has it.
    Setting(fn(&mut Params) -> &mut f32),
    /// No, and nothing is made of it when it is.
    Passed,
}

/// Most digits of a name that is a number: it fits 32 bits.
pub const NAME_DIGITS: usize = 9;

/// What is wrong with a value, and where in it.
struct Wrong {
    at: String,
    problem: String,
}

fn wrong(problem: impl Into<String>) -> Result<(), Wrong> {
    Err(Wrong { at: String::new(), problem: problem.into() })
}

/// A number without a fraction. One that is written as a float, or has more digits than 64 bits hold, only as long as
/// neighbours are told apart: a seed below the least one must not be taken for that.
pub fn whole(value: &Value) -> Option<i128> {
    let float = |x: f64| (x.fract() == 0.0 && x.abs() <= (1u64 << f64::MANTISSA_DIGITS) as f64).then_some(x as i128);
    let exact = value.as_u64().map(i128::from).or(value.as_i64().map(i128::from));
    exact.or_else(|| value.as_f64().and_then(float))
}

impl Field {
    /// One that must be there.
    pub const fn must(name: &'static str, shape: Shape, about: &'static str) -> Field {
        Field { name, shape, need: Need::Must, about }
    }

    /// One that may be there.
    pub const fn may(name: &'static str, shape: Shape, about: &'static str) -> Field {
        Field { name, shape, need: Need::May, about }
    }

    /// One that has a default, as JSON.
    pub const fn or(name: &'static str, shape: Shape, default: &'static str, about: &'static str) -> Field {
        Field { name, shape, need: Need::Or(default), about }
    }

    /// A number of the sampler.
    pub const fn setting(
        name: &'static str,
        range: &'static Range,
        of: fn(&mut Params) -> &mut f32,
        about: &'static str,
    ) -> Field {
        Field { name, shape: Shape::Number(range), need: Need::Setting(of), about }
    }

    /// One of which nothing is made.
    pub const fn passed(name: &'static str, shape: Shape, about: &'static str) -> Field {
        Field { name, shape, need: Need::Passed, about }
    }
}

impl Object {
    /// All fields.
    pub fn all(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.fields.iter().copied().flatten()
    }

    /// Whether a value is one; `what` names it.
    ///
    /// # Errors
    /// `Field`, naming the one that is wrong; `Invalid` for what is no object.
    pub fn check(&'static self, what: &str, value: &Value) -> Result<()> {
        Shape::Object(self).check(value).map_err(|Wrong { at, problem }| match at.trim_start_matches('.') {
            "" => Error::Invalid(format!("{what} {problem}")),
            field => Error::Field { field: field.into(), problem },
        })
    }

    fn holds(&self, map: &Map<String, Value>) -> Result<(), Wrong> {
        for field in self.all() {
            let result = match map.get(field.name) {
                Some(Value::Null) if matches!(field.shape, Shape::OrNull(_)) => Ok(()),
                None | Some(Value::Null) if matches!(field.need, Need::Must) => {
                    wrong(format!("is missing: {}", field.about))
                }
                None | Some(Value::Null) => Ok(()),
                Some(value) => field.shape.check(value),
            };
            result.map_err(|w| w.within(&format!(".{}", field.name)))?;
        }
        let unknown = |(name, value): &(&String, &Value)| !value.is_null() && self.all().all(|f| f.name != *name);
        match map.iter().find(unknown) {
            Some((name, _)) => {
                let shown: String = name.chars().take(80).collect();
                wrong("is not a field that air knows; leave it out").map_err(|w| w.within(&format!(".{shown}")))
            }
            None => Ok(()),
        }
    }
}

impl Wrong {
    fn within(mut self, at: &str) -> Wrong {
        self.at.insert_str(0, at);
        self
    }
}

impl Shape {
    fn check(&self, value: &Value) -> Result<(), Wrong> {
        match (self, value) {
            (Shape::Any, _) | (Shape::Text, Value::String(_)) | (Shape::Flag, Value::Bool(_)) => Ok(()),
            (Shape::Bytes(least, most), Value::String(text)) => match text.len() {
                n if (*least..=*most).contains(&n) => Ok(()),
                n => wrong(format!("has {n} bytes; it must have {least} to {most}")),
            },
            (Shape::Word(words), Value::String(text)) if words.contains(&text.as_str()) => Ok(()),
            (Shape::Number(range), Value::Number(n)) => match n.as_f64() {
                Some(x) if (range.low..=range.high).contains(&x) => Ok(()),
                _ => wrong(format!("is {n}; it must be {}", range.words)),
            },
            (Shape::Whole(least, most), value) => match whole(value) {
                Some(n) if (*least..=*most).contains(&n) => Ok(()),
                Some(_) => wrong(format!("is {value}; it must be {least} to {most}")),
                None => wrong(format!("must be {}", self.words())),
            },
            (Shape::List(list), Value::Array(values)) => list.holds(values),
            (Shape::Names(names), Value::Object(map)) => names.holds(map),
            (Shape::Either(shapes), value) => self.either(shapes, value),
            (Shape::OrNull(_), Value::Null) => Ok(()),
            (Shape::OrNull(shape), value) => shape.check(value),
            (Shape::Object(object), Value::Object(map)) => object.holds(map),
            (Shape::Only(allowed), value) => only(allowed, value),
            _ => wrong(format!("must be {}", self.words())),
        }
    }

    /// Says what is wrong with the only one of several that it may have been meant to be.
    fn either(&self, shapes: &[Shape], value: &Value) -> Result<(), Wrong> {
        let alike = |shape: &&Shape| {
            matches!(
                (shape, value),
                (Shape::Text | Shape::Bytes(..), Value::String(_)) | (Shape::List(_), Value::Array(_))
            )
        };
        if shapes.iter().any(|shape| shape.check(value).is_ok()) {
            return Ok(());
        }
        match shapes.iter().filter(alike).collect::<Vec<_>>()[..] {
            [one] => one.check(value),
            _ => wrong(format!("must be {}", self.words())),
        }
    }

    /// What it is, behind "must be".
    fn words(&self) -> String {
        match self {
            Shape::Any => "anything".into(),
            Shape::Text => "a text".into(),
            Shape::Bytes(least, most) => format!("a text of {least} to {most} bytes"),
            Shape::Word(words) => or(words.iter().map(|w| w.to_string()).collect()),
            Shape::Flag => "true or false".into(),
            Shape::Number(_) => "a number".into(),
            Shape::Whole(i128::MIN..0, _) => "a whole number".into(),
            Shape::Whole(0, most) if *most >= i128::from(u32::MAX) => "a whole number, 0 or more".into(),
            Shape::Whole(least, most) => format!("a whole number from {least} to {most}"),
            Shape::List(List { what, least, most, .. }) => match (least, most) {
                (_, &usize::MAX) => format!("a list of {what}"),
                (0, most) => format!("a list of up to {most} {what}"),
                (least, most) => format!("a list of {least} to {most} {what}"),
            },
            Shape::Names(_) => "an object".into(),
            Shape::Either(shapes) => or(shapes.iter().map(Shape::words).collect()),
            Shape::OrNull(shape) => format!("{} or null", shape.words()),
            Shape::Object(_) => "a JSON object".into(),
            Shape::Only(allowed) => or(allowed.iter().map(|a| a.to_string()).collect()),
        }
    }
}

impl List {
    fn holds(&self, values: &[Value]) -> Result<(), Wrong> {
        let List { of, what, least, most } = self;
        if !(*least..=*most).contains(&values.len()) {
            let n = values.len();
            let range = if *least == 0 { format!("up to {most}") } else { format!("{least} to {most}") };
            return wrong(match *most {
                usize::MAX => format!("has {n} {what}; {least} or more can be"),
                _ => format!("has {n} {what}; {range} can be"),
            });
        }
        let one = |(i, value)| of.check(value).map_err(|w: Wrong| w.within(&format!("[{i}]")));
        values.iter().enumerate().try_for_each(one)
    }
}

impl Names {
    fn holds(&self, map: &Map<String, Value>) -> Result<(), Wrong> {
        if map.len() > self.most {
            return wrong(format!("has {} fields; up to {} can be", map.len(), self.most));
        }
        let number =
            |name: &str| !name.is_empty() && name.len() <= NAME_DIGITS && name.bytes().all(|b| b.is_ascii_digit());
        match map.iter().find(|(name, value)| self.numbers && !number(name) || self.value.check(value).is_err()) {
            Some(_) => wrong(self.problem),
            None => Ok(()),
        }
    }
}

fn only(allowed: &[&str], value: &Value) -> Result<(), Wrong> {
    if allowed.iter().any(|text| serde_json::from_str::<Value>(text).is_ok_and(|allowed| allowed == *value)) {
        return Ok(());
    }
    if allowed.is_empty() {
        return wrong("is not supported; leave it out");
    }
    let whole = value.to_string();
    let mut shown: String = whole.chars().take(40).collect();
    if shown.len() < whole.len() {
        shown.push('…');
    }
    wrong(format!("is {shown}, which is not supported; it must be {}, or left out", allowed.join(" or ")))
}

/// Words, joined as a sentence has them.
fn or(mut words: Vec<String>) -> String {
    match words.pop() {
        Some(last) if !words.is_empty() => format!("{} or {last}", words.join(", ")),
        last => last.unwrap_or_default(),
    }
}
