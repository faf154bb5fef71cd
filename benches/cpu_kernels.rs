//! Matrix products of the fast CPU backend, format by format: bytes of weights a second; and its attention.
//!
//!     cargo bench --bench cpu_kernels                       everything
//!     cargo bench --bench cpu_kernels -- 'c(ore|pu)/Q4_K'   products of one format: 1 to 512 activation rows
//!     cargo bench --bench cpu_kernels -- beside             products with what is kept beside a GPU
//!     cargo bench --bench cpu_kernels -- attention          attention
//!     cargo bench --bench cpu_kernels -- interleave         interleaving of weight rows
//!
//! In `cpu` the matrix is 256 MiB, far beyond the caches, so one row is bound by memory: compare with `memory`, which
//! only reads as much, with the machine's threads. In `core` it is 2 MiB and one thread works: what the kernel itself
//! takes. `AIR_CPU` chooses the instruction set. `beside` is one row again, of the formats in which models come: with a
//! matrix of the backend's own (`own`), one that a supply keeps for it in its layout, as beside a GPU (`kept`), and rows
//! as they are in the file (`rows`).
//!
//! `attention` has the shape of a model of 1.5 B parameters: 16 layers, 32 query heads on 8 key heads of 64 elements.
//! `decode` is one row at depth 8192 or 256, in bytes of keys and values a second, to be compared with `cpu/memory`;
//! `prefill` is 512 rows at a depth, in products of pairs of elements a second, to be compared with sixteen for each
//! cycle and vector unit; `append` stores the keys and values of 512 rows, in bytes of float32. Layers take turns, so
//! nothing stays in the nearer caches from launch to launch; at depth 256 all layers have 8 MiB.
//!
//! `interleave` is one thread that interleaves rows group after group into the same place, as a pass over streamed
//! weights does, in bytes of rows a second: from 1 MiB, which lies in cache (`near`), and from 256 MiB (`far`).

use air_rs::error::Result;
use air_rs::hal::cpu::{Cpu, CpuOptions, Isa, Layout};
use air_rs::hal::{
    BEHIND, Backend, Batch, Bindings, Home, KvGroup, KvLayer, KvLayerId, KvLayout, PAGE, Panel, ProgramId, Reservation,
    Row, Supply, Wanted, WeightDesc,
};
use air_rs::op::{Attention, Builder, Carry, CarryId, Op, RowSet, Type};
use air_rs::quant::{FORMATS, Format, Kind};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const BYTES: usize = 256 << 20;
const CACHED: usize = 2 << 20;
const COLS: usize = 4096;

