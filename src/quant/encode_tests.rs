//! The encoders against llama.cpp's, by error (goldens of `scripts/goldens/quantize_error.py`), and on hostile input.

use super::*;

const ROWS: usize = 32;
const COLS: usize = 1024;

/// The outputs of splitmix64 from a seed.
fn splitmix(seed: u64) -> impl Iterator<Item = u64> {
    (1u64..).map(move |i| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Nearly normal: twelve 16-bit uniforms from three outputs, minus their mean.
fn normal(seed: u64, n: usize) -> Vec<f64> {
    let z: Vec<u64> = splitmix(seed).take(3 * n).collect();
    let sum = |z: &u64| (0..4).map(|i| z >> (16 * i) & 0xFFFF).sum::<u64>() as i64;
    z.chunks_exact(3).map(|z| (z.iter().map(sum).sum::<i64>() - 6 * 65535) as f64 / 65536.0).collect()
}

fn uniform(seed: u64, n: usize) -> Vec<f64> {
    splitmix(seed).take(n).map(|z| (z >> 40) as f64 / 8_388_608.0 - 1.0).collect()
}

/// The tensor of a class, bit for bit that of the script.
fn tensor(class: &str) -> Vec<f32> {
    let n = ROWS * COLS;
    let x: Vec<f64> = match class {
        "normal" => normal(1, n).iter().map(|x| x * 0.02).collect(),
        "heavy" => normal(2, n).iter().zip(normal(3, n)).map(|(a, b)| a * b * 0.02).collect(),
        "uniform" => uniform(4, n).iter().map(|x| x * 0.05).collect(),
        "rows" => {
            let scale = uniform(6, ROWS);
            let power = |row: usize| 2f64.powi((row % 9) as i32 - 6);
            let at = |(i, x): (usize, f64)| x * (1.5 + scale[i / COLS]) * power(i / COLS);
            normal(5, n).into_iter().enumerate().map(at).collect()
        }
        "outliers" => {
            let scale = |i: usize| if i % COLS % 61 == 7 { 0.5 } else { 0.02 };
            normal(7, n).iter().enumerate().map(|(i, x)| x * scale(i)).collect()
        }
        "shifted" => normal(8, n).iter().map(|x| x * 0.1 + 0.35).collect(),
        "sparse" => {
            normal(9, n).iter().zip(uniform(10, n)).map(|(x, u)| if u < 0.5 { 0.0 } else { x * 0.03 }).collect()
        }
        "tiny" => normal(11, n).iter().map(|x| x * 2f64.powi(-19)).collect(),
        _ => panic!("{class} is not a class of the script"),
    };
    x.into_iter().map(|x| x as f32).collect()
}

/// Encodes and decodes.
fn back(format: &Format, x: &[f32]) -> Vec<f32> {
    let mut blocks = vec![0; format.row_bytes(x.len())];
    format.encode.expect("a format that can be encoded")(x, &mut blocks);
    let mut y = vec![0.0; x.len()];
    (format.decode)(&blocks, &mut y);
    y
}

#[test]
fn errors_are_at_most_two_percent_above_llama_cpp() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/quant/rmse.tsv");
    let table = std::fs::read_to_string(path).unwrap();
    let mut covered = std::collections::HashSet::new();
    let mut worse = Vec::new();
    for line in table.lines().skip(1) {
        let [class, name, theirs] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let format = Format::by_name(name).unwrap();
        let x = tensor(class);
        let sum: f64 = back(format, &x).iter().zip(&x).map(|(y, x)| (f64::from(*y) - f64::from(*x)).powi(2)).sum();
        let ratio = (sum / x.len() as f64).sqrt() / theirs.parse::<f64>().unwrap();
        println!("{class} {name}: {ratio:.4} of llama.cpp's error");
        if ratio > 1.02 {
            worse.push((class, name, ratio));
        }
        covered.insert(format.name);
    }
    assert!(worse.is_empty(), "{worse:?}");
    for f in FORMATS.iter().filter(|f| f.encode.is_some() && f.kind != Kind::F32) {
        assert!(covered.contains(f.name), "{} has an encoder but no error table", f.name);
    }
}

#[test]
fn narrowing_rounds_as_numpy_does() {
    let data = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/quant/narrow.bin")).unwrap();
    let n = data.len() / 8;
    let (x, rest) = data.split_at(4 * n);
    let x: Vec<f32> = x.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    for (kind, expected) in [Kind::F16, Kind::BF16].into_iter().zip(rest.chunks_exact(2 * n)) {
        let mut got = vec![0; 2 * n];
        kind.format().encode.unwrap()(&x, &mut got);
        for (i, (got, expected)) in got.chunks_exact(2).zip(expected.chunks_exact(2)).enumerate() {
            if !x[i].is_nan() {
                assert_eq!(got, expected, "{kind:?} of {:e}", x[i]);
            }
        }
        assert!(back(kind.format(), &[f32::NAN, f32::from_bits(0xFF80_0001)]).iter().all(|y| y.is_nan()));
    }
}

#[test]
fn no_input_breaks_an_encoder() {
    type Case = (&'static str, fn(usize) -> f32);
    let cases: [Case; 11] = [
        ("NaN", |_| f32::NAN),
        ("a NaN among numbers", |i| if i == 5 { f32::NAN } else { i as f32 }),
        ("infinities", |i| if i % 2 == 0 { f32::INFINITY } else { f32::NEG_INFINITY }),
        ("an infinity among numbers", |i| if i == 40 { f32::INFINITY } else { i as f32 - 7.0 }),
        ("the largest", |i| if i % 3 == 0 { f32::MAX } else { f32::MIN }),
        ("the smallest", |i| if i % 3 == 0 { f32::from_bits(1) } else { -f32::from_bits(3) }),
        ("beyond the scale", |i| (i as f32 - 100.0) * 1e7),
        ("near the smallest scale", |i| (i as f32 - 100.0) * 1e-9),
        ("equal", |_| 3.25),
        ("equal, negative", |_| -3.25),
        ("zero and minus zero", |i| if i % 2 == 0 { 0.0 } else { -0.0 }),
    ];
    for f in FORMATS.iter().filter(|f| f.encode.is_some() && f.block_len > 1) {
        for (name, at) in &cases {
            let x: Vec<f32> = (0..512).map(at).collect();
            let y = back(f, &x);
            let largest = x.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
            assert!(y.iter().all(|y| y.is_finite()), "{}: {name} gives something that is not finite", f.name);
            if x.iter().all(|x| x.is_finite()) && largest < 1e5 {
                // Half a step of the coarsest format, or of the smallest half float.
                let step = (largest / 8.0).max(1e-7);
                let off = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(off <= step, "{}: {name} is {off} off, more than {step}", f.name);
            }
            if x.iter().all(|x| *x == 0.0) {
                assert!(y.iter().all(|y| *y == 0.0), "{}: zero stays zero", f.name);
            }
        }
    }
}
