//! A JSON object, field by field: it is held against its description, then each field is taken by its name and type.
//!
//! What is taken and what is described are the same fields: one that is not described is refused before it could be
//! taken, and one that is described and not taken is a bug that a debug build stops at.

use super::shape::{Need, Object, whole};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// The fields of an object that were not taken yet. `null` is as good as absent.
pub(super) struct Fields {
    /// What stands before the names in messages: empty, or `messages[3].`.
    path: String,
    object: &'static Object,
    map: Map<String, Value>,
    /// Names that were taken.
    taken: Vec<&'static str>,
}

impl Fields {
    /// Of a value that must be such an object; `what` names it.
    ///
    /// # Errors
    /// `Field`, naming the one that is wrong or not known.
    pub fn new(what: &str, object: &'static Object, value: Value) -> Result<Self> {
        object.check(what, &value)?;
        Ok(Fields::within("", object, value))
    }

    /// Of a part of what was checked as a whole; `path` stands before its fields' names.
    pub fn within(path: impl Into<String>, object: &'static Object, value: Value) -> Self {
        let Value::Object(map) = value else { return Fields::within(path, object, Value::Object(Map::new())) };
        Fields { path: path.into(), object, map, taken: vec![] }
    }

    /// An error about one of the fields.
    pub fn error(&self, name: &str, problem: &str) -> Error {
        Error::Field { field: format!("{}{name}", self.path), problem: problem.into() }
    }

    /// A field, or what stands for it where it is not given.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.taken.push(name);
        let given = self.map.remove(name).filter(|v| !v.is_null());
        given.or_else(|| match self.object.all().find(|f| f.name == name)?.need {
            Need::Or(default) => serde_json::from_str(default).ok(),
            _ => None,
        })
    }

    pub fn text(&mut self, name: &'static str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(self.error(name, "must be a text")),
        }
    }

    pub fn list(&mut self, name: &'static str) -> Result<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.error(name, "must be a list")),
        }
    }

    pub fn number(&mut self, name: &'static str) -> Result<Option<f32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_f64().map(|x| Some(x as f32)).ok_or_else(|| self.error(name, "must be a number"))
    }

    pub fn flag(&mut self, name: &'static str) -> Result<bool> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(_) => Err(self.error(name, "must be true or false")),
        }
    }

    pub fn whole(&mut self, name: &'static str) -> Result<Option<u32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let n = whole(&value).and_then(|n| u32::try_from(n).ok());
        n.map(Some).ok_or_else(|| self.error(name, "must be a whole number, 0 or more"))
    }

    /// All that means anything has been taken.
    pub fn finish(self) {
        let meant = self.object.all().filter(|f| !matches!(f.need, Need::Passed)).map(|f| f.name);
        let forgotten = meant.into_iter().find(|name| !self.taken.contains(name));
        debug_assert!(forgotten.is_none(), "{} is documented and not read: {forgotten:?}", self.object.name);
        let unknown = self.taken.iter().find(|name| self.object.all().all(|f| f.name != **name));
        debug_assert!(unknown.is_none(), "{} is read and not documented: {unknown:?}", self.object.name);
    }
}
