//! What is told of launches, and the device's clock.

use crate::case::{Random, cuda};
use crate::ops::mat_mul;
use air_rs::hal::Backend;
use air_rs::quant::{FORMATS, Format, Kind};

/// Each product reads its weights once for few rows, and for many; the rest reads none.
pub fn launches_are_told_while_they_are_watched() {
    let mut rng = Random(9);
    let read = |kind: Kind, rows: usize, rng: &mut Random| {
        let mut device = cuda(false);
        assert!(device.watch(true).unwrap().is_empty(), "nothing ran");
        let case = mat_mul(kind, rows, 256, 40, false, rng);
        case.run(&mut device, rows).unwrap();
        let launched = device.watch(false).unwrap();
        assert!(launched.iter().all(|l| l.seconds >= 0.0), "{launched:?}");
        launched
    };
    for format in FORMATS {
        for (rows, kernel) in [(1, "matvec_"), (7, "matvec_"), (30, "matmul_")] {
            let launched = read(format.kind, rows, &mut rng);
            let of = |l: &&air_rs::hal::Launched| l.kernel.starts_with(&(kernel.to_string() + &stem(format)));
            let products: Vec<_> = launched.iter().filter(of).collect();
            assert!(!products.is_empty(), "{}: {launched:?}", format.name);
            let bytes: Option<u64> = products.iter().map(|l| l.bytes).sum();
            assert_eq!(bytes, Some(40 * format.row_bytes(256) as u64), "{} {rows} rows", format.name);
            let others = launched.iter().filter(|l| !l.kernel.starts_with(kernel));
            assert!(others.map(|l| l.bytes).all(|b| b.is_none()), "{launched:?}");
        }
    }
}

fn stem(format: &Format) -> String {
    format.name.to_lowercase()
}
