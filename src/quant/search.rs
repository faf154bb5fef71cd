//! The scale searches of the encoders: least squares over candidate roundings.
//!
//! Rounding to a grid that spans the block's extremes wastes precision on them. As in Lloyd's method (1982) and in
//! the k-quants of ggml, a search tries grids somewhat finer and coarser than that, rounds to each, solves for the
//! scale (and offset) that minimises the squared error of that rounding, and keeps the best; a few rounds of
//! "round again, solve again" follow. The error is unweighted: every element of the block counts the same.
//!
//! Any input is allowed. What is not finite, or too small for a half-float scale to matter, gives some finite
//! answer, never a panic: comparisons with NaN are false, so a candidate that produced one is not kept.

use half::f16;
use std::ops::Range;

/// `x` rounded to the nearest integer of `low..=high`, ties to even; a NaN gives `low`.
///
/// Adding 1.5 * 2^23 leaves no bits for a fraction; the bounds keep the sum in range. Unlike `f32::round` this is
/// two additions on every instruction set.
#[inline]
pub(super) fn nearest(x: f32, low: f32, high: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x.max(low).min(high) + SHIFT) - SHIFT
}

/// The half float nearest to `x` that serves as a scale: the largest finite one where `x` is too large, and the
/// next one away from zero where it is subnormal (rounding down, even to zero, would cut the block's extremes). A NaN
/// gives zero.
pub(super) fn half_scale(x: f32) -> f16 {
    if x.is_nan() {
        return f16::ZERO;
    }
    let h = f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
    let short = h.to_f32().abs() < x.abs() && x.abs() < f16::MIN_POSITIVE.to_f32();
    if short { f16::from_bits(h.to_bits() + 1) } else { h }
}

/// `1 / x`, or zero where that is not finite.
pub(super) fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The sum of N values, a power of two, by halves: lanes add side by side, where a running sum would wait for each.
#[inline]
fn sum<const N: usize>(mut v: [f32; N]) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            v[i] += v[i + width];
        }
        width /= 2;
    }
    v[0]
}

#[inline]
fn dot<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f32 {
    sum(std::array::from_fn::<f32, N, _>(|i| a[i] * b[i]))
}

/// `x ~ scale q - min` with both not negative and q in `0..=top`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) min: f32,
}

impl Affine {
    /// The integers of a block under this scale and minimum.
    #[inline]
    pub(super) fn quants<const N: usize>(self, x: &[f32; N], top: f32) -> [f32; N] {
        let inv = inverse(self.scale);
        x.map(|x| nearest((x + self.min) * inv, 0.0, top))
    }

    /// The squared error of the block as these integers.
    #[inline]
    pub(super) fn error<const N: usize>(self, x: &[f32; N], q: &[f32; N]) -> f32 {
        sum(std::array::from_fn::<f32, N, _>(|i| (self.scale * q[i] - self.min - x[i]).powi(2)))
    }

    /// The best scale and minimum for given integers; the minimum is held at zero where it would be negative.
    fn fit<const N: usize>(x: &[f32; N], q: &[f32; N]) -> Affine {
        let (sq, sx) = (sum(*q), sum(*x));
        let (sqq, sxq) = (dot(q, q), dot(x, q));
        let n = N as f32;
        if sqq == 0.0 {
            return Affine { scale: 0.0, min: (-sx / n).max(0.0) };
        }
        // Zero where all integers are equal: a line through one point.
        let determinant = n * sqq - sq * sq;
        let offset = (sqq * sx - sq * sxq) * inverse(determinant);
        if determinant == 0.0 || offset > 0.0 {
            return Affine { scale: sxq / sqq, min: 0.0 };
        }
        Affine { scale: (n * sxq - sq * sx) / determinant, min: -offset }
    }

    /// Searches the scale and minimum of a block: the grids have `top` steps and these tenths of one more.
    pub(super) fn search<const N: usize>(x: &[f32; N], top: f32, tenths: Range<i32>) -> Affine {
        let low = x.iter().fold(0.0, |a: f32, b| a.min(*b));
        let high = x.iter().fold(low, |a: f32, b| a.max(*b));
        let mut best = Affine { scale: 0.0, min: -low };
        let mut least = f32::INFINITY;
        let mut consider = |from: Affine| {
            let q = from.quants(x, top);
            let fit = Affine::fit(x, &q);
            let error = fit.error(x, &q);
            if error < least {
                (best, least) = (fit, error);
            }
            best
        };
        let mut last = Affine::default();
        for tenth in tenths {
            last = consider(Affine { scale: (high - low) / (top + tenth as f32 * 0.1), min: -low });
        }
        for _ in 0..3 {
            last = consider(last);
        }
        last
    }
}

/// Searches the scale of a block, `x ~ scale q` with q in `-half ..= half - 1`; the scale may be negative. The grids
/// give the largest element `half` steps and these tenths of one more.
///
/// For given integers the error of the best scale falls with `(sum x q)^2 / sum q^2`, so no error is computed.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], half: f32, tenths: Range<i32>) -> f32 {
    let extreme = x.iter().fold(0.0, |a: f32, b| if b.abs() > a.abs() { *b } else { a });
    let (mut best, mut most) = (0.0, 0.0);
    let mut consider = |scale: f32| {
        let inv = inverse(scale);
        let q = x.map(|x| nearest(x * inv, -half, half - 1.0));
        let (sxq, sqq) = (dot(x, &q), dot(&q, &q));
        let gain = sxq * sxq * inverse(sqq);
        if gain > most {
            (best, most) = (sxq / sqq, gain);
        }
        best
    };
    let mut last = 0.0;
    for tenth in tenths {
        last = consider(extreme / -(half + tenth as f32 * 0.1));
    }
    for _ in 0..2 {
        last = consider(last);
    }
    last
}
