//! Attention over pages, and mixtures of experts.

use crate::case::{Case, Random, Tensor, assert_bits, carry, cuda, plain_rows};
use air_rs::error::Error;
use air_rs::hal::{Backend, Batch, KvGroup, KvLayer, KvLayout, NO_PAGE, ProgramId, Row};
use air_rs::op::{Activation, Attention, Builder, Carry, CarryId, Op, Type, ValueId};
use air_rs::quant::Kind;

fn row(seq: u32, pos: u32) -> Row {
    Row { token: 0, seq, pos, output: true }
}

/// Queries, keys and values as products of the input; two sequences take turns.
pub fn attend(shape: Attention, k: Kind, v: Kind, rng: &mut Random) -> Case {
    let Attention { heads, kv_heads, head_dim, v_dim, window, .. } = shape;
    let widths = [heads * head_dim, kv_heads * head_dim, kv_heads * v_dim];
    let carries = vec![carry("x", 32), carry("y", heads * v_dim)];
    let mut b = Builder::new("attend", &carries);
    let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(1)));
    let parts: Vec<ValueId> = widths
        .iter()
        .map(|&w| {
            let (weight, out) = (b.weight("w", &[32, w]), b.value("v", w));
            b.op(Op::MatMul { x, weight, bias: None, out });
            out
        })
        .collect();
    b.op(Op::KvAppend { k: parts[1], v: parts[2] });
    b.op(Op::Attend { q: parts[0], attention: shape, out });
    let program = b.finish();
    // The pages are anywhere; those before the window are given back.
    let (mut rows, mut pos) = (vec![], [0u32; 2]);
    for i in 0..75 {
        let seq = u32::from(i % 5 == 0);
        rows.push(row(seq, pos[seq as usize]));
        pos[seq as usize] += 1;
    }
    let tables = vec![vec![vec![4, 1]], vec![vec![2, NO_PAGE]]];
    let layer = KvLayer { kv_heads, head_dim, v_dim };
    let groups = vec![KvGroup { layers: vec![layer], window, pages: 5 }];
    let mut tensors: Vec<Tensor> = widths.iter().map(|&w| Tensor::matrix(Kind::F32, 32, w, 1, rng)).collect();
    for t in &mut tensors {
        let mut x = vec![0.0; 32 * t.rows];
        (t.format.decode)(&t.bytes, &mut x);
        x.iter_mut().for_each(|x| *x *= 0.2);
        (t.format.encode.unwrap())(&x, &mut t.bytes);
    }
    let input = rng.normals(rows.len() * 32);
    let kv = KvLayout { k: k.format(), v: v.format(), groups };
    Case { carries, tensors, program, kv, rows, tables, input, ring: 0 }
}

/// Sequences that mix, windows, groups of heads and formats of the state.
pub fn attention_over_pages() {
    let mut rng = Random(10);
    let kinds = [(Kind::F32, 1e-11f64), (Kind::F16, 1e-6), (Kind::Q8_0, 1e-5), (Kind::Q4_0, 1e-3)];
    // Keys and values that the two backends round differently before they are encoded differ by a step now and then.
    for (k, rough) in kinds {
        for (v, rougher) in kinds {
            let windows: &[Option<u32>] = if k == v { &[None, Some(1), Some(20), Some(33)] } else { &[None, Some(20)] };
            for &window in windows {
                let shape = Attention { heads: 6, kv_heads: 2, head_dim: 32, v_dim: 64, scale: 0.2, window };
                // Few rows and many have kernels' work of their own.
                let chunks: &[usize] = if k == v && window == Some(20) { &[1, 7, 75] } else { &[75] };
                let what = format!("{k:?}/{v:?} {shape:?}");
                attend(shape, k, v, &mut rng).check_in(chunks, &what, rough.max(rougher));
            }
        }
    }
    // Heads of which no four elements lie together.
    for kind in [Kind::F32, Kind::F16] {
        let shape = Attention { heads: 3, kv_heads: 3, head_dim: 22, v_dim: 13, scale: 0.3, window: None };
        attend(shape, kind, kind, &mut rng).check_in(&[7, 75], "odd heads", 1e-7);
    }
}

