//! `air plan` and budgets at the command line.

use assert_cmd::Command;
use serde_json::Value;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/demo.gguf");

fn air(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("air").unwrap();
    // Settings of whoever runs the tests do not count, and neither does what is known of their drives.
    let cache = std::env::temp_dir().join(format!("air-plan-test-{}", std::process::id()));
    command.args(args).env_clear().env("XDG_CACHE_HOME", cache);
    command
}

fn json(args: &[&str]) -> Value {
    let out = air(args).arg("--json").assert().success();
    serde_json::from_slice(&out.get_output().stdout).unwrap()
}

/// The smallest budget that works, as the refusal of a smaller one names it.
fn smallest() -> String {
    smallest_of("128")
}

fn smallest_of(context: &str) -> String {
    let out = air(&["generate", "-m", DEMO, "-p", "x", "-c", context, "--ram-budget", "1MB"]).assert().code(1);
    let text = String::from_utf8_lossy(&out.get_output().stderr).into_owned();
    let least = text.split("smallest that works is ").nth(1).expect(&text).split(' ').next().unwrap();
    format!("{}MiB", least.parse::<u64>().unwrap() + 1)
}

#[test]
fn a_plan_that_fits_streams_nothing() {
    let plan = json(&["plan", "-c", "128"]);
    assert_eq!(plan["streamed_bytes"], 0);
    assert_eq!(plan["bytes_per_pass"]["disk"], 0);
    assert_eq!(plan["tokens_per_pass"], 256, "nothing is spared by longer ones");
    assert!(plan["memory"]["kept_bytes"].as_u64() >= plan["weights_bytes"].as_u64());
    let text = air(&["plan", "-c", "128"]).assert().success();
    let text = String::from_utf8_lossy(&text.get_output().stdout).into_owned();
    assert!(text.contains("in memory") && text.contains("predicted"), "{text}");
}

/// Of what is streamed: all the positions of the context, or as many as are worth their memory.
#[test]
fn a_full_context_is_one_pass() {
    let plan = json(&["plan", "-m", DEMO, "-c", "512", "--ram-budget", &smallest_of("512")]);
    assert!(plan["streamed_bytes"].as_u64().unwrap() > 0, "{plan:#}");
    assert_eq!((&plan["tokens_per_pass"], &plan["passes_of_full_context"]), (&512.into(), &1.into()), "{plan:#}");
    assert!(plan["memory"]["planned_bytes"].as_u64() <= plan["memory"]["budget_bytes"].as_u64(), "{plan:#}");
}

#[test]
fn a_small_budget_is_kept_to_and_gives_the_same_text() {
    let budget = smallest();
    let small = ["-m", DEMO, "-c", "128", "--ram-budget", &budget];
    let plan = json(&[&["plan"][..], &small].concat());
    assert!(plan["streamed_bytes"].as_u64().unwrap() > 0, "{plan:#}");
    assert!(plan["memory"]["planned_bytes"].as_u64() <= plan["memory"]["budget_bytes"].as_u64(), "{plan:#}");
    let ask = ["generate", "-p", "ROMEO:", "-n", "20", "--seed", "7", "-c", "128"];
    let answer = |args: &[&str]| {
        let out = air(args).assert().success();
        let output = out.get_output();
        (output.stdout.clone(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (want, _) = answer(&ask);
    for reader in ["auto", "pread", "mmap"] {
        let (got, said) = answer(&[&ask[..], &small[..2], &small[4..], &["--io", reader]].concat());
        assert_eq!(got, want, "{reader}");
        assert!(said.contains("streamed in each pass"), "{said}");
    }
    let bench = json(&[&["bench", "-p", "4", "-n", "31", "-r", "1"][..], &small].concat());
    // The ring may have been read ahead by a pass, of thirty.
    let (read, planned) = (bench["bytes_per_token"]["disk"].as_f64(), bench["memory"]["streamed_bytes"].as_f64());
    assert!(read >= planned.map(|p| p * 0.9), "{bench:#}");
}

#[test]
fn sizes_that_make_no_sense_are_bad_usage() {
    for size in ["", "lots", "-1GB", "120%"] {
        let out = air(&["plan", &format!("--ram-budget={size}")]).assert().code(2);
        let text = String::from_utf8_lossy(&out.get_output().stderr).into_owned();
        assert!(text.contains("must be a size such as 512MB"), "{text}");
    }
}
