//! The cache of experts against recorded routing, and with less room than a step wants.

use super::cache::Cache;
use super::counters::Counters;
use crate::io::{Done, slots};
use crate::plan;
use std::path::Path;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Experts of a layer; layers.
const EXPERTS: u32 = 64;
const LAYERS: usize = 6;

/// The experts of each layer of each pass, when so many sequences of the recording are decoded together, as
/// `scripts/moe_routing.py` wrote and plays them: experts are numbered over all layers.
fn passes(together: usize) -> Vec<Vec<Vec<u32>>> {
    let data = file("tests/data/moe_routing.bin");
    let head: Vec<usize> = data[4..14].chunks(2).map(|b| b[0] as usize | (b[1] as usize) << 8).collect();
    assert_eq!((&data[..4], &head[..3]), (&b"MOER"[..], &[LAYERS, EXPERTS as usize, 4][..]));
    let (sequences, positions) = (head[3], head[4]);
    let chosen = |sequence: usize, position: usize, layer: usize| {
        let at = 14 + 3 * ((sequence * positions + position) * LAYERS + layer);
        let word = u32::from_le_bytes([data[at], data[at + 1], data[at + 2], 0]);
        (0..4).map(move |i| layer as u32 * EXPERTS + (word >> (6 * i) & 63))
    };
    let layer = |group: usize, position: usize, layer: usize| {
        let mut all: Vec<u32> = (group..group + together).flat_map(|s| chosen(s, position, layer)).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let groups = (0..sequences).step_by(together);
    groups
        .flat_map(|g| (0..positions).map(move |p| (g, p)))
        .map(|(g, p)| (0..LAYERS).map(|l| layer(g, p, l)).collect())
        .collect()
}

/// A cache for experts of one panel each.
fn cache(experts: u32, places: usize) -> Cache {
    let plan = plan::Cache { experts: (0..experts).map(|e| vec![e]).collect(), places, sizes: vec![1] };
    Cache::new(&plan, vec![1; experts as usize], slots(places, 1).unwrap())
}

/// A step that uses each panel once, in the order given; reads end at once.
fn step(cache: &mut Cache, experts: &[u32], counters: &mut Counters) {
    let mut wanted: Vec<(u32, u32)> = experts.iter().map(|&e| (e, e + 7)).collect();
    cache.want(&mut wanted, counters);
    let mut asked: Vec<u32> = wanted.iter().map(|w| w.0).collect();
    assert!(wanted.iter().all(|w| w.1 == w.0 + 7), "names stay with their panels");
    for &(number, _) in &wanted {
        while cache.take(number).map(|found| found.unwrap()).is_none() {
            let (number, slot) = cache.next().expect("what is asked for in order can come");
            cache.arrive(number, Done { tag: 0, slot, start: 0, result: Ok(()) });
        }
        cache.give_back(number, 1);
    }
    assert!(cache.next().is_none(), "only what is wanted comes");
    asked.sort_unstable();
    assert_eq!(asked, experts);
}

/// The share of hits after the first eighth of the passes.
fn rate(cache: &mut Cache, passes: &[Vec<Vec<u32>>]) -> f64 {
    let mut counters = Counters::default();
    for (n, layers) in passes.iter().enumerate() {
        if n == passes.len() / 8 {
            counters = Counters::default();
        }
        cache.begin(&mut counters);
        layers.iter().for_each(|experts| step(cache, experts, &mut counters));
    }
    counters.hit_rate().unwrap()
}

/// The cache must hold what is in use, which the study calls taking all.
#[test]
fn hits_are_those_of_the_study() {
    let table: serde_json::Value = serde_json::from_slice(&file("benches/results/moe-routing.json")).unwrap();
    for together in [1, 8] {
        let passes = passes(together);
        for percent in [20, 40, 60, 80] {
            let policies = &table["hit_rates"][together.to_string()]["policies"];
            let want = policies["LFU 128, takes all"][percent.to_string()].as_f64().unwrap();
            let all = EXPERTS * LAYERS as u32;
            let have = rate(&mut cache(all, (percent * all / 100) as usize), &passes);
            println!("{together} together, room for {percent}%: {have:.4}, in the study {want:.4}");
            assert!((have - want).abs() <= 0.01, "{together} together, {percent}%: {have} against {want}");
        }
    }
}

/// Long prompts use every expert in every pass, in order: as many are hit as a fixed set would have.
#[test]
fn a_scan_hits_what_there_is_room_for() {
    let all: Vec<Vec<u32>> = (0..LAYERS as u32).map(|l| (l * EXPERTS..(l + 1) * EXPERTS).collect()).collect();
    let passes = vec![all; 100];
    for places in [EXPERTS as usize, 192, 300] {
        let have = rate(&mut cache(EXPERTS * LAYERS as u32, places + EXPERTS as usize), &passes);
        let want = places as f64 / f64::from(EXPERTS * LAYERS as u32);
        assert!(have >= want - 0.01, "{places}: {have} of {want}");
    }
}

#[test]
fn a_step_may_want_more_than_there_is_room_for() {
    for places in 1..20 {
        let mut cache = cache(20, places);
        let mut counters = Counters::default();
        for pass in 0..10 {
            cache.begin(&mut counters);
            let some: Vec<u32> = (0..20).filter(|e| (e * 7 + pass) % 3 > 0).collect();
            step(&mut cache, &some, &mut counters);
            step(&mut cache, &(0..20).collect::<Vec<_>>(), &mut counters);
        }
        assert_eq!(counters.hits + counters.misses, 10 * 20, "each expert counts once in a pass");
        assert!(counters.misses >= 20, "{places}: {counters:?}");
    }
}
