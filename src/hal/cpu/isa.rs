//! Instruction sets: which there are, which one runs, and the kernels instantiated for each.
//!
//! Every kernel is one generic body (`Simd`); here it is compiled once for each set, under the target features that
//! the set needs. All sets compute the same bits, so the choice is only one of speed: the best that the processor
//! has, unless `AIR_CPU` or the caller names one.

use super::activation::{Block32, Block256, RowBlocks, quantise};
use super::attention::{self, Part, Segment, Softmax, Tile};
use super::interleave::{Step, interleave};
use super::math;
use super::matmul::{self, Bf16, F16, F32, FloatFormat, IntFormat, Room, Task, multiply_float, multiply_int};
use super::read::read;
use super::simd::Scalar;
use crate::error::{Error, Result};
use crate::quant::Kind;

/// A set of instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// What the compiler's target has.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The same, and tiles of int8 for products of many rows.
    Amx,
}

impl Isa {
    /// All sets, best first.
    pub const ALL: [Isa; 4] = [Isa::Amx, Isa::Avx512, Isa::Avx2, Isa::Scalar];

    /// As `AIR_CPU` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// As people read it.
    pub fn title(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "AVX2",
            Isa::Avx512 => "AVX-512 VNNI",
            Isa::Amx => "AVX-512 VNNI + AMX int8",
        }
    }

    /// Whether this processor has it, and the system lets this process use it.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => avx2(),
            Isa::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::Amx => Isa::Avx512.available() && super::simd::amx::available(),
        }
    }

    /// Whether this processor has it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available(self) -> bool {
        self == Isa::Scalar
    }

    /// The set that was asked for, by the caller or by name (`AIR_CPU`), or else the best one.
    ///
    /// # Errors
    /// `Invalid` for an unknown name, `Unsupported` where the processor lacks the set.
    pub fn choose(wanted: Option<Isa>, name: Option<&str>) -> Result<Self> {
        let names: Vec<&str> = Isa::ALL.iter().rev().map(|i| i.name()).collect();
        let by_name = |n: &str| {
            let known = Isa::ALL.into_iter().find(|i| i.name() == n);
            known.ok_or_else(|| Error::Invalid(format!("AIR_CPU={n} is unknown; use one of {}", names.join(", "))))
        };
        let isa = match (wanted, name) {
            (Some(isa), _) => isa,
            (None, Some(n)) => by_name(n)?,
            (None, None) => Isa::ALL.into_iter().find(|i| i.available()).unwrap_or(Isa::Scalar),
        };
        if !isa.available() {
            let have: Vec<&str> = Isa::ALL.into_iter().filter(|i| i.available()).map(Isa::name).collect();
            return Err(Error::Unsupported {
                what: format!("the instruction set {} (AIR_CPU) on this processor", isa.name()),
                instead: format!("it has {}", have.join(", ")),
            });
        }
        Ok(isa)
    }

    /// Reads memory with the set's vectors: all chunks of 256 bytes, and asks for lines that lie `ahead` bytes behind them,
    /// if that is not 0. What comes back depends on every byte.
    ///
    /// # Panics
    /// Where the set is not available.
    pub fn read(self, bytes: &[u8], ahead: usize) -> u64 {
        // SAFETY: `kernels` asserts that the processor has the set.
        unsafe { (self.kernels().read)(bytes, ahead) }
    }

    /// The set's kernels; `Isa::choose` said that it is available.
    pub(super) fn kernels(self) -> &'static Kernels {
        assert!(self.available(), "an unavailable instruction set was chosen");
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => &amx::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::KERNELS,
            _ => &scalar::KERNELS,
        }
    }
}

/// Most activation rows of a task: their blocks that meet one step of weights stay in the second-level cache, and
/// weights are unpacked once for all of them.
const ROWS: usize = 256;

