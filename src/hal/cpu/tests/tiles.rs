//! Tiles: the emulator against plain sums, and the kernels on tiles against those of AVX-512.
//!
//! The emulator runs only where the processor has no tiles; the kernels are compared either way.

use super::emulator::{self, Instruction, Tiles, decode};
use super::state::moe;
use super::*;

/// A configuration of `(rows, bytes)` for tiles 0, 1, …
fn config(tiles: &[(u8, u8)]) -> [u8; 64] {
    let mut config = [0; 64];
    config[0] = 1;
    for (i, &(rows, bytes)) in tiles.iter().enumerate() {
        (config[48 + i], config[16 + 2 * i]) = (rows, bytes);
    }
    config
}

fn run(tiles: &mut Tiles, instruction: Instruction) -> Option<()> {
    // SAFETY: the tests name only their own arrays.
    unsafe { tiles.run(instruction) }
}

fn load(tiles: &mut Tiles, tile: usize, from: &[u8], stride: usize) {
    run(tiles, Instruction::Load { tile, from: from.as_ptr() as u64, stride: stride as u64 }).unwrap();
}

fn store(tiles: &mut Tiles, tile: usize, to: &mut [u8], stride: usize) {
    run(tiles, Instruction::Store { tile, to: to.as_mut_ptr() as u64, stride: stride as u64 }).unwrap();
}

fn bytes(n: usize, rng: &mut Random) -> Vec<u8> {
    (0..n).map(|_| rng.next() as u8).collect()
}

/// Of whole and of small tiles, of bytes signed and not.
#[test]
fn emulated_products_are_sums() {
    let mut rng = Random(31);
    for (m, k, n) in [(16, 16, 16), (16, 8, 16), (5, 3, 7), (1, 1, 1), (9, 16, 2)] {
        for signed in [(false, false), (false, true), (true, false), (true, true)] {
            let mut tiles = Tiles::new();
            let shapes = config(&[(m as u8, n as u8 * 4), (m as u8, k as u8 * 4), (k as u8, n as u8 * 4)]);
            run(&mut tiles, Instruction::Configure { from: shapes.as_ptr() as u64 }).unwrap();
            let (c, a, b) = (bytes(16 * 80, &mut rng), bytes(16 * 80, &mut rng), bytes(16 * 80, &mut rng));
            load(&mut tiles, 0, &c, 80);
            load(&mut tiles, 1, &a, 80);
            load(&mut tiles, 2, &b, 80);
            run(&mut tiles, Instruction::Product { sum: 0, a: 1, b: 2, signed }).unwrap();
            let mut got = vec![0xee; 16 * 80];
            store(&mut tiles, 0, &mut got, 80);
            let widen = |v: u8, signed: bool| if signed { i64::from(v as i8) } else { i64::from(v) };
            let mut want = vec![0xee; 16 * 80];
            for (row, col) in (0..m).flat_map(|row| (0..n).map(move |col| (row, col))) {
                let at = row * 80 + col * 4;
                let mut sum = i64::from(i32::from_le_bytes(*c[at..].first_chunk().unwrap()));
                for i in 0..4 * k {
                    sum += widen(a[row * 80 + i], signed.0) * widen(b[i / 4 * 80 + col * 4 + i % 4], signed.1);
                }
                want[at..at + 4].copy_from_slice(&(sum as i32).to_le_bytes());
            }
            assert_eq!(got, want, "{m}x{k}x{n} {signed:?}");
        }
    }
}

/// Rows and bytes beyond a tile's shape read as zeros, stores leave memory beyond it alone, and zeroing zeroes.
#[test]
fn emulated_tiles_have_edges() {
    let mut rng = Random(32);
    let from = bytes(16 * 64, &mut rng);
    let mut tiles = Tiles::new();
    run(&mut tiles, Instruction::Configure { from: config(&[(3, 20), (16, 64)]).as_ptr() as u64 }).unwrap();
    load(&mut tiles, 0, &from, 33);
    let mut to = vec![0xee; 16 * 64];
    store(&mut tiles, 0, &mut to, 40);
    for (i, &b) in to.iter().enumerate() {
        let (row, at) = (i / 40, i % 40);
        assert_eq!(b, if row < 3 && at < 20 { from[row * 33 + at] } else { 0xee }, "byte {i}");
    }
    load(&mut tiles, 1, &from, 64);
    run(&mut tiles, Instruction::Zero { tile: 1 }).unwrap();
    store(&mut tiles, 1, &mut to, 64);
    assert!(to.iter().all(|&b| b == 0));
}

