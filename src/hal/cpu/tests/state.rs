//! Attention over pages, and mixtures of experts.

use super::*;

/// Attention over pages in any order, sequences that mix, windows, groups of heads and formats of the state.
#[test]
fn attention_over_pages() {
    let mut rng = Random(10);
    let shapes = [(4, 4, 32, 32), (6, 2, 32, 64), (14, 2, 64, 32), (1, 1, 32, 32)];
    // Keys and values that the two backends round differently before they are encoded differ by a step now and then.
    for (k, v, tolerance) in [
        (Kind::F32, Kind::F32, 1e-11),
        (Kind::F16, Kind::F16, 1e-8),
        (Kind::Q8_0, Kind::Q8_0, 1e-6),
        (Kind::Q8_0, Kind::Q4_0, 1e-4),
        (Kind::Q4_0, Kind::F16, 1e-4),
    ] {
        for (heads, kv_heads, head_dim, v_dim) in shapes {
            for window in [None, Some(1), Some(20), Some(33)] {
                let shape = Attention { heads, kv_heads, head_dim, v_dim, scale: 0.2, window };
                attend(shape, k, v, &mut rng).check(&format!("{k:?}/{v:?} {shape:?}"), tolerance);
            }
        }
    }
    // Heads that fill no vector, where the format allows them.
    for kind in [Kind::F32, Kind::F16] {
        let shape = Attention { heads: 3, kv_heads: 3, head_dim: 20, v_dim: 12, scale: 0.3, window: None };
        attend(shape, kind, kind, &mut rng).check("odd heads", 1e-8);
    }
}

/// Groups of query heads of all sizes, and heads that fill no vector or several.
#[test]
fn attention_of_any_group_and_head() {
    let mut rng = Random(16);
    for (heads, kv_heads, head_dim, v_dim) in
        [(3, 1, 40, 80), (5, 1, 80, 40), (14, 2, 16, 48), (8, 1, 192, 128), (20, 2, 32, 32), (2, 2, 64, 112)]
    {
        for window in [None, Some(9)] {
            let shape = Attention { heads, kv_heads, head_dim, v_dim, scale: 0.1, window };
            attend(shape, Kind::F16, Kind::F16, &mut rng).check(&format!("{shape:?}"), 1e-8);
        }
    }
}

/// Sequences of several segments: their sums are folded in order, whoever computed them, and windows begin anywhere.
#[test]
fn attention_over_segments() {
    let mut rng = Random(17);
    for (heads, kv_heads, window) in [(3, 1, None), (4, 2, Some(515)), (1, 1, Some(20))] {
        let shape = Attention { heads, kv_heads, head_dim: 32, v_dim: 32, scale: 0.5, window };
        let mut case = attend(shape, Kind::F16, Kind::Q8_0, &mut rng);
        let row = |seq, pos| Row { token: 0, seq, pos, output: true };
        // At the end the sequences take turns, nine rows each.
        let turns = (0..5).flat_map(|i| {
            let of = move |seq, first: u32| (i * 9..i * 9 + 9).map(move |n| row(seq, first + n));
            of(0, 1029).chain(of(1, 0))
        });
        case.rows = (0..1029).map(|pos| row(0, pos)).chain(turns).collect();
        case.tables = vec![vec![(2..36).rev().collect()], vec![vec![1, 0]]];
        case.kv.groups[0].pages = 36;
        case.input = rng.normals(case.rows.len() * 32);
        case.check(&format!("{shape:?}"), 1e-6);
    }
}

