//! Tiles: AMX's eight registers of sixteen rows of 64 bytes, and the products between them.
//!
//! A product takes sixteen rows of activations (A: 64 or 32 bytes of the inner dimension each), the sixteen or eight
//! words of sixteen weight rows that go with them (B: a row is one word of four bytes of each weight row, which is how
//! weights lie anyway) and adds what the bytes' products come to to sixteen times sixteen 32-bit sums (C), exactly.
//!
//! The compiler knows no tile registers, so each block's loads, products and stores are one piece of assembly:
//! nothing is expected in a tile register from one piece to the next, only the shapes, which `Tiles` sets and takes
//! back. It is not `Send`, and while one lives only these functions touch tiles; the system saves them with
//! the thread. After it the thread has no tile state to save.
//!
//! Tiles need the processor (CPUID), the system (XCR0) and, on Linux, a permission that a process asks for once.

use super::Avx512;
use std::arch::asm;
use std::arch::x86_64::__m512i;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Whether this process may use tiles of int8. The first call asks the system for the permission.
pub fn available() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    let allowed = *ALLOWED.get_or_init(|| present() && permitted());
    #[cfg(all(test, target_os = "linux"))]
    let allowed = allowed || crate::hal::cpu::tests::emulator::active();
    allowed
}

/// Whether the processor has tiles of int8 and the system saves them.
fn present() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    /// Says which states the system saves.
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the caller has found OSXSAVE.
        unsafe { _xgetbv(0) }
    }
    // Bit 24: tiles; 25: products of int8.
    const TILES: u32 = 1 << 24 | 1 << 25;
    // Shapes and contents of tiles.
    const STATES: u64 = 1 << 17 | 1 << 18;
    let osxsave = __cpuid(1).ecx >> 27 & 1 == 1;
    let tiles = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES == TILES;
    // SAFETY: the processor has `xgetbv`, which OSXSAVE says.
    osxsave && tiles && unsafe { saved() } & STATES == STATES
}

