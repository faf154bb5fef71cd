//! Programs with random weights and inputs, run by the emulated device and by the interpreter.

use crate::device::{Device, gpu, is_gpu};
use air_rs::error::{Error, Result};
use air_rs::hal::cpu::{Isa, Layout};
use air_rs::hal::cuda::{Cuda, Driver};
use air_rs::hal::exact::Exact;
use air_rs::hal::{
    BEHIND, Backend, Batch, Bindings, Home, KvLayerId, KvLayout, LOANS, Loan, Panel, Reservation, Row, Supply, Wanted,
    WeightDesc,
};
use air_rs::op::{Builder, Carry, CarryId, Op, Program, RowSet, Type, ValueId};
use air_rs::quant::{Format, Kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A small generator (xorshift64*), so that cases are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
    /// Roughly normal, variance 1.
    pub fn normal(&mut self) -> f32 {
        let sum: f32 = (0..12).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32).sum();
        sum - 6.0
    }
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Where the float16 scales of a block lie.
pub fn scales(kind: Kind) -> &'static [usize] {
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

pub struct Tensor {
    pub format: &'static Format,
    pub cols: usize,
    pub rows: usize,
    pub experts: usize,
    pub matrix: bool,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn matrix(kind: Kind, cols: usize, rows: usize, experts: usize, rng: &mut Random) -> Self {
        let format = kind.format();
        let bytes = random_rows(format, cols * rows * experts, rng);
        Tensor { format, cols, rows, experts, matrix: true, bytes }
    }
    pub fn vector(len: usize, rng: &mut Random) -> Self {
        let x: Vec<f32> = (0..len).map(|_| 1.0 + 0.3 * rng.normal()).collect();
        let bytes = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        Tensor { format: Kind::F32.format(), cols: len, rows: 1, experts: 1, matrix: false, bytes }
    }
}

/// Panels in memory.
#[derive(Debug, Default)]
pub struct Shelf(pub Vec<Arc<Vec<u8>>>, Arc<AtomicUsize>);

impl Shelf {
    /// Adds a panel; its number.
    pub fn add(&mut self, mut bytes: Vec<u8>) -> u32 {
        bytes.reserve(BEHIND);
        self.0.push(Arc::new(bytes));
        self.0.len() as u32 - 1
    }
}

/// Rows as a processor has them.
pub fn in_groups(format: &'static Format, cols: usize, rows: &[u8]) -> Vec<u8> {
    let layout = Layout::new(Isa::Scalar, format, cols);
    let mut groups = vec![0; rows.len().div_ceil(layout.group_bytes()) * layout.group_bytes()];
    layout.interleave_all(rows, &mut groups);
    groups
}

/// A panel that is lent.
#[derive(Debug)]
struct Lent(Arc<Vec<u8>>, Arc<AtomicUsize>);

impl Loan for Lent {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Relaxed);
    }
}

impl Supply for Shelf {
    fn want(&self, _: &mut [Wanted]) {}
    fn panel(&self, number: u32, _: u32, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        f(self.0.get(number as usize).ok_or(Error::Cancelled)?);
        Ok(())
    }
    fn lend(self: Arc<Self>, number: u32) -> Result<Box<dyn Loan>> {
        // The copy that the last loan is for is yet to be asked for.
        assert!(self.1.fetch_add(1, Relaxed) <= LOANS, "too many panels are lent");
        let panel = self.0.get(number as usize).ok_or(Error::Cancelled)?;
        Ok(Box::new(Lent(panel.clone(), self.1.clone())))
    }
    fn bytes(&self, number: u32, at: usize, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.0.get(number as usize).ok_or(Error::Cancelled)?[at..at + out.len()]);
        Ok(())
    }
}

/// A program with its weights, and carries of which the first takes inputs and the last holds the result.
pub struct Case {
    pub carries: Vec<Carry>,
    pub tensors: Vec<Tensor>,
    pub program: Program,
    pub kv: KvLayout,
    pub rows: Vec<Row>,
    pub tables: Vec<Vec<Vec<u32>>>,
    pub input: Vec<f32>,
    /// Places for panels that are brought; 0 where all are kept.
    pub ring: usize,
}

pub fn carry(name: &'static str, width: usize) -> Carry {
    Carry { name, width, ty: Type::F32, rows: RowSet::All }
}

pub fn no_kv() -> KvLayout {
    KvLayout { k: Kind::F32.format(), v: Kind::F32.format(), groups: vec![] }
}

/// One sequence of `n` rows without state.
pub fn plain_rows(n: usize) -> (Vec<Row>, Vec<Vec<Vec<u32>>>) {
    ((0..n).map(|i| Row { token: 0, seq: 0, pos: i as u32, output: true }).collect(), vec![vec![]])
}

/// A case of one op from the first carry to the last.
pub fn one_op(
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
    Case { carries, tensors: vec![], program, kv: no_kv(), rows: list, tables, input, ring: 0 }
}

/// The backend on the emulated device, or on a GPU, which has its own order.
pub fn cuda(reversed: bool) -> Cuda {
    let device: Box<dyn Driver> = match is_gpu() {
        true => Box::new(gpu()),
        false => Box::new(Device::new(reversed)),
    };
    Cuda::new(device).unwrap()
}