/// Groups of query heads of all sizes, and heads that fill no warp, or several blocks' threads.
pub fn attention_of_any_group_and_head() {
    let mut rng = Random(16);
    for (heads, kv_heads, head_dim, v_dim) in
        [(3, 1, 40, 80), (5, 1, 80, 40), (40, 1, 16, 48), (8, 1, 192, 128), (20, 2, 32, 32), (2, 2, 256, 576)]
    {
        for window in [None, Some(9)] {
            let shape = Attention { heads, kv_heads, head_dim, v_dim, scale: 0.1, window };
            let mut case = attend(shape, Kind::F16, Kind::F16, &mut rng);
            case.rows.truncate(45);
            case.input.truncate(45 * 32);
            case.check_in(&[3, 45], &format!("{shape:?}"), 1e-6);
        }
    }
    // A head that does not fit into a block's memory.
    let shape = Attention { heads: 1, kv_heads: 1, head_dim: 4096, v_dim: 32, scale: 0.1, window: None };
    let case = attend(shape, Kind::F16, Kind::F16, &mut rng);
    assert!(matches!(case.run(&mut cuda(false), 1), Err(Error::Unsupported { .. })));
}

/// A long sequence, whose splits are put together, with a prompt and single rows of others beside it.
pub fn attention_over_splits() {
    let mut rng = Random(17);
    for (heads, kv_heads, window) in [(3, 1, None), (4, 2, Some(515)), (1, 1, Some(20))] {
        let shape = Attention { heads, kv_heads, head_dim: 32, v_dim: 32, scale: 0.5, window };
        let mut case = attend(shape, Kind::F16, Kind::Q8_0, &mut rng);
        case.rows = (0..1029).map(|pos| row(0, pos)).collect();
        case.tables = vec![vec![(2..36).rev().collect()], vec![vec![1, 0]], vec![vec![36, 37]]];
        case.kv.groups[0].pages = 38;
        case.input = rng.normals((1029 + 60) * 32);
        // Long runs, then one row at a time, then a batch of everything.
        let rest = [row(0, 1029), row(2, 0), row(0, 1030), row(0, 1031)];
        let mixed = (0..20).map(|i| row(1, i)).chain([row(2, 1), row(0, 1032), row(2, 2)]);
        case.rows.extend(rest.into_iter().chain(mixed));
        case.input.truncate(case.rows.len() * 32);
        let want = case.exact();
        for reversed in [false, true] {
            let mut backend = cuda(reversed);
            let bindings = case.prepare(&mut backend, 1029, 1029).unwrap();
            let tables: Vec<&[Vec<u32>]> = case.tables.iter().map(|t| t.as_slice()).collect();
            let mut got = vec![];
            for part in [0..1029, 1029..1030, 1030..1033, 1033..case.rows.len()] {
                backend.write(CarryId(0), &case.input[part.start * 32..part.end * 32]);
                let batch = Batch { rows: &case.rows[part.clone()], first: 0, tables: &tables };
                backend.launch(ProgramId(0), &bindings, &batch).unwrap();
                let mut y = vec![0.0; part.len() * heads * 32];
                backend.read(CarryId(1), &mut y);
                got.extend(y);
            }
            let error = crate::case::row_error(&got, &want, heads * 32);
            assert!(error <= 1e-5, "{shape:?}: error {error:.3e}");
        }
    }
}