#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
pub struct Shapes {
    palette: u8,
    first_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row.
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Sums in tiles 0 to 3, activations of `k` bytes in 4 and 5, words of weights in 6 and 7.
    pub const fn of(k: u8) -> Self {
        let (n, words) = (k as u16, k / 4);
        Shapes {
            palette: 1,
            first_row: 0,
            reserved: [0; 14],
            bytes: [64, 64, 64, 64, n, n, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [16, 16, 16, 16, 16, 16, words, words, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

static LONG: Shapes = Shapes::of(64);
static SHORT: Shapes = Shapes::of(32);

/// How integers and sub-scales of a block become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planes {
    /// There are no sub-scales: the integers, signed.
    Integers,
    /// Products with the sub-scale, which fit in unsigned bytes.
    Products,
    /// Products with the lower bits of the sub-scale (so many) and with the upper ones: both fit in unsigned bytes.
    Factors(u32),
    /// Products with the sub-scale in 16 bits: the lower bytes, unsigned, and the upper ones, signed.
    Halves,
}

/// Sixteen by sixteen sums.
pub type Square = [__m512i; 16];

/// The tiles of this thread, in one of two shapes.
pub struct Tiles(PhantomData<*const ()>);

/// Integers of sixteen activation rows.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Of the first row.
    pub start: *const u8,
    /// Bytes from a row to the next.
    pub stride: usize,
}

/// Assembly over four chunks of 64 bytes: clears the sums, does `each` for chunk `i`, stores the sums.
macro_rules! superblock {
    ([$($sum:literal)*] [$($each:expr),*] $b:ident $c:ident $($operand:tt)*) => {
        asm!(
            $(concat!("tilezero tmm", $sum),)*
            ".irp i, 0, 1, 2, 3",
            $($each,)*
            ".endr",
            $(concat!("tilestored [{c} + {l}*1 + 1024*", $sum, "], tmm", $sum),)*
            b = in(reg) $b,
            c = in(reg) $c,
            l = in(reg) 64usize,
            $($operand)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        )
    };
}

/// Loads of a chunk: of the first or the other activation rows, of the first or the second plane.
macro_rules! load {
    (rows) => {
        "tileloadd tmm4, [{r} + {rs}*1 + 64*\\i]"
    };
    (others) => {
        "tileloadd tmm5, [{o} + {os}*1 + 64*\\i]"
    };
    (first) => {
        "tileloadd tmm6, [{b} + {l}*1 + 2048*\\i]"
    };
    (second) => {
        "tileloadd tmm7, [{b} + {l}*1 + 2048*\\i + 1024]"
    };
}

/// Products of one or two sixteens of rows with two planes, the second by the instruction `$by`.
macro_rules! two_planes {
    ($by:literal, $rows:ident, $others:ident, $b:ident, $c:ident) => {
        match $others {
            None => superblock!([0 1] [
                load!(rows), load!(first), "tdpbsud tmm0, tmm4, tmm6",
                load!(second), concat!($by, " tmm1, tmm4, tmm7")
            ] $b $c r = in(reg) $rows.start, rs = in(reg) $rows.stride,),
            Some(others) => superblock!([0 1 2 3] [
                load!(rows), load!(first), "tdpbsud tmm0, tmm4, tmm6",
                load!(second), concat!($by, " tmm1, tmm4, tmm7"),
                load!(others), "tdpbsud tmm2, tmm5, tmm6", concat!($by, " tmm3, tmm5, tmm7")
            ] $b $c r = in(reg) $rows.start, rs = in(reg) $rows.stride,
              o = in(reg) others.start, os = in(reg) others.stride,),
        }
    };
}

/// One product over 32 bytes, in tiles of its own.
macro_rules! block {
    ($sum:literal $a:literal $w:literal, $rows:ident, $b:ident, $c:ident) => {
        asm!(
            concat!("tilezero tmm", $sum),
            concat!("tileloadd tmm", $a, ", [{r} + {rs}*1]"),
            concat!("tileloadd tmm", $w, ", [{b} + {l}*1]"),
            concat!("tdpbssd tmm", $sum, ", tmm", $a, ", tmm", $w),
            concat!("tilestored [{c} + {l}*1], tmm", $sum),
            r = in(reg) $rows.start,
            rs = in(reg) $rows.stride,
            b = in(reg) $b,
            c = in(reg) $c,
            l = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        )
    };
}

impl Tiles {
    /// Shapes for products over 64 bytes (`superblock`), or over 32 (`block`).
    ///
    /// # Safety
    /// `available()` was true.
    #[inline(always)]
    pub unsafe fn new(_: Avx512, short: bool) -> Self {
        let shapes = if short { &SHORT } else { &LONG };
        // SAFETY: the caller's promise; the shapes are valid, and no compiled code keeps anything in tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly)) };
        Tiles(PhantomData)
    }

    /// Sums over 256 bytes of sixteen rows, and of sixteen others: of the first plane in squares 0 and 2, of the second
    /// (if there is one) in 1 and 3. Each sixteen words of `words` are followed by sixteen of the second plane.
    ///
    /// # Safety
    /// The shapes are the long ones, and 256 bytes of each row are readable.
    #[inline(always)]
    pub unsafe fn superblock(
        &self,
        planes: Planes,
        rows: Rows,
        others: Option<Rows>,
        words: &[__m512i; 128],
        sums: &mut [Square; 4],
    ) {
        let (b, c) = (words.as_ptr(), sums.as_mut_ptr());
        // SAFETY: the tiles have shapes. Loads of chunk i below 4 read 64 bytes of each row, which the caller promises,
        // and 1 KiB of `words` at 2 or 2 and 1 times i; square n is stored to sum n.
        unsafe {
            match planes {
                Planes::Halves => two_planes!("tdpbssd", rows, others, b, c),
                Planes::Factors(_) => two_planes!("tdpbsud", rows, others, b, c),
                Planes::Integers | Planes::Products => match others {
                    None => superblock!([0] [
                        load!(rows), load!(first), "tdpbsud tmm0, tmm4, tmm6"
                    ] b c r = in(reg) rows.start, rs = in(reg) rows.stride,),
                    Some(others) => superblock!([0 2] [
                        load!(rows), load!(first), "tdpbsud tmm0, tmm4, tmm6",
                        load!(others), "tdpbsud tmm2, tmm5, tmm6"
                    ] b c r = in(reg) rows.start, rs = in(reg) rows.stride,
                      o = in(reg) others.start, os = in(reg) others.stride,),
                },
            }
        }
    }

    /// Sums over 32 bytes of sixteen rows. Blocks of different parity take different tiles, so that they overlap.
    ///
    /// # Safety
    /// The shapes are the short ones, and 32 bytes of each row are readable.
    #[inline(always)]
    pub unsafe fn block(&self, odd: bool, rows: Rows, words: &[__m512i; 8], sums: &mut Square) {
        let (b, c) = (words.as_ptr(), sums.as_mut_ptr());
        // SAFETY: the tiles have shapes. Loads read 32 bytes of each row, which the caller promises, and eight words;
        // the store writes the square.
        unsafe {
            if odd {
                block!(1 5 7, rows, b, c);
            } else {
                block!(0 4 6, rows, b, c);
            }
        }
    }
}

/// Operations of a round of `spin`: six products, each of 16 * 16 * 64 multiplications and as many additions.
pub const SPIN: f64 = 6.0 * 2.0 * (16 * 16 * 64) as f64;

/// Rounds (at least one) of six independent products of whole tiles, nothing loaded: all that tiles can compute.
///
/// # Safety
/// `available()` was true.
pub unsafe fn spin(rounds: u64) {
    // SAFETY: the caller's promise, which implies AVX-512; only tiles change, which are declared as overwritten and
    // begin as zeros, and the counter reaches zero.
    unsafe {
        let _tiles = Tiles::new(Avx512::new(), false);
        asm!(
            "2:",
            ".irp i, 0, 1, 2, 3, 4, 5",
            "tdpbssd tmm\\i, tmm6, tmm7",
            ".endr",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the value exists, so there are tiles.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}