/// Bytes that are well formed in every format; what they decode to does not matter for the time.
fn fill(first: usize, out: &mut [u8]) {
    let mut x = first as u64 * 0x9e37_79b9 + 1;
    for word in out.chunks_mut(8) {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Small exponents everywhere: no infinities, no denormals to speak of.
        let bytes = (x & 0x3bff_3bff_3bff_3bff | 0x0400_0400_0400_0400).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

/// Rows that lie together.
const GROUP: usize = 16;

/// Panels of one group each, made as they are asked for.
#[derive(Debug)]
struct Filled {
    row_bytes: usize,
    rows: usize,
}

impl Supply for Filled {
    fn want(&self, _: &mut [Wanted]) {}

    fn panel(&self, number: u32, _: u32, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        let first = number as usize * GROUP;
        let mut bytes = vec![0; self.row_bytes * GROUP.min(self.rows - first)];
        fill(first, &mut bytes);
        f(&bytes);
        Ok(())
    }

    fn bytes(&self, _: u32, _: usize, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        Ok(())
    }
}

/// Groups of one panel that is kept.
const KEPT: usize = 8;

/// Panels of `KEPT` groups in memory, one behind another.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    panel: usize,
}

impl Kept {
    fn new(format: &'static Format, rows: usize, arranged: bool) -> Kept {
        let row_bytes = format.row_bytes(COLS);
        let (all, group) = (rows.div_ceil(GROUP) * GROUP * row_bytes, GROUP * row_bytes);
        let mut kept = Kept { bytes: Vec::with_capacity(all + BEHIND), panel: KEPT * group };
        let (layout, mut from) = (Layout::new(Isa::Scalar, format, COLS), vec![0; group]);
        kept.bytes.resize(all, 0);
        for (n, to) in kept.bytes.chunks_exact_mut(group).enumerate() {
            fill(n * GROUP, &mut from);
            if arranged { layout.interleave(&from, to) } else { to.copy_from_slice(&from) }
        }
        kept
    }
}

impl Supply for Kept {
    fn want(&self, _: &mut [Wanted]) {}

    fn panel(&self, number: u32, _: u32, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        let start = number as usize * self.panel;
        f(&self.bytes[start..self.bytes.len().min(start + self.panel)]);
        Ok(())
    }

    fn bytes(&self, _: u32, _: usize, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        Ok(())
    }
}

/// Products of `batch` rows with one matrix of the format, ready to launch.
fn product(format: &'static Format, batch: usize, bytes: usize, options: CpuOptions, home: Home) -> impl FnMut() {
    let rows = bytes / format.row_bytes(COLS);
    let carry = |name, width| Carry { name, width, ty: Type::F32, rows: RowSet::All };
    let carries = [carry("x", COLS), carry("y", rows)];
    let mut b = Builder::new("product", &carries);
    let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(1)));
    let weight = b.weight("w", &[COLS, rows]);
    b.op(Op::MatMul { x, weight, bias: None, out });
    let program = b.finish();

    let mut cpu = Cpu::new(options).expect("the backend starts");
    let panel = if home == Home::Memory { GROUP } else { GROUP * KEPT };
    let panels: Vec<Panel> = (0..rows.div_ceil(panel))
        .map(|n| Panel { number: n as u32, rows: n * panel..rows.min((n + 1) * panel), home })
        .collect();
    let desc = WeightDesc {
        name: "w",
        format,
        cols: COLS,
        rows,
        experts: 1,
        matrix: true,
        panels: &panels,
        arranged: home == Home::Host,
    };
    let supply: Arc<dyn Supply> = match home {
        Home::Memory => Arc::new(Filled { row_bytes: format.row_bytes(COLS), rows }),
        _ => Arc::new(Kept::new(format, rows, home == Home::Host)),
    };
    let bindings = Bindings { weights: vec![cpu.load(&desc, &supply).expect("memory for the matrix")], layer: None };
    let program = cpu.compile(&program).expect("the program compiles");
    let kv = KvLayout { k: Kind::F16.format(), v: Kind::F16.format(), groups: vec![] };
    let reservation =
        Reservation { carries: &carries, pass_rows: batch, max_rows: batch, max_outputs: batch, kv: &kv, ring: (0, 0) };
    cpu.reserve(&reservation).expect("memory for the values");
    let input: Vec<f32> = (0..batch * COLS).map(|i| (i % 17) as f32 - 8.0).collect();
    cpu.write(CarryId(0), &input);
    let list = vec![Row { token: 0, seq: 0, pos: 0, output: true }; batch];
    move || cpu.launch(program, &bindings, &Batch { rows: &list, first: 0, tables: &[&[]] }).expect("the product runs")
}

/// Sums memory with all threads, as fast as it comes.
fn read(words: &[u64]) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let sum = |part: &[u64]| {
        part.chunks_exact(8).fold([0u64; 8], |mut s, c| {
            s.iter_mut().zip(c).for_each(|(s, c)| *s ^= c);
            s
        })
    };
    std::thread::scope(|scope| {
        let parts = words.chunks(words.len().div_ceil(threads));
        let handles: Vec<_> = parts.map(|p| scope.spawn(move || sum(p))).collect();
        handles.into_iter().flat_map(|h| h.join().expect("reading does not fail")).fold(0, |a, b| a ^ b)
    })
}