#[test]
fn emulated_faults() {
    let mut tiles = Tiles::new();
    assert_eq!(run(&mut tiles, Instruction::Zero { tile: 0 }), None, "not configured");
    let good = config(&[(4, 32), (4, 16), (4, 32), (0, 0), (4, 20), (3, 32)]);
    let configure = |tiles: &mut Tiles, c: &[u8; 64]| run(tiles, Instruction::Configure { from: c.as_ptr() as u64 });
    for (at, byte) in [(0, 2), (1, 1), (2, 1), (48, 17), (16, 65), (17, 1), (48, 0), (16, 0), (56, 1)] {
        let mut bad = good;
        bad[at] = byte;
        assert_eq!(configure(&mut tiles, &bad), None, "byte {at} is {byte}");
    }
    configure(&mut tiles, &good).unwrap();
    let product = |sum, a, b| Instruction::Product { sum, a, b, signed: (true, true) };
    assert_eq!(run(&mut tiles, product(0, 1, 2)), Some(()));
    assert_eq!(run(&mut tiles, Instruction::Zero { tile: 3 }), None, "an empty tile");
    for (sum, a, b) in [(0, 1, 1), (0, 0, 2), (1, 1, 2), (1, 0, 2), (0, 4, 2), (5, 1, 2), (0, 1, 5), (0, 1, 4)] {
        assert_eq!(run(&mut tiles, product(sum, a, b)), None, "{sum} += {a} * {b}");
    }
    run(&mut tiles, Instruction::Release).unwrap();
    assert_eq!(run(&mut tiles, product(0, 1, 2)), None, "released");
}

/// Encodings as the assembler writes them, with registers of both halves.
#[test]
fn encodings_are_read() {
    let registers: [u64; 16] = std::array::from_fn(|i| 0x1000 * i as u64);
    let read = |code: &[u8]| decode(&[code, &[0; 8]].concat(), &registers);
    for (code, want) in [
        // ldtilecfg [rbx]; ldtilecfg [rsp + 0x40]; ldtilecfg [r13 - 1]
        (&[0xc4, 0xe2, 0x78, 0x49, 0x03][..], Instruction::Configure { from: 0x3000 }),
        (&[0xc4, 0xe2, 0x78, 0x49, 0x44, 0x24, 0x40], Instruction::Configure { from: 0x4040 }),
        (&[0xc4, 0xc2, 0x78, 0x49, 0x45, 0xff], Instruction::Configure { from: 0xcfff }),
        // tilerelease; tilezero tmm5
        (&[0xc4, 0xe2, 0x78, 0x49, 0xc0], Instruction::Release),
        (&[0xc4, 0xe2, 0x7b, 0x49, 0xe8], Instruction::Zero { tile: 5 }),
        // tileloadd tmm6, [rsi + rcx + 0x400]; tileloadd tmm4, [rdi + rax]; tileloadd tmm1, [r9 + 2*r12 + 0x40]
        (
            &[0xc4, 0xe2, 0x7b, 0x4b, 0xb4, 0x0e, 0x00, 0x04, 0x00, 0x00],
            Instruction::Load { tile: 6, from: 0x6400, stride: 0x1000 },
        ),
        (&[0xc4, 0xe2, 0x7b, 0x4b, 0x24, 0x07], Instruction::Load { tile: 4, from: 0x7000, stride: 0 }),
        (&[0xc4, 0x82, 0x7b, 0x4b, 0x4c, 0x61, 0x40], Instruction::Load { tile: 1, from: 0x9040, stride: 0x18000 }),
        // tilestored [rdx + rcx], tmm2
        (&[0xc4, 0xe2, 0x7a, 0x4b, 0x14, 0x0a], Instruction::Store { tile: 2, to: 0x2000, stride: 0x1000 }),
        // tdpbsud tmm0, tmm4, tmm6; tdpbssd tmm0, tmm4, tmm7
        (&[0xc4, 0xe2, 0x4a, 0x5e, 0xc4], Instruction::Product { sum: 0, a: 4, b: 6, signed: (true, false) }),
        (&[0xc4, 0xe2, 0x43, 0x5e, 0xc4], Instruction::Product { sum: 0, a: 4, b: 7, signed: (true, true) }),
    ] {
        assert_eq!(read(code), Some((want, code.len())));
    }
    // ud2; a product in 256 bits; one of bfloat16; of tiles that there are not; a load without SIB.
    for code in [
        &[0x0f, 0x0b, 0, 0, 0][..],
        &[0xc4, 0xe2, 0x47, 0x5e, 0xc4],
        &[0xc4, 0xe2, 0x42, 0x5c, 0xc4],
        &[0xc4, 0x62, 0x43, 0x5e, 0xc4],
        &[0xc4, 0xc2, 0x43, 0x5e, 0xc4],
        &[0xc4, 0xe2, 0x03, 0x5e, 0xc4],
        &[0xc4, 0xe2, 0x7b, 0x4b, 0x03],
    ] {
        assert_eq!(read(code), None, "{code:x?}");
    }
}

