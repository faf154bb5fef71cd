//! The emulator itself: what it must refuse, it refuses; and a device that is lost is an error.

use crate::build;
use crate::case::{Random, cuda};
use crate::device::{Device, Library};
use crate::ops::mat_mul;
use air_rs::error::Error;
use air_rs::hal::cuda::{Cuda, Grid};
use air_rs::hal::{Backend, Batch, ProgramId};
use air_rs::op::CarryId;
use air_rs::quant::Kind;
use std::path::PathBuf;

const KERNELS: &str = r#"
#include "intrinsics.cuh"
struct Args { uint32_t* out; uint32_t lanes, unused; };
// Threads from `lanes` on leave before the barrier.
KERNEL(missed_barrier, Args, 64) {
    if (threadIdx.x >= a.lanes) return;
    __syncthreads();
    a.out[threadIdx.x] = 1;
}
// Lanes from `lanes` on do not take part.
KERNEL(missed_shuffle, Args, 64) {
    if (threadIdx.x >= a.lanes) return;
    a.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
}
// The mask names `lanes` lanes.
KERNEL(masked_vote, Args, 32) {
    a.out[threadIdx.x] = __ballot_sync(a.lanes == 32 ? 0xffffffffu : (1u << a.lanes) - 1, threadIdx.x % 2);
}
"#;

fn library(more: &[&str]) -> Library {
    let source = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("faults.cu");
    std::fs::write(&source, KERNELS).unwrap();
    let emulator = build::kernels().join("host/emulator.cpp");
    Library::open(&build::compile("faults", &[source, emulator], more))
}

/// Runs one block; what it wrote, or what was wrong.
fn run(library: Library, kernel: &str, lanes: u32) -> Result<Vec<u32>, String> {
    let mut out = vec![0u32; 64];
    let mut args = (out.as_mut_ptr() as u64).to_le_bytes().to_vec();
    args.extend(u64::from(lanes).to_le_bytes());
    let threads = if kernel == "masked_vote" { 32 } else { 64 };
    let grid = Grid { blocks: [1, 1, 1], threads, shared: 0 };
    library.run(kernel, grid, 0, &args).map(|()| out).map_err(|e| e.to_string())
}

pub fn a_barrier_that_a_thread_misses_is_reported() {
    let library = library(&[]);
    assert_eq!(run(library, "missed_barrier", 64), Ok(vec![1; 64]));
    for lanes in [1, 32, 63] {
        let message = run(library, "missed_barrier", lanes).unwrap_err();
        assert!(message.contains("thread 0 waits at a barrier"), "{message}");
        assert!(message.contains(&format!("thread {lanes} has returned")), "{message}");
    }
    assert_eq!(run(library, "missed_barrier", 64), Ok(vec![1; 64]), "the next launch begins anew");
}

pub fn a_shuffle_that_a_lane_misses_is_reported() {
    let library = library(&[]);
    let pairs: Vec<u32> = (0..64).map(|i| i ^ 1).collect();
    assert_eq!(run(library, "missed_shuffle", 64), Ok(pairs));
    let whole_warp = run(library, "missed_shuffle", 32).unwrap();
    assert_eq!(whole_warp[31], 30, "a warp that leaves as a whole misses nothing");
    let message = run(library, "missed_shuffle", 40).unwrap_err();
    assert!(message.contains("thread 32 waits in a shuffle or vote"), "{message}");
}

pub fn a_lane_outside_the_mask_is_reported() {
    let library = library(&[]);
    assert_eq!(run(library, "masked_vote", 32).unwrap()[..32], [0xaaaa_aaaa; 32]);
    let message = run(library, "masked_vote", 7).unwrap_err();
    assert!(message.contains("thread 7") && message.contains("does not name it"), "{message}");
}

/// The way to change fibers that other processors use.
pub fn fibers_change_by_the_system_too() {
    let library = library(&["-DAIR_UCONTEXT"]);
    assert_eq!(run(library, "missed_barrier", 64), Ok(vec![1; 64]));
    assert!(run(library, "missed_barrier", 5).is_err());
    assert_eq!(run(library, "masked_vote", 32).unwrap()[..32], [0xaaaa_aaaa; 32]);
}

/// Every launch that can fail, does: the error comes out, and what was taken is given back.
pub fn a_lost_device_is_an_error() {
    let mut rng = Random(20);
    let case = mat_mul(Kind::Q8_0, 2, 64, 16, false, &mut rng);
    for n in 1..=3 {
        let mut device = Device::new(false);
        device.fails_at = Some(n);
        let mut backend = Cuda::new(Box::new(device)).unwrap();
        let bindings = case.prepare(&mut backend, 2, 2).unwrap();
        let mut launch = || {
            let batch = Batch { rows: &case.rows, first: 0, tables: &[&[]] };
            let done = backend.launch(ProgramId(0), &bindings, &batch);
            let mut y = vec![0.0; 32];
            backend.read(CarryId(1), &mut y);
            (done, y.iter().all(|y| y.is_nan()))
        };
        // Quantising and multiplying are two launches. What fails in a read is the next launch's error.
        let first = launch();
        assert!(first.0.is_ok() && first.1 == (n <= 2), "launch {n}: {first:?}");
        let second = launch().0;
        assert_eq!(matches!(second, Err(Error::Engine(_))), n <= 2, "launch {n}: {second:?}");
    }
}

/// A reservation that is made again takes the place of the first; one that does not fit leaves nothing behind.
pub fn memory_is_given_back() {
    let mut rng = Random(21);
    let case = mat_mul(Kind::Q8_0, 2, 64, 16, false, &mut rng);
    let mut backend = cuda(false);
    let bindings = case.prepare(&mut backend, 2, 2).unwrap();
    let (carries, kv) = (&case.carries[..], &case.kv);
    let reservation =
        |rows| air_rs::hal::Reservation { carries, pass_rows: rows, max_rows: 2, max_outputs: 2, kv, ring: (0, 0) };
    assert!(matches!(backend.reserve(&reservation(1 << 40)), Err(Error::Limit(_))));
    backend.reserve(&reservation(2)).unwrap();
    backend.write(CarryId(0), &case.input);
    backend.launch(ProgramId(0), &bindings, &Batch { rows: &case.rows, first: 0, tables: &[&[]] }).unwrap();
    let mut y = vec![0.0; 32];
    backend.read(CarryId(1), &mut y);
    crate::case::assert_bits(&y, &case.cuda(2, false), "after another reservation");
}
