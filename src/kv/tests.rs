//! Random histories against a model that keeps every sequence as a plain list.

use super::*;
use crate::hal::{Batch, Bindings, KvGroup, KvLayer, Panel, ProgramId, Reservation, Supply, WeightDesc, WeightId};
use crate::op::{CarryId, Program};
use crate::quant::Kind;

/// Pages that remember what was written to them.
#[derive(Default)]
struct Memory {
    pages: Vec<Vec<[u32; PAGE]>>,
}

impl Backend for Memory {
    fn description(&self) -> String {
        "memory".into()
    }
    fn load(&mut self, _: &WeightDesc, _: &std::sync::Arc<dyn Supply>) -> Result<WeightId> {
        unreachable!("state only")
    }
    fn rehome(&mut self, _: WeightId, _: &Panel) -> Result<()> {
        unreachable!("state only")
    }
    fn compile(&mut self, _: &Program) -> Result<ProgramId> {
        unreachable!("state only")
    }
    fn workspace(&self, _: &Reservation) -> u64 {
        unreachable!("state only")
    }
    fn reserve(&mut self, _: &Reservation) -> Result<()> {
        unreachable!("state only")
    }
    fn launch(&mut self, _: ProgramId, _: &Bindings, _: &Batch) -> Result<()> {
        unreachable!("state only")
    }
    fn read(&self, _: CarryId, _: &mut [f32]) {}
    fn write(&mut self, _: CarryId, _: &[f32]) {}
    fn copy_page(&mut self, group: usize, from: u32, to: u32) {
        self.pages[group][to as usize] = self.pages[group][from as usize];
    }
    fn forget_pages(&mut self, group: usize, pages: &[u32]) {
        assert!(pages.is_sorted());
        pages.iter().for_each(|&p| self.pages[group][p as usize] = [u32::MAX; PAGE]);
    }
}

fn layout(pages: usize) -> KvLayout {
    let layers = vec![KvLayer { kv_heads: 1, head_dim: 4, v_dim: 4 }];
    let f32 = Kind::F32.format();
    let group = |window| KvGroup { layers: layers.clone(), window, pages };
    KvLayout { k: f32, v: f32, groups: vec![group(None), group(Some(40))] }
}

/// Writes a value at each new position, then checks that every sequence reads back what it wrote.
#[test]
fn random_histories_keep_every_sequence_apart_and_lose_no_page() {
    const PAGES: usize = 24;
    let mut kv = Kv::new(&layout(PAGES), 24 * 32, 70);
    let mut memory = Memory { pages: vec![vec![[0; PAGE]; PAGES]; 2] };
    let mut model: Vec<(SeqId, Vec<u32>)> = vec![];
    let mut seed = 7u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    let (mut refused, mut restored) = (0, 0);
    for step in 0..20_000u32 {
        if step % 20 == 0 {
            kv.forget_free(&mut memory);
        }
        match random(9) {
            0 if model.len() < 6 => model.push((kv.create(), vec![])),
            1 if !model.is_empty() && model.len() < 6 => {
                let (id, past) = model[random(model.len() as u64) as usize].clone();
                model.push((kv.fork(id), past));
            }
            8 if !model.is_empty() && model.len() < 6 => {
                let (id, past) = model[random(model.len() as u64) as usize].clone();
                let len = random(past.len() as u64 + 1) as usize;
                model.extend(kv.fork_at(id, len as u32).map(|copy| (copy, past[..len].to_vec())));
            }
            2 if !model.is_empty() => {
                let (id, _) = model.swap_remove(random(model.len() as u64) as usize);
                kv.release(id);
            }
            3 if !model.is_empty() => {
                let at = random(model.len() as u64) as usize;
                let (id, past) = &mut model[at];
                let len = random(past.len() as u64 + 1) as u32;
                if kv.restore(*id, len).is_ok() {
                    past.truncate(len as usize);
                    restored += 1;
                }
            }
            _ if !model.is_empty() => {
                let at = random(model.len() as u64) as usize;
                let (id, past) = &mut model[at];
                let n = random(70) as u32;
                if kv.extend(*id, n, &mut memory).is_err() {
                    refused += 1;
                    continue;
                }
                for i in 0..n {
                    let pos = past.len();
                    let value = step * 100 + i;
                    for (g, table) in kv.tables(*id).iter().enumerate() {
                        memory.pages[g][table[pos / PAGE] as usize][pos % PAGE] = value;
                    }
                    past.push(value);
                }
                kv.commit(*id, n);
            }
            _ => {}
        }
        for (id, past) in &model {
            assert_eq!(kv.len(*id) as usize, past.len());
            for (g, first) in [(0, 0), (1, (past.len() + 1).saturating_sub(40))] {
                for (pos, value) in past.iter().enumerate().skip(first) {
                    let page = kv.tables(*id)[g][pos / PAGE];
                    assert_eq!(memory.pages[g][page as usize][pos % PAGE], *value, "step {step} group {g} at {pos}");
                }
            }
        }
    }
    assert!(refused > 20 && restored > 100, "the history must meet full pools and restores: {refused} {restored}");
    model.into_iter().for_each(|(id, _)| kv.release(id));
    assert_eq!(kv.free_pages(), [PAGES, PAGES]);
}

