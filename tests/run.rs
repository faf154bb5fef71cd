//! The commands that run a model, as a user meets them, on tiny models of random weights.

#[path = "common/models.rs"]
mod models;
#[path = "common/program.rs"]
mod program;

use air_rs::meta::Value;
use assert_cmd::Command;
use models::{Temp, altered, tiny};
use program::{air, err, out, run, temp_file};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};

#[test]
fn debug_logits_writes_the_golden_s_array() {
    let index = std::fs::read_to_string(tiny("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let case = index.as_array().unwrap().iter().find(|c| c["name"] == "llama-gqa").unwrap();
    let tokens: Vec<String> = case["tokens"].as_array().unwrap().iter().map(|t| t.to_string()).collect();
    let path = temp_file("logits.npy", "");
    let model = tiny("llama-gqa.gguf");
    let o = run(&["debug", "logits", "--exact", "-m", &model, "--tokens", &tokens.join(","), "-o", &path]);
    assert!(o.status.success(), "{}", err(&o));
    assert!(err(&o).starts_with("device: "), "{}", err(&o));
    let (have, want) = (std::fs::read(&*path).unwrap(), std::fs::read(tiny("llama-gqa.logits.npy")).unwrap());
    assert_eq!(have.len(), want.len());
    assert_eq!(have[..128], want[..128], "the header as numpy writes it");
    let floats = |b: &[u8]| b[128..].chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>();
    let (have, want) = (floats(&have), floats(&want));
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(have.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-4 * largest));
}

#[test]
fn debug_logits_that_cannot_work_write_nothing() {
    let (model, path) = (tiny("llama-gqa.gguf"), Temp::new("none.npy"));
    let long = "9 tokens do not fit into the context of 8";
    for (tokens, message) in [("1,999999", "999999 is not a token"), ("1,1,1,1,1,1,1,1,1", long)] {
        let o = run(&["debug", "logits", "-m", &model, "-c", "8", "--tokens", tokens, "-o", &path]);
        assert_eq!(o.status.code(), Some(1));
        assert!(err(&o).contains(message), "{}", err(&o));
        assert!(!std::path::Path::new(&*path).exists());
    }
    let o = run(&["debug", "logits", "-m", &model, "--tokens", "1", "-o", "/nonexistent/x.npy"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("/nonexistent/x.npy.part: cannot create"), "{}", err(&o));
    let o = run(&["debug", "logits", "-m", &model, "--tokens", "1", "-o", "/dev/null"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("/dev/null: is not a regular file"), "{}", err(&o));
    for tokens in ["", "x", "1,,2", "-1"] {
        assert_eq!(run(&["debug", "logits", "-m", &model, "--tokens", tokens, "-o", &path]).status.code(), Some(2));
    }
}

/// `air generate` with a tiny model of random weights.
fn generate(args: &[&str]) -> Command {
    let mut c = air(&["generate", "-m"]);
    c.arg(tiny("llama-gqa.gguf")).args(args);
    c
}

/// The line that says the device, without the instruction set.
fn threads(c: &mut Command) -> String {
    let o = c.output().unwrap();
    assert!(o.status.success(), "{}", err(&o));
    let text = err(&o);
    let device = text.lines().find_map(|l| l.strip_prefix("device: cpu: ")).unwrap();
    device.split_once(", ").unwrap().1.into()
}

#[test]
fn threads_are_as_many_as_told() {
    let args = ["-p", "x", "-n", "1", "--threads"];
    assert_eq!(threads(generate(&args).arg("1")), "1 thread");
    assert_eq!(threads(generate(&args).args(["3", "--threads-batch", "2"])), "3 threads, 2 in batches");
    assert_eq!(threads(generate(&args).arg("1").env("AIR_THREADS_BATCH", "2")), "1 thread, 2 in batches");
}

/// A quota of the cgroup counts alike: `std::thread::available_parallelism` reads both.
#[test]
#[cfg(target_os = "linux")]
fn threads_are_as_many_as_the_cores_that_the_process_may_use() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    // A process inherits the affinity of the thread that starts it; this one ends with the test.
    let pinned = std::thread::spawn(|| {
        let may = sched_getaffinity(None).unwrap();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|&n| may.is_set(n)).unwrap());
        sched_setaffinity(None, &one).unwrap();
        threads(&mut generate(&["-p", "x", "-n", "1"]))
    });
    assert_eq!(pinned.join().unwrap(), "1 thread");
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
    assert_eq!(err(&o), "error: stdin: is not UTF-8 at byte 2\n");
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
        (&["--top-k", "-1"], "must be a whole number from 0 to "),
        (&["--seed", "1.5"], "must be a whole number from 0 to "),
        (&["-n", "many"], "must be a whole number from 0 to "),
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
    let text = temp_file("text.txt", &"abc cab bca ".repeat(60));
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

#[test]
fn bench_measures_a_batch_behind_a_depth_when_it_is_told_to() {
    let args = ["bench", "--wait", "-p", "5", "-n", "3", "-d", "40", "-b", "3", "-r", "2", "-c", "64", "-m"];
    let mut c = air(&args);
    c.arg(tiny("llama-gqa.gguf"));
    let o = c.write_stdin("\n\n\n").output().unwrap();
    assert!(o.status.success(), "{}", err(&o));
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4, "ready, two runs, the report: {text}");
    assert_eq!(lines[0]["ready"], 2);
    for run in &lines[1..3] {
        assert!(run["prefill_tps"].as_f64().unwrap() > 0.0 && run["decode_tps"].as_f64().unwrap() > 0.0, "{text}");
    }
    assert_eq!((&lines[3]["depth"], &lines[3]["batch"], &lines[3]["runs"]), (&40.into(), &3.into(), &2.into()));
    let o = air(&args).arg(tiny("llama-gqa.gguf")).output().unwrap();
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("the input ended before the first run"), "{}", err(&o));
    let o = air(&["bench", "-d", "61", "-c", "64", "-m"]).arg(tiny("llama-gqa.gguf")).output().unwrap();
    assert!(err(&o).contains("leaves 3 tokens behind 61"), "{}", err(&o));
}

