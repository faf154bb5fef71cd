//! Ops that run as one kernel give the bits of the ops one by one.

use crate::case::{Case, Random, Tensor, assert_bits, carry, no_kv, one_op, plain_rows};
use crate::ops::mat_mul;
use crate::state::attend;
use air_rs::op::{Attention, Builder, Carry, CarryId, Op, Pairing, Program, Rope, ValueId};
use air_rs::quant::Kind;

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
