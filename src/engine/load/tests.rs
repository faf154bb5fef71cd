//! A model on a device with a processor beside it: without a device, on two processors.

use super::super::runner::{Chunk, Outputs};
use super::*;
use crate::engine::memory;
use crate::format::gguf;
use crate::hal::Hybrid;
use crate::hal::cpu::{Cpu, CpuOptions};
use std::path::Path;

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap())
}

/// A model on a processor that is taken for a device with so much memory of its own, and another one beside it.
fn beside(catalogue: &Catalogue, free: u64, ram: u64) -> Result<Prepared> {
    let options = LoadOptions {
        device: Device::Cuda(None),
        context: Some(64),
        max_rows: 16,
        vram_budget: Some(Size::Bytes(free)),
        ram_budget: Some(Size::Bytes(memory::resident() + ram)),
        drive_rate: Some(1e9),
        ..LoadOptions::default()
    };
    let backend = Box::new(Hybrid::new(cpu(), cpu()));
    prepare_on(Place { backend, room: Room::Gpu { free, others: 0 } }, catalogue, &options)
}

/// The bits of the logits of a prompt in two pieces, and of one token more.
fn bits(runner: &mut Runner) -> Vec<u32> {
    let text: Vec<u32> = (0..30).map(|i| 3 + i * 7 % 50).collect();
    let seq = runner.kv().create();
    let mut bits = vec![];
    for tokens in [&text[..16], &text[16..29], &text[29..]] {
        runner.run([Chunk { seq, tokens, outputs: Outputs::All }]).unwrap();
        bits.extend(runner.logits().iter().map(|x| x.to_bits()));
    }
    runner.kv().release(seq);
    bits
}

/// Those of one processor.
fn alone(catalogue: &Catalogue) -> Vec<u32> {
    let cpu = LoadOptions { context: Some(64), max_rows: 16, device: Device::Cpu, ..LoadOptions::default() };
    bits(&mut load(catalogue, &cpu, &mut |_, _| ()).unwrap().1)
}

/// Bytes of a device with which a model can be loaded, about the fewest.
fn least(catalogue: &Catalogue) -> u64 {
    let (mut low, mut least) = (0, 64 << 20);
    while least - low > 1024 {
        let middle = (low + least) / 2;
        if beside(catalogue, middle, 1 << 30).is_ok() { least = middle } else { low = middle }
    }
    least
}

/// Whoever computes which stage, wherever its weights are: with the same arithmetic on both sides the bits are those
/// of one processor.
#[test]
fn a_processor_beside_a_device_computes_what_the_device_would() {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
    let experts = gguf::open(&families.join("qwen3moe-3of8.gguf")).unwrap();
    for catalogue in [&crate::engine::demo().unwrap(), &experts] {
        let want = alone(catalogue);
        let weights: u64 = catalogue.tensors.values().map(|t| t.extent.len).sum();
        let least = least(catalogue);
        // Which homes were seen: on the device, in memory beside it, on the drive, experts that come when wanted.
        let mut seen = [false; 4];
        let rams = || (16..64).step_by(4).chain([16_000]).map(|n| n << 16);
        for (part, ram) in (0..32).step_by(4).flat_map(|n| rams().map(move |ram| (n, ram))) {
            let Ok(prepared) = beside(catalogue, least + weights * part / 32, ram) else { continue };
            let mut runner = finish(prepared, catalogue, &mut |_, _| ()).unwrap().1;
            let plan = &runner.residence().plan;
            let homes = [plan.kept, plan.hosted(), plan.streamed(), plan.cache.places as u64].map(|n| n > 0);
            assert!(bits(&mut runner) == want, "{homes:?}, {part} of 32 parts of the weights and {ram} bytes beside");
            seen = std::array::from_fn(|i| seen[i] | homes[i]);
        }
        let moe = catalogue.file() == experts.file();
        assert_eq!(seen, if moe { [true, false, false, true] } else { [true, true, true, false] });
    }
}

/// Tiles of a pass are computed on one side, also where the last of them has as few rows as would go to the other.
#[test]
fn tiles_of_a_pass_stay_together() {
    let catalogue = crate::engine::demo().unwrap();
    let want = alone(&catalogue);
    for tile in [3, 5, 12] {
        let mut prepared = beside(&catalogue, least(&catalogue), 1 << 30).unwrap();
        prepared.max_rows = tile;
        assert!(prepared.residence.plan.hosted() > 0 && prepared.residence.pass_rows > tile);
        let mut runner = finish(prepared, &catalogue, &mut |_, _| ()).unwrap().1;
        assert!(bits(&mut runner) == want, "tiles of {tile} rows");
    }
}