#[test]
fn bench_shows_the_limits_of_the_machine() {
    let o = air(&["bench", "--limits", "--json", "-p", "4", "-n", "2", "-r", "1", "-m"])
        .arg(tiny("llama-gqa.gguf"))
        .output()
        .unwrap();
    assert!(o.status.success(), "{}", err(&o));
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    let number = |field: &str| json.pointer(field).and_then(serde_json::Value::as_f64);
    let (int8, f32) = (number("/limits/arithmetic/int8_tops"), number("/limits/arithmetic/f32_tflops"));
    match (int8, f32) {
        (Some(int8), Some(f32)) => {
            assert!(int8 > 0.0 && f32 > 0.0, "{json}");
            // Float32 weights: their products are limited by the float32 peak.
            let predicted = number("/roofline/prefill/predicted_tps").unwrap();
            let ops = number("/prefill_ops_per_token").unwrap();
            assert!((predicted * ops / (f32 * 1e12) - 1.0).abs() < 1e-6, "{json}");
            assert_eq!(json["numbers"], "f32");
            let predicted = number("/roofline/predicted_tps").unwrap();
            let (per_token, rate) = match json["roofline"]["bound"].as_str() {
                // So little stays in the cache, where memory sets no limit.
                Some("cores") => ("/decode_ops_per_token", f32 * 1e12),
                // The size of the cache is not known.
                Some("mem") => ("/bytes_per_token/mem", number("/roofline/mem_gbps").unwrap() * 1e9),
                other => panic!("bound by {other:?}"),
            };
            assert!((predicted * number(per_token).unwrap() / rate - 1.0).abs() < 1e-6, "{json}");
        }
        _ => assert!(err(&o).contains("the arithmetic is not measured"), "{}", err(&o)),
    }
    if let Some(memory) =
        json.pointer("/limits/mem_gbps").and_then(serde_json::Value::as_object).filter(|m| !m.is_empty())
    {
        let best = memory.values().filter_map(serde_json::Value::as_f64).fold(0.0, f64::max);
        assert_eq!(number("/roofline/mem_gbps"), Some(best), "{json}");
    }
    assert!(json.pointer("/limits/drive").is_some_and(serde_json::Value::is_null), "the file is too small: {json}");
}

const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% endfor %}a";

/// A tiny model that can chat; EOS, token 2, is forbidden where a test needs an answer of a certain length.
fn chatty(template: &str) -> Temp {
    let template = Value::String(template.into());
    altered("llama-gqa.gguf", |meta| {
        meta.insert("tokenizer.chat_template", template.clone(), None);
    })
}

