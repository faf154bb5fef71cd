//! `air.toml`: the settings that a person writes down.
//!
//! A file is TOML 1.1 with the table's keys, `[section] name = value` or dotted. A key that the table does not have is
//! an error that names file, offset and the nearest key: a misspelt setting must not be silently ignored. Where the
//! file is: `--config`, else `AIR_CONFIG`, else `air.toml` in the working directory, else
//! `$XDG_CONFIG_HOME/air/air.toml` (`~/.config` when that is not set). Only the first two must exist.

use super::{SETTINGS, setting};
use crate::error::{Error, Result};
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Settings files are small; a larger one is something else.
const MAX_BYTES: u64 = 1 << 20;

/// A read settings file: keys with their values as text, checked against the table's names but not yet its ranges.
#[derive(Debug, Clone)]
pub struct File {
    path: String,
    values: Vec<(&'static str, String)>,
}

impl File {
    /// Reads a settings file.
    ///
    /// # Errors
    /// `Io` when it cannot be read or has more than 1 MiB; `File` for bad TOML, unknown keys, wrong types.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let fail = |e| Error::io(&name, "cannot read the settings", &e);
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(fail)?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(Error::Io { file: name, problem: "is larger than 1 MiB, which no settings file is".into() });
        }
        File::parse(&name, &text)
    }

    /// Reads settings from text; `path` is for messages.
    ///
    /// # Errors
    /// `File`, as in `read`.
    pub fn parse(path: &str, text: &str) -> Result<Self> {
        let mut file = File { path: path.into(), values: Vec::new() };
        let table = DeTable::parse(text)
            .map_err(|e| file.error("TOML", e.span().map_or(0, |s| s.start), e.message().trim().to_string()))?;
        file.collect(table.get_ref(), "")?;
        Ok(file)
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The text of a key, if the file has it.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }

    fn error(&self, field: &str, offset: usize, problem: String) -> Error {
        Error::File { file: self.path.clone(), field: field.into(), offset: Some(offset as u64), problem }
    }

    fn collect(&mut self, table: &DeTable, section: &str) -> Result<()> {
        for (name, value) in table {
            let key =
                if section.is_empty() { name.get_ref().to_string() } else { format!("{section}.{}", name.get_ref()) };
            let prefix = format!("{key}.");
            match (setting(&key), value.get_ref()) {
                (Some(row), _) => self.values.push((row.key, self.scalar(row.key, value)?)),
                (None, DeValue::Table(inner)) if SETTINGS.iter().any(|s| s.key.starts_with(&prefix)) => {
                    self.collect(inner, &key)?;
                }
                (None, _) => return Err(self.error(&key, name.span().start, unknown(&key))),
            }
        }
        Ok(())
    }

    fn scalar(&self, key: &str, value: &Spanned<DeValue>) -> Result<String> {
        Ok(match value.get_ref() {
            DeValue::String(s) => s.to_string(),
            DeValue::Integer(i) if i.radix() == 10 => i.as_str().to_string(),
            DeValue::Float(f) => f.as_str().to_string(),
            DeValue::Boolean(b) => b.to_string(),
            other => {
                let problem = format!("must be text or a decimal number, it is a TOML {}", other.type_str());
                return Err(self.error(key, value.span().start, problem));
            }
        })
    }
}

/// The message for a key that the table does not have, with near matches.
fn unknown(key: &str) -> String {
    let last = |k: &str| k.rsplit('.').next().unwrap_or(k).to_string();
    let near: Vec<&str> = SETTINGS
        .iter()
        .map(|s| s.key)
        .filter(|k| strsim::damerau_levenshtein(k, key) <= 3 || last(k) == last(key))
        .collect();
    match near.is_empty() {
        true => "there is no such setting; `air config` lists them".into(),
        false => format!("there is no such setting; did you mean {}?", near.join(" or ")),
    }
}

/// Finds the settings file: the one that was named, else the first of the usual places that exists.
///
/// # Errors
/// As `File::read`; a file that was named must exist.
pub fn find(named: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<File>> {
    let var = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_path_buf).or_else(|| var("AIR_CONFIG")).or_else(|| var("AIR_RS_CONFIG")) {
        return File::read(&path).map(Some);
    }
    let home = var("XDG_CONFIG_HOME").or_else(|| Some(var("HOME")?.join(".config")));
    let places = [Some(PathBuf::from("air.toml")), home.map(|h| h.join("air/air.toml"))];
    places.into_iter().flatten().find(|p| p.is_file()).map(|p| File::read(&p)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        File::parse("air.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn sections_and_dotted_keys_are_the_same() {
        for text in ["[model]\npath = 'a b'", "model.path = \"a b\"", "model = { path = 'a b' }"] {
            assert_eq!(File::parse("f", text).unwrap().get("model.path"), Some("a b"), "{text}");
        }
        assert_eq!(File::parse("f", "# nothing\n").unwrap().get("model.path"), None);
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_neighbour() {
        let m = message("[model]\npaht = 'x'");
        assert_eq!(m, "air.toml: model.paht at byte 8: there is no such setting; did you mean model.path?");
        assert!(message("path = 'x'").contains("did you mean model.path?"));
        assert!(message("[nonsense]\nx = 1").starts_with("air.toml: nonsense at byte 1: there is no such setting"));
    }

    #[test]
    fn bad_toml_and_wrong_types_are_errors() {
        assert!(message("[model\npath").starts_with("air.toml: TOML at byte "));
        assert!(message("model.path = ['a']").contains("model.path at byte 13: must be text"));
        assert!(message("model.path.x = 1").contains("must be text"));
        assert!(message(&"[".repeat(100_000)).starts_with("air.toml: TOML"));
        assert!(message(&format!("a = {}", "[".repeat(100_000))).starts_with("air.toml: TOML"));
    }

    #[test]
    fn a_named_file_must_exist() {
        let missing = find(Some(Path::new("/nonexistent/air.toml")), &|_| None);
        assert!(missing.unwrap_err().to_string().starts_with("/nonexistent/air.toml: cannot read the settings"));
        let by_env = |n: &str| (n == "AIR_CONFIG").then(|| "/nonexistent/b.toml".to_string());
        assert!(find(None, &by_env).unwrap_err().to_string().starts_with("/nonexistent/b.toml"));
    }
}
