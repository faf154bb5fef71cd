//! The one law: how long a pass takes by the bytes that it carries and the operations that it needs.
//!
//! All links and units work at the same time, so a pass takes as long as the slowest of them: `T = max(D / drive,
//! S / memory, L / link, ops / cores)`. Only a device and a processor beside it take turns: their `S / memory` add up.
//! Rates are measured on the machine and bytes are counted; no factor is fitted to a run.

use super::Traffic;

/// What the machine gives, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Bytes per second of the drive.
    pub drive: Option<f64>,
    /// Bytes per second of memory.
    pub memory: Option<f64>,
    /// Bytes per second of a device's own memory.
    pub device: Option<f64>,
    /// Bytes per second of the link to a device.
    pub link: Option<f64>,
    /// Operations per second of the cores, of the kind that most weights need.
    pub cores: Option<f64>,
}

/// What binds a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The drive.
    Drive,
    /// Memory.
    Memory,
    /// A device's own memory.
    Device,
    /// The link to a device.
    Link,
    /// The cores.
    Cores,
}

impl Bound {
    /// As it stands in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Drive => "disk",
            Bound::Memory => "mem",
            Bound::Device => "vram",
            Bound::Link => "pcie",
            Bound::Cores => "cores",
        }
    }
}

impl Bound {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Bound::Drive => "drive",
            Bound::Memory => "memory",
            Bound::Device => "GPU's memory",
            Bound::Link => "link to the device",
            Bound::Cores => "cores",
        }
    }
}

/// How long a pass takes, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Seconds.
    pub seconds: f64,
    /// What binds it.
    pub bound: Bound,
}

impl Rates {
    /// The time of a pass that carries `traffic` and needs `ops` operations; none when no rate is known that matters.
    pub fn pass(&self, traffic: Traffic, ops: f64) -> Option<Prediction> {
        let time = |amount: f64, rate: Option<f64>, bound| {
            rate.filter(|_| amount > 0.0).map(|rate| Prediction { seconds: amount / rate, bound })
        };
        let memory = time(traffic.memory as f64, self.memory, Bound::Memory);
        let device = time(traffic.device as f64, self.device, Bound::Device);
        let turns = match (memory, device) {
            (Some(m), Some(d)) => {
                let bound = if m.seconds > d.seconds { m.bound } else { d.bound };
                Some(Prediction { seconds: m.seconds + d.seconds, bound })
            }
            (one, other) => one.or(other),
        };
        let all = [
            time(traffic.drive as f64, self.drive, Bound::Drive),
            turns,
            time(traffic.link as f64, self.link, Bound::Link),
            time(ops, self.cores, Bound::Cores),
        ];
        all.into_iter().flatten().max_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }
}
