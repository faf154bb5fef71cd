//! The program as a user meets it: exit codes, messages, pipes, signals.

use assert_cmd::Command;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};

/// `air` with nothing of the caller's settings.
fn air(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    c.args(args).current_dir(std::env::temp_dir()).env_clear();
    c
}

fn run(args: &[&str]) -> Output {
    air(args).output().expect("air starts")
}

fn out(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).expect("stdout is UTF-8")
}

fn err(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).expect("stderr is UTF-8")
}

fn temp(name: &str, text: &str) -> String {
    let path = std::env::temp_dir().join(format!("air-cli-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("the temporary directory is writable");
    path.display().to_string()
}

/// Names of the commands, from the program's own help.
fn commands() -> Vec<String> {
    let help = out(&run(&["--help"]));
    let list = help.split("Commands:").nth(1).expect("help lists commands").split("Options:").next().unwrap();
    let names = list.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    names.map(|l| l.split_whitespace().next().unwrap().to_string()).collect()
}

#[test]
fn every_command_has_help() {
    let names = commands();
    assert!(names.len() >= 3, "{names:?}");
    for name in names.iter().filter(|n| *n != "help") {
        let o = run(&[name, "--help"]);
        assert_eq!(o.status.code(), Some(0), "{name}");
        assert!(out(&o).contains("Usage: air"), "{name}");
    }
}

#[test]
fn bad_usage_is_exit_code_2() {
    for args in [&[][..], &["no-such-command"], &["config", "--no-such-flag"], &["completions", "no-such-shell"]] {
        let o = run(args);
        assert_eq!(o.status.code(), Some(2), "{args:?}: {}", err(&o));
        assert!(out(&o).is_empty(), "{args:?}");
    }
    let o = run(&["config", "--model", ""]);
    assert_eq!(o.status.code(), Some(2));
    assert!(err(&o).contains("--model"), "{}", err(&o));
}

#[test]
fn the_version_is_the_package_s() {
    assert_eq!(out(&run(&["--version"])), format!("air {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let o = run(&["completions", shell]);
        assert!(o.status.success() && out(&o).contains("completions"), "{shell}");
    }
}

#[test]
fn config_says_which_layer_won() {
    let file = temp("layers.toml", "[model]\npath = 'from-file'");
    let json = |c: &mut Command| -> serde_json::Value {
        let o = c.output().unwrap();
        assert!(o.status.success(), "{}", err(&o));
        serde_json::from_slice(&o.stdout).expect("air config --json prints JSON")
    };
    let with_file = ["config", "--json", "--config", &file];
    let row = json(&mut air(&with_file))["model.path"].clone();
    assert_eq!((row["value"].as_str(), row["source"].as_str()), (Some("from-file"), Some("file")));
    let row = json(air(&with_file).env("AIR_RS_MODEL_PATH", "from-env"))["model.path"].clone();
    assert_eq!((row["value"].as_str(), row["from"].as_str()), (Some("from-env"), Some("AIR_RS_MODEL_PATH")));
    let row = json(air(&with_file).env("AIR_MODEL_PATH", "e").args(["-m", "from-flag"]))["model.path"].clone();
    assert_eq!((row["value"].as_str(), row["source"].as_str()), (Some("from-flag"), Some("flag")));

    let text = out(&air(&["config"]).env("AIR_CONFIG", &file).output().unwrap());
    assert!(text.lines().any(|l| l.starts_with("model.path") && l.ends_with(&format!("file ({file})"))), "{text}");
    let text = out(&run(&["config"]));
    let line = text.lines().find(|l| l.starts_with("model.path")).expect("the row is shown");
    assert!(line.contains("(the embedded demo model)") && line.ends_with("default"), "{text}");
}

#[test]
fn a_bad_settings_file_is_exit_code_1() {
    let file = temp("unknown.toml", "[model]\npaht = 'x'");
    let o = run(&["config", "--config", &file]);
    assert_eq!(o.status.code(), Some(1));
    let want = format!("error: {file}: model.paht at byte 8: there is no such setting; did you mean model.path?\n");
    assert_eq!(err(&o), want);

    let o = run(&["config", "--config", "/nonexistent.toml"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).starts_with("error: /nonexistent.toml: cannot read the settings"), "{}", err(&o));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    // The reader is gone before the program starts, so that the first write meets a closed pipe.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_air"))
        .args(["completions", "zsh"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let o = child.wait_with_output().unwrap();
    assert_eq!(err(&o), "");
    assert_eq!(o.status.signal(), Some(13), "SIGPIPE, not {:?}", o.status);
}

/// A tiny model of `tests/goldens/families`.
fn tiny(name: &str) -> String {
    format!("{}/tests/goldens/families/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn debug_logits_writes_the_golden_s_array() {
    let index = std::fs::read_to_string(tiny("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let case = index.as_array().unwrap().iter().find(|c| c["name"] == "llama-gqa").unwrap();
    let tokens: Vec<String> = case["tokens"].as_array().unwrap().iter().map(|t| t.to_string()).collect();
    let path = temp("logits.npy", "");
    let model = tiny("llama-gqa.gguf");
    let o = run(&["debug", "logits", "--exact", "-m", &model, "--tokens", &tokens.join(","), "-o", &path]);
    assert!(o.status.success(), "{}", err(&o));
    assert!(err(&o).starts_with("device: "), "{}", err(&o));
    let (have, want) = (std::fs::read(&path).unwrap(), std::fs::read(tiny("llama-gqa.logits.npy")).unwrap());
    assert_eq!(have.len(), want.len());
    assert_eq!(have[..128], want[..128], "the header as numpy writes it");
    let floats = |b: &[u8]| b[128..].chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>();
    let (have, want) = (floats(&have), floats(&want));
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(have.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-4 * largest));
}

#[test]
fn debug_logits_that_cannot_work_write_nothing() {
    let (model, path) = (tiny("llama-gqa.gguf"), temp("none.npy", ""));
    std::fs::remove_file(&path).unwrap();
    let long = "9 tokens do not fit into the context of 8";
    for (tokens, message) in [("1,999999", "999999 is not a token"), ("1,1,1,1,1,1,1,1,1", long)] {
        let o = run(&["debug", "logits", "-m", &model, "-c", "8", "--tokens", tokens, "-o", &path]);
        assert_eq!(o.status.code(), Some(1));
        assert!(err(&o).contains(message), "{}", err(&o));
        assert!(!std::path::Path::new(&path).exists());
    }
    let o = run(&["debug", "logits", "-m", &model, "--tokens", "1", "-o", "/nonexistent/x.npy"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("/nonexistent/x.npy.part: cannot write"), "{}", err(&o));
    for tokens in ["", "x", "1,,2", "-1"] {
        assert_eq!(run(&["debug", "logits", "-m", &model, "--tokens", tokens, "-o", &path]).status.code(), Some(2));
    }
}

#[test]
fn missing_and_broken_models_are_exit_code_1() {
    let broken = temp("broken.gguf", "GGUFnonsense");
    let text = temp("text.gguf", "To be, or not to be: that is the question.");
    for (model, message) in [("/nonexistent.gguf", "/nonexistent.gguf: "), (&broken, &broken), (&text, &text)] {
        for command in [&["debug", "logits", "--tokens", "1", "-o", "/dev/null"][..], &["info"]] {
            let o = air(command).args(["-m", model]).output().unwrap();
            assert_eq!(o.status.code(), Some(1), "{command:?} {model}");
            assert!(err(&o).starts_with("error: ") && err(&o).contains(message), "{}", err(&o));
        }
    }
}

/// `air generate` with a tiny model of random weights.
fn generate(args: &[&str]) -> Command {
    let mut c = air(&["generate", "-m"]);
    c.arg(tiny("llama-gqa.gguf")).args(args);
    c
}

fn answer(c: &mut Command) -> String {
    let o = c.output().unwrap();
    assert!(o.status.success(), "{}", err(&o));
    assert!(err(&o).starts_with("device: "), "the device is always said: {}", err(&o));
    out(&o)
}

#[test]
fn the_prompt_comes_from_the_flag_or_from_a_pipe() {
    let greedy = answer(&mut generate(&["-p", "abc", "-n", "12", "-t", "0"]));
    assert!(!greedy.is_empty());
    assert_eq!(answer(generate(&["-n", "12", "-t", "0"]).write_stdin("abc")), greedy);
    assert_eq!(answer(generate(&["-n", "12", "-t", "0"]).write_stdin("abc\n")), greedy, "one newline is echo's");
    assert_eq!(answer(&mut generate(&["-p", "abc", "-n", "12", "-t", "0", "--stream"])), greedy);
    assert_eq!(answer(&mut generate(&["-p", "abc", "-n", "12", "-t", "0", "--exact", "--threads", "1"])), greedy);
    assert_eq!(answer(&mut generate(&["-p", "abc", "-n", "0"])), "");
    let by_env = answer(generate(&["-p", "abc", "-t", "0"]).env("AIR_MAX_TOKENS", "12"));
    assert_eq!(by_env, greedy);
}

#[test]
fn an_empty_prompt_starts_from_the_beginning() {
    let empty = answer(&mut generate(&["-p", "", "-n", "8", "-t", "0"]));
    assert!(!empty.is_empty());
    assert_eq!(answer(generate(&["-n", "8", "-t", "0"]).write_stdin("")), empty);
}

#[test]
fn a_seed_repeats_the_text() {
    let with = |seed| answer(&mut generate(&["-p", "abc", "-n", "24", "-t", "1.5", "--top-k", "0", "--seed", seed]));
    assert_eq!(with("7"), with("7"));
    assert_ne!(with("7"), with("8"));
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let whole = answer(&mut generate(&["-p", "abc", "-n", "24", "-t", "0"]));
    let stop: String = whole.chars().skip(6).take(2).collect();
    let want = &whole[..whole.find(&stop).unwrap()];
    let o = generate(&["-p", "abc", "-n", "24", "-t", "0", "--json", "--stop", &stop]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!((json["text"].as_str(), json["finish_reason"].as_str()), (Some(want), Some("stop")));
    for field in ["model", "device", "seed", "prompt_tokens", "generated_tokens", "ttft_ms", "load_ms"] {
        assert!(!json[field].is_null(), "{field}: {json}");
    }
}

#[test]
fn a_bias_forbids_a_token() {
    let whole = answer(&mut generate(&["-p", "abc", "-n", "1", "-t", "0"]));
    let biases: Vec<String> = (0..61).flat_map(|id| ["--logit-bias".into(), format!("{id}=-inf")]).collect();
    let mut c = generate(&["-p", "abc", "-n", "1", "-t", "0"]);
    let o = c.args(&biases).output().unwrap();
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("no token can be chosen"), "{}", err(&o));
    let o = generate(&["-p", "abc", "-n", "1", "-t", "0", "--logit-bias", "61=1"]).output().unwrap();
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("logit_bias names token 61; the vocabulary has 61"), "{}", err(&o));
    assert_eq!(whole.chars().count(), 1);
}

#[test]
fn a_prompt_that_cannot_be_read_is_an_error() {
    let long = "a b c ".repeat(200);
    let o = generate(&["-p", &long]).output().unwrap();
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(1), ""));
    assert!(err(&o).contains("the context holds 256"), "{}", err(&o));
    let o = generate(&[]).write_stdin(&b"ab\xff"[..]).output().unwrap();
    assert_eq!(o.status.code(), Some(1));
    assert_eq!(err(&o), "error: stdin: the prompt is not UTF-8 at byte 2\n");
}

#[test]
fn generation_ends_with_the_context() {
    let o = generate(&["-p", "abc", "-c", "16", "-t", "0", "--json", "--logit-bias", "2=-inf"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(json["finish_reason"], "length");
    // Prompt and answer fill it; the last token need not be read any more.
    let total = json["prompt_tokens"].as_u64().unwrap() + json["generated_tokens"].as_u64().unwrap();
    assert_eq!(total, 17, "{json}");
}

#[test]
fn wrong_generation_flags_are_exit_code_2() {
    for (args, message) in [
        (&["-t", "-1"][..], "must be a number, 0 or more"),
        (&["-t", "nan"], "must be a number, 0 or more"),
        (&["--top-p", "1.1"], "must be a number from 0 to 1"),
        (&["--top-k", "-1"], "must be a whole number, 0 or more"),
        (&["--seed", "1.5"], "must be a whole number, 0 or more"),
        (&["-n", "many"], "must be a whole number, 0 or more"),
        (&["--kv-type", "q9_9"], "must be one of f32, f16, q8_0, q4_0"),
        (&["--threads", "0"], "must be a whole number from 1 to 1024"),
        (&["--logit-bias", "5"], "must be a token id, `=` and a number"),
        (&["--json", "--stream"], "cannot be used with"),
    ] {
        let o = generate(&["-p", "abc"]).args(args).output().unwrap();
        assert_eq!(o.status.code(), Some(2), "{args:?}");
        assert!(err(&o).contains(message), "{args:?}: {}", err(&o));
    }
}

#[test]
fn perplexity_of_a_text() {
    let text = temp("text.txt", &"abc cab bca ".repeat(60));
    let run = |args: &[&str]| {
        let mut c = air(&["perplexity", "--json", "-f", &text, "-m"]);
        let o = c.arg(tiny("llama-gqa.gguf")).args(args).output().unwrap();
        assert!(o.status.success(), "{}", err(&o));
        serde_json::from_slice::<serde_json::Value>(&o.stdout).unwrap()
    };
    let (fast, exact) = (run(&["-c", "64"]), run(&["-c", "64", "--exact"]));
    let value = |j: &serde_json::Value, field: &str| j[field].as_f64().unwrap_or_else(|| panic!("{field}: {j}"));
    let chunks = value(&exact, "chunks");
    assert_eq!(value(&exact, "tokens"), 31.0 * chunks, "the second half of each chunk, predicted from inside it");
    let bits = value(&exact, "nats_per_token") * value(&exact, "tokens") / 2f64.ln() / value(&exact, "bytes");
    assert!((value(&exact, "bits_per_byte") - bits).abs() < 1e-9);
    assert!((value(&fast, "perplexity") / value(&exact, "perplexity") - 1.0).abs() < 0.005);
    assert_eq!(value(&run(&["-c", "64", "--chunks", "2"]), "chunks"), 2.0);
}

#[test]
fn bench_reports_every_figure() {
    let mut c = air(&["bench", "--json", "-p", "1000", "-n", "8", "-r", "2", "-m"]);
    let o = c.arg(tiny("llama-gqa.gguf")).output().unwrap();
    assert!(o.status.success(), "{}", err(&o));
    let text = err(&o);
    assert!(text.contains("the context holds 256 tokens: measuring 248 of prompt and 8 of answer"), "{text}");
    assert!(text.lines().any(|l| l.strip_prefix("Mean TPS: ").is_some_and(|x| x.parse::<f64>().is_ok())), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    for field in ["/model", "/device", "/io_backend", "/roofline/bound"] {
        assert!(json.pointer(field).is_some_and(|v| v.is_string()), "{field}: {json}");
    }
    let numbers = "n_prompt n_gen runs prefill_tps decode_tps ttft_ms/p50 ttft_ms/p99 load_ms weights_bytes \
                   bytes_per_token/mem achieved_gbps/mem peak_rss_bytes";
    for field in numbers.split_whitespace() {
        let value = json.pointer(&format!("/{field}")).and_then(|v| v.as_f64());
        assert!(value.is_some_and(|x| x > 0.0), "{field}: {json}");
    }
    let number = |field: &str| json.pointer(field).and_then(|v| v.as_f64());
    if let (Some(predicted), Some(percent)) = (number("/roofline/predicted_tps"), number("/roofline/percent")) {
        let share = number("/decode_tps").unwrap() / predicted * 100.0;
        assert!((share - percent).abs() < 1e-6 * share, "{json}");
    }
    // Float32 weights but for most rows of the embedding, and 252 positions of 128 bytes.
    assert!((number("/bytes_per_token/mem").unwrap() - (73_900.0 + 252.0 * 128.0)).abs() < 9_000.0, "{json}");
}
