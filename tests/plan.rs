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
fn a_plan_for_another_machine_needs_neither_the_model_nor_the_drive() {
    let rig = ["--ram-budget", "32GB", "-c", "4096"];
    let ask = |model: &str| json(&[&["plan", "--synthetic", model, "--drive-rate", "7 GB/s"][..], &rig].concat());
    let plan = ask("llama-3.1-70b:Q4_K_M");
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let disk = number(&plan["bytes_per_pass"]["disk"]);
    let kept = number(&plan["memory"]["kept_bytes"]);
    assert!((41.5e9..42.5e9).contains(&(disk + kept)), "all but the embedding is kept or streamed: {plan:#}");
    assert!(number(&plan["memory"]["planned_bytes"]) <= 32e9 && kept > 29e9, "{plan:#}");
    assert!((number(&plan["predicted"]["decode"]["tps"]) * disk / 7e9 - 1.0).abs() < 1e-9, "{plan:#}");
    assert_eq!(plan["predicted"]["decode"]["bound"], "disk");
    let experts = ask("moe-120b-a5b:MXFP4");
    assert!((60e9..68e9).contains(&number(&experts["weights_bytes"])), "{experts:#}");
    assert!(number(&experts["bytes_per_pass"]["disk"]) < 3e9, "a token uses a few experts: {experts:#}");
    let small = ["plan", "--synthetic", "llama-3.2-1b:Q8_0", "--drive-rate=7GB", "--memory-rate=50GB"];
    let fits = json(&[&small[..], &rig].concat());
    assert_eq!((&fits["predicted"]["decode"]["bound"], &fits["streamed_bytes"]), (&"mem".into(), &0.into()));
    for wrong in [
        &["--synthetic", "llama-3.2-1b:Q8_0"][..],
        &["--synthetic", "llama-3.2-1b", "--drive-rate=7GB"],
        &["--synthetic", "llama-3.2-1b:Q8_0", "--drive-rate=7GB/s/s"],
        &["--drive-rate=fast"],
        &["--drive-rate=0"],
        &["--memory-rate=80%"],
    ] {
        air(&[&["plan"][..], wrong].concat()).assert().code(2);
    }
    air(&["plan", "--synthetic", "none:Q8_0", "--drive-rate=7GB"]).assert().code(1);
}

#[test]
fn sizes_that_make_no_sense_are_bad_usage() {
    for size in ["", "lots", "-1GB", "120%"] {
        let out = air(&["plan", &format!("--ram-budget={size}")]).assert().code(2);
        let text = String::from_utf8_lossy(&out.get_output().stderr).into_owned();
        assert!(text.contains("must be a size such as 512MB"), "{text}");
    }
}
