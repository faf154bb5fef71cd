//! `air generate`: one prompt, one answer.
//!
//! The answer alone goes to stdout: as it comes at a terminal or with `--stream`, else in one piece. Ctrl-C ends the
//! answer; what came until then is printed.

use super::conversation::Conversation;
use super::sampling::{self, Generating};
use super::settings::SettingArgs;
use super::{human, interrupt, model};
use crate::engine::{Engine, Finished, Request};
use crate::error::{Error, Result};
use serde_json::json;
use std::io::{IsTerminal, Read, Write};

/// Bytes of a prompt from stdin; more than any context holds.
const MAX_STDIN: u64 = 64 << 20;

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
    /// Use the plain interpreter, the specification, instead of the fast kernels
    #[arg(long)]
    exact: bool,
    /// Say on stderr what it took
    #[arg(long)]
    stats: bool,
    /// Print JSON instead of the text
    #[arg(long, conflicts_with = "stream")]
    json: bool,
    #[command(flatten)]
    flags: sampling::Flags,
    #[command(flatten)]
    settings: SettingArgs<Generating>,
}

/// Generates and prints.
pub fn run(args: Args) -> Result<()> {
    let settings = args.settings.resolve()?;
    let text = match &args.prompt {
        Some(text) => text.clone(),
        None => from_stdin()?,
    };
    let sampling = sampling::params(&settings, &args.flags);
    let seed = sampling.seed;
    let engine = model::engine(&settings, args.exact)?;
    // Until here there is nothing to finish, and Ctrl-C ends the process; from here the second one does.
    interrupt::watch()?;
    let max_tokens = settings.number("generate.max-tokens").unwrap_or(u32::MAX);
    let request = if args.chat {
        let mut conversation = Conversation::new(&engine, args.system.clone())?;
        conversation.ask(&text);
        conversation.request(&engine, sampling, max_tokens, &args.flags.stop)?
    } else {
        let prompt = engine.tokenizer().encode(&text, true, true);
        Request { prompt, max_tokens, sampling, stop: args.flags.stop.clone(), ..Request::default() }
    };
    let terminal = std::io::stdout().is_terminal();
    let stream = !args.json && (args.stream || terminal);
    let mut answer = String::new();
    let finished = model::follow(engine.submit(request)?, &mut |text| {
        if stream {
            print!("{}", if terminal { human::harmless(text) } else { text.into() });
            // A closed pipe ends the process by its signal; any other failure shows at the next write.
            let _ = std::io::stdout().flush();
        }
        answer.push_str(text);
    })?;
    if args.json {
        println!("{:#}", report(&engine, &finished, &answer, seed));
    } else if !stream {
        print!("{answer}");
    } else if terminal && !answer.ends_with('\n') {
        println!();
    }
    // The answer comes before what is said about it, also where both go to one file.
    std::io::stdout().flush().map_err(|e| Error::io("stdout", "cannot write the answer", &e))?;
    if args.stats {
        eprint!("{}", stats(&engine, &finished, seed));
    }
    model::not_cancelled(finished).map(drop)
}

fn from_stdin() -> Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        super::usage("there is no prompt: give -p TEXT, or pipe one in");
    }
    let mut bytes = Vec::new();
    let read = stdin.lock().take(MAX_STDIN + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("stdin", "cannot read the prompt", &e))?;
    if bytes.len() as u64 > MAX_STDIN {
        return Err(Error::Limit(format!("stdin: the prompt has more than {} MiB", MAX_STDIN >> 20)));
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::Io { file: "stdin".into(), problem: format!("the prompt is not UTF-8 at byte {at}") }
    })?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
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
        "generated_tokens": usage.generated_tokens,
        "ttft_ms": usage.time_to_first_token().as_secs_f64() * 1e3,
        "prefill_tps": usage.prefill_tps(),
        "decode_tps": usage.decode_tps(),
        "load_ms": info.load_time.as_secs_f64() * 1e3,
    })
}

/// What an answer took, for people.
pub fn stats(engine: &Engine, finished: &Finished, seed: Option<u64>) -> String {
    let (info, usage) = (engine.info(), &finished.usage);
    let rate = |tps: Option<f64>| tps.map_or(String::new(), |t| format!(", {t:.1} tok/s"));
    let mut rows = vec![
        ("loaded", format!("{} in {:.0} ms", human::bytes(info.weight_bytes), info.load_time.as_secs_f64() * 1e3)),
        ("prompt", format!("{} tokens{}", usage.prompt_tokens, rate(usage.prefill_tps()))),
        ("first token", format!("{:.1} ms", usage.time_to_first_token().as_secs_f64() * 1e3)),
        ("answer", format!("{} tokens{}", usage.generated_tokens, rate(usage.decode_tps()))),
    ];
    if let Some(tps) = usage.decode_tps() {
        let (touched, speed) = (info.touched_bytes, info.touched_bytes as f64 * tps);
        rows.push(("weights read", format!("{} a token, {}/s", human::bytes(touched), human::bytes(speed as u64))));
    }
    rows.push(("ended by", finished.reason.name().into()));
    rows.extend(seed.map(|s| ("seed", s.to_string())));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect();
    human::table(&rows, &[])
}