impl Case {
    /// Loads weights and program, and reserves; what a launch binds.
    pub fn prepare(&self, backend: &mut dyn Backend, max_rows: usize, pass_rows: usize) -> Result<Bindings> {
        let mut shelf = Shelf::default();
        // Panels that the host keeps lie as a processor has them, where there is a place more to put them right.
        let arranged = self.ring > 1;
        let cut = |t: &Tensor| -> Vec<Panel> {
            let all = t.rows * t.experts;
            // Of every matrix the first rows are a panel of their own; where some are brought, as many more as there are.
            let ends: Vec<usize> = match self.ring {
                _ if !t.matrix || t.rows <= 16 => vec![all],
                0 => vec![16, all],
                _ => (16..all).step_by(16).chain([all]).collect(),
            };
            let row_bytes = t.format.row_bytes(t.cols);
            let homes = [Home::Stream, Home::Memory, Home::Memory, Home::Host, Home::Stream];
            let mut first = 0;
            let panel = |(n, end): (usize, usize)| {
                let rows = first..end;
                first = end;
                let bytes = &t.bytes[rows.start * row_bytes..end * row_bytes];
                let away = self.ring > 0 && t.matrix && t.experts == 1;
                let home = if away { homes[n % homes.len()] } else { Home::Memory };
                let kept = arranged && home == Home::Host;
                let number = shelf.add(if kept { in_groups(t.format, t.cols, bytes) } else { bytes.to_vec() });
                Panel { number, rows, home }
            };
            ends.into_iter().enumerate().map(panel).collect()
        };
        let panels: Vec<Vec<Panel>> = self.tensors.iter().map(cut).collect();
        let supply: Arc<dyn Supply> = Arc::new(shelf);
        let mut weights = vec![];
        for (t, panels) in self.tensors.iter().zip(&panels) {
            let (format, cols, rows, experts) = (t.format, t.cols, t.rows, t.experts);
            let desc = WeightDesc { name: "test", format, cols, rows, experts, matrix: t.matrix, panels, arranged };
            weights.push(backend.load(&desc, &supply)?);
        }
        backend.compile(&self.program)?;
        let (carries, kv) = (&self.carries[..], &self.kv);
        let widest = self.tensors.iter().map(|t| t.bytes.len()).max().unwrap_or(0);
        let ring = (self.ring, widest as u64);
        backend.reserve(&Reservation { carries, pass_rows, max_rows, max_outputs: max_rows, kv, ring })?;
        let layer = (!self.kv.groups.is_empty()).then_some(KvLayerId { group: 0, layer: 0 });
        Ok(Bindings { weights, layer })
    }

    /// Runs the rows in chunks; what the last carry holds for each row, one after another.
    pub fn run(&self, backend: &mut dyn Backend, chunk: usize) -> Result<Vec<f32>> {
        let max_rows = chunk.min(self.rows.len()).max(1);
        let bindings = self.prepare(backend, max_rows, max_rows)?;
        let tables: Vec<&[Vec<u32>]> = self.tables.iter().map(|t| t.as_slice()).collect();
        let (width, last) = (self.carries[0].width, self.carries.len() - 1);
        let mut out = vec![];
        for (i, rows) in self.rows.chunks(chunk).enumerate() {
            if !self.input.is_empty() {
                backend.write(CarryId(0), &self.input[i * chunk * width..][..rows.len() * width]);
            }
            let batch = Batch { rows, first: 0, tables: &tables };
            backend.launch(air_rs::hal::ProgramId(0), &bindings, &batch)?;
            let n = if self.carries[last].rows == RowSet::All { rows.len() } else { batch.outputs() };
            let mut y = vec![0.0; n * self.carries[last].width];
            backend.read(CarryId(last as u32), &mut y);
            out.extend(y);
        }
        Ok(out)
    }

    pub fn exact(&self) -> Vec<f32> {
        self.run(&mut Exact::new(1), self.rows.len()).unwrap()
    }

    pub fn cuda(&self, chunk: usize, reversed: bool) -> Vec<f32> {
        self.run(&mut cuda(reversed), chunk).unwrap()
    }

    /// Every row of the result is the specification's within `tolerance` of its norm, squared, however the rows are
    /// cut into batches; and has the same bits in whatever order threads run.
    pub fn check(&self, what: &str, tolerance: f64) {
        let mut chunks = vec![1, 7, self.rows.len()];
        chunks.dedup();
        self.check_in(&chunks, what, tolerance);
    }

    /// The same for batches of these sizes.
    pub fn check_in(&self, chunks: &[usize], what: &str, tolerance: f64) {
        let want = self.exact();
        let width = self.carries.last().unwrap().width;
        for &chunk in chunks {
            let got = self.cuda(chunk, false);
            let error = row_error(&got, &want, width);
            assert!(error <= tolerance, "{what}, chunks of {chunk}: error {error:.3e}, at most {tolerance:.1e}");
            let again = self.cuda(chunk, true);
            assert_bits(&again, &got, &format!("{what}, chunks of {chunk}: another order of threads"));
        }
    }
}

/// The largest squared error of a row over its squared norm; a row far below the others' norm counts as a thousandth
/// of theirs.
pub fn row_error(got: &[f32], want: &[f32], width: usize) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let power = |w: &[f32]| w.iter().map(|&w| square(f64::from(w))).sum::<f64>();
    let mean = power(want) / (want.len() / width).max(1) as f64;
    let rows = got.chunks_exact(width).zip(want.chunks_exact(width));
    let errors = rows.map(|(g, w)| {
        let error: f64 = g.iter().zip(w).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
        error / power(w).max(mean * 1e-3).max(1e-30)
    });
    errors.fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

pub fn assert_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{what}: element {i} is {x:e}, not {y:e}");
    }
}
