//! Every op and format against the specification, and equal bits whatever runs them.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod emulator;
mod shelf;
mod state;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use super::*;
use crate::hal::exact::Exact;
use crate::hal::{Home, KvGroup, KvLayer, KvLayerId, KvLayout, NO_PAGE, PAGE, Panel, Row};
use crate::op::{Activation, Attention, Builder, Carry, Op, Pairing, Rope, RowSet, Type, ValueId, WeightSlot, Yarn};
use crate::quant::{FORMATS, Format, Kind};
use shelf::Shelf;

/// A small generator (xorshift64*), so that cases are the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
    /// Roughly normal, variance 1.
    fn normal(&mut self) -> f32 {
        let sum: f32 = (0..12).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32).sum();
        sum - 6.0
    }
    fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Where the float16 scales of a block lie.
fn scales(kind: Kind) -> &'static [usize] {
    match kind {
        Kind::Q4_0 | Kind::Q5_0 | Kind::Q8_0 | Kind::IQ4_NL | Kind::IQ4_XS => &[0],
        Kind::Q4_1 | Kind::Q5_1 | Kind::Q4_K | Kind::Q5_K => &[0, 2],
        Kind::Q2_K => &[80, 82],
        Kind::Q3_K => &[108],
        Kind::Q6_K => &[208],
        Kind::F32 | Kind::F16 | Kind::BF16 | Kind::MXFP4 => &[],
    }
}

/// Rows of any bytes that a file could hold, with scales of ordinary size.
fn random_rows(format: &Format, elements: usize, rng: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; format.row_bytes(elements)];
    if format.block_len == 1 {
        let x: Vec<f32> = rng.normals(elements);
        (format.encode.unwrap())(&x, &mut bytes);
        return bytes;
    }
    for block in bytes.chunks_exact_mut(format.block_bytes) {
        block.iter_mut().for_each(|b| *b = rng.next() as u8);
        for &at in scales(format.kind) {
            let d = half::f16::from_f32(rng.normal() * 0.01);
            block[at..at + 2].copy_from_slice(&d.to_le_bytes());
        }
        if format.kind == Kind::MXFP4 {
            block[0] = 118 + rng.below(8) as u8;
        }
    }
    bytes
}

struct Tensor {
    format: &'static Format,
    cols: usize,
    rows: usize,
    experts: usize,
    matrix: bool,
    bytes: Vec<u8>,
}

/// A program with its weights, and carries of which the first takes inputs and the last holds the result.
struct Case {
    carries: Vec<Carry>,
    tensors: Vec<Tensor>,
    program: Program,
    kv: KvLayout,
    rows: Vec<Row>,
    tables: Vec<Vec<Vec<u32>>>,
    input: Vec<f32>,
}

fn carry(name: &'static str, width: usize) -> Carry {
    Carry { name, width, ty: Type::F32, rows: RowSet::All }
}

fn no_kv() -> KvLayout {
    KvLayout { k: Kind::F32.format(), v: Kind::F32.format(), groups: vec![] }
}

/// One sequence of `n` rows without state.
fn plain_rows(n: usize) -> (Vec<Row>, Vec<Vec<Vec<u32>>>) {
    ((0..n).map(|i| Row { token: 0, seq: 0, pos: i as u32, output: true }).collect(), vec![vec![]])
}

impl Tensor {
    fn matrix(kind: Kind, cols: usize, rows: usize, experts: usize, rng: &mut Random) -> Self {
        let format = kind.format();
        let bytes = random_rows(format, cols * rows * experts, rng);
        Tensor { format, cols, rows, experts, matrix: true, bytes }
    }
    fn vector(len: usize, rng: &mut Random) -> Self {
        let x: Vec<f32> = (0..len).map(|_| 1.0 + 0.3 * rng.normal()).collect();
        let bytes = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        Tensor { format: Kind::F32.format(), cols: len, rows: 1, experts: 1, matrix: false, bytes }
    }
}

impl Case {
    /// Runs the rows in chunks; what the last carry holds for each row, one after another.
    fn run(&self, backend: &mut dyn Backend, chunk: usize) -> Vec<f32> {
        self.try_run(backend, chunk, false).unwrap()
    }

