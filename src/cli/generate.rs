//! `air generate`: one prompt, one answer.
//!
//! The answer alone goes to stdout: as it comes at a terminal or with `--stream`, else in one piece. Ctrl-C ends the
//! answer; what came until then is printed.

use super::conversation::Conversation;
use super::{human, input, interrupt, model, output, sampling};
use crate::engine::{Engine, Finished, ModelInfo, PressureReport, Request, Residence};
use crate::error::Result;
use crate::stream::Counters;
use serde_json::json;
use std::io::IsTerminal;

/// Answer a prompt
#[derive(clap::Args)]
pub struct Args {
    /// Text to go on from; without it, stdin is read (one newline at its end does not count)
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Write the text as it comes; the default at a terminal
    #[arg(short, long)]
    stream: bool,
    /// Put the prompt into the model's chat template, as the user's message
    #[arg(long)]
    chat: bool,
    /// System message of the chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Print JSON instead of the text
    #[arg(long, conflicts_with = "stream")]
    json: bool,
    #[command(flatten)]
    answer: sampling::AnswerArgs,
}

/// Generates and prints.
pub fn run(args: Args) -> Result<()> {
    let flags = args.answer;
    let settings = flags.model.settings.resolve()?;
    let text = match args.prompt {
        Some(text) => text,
        None => {
            let mut text = input::stdin("there is no prompt: give -p TEXT, or pipe one in")?;
            text.truncate(text.strip_suffix('\n').map_or(text.len(), str::len));
            text
        }
    };
    let sampling = sampling::params(&settings, &flags.logit_bias);
    let seed = sampling.seed;
    let engine = model::engine(&settings, flags.model.how())?;
    // Until here there is nothing to finish, and Ctrl-C ends the process; from here the second one does.
    interrupt::watch()?;
    let max_tokens = settings.number("generate.max-tokens").unwrap_or(u32::MAX);
    let request = if args.chat {
        let mut conversation = Conversation::new(&engine, args.system)?;
        conversation.ask(&text);
        conversation.request(&engine, sampling, max_tokens, &flags.stop)?
    } else {
        let prompt = engine.tokenizer().encode(&text, true, true);
        Request { prompt, max_tokens, sampling, stop: flags.stop, progress: true, ..Request::default() }
    };
    let terminal = std::io::stdout().is_terminal();
    let stream = !args.json && (args.stream || terminal);
    let mut answer = String::new();
    let finished = model::follow(engine.submit(request)?, &mut |text| {
        answer.push_str(text);
        if stream { output::answer(text) } else { Ok(()) }
    })?;
    if args.json {
        output::json(&report(&engine, &finished, &answer, seed))?;
    } else if !stream {
        output::answer(&answer)?;
    } else if terminal && !answer.ends_with('\n') {
        output::answer("\n")?;
    }
    if flags.stats {
        output::note(stats(&engine, &finished, seed));
    }
    model::not_cancelled(finished).map(drop)
}

fn report(engine: &Engine, finished: &Finished, text: &str, seed: Option<u64>) -> serde_json::Value {
    let (info, usage) = (engine.info(), &finished.usage);
    json!({
        "model": info.file,
        "device": info.device,
        "text": text,
        "finish_reason": finished.reason.name(),
        "seed": seed,
        "prompt_tokens": usage.prompt_tokens,
        "kept_tokens": usage.kept_tokens,
        "generated_tokens": usage.generated_tokens,
        "ttft_ms": usage.time_to_first_token().as_secs_f64() * 1e3,
        "prefill_tps": usage.prefill_tps(),
        "decode_tps": usage.decode_tps(),
        "load_ms": info.load_time.as_secs_f64() * 1e3,
    })
}

/// What came from the drive for each token, beside what the drive can give.
fn streamed(info: &ModelInfo, tps: f64) -> Option<(&'static str, String)> {
    let Residence { plan, units, .. } = &info.residence;
    // Which experts came is not known from the plan.
    if plan.streamed() == 0 || !plan.cache.experts.is_empty() {
        return None;
    }
    let bytes = plan.traffic(units, 1).drive as f64;
    let share = info.residence.drive_rate().map(|rate| {
        let (percent, rate) = (100.0 * bytes * tps / rate, human::bytes(rate as u64));
        format!(", {percent:.0}% of the {rate}/s that the drive gave when it was probed")
    });
    let (each, speed) = (human::bytes(bytes as u64), human::bytes((bytes * tps) as u64));
    Some(("from the drive", format!("{each} a token, {speed}/s{}", share.unwrap_or_default())))
}

/// Which experts were in memory since loading, and what became of those that were read on a guess, where any are cached.
fn experts(c: Counters) -> Option<(&'static str, String)> {
    let hits = 100.0 * c.hit_rate()?;
    let (guessed, used, wasted) = (c.foreseen, c.foreseen_used, human::bytes(c.read_for_nothing));
    Some((
        "experts",
        format!("{hits:.0}% in memory; {guessed} read on a guess, {used} of them used, {wasted} for nothing"),
    ))
}

/// How short of memory the engine is and was, if it ever was.
fn pressure(p: PressureReport) -> Option<String> {
    let (now, highest) = (p.level.words(), p.highest.words());
    (p.changes > 0).then(|| format!("now: {now}; at most: {highest}; {} changes", p.changes))
}

/// What an answer took, for people.
pub fn stats(engine: &Engine, finished: &Finished, seed: Option<u64>) -> String {
    let (info, usage) = (engine.info(), &finished.usage);
    let rate = |tps: Option<f64>| tps.map_or(String::new(), |t| format!(", {t:.1} tok/s"));
    let kept = match usage.kept_tokens {
        0 => String::new(),
        n => format!(", {n} of them read before"),
    };
    let mut rows = vec![
        ("loaded", format!("{} in {:.0} ms", human::bytes(info.weight_bytes), info.load_time.as_secs_f64() * 1e3)),
        ("prompt", format!("{} tokens{kept}{}", usage.prompt_tokens, rate(usage.prefill_tps()))),
        ("first token", format!("{:.1} ms", usage.time_to_first_token().as_secs_f64() * 1e3)),
        ("answer", format!("{} tokens{}", usage.generated_tokens, rate(usage.decode_tps()))),
    ];
    if let Some(tps) = usage.decode_tps() {
        let (touched, speed) = (info.touched_bytes, info.touched_bytes as f64 * tps);
        rows.push(("weights read", format!("{} a token, {}/s", human::bytes(touched), human::bytes(speed as u64))));
        rows.extend(streamed(info, tps));
    }
    rows.extend(experts(engine.streamed()));
    rows.extend(pressure(engine.pressure()).map(|words| ("memory was short", words)));
    rows.push(("ended by", finished.reason.name().into()));
    rows.extend(seed.map(|s| ("seed", s.to_string())));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect();
    human::table(&rows, &[])
}
