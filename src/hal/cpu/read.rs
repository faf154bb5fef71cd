//! Reading memory as fast as it comes: what measures the limit of decoding.
//!
//! As kernels read weights: vectors of a whole line where the set has them, and lines asked for before they are needed.
//! What the hardware fetches by itself is not always enough: of two cores of a Xeon (Emerald Rapids, in a virtual machine)
//! plain loads got 23 GB/s, and these 35.

use super::simd::{LANES, Simd};

/// Bytes that are read side by side: four vectors.
pub const CHUNK: usize = 256;

/// Reads all chunks, and asks for lines that lie `ahead`, if not 0. What comes back depends on every byte.
#[inline(always)]
pub fn read<S: Simd>(s: S, bytes: &[u8], ahead: usize) -> u64 {
    let mut sums = [s.isplat(0); CHUNK / 64];
    for chunk in bytes.chunks_exact(CHUNK) {
        for (i, sum) in sums.iter_mut().enumerate() {
            if ahead > 0 {
                s.prefetch_second(&chunk[i * 64..], ahead);
            }
            *sum = s.iadd(*sum, s.iload(chunk, i * 64));
        }
    }
    let mut lanes = [0.0; LANES];
    sums.iter().fold(0, |all: u64, &sum| {
        s.store(s.as_float(sum), &mut lanes, 0);
        lanes.iter().fold(all, |all, lane| all.wrapping_add(lane.to_bits().into()))
    })
}

#[cfg(test)]
mod tests {
    use super::CHUNK;
    use crate::hal::cpu::Isa;

    #[test]
    fn every_byte_is_read_with_every_set() {
        let mut bytes: Vec<u8> = (0..9 * CHUNK as u32).map(|i| (i * i / 7) as u8).collect();
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
        };
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            // Each word has a sum of its own for every fourth vector.
            let mut sums = [0u32; CHUNK / 4];
            words(&bytes)
                .iter()
                .enumerate()
                .for_each(|(i, w)| sums[i % sums.len()] = sums[i % sums.len()].wrapping_add(*w));
            let want = sums.iter().map(|&sum| u64::from(sum)).sum::<u64>();
            assert_eq!([0, 64, 8192].map(|ahead| isa.read(&bytes, ahead)), [want; 3], "{}", isa.name());
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert_ne!(isa.read(&bytes, 64), want);
        }
    }
}
