//! Products of small matrices by a warp: which lane holds what, by the formulas of the PTX document.
//!
//! Whole matrices are cut into fragments as chapter "Warp-level matrix instructions", "Matrix fragments for
//! mma.m16n8k32" (and m16n8k16) writes it: element `i` of a lane's fragment, lowest bits of the first register first,
//! has a row and a column. The wrappers that kernels use must then give the plain product, cut up by the same chapter.
//! The kernels know nothing of these formulas, and the emulator computes them the other way round, from element to
//! lane.

use crate::build;
use crate::case::Random;
use crate::device::Library;
use air_rs::hal::cuda::Grid;
use std::path::PathBuf;

const KERNELS: &str = r#"
#include "intrinsics.cuh"
// Each lane's words of a, b and c, and where its words of d go.
struct Args { const uint32_t *a, *b; const int* c; int* d; };
KERNEL(bytes_32, Args, 32) {
    const uint32_t lane = threadIdx.x;
    mma_s8_32(a.d + 4 * lane, a.a + 4 * lane, a.b + 2 * lane, a.c + 4 * lane);
}
KERNEL(bytes_16, Args, 32) {
    const uint32_t lane = threadIdx.x;
    mma_s8_16(a.d + 4 * lane, a.a + 2 * lane, a.b + lane, a.c + 4 * lane);
}
KERNEL(halves_16, Args, 32) {
    const uint32_t lane = threadIdx.x;
    float d[4];
    for (int i = 0; i < 4; i++) d[i] = (float)a.c[4 * lane + i];
    mma_f16(d, a.a + 4 * lane, a.b + 2 * lane);
    for (int i = 0; i < 4; i++) a.d[4 * lane + i] = (int)d[i];
}
KERNEL(bfloats_16, Args, 32) {
    const uint32_t lane = threadIdx.x;
    float d[4];
    for (int i = 0; i < 4; i++) d[i] = (float)a.c[4 * lane + i];
    mma_bf16(d, a.a + 4 * lane, a.b + 2 * lane);
    for (int i = 0; i < 4; i++) a.d[4 * lane + i] = (int)d[i];
}
// 32 rows of 16 bytes of `a` by way of shared memory, half of them copied, row 9 as zeros; before they have arrived,
// what is there is written behind them.
KERNEL(rows_of_matrices, Args, 32) {
    const uint32_t lane = threadIdx.x;
    uint4* rows = (uint4*)dynamic_shared();
    const uint4* from = (const uint4*)a.a;
    rows[lane] = from[lane];
    if (lane < 16) copy_16(rows + lane, from + lane, lane != 9);
    a.d[128 + lane] = ((const int*)rows)[4 * lane];
    copies_done();
    __syncthreads();
    load_matrices((uint32_t*)a.d + 4 * lane, rows + lane);
}
KERNEL(turned_matrices, Args, 32) {
    uint4* rows = (uint4*)dynamic_shared();
    rows[threadIdx.x] = ((const uint4*)a.a)[threadIdx.x];
    __syncthreads();
    load_turned_matrices((uint32_t*)a.d + 4 * threadIdx.x, rows + threadIdx.x);
}
"#;

fn library() -> Library {
    let source = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("matrices.cu");
    std::fs::write(&source, KERNELS).unwrap();
    let emulator = build::kernels().join("host/emulator.cpp");
    Library::open(&build::compile("matrices", &[source, emulator], &[]))
}

/// Runs one warp on words of each lane; what it wrote.
fn run(kernel: &str, a: &[u32], b: &[u32], c: &[i32]) -> Vec<i32> {
    #[repr(align(16))]
    struct Aligned([u32; 128]);
    let mut whole = Aligned([0; 128]);
    whole.0[..a.len()].copy_from_slice(a);
    let mut d = vec![0i32; 160];
    let at = [whole.0.as_ptr() as u64, b.as_ptr() as u64, c.as_ptr() as u64, d.as_mut_ptr() as u64];
    let args: Vec<u8> = at.iter().flat_map(|p| p.to_le_bytes()).collect();
    library().run(kernel, Grid { blocks: [1, 1, 1], threads: 32, shared: 512 }, 0, &args).unwrap();
    d
}

/// Words from elements of `BITS` bits, lowest first.
fn pack<const BITS: usize>(elements: impl Iterator<Item = u32>) -> Vec<u32> {
    let elements: Vec<u32> = elements.collect();
    let word = |e: &[u32]| e.iter().rev().fold(0, |word, e| word << BITS | e);
    elements.chunks(32 / BITS).map(word).collect()
}

/// Row and column of element `i` of a lane's part of a 16 x 8 result.
fn of_result(lane: usize, i: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, in_group * 2 + (i & 1))
}

