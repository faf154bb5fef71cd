//! The sixteen-lane operations in AVX-512 (F, BW, DQ, VL, VNNI): one register a vector.

use super::{LANES, Simd, rows};
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor has the features above.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Avx512(())
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

/// What only the unpacking to tiles needs: lanes of 16 bits.
impl Avx512 {
    /// Each half: `a * b`, wrapping.
    #[inline(always)]
    pub fn mul_halves(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsic!(_mm512_mullo_epi16(a, b))
    }
    /// The lower byte of each half, with its sign; the upper one.
    #[inline(always)]
    pub fn signed_bytes(self, v: __m512i) -> [__m512i; 2] {
        let low = intrinsic!(_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(v)));
        [low, intrinsic!(_mm512_srai_epi16::<8>(v))]
    }
    /// The lower bytes of the halves of both, side by side; the upper ones.
    #[inline(always)]
    pub fn join_bytes(self, even: __m512i, odd: __m512i) -> [__m512i; 2] {
        let mask = self.isplat(0x00ff_00ff);
        let (left, right) = (intrinsic!(_mm512_slli_epi16::<8>(odd)), intrinsic!(_mm512_srli_epi16::<8>(even)));
        let upper = self.isplat(0xff00_ff00_u32 as i32);
        [self.or(self.and(even, mask), left), self.or(right, self.and(odd, upper))]
    }
    /// Each byte: `a - b`, wrapping.
    #[inline(always)]
    pub fn sub_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsic!(_mm512_sub_epi8(a, b))
    }
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const BIASED: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        intrinsic!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, p: &[f32], at: usize) -> Self::F {
        let p = p[at..at + LANES].as_ptr();
        intrinsic!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    fn store(self, v: Self::F, p: &mut [f32], at: usize) {
        let p = p[at..at + LANES].as_mut_ptr();
        intrinsic!(_mm512_storeu_ps(p, v))
    }
    #[inline(always)]
    fn load_f16(self, p: &[u8], at: usize) -> Self::F {
        let p = p[at..at + 32].as_ptr();
        intrinsic!(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    fn load_bf16(self, p: &[u8], at: usize) -> Self::F {
        let p = p[at..at + 32].as_ptr();
        intrinsic!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))))
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        intrinsic!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> Self::I {
        intrinsic!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn iload(self, p: &[u8], at: usize) -> Self::I {
        let p = p[at..at + 64].as_ptr();
        intrinsic!(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    fn load_i8(self, p: &[u8], at: usize) -> Self::I {
        let p = p[at..at + LANES].as_ptr();
        intrinsic!(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    fn load_u8(self, p: &[u8], at: usize) -> Self::I {
        let p = p[at..at + LANES].as_ptr();
        intrinsic!(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    fn load_u16(self, p: &[u8], at: usize) -> Self::I {
        let p = p[at..at + 32].as_ptr();
        intrinsic!(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    fn store_i8(self, v: Self::I, p: &mut [u8], at: usize) {
        let p = p[at..at + LANES].as_mut_ptr();
        intrinsic!(_mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)))
    }
    #[inline(always)]
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn imul(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn imax(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!(_mm512_max_epi32(a, b))
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        intrinsic!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn shl(self, v: Self::I, n: u32) -> Self::I {
        intrinsic!(_mm512_sll_epi32(v, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn shr(self, v: Self::I, n: u32) -> Self::I {
        intrinsic!(_mm512_srl_epi32(v, _mm_cvtsi32_si128(n as i32)))
    }

    #[inline(always)]
    fn load_rows(self, p: &[u8], at: usize, stride: usize) -> [Self::I; 4] {
        let p = rows(p, at, stride).as_ptr();
        intrinsic!({
            // Lane r of four has rows 4r to 4r + 3 in turn; then a transpose of four by four words in each lane.
            let mut v = [_mm512_setzero_si512(); 4];
            for (i, v) in v.iter_mut().enumerate() {
                let p = p.add(i * stride);
                *v = _mm512_castsi128_si512(_mm_loadu_si128(p.cast()));
                *v = _mm512_inserti32x4::<1>(*v, _mm_loadu_si128(p.add(4 * stride).cast()));
                *v = _mm512_inserti32x4::<2>(*v, _mm_loadu_si128(p.add(8 * stride).cast()));
                *v = _mm512_inserti32x4::<3>(*v, _mm_loadu_si128(p.add(12 * stride).cast()));
            }
            let (a, b) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
            let (c, d) = (_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3]));
            [
                _mm512_unpacklo_epi64(a, b),
                _mm512_unpackhi_epi64(a, b),
                _mm512_unpacklo_epi64(c, d),
                _mm512_unpackhi_epi64(c, d),
            ]
        })
    }
    #[inline(always)]
    fn store_words(self, v: Self::I, p: &mut [u8], at: usize) {
        let p = p[at..at + 64].as_mut_ptr();
        intrinsic!(_mm512_storeu_si512(p.cast(), v))
    }
    #[inline(always)]
    fn store_halves(self, v: Self::I, p: &mut [u8], at: usize) {
        let p = p[at..at + 64].as_mut_ptr();
        intrinsic!({
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(v));
            _mm256_storeu_si256(p.add(32).cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(v)));
        })
    }

    #[inline(always)]
    fn to_f32(self, v: Self::I) -> Self::F {
        intrinsic!(_mm512_cvtepi32_ps(v))
    }
    #[inline(always)]
    fn round(self, v: Self::F) -> Self::I {
        intrinsic!(_mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v))
    }
    #[inline(always)]
    fn as_float(self, v: Self::I) -> Self::F {
        intrinsic!(_mm512_castsi512_ps(v))
    }
    #[inline(always)]
    fn as_words(self, v: Self::F) -> Self::I {
        intrinsic!(_mm512_castps_si512(v))
    }

    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        intrinsic!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn dot_signed(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        intrinsic!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn dot_pairs(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        intrinsic!(_mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn scale_half(self, acc: Self::I, sum: Self::I, scale: Self::I) -> Self::I {
        // One operation where a product of words and its sum take three; the upper half of a scale is nothing.
        intrinsic!(_mm512_dpwssd_epi32(acc, sum, scale))
    }
    #[inline(always)]
    fn lookup(self, v: Self::I, table: &[i8; 16]) -> Self::I {
        intrinsic!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), v))
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
