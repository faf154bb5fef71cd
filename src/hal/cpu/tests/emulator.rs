//! AMX for processors that have none: a handler of SIGILL that does what the tile instructions would do.
//!
//! On a processor without them, tile instructions are illegal and raise the signal. The handler decodes those that
//! kernels use, computes on this thread's own tiles and steps over them, so tests run the machine code that a
//! processor with tiles would run. Meaning and faults are written after the pseudo code of Intel's manual (volume 2,
//! "Intel AMX instruction reference"). Anything else, and whatever would fault there, gets the default action: the
//! process dies of the signal at that instruction.
//!
//! Only threads that ask (`install`) see tiles as available, so other tests of the process choose what the machine has.

use std::arch::asm;
use std::cell::{Cell, RefCell};
use std::sync::Once;

/// A decoded instruction. Addresses are of memory, strides in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    Configure {
        from: u64,
    },
    Release,
    Zero {
        tile: usize,
    },
    Load {
        tile: usize,
        from: u64,
        stride: u64,
    },
    Store {
        tile: usize,
        to: u64,
        stride: u64,
    },
    /// Whether bytes are signed: of `a`, of `b`.
    Product {
        sum: usize,
        a: usize,
        b: usize,
        signed: (bool, bool),
    },
}
use Instruction::*;

/// The instruction at the start of `code` and its length. `registers` are in the order of their encoding.
pub fn decode(code: &[u8], registers: &[u64; 16]) -> Option<(Instruction, usize)> {
    let [0xc4, one, two, opcode, modrm, ..] = *code else { return None };
    // VEX in three bytes: map 0F38, W 0, 128 bits, and R, which would extend the tile in `reg`.
    if one & 0x9f != 0x82 || two & 0x84 != 0 {
        return None;
    }
    let (prefix, third) = (two & 3, usize::from(!two >> 3 & 15));
    let (kind, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    let memory = kind != 3;
    match (opcode, prefix) {
        (0x49, 0) if modrm == 0xc0 && third == 0 => Some((Release, 5)),
        (0x49, 0) if memory && reg == 0 && third == 0 => {
            let (at, index, length) = address(code, registers)?;
            Some((Configure { from: at.wrapping_add(index) }, length))
        }
        (0x49, 3) if !memory && rm == 0 && third == 0 => Some((Zero { tile: reg }, 5)),
        (0x4b, 2 | 3) if memory && rm == 4 && third == 0 => {
            let (at, stride, length) = address(code, registers)?;
            let load = Load { tile: reg, from: at, stride };
            Some((if prefix == 3 { load } else { Store { tile: reg, to: at, stride } }, length))
        }
        (0x5e, _) if !memory && third < 8 && one & 0x20 != 0 => {
            let signed = (prefix & 2 != 0, prefix & 1 != 0);
            Some((Product { sum: reg, a: rm, b: third, signed }, 5))
        }
        _ => None,
    }
}

/// The memory operand of an instruction: base plus displacement, scaled index, length of the instruction.
fn address(code: &[u8], registers: &[u64; 16]) -> Option<(u64, u64, usize)> {
    let (extend_base, extend_index) = (code[1] & 0x20 == 0, code[1] & 0x40 == 0);
    let (kind, rm) = (code[4] >> 6, code[4] & 7);
    let (mut base, mut index, mut next) = (rm, None, 5);
    if rm == 4 {
        let sib = *code.get(5)?;
        let number = sib >> 3 & 7 | if extend_index { 8 } else { 0 };
        // Number 4 is no index.
        index = (number != 4).then(|| registers[usize::from(number)] << (sib >> 6));
        (base, next) = (sib & 7, 6);
    }
    if kind == 0 && base == 5 {
        // No base, or the next instruction's address: kernels have neither.
        return None;
    }
    let displacement = match kind {
        0 => 0,
        1 => i64::from(*code.get(next)? as i8),
        _ => i64::from(i32::from_le_bytes(*code.get(next..)?.first_chunk()?)),
    };
    next += [0, 1, 4][usize::from(kind)];
    let base = registers[usize::from(base | if extend_base { 8 } else { 0 })];
    Some((base.wrapping_add_signed(displacement), index.unwrap_or(0), next))
}

/// Eight registers of sixteen rows of 64 bytes, and their shapes.
pub struct Tiles {
    /// Rows and bytes of a row of each tile; nothing before they are configured.
    shapes: Option<[(usize, usize); 8]>,
    /// `[tile][row][byte]`
    data: [[[u8; 64]; 16]; 8],
}

impl Tiles {
    /// Not configured.
    pub const fn new() -> Self {
        Tiles { shapes: None, data: [[[0; 64]; 16]; 8] }
    }

    /// Does what the instruction does; nothing where the processor would raise a fault.
    ///
    /// # Safety
    /// The memory that it names is there.
    pub unsafe fn run(&mut self, instruction: Instruction) -> Option<()> {
        match instruction {
            Configure { from } => {
                // SAFETY: the caller's promise.
                let config = unsafe { (from as *const [u8; 64]).read_unaligned() };
                *self = Tiles { shapes: shapes(&config)?, ..Tiles::new() };
            }
            Release => *self = Tiles::new(),
            Zero { tile } => {
                self.shape(tile)?;
                self.data[tile] = [[0; 64]; 16];
            }
            Load { tile, from, stride } => {
                let (rows, bytes) = self.shape(tile)?;
                self.data[tile] = [[0; 64]; 16];
                for (r, row) in self.data[tile][..rows].iter_mut().enumerate() {
                    let from = from.wrapping_add(stride.wrapping_mul(r as u64)) as *const u8;
                    // SAFETY: the caller's promise.
                    unsafe { from.copy_to_nonoverlapping(row.as_mut_ptr(), bytes) };
                }
            }
            Store { tile, to, stride } => {
                let (rows, bytes) = self.shape(tile)?;
                for (r, row) in self.data[tile][..rows].iter().enumerate() {
                    let to = to.wrapping_add(stride.wrapping_mul(r as u64)) as *mut u8;
                    // SAFETY: the caller's promise.
                    unsafe { row.as_ptr().copy_to_nonoverlapping(to, bytes) };
                }
            }
            Product { sum, a, b, signed } => self.product(sum, a, b, signed)?,
        }
        Some(())
    }

    fn shape(&self, tile: usize) -> Option<(usize, usize)> {
        self.shapes?.get(tile).copied().filter(|&(rows, _)| rows > 0)
    }

    fn product(&mut self, sum: usize, a: usize, b: usize, signed: (bool, bool)) -> Option<()> {
        let ((rows, columns), (a_rows, a_bytes), (b_rows, b_bytes)) =
            (self.shape(sum)?, self.shape(a)?, self.shape(b)?);
        let distinct = sum != a && sum != b && a != b;
        let words = [columns, a_bytes, b_bytes].iter().all(|n| n % 4 == 0);
        if !distinct || !words || rows != a_rows || a_bytes / 4 != b_rows || columns != b_bytes {
            return None;
        }
        let widen = |byte: u8, signed: bool| if signed { i32::from(byte as i8) } else { i32::from(byte) };
        let mut out = [[0; 64]; 16];
        for (m, out) in out[..rows].iter_mut().enumerate() {
            let mut sums = [0i32; 16];
            for (n, sum_of_row) in sums[..columns / 4].iter_mut().enumerate() {
                *sum_of_row = i32::from_le_bytes(*self.data[sum][m][4 * n..].first_chunk()?);
                for k in 0..a_bytes / 4 {
                    for i in 0..4 {
                        let x = widen(self.data[a][m][4 * k + i], signed.0);
                        let w = widen(self.data[b][k][4 * n + i], signed.1);
                        *sum_of_row = sum_of_row.wrapping_add(x * w);
                    }
                }
            }
            for (to, sum) in out.chunks_exact_mut(4).zip(&sums[..columns / 4]) {
                to.copy_from_slice(&sum.to_le_bytes());
            }
        }
        self.data[sum] = out;
        Some(())
    }
}

/// What 64 bytes of configuration say: no tiles (palette 0), or their shapes; nothing where they are not valid.
#[expect(clippy::option_option, reason = "the inner one is what a valid configuration says")]
fn shapes(config: &[u8; 64]) -> Option<Option<[(usize, usize); 8]>> {
    let tile = |i: usize| {
        (usize::from(config[48 + i]), usize::from(u16::from_le_bytes([config[16 + 2 * i], config[17 + 2 * i]])))
    };
    match config[0] {
        0 => Some(None),
        1 => {
            let plain = config[1..16].iter().all(|&b| b == 0) && (8..16).all(|i| tile(i) == (0, 0));
            let fits = |(rows, bytes)| rows <= 16 && bytes <= 64 && (rows == 0) == (bytes == 0);
            let shapes: [_; 8] = std::array::from_fn(tile);
            (plain && shapes.into_iter().all(fits)).then_some(Some(shapes))
        }
        _ => None,
    }
}

thread_local! {
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::new()) };
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static DONE: Cell<usize> = const { Cell::new(0) };
    static PRODUCTS: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread asked for tiles.