/// Row of a and element within it of byte `i` of a lane's part.
fn of_bytes_32(lane: usize, i: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
    (row, in_group * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
}

fn of_bytes_16(lane: usize, i: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    (if i < 4 { group } else { group + 8 }, in_group * 4 + (i & 3))
}

/// Element within a column of b, and the column.
fn of_b_bytes(lane: usize, i: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    (in_group * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, group)
}

/// The same of half floats.
fn of_halves(lane: usize, i: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    (row, in_group * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
}

fn of_b_halves(lane: usize, i: usize) -> (usize, usize) {
    let (group, in_group) = (lane >> 2, lane % 4);
    (in_group * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group)
}

/// Whole numbers, of which every sum is one.
pub fn products_of_halves() {
    let mut rng = Random(32);
    let mut whole = |n: usize| -> Vec<i32> { (0..n).map(|_| rng.below(65) as i32 - 32).collect() };
    let (a, b, c) = (whole(16 * 16), whole(16 * 8), whole(16 * 8));
    let f16 = |x: i32| u32::from(half::f16::from_f32(x as f32).to_bits());
    let bf16 = |x: i32| u32::from(half::bf16::from_f32(x as f32).to_bits());
    let lanes = |n: usize| (0..32).flat_map(move |lane| (0..n).map(move |i| (lane, i)));
    let at = |(row, column): (usize, usize), width: usize| row * width + column;
    let of_lanes_c: Vec<i32> = lanes(4).map(|(lane, i)| c[at(of_result(lane, i), 8)]).collect();
    let kinds: [(&str, &dyn Fn(i32) -> u32); 2] = [("halves_16", &f16), ("bfloats_16", &bf16)];
    for (kernel, bits) in kinds {
        let of_lanes_a = lanes(8).map(|(lane, i)| bits(a[at(of_halves(lane, i), 16)]));
        let of_lanes_b = lanes(4).map(|(lane, i)| bits(b[at(of_b_halves(lane, i), 8)]));
        let d = run(kernel, &pack::<16>(of_lanes_a), &pack::<16>(of_lanes_b), &of_lanes_c);
        for (lane, i) in lanes(4) {
            let (row, column) = of_result(lane, i);
            let want = c[row * 8 + column] + (0..16).map(|e| a[row * 16 + e] * b[e * 8 + column]).sum::<i32>();
            assert_eq!(d[4 * lane + i], want, "{kernel}: row {row}, column {column}");
        }
    }
}

pub fn products_of_bytes() {
    let mut rng = Random(30);
    for (kernel, k) in [("bytes_32", 32), ("bytes_16", 16)] {
        for extreme in [false, true] {
            let mut byte = || if extreme { -128i8 } else { rng.next() as i8 };
            let a: Vec<i8> = (0..16 * k).map(|_| byte()).collect();
            let b: Vec<i8> = (0..k * 8).map(|_| byte()).collect();
            let c: Vec<i32> = (0..16 * 8).map(|_| rng.next() as i32 >> 8).collect();
            let of_a = if k == 32 { of_bytes_32 } else { of_bytes_16 };
            let lanes = |n: usize| (0..32).flat_map(move |lane| (0..n).map(move |i| (lane, i)));
            let at = |(row, column): (usize, usize), width: usize| row * width + column;
            let of_lanes_a = lanes(k / 2).map(|(lane, i)| u32::from(a[at(of_a(lane, i), k)] as u8));
            let of_lanes_b = lanes(k / 4).map(|(lane, i)| u32::from(b[at(of_b_bytes(lane, i), 8)] as u8));
            let of_lanes_c: Vec<i32> = lanes(4).map(|(lane, i)| c[at(of_result(lane, i), 8)]).collect();
            let d = run(kernel, &pack::<8>(of_lanes_a), &pack::<8>(of_lanes_b), &of_lanes_c);
            for (lane, i) in lanes(4) {
                let (row, column) = of_result(lane, i);
                let products = (0..k).map(|e| i32::from(a[row * k + e]) * i32::from(b[e * 8 + column]));
                let want = c[row * 8 + column] + products.sum::<i32>();
                assert_eq!(d[4 * lane + i], want, "{kernel}: row {row}, column {column}");
            }
        }
    }
}

/// "Each thread in a group of four holds one 32-bit part of a row": thread t that of row t / 4.
pub fn matrices_from_shared_memory() {
    let mut rng = Random(31);
    let a: Vec<u32> = (0..128).map(|_| rng.next() as u32).collect();
    let d = run("rows_of_matrices", &a, &[], &[]);
    for lane in 0..32 {
        for matrix in 0..4 {
            let row = 8 * matrix + lane / 4;
            let want = if row == 9 { 0 } else { a[4 * row + lane % 4] };
            assert_eq!(d[4 * lane + matrix] as u32, want, "lane {lane}, matrix {matrix}");
        }
        let early = if lane < 16 { u32::MAX } else { a[4 * lane] };
        assert_eq!(d[128 + lane] as u32, early, "lane {lane} before its copies have arrived");
    }
}

/// "When .trans is there, the matrix is loaded in column-major format": thread t has parts of column t / 4.
pub fn turned_matrices() {
    let mut rng = Random(33);
    let a: Vec<u32> = (0..128).map(|_| rng.next() as u32).collect();
    let element = |row: usize, column: usize| a[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let d = run("turned_matrices", &a, &[], &[]);
    for lane in 0..32 {
        for matrix in 0..4 {
            let (row, column) = (8 * matrix + lane % 4 * 2, lane / 4);
            let want = element(row, column) | element(row + 1, column) << 16;
            assert_eq!(d[4 * lane + matrix] as u32, want, "lane {lane}, matrix {matrix}");
        }
    }
}
