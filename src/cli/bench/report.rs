//! Figures beside limits, for people and for programs.

use super::kernels::Table;
use super::limits::Limits;
use super::runs::{Lengths, Run};
use super::work::Work;
use crate::cli::human;
use crate::engine::{ModelInfo, Residence};
use crate::plan::{Rates, Traffic};
use crate::stream::Counters;
use serde_json::{Value, json};

/// Everything that was measured and counted.
pub struct Report<'a> {
    pub info: &'a ModelInfo,
    pub name: String,
    pub lengths: Lengths,
    pub runs: Vec<Run>,
    pub peak_rss: Option<u64>,
    pub limits: Limits,
    pub work: Work,
    /// What the GPU launched, where it was asked for.
    pub kernels: Option<Table>,
}

/// Launches that a layer of a decode step needs at least.
const NODES: f64 = 8.0;

/// What a limit allows, and the share of it that was reached, in percent.
struct Share {
    predicted: f64,
    percent: f64,
}

impl Share {
    fn of(measured: f64, predicted: f64) -> Share {
        Share { predicted, percent: measured / predicted * 100.0 }
    }
}

impl Report<'_> {
    fn median(&self, f: impl Fn(&Run) -> f64) -> f64 {
        quantile(&self.runs.iter().map(f).collect::<Vec<_>>(), 0.5)
    }

    fn prefill_tps(&self) -> f64 {
        self.median(Run::prefill_tps)
    }

    fn decode_tps(&self) -> f64 {
        self.median(Run::decode_tps)
    }

    /// Tokens of the answers per second, the mean over runs.
    pub fn mean_tps(&self) -> f64 {
        self.runs.iter().map(Run::decode_tps).sum::<f64>() / self.runs.len().max(1) as f64
    }

    fn ttft_ms(&self, q: f64) -> f64 {
        quantile(&self.runs.iter().map(|r| r.prefill.as_secs_f64() * 1e3).collect::<Vec<_>>(), q)
    }

    /// Bytes per second that decoding reads.
    fn decode_bandwidth(&self) -> Option<f64> {
        Some(self.work.decode_bytes? as f64 * self.decode_tps())
    }

    /// Bytes from the drive for one token, and bytes of a second of decoding; none where all weights are kept.
    fn disk(&self) -> Option<(f64, f64)> {
        let bytes = self.median(Run::disk_bytes);
        self.info.residence.plan.brings().then(|| (bytes, bytes * self.decode_tps()))
    }

    /// Experts read on a guess for a token, how many of them were used, and bytes read for nothing; none without a cache.
    fn foreseen(&self) -> Option<Value> {
        let of = |f: fn(&Counters) -> u64| self.median(|r| r.a_token(f(&r.streamed)));
        (!self.info.residence.plan.cache.experts.is_empty()).then(|| {
            json!({
                "read_a_token": of(|c| c.foreseen),
                "used_a_token": of(|c| c.foreseen_used),
                "wasted_bytes_a_token": of(|c| c.read_for_nothing),
            })
        })
    }

    /// Whether what decoding reads stays in the processor's cache.
    fn cached(&self) -> bool {
        self.work.decode_bytes.is_some_and(|b| self.limits.cached(b))
    }

    /// Bytes that a pass of so many tokens brings to a GPU which does not keep all weights.
    fn carried(&self, tokens: u32) -> Option<f64> {
        let Residence { plan, units, on_gpu, .. } = &self.info.residence;
        (*on_gpu && plan.brings()).then(|| plan.traffic(units, tokens).link as f64)
    }

    /// Bytes per second that come to a GPU while it reads the prompts.
    fn prefill_link(&self) -> Option<f64> {
        let tokens = self.lengths.prompt * self.lengths.batch;
        let pass = self.info.residence.pass_rows as u32;
        let passes = f64::from(tokens.div_ceil(pass));
        Some(self.carried(tokens.min(pass))? * passes / self.median(|r| r.prefill.as_secs_f64()))
    }

    /// Tokens per second of decoding on a GPU, and what binds it: the time of the bytes at the speed of a copy, of as many
    /// empty kernels as the layers need, and of what a processor beside it reads; or that of the link or the drive, whose
    /// bytes come meanwhile.
    fn gpu_limit(&self) -> Option<(f64, &'static str)> {
        let (gpu, bytes) = (self.limits.gpu?, self.work.decode_bytes?);
        let Residence { plan, units, .. } = &self.info.residence;
        let batch = f64::from(self.lengths.batch);
        let nodes = NODES * self.info.spec.layers.len() as f64;
        let brought = if plan.brings() { plan.traffic(units, self.lengths.batch) } else { Traffic::default() };
        let beside = brought.memory as f64;
        let processor = if beside > 0.0 { beside / self.limits.best_memory()? } else { 0.0 };
        let device = (batch * bytes as f64 - beside) / gpu.copy + nodes * gpu.launch;
        let rates = Rates { drive: self.drive_rate(), link: Some(gpu.up), ..Rates::default() };
        match rates.pass(Traffic { memory: 0, device: 0, ..brought }, 0.0) {
            Some(pass) if pass.seconds > device + processor => Some((batch / pass.seconds, pass.bound.name())),
            _ => Some((batch / (device + processor), if processor > device { "mem" } else { "vram" })),
        }
    }

    /// Percent of the speed of a copy at which decoding reads.
    fn percent_of_copy(&self) -> Option<f64> {
        Some(100.0 * self.decode_bandwidth()? / self.limits.gpu?.copy)
    }

    /// Tokens per second of decoding by the law of the slowest link, and which that is, as far as rates are known. The
    /// bytes are those of the plan, not those of the run; of experts the share that the run had in memory.
    fn decode_limit(&self) -> Option<(f64, &'static str)> {
        if self.info.residence.on_gpu {
            return self.gpu_limit();
        }
        let Residence { plan, units, .. } = &self.info.residence;
        let memory = self.work.decode_bytes.filter(|_| !self.cached());
        let batch = u64::from(self.lengths.batch);
        let hits = self.median(Run::hit_rate);
        let drive = if plan.brings() { plan.traffic_at(units, self.lengths.batch, hits).drive / batch } else { 0 };
        let traffic = Traffic { drive, memory: memory.unwrap_or(0), link: 0, device: 0 };
        let (memory, cores) = (self.limits.best_memory(), self.peak());
        let rates = Rates { drive: self.drive_rate(), memory, link: None, device: None, cores };
        rates.pass(traffic, self.work.decode_ops).map(|p| (1.0 / p.seconds, p.bound.name()))
    }

    /// Bytes per second of the drive: as measured now, or when the model was planned.
    fn drive_rate(&self) -> Option<f64> {
        self.limits.drive.as_ref().map(|d| d.rate).or_else(|| self.info.residence.drive_rate())
    }

    /// Decoding, by what binds it.
    fn decode_share(&self) -> Option<Share> {
        self.decode_limit().map(|(limit, _)| Share::of(self.decode_tps(), limit))
    }

    /// Operations per second that the cores reach at best on most weights.
    fn peak(&self) -> Option<f64> {
        self.limits.peak(self.work.numbers)
    }

    /// Reading a prompt, by the arithmetic.
    fn prefill_share(&self) -> Option<Share> {
        Some(Share::of(self.prefill_tps(), self.peak()? / self.work.prefill_ops))
    }

    /// Bytes per second of loading, and its share of the drive in percent: above 100 when the file was cached.
    fn load_share(&self) -> Option<Share> {
        let rate = self.info.weight_bytes as f64 / self.info.load_time.as_secs_f64();
        Some(Share::of(rate, self.limits.drive.as_ref()?.rate))
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let info = self.info;
        let plan = &info.residence.plan;
        let share = |s: Option<Share>| s.map(|s| json!({ "predicted_tps": s.predicted, "percent": s.percent }));
        json!({
            "model": self.name,
            "device": info.device,
            "n_prompt": self.lengths.prompt,
            "n_gen": self.lengths.answer,
            "depth": self.lengths.depth,
            "batch": self.lengths.batch,
            "runs": self.runs.len(),
            "prefill_tps": self.prefill_tps(),
            "decode_tps": self.decode_tps(),
            "ttft_ms": { "p50": self.ttft_ms(0.5), "p99": self.ttft_ms(0.99) },
            "load_ms": info.load_time.as_secs_f64() * 1e3,
            "weights_bytes": info.weight_bytes,
            "bytes_per_token": {
                "disk": self.disk().map(|d| d.0), "mem": self.work.decode_bytes, "state": self.work.state_bytes,
                "pcie": self.carried(self.lengths.batch).map(|bytes| bytes / f64::from(self.lengths.batch)),
            },
            "prefill_ops_per_token": self.work.prefill_ops,
            "decode_ops_per_token": self.work.decode_ops,
            "numbers": self.work.numbers.name(),
            "achieved_gbps": {
                "disk": self.disk().map(|d| d.1 / 1e9),
                "mem": self.decode_bandwidth().map(|b| b / 1e9),
                "pcie": self.carried(self.lengths.batch).map(|b| b * self.decode_tps() / f64::from(self.lengths.batch) / 1e9),
                "prefill_pcie": self.prefill_link().map(|b| b / 1e9),
            },
            "stalled_share": self.disk().map(|_| self.median(Run::stalled)),
            "memory": {
                "budget_bytes": plan.budget,
                "planned_bytes": plan.memory(),
                "kept_bytes": plan.kept,
                "streamed_bytes": plan.streamed(),
                "ring_bytes": plan.ring(),
                "expert_places": plan.cache.places,
                "experts": plan.cache.experts.len(),
                "expert_hit_rate": (!plan.cache.experts.is_empty()).then(|| self.median(Run::hit_rate)),
                "experts_foreseen": self.foreseen(),
            },
            "roofline": {
                "bound": self.decode_limit().map_or(if self.cached() { "cache" } else { "mem" }, |(_, bound)| bound),
                "mem_gbps": self.limits.best_memory().map(|b| b / 1e9),
                "disk_gbps": self.drive_rate().map(|b| b / 1e9),
                "predicted_tps": self.decode_share().map(|s| s.predicted),
                "percent": self.decode_share().map(|s| s.percent),
                "prefill": share(self.prefill_share()),
                "percent_of_copy": self.percent_of_copy(),
                "load_percent_of_drive": self.load_share().map(|s| s.percent),
            },
            "limits": self.limits.json(),
            "kernels": self.kernels.as_ref().map(|k| k.json(self.limits.gpu.as_ref())),
            "peak_rss_bytes": self.peak_rss,
            "io_backend": info.reader,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let info = self.info;
        let rate = |bytes_per_second: f64| format!("{}/s", human::bytes(bytes_per_second as u64));
        let mut rows = vec![
            ("model", self.name.clone()),
            ("device", info.device.clone()),
            ("measured", self.measured()),
            ("loaded", format!("{} in {:.0} ms", human::bytes(info.weight_bytes), info.load_time.as_secs_f64() * 1e3)),
            ("prefill", format!("{:.1} tok/s", self.prefill_tps())),
            ("decode", format!("{:.2} tok/s", self.decode_tps())),
            ("first token", format!("{:.1} ms (p99 {:.1} ms)", self.ttft_ms(0.5), self.ttft_ms(0.99))),
        ];
        rows.extend(self.work.decode_bytes.map(|b| ("read a token", human::bytes(b))));
        let from = match self.cached() {
            _ if info.residence.on_gpu => "GPU reads",
            true => "cache read",
            false => "memory read",
        };
        rows.extend(self.decode_bandwidth().map(|b| (from, rate(b))));
        rows.extend(self.disk().map(|(bytes, speed)| {
            let (bytes, stalled) = (human::bytes(bytes as u64), 100.0 * self.median(Run::stalled));
            ("streamed", format!("{bytes} a token, {}; waited for {stalled:.0}% of the time", rate(speed)))
        }));
        rows.extend(self.limits.rows());
        let known = info.residence.drive_rate().filter(|_| self.limits.drive.is_none());
        rows.extend(known.map(|r| ("drive gives", format!("{} ({})", rate(r), info.reader))));
        let share = |what, by: &str, s: Share| {
            (what, format!("{:.2} tok/s by the {by}; {:.1}% reached", s.predicted, s.percent))
        };
        let by = match self.decode_limit() {
            Some((_, "cores")) => "cores",
            Some((_, "disk")) => "drive",
            Some((_, "pcie")) => "link",
            Some((_, "vram")) => "GPU's memory and launches",
            _ => "memory",
        };
        rows.extend(self.decode_share().map(|s| share("decode limit", by, s)));
        rows.extend(self.percent_of_copy().map(|p| ("of the copy", format!("{p:.1}% of its speed, in decoding"))));
        if self.cached() && self.decode_share().is_none() {
            rows.push(("decode limit", "not known: the weights stay in the cache, so memory sets none".into()));
        }
        rows.extend(self.prefill_share().map(|s| share("prefill limit", "cores", s)));
        rows.extend(self.load_share().map(|s| {
            let cached = if s.percent > 100.0 { "; the file was cached" } else { "" };
            ("load limit", format!("{} by the drive; {:.1}% reached{cached}", rate(s.predicted), s.percent))
        }));
        rows.extend(self.peak_rss.map(|b| ("peak memory", human::bytes(b))));
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect();
        let kernels = self.kernels.as_ref().map(|k| k.text(self.limits.gpu.as_ref()));
        human::table(&rows, &[]) + &kernels.unwrap_or_default()
    }

    fn measured(&self) -> String {
        let Lengths { depth, prompt, answer, batch } = self.lengths;
        let mut text = format!("{prompt} of prompt, {answer} of answer");
        if depth > 0 {
            text += &format!(", behind {depth}");
        }
        if batch > 1 {
            text += &format!(", {batch} sequences together");
        }
        text + &format!(", median of {}", self.runs.len())
    }
}

/// Most memory that the process has had, in bytes.
pub fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The value at a fraction of the sorted list, by linear interpolation; 0 for an empty list.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.5), 1.5);
        assert_eq!(quantile(&[5.0], 0.99), 5.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
