//! A JSON object, field by field: each is taken by its name and type, and what is left at the end is refused.

use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// The fields of an object that were not taken yet. `null` is as good as absent.
pub(super) struct Fields {
    /// What stands before the names in messages: empty, or `messages[3].`.
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Of a value that must be an object; `what` names it, `path` stands before its fields' names.
    pub fn new(what: &str, path: impl Into<String>, value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Fields { path: path.into(), map }),
            _ => Err(Error::Invalid(format!("{what} must be a JSON object"))),
        }
    }

    /// An error about one of the fields.
    pub fn error(&self, name: &str, problem: &str) -> Error {
        Error::Field { field: format!("{}{name}", self.path), problem: problem.into() }
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|v| !v.is_null())
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(self.error(name, "must be a text")),
        }
    }

    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.error(name, "must be a list")),
        }
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.error(name, "must be an object")),
        }
    }

    /// A number, put where it belongs if there is one. The range is the sampler's to check.
    pub fn number(&mut self, name: &str, to: &mut f32) -> Result<()> {
        if let Some(value) = self.take(name) {
            *to = value.as_f64().ok_or_else(|| self.error(name, "must be a number"))? as f32;
        }
        Ok(())
    }

    pub fn flag(&mut self, name: &str) -> Result<bool> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(_) => Err(self.error(name, "must be true or false")),
        }
    }

    pub fn whole(&mut self, name: &str) -> Result<Option<u32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let n = value.as_u64().and_then(|n| u32::try_from(n).ok());
        n.map(Some).ok_or_else(|| self.error(name, "must be a whole number, 0 or more"))
    }

    /// Refuses what was not taken: known fields that have not one of their `defaults`, and unknown ones.
    pub fn finish(mut self, ignored: &[&str], defaults: &[(&str, &[&str])]) -> Result<()> {
        self.map.retain(|name, value| !value.is_null() && !ignored.contains(&name.as_str()));
        let Some((name, value)) = self.map.iter().find(|(name, value)| {
            let allowed = defaults.iter().find(|(n, _)| n == name).map_or(&[][..], |(_, allowed)| allowed);
            !allowed.iter().any(|text| serde_json::from_str::<Value>(text).is_ok_and(|d| d == **value))
        }) else {
            return Ok(());
        };
        Err(match defaults.iter().find(|(n, _)| n == name) {
            None => self.error(name, "is not a field that air knows; leave it out"),
            Some((_, [])) => self.error(name, "is not supported; leave it out"),
            Some((_, allowed)) => {
                let mut shown: String = value.to_string().chars().take(40).collect();
                if shown.len() < value.to_string().len() {
                    shown.push('…');
                }
                let allowed = allowed.join(" or ");
                self.error(name, &format!("is {shown}, which is not supported; it must be {allowed}, or left out"))
            }
        })
    }
}