/// A matrix product for one format.
pub type Multiply = unsafe fn(&Task, &mut Room);
/// Sixteen rows of weights interleaved.
pub type Interleave = unsafe fn(&[Step], usize, &[u8], &mut [u8]);
/// Weights of a segment for a tile of queries.
pub type ScoresKernel = unsafe fn(&Segment, &Tile, &mut Part);
/// Sums of a segment's values.
pub type ValuesKernel = unsafe fn(&Segment, &mut Part);

/// One set's kernels. Calling them is safe as long as the processor has the set, which `Isa::kernels` asserts;
/// `quantise*` also ask that the row's blocks are the caller's own.
#[derive(Debug)]
pub struct Kernels {
    pub multiply: fn(Kind) -> Multiply,
    /// Most activation rows of a task.
    pub rows: fn(Kind) -> usize,
    pub interleave: Interleave,
    pub quantise32: unsafe fn(&[f32], RowBlocks<Block32>),
    pub quantise256: unsafe fn(&[f32], RowBlocks<Block256>),
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub silu_glu: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub softmax: unsafe fn(&[f32], &mut [f32]),
    /// Most queries of a tile; smaller ones have half as many, and so on.
    pub tile: usize,
    /// For a key format and a number of queries.
    pub scores: fn(Kind, usize) -> ScoresKernel,
    /// For a value format and a number of queries.
    pub values: fn(Kind, usize) -> ValuesKernel,
    /// Adds a segment's sums to those of a number of queries.
    pub fold: unsafe fn(&Softmax, &mut Softmax, usize),
    pub read: unsafe fn(&[u8], usize) -> u64,
}

/// The product of a format, out of the one for plain formats and the one for quantised ones.
macro_rules! by_kind {
    ($kind:expr, $float:path, $int:path) => {{
        use $float as float;
        use $int as int;
        match $kind {
            Kind::F32 => float::<F32>,
            Kind::F16 => float::<F16>,
            Kind::BF16 => float::<Bf16>,
            Kind::Q4_0 => int::<matmul::Q4_0>,
            Kind::Q4_1 => int::<matmul::Q4_1>,
            Kind::Q5_0 => int::<matmul::Q5_0>,
            Kind::Q5_1 => int::<matmul::Q5_1>,
            Kind::Q8_0 => int::<matmul::Q8_0>,
            Kind::Q2_K => int::<matmul::Q2K>,
            Kind::Q3_K => int::<matmul::Q3K>,
            Kind::Q4_K => int::<matmul::Q4K>,
            Kind::Q5_K => int::<matmul::Q5K>,
            Kind::Q6_K => int::<matmul::Q6K>,
            Kind::IQ4_NL => int::<matmul::Iq4Nl>,
            Kind::IQ4_XS => int::<matmul::Iq4Xs>,
            Kind::MXFP4 => int::<matmul::Mxfp4>,
        }
    }};
}

