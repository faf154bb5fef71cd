//! Random histories against a model that keeps every sequence as a plain list.

use super::*;
use crate::hal::{Batch, Bindings, KvGroup, KvLayer, ProgramId, ReadRows, Reservation, WeightDesc, WeightId};
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
    fn load(&mut self, _: &WeightDesc, _: &ReadRows) -> Result<WeightId> {
        unreachable!("state only")
    }
    fn compile(&mut self, _: &Program) -> Result<ProgramId> {
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
    let mut kv = Kv::new(&layout(PAGES), 24 * 32);
    let mut memory = Memory { pages: vec![vec![[0; PAGE]; PAGES]; 2] };
    let mut model: Vec<(SeqId, Vec<u32>)> = vec![];
    let mut seed = 7u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    };
    let (mut refused, mut restored) = (0, 0);
    for step in 0..20_000u32 {
        match random(8) {
            0 if model.len() < 6 => model.push((kv.create(), vec![])),
            1 if !model.is_empty() && model.len() < 6 => {
                let (id, past) = model[random(model.len() as u64) as usize].clone();
                model.push((kv.fork(id), past));
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
    let mut kv = Kv::new(&layout(8), 8 * 32);
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
    let mut kv = Kv::new(&layout(8), 8 * 32);
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
