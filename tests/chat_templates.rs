//! Chat templates against transformers: `scripts/goldens/chat.py` renders conversations with its environment.
//!
//! The small templates of `tests/goldens/chat/tiny.json` are always compared. Those of real models are under
//! `$AIR_ORACLES/chat` (default `~/.cache/air-oracles`); where that is missing the test says so in one line.

#[path = "common/oracles.rs"]
mod oracles;

use air_rs::text::{ChatTemplate, Message, RenderOptions};
use oracles::oracles;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

/// The clock of the script: 2026-03-07 14:05:09.
const NOW: u64 = 1_772_892_309;

/// Templates that differ from transformers: in how many of their cases, and why.
const DIFFER: [(&str, usize, &str); 4] = [
    ("Reka-Edge", 4, "`messages[::-1]` of no messages, which the template engine fails on"),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", 22, "a loop over no tools is empty, in Python an error"),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", 22, "a loop over no tools is empty, in Python an error"),
    ("CohereForAI-c4ai-command-r-plus-tool_use", 20, "a loop over no tools is empty, in Python an error"),
];

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).into()
}

/// The cases in which air and transformers disagree.
fn differences(golden: &Value) -> Vec<String> {
    let template =
        match ChatTemplate::new(&string(&golden["template"]), &string(&golden["bos"]), &string(&golden["eos"])) {
            Ok(template) => template,
            Err(e) => return vec![e.to_string()],
        };
    let cases = golden["cases"].as_array().expect("cases");
    cases.iter().filter_map(|case| difference(&template, case)).collect()
}

fn difference(template: &ChatTemplate, case: &Value) -> Option<String> {
    let messages = case["messages"].as_array().expect("messages");
    let messages: Vec<_> = messages.iter().map(|m| Message::new(string(&m["role"]), string(&m["content"]))).collect();
    let variables = case["variables"].as_object().expect("variables");
    let options = RenderOptions {
        add_generation_prompt: case["add_generation_prompt"] == true,
        variables: variables.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        now: UNIX_EPOCH + Duration::from_secs(NOW),
    };
    let got = template.render(&messages, &options);
    match (&got, case["output"].as_str()) {
        (Ok(text), Some(want)) if text == want => None,
        (Err(_), None) => None,
        (_, want) => Some(format!("{messages:?}\n   air: {got:?}\n  want: {want:?}")),
    }
}

#[test]
fn small_templates_render_as_in_transformers() {
    let golden: Value = serde_json::from_str(include_str!("goldens/chat/tiny.json")).expect("JSON");
    for template in golden.as_array().expect("templates") {
        let differences = differences(template);
        assert!(differences.is_empty(), "{}: {}", template["name"], differences.join("\n"));
    }
}

#[test]
fn templates_of_models_render_as_in_transformers() {
    let Ok(files) = std::fs::read_dir(oracles().join("chat")) else {
        eprintln!("skipped: no rendered chat templates (scripts/goldens/chat.py)");
        return;
    };
    let (mut equal, mut wrong) = (0, Vec::new());
    for file in files {
        let golden = std::fs::read_to_string(file.expect("a listed file").path()).expect("a readable golden");
        let golden: Value = serde_json::from_str(&golden).expect("JSON");
        let name = string(&golden["name"]);
        let known = DIFFER.iter().find(|(n, ..)| *n == name);
        let differences = differences(&golden);
        match (differences.len(), known) {
            (0, None) => equal += 1,
            (n, Some((_, cases, why))) if n == *cases => println!("{name} differs in {n} cases: {why}"),
            (n, _) => wrong.push(format!("{name} differs in {n} cases, first {:?}", differences.first())),
        }
    }
    println!("{equal} templates render alike, {} differ as known", DIFFER.len());
    assert!(wrong.is_empty(), "{} templates:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(equal >= 60, "only {equal} templates were compared");
}