/// Whether there are tiles, or AVX-512 to emulate them over.
fn tiles() -> bool {
    let there = sets().any(|isa| isa == Isa::Amx);
    if !there {
        eprintln!("skipped: no AVX-512, over which tiles are emulated");
    }
    there
}

/// The same bits on tiles as without them; how many products of tiles that took, where they are emulated.
fn compare(case: &Case, what: &str) -> Option<usize> {
    let all = case.rows.len();
    let before = emulator::products();
    let got = case.fast(Isa::Amx, 1, all);
    assert_bits(&got, &case.fast(Isa::Avx512, 1, all), what);
    assert!(emulator::released(), "{what}: tiles are left");
    emulator::needed().then(|| emulator::products() - before)
}

/// Products of tiles that a sixteen of rows takes for sixteen rows of a block.
fn products(kind: Kind) -> usize {
    match kind {
        _ if kind.format().block_len == 32 => 1,
        Kind::Q2_K => 4,
        _ => 8,
    }
}

#[test]
fn products_on_tiles() {
    if !tiles() {
        return;
    }
    let mut rng = Random(33);
    for format in FORMATS.iter().filter(|f| f.block_len > 1) {
        let longest = 1280 / format.block_len;
        let mut shapes = vec![(8, 1, 40), (9, longest, 100), (16, 2, 15), (32, longest, 16), (513 + 8, 1, 17)];
        shapes.extend((0..6).map(|_| (9 + rng.below(62), 1 + rng.below(longest), 1 + rng.below(100))));
        for (rows, blocks, out) in shapes {
            let case = mat_mul(format.kind, rows, blocks * format.block_len, out, false, &mut rng);
            let what = format!("{} {rows}x{blocks}x{out}", format.name);
            let sixteens = if rows < 9 { 0 } else { rows.div_ceil(16) };
            let want = out.div_ceil(16) * blocks * sixteens * products(format.kind);
            assert_eq!(compare(&case, &what).unwrap_or(want), want, "{what}");
        }
    }
}

/// What measures the limit runs all its products and leaves no tiles.
#[test]
fn the_limit_of_tiles_is_spun() {
    if !tiles() {
        return;
    }
    let before = emulator::products();
    // SAFETY: there are tiles, or they are emulated.
    unsafe { amx::spin(3) };
    assert!(emulator::released());
    let want = 3.0 * amx::SPIN / f64::from(2 * 16 * 16 * 64);
    assert!(!emulator::needed() || (emulator::products() - before) as f64 == want);
}

/// Planes hold the largest integers times the largest sub-scales.
#[test]
fn extreme_integers_on_tiles() {
    if !tiles() {
        return;
    }
    let mut rng = Random(34);
    for format in FORMATS.iter().filter(|f| f.block_len > 1) {
        // Sub-scales and integers of all kinds side by side: each byte one of the outermost.
        for bytes in [&[0x00][..], &[0x80], &[0x7f], &[0xff], &[0x00, 0x80, 0x7f, 0xff, 0x0f, 0xf0]] {
            let mut case = mat_mul(format.kind, 33, format.block_len * 2, 32, false, &mut rng);
            for block in case.tensors[0].bytes.chunks_exact_mut(format.block_bytes) {
                let kept: Vec<u8> = block.to_vec();
                block.iter_mut().for_each(|b| *b = bytes[rng.below(bytes.len())]);
                for &at in scales(format.kind) {
                    block[at..at + 2].copy_from_slice(&kept[at..at + 2]);
                }
                if format.kind == Kind::MXFP4 {
                    block[0] = kept[0];
                }
            }
            case.input.iter_mut().for_each(|x| *x = x.signum());
            compare(&case, &format!("{} of {bytes:x?}", format.name));
        }
    }
}

/// Rows of experts lie apart, and some experts have too few for a tile.
#[test]
fn experts_on_tiles() {
    if !tiles() {
        return;
    }
    let mut rng = Random(35);
    for (kind, rows, experts, k) in
        [(Kind::Q8_0, 70, 5, 2), (Kind::Q4_K, 50, 3, 3), (Kind::Q6_K, 40, 2, 1), (Kind::MXFP4, 90, 4, 2)]
    {
        let case = moe(kind, rows, experts, k, true, &mut rng);
        compare(&case, &format!("{kind:?} {k} of {experts}"));
    }
}