#[test]
fn a_window_keeps_only_what_later_rows_see() {
    let mut kv = Kv::new(&layout(8), 8 * 32, 32);
    let mut memory = Memory { pages: vec![vec![[0; PAGE]; 8]; 2] };
    let id = kv.create();
    for _ in 0..5 {
        kv.extend(id, 32, &mut memory).unwrap();
        kv.commit(id, 32);
    }
    // 160 positions; the next row sees 121..=160: pages 0 to 2 are given back.
    assert_eq!(kv.free_pages(), [3, 6]);
    assert_eq!(kv.tables(id)[1].iter().filter(|&&p| p == NO_PAGE).count(), 3);
    let e = kv.restore(id, 100).unwrap_err();
    assert!(e.to_string().contains("window"), "{e}");
    assert_eq!(kv.len(id), 160);
}

/// A pass takes pages before it runs; when it fails, a fork must not come to share those that nothing was written to.
#[test]
fn a_fork_after_a_failed_pass_shares_no_page_that_both_will_write() {
    let mut kv = Kv::new(&layout(8), 8 * 32, 32);
    let mut memory = Memory { pages: vec![vec![[0; PAGE]; 8]; 2] };
    let original = kv.create();
    kv.extend(original, 32, &mut memory).unwrap();
    kv.commit(original, 32);
    kv.extend(original, 32, &mut memory).unwrap();
    let fork = kv.fork(original);
    for id in [original, fork] {
        kv.extend(id, 32, &mut memory).unwrap();
        kv.commit(id, 32);
    }
    assert_eq!(kv.tables(original)[0][0], kv.tables(fork)[0][0]);
    assert_ne!(kv.tables(original)[0][1], kv.tables(fork)[0][1]);
    [original, fork].into_iter().for_each(|id| kv.release(id));
    assert_eq!(kv.free_pages(), [8, 8]);
}