macro_rules! kernels {
    (
        $set:ident, $token:expr,
        $most:literal [$($queries:literal $panels:literal $vectors:literal),+]
        $(, $features:literal)?
    ) => {
        mod $set {
            use super::*;

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn int<F: IntFormat>(task: &Task, room: &mut Room) {
                multiply_int::<_, F>($token, task, &mut room.sums);
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn float<F: FloatFormat>(task: &Task, room: &mut Room) {
                multiply_float::<_, F>($token, task, &mut room.sums);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn interleaved(steps: &[Step], period: usize, rows: &[u8], group: &mut [u8]) {
                interleave($token, steps, period, rows, group);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn quantise32(x: &[f32], out: RowBlocks<Block32>) {
                let token = $token;
                // SAFETY: the caller's promise.
                unsafe { quantise(token, x, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn quantise256(x: &[f32], out: RowBlocks<Block256>) {
                let token = $token;
                // SAFETY: the caller's promise.
                unsafe { quantise(token, x, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                math::rms_norm($token, x, weight, eps, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn silu_glu(gate: &[f32], up: &[f32], out: &mut [f32]) {
                math::silu_glu($token, gate, up, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax(x: &[f32], out: &mut [f32]) {
                math::softmax($token, x, out);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn scores<K: attention::KeyFormat, const T: usize, const P: usize>(
                segment: &Segment,
                tile: &Tile,
                part: &mut Part,
            ) {
                attention::scores::<_, K, T, P>($token, segment, tile, part);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn values<V: attention::ValueFormat, const T: usize, const C: usize>(
                segment: &Segment,
                part: &mut Part,
            ) {
                attention::values::<_, V, T, C>($token, segment, part);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn fold(part: &Softmax, sums: &mut Softmax, queries: usize) {
                attention::fold($token, part, sums, queries);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn read_all(bytes: &[u8], ahead: usize) -> u64 {
                read($token, bytes, ahead)
            }

            fn scores_of<K: attention::KeyFormat>(queries: usize) -> ScoresKernel {
                match queries {
                    $($queries => scores::<K, $queries, $panels>,)+
                    other => unreachable!("no tile has {other} queries"),
                }
            }
            fn values_of<V: attention::ValueFormat>(queries: usize) -> ValuesKernel {
                match queries {
                    $($queries => values::<V, $queries, $vectors>,)+
                    other => unreachable!("no tile has {other} queries"),
                }
            }

            pub static KERNELS: Kernels = Kernels {
                multiply: |kind| by_kind!(kind, self::float, self::int),
                rows: |_| ROWS,
                interleave: interleaved,
                quantise32,
                quantise256,
                rms_norm,
                silu_glu,
                softmax,
                tile: $most,
                fold,
                read: read_all,
                scores: |kind, queries| match kind {
                    Kind::F32 => scores_of::<attention::F32>(queries),
                    Kind::F16 => scores_of::<attention::F16>(queries),
                    Kind::Q8_0 => scores_of::<attention::Q8_0>(queries),
                    Kind::Q4_0 => scores_of::<attention::Q4_0>(queries),
                    other => unreachable!("Pages::new admits no state in {other:?}"),
                },
                values: |kind, queries| match kind {
                    Kind::F32 => values_of::<attention::F32>(queries),
                    Kind::F16 => values_of::<attention::F16>(queries),
                    Kind::Q8_0 => values_of::<attention::Q8_0>(queries),
                    Kind::Q4_0 => values_of::<attention::Q4_0>(queries),
                    other => unreachable!("Pages::new admits no state in {other:?}"),
                },
            };
        }
    };
}

// Of attention: most queries of a tile; then for each tile its queries, panels of keys and vectors of values that are
// computed together: as many as there are registers for their sums.
kernels!(scalar, Scalar, 4 [4 1 1, 2 2 2, 1 2 4]);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx2,
    // SAFETY: these functions are reached only through `Isa::kernels`, which checked the features.
    unsafe { super::super::simd::Avx2::new() },
    4 [4 1 1, 2 2 2, 1 2 4],
    "avx2,fma,f16c"
);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512,
    // SAFETY: these functions are reached only through `Isa::kernels`, which checked the features.
    unsafe { super::super::simd::Avx512::new() },
    8 [8 2 2, 4 2 4, 2 2 4, 1 2 4],
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
);

/// The kernels of AVX-512, but for products of many rows with quantised formats.
#[cfg(target_arch = "x86_64")]
mod amx {
    use super::super::matmul::{Form, amx};
    use super::super::simd::Avx512;
    use super::*;

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn int<F: amx::TileFormat>(task: &Task, room: &mut Room) {
        if task.pairs.len() < amx::LEAST {
            // SAFETY: who has tiles has AVX-512.
            return unsafe { avx512::int::<F>(task, room) };
        }
        // SAFETY: this function is reached only through `Isa::kernels`, which checked the features.
        unsafe { amx::multiply_tiles::<F>(Avx512::new(), task, room) }
    }

    pub static KERNELS: Kernels = Kernels {
        multiply: |kind| by_kind!(kind, super::avx512::float, self::int),
        rows: |kind| if Form::of(kind) == Form::Plain { ROWS } else { amx::ROWS },
        ..avx512::KERNELS
    };
}