pub fn active() -> bool {
    ACTIVE.get()
}

/// Products that were emulated on this thread.
pub fn products() -> usize {
    PRODUCTS.get()
}

/// Whether no tile of this thread is configured.
pub fn released() -> bool {
    TILES.with_borrow(|tiles| tiles.shapes.is_none())
}

/// Whether it is this code, not the processor, that runs tile instructions.
pub fn needed() -> bool {
    install();
    let before = DONE.get();
    // SAFETY: it does nothing where no tile is configured, and the handler is there for processors without it.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    DONE.get() > before
}

/// Makes tiles available to this thread's choices, and to the threads that run its kernels.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the action is whole, and the handler has the signature that SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0, "the handler is taken");
        }
    });
    ACTIVE.set(true);
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    const ORDER: [libc::c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    // SAFETY: the system passes the context of the interrupted thread, which nobody else uses now.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize];
    let values = ORDER.map(|r| registers[r as usize] as u64);
    // SAFETY: an instruction was fetched from there, and more code follows it; the longest one here has ten bytes.
    let code = unsafe { std::slice::from_raw_parts(at as *const u8, 10) };
    let done = decode(code, &values).and_then(|(instruction, length)| {
        DONE.set(DONE.get() + 1);
        PRODUCTS.set(PRODUCTS.get() + usize::from(matches!(instruction, Product { .. })));
        // SAFETY: the memory is there where it would be there for a processor with tiles.
        TILES.with_borrow_mut(|tiles| unsafe { tiles.run(instruction) })?;
        Some(length)
    });
    match done {
        Some(length) => registers[libc::REG_RIP as usize] = at + length as i64,
        // SAFETY: takes the handler away; the instruction runs again and the process ends as it would have.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}
