//! The machine's limits, as far as they can be measured now: memory, arithmetic, drive.
//!
//! A limit that cannot be measured is absent, and stderr says why. All are rates of this moment: what else runs on the
//! machine lowers them as it lowers the figures.

use super::work::Numbers;
use crate::cli::{human, output};
use crate::config::Device;
use crate::engine::{available_memory, cores};
use crate::error::{Error, Result};
use crate::format::Catalogue;
use crate::hal::probe::{self, Arithmetic};
use crate::hal::{GpuLimits, gpu_limits};
use crate::io::{self, Drive};
use serde_json::{Value, json};

/// What the machine gives.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Threads, and bytes per second that they read from memory together.
    pub memory: Vec<(usize, f64)>,
    /// Operations per second of all threads, under the instruction set in use.
    pub arithmetic: Option<Arithmetic>,
    /// The drive of the model's file.
    pub drive: Option<Drive>,
    /// Bytes of the processor's largest cache.
    pub cache: Option<u64>,
    /// The GPU that ran the model.
    pub gpu: Option<GpuLimits>,
}

/// What no kernel of air shows alone.
const UNMEASURED: &str = "peaks of int8 and float16 in the tensor cores";

/// Bytes of memory that measuring its bandwidth takes.
pub const MEMORY_ROOM: u64 = probe::WORKING_SET as u64 / 4 * 5;

impl Limits {
    /// The memory alone, with the threads that run the model, in so many bytes of it.
    pub fn quick(threads: usize, room: u64) -> Limits {
        Limits { memory: memory(&[threads], room), cache: cache(), ..Limits::default() }
    }

    /// Memory and arithmetic, with the threads that run the model and those that compute batches.
    pub fn machine(threads: usize, batch: usize) -> Limits {
        Limits {
            arithmetic: told("arithmetic", probe::arithmetic(batch)),
            ..Limits::quick(threads, available_memory())
        }
    }

    /// Operations per second that the cores reach at best on such numbers.
    pub fn peak(&self, numbers: Numbers) -> Option<f64> {
        let a = self.arithmetic.as_ref()?;
        Some(match numbers {
            Numbers::Int8 => a.int8,
            Numbers::Bf16 => a.bf16.unwrap_or(a.f32).max(a.f32),
            Numbers::F32 => a.f32,
        })
    }

