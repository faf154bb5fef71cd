//! Sixteen lanes: the vocabulary that all kernels are written in.
//!
//! A kernel is written once, generic over `Simd`, and instantiated for each instruction set (`isa.rs`). `F` is
//! sixteen float32, `I` sixteen 32-bit words (often four bytes of each of sixteen rows). Every method is one exactly
//! defined operation: IEEE arithmetic without contraction, or integer arithmetic that wraps. So equal bits under all
//! instruction sets follow from equal primitives, which a test compares; `scalar.rs` is the definition.
//!
//! A value of an implementing type proves that the processor has its instructions: it is made only inside
//! functions that were selected after detection. Loads and stores take slices with an offset and are checked; offsets are
//! constants after inlining almost everywhere. Kernels must be `#[inline(always)]` and free of closures,
//! or they would be compiled without the instruction set of the function that calls them.

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use scalar::Scalar;

/// Lanes of a vector, rows of a weight group, lanes of every reduction: part of the arithmetic.
pub const LANES: usize = 16;

/// The bytes from `at` to the end of the last of sixteen rows of sixteen bytes, each `stride` bytes behind the one before.
#[inline(always)]
fn rows(p: &[u8], at: usize, stride: usize) -> &[u8] {
    &p[at..][..stride.saturating_mul(LANES - 1).saturating_add(16)]
}

/// Sixteen-lane operations of one instruction set.
pub trait Simd: Copy {
    /// Sixteen float32.
    type F: Copy;
    /// Sixteen 32-bit words.
    type I: Copy;

    /// Whether `dot_signed` expects weight bytes with their top bit flipped and a sum that starts at -128 times
    /// the sum of the other operand. The result is the same.
    const BIASED: bool;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Lanes `p[at..at + 16]`.
    fn load(self, p: &[f32], at: usize) -> Self::F;
    /// Writes lanes to `p[at..at + 16]`.
    fn store(self, v: Self::F, p: &mut [f32], at: usize);
    /// Sixteen little-endian float16 from byte `at`.
    fn load_f16(self, p: &[u8], at: usize) -> Self::F;
    /// Sixteen little-endian bfloat16 from byte `at`.
    fn load_bf16(self, p: &[u8], at: usize) -> Self::F;
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: b where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: b where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;

    /// All lanes `x`.
    fn isplat(self, x: i32) -> Self::I;
    /// Sixteen little-endian words from byte `at`.
    fn iload(self, p: &[u8], at: usize) -> Self::I;
    /// Sixteen signed bytes from byte `at`, widened.
    fn load_i8(self, p: &[u8], at: usize) -> Self::I;
    /// Sixteen unsigned bytes from byte `at`, widened.
    fn load_u8(self, p: &[u8], at: usize) -> Self::I;
    /// Sixteen unsigned little-endian 16-bit words from byte `at`, widened.
    fn load_u16(self, p: &[u8], at: usize) -> Self::I;
    /// Writes the low bytes of the lanes to `p[at..at + 16]`.
    fn store_i8(self, v: Self::I, p: &mut [u8], at: usize);
    /// `a + b`, wrapping.
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a * b`, wrapping.
    fn imul(self, a: Self::I, b: Self::I) -> Self::I;
    /// Signed maximum.
    fn imax(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a & b`
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a | b`
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a ^ b`
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// `v << n`, n below 32.
    fn shl(self, v: Self::I, n: u32) -> Self::I;
    /// `v >> n`, logical, n below 32.
    fn shr(self, v: Self::I, n: u32) -> Self::I;

    /// Sixteen rows of sixteen bytes, the first at byte `at`, each `stride` bytes behind the one before it: vector `w`
    /// has word `w` of all rows.
    fn load_rows(self, p: &[u8], at: usize, stride: usize) -> [Self::I; 4];
    /// Writes the lanes to `p[at..at + 64]`.
    fn store_words(self, v: Self::I, p: &mut [u8], at: usize);
    /// Writes the lower halves of the lanes, then the upper ones, to `p[at..at + 64]`.
    fn store_halves(self, v: Self::I, p: &mut [u8], at: usize);

    /// Signed words to float32, to nearest even.
    fn to_f32(self, v: Self::I) -> Self::F;
    /// To the nearest integer, ties to even, for magnitudes below 2^22 (anything for others).
    fn round(self, v: Self::F) -> Self::I;
    /// The words as float32.
    fn as_float(self, v: Self::I) -> Self::F;
    /// The float32 as words.
    fn as_words(self, v: Self::F) -> Self::I;

    /// Each lane: `acc + sum of four w_byte * x_byte`, w unsigned and at most 127, x signed and at least -127.
    fn dot(self, acc: Self::I, w: Self::I, x: i32) -> Self::I;
    /// The same with signed w bytes, in the form that `signed_weight` gives them.
    fn dot_signed(self, acc: Self::I, w: Self::I, x: i32) -> Self::I;
    /// Each lane: `acc + sum of two w_half * x_half`, halves signed.
    fn dot_pairs(self, acc: Self::I, w: Self::I, x: i32) -> Self::I;
    /// Each lane: `acc + sum * scale`, where `sum` fits into a signed half and `scale` is in `0 ..= 32767`.
    fn scale_half(self, acc: Self::I, sum: Self::I, scale: Self::I) -> Self::I;
    /// Each byte (0 to 15) replaced by its entry of the table.
    fn lookup(self, v: Self::I, table: &[i8; 16]) -> Self::I;
    /// Asks for the cache line that lies `ahead` bytes behind the start of `p`, wherever that is.
    fn prefetch(self, p: &[u8], ahead: usize);
    /// The same, no nearer than the second-level cache.
    fn prefetch_second(self, p: &[u8], ahead: usize);

    /// Sixteen signed weight bytes quads as `dot_signed` wants them.
    #[inline(always)]
    fn signed_weight(self, w: Self::I) -> Self::I {
        if Self::BIASED { self.xor(w, self.isplat(0x8080_8080_u32 as i32)) } else { w }
    }
}

#[cfg(test)]
mod tests;