/// What a row does not see does not reach it, not even from a row that shares its tile.
#[test]
fn later_rows_change_nothing() {
    let mut rng = Random(18);
    for window in [None, Some(3)] {
        let shape = Attention { heads: 2, kv_heads: 1, head_dim: 32, v_dim: 32, scale: 0.2, window };
        let mut case = attend(shape, Kind::F16, Kind::F16, &mut rng);
        (case.rows, _) = plain_rows(40);
        case.input.truncate(40 * 32);
        case.tables = vec![vec![vec![4, 1]]];
        let want = case.fast(Isa::Scalar, 1, 40);
        case.input[37 * 32..38 * 32].fill(f32::INFINITY);
        for isa in sets() {
            let got = case.fast(isa, 1, 40);
            assert_bits(&got[..37 * 64], &want[..37 * 64], &format!("{isa:?}, {window:?}"));
            assert!(got[37 * 64..38 * 64].iter().all(|x| x.is_nan()), "{isa:?}: the row itself is touched");
        }
    }
}

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
    // Two sequences take turns; the pages are anywhere, and those before the window are given back.
    let (mut rows, mut pos) = (vec![], [0u32; 2]);
    for i in 0..75 {
        let seq = u32::from(i % 5 == 0);
        rows.push(Row { token: 0, seq, pos: pos[seq as usize], output: true });
        pos[seq as usize] += 1;
    }
    let tables = vec![vec![vec![4, 1]], vec![vec![2, NO_PAGE]]];
    let layer = KvLayer { kv_heads, head_dim, v_dim };
    let groups = vec![KvGroup { layers: vec![layer; 1], window, pages: 5 }];
    let mut tensors: Vec<Tensor> = widths.iter().map(|&w| Tensor::matrix(Kind::F32, 32, w, 1, rng)).collect();
    for t in &mut tensors {
        let mut x = vec![0.0; 32 * t.rows];
        (t.format.decode)(&t.bytes, &mut x);
        x.iter_mut().for_each(|x| *x *= 0.2);
        (t.format.encode.unwrap())(&x, &mut t.bytes);
    }
    let input = rng.normals(rows.len() * 32);
    let kv = KvLayout { k: k.format(), v: v.format(), groups };
    Case { carries, tensors, program, kv, rows, tables, input }
}

#[test]
fn a_missing_page_is_an_error() {
    let mut rng = Random(11);
    let shape = Attention { heads: 2, kv_heads: 1, head_dim: 32, v_dim: 32, scale: 0.2, window: None };
    for table in [vec![4], vec![4, NO_PAGE], vec![4, 5]] {
        let mut case = attend(shape, Kind::F16, Kind::F16, &mut rng);
        case.tables[0][0] = table;
        assert!(matches!(case.try_run(&mut *backend(Isa::Scalar, 2), 75, false), Err(Error::Engine(_))));
    }
}

#[test]
fn copied_pages_hold_the_same() {
    let mut rng = Random(12);
    let shape = Attention { heads: 2, kv_heads: 1, head_dim: 32, v_dim: 32, scale: 0.2, window: None };
    let case = attend(shape, Kind::Q8_0, Kind::F16, &mut rng);
    let mut cpu = backend(Isa::Scalar, 1);
    let want = case.run(&mut *cpu, 75);
    // The last row of the first sequence again, from copies of its pages.
    for (from, to) in [(4, 0), (1, 3)] {
        cpu.copy_page(0, from, to);
    }
    let row = *case.rows.iter().rev().find(|r| r.seq == 0).unwrap();
    let at = case.rows.iter().position(|r| *r == row).unwrap();
    cpu.write(CarryId(0), &case.input[at * 32..][..32]);
    let bindings = Bindings { weights: (0..3).map(WeightId).collect(), layer: Some(KvLayerId { group: 0, layer: 0 }) };
    let table = vec![vec![0, 3]];
    let rows = [Row { seq: 0, ..row }];
    cpu.launch(ProgramId(0), &bindings, &Batch { rows: &rows, first: 0, tables: &[&table] }).unwrap();
    let mut got = vec![0.0; 64];
    cpu.read(CarryId(1), &mut got);
    assert_bits(&got, &want[at * 64..][..64], "copied pages");
    assert_eq!(row.pos as usize / PAGE, 1);
}

/// Routing, experts' products on rows and on slots, and their weighted sum.
#[test]
fn experts() {
    let mut rng = Random(13);
    for (kind, experts, k, normalise) in
        [(Kind::F32, 5, 2, true), (Kind::Q8_0, 8, 3, false), (Kind::Q4_K, 3, 3, true), (Kind::Q4_0, 2, 1, false)]
    {
        moe(kind, 19, experts, k, normalise, &mut rng).check(&format!("{kind:?} {k} of {experts}"), 1e-3);
    }
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
        let (weight, out): (WeightSlot, _) = (b.weight("w", &[cols, rows, experts]), b.value("v", k * rows));
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
    Case { carries, tensors, program, kv: no_kv(), rows, tables, input }
}

#[test]
fn nan_does_not_stop_routing() {
    let mut rng = Random(14);
    let mut case = moe(Kind::Q8_0, 19, 4, 2, true, &mut rng);
    case.input[300] = f32::NAN;
    let y = case.fast(Isa::Scalar, 2, 19);
    assert!(y[256..512].iter().all(|x| x.is_nan()));
    assert!(y[..256].iter().chain(&y[512..]).all(|x| x.is_finite()));
}
