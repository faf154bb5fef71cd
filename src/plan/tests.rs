//! Plans of small models, and the law.

use super::*;
use crate::quant::Kind;

pub const MIB: u64 = 1 << 20;

/// `3.up` belongs to stage 3, what has no number to a stage of its own.
fn stage(name: &str) -> usize {
    name.split('.').next().unwrap().parse().unwrap_or(100 + name.len())
}

fn unit(name: &str, cols: usize, rows: usize, usage: Use) -> Unit {
    let format = Kind::Q8_0.format();
    let len = (format.row_bytes(cols) * rows) as u64;
    let extent = Extent { source: 0, offset: 0, len };
    Unit {
        name: name.into(),
        format,
        cols,
        rows,
        experts: 1,
        matrix: true,
        extent,
        usage,
        stage: stage(name),
        beside: false,
    }
}

fn vector(name: &str, len: usize) -> Unit {
    let format = Kind::F32.format();
    let extent = Extent { source: 0, offset: 0, len: len as u64 * 4 };
    let (usage, stage) = (Use::Pass, stage(name));
    Unit {
        name: name.into(),
        format,
        cols: len,
        rows: 1,
        experts: 1,
        matrix: false,
        extent,
        usage,
        stage,
        beside: false,
    }
}

/// An embedding, eight layers of a norm and two matrices, a head.
pub fn model() -> Vec<Unit> {
    let mut units = vec![unit("embedding", 1024, 20_000, Use::Rows)];
    for layer in 0..8 {
        units.push(vector(&format!("{layer}.norm"), 1024));
        units.push(unit(&format!("{layer}.up"), 1024, 4000, Use::Pass));
        units.push(unit(&format!("{layer}.down"), 4096, 1024, Use::Pass));
    }
    units.push(unit("head", 1024, 20_000, Use::Outputs));
    units
}

const POLICY: Policy = Policy { budget: 0, block: MIB, stream: true, stages: false, host: None, beside: false };

const NEEDS: Needs = Needs { process: 10 * MIB, workspace: 5 * MIB, state: 7 * MIB };

pub fn plan(budget: u64) -> Result<Plan> {
    Plan::new(&model(), NEEDS, &Policy { budget, ..POLICY })
}

/// Panels cover each weight's rows once, in order, in whole groups, and their extents are the rows' bytes.
fn check(units: &[Unit], plan: &Plan) {
    for (n, (u, panels)) in units.iter().zip(&plan.panels).enumerate() {
        let mut row = 0;
        for p in panels {
            let part = &plan.parts[p.number as usize];
            assert_eq!((p.rows.start, part.unit, part.home), (row, n, p.home), "{}", u.name);
            assert_eq!(part.extent.offset, u.extent.offset + row as u64 * u.row_bytes());
            assert_eq!(part.extent.len, p.rows.len() as u64 * u.row_bytes());
            assert!((p.rows.start % u.rows).is_multiple_of(GROUP));
            assert!(p.home == Home::Cache || part.extent.len + MARGIN <= plan.slot_bytes);
            assert_eq!(p.rows.start / u.rows, (p.rows.end - 1) / u.rows, "a panel crosses experts");
            row = p.rows.end;
        }
        assert_eq!(row, u.rows * u.experts);
    }
    assert!(plan.memory() <= plan.budget, "{} of {}", plan.memory(), plan.budget);
}

#[test]
fn what_fits_is_kept() {
    let units = model();
    let plan = plan(400 * MIB).unwrap();
    check(&units, &plan);
    assert!(!plan.streams());
    assert_eq!(plan.kept, units.iter().map(Unit::kept_whole).sum::<u64>());
    assert_eq!(plan.traffic(&units, 1).drive, 0);
}

#[test]
fn the_budget_is_filled_and_turns_are_even() {
    let units = model();
    for budget in [60, 75, 90, 100, 110] {
        let plan = plan(budget * MIB).unwrap();
        check(&units, &plan);
        // Less than two panels are left over.
        assert!(plan.streams() && plan.memory() + 2 * MIB > plan.budget, "{budget}");
        assert!(plan.panels[0].iter().all(|p| p.home == Home::Drive), "rows of the embedding are read on demand");
        assert!(plan.panels[1].iter().all(|p| p.home == Home::Memory), "norms are kept");
        // Over any stretch of a pass the drive has its share of the bytes, give or take a panel or two.
        let cyclic: Vec<&Part> =
            plan.parts.iter().filter(|p| units[p.unit].may_leave() && p.home != Home::Drive).collect();
        let (all, streamed) = (cyclic.iter().map(|p| p.extent.len).sum::<u64>() as f64, plan.streamed() as f64);
        let (mut passed, mut read) = (0.0, 0.0);
        for p in cyclic {
            passed += p.extent.len as f64;
            read += if p.home == Home::Stream { p.extent.len as f64 } else { 0.0 };
            let due = passed * streamed / all;
            assert!((read - due).abs() <= 2.0 * MIB as f64, "{budget}: {read} of {due} after {passed}");
        }
        let t = plan.traffic(&units, 1);
        let row = units[0].row_bytes();
        assert_eq!(t.drive, plan.streamed() + row);
        assert_eq!(t.memory, units[1..].iter().map(|u| u.extent.len).sum::<u64>() + row);
    }
}

