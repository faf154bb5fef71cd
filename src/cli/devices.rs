//! `air devices`: what can compute here, how it is doing, and what `--device` calls it.

use super::{human, output};
use crate::engine::{available_memory, cores};
use crate::error::Result;
use crate::hal::cpu::Isa;
use crate::hal::{Gpu, Gpus, Library, gpus, libraries};
use serde_json::{Value, json};

/// List what can compute here: the CPU and the GPUs, their memory, and whether air runs on them
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The processor.
struct Processor {
    isa: Isa,
    threads: usize,
    /// Bytes that are free for this process.
    free: u64,
}

/// Prints the table.
pub fn run(args: Args) -> Result<()> {
    let isa = Isa::choose(None, std::env::var("AIR_CPU").ok().as_deref())?;
    let cpu = Processor { isa, threads: cores(), free: available_memory() };
    let gpus = gpus();
    let libraries = libraries(gpus.is_ok());
    match args.json {
        true => output::json(&json(&cpu, &gpus, &libraries)),
        false => output::report(&text(&cpu, &gpus, &libraries)),
    }
}

fn text(cpu: &Processor, gpus: &Result<Gpus, String>, libraries: &[Library]) -> String {
    let title = ["DEVICE", "", "MEMORY FREE", "OF", "STATE", "RUNS"].map(String::from).to_vec();
    let name = format!("{}, {} threads", cpu.isa.title(), cpu.threads);
    let mut rows = vec![title, vec!["cpu".into(), name, human::bytes(cpu.free), "".into(), "".into(), "yes".into()]];
    rows.extend(gpus.iter().flat_map(|g| &g.cards).map(row));
    let table = human::table(&rows, &[2, 3]);
    let driver = match gpus {
        Ok(gpus) => format!("NVIDIA driver {}", gpus.driver),
        Err(why) => format!("No GPU: {why}"),
    };
    let lines: Vec<String> = std::iter::once(driver).chain(libraries.iter().map(line)).collect();
    format!("{table}\n{}\n", lines.join("\n"))
}

fn line(library: &Library) -> String {
    match &library.found {
        Ok(found) => {
            let state = found.state.iter().map(|s| format!(": {s}")).collect::<String>();
            format!("{} {}{state}", library.name, found.version)
        }
        Err(why) => format!("No {}: {why}", library.name),
    }
}

fn row(gpu: &Gpu) -> Vec<String> {
    let state = [
        gpu.temperature.map(|t| format!("{t} °C")),
        gpu.clock.map(|mhz| format!("{mhz} MHz")),
        gpu.memory_clock.map(|mhz| format!("memory {mhz} MHz")),
    ];
    vec![
        format!("cuda:{}", gpu.index),
        format!("{}, {}.{}", gpu.name, gpu.capability / 10, gpu.capability % 10),
        gpu.free.map_or("?".into(), human::bytes),
        human::bytes(gpu.memory),
        state.into_iter().flatten().collect::<Vec<_>>().join(", "),
        gpu.refused().map_or("yes".into(), |why| format!("no: {why}")),
    ]
}

