//! Q8_0: 32 elements as one half-float scale `d` and signed bytes `q`: `x = d q`.
//!
//! Layout: `d` (2 bytes), `qs` (32).

use super::pack::{decode_blocks, f16_at};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 34], y: &mut [f32; 32]| {
        let d = f16_at(b, 0);
        y.iter_mut().zip(&b[2..]).for_each(|(y, &q)| *y = d * f32::from(q as i8));
    });
}
