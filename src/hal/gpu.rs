//! GPUs: which there are, which one a name means, and why one cannot be used.
//!
//! `gpus` asks the driver where the feature `cuda` is built in; else there is nobody to ask, and it says how to build a
//! program that can. Why something cannot be is words here: whoever must have a GPU makes an error of them, whoever
//! can do without says them and goes on.

use super::Backend;

/// The oldest GPUs that air's kernels run on: compute capability 8.0, Ampere.
pub const OLDEST: u32 = 80;

/// A GPU as its driver describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// N of `--device cuda:N`: the driver's order, of those that `CUDA_VISIBLE_DEVICES` leaves.
    pub index: u32,
    /// `NVIDIA H200`
    pub name: String,
    /// Compute capability: 90 for 9.0.
    pub capability: u32,
    /// Bytes of its memory.
    pub memory: u64,
    /// How many of them are free, as far as NVIDIA's management library can be asked.
    pub free: Option<u64>,
    /// How many programs hold.
    pub used: Option<u64>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Present clock of the multiprocessors, MHz.
    pub clock: Option<u32>,
    /// Present clock of the memory, MHz.
    pub memory_clock: Option<u32>,
}

impl Gpu {
    /// Why air cannot run on it, if it cannot.
    pub fn refused(&self) -> Option<String> {
        let (major, minor) = (self.capability / 10, self.capability % 10);
        let old = || format!("compute capability {major}.{minor}; air needs {}.{}", OLDEST / 10, OLDEST % 10);
        (self.capability < OLDEST).then(old)
    }
}

/// What the driver found.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpus {
    /// Version of the driver, as it names itself, and of the CUDA that it knows: `580.82.07, CUDA 13.0`.
    pub driver: String,
    /// By index.
    pub cards: Vec<Gpu>,
}

impl Gpus {
    /// The GPU with this index, or the usable one with most free memory.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn choose(&self, wanted: Option<u32>) -> Result<&Gpu, String> {
        let usable = self.cards.iter().filter(|c| c.refused().is_none());
        if let Some(index) = wanted {
            let Some(card) = self.cards.iter().find(|c| c.index == index) else {
                let others: Vec<String> = usable.map(|c| format!("cuda:{}", c.index)).collect();
                return Err(format!("there is no GPU {index}; {} could be used", others.join(", ")));
            };
            return card.refused().map_or(Ok(card), |why| Err(format!("{}: {why}", card.name)));
        }
        usable.max_by_key(|c| (c.free.unwrap_or(c.memory), std::cmp::Reverse(c.index))).ok_or_else(|| {
            let why = |c: &Gpu| format!("{}: {}", c.name, c.refused().unwrap_or_default());
            self.cards.iter().map(why).collect::<Vec<_>>().join("; ")
        })
    }
}

/// What a GPU was measured to give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuLimits {
    /// Bytes per second of copies within its memory: those that are read and those that are written.
    pub copy: f64,
    /// Bytes per second from pinned memory of the host.
    pub up: f64,
    /// Bytes per second to it.
    pub down: f64,
    /// Seconds of a kernel that does nothing, in a graph of them.
    pub launch: f64,
}

/// A library of NVIDIA's beside the driver, which air loads while it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Library {
    /// `cuFile`
    pub name: &'static str,
    /// What it is, or in words why it is of no use.
    pub found: Result<Found, String>,
}

/// A library that was loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// `1.15`
    pub version: String,
    /// How it works here, where it can be asked.
    pub state: Option<String>,
}

/// A GPU that was taken.
pub struct Opened {
    /// What runs on it.
    pub backend: Box<dyn Backend>,
    /// Bytes of its memory that are free.
    pub free: u64,
    /// Bytes that programs held before, where that is known.
    pub others: Option<u64>,
}

/// The GPUs of this machine.
///
/// # Errors
/// Why there is none, in words: there is no driver, or too old a one, or no GPU.
#[cfg(feature = "cuda")]
pub fn gpus() -> Result<Gpus, String> {
    super::cuda::gpus()
}

/// Takes the GPU with this index, or the usable one with most free memory. Where it is to be `secure`, its memory is
/// overwritten with zeros before it is given back.
///
/// # Errors
/// Why not, in words.
#[cfg(feature = "cuda")]
pub fn open_gpu(wanted: Option<u32>, secure: bool) -> Result<Opened, String> {
    let gpus = gpus()?;
    let &Gpu { index, used: others, .. } = gpus.choose(wanted)?;
    let (backend, free) = super::cuda::open(index, secure).map_err(|e| e.to_string())?;
    Ok(Opened { backend, free, others })
}

/// The libraries beside the driver; `gpu` says whether there is a GPU that they can look at.
#[cfg(feature = "cuda")]
pub fn libraries(gpu: bool) -> Vec<Library> {
    super::cuda::libraries(gpu)
}

/// None: this program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn libraries(_: bool) -> Vec<Library> {
    vec![]
}

/// What the GPU with this index gives, or the one that `open_gpu` takes.
///
/// # Errors
/// Why it cannot be measured, in words.
#[cfg(feature = "cuda")]
pub fn gpu_limits(wanted: Option<u32>) -> Result<GpuLimits, String> {
    super::cuda::limits(gpus()?.choose(wanted)?.index).map_err(|e| e.to_string())
}

/// There is none to measure.
///
/// # Errors
/// Always: this program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn gpu_limits(_: Option<u32>) -> Result<GpuLimits, String> {
    Err(ABSENT.into())
}

/// There is none to list.
///
/// # Errors
/// Always: this program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn gpus() -> Result<Gpus, String> {
    Err(ABSENT.into())
}

/// There is none to open.
///
/// # Errors
/// Always: this program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn open_gpu(_: Option<u32>, _: bool) -> Result<Opened, String> {
    Err(ABSENT.into())
}

#[cfg(not(feature = "cuda"))]
const ABSENT: &str =
    "this program was built without CUDA (with it: scripts/setup_cuda.sh && cargo build --release --features cuda)";

#[cfg(test)]
mod tests {
    use super::*;

    fn card(index: u32, capability: u32, free: Option<u64>) -> Gpu {
        let (temperature, clock, memory_clock) = (None, None, None);
        let name = format!("card {index}");
        Gpu { index, name, capability, memory: 50, free, used: None, temperature, clock, memory_clock }
    }

    fn chosen(cards: &[Gpu], wanted: Option<u32>) -> Result<u32, String> {
        let gpus = Gpus { driver: String::new(), cards: cards.to_vec() };
        gpus.choose(wanted).map(|c| c.index)
    }

    #[test]
    fn the_usable_one_with_most_free_memory_is_taken() {
        let cards = [card(0, 75, Some(99)), card(1, 80, Some(10)), card(2, 90, Some(20)), card(3, 120, Some(20))];
        assert_eq!(chosen(&cards, None), Ok(2));
        assert_eq!(chosen(&cards, Some(1)), Ok(1));
        assert_eq!(chosen(&[card(0, 80, Some(40)), card(1, 80, None)], None), Ok(1), "unknown: all of it");
    }

    #[test]
    fn what_cannot_be_taken_says_why_and_what_can() {
        let cards = [card(0, 75, None), card(1, 86, None)];
        let old = "card 0: compute capability 7.5; air needs 8.0";
        assert_eq!(chosen(&cards, Some(0)).unwrap_err(), old);
        assert_eq!(chosen(&cards[..1], None).unwrap_err(), old);
        assert_eq!(chosen(&cards, Some(7)).unwrap_err(), "there is no GPU 7; cuda:1 could be used");
    }
}
