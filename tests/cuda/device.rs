//! A device that is not there: memory of the host, and kernels run by the emulator.

use air_rs::error::{Error, Result};
use air_rs::hal::cuda::{Address, Driver, Event, Graph, Grid, Launches, Properties};
use air_rs::hal::{self, LOANS, Loan};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

type Call = unsafe extern "C" fn(*const c_void);
type Emulate = unsafe extern "C" fn(Call, *const u32, u32, u32, u32, *const c_void) -> *const c_char;

/// A loaded library of kernels.
#[derive(Debug, Clone, Copy)]
pub struct Library(usize);

static LIBRARY: OnceLock<Library> = OnceLock::new();

/// Loads the library that all devices use.
pub fn open(path: &Path) {
    LIBRARY.set(Library::open(path)).expect("opened once");
}

impl Library {
    pub fn open(path: &Path) -> Library {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the name ends with a zero, and the library's initialisers do nothing.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{}: {}", path.display(), problem());
        Library(handle as usize)
    }

    fn symbol(self, name: &str) -> Result<*mut c_void> {
        let c = CString::new(name).unwrap();
        // SAFETY: the handle is that of a library that is never closed, and the name ends with a zero.
        let at = unsafe { libc::dlsym(self.0 as *mut c_void, c.as_ptr()) };
        if at.is_null() { Err(Error::Engine(format!("no kernel {name}"))) } else { Ok(at) }
    }

    /// A kernel: what calls it, the size of its parameters, and its most threads.
    pub fn kernel(self, name: &str) -> Result<(Call, [u32; 2])> {
        let call = self.symbol(&format!("air_call_{name}"))?;
        let facts = self.symbol(&format!("air_facts_{name}"))?;
        // SAFETY: `KERNEL` of kernels/host/cuda_host.h defines both with these types.
        Ok(unsafe { (std::mem::transmute::<*mut c_void, Call>(call), *facts.cast::<[u32; 2]>()) })
    }

    /// Runs a kernel.
    pub fn run(self, name: &str, grid: Grid, order: u32, args: &[u8]) -> Result<()> {
        let (call, [bytes, threads]) = self.kernel(name)?;
        assert_eq!(bytes as usize, args.len(), "{name}: bytes of parameters");
        assert!(grid.threads <= threads, "{name}: {} threads where {threads} were declared", grid.threads);
        assert!(grid.blocks.iter().all(|&n| n > 0), "{name}: a grid of {:?}", grid.blocks);
        let emulate = self.symbol("air_emulate")?;
        // Parameters on the device are as aligned as their largest field.
        let aligned: Vec<u64> =
            args.chunks(8).map(|c| c.iter().rev().fold(0, |word, b| word << 8 | u64::from(*b))).collect();
        // SAFETY: the emulator's function has this type; the kernel reads `bytes` bytes of parameters.
        let problem = unsafe {
            let emulate = std::mem::transmute::<*mut c_void, Emulate>(emulate);
            let message =
                emulate(call, grid.blocks.as_ptr(), grid.threads, grid.shared, order, aligned.as_ptr().cast());
            (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
        };
        problem.map_or(Ok(()), |p| Err(Error::Engine(format!("kernel {name}: {p}"))))
    }
}

fn problem() -> String {
    // SAFETY: after a failure there is a message that ends with a zero.
    unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy().into_owned()
}

/// A kernel of the library that all devices use.
pub fn kernel(name: &str) -> Result<(Call, [u32; 2])> {
    LIBRARY.get().expect("main opens it").kernel(name)
}

/// Whether a GPU takes the emulated device's place.
pub fn is_gpu() -> bool {
    std::env::var_os("AIR_CUDA_TESTS_ON_GPU").is_some()
}

/// The first GPU.
pub fn gpu() -> hal::cuda::Device {
    // One stays open, so that the others need no context of their own.
    static HELD: OnceLock<Mutex<hal::cuda::Device>> = OnceLock::new();
    let open = || hal::cuda::Device::open(0).unwrap();
    HELD.get_or_init(|| Mutex::new(open()));
    open()
}

/// The emulated device. What is asked of it is done late: work and the panels that come meanwhile wait in two queues, and
/// of what may be done next the queue that goes first has its way. So whatever events should have held together goes
/// wrong in one of two ways.
#[derive(Debug)]
pub struct Device {
    /// Bytes of each allocation.
    memory: HashMap<u64, u64>,
    /// Whether threads run the other way round, and work goes before panels.
    reversed: bool,
    /// The launch that fails, counted from one.
    pub fails_at: Option<u32>,
    launches: u32,
    graphs: Vec<Launches>,
    /// Launches by themselves, and graphs.
    pub done: Arc<[AtomicUsize; 2]>,
    work: VecDeque<Work>,
    panels: VecDeque<Coming>,
    /// When each event was last recorded, counted over all events; 0 is never.
    events: Vec<u64>,
    records: u64,
    happened: HashSet<u64>,
    failed: Option<Error>,
    stamps: Vec<Instant>,
}

/// What waits for its turn.
#[derive(Debug)]
enum Work {
    Launch { kernel: &'static str, grid: Grid, order: u32, args: Vec<u8> },
    Upload { to: Address, bytes: Vec<u8> },
    Copy { from: Address, to: Address, bytes: u64 },
    Record(u64),
    Await(u64),
    Stamp,
}

/// A panel that is brought.
#[derive(Debug)]
struct Coming {
    to: Address,
    panel: Box<dyn Loan>,
    free: u64,
    arrived: u64,
}

impl Device {
    /// A device that runs threads the other way round and work first, or not.
    pub fn new(reversed: bool) -> Device {
        Device {
            memory: HashMap::new(),
            reversed,
            fails_at: None,
            launches: 0,
            graphs: vec![],
            done: Arc::default(),
            work: VecDeque::new(),
            panels: VecDeque::new(),
            events: vec![],
            records: 0,
            happened: HashSet::from([0]),
            failed: None,
            stamps: vec![],
        }
    }

