//! The primitives of every instruction set against the scalar ones, on random and on special operands.

use super::*;
use crate::hal::cpu::math::{exp, exp2};

/// Words that float and integer operations treat specially, and some that they do not.
fn words() -> Vec<u32> {
    let mut words = vec![0, 1, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x0080_0000, 0x3f80_0000, u32::MAX];
    words.extend([0.5f32, 1.5, 2.5, -0.5, -1.5, 126.5, -127.0, 88.7, -88.0, -103.9, 1e-40].map(f32::to_bits));
    let mut x = 1u32;
    while words.len() < 512 {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words.push(x);
        words.push(((x >> 8) as f32 / 65536.0 - 128.0).to_bits());
    }
    words
}

/// What every operation yields, as words; NaNs are made equal.
#[inline(always)]
fn everything<S: Simd>(s: S, words: &[u32]) -> Vec<u32> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut out = vec![];
    for at in (0..words.len() - 16).step_by(7) {
        let (a, b) = (s.iload(&bytes, at * 4), s.iload(&bytes, (words.len() - 16 - at) * 4));
        let (x, y) = (s.as_float(a), s.as_float(b));
        let nibbles = s.and(a, s.isplat(0x0f0f_0f0f));
        let low = s.and(a, s.isplat(0x7f7f_7f7f));
        // Activations are never -128.
        let q = i32::from_le_bytes(words[at].to_le_bytes().map(|b| if b == 0x80 { 0x81 } else { b }));
        let sum: i32 = q.to_le_bytes().iter().map(|&b| i32::from(b as i8)).sum();
        let table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
        let small = s.max(s.splat(-1000.0), s.min(s.splat(1000.0), x));
        let small = s.as_float(s.as_words(small));
        let floats = [
            s.add(x, y),
            s.sub(x, y),
            s.mul(x, y),
            s.div(x, y),
            s.fma(x, y, x),
            s.max(x, y),
            s.min(x, y),
            s.to_f32(a),
            s.load_f16(&bytes, at),
            s.load_bf16(&bytes, at),
            exp(s, x),
            exp(s, small),
            exp2(s, small),
        ];
        let half = s.iadd(s.and(b, s.isplat(0xffff)), s.isplat(-0x8000));
        let integers = [
            s.iadd(a, b),
            s.imul(a, b),
            s.imax(a, b),
            s.and(a, b),
            s.or(a, b),
            s.xor(a, b),
            s.shl(a, 5),
            s.shr(a, 9),
            s.load_i8(&bytes, at),
            s.load_u8(&bytes, at),
            s.load_u16(&bytes, at),
            s.dot(b, low, q),
            s.dot_signed(s.iadd(b, s.isplat(if S::BIASED { -128 * sum } else { 0 })), s.signed_weight(a), q),
            s.dot_pairs(b, a, q),
            // A sum of sixteen bits with its sign, a scale without one.
            s.scale_half(b, half, s.shr(a, 17)),
            s.lookup(nibbles, &table),
        ];
        let mut lanes = [0.0; LANES];
        for v in floats {
            s.store(v, &mut lanes, 0);
            out.extend(lanes.map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }));
        }
        for v in integers {
            s.store(s.as_float(v), &mut lanes, 0);
            out.extend(lanes.map(f32::to_bits));
        }
        for v in s.load_rows(&bytes, at, 7) {
            let mut wide = [0u8; 128];
            s.store_words(v, &mut wide, 0);
            s.store_halves(v, &mut wide, 64);
            out.extend(wide.map(u32::from));
        }
        let mut narrow = [0u8; LANES];
        s.store_i8(a, &mut narrow, 0);
        out.extend(narrow.map(u32::from));
        // Rounding is defined for small magnitudes only.
        s.store(small, &mut lanes, 0);
        if lanes.iter().all(|x| !x.is_nan()) {
            s.store(s.as_float(s.round(small)), &mut lanes, 0);
            out.extend(lanes.map(f32::to_bits));
        }
    }
    out
}

#[test]
#[cfg(target_arch = "x86_64")]
fn instruction_sets_agree() {
    use crate::hal::cpu::Isa;
    let words = words();
    let want = everything(Scalar, &words);
    if Isa::Avx2.available() {
        // SAFETY: the processor has the features.
        assert!(everything(unsafe { Avx2::new() }, &words) == want, "AVX2 differs");
    }
    if Isa::Avx512.available() {
        // SAFETY: the processor has the features.
        assert!(everything(unsafe { Avx512::new() }, &words) == want, "AVX-512 differs");
    }
}

#[test]
fn the_exponential_is_within_an_ulp() {
    let mut lanes = [0.0f32; LANES];
    for i in -104_000..88_700 {
        let x = i as f32 / 1000.0;
        Scalar.store(exp(Scalar, Scalar.splat(x)), &mut lanes, 0);
        let want = f64::from(x).exp();
        let ulp = f64::from((want as f32).next_up() - want as f32);
        assert!((f64::from(lanes[0]) - want).abs() <= 1.01 * ulp, "exp({x}) is {:e}, not {want:e}", lanes[0]);
    }
    for (x, want) in [(f32::NEG_INFINITY, 0.0), (f32::INFINITY, f32::INFINITY), (0.0, 1.0), (-200.0, 0.0)] {
        assert_eq!(exp(Scalar, [x; LANES])[0], want);
    }
    assert!(exp(Scalar, [f32::NAN; LANES])[0].is_nan());
}

#[test]
fn the_power_of_two_is_within_an_ulp() {
    let mut lanes = [0.0f32; LANES];
    for i in 0..=125_000 {
        let x = -(i as f32) / 1000.0;
        Scalar.store(exp2(Scalar, Scalar.splat(x)), &mut lanes, 0);
        let want = f64::from(x).exp2();
        let ulp = f64::from((want as f32).next_up() - want as f32);
        assert!((f64::from(lanes[0]) - want).abs() <= ulp, "2^{x} is {:e}, not {want:e}", lanes[0]);
    }
    let least = f32::from_bits(2 << 23);
    for (x, want) in [(f32::NEG_INFINITY, least), (-1e30, least), (-0.0, 1.0), (-3.0, 0.125)] {
        assert_eq!(exp2(Scalar, [x; LANES])[0], want);
    }
    assert!(exp2(Scalar, [f32::NAN; LANES])[0].is_nan());
}

#[test]
fn half_floats_convert_exactly() {
    use crate::hal::cpu::math::f16_to_f32;
    for h in 0..=u16::MAX {
        let (got, want) = (f16_to_f32(h), half::f16::from_bits(h).to_f32());
        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{h:#x}: {got} {want}");
    }
}
