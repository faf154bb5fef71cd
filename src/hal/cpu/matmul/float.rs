//! Products with plain weights (F32, F16, BF16): float32 activations, one fused multiply-add an element, in order.
//!
//! The inner dimension is never split, so one output is one chain of dependent operations; sixteen rows of a
//! group and up to eight activation rows run side by side.

use super::{LANES, Pair, Simd, Sums, Task};

/// A plain format.
pub trait FloatFormat: 'static {
    /// Bytes of sixteen elements.
    const BYTES: usize;
    /// Sixteen elements from byte `at`.
    fn load<S: Simd>(s: S, p: &[u8], at: usize) -> S::F;
}

/// float32
pub struct F32;
/// float16
pub struct F16;
/// bfloat16
pub struct Bf16;

impl FloatFormat for F32 {
    const BYTES: usize = 64;
    #[inline(always)]
    fn load<S: Simd>(s: S, p: &[u8], at: usize) -> S::F {
        s.as_float(s.iload(p, at))
    }
}

impl FloatFormat for F16 {
    const BYTES: usize = 32;
    #[inline(always)]
    fn load<S: Simd>(s: S, p: &[u8], at: usize) -> S::F {
        s.load_f16(p, at)
    }
}

impl FloatFormat for Bf16 {
    const BYTES: usize = 32;
    #[inline(always)]
    fn load<S: Simd>(s: S, p: &[u8], at: usize) -> S::F {
        s.load_bf16(p, at)
    }
}

/// Elements of the inner dimension that all rows pass before the next ones: their weights stay in the nearest cache.
const STEP: usize = 256;

#[inline(always)]
fn add_tile<S: Simd, F: FloatFormat, const T: usize>(
    s: S,
    weights: &[u8],
    x: &[f32],
    cols: usize,
    from: usize,
    pairs: &[Pair],
    sums: &mut [[f32; LANES]],
) {
    let n = weights.len() / F::BYTES;
    let mut rows = [&x[..0]; T];
    let mut acc = [s.splat(0.0); T];
    for t in 0..T {
        rows[t] = &x[pairs[t].input as usize * cols + from..][..n];
        acc[t] = s.load(&sums[t], 0);
    }
    for (k, w) in weights.chunks_exact(F::BYTES).enumerate() {
        let w = F::load(s, w, 0);
        for t in 0..T {
            acc[t] = s.fma(w, s.splat(rows[t][k]), acc[t]);
        }
    }
    for t in 0..T {
        s.store(acc[t], &mut sums[t], 0);
    }
}

/// Runs a task.
#[inline(always)]
pub fn multiply_float<S: Simd, F: FloatFormat>(s: S, task: &Task, sums: &mut Sums) {
    let (x, n) = (task.x.plain, task.pairs.len());
    for (g, group) in task.weights.chunks_exact(task.group_bytes).enumerate() {
        sums.clear();
        sums.resize(n, [0.0; LANES]);
        for (step, weights) in group.chunks(STEP * F::BYTES).enumerate() {
            let from = step * STEP;
            let mut t = 0;
            while t + 8 <= n {
                add_tile::<S, F, 8>(s, weights, x, task.cols, from, &task.pairs[t..], &mut sums[t..]);
                t += 8;
            }
            if t + 4 <= n {
                add_tile::<S, F, 4>(s, weights, x, task.cols, from, &task.pairs[t..], &mut sums[t..]);
                t += 4;
            }
            while t < n {
                add_tile::<S, F, 1>(s, weights, x, task.cols, from, &task.pairs[t..], &mut sums[t..]);
                t += 1;
            }
        }
        for (pair, sums) in task.pairs.iter().zip(sums.iter()) {
            task.finish(s, g, pair.output, s.load(sums, 0));
        }
    }
}