/// What a row does not see does not reach it, not even from a row that shares its tile.
pub fn later_rows_change_nothing() {
    let mut rng = Random(18);
    for window in [None, Some(3)] {
        let shape = Attention { heads: 2, kv_heads: 1, head_dim: 32, v_dim: 32, scale: 0.2, window };
        let mut case = attend(shape, Kind::F16, Kind::F16, &mut rng);
        (case.rows, _) = plain_rows(40);
        case.input.truncate(40 * 32);
        case.tables = vec![vec![vec![4, 1]]];
        let want = case.cuda(40, false);
        case.input[37 * 32..38 * 32].fill(f32::INFINITY);
        let got = case.cuda(40, true);
        assert_bits(&got[..37 * 64], &want[..37 * 64], &format!("{window:?}"));
        assert!(got[37 * 64..38 * 64].iter().all(|x| x.is_nan()), "the row itself is touched");
    }
}

pub fn a_missing_page_is_an_error() {
    let mut rng = Random(11);
    let shape = Attention { heads: 2, kv_heads: 1, head_dim: 32, v_dim: 32, scale: 0.2, window: None };
    for table in [vec![4], vec![4, NO_PAGE], vec![4, 5]] {
        let mut case = attend(shape, Kind::F16, Kind::F16, &mut rng);
        case.tables[0][0] = table;
        assert!(matches!(case.run(&mut cuda(false), 75), Err(Error::Engine(_))));
    }
}

pub fn copied_pages_hold_the_same() {
    let mut rng = Random(12);
    let shape = Attention { heads: 2, kv_heads: 1, head_dim: 32, v_dim: 32, scale: 0.2, window: None };
    let case = attend(shape, Kind::Q8_0, Kind::F16, &mut rng);
    let mut backend = cuda(false);
    let bindings = case.prepare(&mut backend, 75, 75).unwrap();
    let tables: Vec<&[Vec<u32>]> = case.tables.iter().map(|t| t.as_slice()).collect();
    backend.write(CarryId(0), &case.input);
    backend.launch(ProgramId(0), &bindings, &Batch { rows: &case.rows, first: 0, tables: &tables }).unwrap();
    // The last row of the first sequence, from its pages and from copies of them, alone both times.
    let row = *case.rows.iter().rev().find(|r| r.seq == 0).unwrap();
    let at = case.rows.iter().position(|r| *r == row).unwrap();
    let last = |backend: &mut dyn Backend, table: Vec<u32>| {
        backend.write(CarryId(0), &case.input[at * 32..][..32]);
        let table = vec![table];
        let rows = [Row { seq: 0, ..row }];
        backend.launch(ProgramId(0), &bindings, &Batch { rows: &rows, first: 0, tables: &[&table] }).unwrap();
        let mut got = vec![0.0; 64];
        backend.read(CarryId(1), &mut got);
        got
    };
    let want = last(&mut backend, vec![4, 1]);
    for (from, to) in [(4, 0), (1, 3)] {
        backend.copy_page(0, from, to);
    }
    assert_bits(&last(&mut backend, vec![0, 3]), &want, "copied pages");
    assert_eq!(row.pos / 32, 1);
}

pub fn moe(kind: Kind, rows: usize, experts: usize, k: usize, normalise: bool, rng: &mut Random) -> Case {
    let (width, inner) = (256, 256);
    let chosen = Carry { ty: Type::Index, ..carry("ids", k) };
    let carries = vec![carry("x", width), chosen, carry("y", width)];
    let mut b = Builder::new("moe", &carries);
    let (x, ids, y) = (b.carry(CarryId(0)), b.carry(CarryId(1)), b.carry(CarryId(2)));
    let (logits, weights) = (b.value("logits", experts), b.value("weights", k));
    let weight = b.weight("router", &[width, experts]);
    b.op(Op::MatMul { x, weight, bias: None, out: logits });
    b.op(Op::Route { logits, k, normalise, ids, weights });
    let expert = |b: &mut Builder, x, per_slot, cols: usize, rows: usize| {
        let (weight, out) = (b.weight("w", &[cols, rows, experts]), b.value("v", k * rows));
        b.op(Op::ExpertMatMul { x, per_slot, ids, weight, out });
        out
    };
    let gate = expert(&mut b, x, false, width, inner);
    let up = expert(&mut b, x, false, width, inner);
    let glu = b.value("glu", k * inner);
    b.op(Op::Glu { gate, up, act: Activation::Silu, out: glu });
    let down = expert(&mut b, glu, true, inner, width);
    b.op(Op::ExpertSum { x: down, weights, out: y });
    let program = b.finish();
    let mut tensors = vec![Tensor::matrix(Kind::F32, width, experts, 1, rng)];
    tensors.extend((0..3).map(|_| Tensor::matrix(kind, 256, 256, experts, rng)));
    let input = rng.normals(rows * width);
    let (rows, tables) = plain_rows(rows);
    Case { carries, tensors, program, kv: crate::case::no_kv(), rows, tables, input, ring: 0 }
}