    /// All: the memory with every number of threads that doubles up to all cores, and with those that run the model;
    /// the arithmetic of the `batch` threads that compute batches.
    pub fn thorough(threads: usize, batch: usize, catalogue: &Catalogue) -> Limits {
        let mut counts: Vec<usize> =
            std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < cores()).collect();
        counts.extend([cores(), threads]);
        counts.sort_unstable();
        counts.dedup();
        let arithmetic = probe::arithmetic(batch);
        Limits {
            memory: memory(&counts, available_memory()),
            arithmetic: told("arithmetic", arithmetic),
            drive: drive(catalogue),
            cache: cache(),
            gpu: None,
        }
    }

    /// The GPU that the options took, which nothing else of this program is on, and the drive of a model's file.
    pub fn gpu(device: Device, drive_of: Option<&Catalogue>) -> Limits {
        let wanted = if let Device::Cuda(n) = device { n } else { None };
        let gpu = gpu_limits(wanted).inspect_err(|why| output::note(format_args!("the GPU is not measured: {why}")));
        Limits { gpu: gpu.ok(), drive: drive_of.and_then(drive), ..Limits::default() }
    }

    /// Bytes per second of the number of threads that reads fastest.
    pub fn best_memory(&self) -> Option<f64> {
        self.memory.iter().map(|m| m.1).reduce(f64::max)
    }

    /// Whether so few bytes stay in the cache from one token to the next, so that memory sets no limit.
    pub fn cached(&self, bytes: u64) -> bool {
        self.cache.is_some_and(|c| bytes < c)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let memory: serde_json::Map<String, Value> =
            self.memory.iter().map(|(threads, rate)| (threads.to_string(), json!(rate / 1e9))).collect();
        json!({
            "mem_gbps": memory,
            "arithmetic": self.arithmetic.as_ref().map(|a| json!({
                "set": a.set, "int8_tops": a.int8 / 1e12, "bf16_tflops": a.bf16.map(|r| r / 1e12),
                "f32_tflops": a.f32 / 1e12,
            })),
            "gpu": self.gpu.map(|g| json!({
                "copy_gbps": g.copy / 1e9, "h2d_gbps": g.up / 1e9, "d2h_gbps": g.down / 1e9,
                "empty_kernel_us": g.launch * 1e6, "not_measured": UNMEASURED,
            })),
            "drive": self.drive.as_ref().map(|d| json!({
                "gbps": d.rate / 1e9, "block_bytes": d.block, "depth": d.depth,
            })),
        })
    }

    /// For people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let rate = |r: f64| format!("{}/s", human::bytes(r as u64));
        let threads = |n: usize| format!("{n} thread{}", if n == 1 { "" } else { "s" });
        let mut rows = vec![];
        if !self.memory.is_empty() {
            let each: Vec<_> = self.memory.iter().map(|&(n, r)| format!("{} with {}", rate(r), threads(n))).collect();
            rows.push(("memory gives", each.join(", ")));
        }
        rows.extend(self.arithmetic.as_ref().map(|a| {
            let (int8, f32) = (a.int8 / 1e12, a.f32 / 1e12);
            let bf16 = a.bf16.map(|r| format!("{:.2} Tflop/s of bfloat16, ", r / 1e12)).unwrap_or_default();
            ("cores give", format!("{int8:.2} Top/s of int8, {bf16}{f32:.2} Tflop/s of float32 ({})", a.set))
        }));
        if let Some(g) = self.gpu {
            rows.push(("GPU gives", format!("{} in copies, read and written", rate(g.copy))));
            rows.push(("link gives", format!("{} to the GPU, {} from it, pinned", rate(g.up), rate(g.down))));
            rows.push(("empty kernel", format!("{:.2} µs", g.launch * 1e6)));
            rows.push(("not measured", UNMEASURED.into()));
        }
        rows.extend(self.drive.as_ref().map(|d| {
            let block = human::bytes(d.block as u64);
            ("drive gives", format!("{} (reads of {block}, {} at once)", rate(d.rate), d.depth))
        }));
        rows
    }
}

/// The drive of the model's largest file, thoroughly.
fn drive(catalogue: &Catalogue) -> Option<Drive> {
    let largest = catalogue.sources.iter().max_by_key(|s| s.len());
    let probed = largest.map_or(Ok(None), |s| io::probe(s, &io::Options::default(), true));
    told("drive", probed).flatten().map(|probed| {
        probed.note.iter().for_each(output::note);
        probed.best
    })
}

/// Bytes of the largest cache, where the system tells.
fn cache() -> Option<u64> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let size = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join("size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<u64>().ok().map(|k| k << 10)
    };
    caches.flatten().filter_map(size).max()
}

/// Bytes per second of each number of threads, unless too little memory is left to find out.
fn memory(threads: &[usize], left: u64) -> Vec<(usize, f64)> {
    let (need, left) = (human::bytes(MEMORY_ROOM), Some(left).filter(|&left| left < MEMORY_ROOM).map(human::bytes));
    let measured = match left {
        None => probe::read_bandwidth(threads),
        Some(left) => Err(Error::Limit(format!("that takes {need}, and {left} are left"))),
    };
    let rates = told("memory's bandwidth", measured).unwrap_or_default();
    threads.iter().copied().zip(rates).collect()
}

fn told<T>(what: &str, measured: Result<T>) -> Option<T> {
    measured.inspect_err(|e| output::note(format_args!("the {what} is not measured: {e}"))).ok()
}