fn chat(model: &str, args: &[&str], input: &str) -> Output {
    let mut c = air(&["chat", "-t", "0", "-n", "6", "--logit-bias", "2=-inf", "-m", model]);
    c.args(args).write_stdin(input.to_string()).output().unwrap()
}

#[test]
fn a_conversation_remembers_what_was_said() {
    let model = chatty(TEMPLATE);
    let o = chat(&model, &["--stats"], "abc\n/context\nab c\n/clear\nabc\n");
    assert!(o.status.success(), "{}", err(&o));
    let kept: Vec<bool> = err(&o).lines().filter(|l| l.starts_with("  prompt")).map(|l| l.contains("before")).collect();
    assert_eq!(kept, [false, true, true], "what was read before is not read again: {}", err(&o));
    let lines: Vec<String> = out(&o).lines().map(str::to_string).collect();
    let [first, context, second, again] = &lines[..] else { panic!("{lines:?}") };
    assert!(context.ends_with("of 256 tokens, 2 messages"), "{context}");
    assert_eq!(first, again, "a cleared conversation begins anew");

    // The second turn is what the template makes of the whole conversation.
    let prompt = format!("u abc a {first} u ab c a");
    let mut c = air(&["generate", "-t", "0", "-n", "6", "--logit-bias", "2=-inf", "-m", &model, "-p"]);
    assert_eq!(&out(&c.arg(prompt).output().unwrap()), second);
}

#[test]
fn a_system_message_comes_first() {
    let model = chatty(TEMPLATE);
    let plain = |prompt: &str| {
        let c = ["generate", "-t", "0", "-n", "6", "--logit-bias", "2=-inf", "-m", &model, "-p", prompt];
        out(&run(&c)) + "\n"
    };
    let want = plain("s be brief u abc a");
    assert_eq!(out(&chat(&model, &["--system", "be brief"], "abc\n")), want);
    assert_eq!(out(&chat(&model, &[], "/system be brief\nabc\n")), want);
    let c = ["generate", "--chat", "--system", "be brief", "-t", "0", "-n", "6", "--logit-bias", "2=-inf", "-p", "abc"];
    assert_eq!(out(&air(&c).args(["-m", &model]).output().unwrap()) + "\n", want);
    assert_eq!(out(&chat(&model, &["--system", "be brief"], "/system\nabc\n")), plain("u abc a"));
}

#[test]
fn a_template_on_which_the_engine_panics_is_one_error() {
    let o = run(&["generate", "--chat", "-p", "abc", "-m", &chatty("{{ ''[::-1] }}")]);
    assert_eq!((o.status.code(), out(&o).as_str()), (Some(1), ""));
    let text = err(&o);
    let errors: Vec<&str> = text.lines().filter(|line| !line.starts_with("device: ")).collect();
    assert_eq!(errors, ["error: the template engine failed on the chat template"]);
}

#[test]
fn commands_of_a_chat() {
    let model = chatty(TEMPLATE);
    let o = chat(&model, &[], "/help\n/temp\n/temp 0.5\n/temp\n/stats\n/model\n\n//\n/exit\nabc\n");
    assert!(o.status.success(), "{}", err(&o));
    let text = out(&o);
    for want in ["/help ", "/exit ", "\n0\n0.5\n", "nothing was answered yet", "llama-gqa ("] {
        assert!(text.contains(want), "{want}: {text}");
    }
    assert_eq!(chat(&model, &[], "abc\n/stats\n").stdout.split(|&b| b == b'\n').count(), 9);
    for (line, message) in [("/nope", "there is no command /nope"), ("/temp hot", "must be a number, 0 or more")] {
        let o = chat(&model, &[], &format!("{line}\n"));
        assert_eq!(o.status.code(), Some(1));
        assert!(err(&o).contains(message), "{}", err(&o));
    }
}

#[test]
fn a_chat_that_cannot_go_on_says_why() {
    let o = chat(&tiny("llama-gqa.gguf"), &[], "abc\n");
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("which has no chat template, is not supported"), "{}", err(&o));
    let refusing = chatty("{{ raise_exception('only kings may speak') }}");
    let o = chat(&refusing, &[], "abc\n");
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("only kings may speak"), "{}", err(&o));
    let o = chat(&chatty(TEMPLATE), &["-c", "14"], "abc\n");
    assert!(o.status.success() && err(&o).contains("the context is full: /clear"), "{}", err(&o));
    let o = chat(&chatty(TEMPLATE), &["-c", "16"], "abc\nabc\nabc\n");
    assert_eq!(o.status.code(), Some(1));
    assert!(err(&o).contains("the context holds 16"), "{}", err(&o));
}