/// Routing, experts' products on rows and on slots, and their weighted sum.
pub fn experts() {
    let mut rng = Random(13);
    for (kind, experts, k, normalise) in
        [(Kind::F32, 5, 2, true), (Kind::Q8_0, 8, 3, false), (Kind::Q4_K, 3, 3, true), (Kind::Q4_0, 2, 1, false)]
    {
        moe(kind, 19, experts, k, normalise, &mut rng).check(&format!("{kind:?} {k} of {experts}"), 3e-3);
    }
}

/// More experts than a warp has lanes and many of them for a row, some of whose logits are equal, some infinite.
pub fn many_experts() {
    let mut rng = Random(19);
    for (experts, k) in [(256, 16), (33, 33), (100, 1)] {
        let carries = vec![carry("x", experts), Carry { ty: Type::Index, ..carry("ids", k) }, carry("y", k)];
        let mut b = Builder::new("route", &carries);
        let (logits, ids, weights) = (b.carry(CarryId(0)), b.carry(CarryId(1)), b.carry(CarryId(2)));
        b.op(Op::Route { logits, k, normalise: experts != 100, ids, weights });
        let program = b.finish();
        let (rows, tables) = plain_rows(9);
        let mut input: Vec<f32> = rng.normals(9 * experts).iter().map(|x| (x * 4.0).round() / 4.0).collect();
        input[experts + 7] = f32::NEG_INFINITY;
        input[2 * experts + 7] = f32::NAN;
        let case = Case { carries, tensors: vec![], program, kv: crate::case::no_kv(), rows, tables, input, ring: 0 };
        let chosen = |backend: &mut dyn Backend| {
            let bindings = case.prepare(backend, 9, 9).unwrap();
            backend.write(CarryId(0), &case.input);
            backend.launch(ProgramId(0), &bindings, &Batch { rows: &case.rows, first: 0, tables: &[&[]] }).unwrap();
            let (mut ids, mut shares) = (vec![0.0; 9 * k], vec![0.0; 9 * k]);
            backend.read(CarryId(1), &mut ids);
            backend.read(CarryId(2), &mut shares);
            (ids, shares)
        };
        let want = chosen(&mut air_rs::hal::exact::Exact::new(1));
        for reversed in [false, true] {
            let got = chosen(&mut cuda(reversed));
            assert_eq!(got.0, want.0, "{k} of {experts}");
            for (i, (a, b)) in got.1.iter().zip(&want.1).enumerate() {
                let same = (a - b).abs() <= 1e-6 * b.abs() || a.is_nan() && b.is_nan();
                assert!(same, "{k} of {experts}: share {i} is {a} and not {b}");
            }
        }
    }
}

pub fn nan_does_not_stop_routing() {
    let mut rng = Random(14);
    for rows in [3, 19] {
        let mut case = moe(Kind::Q8_0, rows, 4, 2, true, &mut rng);
        case.input[300] = f32::NAN;
        let y = case.cuda(rows, false);
        assert!(y[256..512].iter().all(|x| x.is_nan()));
        assert!(y[..256].iter().chain(&y[512..]).all(|x| x.is_finite()));
    }
}
