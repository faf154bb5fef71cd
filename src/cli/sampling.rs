//! The sampler's parameters from the settings and the flags that go with them.

use super::model;
use super::settings::Uses;
use crate::config::Settings;
use crate::error::Result;
use crate::sample::{Params, random_seed};
use std::sync::LazyLock;

/// Settings of the answer.
const KEYS: [&str; 11] = [
    "generate.max-tokens",
    "sampling.temperature",
    "sampling.top-k",
    "sampling.top-p",
    "sampling.min-p",
    "sampling.typical-p",
    "sampling.repetition-penalty",
    "sampling.presence-penalty",
    "sampling.frequency-penalty",
    "sampling.repeat-last-n",
    "sampling.seed",
];

static ALL: LazyLock<Vec<&str>> = LazyLock::new(|| model::KEYS.into_iter().chain(KEYS).collect());

/// Commands that generate text.
pub struct Generating;

impl Uses for Generating {
    fn keys() -> &'static [&'static str] {
        &ALL
    }
}

/// Flags of commands that generate text. Those that are no settings belong to one request.
#[derive(clap::Args)]
pub struct AnswerArgs {
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Add BIAS to the logit of a token id (-inf forbids it); may be given several times
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Say on stderr what each answer took
    #[arg(long)]
    pub stats: bool,
    #[command(flatten)]
    pub model: model::RunArgs<Generating>,
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("must be a token id, `=` and a number")?;
    let id = id.trim().parse().map_err(|_| format!("`{id}` is not a token id"))?;
    let bias: f32 = bias.trim().parse().map_err(|_| format!("`{bias}` is not a number"))?;
    match bias.is_nan() || bias == f32::INFINITY {
        true => Err(format!("`{bias}` is not a finite number or -inf")),
        false => Ok((id, bias)),
    }
}

/// The sampler's parameters. The seed is always set, so that it can be told.
pub fn params(settings: &Settings, logit_bias: &[(u32, f32)]) -> Params {
    let d = Params::default();
    Params {
        temperature: settings.number("sampling.temperature").unwrap_or(d.temperature),
        top_k: settings.number("sampling.top-k").unwrap_or(d.top_k),
        top_p: settings.number("sampling.top-p").unwrap_or(d.top_p),
        min_p: settings.number("sampling.min-p").unwrap_or(d.min_p),
        typical_p: settings.number("sampling.typical-p").unwrap_or(d.typical_p),
        repetition_penalty: settings.number("sampling.repetition-penalty").unwrap_or(d.repetition_penalty),
        presence_penalty: settings.number("sampling.presence-penalty").unwrap_or(d.presence_penalty),
        frequency_penalty: settings.number("sampling.frequency-penalty").unwrap_or(d.frequency_penalty),
        repeat_last_n: settings.number("sampling.repeat-last-n").unwrap_or(d.repeat_last_n),
        logit_bias: logit_bias.to_vec(),
        seed: Some(settings.number("sampling.seed").unwrap_or_else(random_seed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_sampler_s_defaults() {
        let settings = Settings::resolve(&[], &|_| None, None).unwrap();
        let got = params(&settings, &[]);
        assert_eq!(Params { seed: None, ..got }, Params::default());
    }

    #[test]
    fn a_bias_is_an_id_and_a_number() {
        assert_eq!(bias("15=-2.5"), Ok((15, -2.5)));
        assert_eq!(bias("0=-inf"), Ok((0, f32::NEG_INFINITY)));
        for wrong in ["15", "x=1", "-1=1", "1=x", "1=nan", "1=inf", "="] {
            assert!(bias(wrong).is_err(), "{wrong}");
        }
    }
}
