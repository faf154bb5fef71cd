//! Flags that come from the table of settings.
//!
//! A command that uses settings flattens a `SettingArgs<U>`, where `U` lists the keys; the flags, their help (with
//! default and environment variable) and their checks derive from the table. `resolve` then looks at all layers.

use crate::config::{self, Default, Given, Setting, Settings};
use crate::error::Result;
use clap::{Arg, ArgMatches, Command};
use std::marker::PhantomData;
use std::path::PathBuf;

const CONFIG: &str = "config";

/// Which settings a command takes as flags.
pub trait Uses {
    /// Keys of the table.
    fn keys() -> &'static [&'static str];

    /// What holds when nobody says anything, where that is not what the table has: keys, and the help's words.
    fn defaults() -> &'static [(&'static str, &'static str)] {
        &[]
    }
}

/// Commands that only read a model file.
pub struct ModelOnly;

impl Uses for ModelOnly {
    fn keys() -> &'static [&'static str] {
        &["model.path"]
    }
}

/// The flags of the settings that `U` lists, and `--config`.
pub struct SettingArgs<U> {
    flags: Vec<Given>,
    file: Option<PathBuf>,
    uses: PhantomData<U>,
}

impl<U: Uses> SettingArgs<U> {
    /// The value of every setting: these flags, the environment, the file, the defaults.
    ///
    /// # Errors
    /// Those of `config::find` and `Settings::resolve`.
    pub fn resolve(&self) -> Result<Settings> {
        let env = |name: &str| std::env::var(name).ok();
        let file = config::find(self.file.as_deref(), &env)?;
        Settings::resolve(&self.flags, &env, file.as_ref())
    }
}

fn rows<U: Uses>() -> impl Iterator<Item = &'static Setting> {
    U::keys().iter().map(|key| config::setting(key).unwrap_or_else(|| panic!("no setting {key}")))
}

fn arg<U: Uses>(row: &'static Setting) -> Arg {
    let own = U::defaults().iter().find(|(key, _)| *key == row.key).map(|(_, words)| *words);
    let default = own.unwrap_or(match row.default {
        Default::Value(v) => v,
        Default::Unset(words) => words,
    });
    let check = move |text: &str| row.check(text).map(|()| text.to_string());
    let help = format!("{} [default: {default}] [env: {}]", row.help, row.env);
    let arg = Arg::new(row.key).long(row.flag).value_name(row.value).help(help).value_parser(check);
    let arg = arg.allow_negative_numbers(true);
    match row.short {
        Some(short) => arg.short(short),
        None => arg,
    }
}

impl<U: Uses> clap::FromArgMatches for SettingArgs<U> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = rows::<U>().filter_map(|row| Some((row, matches.get_one::<String>(row.key)?.clone())));
        let file = matches.get_one::<PathBuf>(CONFIG).cloned();
        Ok(SettingArgs { flags: flags.collect(), file, uses: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<U: Uses> clap::Args for SettingArgs<U> {
    fn augment_args(cmd: Command) -> Command {
        let file = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .help("Settings file [default: ./air.toml, then ~/.config/air/air.toml] [env: AIR_CONFIG]")
            .value_parser(clap::value_parser!(PathBuf));
        rows::<U>().fold(cmd, |cmd, row| cmd.arg(arg::<U>(row))).arg(file)
    }

    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}
