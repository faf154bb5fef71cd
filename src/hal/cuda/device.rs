//! A GPU through NVIDIA's driver: the `Driver` that programs run on.
//!
//! One context (the GPU's primary one), one stream for work and one (`uploads`) for panels that come meanwhile. A file
//! of kernels is compiled by the driver when one of its kernels is first launched, which it remembers on the disk.
//! Bytes for the GPU go through a ring of pinned memory, which the GPU reads at the link's full speed while the caller
//! goes on; a half of it is written again when the copies out of it have ended. What comes back goes the same way. The
//! ring is ordinary cached memory, not write-combined: the CPU reads from it.
//!
//! Memory is a part of the `arena` while that has room. An error of the driver is passed on by its name; out of memory
//! says how much there was. After an error that comes from a kernel the context is lost, and so every further call fails
//! with it.

use super::arena::Arena;
use super::clock::Clock;
use super::driver::{Address, Driver, Event, Graph, Grid, Properties};
use super::gpus::{attribute, capability, driver, failed};
use super::pins::Pins;
use super::ptx;
use super::recorder::Launches;
use super::staging::Staging;
use super::uploads::Uploads;
use crate::error::{Error, Result};
use crate::hal::gpu::OLDEST;
use crate::hal::{Loan, Pinner};
use cudarc::driver::result;
use cudarc::driver::sys::CUstream;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUfunction, CUfunction_attribute, CUgraphExec, CUgraphInstantiate_flags,
    CUmodule, CUresult, CUstreamCaptureMode,
};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

/// Shared memory that a block may have without being asked for.
const PLAIN_SHARED: u32 = 48 << 10;

/// A GPU.
#[derive(Debug)]
pub struct Device {
    gpu: CUdevice,
    name: String,
    context: CUcontext,
    stream: CUstream,
    staging: Staging,
    uploads: Uploads,
    clock: Clock,
    modules: HashMap<&'static str, CUmodule>,
    kernels: HashMap<&'static str, Kernel>,
    graphs: HashMap<u32, CUgraphExec>,
    /// Graphs that were made.
    made: u32,
    /// Whether memory is overwritten with zeros before it is given back, and the bytes of each allocation then.
    secure: bool,
    sizes: HashMap<u64, usize>,
    arena: Arena,
}

/// A kernel that was launched before.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    function: CUfunction,
    /// Bytes of its argument.
    args: usize,
    /// Most bytes of dynamic shared memory that it may have now.
    shared: u32,
}

// SAFETY: the handles belong to the driver, which lets any thread use them; each method makes the context the current
// one of its thread before it uses another.
unsafe impl Send for Device {}

impl Device {
    /// Takes the GPU with this index, as `gpus` counts them.
    ///
    /// # Errors
    /// `Unsupported` where there is no driver or the GPU is too old, `Limit` where its memory does not hold a context.
    pub fn open(index: u32) -> Result<Device> {
        let refused = |why: String| Error::Unsupported { what: format!("GPU {index}"), instead: why };
        driver().map_err(refused)?;
        let gpu = result::device::get(index as i32).map_err(|e| failed("find the GPU", e))?;
        let name = result::device::get_name(gpu).map_err(|e| failed("name the GPU", e))?;
        let found = capability(gpu).map_err(|e| failed("ask for the compute capability", e))?;
        if found < OLDEST {
            return Err(refused(format!("{name} has compute capability {found}, and {OLDEST} is needed")));
        }
        // SAFETY: the device comes from the driver; `drop` gives the context back.
        let context = unsafe { result::primary_ctx::retain(gpu) }.map_err(|e| failed("make a context", e))?;
        let made = (|| {
            // SAFETY: the context was just retained.
            unsafe { result::ctx::set_current(context) }?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
            let rest = Staging::new().and_then(|mut staging| {
                let uploads = Uploads::new().inspect_err(|_| staging.release())?;
                Ok((staging, uploads))
            });
            let (staging, uploads) = rest.inspect_err(|_| {
                // SAFETY: nothing was asked of the stream yet.
                let _ = unsafe { result::stream::destroy(stream) };
            })?;
            Ok((stream, staging, uploads))
        })();
        let (stream, staging, uploads) = made.map_err(|e| {
            // SAFETY: retained above, and given up here.
            let _ = unsafe { result::primary_ctx::release(gpu) };
            failed("reserve a stream and pinned memory", e)
        })?;
        let (clock, modules, kernels, graphs, sizes, arena) = Default::default();
        Ok(Device {
            gpu,
            name,
            context,
            stream,
            staging,
            uploads,
            clock,
            modules,
            kernels,
            graphs,
            made: 0,
            secure: false,
            sizes,
            arena,
        })
    }

