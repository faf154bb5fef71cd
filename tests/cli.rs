//! The program as a user meets it: exit codes, messages, pipes, signals.

#[path = "common/program.rs"]
mod program;

use assert_cmd::Command;
use program::{Temp, air, err, out, run};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

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
    let file = Temp::file("layers.toml", "[model]\npath = 'from-file'");
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
    let file = Temp::file("unknown.toml", "[model]\npaht = 'x'");
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

#[test]
fn missing_and_broken_models_are_exit_code_1() {
    let broken = Temp::file("broken.gguf", "GGUFnonsense");
    let text = Temp::file("text.gguf", "To be, or not to be: that is the question.");
    for (model, message) in [("/nonexistent.gguf", "/nonexistent.gguf: "), (&broken, &broken), (&text, &text)] {
        for command in [&["debug", "logits", "--tokens", "1", "-o", "/dev/null"][..], &["info"]] {
            let o = air(command).args(["-m", model]).output().unwrap();
            assert_eq!(o.status.code(), Some(1), "{command:?} {model}");
            assert!(err(&o).starts_with("error: ") && err(&o).contains(message), "{}", err(&o));
        }
    }
}