/// All formats and batches over matrices of a size.
fn formats(c: &mut Criterion, name: &str, size: usize, batches: &[usize], options: fn() -> CpuOptions) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for format in FORMATS {
        for &batch in batches {
            let bytes = size / format.row_bytes(COLS) * format.row_bytes(COLS);
            group.throughput(Throughput::Bytes(bytes as u64));
            // The matrix is made when the benchmark is selected, not before.
            group.bench_function(format!("{}/{batch}", format.name), |b| {
                b.iter_custom({
                    let mut run: Option<Box<dyn FnMut()>> = None;
                    move |n| {
                        let run =
                            run.get_or_insert_with(|| Box::new(product(format, batch, size, options(), Home::Memory)));
                        let start = std::time::Instant::now();
                        (0..n).for_each(|_| run());
                        start.elapsed()
                    }
                })
            });
        }
    }
    group.finish();
}

/// One row, with weights at home or kept for the backend by others.
fn beside(c: &mut Criterion) {
    let mut group = c.benchmark_group("beside");
    group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    for kind in [Kind::Q4_0, Kind::Q4_K, Kind::Q6_K, Kind::Q8_0, Kind::F16] {
        let format = kind.format();
        let rows = BYTES / format.row_bytes(COLS) / (GROUP * KEPT) * GROUP * KEPT;
        group.throughput(Throughput::Bytes((rows * format.row_bytes(COLS)) as u64));
        for (name, home) in [("own", Home::Memory), ("kept", Home::Host), ("rows", Home::Stream)] {
            group.bench_function(format!("{}/{name}", format.name), |b| {
                let mut run = product(format, 1, rows * format.row_bytes(COLS), CpuOptions::default(), home);
                b.iter(&mut run);
            });
        }
    }
    group.finish();
}

const LAYERS: usize = 16;
const SHAPE: Attention = Attention { heads: 32, kv_heads: 8, head_dim: 64, v_dim: 64, scale: 0.125, window: None };
const CHUNK: usize = 512;

/// A sequence of `depth` positions, which further rows follow.
struct Sequence {
    cpu: Cpu,
    append: ProgramId,
    attend: ProgramId,
    table: [Vec<u32>; 1],
    depth: usize,
    turn: usize,
}

impl Sequence {
    fn new(kind: Kind, depth: usize, more: usize) -> Self {
        let Attention { heads, kv_heads, head_dim, v_dim, .. } = SHAPE;
        let carry = |name, width| Carry { name, width, ty: Type::F32, rows: RowSet::All };
        let widths = [heads * head_dim, kv_heads * head_dim, kv_heads * v_dim, heads * v_dim];
        let carries: Vec<Carry> = ["q", "k", "v", "y"].into_iter().zip(widths).map(|(n, w)| carry(n, w)).collect();
        let mut cpu = Cpu::new(CpuOptions::default()).expect("the backend starts");
        let mut compile = |op: &dyn Fn(&mut Builder) -> Op| {
            let mut b = Builder::new("attention", &carries);
            let op = op(&mut b);
            b.op(op);
            cpu.compile(&b.finish()).expect("the program compiles")
        };
        let append = compile(&|b| Op::KvAppend { k: b.carry(CarryId(1)), v: b.carry(CarryId(2)) });
        let attend = compile(&|b| Op::Attend { q: b.carry(CarryId(0)), attention: SHAPE, out: b.carry(CarryId(3)) });
        let pages = (depth + more).div_ceil(PAGE);
        let layers = vec![KvLayer { kv_heads, head_dim, v_dim }; LAYERS];
        let kv = KvLayout { k: kind.format(), v: kind.format(), groups: vec![KvGroup { layers, window: None, pages }] };
        let reservation = Reservation {
            carries: &carries,
            pass_rows: CHUNK,
            max_rows: CHUNK,
            max_outputs: CHUNK,
            kv: &kv,
            ring: (0, 0),
        };
        cpu.reserve(&reservation).expect("memory for the state");
        for (id, width) in (0..).zip(&widths[..3]) {
            let x: Vec<f32> = (0..CHUNK * width).map(|i| (i * 37 % 101) as f32 * 0.02 - 1.0).collect();
            cpu.write(CarryId(id), &x);
        }
        let mut s = Sequence { cpu, append, attend, table: [(0..pages as u32).collect()], depth: 0, turn: 0 };
        for first in (0..depth).step_by(CHUNK) {
            s.depth = first;
            (0..LAYERS).for_each(|_| s.launch(append, CHUNK.min(depth - first)));
        }
        s.depth = depth;
        s
    }

