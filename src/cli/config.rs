//! `air config`: the value of every setting and which layer it came from.

use super::output;
use super::settings::{SettingArgs, Uses};
use crate::config::{Default, Origin, Resolved, SETTINGS};
use crate::error::Result;
use serde_json::{Value, json};
use std::sync::LazyLock;

static ALL: LazyLock<Vec<&str>> = LazyLock::new(|| SETTINGS.iter().map(|s| s.key).collect());

/// All settings.
struct Everything;

impl Uses for Everything {
    fn keys() -> &'static [&'static str] {
        &ALL
    }
}

/// Show every setting, its value and where the value comes from (flag, environment, file or default)
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs<Everything>,
}

/// Prints the table.
pub fn run(args: Args) -> Result<()> {
    let settings = args.settings.resolve()?;
    if args.json {
        let rows: serde_json::Map<String, Value> = settings.iter().map(row_json).collect();
        return output::json(&Value::Object(rows));
    }
    let shown = |r: &Resolved| match (&r.value, r.setting.default) {
        (Some(v), _) => v.clone(),
        (None, Default::Unset(words)) => format!("({words})"),
        (None, Default::Value(v)) => v.to_string(),
    };
    let width = |f: &dyn Fn(&Resolved) -> usize| settings.iter().map(f).max().unwrap_or(0);
    let (key, value) = (width(&|r| r.setting.key.len()), width(&|r| shown(r).chars().count()));
    settings
        .iter()
        .try_for_each(|r| output::line(format_args!("{:key$}  {:value$}  {}", r.setting.key, shown(r), r.origin)))
}

fn row_json(r: &Resolved) -> (String, Value) {
    let (source, name) = match &r.origin {
        Origin::Flag => ("flag", format!("--{}", r.setting.flag)),
        Origin::Env(name) => ("environment", name.clone()),
        Origin::File(path) => ("file", path.clone()),
        Origin::Default => ("default", String::new()),
    };
    let mut row = json!({ "value": r.value, "source": source });
    if !name.is_empty() {
        row["from"] = name.into();
    }
    row["flag"] = format!("--{}", r.setting.flag).into();
    row["env"] = r.setting.env.into();
    (r.setting.key.into(), row)
}
