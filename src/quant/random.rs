//! Random blocks of a format that decode to values of zero mean and a given spread.
//!
//! Synthetic models need many gigabytes of weights that look like weights to every kernel, faster than a drive
//! writes. Encoding random floats is a hundred times too slow, so the fields of a block are drawn directly: quants
//! are random bits, and scales are set such that the decoded values have mean zero and the standard deviation asked
//! for. The scale that does it is not derived for each format but measured, on blocks decoded with scale one.
//!
//! A pure function of format, spread and seed.

use super::{Format, Kind};
use half::f16;

/// Elements from which the spread is measured.
const SAMPLE: usize = 1 << 16;

/// The sequence of splitmix64 (Steele, Lea, Flood 2014): a counter and a mixing function.
#[derive(Debug, Clone)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&mut self, out: &mut [u8]) {
        let mut words = out.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = words.into_remainder();
        rest.copy_from_slice(&self.next().to_le_bytes()[..rest.len()]);
    }
}

/// One seed from several numbers, different for different numbers.
pub fn seed(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |seed, &part| SplitMix(seed ^ part).next())
}

/// Makes blocks of one format and spread.
#[derive(Debug, Clone)]
pub struct Blocks {
    format: &'static Format,
    scale: Scale,
}

/// What is written into scale fields.
#[derive(Debug, Clone, Copy)]
enum Scale {
    /// This factor, either sign.
    Linear(f32),
    /// A power of two by its exponent, or the next one with this probability (in 1/256).
    Power { exponent: i32, next: u32 },
}

impl Blocks {
    /// Blocks whose values have standard deviation `std` (normal and positive; within a few percent, where the
    /// format's scales are half floats and it is small).
    pub fn new(format: &'static Format, std: f32) -> Self {
        let power = matches!(format.kind, Kind::F32 | Kind::F16 | Kind::BF16 | Kind::MXFP4);
        let one = if power { Scale::Power { exponent: 0, next: 0 } } else { Scale::Linear(1.0) };
        let unit = Blocks { format, scale: one }.measure();
        let ratio = std / unit;
        let scale = if power {
            // mixing scales 1 and 2: the mean square is 1 + 3p
            let exponent = ratio.log2().floor();
            let square = (ratio / exponent.exp2()).powi(2);
            Scale::Power { exponent: exponent as i32, next: ((square - 1.0) / 3.0 * 256.0).round() as u32 }
        } else {
            Scale::Linear(ratio)
        };
        Blocks { format, scale }
    }

    /// The format of the blocks.
    pub fn format(&self) -> &'static Format {
        self.format
    }

    /// Fills `out`, whole blocks, from a seed.
    pub fn fill(&self, seed: u64, out: &mut [u8]) {
        SplitMix(seed).fill(out);
        match self.scale {
            Scale::Power { exponent, next } => powers(self.format.kind, exponent, next, out),
            Scale::Linear(scale) => {
                for block in out.chunks_exact_mut(self.format.block_bytes) {
                    scales(self.format.kind, scale, block);
                }
            }
        }
    }

    fn measure(&self) -> f32 {
        let mut bytes = vec![0; self.format.row_bytes(SAMPLE)];
        let mut values = vec![0.0; SAMPLE];
        self.fill(1, &mut bytes);
        (self.format.decode)(&bytes, &mut values);
        let square: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        (square / SAMPLE as f64).sqrt() as f32
    }
}

/// Formats without a scale, or with one that is a power of two: sign and mantissa stay random, the exponent is set.
fn powers(kind: Kind, exponent: i32, next: u32, out: &mut [u8]) {
    match kind {
        Kind::F32 => {
            for x in out.as_chunks_mut::<4>().0 {
                let bits = u32::from_le_bytes(*x);
                let e = exponent_field(exponent + 127, (bits >> 23) & 255, next, 254);
                *x = ((bits & 0x807f_ffff) | (e << 23)).to_le_bytes();
            }
        }
        Kind::BF16 => {
            for x in out.as_chunks_mut::<2>().0 {
                let bits = u32::from(u16::from_le_bytes(*x));
                let e = exponent_field(exponent + 127, (bits >> 7) & 255, next, 254);
                *x = (((bits & 0x807f) | (e << 7)) as u16).to_le_bytes();
            }
        }
        Kind::F16 => {
            let next = (next + 4) & !7; // its exponent field has five random bits only
            for x in out.as_chunks_mut::<2>().0 {
                let bits = u32::from(u16::from_le_bytes(*x));
                let e = exponent_field(exponent + 15, ((bits >> 10) & 31) << 3, next, 30);
                *x = (((bits & 0x83ff) | (e << 10)) as u16).to_le_bytes();
            }
        }
        Kind::MXFP4 => {
            for block in out.as_chunks_mut::<17>().0 {
                block[0] = exponent_field(exponent + 127, block[0].into(), next, 254) as u8;
            }
        }
        _ => unreachable!("the other formats have linear scales"),
    }
}

