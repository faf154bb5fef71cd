//! What the cores compute: the limit of reading prompts.
//!
//! Twelve independent sums in registers, nothing loaded: the rate of the instructions that matrix products are made of.
//! int8 is unsigned times signed bytes added up in 32 bits, float32 a fused multiply and add; each product and each
//! addition is an operation. The operands are zero, which costs the least power, so the clock is the best case too.

use crate::error::{Error, Result};

/// Operations per second of all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arithmetic {
    /// The instruction set.
    pub set: &'static str,
    /// Of 8-bit integers.
    pub int8: f64,
    /// Of float32.
    pub f32: f64,
}

/// Measures the best instruction set of this processor.
///
/// # Errors
/// `Unsupported` where air has no vector kernels.
pub fn arithmetic(threads: usize) -> Result<Arithmetic> {
    #[cfg(target_arch = "x86_64")]
    if let Some(set) = x86::SETS.iter().find(|s| (s.available)()) {
        let rate = |body: &x86::Body| x86::rate(body, threads);
        return Ok(Arithmetic { set: set.name, int8: rate(&set.int8), f32: rate(&set.f32) });
    }
    let _ = threads;
    Err(Error::Unsupported {
        what: "measuring the arithmetic of a processor without AVX2".into(),
        instead: "memory and drive are measured on all".into(),
    })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::sync::Barrier;
    use std::time::{Duration, Instant};

    /// Rounds between looks at the clock: a fraction of a millisecond.
    const ROUNDS: u64 = 20_000;
    const TIME: Duration = Duration::from_millis(100);
    const TRIES: usize = 3;

    /// A loop of twelve accumulations a round.
    pub struct Body {
        /// Runs that many rounds.
        run: unsafe fn(u64),
        /// Operations of a round.
        ops: f64,
    }

    /// An instruction set; its bodies may run where it is available.
    pub struct Set {
        pub name: &'static str,
        pub available: fn() -> bool,
        pub int8: Body,
        pub f32: Body,
    }

    /// Best first.
    pub static SETS: [Set; 2] = [
        Set {
            name: "AVX-512 VNNI",
            available: || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"),
            int8: Body { run: vnni512, ops: 12.0 * 128.0 },
            f32: Body { run: fma512, ops: 12.0 * 32.0 },
        },
        Set {
            name: "AVX2",
            available: || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            int8: Body { run: maddubs256, ops: 12.0 * 64.0 },
            f32: Body { run: fma256, ops: 12.0 * 16.0 },
        },
    ];

    /// Operations per second of `threads` threads that run a body at the same time; the best of a few tries.
    pub fn rate(body: &Body, threads: usize) -> f64 {
        let once = || {
            let barrier = Barrier::new(threads.max(1));
            let work = || {
                barrier.wait();
                let (start, mut rounds) = (Instant::now(), 0);
                while start.elapsed() < TIME {
                    // SAFETY: the set that the body belongs to was found available; it touches registers only.
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
        assert!(one.int8 > 0.0 && one.f32 > 0.0 && two.int8 > 0.0 && two.f32 > 0.0, "{one:?} {two:?}");
    }
}
