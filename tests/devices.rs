//! `air devices` and `--device`, on any machine: no GPU is shown to the program here.

use assert_cmd::Command;
use serde_json::Value;

fn air(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("air").unwrap();
    // Settings of whoever runs the tests do not count, and their GPUs are hidden from the driver.
    command.args(args).env_clear().env("CUDA_VISIBLE_DEVICES", "-1");
    command
}

/// What a command that ends with `code` says on stderr.
fn said(args: &[&str], code: i32) -> String {
    let out = air(args).assert().code(code);
    String::from_utf8_lossy(&out.get_output().stderr).into_owned()
}

const GENERATE: [&str; 6] = ["generate", "-p", "ROMEO:", "-n", "2", "--device"];

/// Why there is no GPU: this program cannot have one, or this machine shows none.
fn is_reason(text: &str) -> bool {
    match cfg!(feature = "cuda") {
        true => text.contains("the NVIDIA driver") || text.contains("no NVIDIA driver is here"),
        false => text.contains("built without CUDA (with it: scripts/setup_cuda.sh && cargo build"),
    }
}

#[test]
fn the_processor_is_listed_and_why_there_is_no_gpu() {
    let out = air(&["devices", "--json"]).env("AIR_CPU", "scalar").assert().success();
    let json: Value = serde_json::from_slice(&out.get_output().stdout).unwrap();
    assert_eq!((&json["cpu"]["instructions"], &json["cpu"]["runs"]), (&"scalar".into(), &true.into()));
    assert!(json["cpu"]["threads"].as_u64() > Some(0) && json["cpu"]["free_bytes"].as_u64() > Some(0));
    assert!(json["gpus"].as_array().unwrap().is_empty());
    assert!(is_reason(json["no_gpu"].as_str().unwrap()), "{json:#}");
    let out = air(&["devices"]).assert().success();
    let text = String::from_utf8_lossy(&out.get_output().stdout).into_owned();
    assert!(text.contains("No GPU: ") && is_reason(&text), "{text}");
}

#[test]
fn a_gpu_that_is_asked_for_and_not_there_is_an_error_that_says_what_works() {
    for device in ["cuda", "cuda:3"] {
        let error = said(&[&GENERATE[..], &[device]].concat(), 1);
        assert!(error.contains(&format!("error: --device {device} is not supported: ")), "{error}");
        assert!(is_reason(&error) && error.contains("; use --device cpu"), "{error}");
    }
    let error = said(&[&GENERATE[..], &["cuda", "--exact"]].concat(), 1);
    assert!(error.contains("the interpreter (--exact) runs on the CPU: use --device cpu"), "{error}");
}

#[test]
fn a_device_that_is_no_device_is_bad_usage_wherever_it_stands() {
    let wrong = "must be auto, cpu, cuda, or cuda:N";
    let error = said(&[&GENERATE[..], &["gpu"]].concat(), 2);
    assert!(error.contains("'gpu'") && error.contains(wrong), "{error}");
    let out = air(&GENERATE[..5]).env("AIR_DEVICE", "cuda:").assert().code(1);
    let error = String::from_utf8_lossy(&out.get_output().stderr).into_owned();
    assert!(error.contains("AIR_DEVICE: `cuda:`") && error.contains(wrong), "{error}");
}

/// Its answers are noise: nobody gets them unasked, and no speed is printed of it.
#[test]
fn the_device_that_computes_nothing_only_serves() {
    for command in [&GENERATE[..], &["bench", "--device"], &["plan", "--device"]] {
        let error = said(&[command, &["fake"]].concat(), 1);
        assert!(error.contains("the fake device computes nothing: only air serve takes it"), "{error}");
    }
}

/// A program that could use a GPU says why it does not; one that could not says nothing.
#[test]
fn the_choice_falls_on_the_processor() {
    for device in ["auto", "cpu"] {
        let notes = said(&[&GENERATE[..], &[device]].concat(), 0);
        assert!(notes.contains("device: cpu: "), "{notes}");
        let reason = notes.lines().find(|l| l.starts_with("not on a GPU: "));
        assert_eq!(reason.is_some(), device == "auto" && cfg!(feature = "cuda"), "{notes}");
        assert!(reason.is_none_or(is_reason), "{notes}");
    }
}
