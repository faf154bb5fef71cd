//! `air bench --kernels`: what the GPU launched for a prompt and for an answer, and how near each kernel is to the
//! memory's speed.
//!
//! Times are the device's own, with an event before and behind each launch; the events, and starting, are in them. Bytes
//! are the weights that products read, as their arguments say, and the keys and values that attention reads.

use super::runs::Kernels;
use super::work::Work;
use crate::cli::human;
use crate::hal::{GpuLimits, Launched};
use serde_json::{Value, json};

/// The launches of one kernel.
#[derive(Debug, PartialEq)]
struct Total {
    kernel: &'static str,
    calls: usize,
    seconds: f64,
    bytes: Option<u64>,
}

impl Total {
    /// Bytes per second.
    fn rate(&self) -> Option<f64> {
        Some(self.bytes? as f64 / self.seconds)
    }
}

/// Those of each kernel together, the longest first.
fn totals(launched: &[Launched]) -> Vec<Total> {
    let mut all: Vec<Total> = vec![];
    for l in launched {
        let at = all.iter().position(|t| t.kernel == l.kernel).unwrap_or_else(|| {
            all.push(Total { kernel: l.kernel, calls: 0, seconds: 0.0, bytes: Some(0) });
            all.len() - 1
        });
        let total = &mut all[at];
        (total.calls, total.seconds) = (total.calls + 1, total.seconds + l.seconds);
        total.bytes = total.bytes.and_then(|bytes| Some(bytes + l.bytes?));
    }
    all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    all
}

/// A prompt's and an answer's.
pub struct Table {
    prompt: Vec<Total>,
    answer: Vec<Total>,
    /// Tokens after the first.
    steps: u32,
}

impl Table {
    /// The kernels of a run, whose answer reads so much state as was counted.
    pub fn new(kernels: &Kernels, work: &Work) -> Table {
        let mut answer = totals(&kernels.answer);
        let attends = |t: &&mut Total| t.kernel.starts_with("attend_") && t.kernel != "attend_join";
        // Where there are several, nobody knows which layer read how much by which.
        if let [one] = &mut answer.iter_mut().filter(attends).collect::<Vec<_>>()[..] {
            one.bytes = Some(work.state_bytes * u64::from(kernels.tokens));
        }
        Table { prompt: totals(&kernels.prompt), answer, steps: kernels.steps }
    }

    /// For programs.
    pub fn json(&self, gpu: Option<&GpuLimits>) -> Value {
        let row = |t: &Total| {
            json!({
                "kernel": t.kernel,
                "calls": t.calls,
                "us": t.seconds * 1e6,
                "bytes": t.bytes,
                "gbps": t.rate().map(|r| r / 1e9),
                "percent_of_copy": t.rate().zip(gpu).map(|(r, g)| 100.0 * r / g.copy),
            })
        };
        let rows = |totals: &[Total]| totals.iter().map(row).collect::<Vec<_>>();
        json!({ "prompt": rows(&self.prompt), "answer": rows(&self.answer), "steps": self.steps })
    }

    /// For people.
    pub fn text(&self, gpu: Option<&GpuLimits>) -> String {
        let part = |title: String, totals: &[Total]| {
            let all: f64 = totals.iter().map(|t| t.seconds).sum();
            let calls: usize = totals.iter().map(|t| t.calls).sum();
            let head =
                ["KERNEL", "CALLS", "TIME", "OF ALL", "BYTES", "SPEED", "OF THE COPY"].map(String::from).to_vec();
            let rows = totals.iter().map(|t| {
                vec![
                    t.kernel.to_string(),
                    t.calls.to_string(),
                    micros(t.seconds),
                    format!("{:.1}%", 100.0 * t.seconds / all),
                    t.bytes.map_or("-".into(), human::bytes),
                    t.rate().map_or("-".into(), |r| format!("{}/s", human::bytes(r as u64))),
                    t.rate().zip(gpu).map_or("-".into(), |(r, g)| format!("{:.1}%", 100.0 * r / g.copy)),
                ]
            });
            let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
            format!("\n{title}: {calls} launches, {}\n{}", micros(all), human::table(&rows, &[1, 2, 3, 4, 5, 6]))
        };
        part("Prompt".into(), &self.prompt) + &part(format!("Answer, {} steps", self.steps), &self.answer)
    }
}

fn micros(seconds: f64) -> String {
    format!("{:.1} µs", seconds * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_of_a_kernel_add_up_and_unknown_bytes_stay_unknown() {
        let of = |kernel, seconds, bytes| Launched { kernel, seconds, bytes };
        let all = [of("a", 1.0, Some(5)), of("b", 3.0, Some(7)), of("a", 1.0, Some(6)), of("b", 1.0, None)];
        let total = |kernel, seconds, bytes| Total { kernel, calls: 2, seconds, bytes };
        assert_eq!(totals(&all), [total("b", 4.0, None), total("a", 2.0, Some(11))]);
        assert_eq!(totals(&all)[1].rate(), Some(5.5));
    }
}