    /// Runs a program on the next rows, in the layer whose turn it is.
    fn launch(&mut self, program: ProgramId, rows: usize) {
        let row = |i| Row { token: 0, seq: 0, pos: (self.depth + i) as u32, output: true };
        let rows: Vec<Row> = (0..rows).map(row).collect();
        let layer = Some(KvLayerId { group: 0, layer: self.turn % LAYERS });
        self.turn += 1;
        let batch = Batch { rows: &rows, first: 0, tables: &[&self.table] };
        self.cpu.launch(program, &Bindings { weights: vec![], layer }, &batch).expect("the launch runs");
    }
}

/// Attention of rows that follow `depth` positions.
fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for kind in [Kind::F16, Kind::Q8_0, Kind::Q4_0] {
        for (name, depth, rows) in [
            ("decode", 255, 1),
            ("decode", 8191, 1),
            ("prefill", 0, CHUNK),
            ("prefill", 2048, CHUNK),
            ("append", 0, CHUNK),
        ] {
            let Attention { heads, kv_heads, head_dim, v_dim, .. } = SHAPE;
            let seen: usize = (0..rows).map(|r| depth + r + 1).sum();
            group.throughput(match name {
                "decode" => {
                    let bytes = kind.format().row_bytes(head_dim) + kind.format().row_bytes(v_dim);
                    Throughput::Bytes((seen * kv_heads * bytes) as u64)
                }
                "prefill" => Throughput::Elements((seen * heads * (head_dim + v_dim)) as u64),
                _ => Throughput::Bytes((4 * rows * kv_heads * (head_dim + v_dim)) as u64),
            });
            group.bench_function(format!("{name}/{}/{depth}", kind.format().name), |b| {
                b.iter_custom({
                    let mut made = None;
                    move |n| {
                        let s = made.get_or_insert_with(|| {
                            let mut s = Sequence::new(kind, depth, rows);
                            (0..LAYERS).for_each(|_| s.launch(s.append, rows));
                            s
                        });
                        let program = if name == "append" { s.append } else { s.attend };
                        let start = std::time::Instant::now();
                        (0..n).for_each(|_| s.launch(program, rows));
                        start.elapsed()
                    }
                })
            });
        }
    }
    group.finish();
}

/// Interleaving from inside and outside of the caches.
fn interleave(c: &mut Criterion) {
    let isa = Isa::choose(None, std::env::var("AIR_CPU").ok().as_deref()).expect("an instruction set");
    let mut rows = vec![0; BYTES];
    fill(0, &mut rows);
    let mut group = c.benchmark_group("interleave");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    for (name, size) in [("near", 1 << 20), ("far", BYTES)] {
        for format in FORMATS {
            let layout = Layout::new(isa, format, COLS);
            let mut out = vec![0; layout.group_bytes()];
            let rows = &rows[..size / out.len() * out.len()];
            group.throughput(Throughput::Bytes(rows.len() as u64));
            group.bench_function(format!("{name}/{}", format.name), |b| {
                b.iter(|| rows.chunks_exact(out.len()).for_each(|r| layout.interleave(r, black_box(&mut out))))
            });
        }
    }
    group.finish();
}

fn kernels(c: &mut Criterion) {
    formats(c, "core", CACHED, &[1, 4, 8, 16, 64], || CpuOptions { threads: Some(1), ..CpuOptions::default() });
    let mut group = c.benchmark_group("cpu");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES as u64));
    let words = vec![1u64; BYTES / 8];
    group.bench_function("memory", |b| b.iter(|| read(black_box(&words))));
    group.finish();
    drop(words);
    formats(c, "cpu", BYTES, &[1, 4, 8, 16, 64, 512], CpuOptions::default);
}

criterion_group!(benches, kernels, beside, interleave, attention);
criterion_main!(benches);
