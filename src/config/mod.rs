//! Settings: one table gives flag, environment variable, file key, default and help.
//!
//! A setting is a row of `SETTINGS` and nothing else: command line, `air config` and `air.toml` derive from it. Where
//! several layers give a value, the nearest wins: flag, then environment (`AIR_X`, then its alias `AIR_RS_X`), then
//! the file, then the default. Every value is checked against its row when it enters, whatever layer it came from, and
//! the message says which. An empty environment variable counts as not set.
//!
//! Values stay text until somebody asks for a type: the table is for people, and the typed structs of the modules
//! (`sample::Params` …) remain free of it. This module knows nothing of the command line's library.

mod device;
mod file;
mod size;
mod table;

pub use device::Device;
pub use file::{File, find};
pub use size::Size;
pub use table::SETTINGS;

use crate::error::{Error, Result};

/// One row of the table.
#[derive(Debug, PartialEq)]
pub struct Setting {
    /// Dotted key: `[section] name` in `air.toml`.
    pub key: &'static str,
    /// Long flag, without dashes.
    pub flag: &'static str,
    /// Short flag.
    pub short: Option<char>,
    /// Environment variable, beginning with `AIR_`.
    pub env: &'static str,
    /// What holds when nobody says anything.
    pub default: Default,
    /// What the value may be.
    pub kind: Kind,
    /// Name of the value in help.
    pub value: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// The default of a setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Default {
    /// This value.
    Value(&'static str),
    /// No value; what happens then, in words.
    Unset(&'static str),
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any text that is not empty.
    Text,
    /// A whole number in this range.
    Integer(i128, i128),
    /// A finite number in this range.
    Number(f64, f64),
    /// An amount of memory (`512MB`, `1.5GiB`, `80%`).
    Size,
    /// A device (`auto`, `cpu`, `cuda`, `cuda:1`).
    Device,
    /// One of these words, in any case.
    OneOf(&'static [&'static str]),
}

impl Setting {
    /// The second name of the environment variable.
    pub fn env_alias(&self) -> String {
        self.env.replacen("AIR_", "AIR_RS_", 1)
    }

    /// Checks a value; the message does not name the setting.
    pub fn check(&self, text: &str) -> Result<(), String> {
        let fits = match self.kind {
            Kind::Text => !text.is_empty(),
            Kind::Integer(low, high) => text.parse().is_ok_and(|n| (low..=high).contains(&n)),
            Kind::Number(low, high) => text.parse().is_ok_and(|x: f64| x.is_finite() && (low..=high).contains(&x)),
            Kind::Size => text.parse::<Size>().is_ok(),
            Kind::Device => text.parse::<Device>().is_ok(),
            Kind::OneOf(words) => words.iter().any(|w| w.eq_ignore_ascii_case(text)),
        };
        if fits { Ok(()) } else { Err(self.kind.to_string()) }
    }
}

impl std::fmt::Display for Kind {
    /// What a value must be, to follow its name.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match *self {
            Kind::Text => f.write_str("must not be empty"),
            Kind::Integer(low, high) => write!(f, "must be a whole number from {low} to {high}"),
            Kind::Number(low, high) if high > 1e30 => write!(f, "must be a number, {low} or more"),
            Kind::Number(low, high) => write!(f, "must be a number from {low} to {high}"),
            Kind::Size => f.write_str("must be a size such as 512MB, 1.5GiB or 80%"),
            Kind::Device => {
                f.write_str("must be auto, cpu, cuda, or cuda:N for the GPU with that number (air devices)")
            }
            Kind::OneOf(words) => write!(f, "must be one of {}", words.join(", ")),
        }
    }
}

/// Finds a row by its key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

/// Which layer gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Env(String),
    /// This file.
    File(String),
    /// The table.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Env(name) => write!(f, "environment ({name})"),
            Origin::File(path) => write!(f, "file ({path})"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// The value that won, and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The row.
    pub setting: &'static Setting,
    /// The text; `None` when nothing is set and the table has no value.
    pub value: Option<String>,
    /// The layer.
    pub origin: Origin,
}

/// The value of every setting.
#[derive(Debug, Clone)]
pub struct Settings {
    values: Vec<Resolved>,
}

/// A flag as the command line gave it.
pub type Given = (&'static Setting, String);

impl Settings {
    /// Resolves every row. `env` looks a variable up.
    ///
    /// # Errors
    /// `Invalid`, naming the layer, when a value does not pass its row's check.
    pub fn resolve(flags: &[Given], env: &dyn Fn(&str) -> Option<String>, file: Option<&File>) -> Result<Self> {
        let values = SETTINGS.iter().map(|s| resolve_one(s, flags, env, file)).collect::<Result<_>>()?;
        Ok(Settings { values })
    }

    /// All rows in the table's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Resolved> {
        self.values.iter()
    }

    /// A setting by its key.
    ///
    /// # Panics
    /// When the table has no such key: a mistake in air, which the tests of every command meet.
    pub fn row(&self, key: &str) -> &Resolved {
        let row = self.values.iter().find(|r| r.setting.key == key);
        row.unwrap_or_else(|| panic!("no setting {key}"))
    }

    /// The text of a setting, if it has a value.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.row(key).value.as_deref()
    }

    /// The value of a setting whose row is `Integer`, `Number`, `Size` or `Device` in the range of `T`, if it has one.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        let parse = |text: &str| text.parse().unwrap_or_else(|_| panic!("{key}: the row allows what its use does not"));
        self.text(key).map(parse)
    }
}

