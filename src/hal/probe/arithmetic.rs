//! What the cores compute: the limit of reading prompts.
//!
//! Twelve independent sums in registers (six where they are tiles), nothing loaded: the rate of the instructions that
//! matrix products are made of. int8 is unsigned times signed bytes added up in 32 bits, bfloat16 pairs of products
//! added up in float32, float32 a fused multiply and add; each product and each addition is an operation. The operands
//! are zero, which costs the least power, so the clock is the best case too.

use crate::error::{Error, Result};
use crate::hal::cpu::Isa;

/// Operations per second of all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arithmetic {
    /// The instruction set.
    pub set: &'static str,
    /// Of 8-bit integers.
    pub int8: f64,
    /// Of bfloat16, where there are instructions for it.
    pub bf16: Option<f64>,
    /// Of float32.
    pub f32: f64,
}

/// Measures the instruction set that kernels use: `AIR_CPU`, else the best one.
///
/// # Errors
/// Those of `Isa::choose`; `Unsupported` for the set of no instructions in particular.
pub fn arithmetic(threads: usize) -> Result<Arithmetic> {
    let named = std::env::var("AIR_CPU").ok();
    let isa = Isa::choose(None, named.as_deref())?;
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => Ok(x86::rates(isa, &x86::AMX, threads)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Ok(x86::rates(isa, &x86::AVX512, threads)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Ok(x86::rates(isa, &x86::AVX2, threads)),
        _ => Err(Error::Unsupported {
            what: format!("measuring the arithmetic of {} kernels with {threads} threads", isa.name()),
            instead: "memory and drive are measured on all processors".into(),
        }),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Arithmetic, Isa};
    use crate::hal::cpu::amx;
    use std::arch::asm;
    use std::sync::Barrier;
    use std::time::{Duration, Instant};

    /// Rounds between looks at the clock: tens of microseconds, of tiles hundreds.
    const ROUNDS: u64 = 5_000;
    /// Tries are short and many, so that some are undisturbed on a machine that has other work.
    const TIME: Duration = Duration::from_millis(5);
    const TRIES: usize = 40;

    /// A loop of independent accumulations.
    pub struct Body {
        /// Runs that many rounds.
        run: unsafe fn(u64),
        /// Operations of a round.
        ops: f64,
    }

    /// Under one instruction set; they may run where `Isa` has found it available.
    pub struct Bodies {
        int8: Body,
        /// It may run where `bf16` says so.
        bf16: Option<Body>,
        f32: Body,
    }

    /// Tiles multiply int8 alone: no kernel uses them for bfloat16.
    pub static AMX: Bodies = Bodies {
        int8: Body { run: amx::spin, ops: amx::SPIN },
        bf16: Some(Body { run: bf16_512, ops: 12.0 * 64.0 }),
        f32: Body { run: fma512, ops: 12.0 * 32.0 },
    };
    pub static AVX512: Bodies = Bodies {
        int8: Body { run: vnni512, ops: 12.0 * 128.0 },
        bf16: Some(Body { run: bf16_512, ops: 12.0 * 64.0 }),
        f32: Body { run: fma512, ops: 12.0 * 32.0 },
    };
    pub static AVX2: Bodies = Bodies {
        int8: Body { run: maddubs256, ops: 12.0 * 64.0 },
        bf16: None,
        f32: Body { run: fma256, ops: 12.0 * 16.0 },
    };

    /// Whether the processor multiplies bfloat16 in AVX-512 registers.
    fn bf16() -> bool {
        is_x86_feature_detected!("avx512bf16")
    }

    /// Of all kinds.
    pub fn rates(isa: Isa, bodies: &Bodies, threads: usize) -> Arithmetic {
        Arithmetic {
            set: isa.title(),
            int8: rate(&bodies.int8, threads),
            bf16: bodies.bf16.as_ref().filter(|_| bf16()).map(|body| rate(body, threads)),
            f32: rate(&bodies.f32, threads),
        }
    }

    /// Operations per second of `threads` threads that run a body at the same time; the best of the tries.
    fn rate(body: &Body, threads: usize) -> f64 {
        let once = || {
            let barrier = Barrier::new(threads.max(1));
            let work = || {
                barrier.wait();
                let (start, mut rounds) = (Instant::now(), 0);
                while start.elapsed() < TIME {
                    // SAFETY: the processor has the set, or `Isa::choose` would have refused; the body touches only
                    // registers.
                    unsafe { (body.run)(ROUNDS) };
                    rounds += ROUNDS;
                }
                rounds as f64 * body.ops / start.elapsed().as_secs_f64()
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
                threads.into_iter().map(|t| t.join().expect("counting does not panic")).sum::<f64>()
            })
        };
        (0..TRIES).map(|_| once()).fold(0.0, f64::max)
    }

    /// Lines for each of twelve registers, whose number goes between the parts.
    macro_rules! lines {
        ($($part:literal),*) => {
            lines!(@ ($($part),*) "0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11")
        };
        (@ $parts:tt $($n:literal)*) => { concat!($(lines!(# $n $parts)),*) };
        (# $n:literal ($a:literal, $b:literal)) => { concat!($a, $n, $b, "\n") };
        (# $n:literal ($a:literal, $b:literal, $c:literal)) => { concat!($a, $n, $b, $n, $c, "\n") };
    }

    /// A function that runs instructions over and over; all registers are zero.
    macro_rules! body {
        ($name:ident, $features:literal, $each:expr) => {
            #[target_feature(enable = $features)]
            unsafe fn $name(rounds: u64) {
                // SAFETY: only registers change, which are declared as overwritten, and the counter reaches zero.
                unsafe {
                    asm!(
                        "vzeroall",
                        "2:",
                        $each,
                        "dec rcx",
                        "jnz 2b",
                        inout("rcx") rounds.max(1) => _,
                        clobber_abi("C"),
                        options(nomem, nostack),
                    );
                }
            }
        };
    }

    // `vzeroall` clears the first sixteen vector registers, so there are no more.
    body!(vnni512, "avx512f,avx512vnni", lines!("vpdpbusd zmm", ", zmm14, zmm15"));
    body!(bf16_512, "avx512f,avx512bf16", lines!("vdpbf16ps zmm", ", zmm14, zmm15"));
    body!(fma512, "avx512f", lines!("vfmadd231ps zmm", ", zmm14, zmm15"));
    body!(fma256, "avx2,fma", lines!("vfmadd231ps ymm", ", ymm14, ymm15"));
    // AVX2 has no such instruction: pairs in 16 bits, pairs of those in 32, and the sum.
    body!(
        maddubs256,
        "avx2",
        lines!("vpmaddubsw ymm12, ymm13, ymm14\nvpmaddwd ymm12, ymm12, ymm15\nvpaddd ymm", ", ymm12, ymm", "")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_is_measured() {
        let Ok(one) = arithmetic(1) else { return };
        let two = arithmetic(2).unwrap();
        for a in [&one, &two] {
            assert!(a.int8 > 0.0 && a.f32 > 0.0 && a.bf16.is_none_or(|r| r > 0.0), "{a:?}");
        }
        #[cfg(target_arch = "x86_64")]
        assert_eq!(one.bf16.is_some(), one.set.starts_with("AVX-512") && is_x86_feature_detected!("avx512bf16"));
    }
}