/// The ring holds what any stage streams, so that a pass of several tiles reads it once.
#[test]
fn a_ring_for_long_passes_holds_every_stage() {
    let units = model();
    let policy = |budget: u64, stages: bool| Policy { budget: budget * MIB, stages, ..POLICY };
    for budget in [70, 75, 90, 100, 110] {
        let short = Plan::new(&units, NEEDS, &policy(budget, false)).unwrap();
        let long = Plan::new(&units, NEEDS, &policy(budget, true)).unwrap();
        check(&units, &long);
        assert!(long.streams() && long.memory() + 2 * MIB > long.budget, "{budget}");
        for layer in 0..8 {
            let of = |p: &&Part| p.home == Home::Stream && units[p.unit].stage == layer;
            let count = long.parts.iter().filter(of).count();
            assert!(count + short.slots / 4 <= long.slots, "{budget}: {count} of layer {layer}, {} places", long.slots);
        }
        assert!(
            long.holds_stages(long.slots, &units) && long.slots >= short.slots && long.streamed() >= short.streamed()
        );
        let mut narrow = long.clone();
        narrow.slots = long.parts.iter().filter(|p| p.home == Home::Stream && units[p.unit].stage == 7).count();
        assert!(!narrow.holds_stages(narrow.slots, &units), "a place is left to read ahead");
    }
    assert!(!Plan::new(&units, NEEDS, &policy(400, true)).unwrap().streams());
}

#[test]
fn more_memory_never_streams_more() {
    let streamed: Vec<u64> = (45..140).map(|b| plan(b * MIB).unwrap().streamed()).collect();
    assert!(streamed.is_sorted_by(|a, b| a >= b), "{streamed:?}");
    assert_eq!(*streamed.last().unwrap(), 0);
}