    fn try_run(&self, backend: &mut dyn Backend, chunk: usize, mixed: bool) -> Result<Vec<f32>> {
        self.run_as(backend, chunk, mixed, false)
    }

    /// `mixed`: panels have different homes. `tiled`: the chunks are tiles of one pass.
    fn run_as(&self, backend: &mut dyn Backend, chunk: usize, mixed: bool, tiled: bool) -> Result<Vec<f32>> {
        let mut shelf = Shelf::default();
        let panels: Vec<Vec<Panel>> = self.tensors.iter().map(|t| shelf.cut(t, mixed)).collect();
        let supply: Arc<dyn Supply> = Arc::new(shelf);
        let mut weights = vec![];
        for (t, panels) in self.tensors.iter().zip(&panels) {
            let (format, cols, rows, experts) = (t.format, t.cols, t.rows, t.experts);
            let desc =
                WeightDesc { name: "test", format, cols, rows, experts, matrix: t.matrix, panels, arranged: false };
            weights.push(backend.load(&desc, &supply)?);
        }
        let program = backend.compile(&self.program)?;
        let max_rows = chunk.min(self.rows.len()).max(1);
        let pass_rows = if tiled { self.rows.len() } else { max_rows };
        let (carries, kv) = (&self.carries[..], &self.kv);
        backend.reserve(&Reservation { carries, pass_rows, max_rows, max_outputs: max_rows, kv, ring: (0, 0) })?;
        let layer = (!self.kv.groups.is_empty()).then_some(KvLayerId { group: 0, layer: 0 });
        let bindings = Bindings { weights, layer };
        let tables: Vec<&[Vec<u32>]> = self.tables.iter().map(|t| t.as_slice()).collect();
        let (width, last) = (self.carries[0].width, self.carries.len() - 1);
        let mut out = vec![];
        let none = self.rows.is_empty().then_some(&self.rows[..]);
        for (i, rows) in none.into_iter().chain(self.rows.chunks(chunk)).enumerate() {
            let first = if tiled { i * chunk } else { 0 };
            if tiled && i == 0 {
                backend.write(CarryId(0), &self.input);
            } else if !tiled && !self.input.is_empty() {
                backend.write(CarryId(0), &self.input[i * chunk * width..][..rows.len() * width]);
            }
            let batch = Batch { rows, first, tables: &tables };
            backend.launch(program, &bindings, &batch)?;
            if tiled {
                continue;
            }
            let n = if self.carries[last].rows == RowSet::All { rows.len() } else { batch.outputs() };
            let mut y = vec![0.0; n * self.carries[last].width];
            backend.read(CarryId(last as u32), &mut y);
            out.extend(y);
        }
        if tiled {
            out.resize(self.rows.len() * self.carries[last].width, 0.0);
            backend.read(CarryId(last as u32), &mut out);
        }
        Ok(out)
    }

    fn fast(&self, isa: Isa, threads: usize, chunk: usize) -> Vec<f32> {
        self.run(&mut *backend(isa, threads), chunk)
    }

    /// The result equals the specification's within `nmse`, and all ways of running it agree to the bit.
    fn check(&self, what: &str, nmse: f64) {
        let all = self.rows.len();
        let want = self.run(&mut Exact::new(1), all);
        let got = self.fast(Isa::Scalar, 1, all);
        let error = nmse_of(&got, &want);
        assert!(error <= nmse, "{what}: error {error:.3e}, at most {nmse:.1e}");
        for isa in sets() {
            for threads in [1, 2] {
                for chunk in [1, 7, all] {
                    let y = self.fast(isa, threads, chunk);
                    assert_bits(&y, &got, &format!("{what}: {isa:?}, {threads} threads, chunks of {chunk}"));
                }
                let y = self.try_run(&mut *backend(isa, threads), all, true).unwrap();
                assert_bits(&y, &got, &format!("{what}: {isa:?}, {threads} threads, streamed"));
                if self.carries.last().is_some_and(|c| c.rows == RowSet::All) && all > 1 {
                    let y = self.run_as(&mut *backend(isa, threads), all.div_ceil(3), true, true).unwrap();
                    assert_bits(&y, &got, &format!("{what}: {isa:?}, {threads} threads, tiles of one pass"));
                }
            }
        }
        if self.carries.last().is_some_and(|c| c.rows == RowSet::All) {
            let y = self.run_as(&mut Exact::new(1), all.div_ceil(3).max(1), false, true).unwrap();
            assert_bits(&y, &want, &format!("{what}: tiles of one pass, interpreted"));
        }
    }
}