fn json(cpu: &Processor, gpus: &Result<Gpus, String>, libraries: &[Library]) -> Value {
    let gpu = |g: &Gpu| {
        json!({
            "device": format!("cuda:{}", g.index),
            "name": g.name,
            "compute_capability": format!("{}.{}", g.capability / 10, g.capability % 10),
            "memory_bytes": g.memory,
            "free_bytes": g.free,
            "used_bytes": g.used,
            "temperature_celsius": g.temperature,
            "clock_mhz": g.clock,
            "memory_clock_mhz": g.memory_clock,
            "runs": g.refused().is_none(),
            "why_not": g.refused(),
        })
    };
    let library = |l: &Library| {
        let found = l.found.as_ref().ok();
        json!({
            "name": l.name,
            "version": found.map(|f| &f.version),
            "state": found.and_then(|f| f.state.as_ref()),
            "why_not": l.found.as_ref().err(),
        })
    };
    json!({
        "cpu": {
            "device": "cpu", "instructions": cpu.isa.name(), "threads": cpu.threads, "free_bytes": cpu.free,
            "runs": true,
        },
        "gpus": gpus.iter().flat_map(|g| &g.cards).map(gpu).collect::<Vec<_>>(),
        "driver": gpus.as_ref().ok().map(|g| &g.driver),
        "no_gpu": gpus.as_ref().err(),
        "libraries": libraries.iter().map(library).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hal::Found;

    fn machine(cards: Vec<Gpu>) -> (Processor, Result<Gpus, String>) {
        let cpu = Processor { isa: Isa::Scalar, threads: 2, free: 8_000_000_000 };
        (cpu, Ok(Gpus { driver: "580.82.07, CUDA 13.0".into(), cards }))
    }

    #[test]
    fn every_device_is_a_row_that_says_whether_it_runs() {
        let h200 = Gpu {
            index: 0,
            name: "NVIDIA H200".into(),
            capability: 90,
            memory: 150_000_000_000,
            free: Some(149_000_000_000),
            used: Some(500_000_000),
            temperature: Some(31),
            clock: Some(1980),
            memory_clock: Some(3201),
        };
        let old =
            Gpu { index: 1, name: "Tesla T4".into(), capability: 75, free: None, temperature: None, ..h200.clone() };
        let (cpu, gpus) = machine(vec![h200, old]);
        let found =
            |version: &str, state: Option<&str>| Ok(Found { version: version.into(), state: state.map(String::from) });
        let libraries = [
            Library { name: "cuFile", found: found("1.15", Some("direct")) },
            Library { name: "NCCL", found: found("2.27.7", None) },
            Library { name: "cuOther", found: Err("there is no such file".into()) },
        ];
        let report = text(&cpu, &gpus, &libraries);
        let lines: Vec<&str> = report.lines().map(str::trim).collect();
        assert!(lines[1].starts_with("cpu") && lines[1].ends_with("yes"), "{report}");
        assert!(lines[1].contains("scalar, 2 threads"), "{report}");
        assert!(lines[2].contains("NVIDIA H200, 9.0") && lines[2].contains("31 °C, 1980 MHz, mem"), "{report}");
        assert!(lines[3].starts_with("cuda:1") && lines[3].ends_with("no: compute capability 7.5; air needs 8.0"));
        assert!(lines[3].contains(" ? "), "{report}");
        let last = ["NVIDIA driver 580.82.07, CUDA 13.0", "cuFile 1.15: direct", "NCCL 2.27.7"];
        assert_eq!(lines[5..], [&last[..], &["No cuOther: there is no such file"]].concat());
        let json = json(&cpu, &gpus, &libraries);
        let library = |i: usize, field: &str| &json["libraries"][i][field];
        assert_eq!((library(0, "version"), library(0, "state")), (&"1.15".into(), &"direct".into()));
        assert!(library(0, "why_not").is_null() && library(1, "state").is_null() && library(2, "version").is_null());
        assert_eq!(library(2, "why_not"), "there is no such file");
        let runs = |i: usize| json["gpus"][i]["runs"].as_bool().unwrap();
        assert!(runs(0) && !runs(1) && json["no_gpu"].is_null(), "{json:#}");
        assert_eq!(
            (&json["gpus"][0]["compute_capability"], &json["gpus"][1]["device"]),
            (&"9.0".into(), &"cuda:1".into())
        );
    }

    #[test]
    fn without_a_gpu_the_reason_follows() {
        let (cpu, _) = machine(vec![]);
        let why = Err("no NVIDIA driver is here".to_string());
        assert!(text(&cpu, &why, &[]).ends_with("\nNo GPU: no NVIDIA driver is here\n"));
        let json = json(&cpu, &why, &[]);
        assert_eq!(
            (json["gpus"].as_array().map(Vec::len), &json["no_gpu"]),
            (Some(0), &"no NVIDIA driver is here".into())
        );
    }
}