#[test]
fn a_budget_that_is_too_small_names_the_smallest_that_works() {
    let failed = plan(20 * MIB).unwrap_err().to_string();
    let least: u64 =
        failed.split("smallest that works is ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(plan(least * MIB).is_ok(), "{failed}");
    assert!(plan((least - 1) * MIB).is_err(), "{failed}");
    let refused = Plan::new(&model(), NEEDS, &Policy { budget: 60 * MIB, stream: false, ..POLICY }).unwrap_err();
    assert!(refused.to_string().contains("cannot be streamed here"), "{refused}");
}

#[test]
fn a_head_that_is_also_the_embedding_is_streamed_last() {
    let mut units = model();
    units.pop();
    units[0].usage = Use::OutputsAndRows;
    let plan = Plan::new(&units, NEEDS, &Policy { budget: 70 * MIB, ..POLICY }).unwrap();
    check(&units, &plan);
    assert!(plan.panels[0].iter().any(|p| p.home == Home::Stream));
    assert!(plan.panels[0].iter().all(|p| plan.parts[p.number as usize].outputs));
}

#[test]
fn experts_are_cut_apart() {
    let mut experts = unit("experts", 256, 40, Use::Experts(2));
    (experts.experts, experts.extent.len) = (6, experts.extent.len * 6);
    let units = [experts];
    let plan = Plan::new(&units, NEEDS, &Policy { budget: 100 * MIB, block: 4096, ..POLICY }).unwrap();
    check(&units, &plan);
    assert_eq!(plan.traffic(&units, 1).memory, units[0].extent.len / 3);
}

/// Layers of a matrix that all tokens use, and of 16 experts with three matrices, of which the last has another size in
/// every second layer; a token uses two.
fn mixture() -> Vec<Unit> {
    let mut units = vec![unit("embedding", 1024, 20_000, Use::Rows)];
    for layer in 0..6 {
        units.push(unit(&format!("{layer}.dense"), 1024, 2000, Use::Pass));
        for (name, cols, rows) in [("gate", 1024, 256), ("up", 1024, 256), ("down", 256, 1024 + layer % 2 * 256)] {
            let mut u = unit(&format!("{layer}.{name}"), cols, rows, Use::Experts(2));
            (u.experts, u.extent.len) = (16, u.extent.len * 16);
            units.push(u);
        }
    }
    units.push(unit("head", 1024, 20_000, Use::Outputs));
    units
}

#[test]
fn experts_that_do_not_fit_share_what_dense_weights_leave() {
    let units = mixture();
    let plan = |budget: u64| Plan::new(&units, NEEDS, &Policy { budget, block: 100_000, ..POLICY });
    let failed = plan(1).unwrap_err().to_string();
    assert!(failed.contains("of 6 experts at once"), "{failed}");
    let least: u64 =
        failed.split("smallest that works is ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(plan((least - 1) * MIB).is_err(), "{failed}");
    let dense = |p: &Part| p.home != Home::Drive && !units[p.unit].is_expert();
    let (mut places, mut streamed) = (0, u64::MAX);
    for mib in least..170 {
        let plan = plan(mib * MIB).unwrap();
        check(&units, &plan);
        assert!(plan.parts.iter().all(|p| units[p.unit].is_expert() == (p.home == Home::Cache)));
        // Each expert of each layer, all of its three matrices, none of which is cut.
        let Cache { experts, sizes, .. } = &plan.cache;
        assert_eq!((experts.len(), sizes.len()), (96, 3));
        for (e, panels) in experts.iter().enumerate() {
            for (i, &number) in panels.iter().enumerate() {
                let part = &plan.parts[number as usize];
                assert!(part.unit == 2 + e / 16 * 4 + i && part.extent.len + MARGIN <= sizes[i]);
            }
        }
        assert!(plan.cache.places >= places && plan.streamed() <= streamed);
        assert!(plan.cache.places == 6 || plan.streamed() == 0, "dense weights go first");
        (places, streamed) = (plan.cache.places, plan.streamed());
        assert!(places == 96 || plan.memory() + MIB > plan.budget, "{mib}: {} of {}", plan.memory(), plan.budget);
        let t = plan.traffic_at(&units, 1, 0.75);
        let used: u64 = units.iter().filter(|u| u.is_expert()).map(|u| u.extent.len / 8).sum();
        let others: u64 = plan.parts.iter().filter(|p| dense(p)).map(|p| p.extent.len).sum();
        assert_eq!(t.drive, streamed + used / 4 + units[0].row_bytes());
        assert_eq!(t.memory, others + used + units[0].row_bytes());
        let two = plan.traffic_at(&units, 2, 0.0).drive - streamed - 2 * units[0].row_bytes();
        assert_eq!(two, used * 8 * 15 / 64, "seven of eight experts are not chosen, twice");
        assert_eq!(plan.traffic(&units, 1), plan.traffic_at(&units, 1, places as f64 / 96.0));
    }
    assert!(places > 90, "{places}");
    let plan = plan(400 * MIB).unwrap();
    assert!(!plan.streams() && plan.cache == Cache::default());
}

#[test]
fn large_experts_are_read_in_pieces() {
    let mut large = unit("large", 4096, 14_336, Use::Experts(2));
    (large.experts, large.extent.len) = (8, large.extent.len * 8);
    let units = [large];
    let plan = Plan::new(&units, NEEDS, &Policy { budget: 475 * MIB, ..POLICY }).unwrap();
    check(&units, &plan);
    let pieces = &plan.cache.experts[7];
    assert!(plan.cache.places >= 6 && plan.cache.sizes.len() == pieces.len());
    assert_eq!(pieces.iter().map(|&n| plan.parts[n as usize].extent.len).sum::<u64>(), units[0].extent.len / 8);
    assert!(plan.cache.sizes.iter().all(|&bytes| bytes <= (8 * MIB + MARGIN).next_multiple_of(4096)));
}

/// Sizes that a sparse file can have and no memory.
#[test]
fn sizes_beyond_all_memory_are_errors() {
    let policy = Policy { budget: 100 * MIB, ..POLICY };
    let limit = |unit: Unit| match Plan::new(&[unit], NEEDS, &policy) {
        Err(Error::Limit(text)) => text,
        other => panic!("{other:?}"),
    };
    let row = unit("row", 1 << 57, 1, Use::Pass);
    assert!(limit(row).contains("too small"));
    let mut experts = unit("many", 32, 1, Use::Experts(1));
    experts.experts = 1 << 40;
    assert!(limit(experts).contains("tensor many: the weights are more than"));
}

#[test]
fn the_slowest_link_sets_the_time() {
    let traffic = Traffic { drive: 100, memory: 1000, link: 0, device: 0 };
    let (memory, link) = (Some(50.0), Some(2.0));
    let rates = Rates { drive: Some(10.0), memory, link, device: None, cores: Some(1.0) };
    let pass = rates.pass(traffic, 5.0).unwrap();
    assert_eq!((pass.seconds, pass.bound), (20.0, Bound::Memory));
    let pass = Rates { drive: Some(4.0), ..rates }.pass(traffic, 5.0).unwrap();
    assert_eq!((pass.seconds, pass.bound), (25.0, Bound::Drive));
    assert_eq!(rates.pass(traffic, 30.0).unwrap().bound, Bound::Cores);
    let pass = rates.pass(Traffic { link: 60, ..traffic }, 5.0).unwrap();
    assert_eq!((pass.seconds, pass.bound), (30.0, Bound::Link));
    assert_eq!(Rates::default().pass(traffic, 1.0), None);
    assert_eq!(rates.pass(Traffic::default(), 0.0), None);
    // A device and the processor beside it take turns.
    let both = Rates { device: Some(1000.0), ..rates };
    let pass = both.pass(Traffic { device: 9000, ..traffic }, 5.0).unwrap();
    let alone = rates.pass(Traffic { drive: 0, ..traffic }, 0.0).unwrap();
    assert_eq!((pass.seconds, pass.bound), (9.0 + alone.seconds, Bound::Memory));
}

/// Where a device has its own memory, the host keeps what it can of the rest, in turns with the drive.
#[test]
fn the_host_keeps_what_a_device_has_no_room_for() {
    let plan = |budget: u64, host: u64| {
        let policy = Policy { budget: budget * MIB, host: Some(host * MIB), ..POLICY };
        let plan = Plan::new(&model(), NEEDS, &policy).unwrap();
        check(&model(), &plan);
        plan
    };
    let alone = plan(100, 0);
    assert_eq!((alone.hosted(), alone.traffic(&model(), 1).link), (0, alone.streamed()));
    let away = alone.streamed();
    let half = plan(100, (away / 2 + alone.ring()).div_ceil(MIB));
    assert_eq!((half.kept, half.hosted() + half.streamed()), (alone.kept, away));
    assert!(half.hosted() + half.ring() <= half.host.unwrap() && half.streamed() < away / 2 + (1 << 20));
    let traffic = half.traffic(&model(), 1);
    assert_eq!((traffic.link, traffic.drive), (away, half.streamed() + model()[0].row_bytes()));
    let homes: Vec<Home> =
        half.parts.iter().map(|p| p.home).filter(|h| matches!(h, Home::Stream | Home::Host)).collect();
    let longest = homes.chunk_by(|a, b| a == b).map(<[Home]>::len).max();
    assert!(longest <= Some(2), "they take turns: {homes:?}");
    let all = plan(100, 1000);
    assert_eq!((all.streamed(), all.hosted()), (0, away));
    assert!(all.brings() && all.streams());
    assert_eq!(plan(1000, 0).hosted(), 0, "a device that holds all");
}

/// Layers of attention and of a feed-forward part, in stages of their own.
fn layers(experts: usize) -> Vec<Unit> {
    let mut units = vec![unit("embedding", 1024, 20_000, Use::Rows)];
    for layer in 0..8 {
        units.push(unit(&format!("{}.attention", 2 * layer), 1024, 1024, Use::Pass));
        for (name, cols, rows) in [("up", 1024, 4096), ("down", 4096, 1024)] {
            let usage = if experts > 1 { Use::Experts(2) } else { Use::Pass };
            let mut u = unit(&format!("{}.{name}", 2 * layer + 1), cols, rows / experts, usage);
            (u.experts, u.beside) = (experts, true);
            u.extent.len *= experts as u64;
            units.push(u);
        }
        let mut norm = vector(&format!("{}.norm", 2 * layer + 1), 1024);
        norm.beside = true;
        units.push(norm);
    }
    units.push(unit("head", 1024, 20_000, Use::Outputs));
    units
}

/// What of a device's plan is where: attention, and of the layers those that are kept whole.
#[test]
fn a_device_keeps_its_own_part_and_whole_stages() {
    let units = layers(1);
    for (budget, host) in [(70, 1000), (100, 1000), (100, 30), (60, 1000), (45, 100)] {
        let (budget, host) = (budget * MIB, host * MIB);
        let policy = Policy { budget, host: Some(host), beside: true, ..POLICY };
        let plan = Plan::new(&units, NEEDS, &policy).unwrap();
        check(&units, &plan);
        assert!(plan.beside && on_host(&plan) + plan.ring() <= host);
        let kept = |u: &Unit, panels: &[Panel]| {
            let kept = panels.iter().filter(|p| p.home == Home::Memory).count();
            assert!(!u.beside || kept == 0 || kept == panels.len(), "{}: a stage is kept whole", u.name);
            kept > 0
        };
        let homes: Vec<bool> = units.iter().zip(&plan.panels).map(|(u, p)| kept(u, p)).collect();
        let of =
            |name: &str| units.iter().zip(&homes).filter(|(u, _)| u.name.contains(name)).filter(|(_, k)| **k).count();
        assert_eq!((of("up"), of("norm")), (of("down"), 8), "both matrices of a stage, and vectors in any case");
        let stage = 2 * 4096 * 1024 / 32 * 34;
        if budget > 50 * MIB {
            assert_eq!(of("attention") + of("head"), 9, "its own part");
            assert!(plan.memory() + stage + 64 * MIB.min(budget / 32) > plan.budget, "no stage more would fit");
        } else {
            assert!(of("up") == 0 && of("attention") > 0);
        }
        // Few tokens carry nothing but what is the device's own; many carry all.
        let (one, many) = (plan.traffic(&units, 1), plan.traffic(&units, 100));
        assert_eq!((one.memory + one.link, many.memory, many.link), (plan.carried(), 0, plan.carried()));
        assert!(one.link == 0 || budget < 50 * MIB);
        assert_eq!(plan.streamed() > 0, plan.carried() + plan.ring() > host);
    }
}

/// Experts that a device has no room for come to the processor beside it, from a cache in its memory.
#[test]
fn experts_beside_a_device() {
    let units = layers(16);
    let with = |budget: u64, host: u64| {
        Plan::new(&units, NEEDS, &Policy { budget: budget * MIB, host: Some(host * MIB), beside: true, ..POLICY })
    };
    let plan = with(70, 1000).unwrap();
    check(&units, &plan);
    let stages = plan.cache.experts.len() / 16;
    assert!((1..8).contains(&stages) && plan.cache.places == plan.cache.experts.len() && plan.carried() == 0);
    assert!(plan.traffic(&units, 1).memory > 0 && plan.traffic(&units, 1).drive < MIB);
    let less = with(70, 30).unwrap();
    assert!(less.cache.places < less.cache.experts.len() && less.ring() + less.cache.bytes() <= 30 * MIB);
    let error = with(70, 4).unwrap_err().to_string();
    assert!(error.contains("--ram-budget") && error.contains("experts beside a device"), "{error}");
    let more: u64 = error.split("at least ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(with(70, 4 + more).is_ok() && with(70, 4 + more - 1).is_err(), "{error}");
}

/// Experts that a small device keeps pass through its ring when they are cut as others are, and are wider than those.
#[test]
fn more_memory_on_a_device_is_never_too_small() {
    let mut units = layers(4);
    units.retain(|u| u.name != "embedding" && u.name != "head");
    for u in units.iter_mut().filter(|u| u.name.contains("attention")) {
        (u.rows, u.extent.len) = (64, 64 * u.row_bytes());
    }
    let with = |kib: u64| {
        let policy = Policy { budget: kib << 10, host: Some(1000 * MIB), beside: true, block: 4 * MIB, ..POLICY };
        Plan::new(&units, NEEDS, &policy)
    };
    let works: Vec<bool> = (22_000..120_000).step_by(100).map(|kib| with(kib).is_ok()).collect();
    assert!(!works[0] && works[works.len() - 1] && works.is_sorted(), "{works:?}");
}

/// Rows that are no whole group take the room of one, and every panel that of whole pages.
#[test]
fn the_host_counts_what_is_allocated() {
    let mut units = layers(1);
    for u in units.iter_mut().filter(|u| u.name.contains("up")) {
        (u.rows, u.extent.len) = (17, 17 * u.row_bytes());
    }
    let with = |host: u64| {
        let policy = Policy { budget: 45 * MIB, host: Some(host), beside: true, ..POLICY };
        Plan::new(&units, NEEDS, &policy).unwrap()
    };
    let (all, ring) = (with(1000 * MIB), with(0).ring());
    assert!(all.streamed() == 0 && on_host(&all) > all.hosted());
    let exact = on_host(&all) + ring;
    assert_eq!((with(exact).streamed() > 0, with(exact - 1).streamed() > 0), (false, true));
}

fn on_host(plan: &Plan) -> u64 {
    (0u32..).zip(&plan.parts).filter(|(_, p)| p.home == Home::Host).map(|(n, _)| plan.on_host(n)).sum()
}
