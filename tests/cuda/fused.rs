//! Ops that run as one kernel give the bits of the ops one by one.

use crate::case::{Case, Random, Tensor, assert_bits, carry, no_kv, one_op, plain_rows};
use crate::device::{Device, is_gpu};
use crate::ops::mat_mul;
use crate::state::attend;
use air_rs::hal::cuda::Cuda;
use air_rs::op::{Attention, Builder, Carry, CarryId, Op, Pairing, Program, Rope, ValueId};
use air_rs::quant::Kind;
use std::sync::atomic::Ordering::Relaxed;

/// A norm makes the eight bits that the product behind it reads.
pub fn norms_before_products() {
    let mut rng = Random(40);
    for (rows, cols) in [(1, 512), (3, 288), (11, 1024)] {
        let norm = |b: &mut Builder, x: ValueId, out: ValueId| {
            let weight = b.weight("n", &[cols]);
            Op::RmsNorm { x, weight, group: cols, eps: 1e-5, out }
        };
        let mut first = one_op(rows, [cols, cols], &mut rng, norm);
        first.tensors.push(Tensor::vector(cols, &mut rng));
        // A block without anything in it, and one that is not finite.
        first.input[32..64].fill(0.0);
        if rows > 3 {
            first.input[cols * 3 + 70] = f32::INFINITY;
        }
        let mut second = mat_mul(Kind::Q4_0, rows, cols, 40, false, &mut rng);
        second.input = first.cuda(rows, false);
        let want = second.cuda(rows, false);

        let carries = vec![carry("x", cols), carry("y", 40)];
        let mut b = Builder::new("test", &carries);
        let (x, y, n) = (b.carry(CarryId(0)), b.carry(CarryId(1)), b.value("n", cols));
        let op = norm(&mut b, x, n);
        b.op(op);
        let weight = b.weight("w", &[cols, 40]);
        b.op(Op::MatMul { x: n, weight, bias: None, out: y });
        let (list, tables) = plain_rows(rows);
        let tensors = vec![first.tensors.remove(0), second.tensors.remove(0)];
        let (program, input, kv) = (b.finish(), first.input.clone(), no_kv());
        let both = Case { carries, tensors, program, kv, rows: list, tables, input, ring: 0 };
        for reversed in [false, true] {
            assert_bits(&both.cuda(rows, reversed), &want, &format!("{rows} rows of {cols}"));
        }
    }
}

/// Products of one input, of which those with weights of one format are one kernel: each of them is the one that runs
/// alone.
pub fn products_of_one_input() {
    use Kind::{F16, Q4_K, Q6_K, Q8_0};
    let mut rng = Random(42);
    let shapes = [40, 21, 67];
    for (kinds, kernels) in [([Q8_0; 3], 1), ([Q4_K, Q4_K, Q6_K], 2), ([Q6_K, Q4_K, Q6_K], 2), ([F16; 3], 1)] {
        for rows in [1, 3, 8, 11] {
            let mut alone: Vec<Case> =
                (0..3).map(|i| mat_mul(kinds[i], rows, 512, shapes[i], i > 0, &mut rng)).collect();
            let input = alone[0].input.clone();
            alone.iter_mut().for_each(|case| case.input.clone_from(&input));
            let wants: Vec<Vec<f32>> = alone.iter().map(|case| case.cuda(rows, false)).collect();
            let mut tensors: Vec<Tensor> = alone.into_iter().flat_map(|case| case.tensors).collect();
            for (which, want) in wants.iter().enumerate() {
                let carries = vec![carry("x", 512), carry("y", shapes[which])];
                let program = products(&carries, shapes, which);
                let (list, tables) = plain_rows(rows);
                let kv = no_kv();
                let case = Case { carries, tensors, program, kv, rows: list, tables, input: input.clone(), ring: 0 };
                for reversed in [false, true] {
                    let what = format!("{rows} rows, product {which} of {kinds:?}");
                    assert_bits(&case.cuda(rows, reversed), want, &what);
                }
                if !is_gpu() && rows <= 8 {
                    let device = Device::new(false);
                    let done = device.done.clone();
                    case.run(&mut Cuda::new(Box::new(device)).unwrap(), rows).unwrap();
                    let quantised = usize::from(kinds[0] != F16);
                    assert_eq!(done[0].load(Relaxed), kernels + quantised + 2, "{rows} rows of {kinds:?}");
                }
                tensors = case.tensors;
            }
        }
    }
}

/// Three products of the first carry, one of them in the last; all but the first have a bias.
fn products(carries: &[Carry], shapes: [usize; 3], which: usize) -> Program {
    let mut b = Builder::new("products", carries);
    let (x, mut others) = (b.carry(CarryId(0)), vec![]);
    for (i, rows) in shapes.into_iter().enumerate() {
        let weight = b.weight("w", &[512, rows]);
        let bias = (i > 0).then(|| b.weight("b", &[rows]));
        let out = if i == which { b.carry(CarryId(1)) } else { b.value("y", rows) };
        b.op(Op::MatMul { x, weight, bias, out });
        others.extend((i != which).then_some(out));
    }
    // What nobody reads later has its place for the moment only.
    for y in others {
        let out = b.value("twice", b.width(y));
        b.op(Op::Add { a: y, b: y, out });
    }
    b.finish()
}

/// Queries and keys are turned, and keys and values go into the state, by one kernel or by four, which other tests
/// compare with the interpreter.
pub fn positions() {
    let mut rng = Random(41);
    let formats = [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0];
    for (n, &k) in formats.iter().enumerate() {
        for (pairing, dims) in [[(Pairing::HalfSplit, 64)], [(Pairing::Interleaved, 48)]][n % 2] {
            let v = formats[(n + 1) % 4];
            let shape = Attention { heads: 6, kv_heads: 2, head_dim: 64, v_dim: 32, scale: 0.125, window: None };
            let mut case = attend(shape, k, v, &mut rng);
            let rope = Rope { dims, base: 1e4, pairing, scale: 1.0, yarn: None };
            // The keys first: that is no order in which all of it is one kernel.
            case.program = turned(&case.carries, shape, rope, false);
            let apart = case.cuda(5, false);
            case.program = turned(&case.carries, shape, rope, true);
            assert_bits(&case.cuda(5, false), &apart, &format!("{k:?} and {v:?}, {dims} turn"));
        }
    }
}

/// Attention over products of the input that are turned.
fn turned(carries: &[Carry], shape: Attention, rope: Rope, queries_first: bool) -> Program {
    let Attention { heads, kv_heads, head_dim, v_dim, .. } = shape;
    let mut b = Builder::new("attend", carries);
    let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(1)));
    let mut parts = [heads * head_dim, kv_heads * head_dim, kv_heads * v_dim].map(|w| {
        let (weight, out) = (b.weight("w", &[32, w]), b.value("v", w));
        b.op(Op::MatMul { x, weight, bias: None, out });
        out
    });
    for which in if queries_first { [0, 1] } else { [1, 0] } {
        let turned = b.value("turned", [heads, kv_heads][which] * head_dim);
        b.op(Op::Rope { x: parts[which], head_dim, rope, factors: None, out: turned });
        parts[which] = turned;
    }
    b.op(Op::KvAppend { k: parts[1], v: parts[2] });
    b.op(Op::Attend { q: parts[0], attention: shape, out });
    b.finish()
}