/// The instruction sets that can run here: those that the processor has, and tiles emulated over AVX-512.
fn sets() -> impl Iterator<Item = Isa> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    emulator::install();
    Isa::ALL.into_iter().filter(|i| i.available())
}

fn backend(isa: Isa, threads: usize) -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa), ..CpuOptions::default() }).unwrap())
}

fn nmse_of(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    let power: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    error / power.max(1e-30)
}

fn assert_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{what}: element {i} is {x:e}, not {y:e}");
    }
}

/// A case of one op from the first carry to the last.
fn one_op(
    rows: usize,
    widths: [usize; 2],
    rng: &mut Random,
    op: impl FnOnce(&mut Builder, ValueId, ValueId) -> Op,
) -> Case {
    let carries = vec![carry("x", widths[0]), carry("y", widths[1])];
    let mut b = Builder::new("test", &carries);
    let (x, y) = (b.carry(CarryId(0)), b.carry(CarryId(1)));
    let op = op(&mut b, x, y);
    b.op(op);
    let program = b.finish();
    let (list, tables) = plain_rows(rows);
    let input = rng.normals(rows * widths[0]);
    Case { carries, tensors: vec![], program, kv: no_kv(), rows: list, tables, input }
}

fn mat_mul(kind: Kind, rows: usize, cols: usize, out: usize, bias: bool, rng: &mut Random) -> Case {
    let mut case = one_op(rows, [cols, out], rng, |b, x, y| {
        let weight = b.weight("w", &[cols, out]);
        let bias = bias.then(|| b.weight("b", &[out]));
        Op::MatMul { x, weight, bias, out: y }
    });
    case.tensors.push(Tensor::matrix(kind, cols, out, 1, rng));
    if bias {
        case.tensors.push(Tensor::vector(out, rng));
    }
    case
}

/// The plain formats differ from the specification by rounding only, the others by the activations' 8 bits.
fn product_tolerance(format: &Format) -> f64 {
    if format.block_len == 1 { 1e-11 } else { 5e-4 }
}

#[test]
fn products_of_every_format() {
    let mut rng = Random(1);
    for format in FORMATS {
        let unit = format.block_len;
        for (rows, blocks, out) in [(1, 1, 15), (3, 3, 17), (23, 2, 40)] {
            let cols = if unit == 1 { 37 * blocks } else { unit * blocks };
            let case = mat_mul(format.kind, rows, cols, out, rows == 3, &mut rng);
            case.check(&format!("{} {rows}x{cols}x{out}", format.name), product_tolerance(format));
        }
    }
}

#[test]
fn products_in_many_tasks() {
    let mut rng = Random(2);
    for kind in [Kind::Q4_K, Kind::Q8_0, Kind::F16] {
        mat_mul(kind, 300, 512, 333, false, &mut rng).check(kind.format().name, product_tolerance(kind.format()));
    }
}

#[test]
fn an_empty_batch_is_nothing() {
    let mut rng = Random(7);
    let shape = Attention { heads: 2, kv_heads: 1, head_dim: 32, v_dim: 32, scale: 0.2, window: None };
    for mut case in [
        mat_mul(Kind::F16, 1, 32, 5, true, &mut rng),
        mat_mul(Kind::Q4_K, 1, 256, 5, false, &mut rng),
        state::moe(Kind::Q8_0, 1, 3, 2, true, &mut rng),
        state::attend(shape, Kind::F16, Kind::F16, &mut rng),
    ] {
        case.rows.clear();
        case.input.clear();
        for isa in sets() {
            assert!(case.fast(isa, 2, 1).is_empty());
        }
    }
}

/// Numbers of rows choose between kernels and tiles, and long rows are cut into steps: no bit depends on it.
#[test]
fn products_of_any_number_of_rows() {
    let mut rng = Random(6);
    for kind in [Kind::Q4_K, Kind::Q6_K, Kind::Q8_0, Kind::Q4_1, Kind::F16] {
        let case = mat_mul(kind, 21, 1280, 20, true, &mut rng);
        let want = case.fast(Isa::Scalar, 1, 1);
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            for rows in 2..=21 {
                assert_bits(&case.fast(isa, 1, rows), &want, &format!("{kind:?}: {isa:?}, {rows} rows"));
            }
        }
    }
}