    /// Overwrites memory with zeros before it is given back, or not. To be said before any is taken.
    pub fn secure(mut self, secure: bool) -> Device {
        self.secure = secure;
        self
    }

    /// Fills memory with zeros, behind the work so far.
    fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        // SAFETY: an allocation of this device that is as large and not given back.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream) }.map_err(|e| failed("clear memory", e))
    }

    /// Memory of its own, filled with zeros.
    fn take(&mut self, bytes: u64) -> Result<u64> {
        self.bind()?;
        // The driver has no empty allocation.
        let size = bytes.max(1) as usize;
        // SAFETY: what is returned is filled before anybody sees it.
        let at = unsafe { result::malloc_sync(size) }.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let free = result::mem_get_info().map_or("an unknown number".into(), |(free, _)| free.to_string());
                Error::Limit(format!("{} has {free} bytes free; {bytes} are needed", self.name))
            }
            _ => failed("reserve memory", e),
        })?;
        self.sizes.insert(at, size);
        self.clear(at, size)?;
        Ok(at)
    }

    /// Gives what `take` gave back, once the work before it has ended.
    fn give(&mut self, at: u64) -> Result<()> {
        self.wait()?;
        if let Some(size) = self.sizes.remove(&at)
            && self.secure
        {
            self.clear(at, size)?;
            self.wait()?;
        }
        // SAFETY: all work that could use it has ended; the driver refuses what it did not give.
        unsafe { result::free_sync(at) }.map_err(|e| failed("give memory back", e))
    }

    /// The stream of all work.
    pub(super) fn stream(&self) -> CUstream {
        self.stream
    }

    /// Makes the context that of this thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("use the context", e))
    }

    /// The kernel of this name, compiled if need be.
    fn kernel(&mut self, name: &'static str) -> Result<Kernel> {
        if let Some(kernel) = self.kernels.get(name) {
            return Ok(*kernel);
        }
        let Some((file, entry)) = ptx::find(name) else {
            return Err(Error::Engine(format!("there is no kernel {name}")));
        };
        let module = match self.modules.get(file.name) {
            Some(module) => *module,
            None => {
                // SAFETY: the text ends with a zero.
                let module = unsafe { result::module::load_data(file.text.as_ptr().cast()) };
                let module = module.map_err(|e| failed(&format!("compile {}.cu for {}", file.name, self.name), e))?;
                self.modules.insert(file.name, module);
                module
            }
        };
        let symbol = CString::new(name).map_err(|e| Error::Engine(format!("the kernel {name}: {e}")))?;
        // SAFETY: the module stays loaded until `drop`.
        let function = unsafe { result::module::get_function(module, symbol) };
        let function = function.map_err(|e| failed(&format!("find the kernel {name}"), e))?;
        let kernel = Kernel { function, args: entry.args, shared: PLAIN_SHARED };
        self.kernels.insert(name, kernel);
        Ok(kernel)
    }
}

impl Driver for Device {
    fn properties(&self) -> Result<Properties> {
        self.bind()?;
        let ask = |which| attribute(self.gpu, which).map_err(|e| failed("ask for the GPU's properties", e));
        let (free, memory) = result::mem_get_info().map_err(|e| failed("ask for free memory", e))?;
        Ok(Properties {
            name: self.name.clone(),
            capability: capability(self.gpu).map_err(|e| failed("ask for the compute capability", e))?,
            multiprocessors: ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared: ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            memory: memory as u64,
            free: free as u64,
        })
    }

    fn provide(&mut self, bytes: u64) -> Result<()> {
        if self.arena.is_used() {
            return Err(Error::Engine("memory was provided, and parts of it are in use".into()));
        }
        self.arena.whole().map_or(Ok(()), |start| self.give(start))?;
        self.arena = Arena::new(self.take(bytes)?, bytes);
        Ok(())
    }

    fn alloc(&mut self, bytes: u64) -> Result<Address> {
        self.arena.part(bytes).map_or_else(|| self.take(bytes), Ok).map(Address)
    }

    fn free(&mut self, at: Address) -> Result<()> {
        self.arena.goes(at.0).map_or(Ok(()), |at| self.give(at))
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        self.staging.upload(to.0, bytes, self.stream).map_err(|e| failed("copy to the GPU", e))
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        self.staging.download(from.0, bytes, self.stream).map_err(|e| failed("copy from the GPU", e))?;
        self.uploads.wait().map_err(|e| failed("bring weights", e))
    }