fn resolve_one(
    setting: &'static Setting,
    flags: &[Given],
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<&File>,
) -> Result<Resolved> {
    let flag = flags.iter().find(|(s, _)| s.key == setting.key).map(|(_, v)| (v.clone(), Origin::Flag));
    let variable = || {
        let names = [setting.env.to_string(), setting.env_alias()];
        names.into_iter().find_map(|name| Some((env(&name).filter(|v| !v.is_empty())?, Origin::Env(name))))
    };
    let in_file = || file.and_then(|f| Some((f.get(setting.key)?.to_string(), Origin::File(f.path().to_string()))));
    let Some((value, origin)) = flag.or_else(variable).or_else(in_file) else {
        let value = match setting.default {
            Default::Value(v) => Some(v.to_string()),
            Default::Unset(_) => None,
        };
        return Ok(Resolved { setting, value, origin: Origin::Default });
    };
    setting.check(&value).map_err(|problem| {
        let what = match &origin {
            Origin::Flag => format!("--{}", setting.flag),
            Origin::Env(name) => name.clone(),
            Origin::File(path) => format!("{path}: {}", setting.key),
            Origin::Default => unreachable!("defaults are not checked here"),
        };
        Error::Invalid(format!("{what}: `{value}` {problem}"))
    })?;
    Ok(Resolved { setting, value: Some(value), origin })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &[Given], env: &[(&str, &str)], file: Option<&File>) -> Result<Settings> {
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        Settings::resolve(flags, &env, file)
    }

    fn model(settings: &Settings) -> (Option<&str>, &Origin) {
        let row = settings.iter().find(|r| r.setting.key == "model.path").unwrap();
        (row.value.as_deref(), &row.origin)
    }

    #[test]
    fn the_table_is_sound() {
        for (i, s) in SETTINGS.iter().enumerate() {
            assert!(s.env.starts_with("AIR_") && !s.env.starts_with("AIR_RS_"), "{}", s.env);
            assert_eq!(s.key.split('.').count(), 2, "{}: keys are section.name", s.key);
            assert!(!s.help.is_empty() && !s.value.is_empty());
            if let Default::Value(v) = s.default {
                assert_eq!(s.check(v), Ok(()), "the default of {}", s.key);
            }
            for other in &SETTINGS[..i] {
                assert!(s.key != other.key && s.flag != other.flag && s.env != other.env, "{} is twice", s.key);
                assert!(s.short.is_none() || s.short != other.short, "-{:?} is twice", s.short);
            }
        }
    }

    #[test]
    fn the_nearest_layer_wins() {
        let row = setting("model.path").unwrap();
        let file = File::parse("air.toml", "[model]\npath = \"from-file\"").unwrap();
        let both = [("AIR_MODEL_PATH", "from-env"), ("AIR_RS_MODEL_PATH", "from-alias")];
        let alias = [("AIR_MODEL_PATH", ""), ("AIR_RS_MODEL_PATH", "from-alias")];

        let s = resolve(&[(row, "from-flag".into())], &both, Some(&file)).unwrap();
        assert_eq!(model(&s), (Some("from-flag"), &Origin::Flag));
        let s = resolve(&[], &both, Some(&file)).unwrap();
        assert_eq!(model(&s), (Some("from-env"), &Origin::Env("AIR_MODEL_PATH".into())));
        let s = resolve(&[], &alias, Some(&file)).unwrap();
        assert_eq!(model(&s), (Some("from-alias"), &Origin::Env("AIR_RS_MODEL_PATH".into())));
        let s = resolve(&[], &[], Some(&file)).unwrap();
        assert_eq!(model(&s), (Some("from-file"), &Origin::File("air.toml".into())));
        let s = resolve(&[], &[], None).unwrap();
        assert_eq!(model(&s), (None, &Origin::Default));
    }

    #[test]
    fn a_wrong_value_names_its_layer() {
        let file = File::parse("x/air.toml", "model.path = ''").unwrap();
        let message = resolve(&[], &[], Some(&file)).unwrap_err().to_string();
        assert_eq!(message, "x/air.toml: model.path: `` must not be empty");
        let message = |env| resolve(&[], &[env], None).unwrap_err().to_string();
        let threads = "must be a whole number from 1 to 1024";
        assert_eq!(message(("AIR_THREADS", "0")), format!("AIR_THREADS: `0` {threads}"));
        assert_eq!(message(("AIR_RS_THREADS", "2.5")), format!("AIR_RS_THREADS: `2.5` {threads}"));
        let most = "must be a whole number from 0 to 4294967295";
        assert_eq!(message(("AIR_MAX_TOKENS", "5000000000")), format!("AIR_MAX_TOKENS: `5000000000` {most}"));
        let types = "must be one of f32, f16, q8_0, q4_0";
        assert_eq!(message(("AIR_KV_TYPE", "q9")), format!("AIR_KV_TYPE: `q9` {types}"));
    }
}