/// A block's sums stay exact where all integers and all activations are as large as they can be.
#[test]
fn extreme_integers_do_not_overflow() {
    let mut rng = Random(3);
    for format in FORMATS.iter().filter(|f| f.block_len > 1) {
        for byte in [0x00, 0x80, 0x7f, 0xff] {
            let mut case = mat_mul(format.kind, 2, format.block_len * 2, 16, false, &mut rng);
            for block in case.tensors[0].bytes.chunks_exact_mut(format.block_bytes) {
                let scales: Vec<(usize, u8)> =
                    scales(format.kind).iter().flat_map(|&s| [(s, block[s]), (s + 1, block[s + 1])]).collect();
                let exponent = block[0];
                block.fill(byte);
                scales.into_iter().for_each(|(at, b)| block[at] = b);
                if format.kind == Kind::MXFP4 {
                    block[0] = exponent;
                }
            }
            case.input =
                (0..case.input.len()).map(|i| if i / case.carries[0].width == 0 { 1.0 } else { -1.0 }).collect();
            // All activations are full scale, so nothing is lost in rounding them.
            case.check(&format!("{} of {byte:#x}", format.name), 1e-10);
        }
    }
}

#[test]
fn odd_activations_are_well_defined() {
    let mut rng = Random(4);
    for kind in [Kind::Q4_K, Kind::Q8_0, Kind::Q4_1, Kind::F16] {
        for (value, finite) in [(0.0, true), (1e-42, true), (1e30, true), (f32::NAN, false), (f32::INFINITY, false)] {
            let mut case = mat_mul(kind, 2, 512, 16, false, &mut rng);
            case.input[..512].fill(if value == 1e30 { 1e28 } else { 0.0 });
            case.input[100] = value;
            let want = case.fast(Isa::Scalar, 1, 2);
            assert_eq!(want[..16].iter().all(|x| x.is_finite()), finite, "{kind:?} with {value}");
            assert!(want[16..].iter().all(|x| x.is_finite()), "{kind:?}: {value} reached another row");
            for isa in sets() {
                assert_bits(&case.fast(isa, 2, 1), &want, &format!("{kind:?} with {value}, {isa:?}"));
            }
        }
    }
}

#[test]
fn embeddings_come_back_exactly() {
    let mut rng = Random(5);
    for format in FORMATS {
        let cols = format.block_len.max(8) * 2;
        let mut case = one_op(21, [1, cols], &mut rng, |b, _, out| {
            let table = b.weight("t", &[cols, 37]);
            Op::Embed { table, out }
        });
        case.tensors.push(Tensor::matrix(format.kind, cols, 37, 1, &mut rng));
        case.rows.iter_mut().for_each(|r| r.token = rng.below(37) as u32);
        case.check(format.name, 0.0);
        case.rows[3].token = 37;
        let failed = case.try_run(&mut *backend(Isa::Scalar, 1), 21, false).unwrap_err().to_string();
        assert!(failed.contains("token 37"), "{failed}");
    }
}

#[test]
fn rows_of_outputs_are_selected() {
    let mut rng = Random(6);
    let mut case = one_op(9, [5, 5], &mut rng, |_, x, out| Op::Add { a: x, b: x, out });
    case.carries[1].rows = RowSet::Outputs;
    let mut b = Builder::new("test", &case.carries);
    let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(1)));
    b.op(Op::SelectOutputs { x, out });
    case.program = b.finish();
    case.rows.iter_mut().enumerate().for_each(|(i, r)| r.output = i % 3 == 1);
    case.check("SelectOutputs", 0.0);
}

#[test]
fn norms() {
    let mut rng = Random(7);
    for (width, group) in [(64, 64), (96, 32), (37, 37), (40, 8)] {
        let mut case = one_op(11, [width, width], &mut rng, |b, x, out| Op::RmsNorm {
            x,
            weight: b.weight("w", &[group]),
            group,
            eps: 1e-5,
            out,
        });
        case.tensors.push(Tensor::vector(group, &mut rng));
        case.check(&format!("RmsNorm {width}/{group}"), 1e-12);
    }
}