    fn copy(&mut self, from: Address, to: Address, bytes: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: the driver refuses ranges that are not whole within its own allocations.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes as usize, self.stream) }
            .map_err(|e| failed("copy within the GPU", e))
    }

    fn launch(&mut self, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()> {
        self.bind()?;
        let Kernel { function, args: size, shared } = self.kernel(kernel)?;
        if args.len() != size {
            let problem = format!("the kernel {kernel} takes {size} bytes, and was given {}", args.len());
            return Err(Error::Engine(problem));
        }
        if grid.shared > shared {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function's module stays loaded until `drop`.
            unsafe { result::function::set_function_attribute(function, most, grid.shared as i32) }
                .map_err(|e| failed(&format!("give {kernel} {} bytes of shared memory", grid.shared), e))?;
            self.kernels.insert(kernel, Kernel { function, args: size, shared: grid.shared });
        }
        let [x, y, z] = grid.blocks;
        let mut params = [args.as_ptr().cast_mut().cast()];
        // SAFETY: the kernel has one parameter of `size` bytes, which the driver copies before it returns. What its
        // addresses mean is the launcher's care: the trait's callers hand out only what `alloc` gave.
        unsafe {
            result::launch_kernel(function, (x, y, z), (grid.threads, 1, 1), grid.shared, self.stream, &mut params)
        }
        .map_err(|e| failed(&format!("launch {kernel}"), e))
    }

    fn pinner(&self) -> Option<Arc<dyn Pinner>> {
        Some(Arc::new(Pins(self.gpu)))
    }

    fn event(&mut self) -> Result<Event> {
        self.bind()?;
        self.uploads.event().map(Event).map_err(|e| failed("make an event", e))
    }

    fn mark(&mut self, event: Event) -> Result<()> {
        self.bind()?;
        self.uploads.mark(event.0, self.stream).map_err(|e| failed("record an event", e))
    }

    fn bring(&mut self, to: Address, panel: Box<dyn Loan>, free: Event, arrived: Event) -> Result<()> {
        self.bind()?;
        self.uploads.bring(to.0, panel, free.0, arrived.0).map_err(|e| failed("bring weights", e))
    }

    fn follow(&mut self, event: Event) -> Result<()> {
        self.bind()?;
        self.uploads.follow(event.0, self.stream).map_err(|e| failed("wait for weights", e))
    }

    fn stamp(&mut self) -> Result<()> {
        self.bind()?;
        self.clock.stamp(self.stream).map_err(|e| failed("note the time", e))
    }

    fn intervals(&mut self) -> Result<Vec<f64>> {
        self.bind()?;
        self.clock.intervals().map_err(|e| failed("read its clock", e))
    }

    fn graph(&mut self, launches: &Launches) -> Result<Graph> {
        self.bind()?;
        let failed = |e| failed("make a graph of launches", e);
        // SAFETY: the stream lives as long as `self`; a capture that was begun is ended.
        let captured = unsafe {
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            result::stream::begin_capture(self.stream, mode).map_err(failed)?;
            let asked = launches.iter().try_for_each(|(kernel, grid, args)| self.launch(kernel, grid, args));
            let captured = result::stream::end_capture(self.stream).map_err(failed);
            asked.and(captured)?
        };
        // SAFETY: the graph was just made; what runs is a copy of it.
        let exec = unsafe {
            let exec = result::graph::instantiate(captured, CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(captured);
            exec.map_err(failed)?
        };
        self.made += 1;
        self.graphs.insert(self.made, exec);
        Ok(Graph(self.made))
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        self.bind()?;
        let Some(exec) = self.graphs.get(&graph.0) else {
            return Err(Error::Engine(format!("there is no graph {}", graph.0)));
        };
        // SAFETY: graph and stream are alive.
        unsafe { result::graph::launch(*exec, self.stream) }.map_err(|e| failed("launch a graph", e))
    }

    fn forget(&mut self, graph: Graph) -> Result<()> {
        self.bind()?;
        let Some(exec) = self.graphs.remove(&graph.0) else { return Ok(()) };
        // SAFETY: it was instantiated and is given back once; the driver lets what runs of it end.
        unsafe { result::graph::exec_destroy(exec) }.map_err(|e| failed("give a graph back", e))
    }

    fn wait(&mut self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        let done = unsafe { result::stream::synchronize(self.stream) };
        self.uploads.wait().and(done).map_err(|e| failed("finish its work", e))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Errors of a lost GPU; nobody is left to tell, and the driver cleans up after the process.
        let _ = self.wait();
        if let Some(start) = self.arena.whole() {
            let _ = self.give(start);
        }
        self.staging.release();
        self.uploads.release();
        self.clock.release();
        // SAFETY: all work has ended or failed; nothing uses the handles after this.
        unsafe {
            for graph in self.graphs.values() {
                let _ = result::graph::exec_destroy(*graph);
            }
            for module in self.modules.values() {
                let _ = result::module::unload(*module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.gpu);
        }
    }
}
