//! The sixteen-lane operations in AVX2 with FMA and F16C: two registers a vector.

use super::{LANES, Simd, rows};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has the features above.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Avx2(())
    }
}

/// An intrinsic on registers, or on memory that the line before has bounds-checked.
macro_rules! intrinsic {
    ($e:expr) => {
        // SAFETY: a value of this type exists, so the processor has the instruction; the methods below hand out
        // only pointers of slices that were indexed to the full width of the access.
        unsafe { $e }
    };
}

/// Four byte products of each lane added to a sum; `w` holds unsigned bytes, and no pair of products passes i16.
#[inline(always)]
fn dot_half(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    intrinsic!({
        let pairs = _mm256_maddubs_epi16(w, x);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    })
}

/// Sixteen bytes of each of eight rows: vector `w` has word `w` of all.
///
/// # Safety
/// The bytes may be read: row `r`'s at `p + r * stride`.
#[inline(always)]
unsafe fn eight_rows(p: *const u8, stride: usize) -> [__m256i; 4] {
    intrinsic!({
        // Lane r of two has rows 4r to 4r + 3 in turn; then a transpose of four by four words in each lane.
        let mut v = [_mm256_setzero_si256(); 4];
        for (i, v) in v.iter_mut().enumerate() {
            let low = _mm256_castsi128_si256(_mm_loadu_si128(p.add(i * stride).cast()));
            *v = _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(p.add((4 + i) * stride).cast()));
        }
        let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
        let (c, d) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
        [
            _mm256_unpacklo_epi64(a, b),
            _mm256_unpackhi_epi64(a, b),
            _mm256_unpacklo_epi64(c, d),
            _mm256_unpackhi_epi64(c, d),
        ]
    })
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    const BIASED: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [intrinsic!(_mm256_set1_ps(x)); 2]
    }
    #[inline(always)]
    fn load(self, p: &[f32], at: usize) -> Self::F {
        let p = p[at..at + LANES].as_ptr();
        intrinsic!([_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))])
    }
    #[inline(always)]
    fn store(self, v: Self::F, p: &mut [f32], at: usize) {
        let p = p[at..at + LANES].as_mut_ptr();
        intrinsic!({
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        })
    }
    #[inline(always)]
    fn load_f16(self, p: &[u8], at: usize) -> Self::F {
        let p = p[at..at + 32].as_ptr();
        intrinsic!([_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))])
    }
    #[inline(always)]
    fn load_bf16(self, p: &[u8], at: usize) -> Self::F {
        let p = p[at..at + 32].as_ptr();
        intrinsic!([
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))),
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast())))),
        ])
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        intrinsic!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> Self::I {
        [intrinsic!(_mm256_set1_epi32(x)); 2]
    }
    #[inline(always)]
    fn iload(self, p: &[u8], at: usize) -> Self::I {
        let p = p[at..at + 64].as_ptr();
        intrinsic!([_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())])
    }
    #[inline(always)]
    fn load_i8(self, p: &[u8], at: usize) -> Self::I {
        let p = p[at..at + LANES].as_ptr();
        intrinsic!({
            let v = _mm_loadu_si128(p.cast());
            [_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v))]
        })
    }
    #[inline(always)]
    fn load_u8(self, p: &[u8], at: usize) -> Self::I {
        let p = p[at..at + LANES].as_ptr();
        intrinsic!({
            let v = _mm_loadu_si128(p.cast());
            [_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(v))]
        })
    }
    #[inline(always)]
    fn load_u16(self, p: &[u8], at: usize) -> Self::I {
        let p = p[at..at + 32].as_ptr();
        intrinsic!([
            _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())),
            _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()))
        ])
    }
    #[inline(always)]
    fn store_i8(self, v: Self::I, p: &mut [u8], at: usize) {
        let mut words = [0i32; LANES];
        intrinsic!({
            _mm256_storeu_si256(words.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(words.as_mut_ptr().add(8).cast(), v[1]);
        });
        for (byte, word) in p[at..at + LANES].iter_mut().zip(words) {
            *byte = word as u8;
        }
    }
    #[inline(always)]
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!([_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])])
    }
    #[inline(always)]
    fn imul(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!([_mm256_mullo_epi32(a[0], b[0]), _mm256_mullo_epi32(a[1], b[1])])
    }
    #[inline(always)]
    fn imax(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!([_mm256_max_epi32(a[0], b[0]), _mm256_max_epi32(a[1], b[1])])
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!([_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])])
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!([_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])])
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!([_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])])
    }
    #[inline(always)]
    fn shl(self, v: Self::I, n: u32) -> Self::I {
        intrinsic!({
            let n = _mm_cvtsi32_si128(n as i32);
            [_mm256_sll_epi32(v[0], n), _mm256_sll_epi32(v[1], n)]
        })
    }
    #[inline(always)]
    fn shr(self, v: Self::I, n: u32) -> Self::I {
        intrinsic!({
            let n = _mm_cvtsi32_si128(n as i32);
            [_mm256_srl_epi32(v[0], n), _mm256_srl_epi32(v[1], n)]
        })
    }

    #[inline(always)]
    fn load_rows(self, p: &[u8], at: usize, stride: usize) -> [Self::I; 4] {
        let p = rows(p, at, stride).as_ptr();
        let [low, high] = intrinsic!([eight_rows(p, stride), eight_rows(p.add(8 * stride), stride)]);
        [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
    }
    #[inline(always)]
    fn store_words(self, v: Self::I, p: &mut [u8], at: usize) {
        let p = p[at..at + 64].as_mut_ptr();
        intrinsic!({
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        })
    }
    #[inline(always)]
    fn store_halves(self, v: Self::I, p: &mut [u8], at: usize) {
        let p = p[at..at + 64].as_mut_ptr();
        intrinsic!({
            // In each lane of four words their lower halves, then the upper ones; then the lanes together.
            let apart = _mm256_setr_epi8(
                0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, //
                0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
            );
            let (a, b) = (_mm256_shuffle_epi8(v[0], apart), _mm256_shuffle_epi8(v[1], apart));
            let (low, high) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(low));
            _mm256_storeu_si256(p.add(32).cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(high));
        })
    }

    #[inline(always)]
    fn to_f32(self, v: Self::I) -> Self::F {
        intrinsic!([_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])])
    }
    #[inline(always)]
    fn round(self, v: Self::F) -> Self::I {
        // The default rounding mode is to nearest even, and Rust code never changes it.
        intrinsic!([_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1])])
    }
    #[inline(always)]
    fn as_float(self, v: Self::I) -> Self::F {
        intrinsic!([_mm256_castsi256_ps(v[0]), _mm256_castsi256_ps(v[1])])
    }
    #[inline(always)]
    fn as_words(self, v: Self::F) -> Self::I {
        intrinsic!([_mm256_castps_si256(v[0]), _mm256_castps_si256(v[1])])
    }

    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        let x = intrinsic!(_mm256_set1_epi32(x));
        [dot_half(acc[0], w[0], x), dot_half(acc[1], w[1], x)]
    }
    #[inline(always)]
    fn dot_signed(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        // |w| times x with w's sign; |-128| is 128 as an unsigned byte, and 2 * 128 * 127 still fits i16.
        intrinsic!({
            let x = _mm256_set1_epi32(x);
            let (x0, x1) = (_mm256_sign_epi8(x, w[0]), _mm256_sign_epi8(x, w[1]));
            [dot_half(acc[0], _mm256_abs_epi8(w[0]), x0), dot_half(acc[1], _mm256_abs_epi8(w[1]), x1)]
        })
    }
    #[inline(always)]
    fn dot_pairs(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        intrinsic!({
            let x = _mm256_set1_epi32(x);
            [_mm256_add_epi32(acc[0], _mm256_madd_epi16(w[0], x)), _mm256_add_epi32(acc[1], _mm256_madd_epi16(w[1], x))]
        })
    }
    #[inline(always)]
    fn scale_half(self, acc: Self::I, sum: Self::I, scale: Self::I) -> Self::I {
        // The upper half of a scale is nothing, and takes the sign's with it.
        intrinsic!([
            _mm256_add_epi32(acc[0], _mm256_madd_epi16(sum[0], scale[0])),
            _mm256_add_epi32(acc[1], _mm256_madd_epi16(sum[1], scale[1]))
        ])
    }
    #[inline(always)]
    fn lookup(self, v: Self::I, table: &[i8; 16]) -> Self::I {
        intrinsic!({
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, v[0]), _mm256_shuffle_epi8(table, v[1])]
        })
    }
    #[inline(always)]
    fn prefetch(self, p: &[u8], ahead: usize) {
        // A prefetch never faults, whatever the address.
        intrinsic!(_mm_prefetch::<_MM_HINT_T0>(p.as_ptr().wrapping_add(ahead).cast()))
    }
    #[inline(always)]
    fn prefetch_second(self, p: &[u8], ahead: usize) {
        // As above.
        intrinsic!(_mm_prefetch::<_MM_HINT_T1>(p.as_ptr().wrapping_add(ahead).cast()))
    }
}