#[test]
fn rotations() {
    let mut rng = Random(8);
    let yarn = Some(Yarn { low: 2.0, high: 9.0, magnitude: 1.2 });
    for (dims, pairing, yarn, factors) in [
        (32, Pairing::Interleaved, None, false),
        (32, Pairing::HalfSplit, None, true),
        (24, Pairing::Interleaved, yarn, true),
        (24, Pairing::HalfSplit, yarn, false),
    ] {
        let rope = Rope { dims, base: 10000.0, pairing, scale: 0.5, yarn };
        let mut case = one_op(40, [96, 96], &mut rng, |b, x, out| {
            let factors = factors.then(|| b.weight("f", &[dims / 2]));
            Op::Rope { x, head_dim: 32, rope, factors, out }
        });
        if factors {
            case.tensors.push(Tensor::vector(dims / 2, &mut rng));
        }
        case.rows.iter_mut().for_each(|r| r.pos = r.pos * 997 + 3);
        case.check(&format!("Rope {dims} {pairing:?}"), 1e-12);
    }
}

#[test]
fn sums_and_gates() {
    let mut rng = Random(9);
    for width in [1, 16, 100, 3000] {
        one_op(9, [width, width], &mut rng, |_, x, out| Op::Add { a: x, b: x, out }).check("Add", 0.0);
        let glu = |_: &mut Builder, x, out| Op::Glu { gate: x, up: x, act: Activation::Silu, out };
        let mut case = one_op(9, [width, width], &mut rng, glu);
        case.input.iter_mut().for_each(|x| *x *= 8.0);
        case.check("Glu", 1e-12);
    }
}

#[test]
fn failures_of_reading_are_passed_on() {
    let supply: Arc<dyn Supply> = Arc::new(Shelf(vec![vec![0; 64 * 4096]; 5]));
    let format = Kind::F32.format();
    for threads in [1, 2] {
        for home in [Home::Memory, Home::Stream] {
            let panel = |n: u32| Panel { number: n, rows: n as usize * 64..n as usize * 64 + 64, home };
            let panels: Vec<Panel> = (0..8).map(panel).collect();
            let (name, cols, rows, experts, panels) = ("t", 1024, 512, 1, &panels[..]);
            let desc = WeightDesc { name, format, cols, rows, experts, matrix: true, panels, arranged: false };
            let mut cpu = backend(Isa::Scalar, threads);
            let loaded = cpu.load(&desc, &supply);
            if home == Home::Memory {
                assert!(matches!(loaded, Err(Error::Cancelled)));
                continue;
            }
            let case = mat_mul(Kind::F32, 2, 1024, 512, false, &mut Random(3));
            let program = cpu.compile(&case.program).unwrap();
            let kv = no_kv();
            let carries = &case.carries[..];
            cpu.reserve(&Reservation { carries, pass_rows: 2, max_rows: 2, max_outputs: 2, kv: &kv, ring: (0, 0) })
                .unwrap();
            let bindings = Bindings { weights: vec![loaded.unwrap()], layer: None };
            let batch = Batch { rows: &case.rows, first: 0, tables: &[&[]] };
            assert!(matches!(cpu.launch(program, &bindings, &batch), Err(Error::Cancelled)));
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut rng = Random(15);
    let mut case = mat_mul(Kind::F32, 2, 32, 16, false, &mut rng);
    case.tensors[0].cols = 16;
    case.tensors[0].rows = 32;
    let failed = case.try_run(&mut *backend(Isa::Scalar, 1), 2, false).unwrap_err().to_string();
    assert!(failed.contains("another shape"), "{failed}");
}

#[test]
fn instruction_sets_are_chosen_by_name() {
    assert_eq!(Isa::choose(None, Some("scalar")).unwrap(), Isa::Scalar);
    assert!(Isa::choose(None, Some("sse9")).unwrap_err().to_string().contains("use one of scalar, avx2, avx512, amx"));
    assert!(Isa::choose(None, None).unwrap().available());
    assert!(backend(Isa::Scalar, 2).description().ends_with("scalar, 2 threads"));
}