#[test]
fn ctrl_c_ends_the_answer_and_a_closed_pipe_the_program() {
    // An answer that would take minutes.
    let model = altered("llama-gqa.gguf", |meta| {
        meta.insert("llama.context_length", Value::U32(100_000), None);
    });
    let start = || {
        let args = ["generate", "--stream", "-t", "0", "-n", "100000", "--logit-bias", "2=-inf", "-p", "abc", "-m"];
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_air"))
            .args(args)
            .arg(&*model)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 4]).unwrap();
        (child, stdout)
    };
    let (child, mut stdout) = start();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.code(), Some(130), "{o:?}");
    assert!(err(&o).ends_with("cancelled\n"), "{}", err(&o));

    let (child, stdout) = start();
    drop(stdout);
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.signal(), Some(13), "SIGPIPE, not {:?}", o.status);
    assert_eq!(err(&o).lines().count(), 1, "only the device: {}", err(&o));
}

#[test]
fn a_synthetic_model_that_does_not_exist_is_refused() {
    for (value, code, message) in [
        ("llama-3.2-1b", 2, "must be a shape, `:` and a type"),
        ("nothing-7b:Q4_K_M", 1, "nothing-7b"),
        ("llama-3.2-1b:Q9", 1, "`Q9` is not a type"),
    ] {
        let o = run(&["bench", "--synthetic", value]);
        assert_eq!(o.status.code(), Some(code), "{value}");
        assert!(err(&o).contains(message), "{value}: {}", err(&o));
    }
    let o = run(&["bench", "--synthetic", "llama-3.2-1b:Q8_0", "-m", "x.gguf"]);
    assert_eq!(o.status.code(), Some(2));
}

#[test]
fn a_synthetic_model_is_measured_and_removed() {
    let folder = Temp::new("synthetic");
    std::fs::create_dir(&*folder).unwrap();
    let args = ["bench", "--json", "--synthetic", "tiny-llama:Q8_0", "-p", "4", "-n", "2", "-r", "1", "-c", "16"];
    let o = air(&args).env("TMPDIR", &*folder).output().unwrap();
    assert!(o.status.success(), "{}", err(&o));
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(json["model"], "synthetic tiny-llama:Q8_0");
    std::fs::remove_dir(&*folder).expect("the folder is empty again");
}

/// While it waits for input the first Ctrl-C has no effect yet; the second ends it, and takes the model along.
#[test]
fn a_second_ctrl_c_leaves_no_synthetic_model() {
    let folder = Temp::new("second");
    std::fs::create_dir(&*folder).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_air"))
        .args(["bench", "--wait", "--synthetic", "tiny-llama:Q8_0", "-p", "4", "-n", "2", "-c", "16"])
        .env("TMPDIR", &*folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
    assert_eq!(std::fs::read_dir(&*folder).unwrap().count(), 1);
    let code = loop {
        let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        // Signals that come together count as one.
        std::thread::sleep(std::time::Duration::from_millis(10));
        match child.try_wait().unwrap() {
            Some(status) => break status.code(),
            None => assert!(kill.success()),
        }
    };
    assert_eq!(code, Some(130));
    std::fs::remove_dir(&*folder).expect("the folder is empty again");
}

#[test]
fn without_a_model_the_demo_speaks() {
    let o = run(&["generate", "-p", "ROMEO:", "-n", "24", "-t", "0", "--json"]);
    assert!(o.status.success(), "{}", err(&o));
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!((json["model"].as_str(), json["generated_tokens"].as_u64()), (Some("embedded demo model"), Some(24)));
    let text = json["text"].as_str().unwrap();
    let letters = text.chars().filter(|c| c.is_ascii_alphabetic() || c.is_whitespace()).count();
    assert!(letters * 10 > text.chars().count() * 8, "mostly words: {text}");
    let o = air(&["chat", "-t", "0", "-n", "24"]).write_stdin("What news, my lord?\n").output().unwrap();
    assert!(o.status.success() && out(&o).len() > 2, "{}", err(&o));
}
