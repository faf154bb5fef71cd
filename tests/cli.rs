//! The program as a user meets it: exit codes, messages, pipes, signals.

#[path = "common/models.rs"]
mod models;
#[path = "common/program.rs"]
mod program;

use air_rs::meta::Value;
use assert_cmd::Command;
use models::altered;
use program::{air, err, out, run, temp_file};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Output, Stdio};

/// Names of the commands, from the program's own help.
fn commands() -> Vec<String> {
    let help = out(&run(&["--help"]));
    let list = help.split("Commands:").nth(1).expect("help lists commands").split("Options:").next().unwrap();
    let names = list.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    names.map(|l| l.split_whitespace().next().unwrap().to_string()).collect()
}

#[test]
fn help_has_the_defaults_that_hold_for_the_command() {
    for (command, want) in [("generate", "512"), ("batch", "512"), ("serve", "the rest of the context")] {
        let help = out(&run(&[command, "--help"])).split_whitespace().collect::<Vec<_>>().join(" ");
        let want = format!("Most tokens of the answer [default: {want}] [env: AIR_MAX_TOKENS]");
        assert!(help.contains(&want), "{command}: {help}");
    }
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
    for args in [
        &[][..],
        &["no-such-command"],
        &["config", "--no-such-flag"],
        &["completions", "no-such-shell"],
        &["info", "a", "-m", "b"],
    ] {
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
    let file = temp_file("layers.toml", "[model]\npath = 'from-file'");
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

    let text = out(&air(&["config"]).env("AIR_CONFIG", &*file).output().unwrap());
    assert!(text.lines().any(|l| l.starts_with("model.path") && l.ends_with(&format!("file ({file})"))), "{text}");
    let text = out(&run(&["config"]));
    let line = text.lines().find(|l| l.starts_with("model.path")).expect("the row is shown");
    assert!(line.contains("(the embedded demo model)") && line.ends_with("default"), "{text}");
}

#[test]
fn a_bad_settings_file_is_exit_code_1() {
    let file = temp_file("unknown.toml", "[model]\npaht = 'x'");
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

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let text = temp_file("full.txt", "What news, my lord?");
    for args in [
        &["config"][..],
        &["config", "--json"],
        &["info"],
        &["tokenize", "a b"],
        &["tokenize", "--decode", "5"],
        &["completions", "bash"],
        &["synth", "--list"],
        &["generate", "-p", "a", "-n", "2"],
        &["generate", "-p", "a", "-n", "2", "--stream"],
        &["perplexity", "-f", &text],
    ] {
        let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_air"));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let o = c.args(args).env_clear().stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(o.status.code(), Some(1), "{args:?}: {}", err(&o));
        assert!(err(&o).contains("error: stdout: cannot write: "), "{args:?}: {}", err(&o));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn notes_that_nobody_can_read_do_not_end_the_work() {
    let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_air"));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let o = c.args(["generate", "-p", "a", "-n", "2", "--stats"]).env_clear().stderr(full).output().unwrap();
    assert_eq!(o.status.code(), Some(0));
    assert!(!out(&o).is_empty());
}

#[test]
fn names_in_a_file_cannot_command_the_terminal() {
    let evil = "evil\x1b[2J\u{9b}";
    let name = altered("llama-gqa.gguf", |meta| {
        meta.insert("general.name", Value::String(evil.into()), None);
        meta.insert("tokenizer.chat_template", Value::String("{{ messages[0].content }}".into()), None);
    });
    let kind = altered("llama-gqa.gguf", |meta| {
        meta.insert("general.architecture", Value::String(evil.into()), None);
    });
    let chat = air(&["chat", "-n", "1", "-m", &name]).write_stdin("/model\n").output().unwrap();
    assert!(out(&chat).contains("evil"), "{}", err(&chat));
    for o in [chat, run(&["info", &name]), run(&["info", &kind]), run(&["generate", "-p", "a", "-m", &kind])] {
        let text = out(&o) + &err(&o);
        assert!(text.contains("evil"), "{text}");
        assert!(text.chars().all(|c| !c.is_control() || c == '\n'), "{text:?}");
    }
}

#[test]
fn missing_and_broken_models_are_exit_code_1() {
    let broken = temp_file("broken.gguf", "GGUFnonsense");
    let text = temp_file("text.gguf", "To be, or not to be: that is the question.");
    for (model, message) in [("/nonexistent.gguf", "/nonexistent.gguf: "), (&broken, &broken), (&text, &text)] {
        for command in [&["debug", "logits", "--tokens", "1", "-o", "/dev/null"][..], &["info"]] {
            let o = air(command).args(["-m", model]).output().unwrap();
            assert_eq!(o.status.code(), Some(1), "{command:?} {model}");
            assert!(err(&o).starts_with("error: ") && err(&o).contains(message), "{}", err(&o));
        }
    }
}

/// Runs with a cache folder of its own.
fn probe(folder: &Path, args: &[&str], fault: Option<&str>) -> Output {
    let mut command = air(&["probe"]);
    command.arg(folder.join("file")).args(args).env("XDG_CACHE_HOME", folder.join("cache"));
    fault.map(|fault| command.env("AIR_IO_FAULT", fault));
    command.output().unwrap()
}

fn sparse(folder: &Path, len: u64) {
    std::fs::File::create(folder.join("file")).unwrap().set_len(len).unwrap();
}

#[test]
fn a_drive_is_measured_once_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    sparse(folder.path(), 65 << 20);
    let o = probe(folder.path(), &["--io", "pread"], None);
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    let report = out(&o);
    assert!(report.contains("pread, ") && report.contains("<- best") && report.contains("The drive gives"), "{report}");
    let json = |args: &[&str]| -> serde_json::Value {
        let o = probe(folder.path(), &[&["--json", "--io", "pread"], args].concat(), None);
        serde_json::from_str(&out(&o)).unwrap_or_else(|e| panic!("{e}: {}", err(&o)))
    };
    let again = json(&[]);
    assert!(again["age_seconds"].is_u64() && again["best"]["gbps"].as_f64().unwrap() > 0.0, "{again}");
    assert!(json(&["--fresh"])["age_seconds"].is_null());
}

#[test]
fn what_cannot_be_measured_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |args: &[&str], fault: Option<&str>, code: i32, named: &[&str]| {
        let o = probe(folder.path(), args, fault);
        assert_eq!((o.status.code(), out(&o)), (Some(code), String::new()), "{}", err(&o));
        for part in named {
            assert!(err(&o).contains(part), "{part}: {}", err(&o));
        }
    };
    fails(&[], None, 1, &["cannot open", "file"]);
    sparse(folder.path(), 1 << 20);
    fails(&[], None, 1, &["1.05 MB", "67.1 MB are needed"]);
    sparse(folder.path(), 65 << 20);
    fails(&["--io", "floppy"], None, 2, &["floppy", "auto, uring, pread, mmap"]);
    fails(&[], Some("fire@1"), 1, &["AIR_IO_FAULT", "`fire@1`"]);
    fails(&["--io", "pread"], Some("eio@9"), 1, &["cannot read", "os error 5"]);
    fails(&["--io", "uring"], Some("no-uring"), 1, &["io_uring", "not supported"]);
    assert!(!folder.path().join("cache").exists(), "nothing wrong is remembered");
}

#[test]
fn a_reader_that_was_not_hoped_for_is_named() {
    let folder = tempfile::tempdir().unwrap();
    sparse(folder.path(), 65 << 20);
    let o = probe(folder.path(), &[], Some("no-uring,no-direct"));
    assert_eq!(o.status.code(), Some(0), "{}", err(&o));
    assert!(err(&o).contains("direct reads are refused") && err(&o).contains("io_uring is refused"), "{}", err(&o));
    assert!(out(&o).contains("pread, buffered"), "{}", out(&o));
}