    /// Refuses what does not lie in one allocation.
    fn check(&self, at: Address, bytes: u64) {
        let holds = |(&from, &len): (&u64, &u64)| from <= at.0 && at.0 + bytes <= from + len;
        assert!(self.memory.iter().any(holds), "{bytes} bytes at {:#x} are in no allocation", at.0);
    }

    /// The next piece of work, unless it waits for a panel.
    fn work_on(&mut self) -> bool {
        match self.work.front() {
            None => return false,
            Some(Work::Await(record)) if !self.happened.contains(record) => return false,
            Some(_) => {}
        }
        match self.work.pop_front().expect("there is one") {
            Work::Launch { kernel, grid, order, args } => {
                let done = LIBRARY.get().expect("main opens it").run(kernel, grid, order, &args);
                self.failed = self.failed.take().or(done.err());
            }
            // SAFETY: the target lay in an allocation when it was asked for, and work is done before memory is freed.
            Work::Upload { to, bytes } => unsafe {
                (to.0 as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            },
            // SAFETY: as above; both lie apart.
            Work::Copy { from, to, bytes } => unsafe {
                (to.0 as *mut u8).copy_from_nonoverlapping(from.0 as *const u8, bytes as usize);
            },
            Work::Record(record) => _ = self.happened.insert(record),
            Work::Await(_) => {}
            Work::Stamp => self.stamps.push(Instant::now()),
        }
        true
    }

    /// The next panel, unless its place is in use.
    fn bring_one(&mut self) -> bool {
        if !self.panels.front().is_some_and(|p| self.happened.contains(&p.free)) {
            return false;
        }
        let Coming { to, panel, arrived, .. } = self.panels.pop_front().expect("there is one");
        let bytes = panel.bytes();
        // SAFETY: as above.
        unsafe { (to.0 as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.happened.insert(arrived);
        true
    }

    /// All that the queue that goes first can do by itself.
    fn go_on(&mut self) {
        while if self.reversed { self.work_on() } else { self.bring_one() } {}
    }

    /// Puts a launch behind the others.
    fn ask(&mut self, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()> {
        self.launches += 1;
        if self.fails_at == Some(self.launches) {
            return Err(Error::Engine("the device is lost".into()));
        }
        let order = self.launches & 3 ^ if self.reversed { 3 } else { 0 };
        self.work.push_back(Work::Launch { kernel, grid, order, args: args.to_vec() });
        self.go_on();
        Ok(())
    }

    /// Everything.
    fn finish(&mut self) -> Result<()> {
        loop {
            self.go_on();
            if !(self.work_on() || self.bring_one()) {
                assert!(self.work.is_empty() && self.panels.is_empty(), "each waits for the other: {self:?}");
                return self.failed.take().map_or(Ok(()), Err);
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.memory.is_empty(), "{} allocations were not given back", self.memory.len());
        }
    }
}

impl Driver for Device {
    fn properties(&self) -> Result<Properties> {
        Ok(Properties {
            name: "emulated".into(),
            capability: 80,
            multiprocessors: 1,
            shared: 99 << 10,
            memory: 1 << 40,
            free: 1 << 40,
        })
    }

    fn alloc(&mut self, bytes: u64) -> Result<Address> {
        if bytes > 1 << 40 {
            return Err(Error::Limit(format!("the device has no {bytes} bytes")));
        }
        let mut at = std::ptr::null_mut();
        // SAFETY: the pointer has a place, and the memory is filled before it is used.
        unsafe {
            assert_eq!(libc::posix_memalign(&raw mut at, 256, bytes as usize), 0, "the host has no {bytes} bytes");
            at.cast::<u8>().write_bytes(0, bytes as usize);
        }
        self.memory.insert(at as u64, bytes);
        Ok(Address(at as u64))
    }

    fn free(&mut self, at: Address) -> Result<()> {
        let done = self.finish();
        assert!(self.memory.remove(&at.0).is_some(), "{:#x} was not allocated", at.0);
        // SAFETY: it came from `alloc` and is given back once; all work has ended.
        unsafe { libc::free(at.0 as *mut c_void) };
        done
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.check(to, bytes.len() as u64);
        self.work.push_back(Work::Upload { to, bytes: bytes.to_vec() });
        self.go_on();
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.check(from, bytes.len() as u64);
        self.finish()?;
        // SAFETY: the source lies in an allocation, which is no memory of Rust.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from.0 as *const u8, bytes.len()) };
        Ok(())
    }

    fn copy(&mut self, from: Address, to: Address, bytes: u64) -> Result<()> {
        self.check(from, bytes);
        self.check(to, bytes);
        assert!(from.0 + bytes <= to.0 || to.0 + bytes <= from.0, "a copy onto itself");
        self.work.push_back(Work::Copy { from, to, bytes });
        self.go_on();
        Ok(())
    }

    fn launch(&mut self, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()> {
        self.done[0].fetch_add(1, Relaxed);
        self.ask(kernel, grid, args)
    }

    fn graph(&mut self, launches: &Launches) -> Result<Graph> {
        self.graphs.push(launches.clone());
        Ok(Graph(self.graphs.len() as u32 - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        self.done[1].fetch_add(1, Relaxed);
        let launches = self.graphs[graph.0 as usize].clone();
        launches.iter().try_for_each(|(kernel, grid, args)| self.ask(kernel, grid, args))
    }

    fn forget(&mut self, graph: Graph) -> Result<()> {
        self.graphs[graph.0 as usize] = Launches::default();
        Ok(())
    }

    fn event(&mut self) -> Result<Event> {
        self.events.push(0);
        Ok(Event(self.events.len() as u32 - 1))
    }

    fn mark(&mut self, event: Event) -> Result<()> {
        self.records += 1;
        self.events[event.0 as usize] = self.records;
        self.work.push_back(Work::Record(self.records));
        self.go_on();
        Ok(())
    }

    fn bring(&mut self, to: Address, panel: Box<dyn Loan>, free: Event, arrived: Event) -> Result<()> {
        self.check(to, panel.bytes().len() as u64);
        while self.panels.len() >= LOANS {
            assert!(self.bring_one() || self.work_on(), "each waits for the other: {self:?}");
        }
        self.records += 1;
        let free = self.events[free.0 as usize];
        self.events[arrived.0 as usize] = self.records;
        self.panels.push_back(Coming { to, panel, free, arrived: self.records });
        self.go_on();
        Ok(())
    }

    fn follow(&mut self, event: Event) -> Result<()> {
        self.work.push_back(Work::Await(self.events[event.0 as usize]));
        self.go_on();
        Ok(())
    }

    fn stamp(&mut self) -> Result<()> {
        self.work.push_back(Work::Stamp);
        self.go_on();
        Ok(())
    }

    fn intervals(&mut self) -> Result<Vec<f64>> {
        self.finish()?;
        let stamps = std::mem::take(&mut self.stamps);
        Ok(stamps.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect())
    }

    fn wait(&mut self) -> Result<()> {
        self.finish()
    }
}
