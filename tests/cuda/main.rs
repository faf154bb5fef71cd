//! The CUDA backend without a GPU: its kernels, compiled for the host, against the interpreter.
//!
//! The very sources of `kernels/` are compiled with g++ under the address and undefined-behaviour sanitizers and run by
//! `kernels/host/emulator.cpp`, behind the same `Driver` as a GPU would be. Every op over random shapes, and whole
//! models, must agree with `hal::exact`; every launch is made with threads in two different orders, which must give the
//! same bits.
//!
//! An executable of its own (`harness = false`): the sanitizers' library has to be loaded first, so the program starts
//! itself again with it. Arguments that are no options choose tests by name. With AIR_CUDA_TESTS_ON_GPU set the first GPU
//! takes the place of the emulated device, and every launch that is made twice must give the same bits there.

mod build;
mod case;
mod device;
mod faults;
mod fused;
mod matrices;
mod models;
#[path = "../common/npy.rs"]
mod npy;
mod ops;
mod state;
mod watch;

use std::panic::catch_unwind;
use std::time::Instant;

/// A test and its name.
type Test = (&'static str, fn());

/// Lists functions as tests.
macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn())),*]
    };
}

const TESTS: &[Test] = tests![
    build::every_kernel_has_a_launcher,
    faults::a_barrier_that_a_thread_misses_is_reported,
    faults::a_shuffle_that_a_lane_misses_is_reported,
    faults::a_lane_outside_the_mask_is_reported,
    faults::fibers_change_by_the_system_too,
    faults::a_lost_device_is_an_error,
    faults::memory_is_given_back,
    matrices::products_of_bytes,
    matrices::products_of_halves,
    matrices::matrices_from_shared_memory,
    matrices::turned_matrices,
    ops::embeddings,
    ops::products_of_every_format,
    ops::products_of_any_number_of_rows,
    ops::products_by_tiles_of_any_size,
    ops::extreme_integers,
    ops::odd_activations,
    ops::norms,
    ops::rotations,
    ops::sums_gates_and_selections,
    ops::what_does_not_fit_is_an_error,
    ops::products_of_parts,
    ops::a_panel_that_does_not_come,
    fused::norms_before_products,
    fused::products_of_one_input,
    fused::positions,
    state::attention_over_pages,
    state::attention_of_any_group_and_head,
    state::attention_over_splits,
    state::later_rows_change_nothing,
    state::a_missing_page_is_an_error,
    state::copied_pages_hold_the_same,
    state::experts,
    state::many_experts,
    state::nan_does_not_stop_routing,
    models::every_golden_family,
    models::every_mix_of_formats,
    models::the_demo_model,
    models::tiles_of_one_pass,
    models::weights_that_are_brought,
    models::a_processor_beside,
    watch::launches_are_told_while_they_are_watched,
    models::passes_become_graphs,
];

/// Tests of the emulated device itself.
const EMULATED: [&str; 7] = [
    "build::every_kernel_has_a_launcher",
    "faults::a_barrier_that_a_thread_misses_is_reported",
    "faults::a_shuffle_that_a_lane_misses_is_reported",
    "faults::a_lane_outside_the_mask_is_reported",
    "faults::fibers_change_by_the_system_too",
    "faults::a_lost_device_is_an_error",
    "models::passes_become_graphs",
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let on_gpu = device::is_gpu();
    if !on_gpu {
        let Some(library) = build::library() else { return };
        build::restart_with_sanitizers();
        device::open(&library);
    }
    let (mut failed, mut run) = (vec![], 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w))) {
        if on_gpu && EMULATED.contains(name) {
            println!("skipped: {name} is about the emulated device");
            continue;
        }
        let begun = Instant::now();
        let passed = catch_unwind(test).is_ok();
        let word = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1} s)", begun.elapsed().as_secs_f32());
        run += 1;
        if !passed {
            failed.push(*name);
        }
    }
    println!("{run} run, {} failed {failed:?}", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}