/// The biased exponent, or the next: `random` is below 256.
fn exponent_field(biased: i32, random: u32, next: u32, most: i32) -> u32 {
    (biased + i32::from(random < next)).clamp(0, most) as u32
}

/// Sets the scale fields of one block of random bytes; the sign is the one that was drawn.
fn scales(kind: Kind, scale: f32, block: &mut [u8]) {
    match kind {
        Kind::F32 | Kind::F16 | Kind::BF16 | Kind::MXFP4 => unreachable!("their scales are powers of two"),
        Kind::Q4_0 | Kind::Q5_0 | Kind::IQ4_NL | Kind::IQ4_XS => put(block, 0, scale),
        Kind::Q8_0 => {
            put(block, 0, scale);
            // encoders never write -128
            block[2..].iter_mut().for_each(|q| *q |= u8::from(*q == 0x80));
        }
        // the minimum makes the mean zero: minus half the largest quant
        Kind::Q4_1 => put_pair(block, 0, scale, -7.5),
        Kind::Q5_1 => put_pair(block, 0, scale, -15.5),
        Kind::Q2_K => {
            block[..16].iter_mut().for_each(|s| *s = (*s & 15) | (*s << 4));
            put_pair(block, 80, scale, 1.5);
        }
        Kind::Q3_K => put(block, 108, scale),
        Kind::Q4_K => {
            same_scales_and_minima(block);
            put_pair(block, 0, scale, 7.5);
        }
        Kind::Q5_K => {
            same_scales_and_minima(block);
            put_pair(block, 0, scale, 15.5);
        }
        Kind::Q6_K => {
            // a quarter of their range leaves the half float in which they are counted its precision
            block[192..208].iter_mut().for_each(|s| *s = (*s as i8 >> 2) as u8);
            put(block, 208, scale);
        }
    }
}

/// Writes the scale at `at`, with the sign bit that is there.
fn put(block: &mut [u8], at: usize, scale: f32) {
    let sign = u16::from(block[at + 1] & 0x80) << 8;
    let bits = f16::from_f32(scale).to_bits() ^ sign;
    block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
}

/// Writes the scale at `at` and `ratio` times it behind, both with the same random sign.
fn put_pair(block: &mut [u8], at: usize, scale: f32, ratio: f32) {
    let scale = f16::from_f32(scale);
    let sign = u16::from(block[at + 1] & 0x80) << 8;
    let second = f16::from_f32(scale.to_f32() * ratio).to_bits() ^ sign;
    block[at..at + 2].copy_from_slice(&(scale.to_bits() ^ sign).to_le_bytes());
    block[at + 2..at + 4].copy_from_slice(&second.to_le_bytes());
}

/// Makes the 6-bit minima of Q4_K and Q5_K equal to the 6-bit scales. Bytes 4 to 8 hold the first four scales and, in
/// their upper bits, the upper bits of the last four; the next four bytes hold the minima alike, and the last four
/// the lower halves of both.
fn same_scales_and_minima(block: &mut [u8]) {
    block.copy_within(4..8, 8);
    block[12..16].iter_mut().for_each(|s| *s = (*s & 15) | (*s << 4));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::FORMATS;

    /// Every format decodes to finite values of the mean and spread that were asked for.
    #[test]
    fn mean_and_spread() {
        for format in FORMATS {
            for std in [1.0f32, 0.02, 0.003] {
                let n = 1 << 16;
                let mut bytes = vec![0; format.row_bytes(n)];
                let mut values = vec![0.0; n];
                Blocks::new(format, std).fill(7, &mut bytes);
                (format.decode)(&bytes, &mut values);
                let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
                let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
                let (mean, is) = (mean / f64::from(std), square.sqrt() / f64::from(std));
                assert!(values.iter().all(|x| x.is_finite()), "{}", format.name);
                assert!(mean.abs() < 0.03, "{} at {std}: mean {mean}", format.name);
                assert!((is - 1.0).abs() < 0.04, "{} at {std}: spread {is}", format.name);
            }
        }
    }

    #[test]
    fn seeds_differ_and_repeat() {
        let blocks = Blocks::new(Kind::Q4_K.format(), 0.02);
        let draw = |seed| {
            let mut out = vec![0; 144 * 3];
            blocks.fill(seed, &mut out);
            out
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
