//! Ops without state, over random shapes.

use crate::case::{Case, Random, Tensor, assert_bits, cuda, one_op, row_error, scales};
use air_rs::error::Error;
use air_rs::hal::exact::Exact;
use air_rs::hal::{Backend, Batch, ProgramId, Reservation};
use air_rs::op::{Activation, Builder, CarryId, Op, Pairing, Rope, RowSet, Yarn};
use air_rs::quant::{FORMATS, Format, Kind};

pub fn mat_mul(kind: Kind, rows: usize, cols: usize, out: usize, bias: bool, rng: &mut Random) -> Case {
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

/// The plain formats differ from the specification by rounding only, the others by the activations' eight bits; in
/// products with many rows, half floats by the activations' bits too.
fn product_tolerance(format: &Format, rows: usize) -> f64 {
    match format.kind {
        Kind::F16 if rows > 8 => 1e-6,
        Kind::BF16 if rows > 8 => 2e-5,
        _ if format.block_len == 1 => 1e-11,
        _ => 1e-3,
    }
}

/// Checks a product of so many rows, in chunks of few and of all.
fn check_product(case: &Case, format: &Format, what: &str) {
    for chunk in [1, 7, case.rows.len()] {
        case.check_in(&[chunk], &format!("{} {what}", format.name), product_tolerance(format, chunk));
    }
}

/// A decoded element is rounded once more or less than in the specification.
pub fn embeddings() {
    let mut rng = Random(5);
    for format in FORMATS {
        let cols = if format.block_len == 1 { 37 } else { format.block_len * 3 };
        let mut case = one_op(21, [1, cols], &mut rng, |b, _, out| {
            let table = b.weight("t", &[cols, 37]);
            Op::Embed { table, out }
        });
        case.tensors.push(Tensor::matrix(format.kind, cols, 37, 1, &mut rng));
        case.rows.iter_mut().for_each(|r| r.token = rng.below(37) as u32);
        case.check(format.name, 1e-12);
        case.rows[3].token = 37;
        let failed = case.run(&mut cuda(false), 21).unwrap_err().to_string();
        assert!(failed.contains("token 37"), "{failed}");
    }
}

pub fn products_of_every_format() {
    let mut rng = Random(1);
    for format in FORMATS {
        let unit = format.block_len;
        for (rows, blocks, out) in [(1, 1, 15), (3, 3, 17), (23, 2, 70), (40, 5, 130)] {
            let cols = if unit == 1 { 37 * blocks } else { unit * blocks };
            let case = mat_mul(format.kind, rows, cols, out, rows == 3, &mut rng);
            check_product(&case, format, &format!("{rows}x{cols}x{out}"));
        }
        // Wide rows: every lane has several steps, and floats come eight at a time.
        check_product(&mat_mul(format.kind, 9, 2304, 6, true, &mut rng), format, "wide");
    }
}

/// The kernels for few rows, of every number, and the one for many.
pub fn products_of_any_number_of_rows() {
    let mut rng = Random(6);
    for kind in [Kind::Q4_K, Kind::Q8_0, Kind::F16, Kind::BF16] {
        let case = mat_mul(kind, 66, 512, 9, true, &mut rng);
        let want = case.exact();
        for rows in [2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 64, 65] {
            let error = row_error(&case.cuda(rows, rows % 2 == 0), &want, 9);
            let most = product_tolerance(kind.format(), rows);
            assert!(error <= most, "{kind:?}, {rows} rows at a time: error {error:.3e}, at most {most:.1e}");
        }
    }
}

/// Tiles of every size, whole ones and the rest of one: and what a sum is does not depend on the tile.
pub fn products_by_tiles_of_any_size() {
    let mut rng = Random(22);
    for format in FORMATS {
        let case = mat_mul(format.kind, 131, format.block_len.max(160), 133, true, &mut rng);
        case.check_in(&[131], format.name, product_tolerance(format, 131));
        let whole = case.cuda(131, false);
        for rows in [20, 50] {
            assert_bits(&case.cuda(rows, false), &whole, &format!("{}, {rows} rows at a time", format.name));
        }
    }
}

/// A block's sums stay exact where all integers and all activations are as large as they can be.
pub fn extreme_integers() {
    let mut rng = Random(3);
    for format in FORMATS.iter().filter(|f| f.block_len > 1) {
        for byte in [0x00, 0x80, 0x7f, 0xff] {
            let mut case = mat_mul(format.kind, 10, format.block_len * 2, 16, false, &mut rng);
            for block in case.tensors[0].bytes.chunks_exact_mut(format.block_bytes) {
                let kept: Vec<(usize, u8)> =
                    scales(format.kind).iter().flat_map(|&s| [(s, block[s]), (s + 1, block[s + 1])]).collect();
                let exponent = block[0];
                block.fill(byte);
                kept.into_iter().for_each(|(at, b)| block[at] = b);
                if format.kind == Kind::MXFP4 {
                    block[0] = exponent;
                }
            }
            let width = case.carries[0].width;
            case.input = (0..case.input.len()).map(|i| if i < width { 1.0 } else { -1.0 }).collect();
            // All activations are full scale, so nothing is lost in rounding them.
            case.check(&format!("{} of {byte:#x}", format.name), 1e-10);
        }
    }
}

pub fn odd_activations() {
    let mut rng = Random(4);
    for kind in [Kind::Q4_K, Kind::Q8_0, Kind::Q4_1, Kind::F16, Kind::BF16] {
        for (value, finite) in [(0.0, true), (1e-42, true), (1e30, true), (f32::NAN, false), (f32::INFINITY, false)] {
            let mut case = mat_mul(kind, 12, 512, 16, false, &mut rng);
            case.input[..512].fill(if value == 1e30 { 1e28 } else { 0.0 });
            case.input[100] = value;
            for chunk in [1, 12] {
                let got = case.cuda(chunk, false);
                assert_eq!(got[..16].iter().all(|x| x.is_finite()), finite, "{kind:?} with {value}");
                assert!(got[16..].iter().all(|x| x.is_finite()), "{kind:?}: {value} reached another row");
                assert_bits(&case.cuda(chunk, true), &got, &format!("{kind:?} with {value}"));
            }
        }
    }
}

pub fn norms() {
    let mut rng = Random(7);
    for (width, group) in [(64, 64), (96, 32), (37, 37), (40, 8), (1000, 1000), (514, 257)] {
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

pub fn rotations() {
    let mut rng = Random(8);
    let yarn = Some(Yarn { low: 2.0, high: 9.0, magnitude: 1.2 });
    for (head_dim, heads, dims, pairing, yarn, factors) in [
        (32, 3, 32, Pairing::Interleaved, None, false),
        (32, 9, 32, Pairing::HalfSplit, None, true),
        (32, 1, 24, Pairing::Interleaved, yarn, true),
        (160, 2, 136, Pairing::HalfSplit, yarn, false),
    ] {
        let rope = Rope { dims, base: 10000.0, pairing, scale: 0.5, yarn };
        let mut case = one_op(40, [heads * head_dim; 2], &mut rng, |b, x, out| {
            let factors = factors.then(|| b.weight("f", &[dims / 2]));
            Op::Rope { x, head_dim, rope, factors, out }
        });
        if factors {
            case.tensors.push(Tensor::vector(dims / 2, &mut rng));
        }
        case.rows.iter_mut().for_each(|r| r.pos = r.pos * 9973 + 3);
        case.check(&format!("Rope {dims} of {head_dim} {pairing:?}"), 1e-12);
    }
}

pub fn sums_gates_and_selections() {
    let mut rng = Random(9);
    for width in [1, 16, 100, 700] {
        one_op(9, [width, width], &mut rng, |_, x, out| Op::Add { a: x, b: x, out }).check("Add", 0.0);
        let glu = |_: &mut Builder, x, out| Op::Glu { gate: x, up: x, act: Activation::Silu, out };
        let mut case = one_op(9, [width, width], &mut rng, glu);
        case.input.iter_mut().for_each(|x| *x *= 8.0);
        case.check("Glu", 1e-12);
    }
    let mut case = one_op(9, [5, 5], &mut rng, |_, x, out| Op::Add { a: x, b: x, out });
    case.carries[1].rows = RowSet::Outputs;
    let mut b = Builder::new("test", &case.carries);
    let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(1)));
    b.op(Op::SelectOutputs { x, out });
    case.program = b.finish();
    case.rows.iter_mut().enumerate().for_each(|(i, r)| r.output = i % 3 == 1);
    case.check("SelectOutputs", 0.0);
}

pub fn what_does_not_fit_is_an_error() {
    let mut rng = Random(15);
    let mut case = mat_mul(Kind::F32, 2, 32, 16, false, &mut rng);
    case.tensors[0].cols = 16;
    case.tensors[0].rows = 32;
    assert!(matches!(case.run(&mut cuda(false), 2), Err(Error::Engine(_))));

    let mut case = mat_mul(Kind::F32, 2, 32, 16, false, &mut rng);
    case.rows[1].seq = 1;
    assert!(matches!(case.run(&mut cuda(false), 2), Err(Error::Engine(_))));

    // More rows than were reserved.
    let case = mat_mul(Kind::F32, 66, 32, 16, false, &mut rng);
    let mut backend = cuda(false);
    let bindings = case.prepare(&mut backend, 2, 2).unwrap();
    let batch = air_rs::hal::Batch { rows: &case.rows, first: 0, tables: &[&[]] };
    use air_rs::hal::{Backend, ProgramId};
    assert!(matches!(backend.launch(ProgramId(0), &bindings, &batch), Err(Error::Engine(_))));
    let none = air_rs::hal::Batch { rows: &[], first: 0, tables: &[] };
    backend.launch(ProgramId(0), &bindings, &none).unwrap();
    assert_eq!(case.run(&mut Exact::new(1), 66).unwrap().len(), 66 * 16);
}

/// Parts of a matrix that are brought, through one place or several, give the bits of one that is kept, whichever of
/// the device's two queues goes first.
pub fn products_of_parts() {
    let mut rng = Random(30);
    for format in FORMATS {
        let kind = format.kind;
        let few = [Kind::F16, Kind::Q8_0, Kind::Q4_K, Kind::Q6_K].contains(&kind);
        for &rows in if few { &[1, 5, 19][..] } else { &[3] } {
            let mut case = mat_mul(kind, rows, 256, 16 * 8 + 5, true, &mut rng);
            let want = case.cuda(rows, false);
            for ring in [1, 3] {
                case.ring = ring;
                for reversed in [false, true] {
                    assert_bits(&case.cuda(rows, reversed), &want, &format!("{kind:?}, {rows} rows, {ring} places"));
                }
            }
        }
    }
}

/// What cannot be brought is an error, and nothing stays lent: the next launch is as ever.
pub fn a_panel_that_does_not_come() {
    let mut rng = Random(31);
    let mut case = mat_mul(Kind::Q8_0, 2, 64, 70, false, &mut rng);
    case.ring = 2;
    let mut backend = cuda(false);
    let bindings = case.prepare(&mut backend, 2, 2).unwrap();
    let (carries, kv) = (&case.carries[..], &case.kv);
    let reservation = |ring| Reservation { carries, pass_rows: 2, max_rows: 2, max_outputs: 2, kv, ring };
    let batch = Batch { rows: &case.rows, first: 0, tables: &[&[]] };
    let mut launch = |ring| {
        backend.reserve(&reservation(ring)).unwrap();
        backend.write(CarryId(0), &case.input);
        let done = backend.launch(ProgramId(0), &bindings, &batch);
        let mut y = vec![0.0; 140];
        backend.read(CarryId(1), &mut y);
        done.map(|()| y)
    };
    let error = launch((2, 100)).unwrap_err().to_string();
    assert!(error.contains("fits into none of 1 places"), "{error}");
    assert_bits(&launch((2, 1 << 12)).unwrap(), &case.cuda(2, false), "after an error");
}