/// Sequences that grow in passes of any size, and ones that have ended, from which others go on.
#[test]
fn what_is_reserved_is_there_when_it_is_needed() {
    const MAX_ROWS: u32 = 50;
    let mut shared = 0;
    for (pages, window_pages) in [(24, 24), (24, 9), (30, 5), (9, 9)] {
        let mut layout = layout(pages);
        layout.groups[1].pages = window_pages;
        let mut kv = Kv::new(&layout, u32::MAX, MAX_ROWS as usize);
        let mut memory = Memory { pages: vec![vec![[0; PAGE]; pages]; 2] };
        let capacity = kv.capacity();
        let mut seed = 11u64;
        let mut random = |n: u32| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u32 % n
        };
        // With the length that each may grow to.
        let (mut growing, mut ended): (Vec<(SeqId, u32)>, Vec<SeqId>) = (vec![], vec![]);
        let (mut refused, mut forked, mut dry) = (0, 0, 0);
        for step in 0..40_000 {
            match random(10) {
                0 | 1 if growing.len() < 5 => {
                    // Behind some part of one that grows itself.
                    let beside = |kv: &mut Kv, at: u32, len: u32| {
                        let (id, _) = growing.get(at as usize)?;
                        kv.fork_at(*id, len.min(kv.len(*id)))
                    };
                    let id = match random(ended.len() as u32 + 1) as usize {
                        0 => match beside(&mut kv, random(8), random(640)) {
                            Some(id) => {
                                shared += u32::from(kv.len(id) > 0);
                                id
                            }
                            None => kv.create(),
                        },
                        at => {
                            let id = kv.fork(ended[at - 1]);
                            let len = random(kv.len(id) + 1);
                            forked += u32::from(kv.restore(id, len).is_ok());
                            id
                        }
                    };
                    let positions = kv.len(id) + random(capacity + 1 - kv.len(id).min(capacity));
                    match kv.reserve(id, positions) {
                        true => growing.push((id, positions)),
                        false => {
                            refused += 1;
                            kv.release(id);
                        }
                    }
                }
                2 if ended.len() > 2 || (!ended.is_empty() && random(4) == 0) => {
                    kv.release(ended.swap_remove(random(ended.len() as u32) as usize));
                }
                _ if !growing.is_empty() => {
                    let at = random(growing.len() as u32) as usize;
                    let (id, positions) = growing[at];
                    let n = (positions - kv.len(id)).min(1 + random(MAX_ROWS));
                    kv.extend(id, n, &mut memory).unwrap_or_else(|e| panic!("step {step} of {pages} pages: {e}"));
                    dry += u32::from(kv.free_pages().contains(&0));
                    // A pass that fails leaves the sequence as long as it was.
                    if random(8) > 0 {
                        kv.commit(id, n);
                    }
                    if kv.len(id) == positions || random(40) == 0 {
                        kv.unreserve(id);
                        growing.swap_remove(at);
                        ended.push(id);
                    }
                }
                _ => {}
            }
        }
        assert!(refused > 500 && forked > 500 && dry > 100, "{refused} refused, {forked} forked, {dry} times dry");
        ended.into_iter().chain(growing.into_iter().map(|(id, _)| id)).for_each(|id| kv.release(id));
        assert_eq!(kv.free_pages(), [pages, window_pages]);
    }
    assert!(shared > 30, "{shared} of one that grows itself");
}

#[test]
fn a_reservation_is_no_larger_than_it_must_be() {
    let mut layout = layout(8);
    layout.groups[1].pages = 100;
    let mut kv = Kv::new(&layout, 8 * 32, 32);
    let mut memory = Memory { pages: vec![vec![[0; PAGE]; 100]; 2] };
    assert_eq!(kv.capacity(), 256);
    let [a, b, c] = [(); 3].map(|()| kv.create());
    assert!(kv.reserve(a, 33) && !kv.reserve(b, 6 * 32 + 1) && kv.reserve(b, 6 * 32));
    assert!(!kv.reserve(c, 1) && kv.reserve(c, 0));
    kv.extend(b, 32, &mut memory).unwrap();
    kv.commit(b, 32);
    assert!(!kv.reserve(c, 1), "what was taken does not count twice, nor does it get lost");
    kv.unreserve(b);
    assert!(kv.reserve(c, 5 * 32));
    kv.unreserve(c);
    // A fork shares whole pages, and must copy one that is not full.
    let fork = kv.fork(b);
    assert!(!kv.reserve(fork, 6 * 32 + 1) && kv.reserve(fork, 6 * 32));
    kv.restore(fork, 20).unwrap();
    assert!(!kv.reserve(fork, 5 * 32 + 1) && kv.reserve(fork, 5 * 32));
}

/// A window's pages come back, so a long sequence needs no more of them than a short one.
#[test]
fn a_window_reserves_what_it_holds_at_once() {
    // A window of 40, passes of 32: 3 pages and 2 for the ends.
    assert_eq!(pages_for(Some(40), 1 << 20, 32), 5);
    assert_eq!(pages_for(Some(40), 70, 32), 3);
    assert_eq!(pages_for(None, 70, 32), 3);
    let mut layout = layout(100);
    layout.groups[1].pages = 9;
    let mut kv = Kv::new(&layout, 3200, 32);
    assert_eq!(kv.capacity(), 3200);
    let [a, b] = [(); 2].map(|()| kv.create());
    assert!(kv.reserve(a, 1600) && !kv.reserve(b, 1600) && kv.reserve(b, 4 * 32));
}
