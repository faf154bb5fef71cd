//! Functions of the arithmetic: exponential, reductions over lanes, and the row-wise operations built of them.
//!
//! No C library function is called: its bits would vary from machine to machine. The exponential is a minimax
//! polynomial after Cody and Waite's range reduction, within 1 ulp of the true value; sums have sixteen
//! partial sums and one tree. What a row yields depends on that row alone.

use super::simd::{LANES, Simd};

/// A float16, bit for bit as the processor's conversion yields it (quiet NaNs).
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff);
    let sign = u32::from(h & 0x8000) << 16;
    // Below infinity a multiplication moves the exponent's bias and makes denormals normal, exactly.
    let finite = f32::from_bits(magnitude << 13) * f32::from_bits((254 - 15) << 23);
    let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
    let bits = if magnitude >= 0x7c00 { 0x7f80_0000 | (magnitude << 13) | quiet } else { finite.to_bits() };
    f32::from_bits(sign | bits)
}

/// Sum of the lanes: halves are added until one is left.
#[inline(always)]
pub fn sum<S: Simd>(s: S, v: S::F) -> f32 {
    let mut p = [0.0; LANES];
    s.store(v, &mut p, 0);
    let mut n = LANES / 2;
    while n > 0 {
        let mut i = 0;
        while i < n {
            p[i] += p[i + n];
            i += 1;
        }
        n /= 2;
    }
    p[0]
}

/// Largest lane; NaN lanes are passed over, but for the first.
#[inline(always)]
pub fn largest<S: Simd>(s: S, v: S::F) -> f32 {
    let mut p = [0.0; LANES];
    s.store(v, &mut p, 0);
    let mut best = p[0];
    for &x in &p[1..] {
        best = if x > best { x } else { best };
    }
    best
}

/// `e^x`, within 1 ulp; 0 below about -104, infinity above about 89, NaN for NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LN2_HIGH: f32 = 0.693_359_4; // 355 / 512: products with small integers are exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, lowest power first.
    const P: [f32; 6] = [0.5, 0.166_666_67, 0.041_666_467, 0.008_333_298, 0.001_393_365_2, 0.000_198_992_87];
    // Operands in this order let NaN pass.
    let x = s.min(s.splat(90.0), s.max(s.splat(-106.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let k = s.to_f32(n);
    let r = s.fma(k, s.splat(-LN2_LOW), s.fma(k, s.splat(-LN2_HIGH), x));
    let mut p = s.splat(P[5]);
    p = s.fma(p, r, s.splat(P[4]));
    p = s.fma(p, r, s.splat(P[3]));
    p = s.fma(p, r, s.splat(P[2]));
    p = s.fma(p, r, s.splat(P[1]));
    p = s.fma(p, r, s.splat(P[0]));
    let y = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    // 2^n in two factors, because n reaches beyond the exponents of normal numbers on both sides. The halves are
    // floor and ceiling of n / 2; the offset keeps the shifted number positive.
    let low = s.iadd(s.shr(s.iadd(n, s.isplat(512)), 1), s.isplat(-256));
    let high = s.iadd(n, s.xor(low, s.isplat(-1)));
    let high = s.iadd(high, s.isplat(1));
    s.mul(s.mul(y, power_of_two(s, low)), power_of_two(s, high))
}

/// `2^x` for x at most 0, within 1 ulp; 2^-125 for all x below -125, NaN for NaN.
#[inline(always)]
pub fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
    // Adding it leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    // (2^r - 1) / r on |r| <= 1 / 2, lowest power first.
    const P: [f32; 6] =
        [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];
    let x = s.max(s.splat(-125.0), x);
    let n = s.add(x, s.splat(ROUND));
    let r = s.sub(x, s.sub(n, s.splat(ROUND)));
    let mut p = s.splat(P[5]);
    p = s.fma(p, r, s.splat(P[4]));
    p = s.fma(p, r, s.splat(P[3]));
    p = s.fma(p, r, s.splat(P[2]));
    p = s.fma(p, r, s.splat(P[1]));
    p = s.fma(p, r, s.splat(P[0]));
    p = s.fma(p, r, s.splat(1.0));
    // The exponent's field stays within that of normal numbers.
    s.as_float(s.iadd(s.as_words(p), s.shl(s.as_words(n), 23)))
}

/// `2^n` for n in -126 ..= 127.
#[inline(always)]
fn power_of_two<S: Simd>(s: S, n: S::I) -> S::F {
    s.as_float(s.shl(s.iadd(n, s.isplat(127)), 23))
}

/// Loads up to sixteen elements from `at`; what lies beyond the end is `fill`.
#[inline(always)]
fn load_or<S: Simd>(s: S, x: &[f32], at: usize, fill: f32) -> S::F {
    if at + LANES <= x.len() {
        return s.load(x, at);
    }
    let mut p = [fill; LANES];
    p[..x.len() - at].copy_from_slice(&x[at..]);
    s.load(&p, 0)
}

/// Stores up to sixteen elements at `at`, as many as there are.
#[inline(always)]
pub fn store_part<S: Simd>(s: S, v: S::F, out: &mut [f32], at: usize) {
    if at + LANES <= out.len() {
        return s.store(v, out, at);
    }
    let mut p = [0.0; LANES];
    s.store(v, &mut p, 0);
    let n = out.len() - at;
    out[at..].copy_from_slice(&p[..n]);
}

/// Root-mean-square norm of each group of `weight.len()` elements of a row.
#[inline(always)]
pub fn rms_norm<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let mut squares = s.splat(0.0);
        for at in (0..n).step_by(LANES) {
            let v = load_or(s, x, at, 0.0);
            squares = s.fma(v, v, squares);
        }
        let scale = s.splat(1.0 / (sum(s, squares) / n as f32 + eps).sqrt());
        for at in (0..n).step_by(LANES) {
            let v = s.mul(load_or(s, x, at, 0.0), scale);
            store_part(s, s.mul(v, load_or(s, weight, at, 0.0)), out, at);
        }
    }
}

/// `out = gate / (1 + exp(-gate)) * up`.
#[inline(always)]
pub fn silu_glu<S: Simd>(s: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let one = s.splat(1.0);
    for at in (0..out.len()).step_by(LANES) {
        let g = load_or(s, gate, at, 0.0);
        let e = exp(s, s.sub(s.splat(0.0), g));
        let silu = s.div(g, s.add(one, e));
        store_part(s, s.mul(silu, load_or(s, up, at, 0.0)), out, at);
    }
}

/// Softmax of a whole row.
#[inline(always)]
pub fn softmax<S: Simd>(s: S, x: &[f32], out: &mut [f32]) {
    let mut top = s.splat(f32::NEG_INFINITY);
    for at in (0..x.len()).step_by(LANES) {
        top = s.max(top, load_or(s, x, at, f32::NEG_INFINITY));
    }
    let top = s.splat(largest(s, top));
    let mut total = s.splat(0.0);
    for at in (0..x.len()).step_by(LANES) {
        let e = exp(s, s.sub(load_or(s, x, at, f32::NEG_INFINITY), top));
        total = s.add(total, e);
        store_part(s, e, out, at);
    }
    let total = s.splat(sum(s, total));
    for at in (0..x.len()).step_by(LANES) {
        let p = s.div(load_or(s, out, at, 0.0), total);
        store_part(s, p, out, at);
    }
}
