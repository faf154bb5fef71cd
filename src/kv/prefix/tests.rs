//! The tree against a plain list of texts.

use super::*;
use crate::hal::{KvGroup, KvLayer, KvLayout};
use crate::quant::Kind;

const BYTES: u64 = 32 * 8;

/// Pages of 32 positions and 256 bytes, in groups with these windows.
fn kv(windows: &[Option<u32>], pages: usize) -> Kv {
    let layers = vec![KvLayer { kv_heads: 1, head_dim: 1, v_dim: 1 }];
    let groups = windows.iter().map(|&window| KvGroup { layers: layers.clone(), window, pages }).collect();
    let f32 = Kind::F32.format();
    Kv::new(&KvLayout { k: f32, v: f32, groups }, 1 << 12, 64)
}

/// What holds a text's state, as if it had been read.
fn read(kv: &mut Kv, text: &[u32]) -> SeqId {
    let id = kv.create();
    for (pool, table) in kv.pools.iter_mut().zip(&mut kv.sequences[id.0].as_mut().unwrap().tables) {
        (0..text.len().div_ceil(PAGE)).for_each(|_| table.push(pool.take()));
    }
    kv.commit(id, text.len() as u32);
    id
}

fn text(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| if i < 40 { salt % 3 } else { salt * 31 + i / 7 }).collect()
}

#[test]
fn the_longest_beginning_is_found_whatever_came_before() {
    let mut kv = kv(&[None], 4000);
    let mut kept = Prefixes::new(u64::MAX);
    let mut all: Vec<(u64, Vec<u32>)> = vec![];
    let mut seed = 5u64;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % n
    };
    for step in 0..600 {
        let tenant = random(2) as u64;
        // New, or as far as another goes and then on.
        let mut new = match all.is_empty() || random(3) == 0 {
            true => text(random(150) + 1, step),
            false => all[random(all.len())].1.clone(),
        };
        new.truncate(random(new.len()) + 1);
        new.extend((0..random(50)).map(|_| random(3) as u32));
        let found = kept.find(&kv, tenant, &new);
        let want = all.iter().filter(|(t, _)| *t == tenant).map(|(_, old)| common(old, &new)).max().unwrap_or(0);
        assert_eq!(found.len, want, "step {step}");
        let seq = kept.go_on(&mut kv, &found);
        assert_eq!(kv.len(seq) as usize, want);
        kv.release(seq);
        let seq = read(&mut kv, &new);
        kept.keep(&mut kv, tenant, &new, seq);
        all.push((tenant, new));
    }
    let held = 4000 - kv.free_pages()[0];
    assert_eq!((kept.bytes, kept.idle_pages(&kv, 0)), (held as u64 * BYTES, held), "each page is counted once");
    kept.clear(&mut kv);
    assert_eq!((kv.free_pages()[0], kept.bytes, kept.roots.len(), kept.leaves.len()), (4000, 0, 0, 0));
}

#[test]
fn what_nobody_used_for_longest_goes_first_and_leaves_before_what_they_stand_on() {
    let mut kv = kv(&[None], 100);
    let mut kept = Prefixes::new(6 * BYTES);
    let system = text(64, 0);
    let of = |salt: u32| [&system[..], &text(32, 100 + salt)[..], &[salt]].concat();
    for salt in 0..2 {
        let seq = read(&mut kv, &of(salt));
        kept.keep(&mut kv, 0, &of(salt), seq);
    }
    assert_eq!(kept.bytes, 6 * BYTES, "two pages together, two of each");
    assert_eq!(kept.find(&kv, 0, &of(0)).len, 97);
    // One page more than the bound: what goes is the leaf of the other, which was used before.
    let longer = [&of(0)[..], &[9; 40]].concat();
    let seq = read(&mut kv, &longer);
    kept.keep(&mut kv, 0, &longer, seq);
    assert_eq!((kept.bytes, kept.find(&kv, 0, &of(1)).len, kept.find(&kv, 0, &longer).len), (6 * BYTES, 96, 137));
    // What a sequence holds too gives nothing back, and the end of what was found is spared.
    let found = kept.find(&kv, 0, &longer);
    let seq = kept.go_on(&mut kv, &found);
    let other = read(&mut kv, &[77; 5]);
    kept.keep(&mut kv, 3, &[77; 5], other);
    while kept.evict(&mut kv, None) {}
    assert_eq!((kept.find(&kv, 0, &longer).len, kept.find(&kv, 3, &[77; 5]).len), (137, 0));
    kv.release(seq);
    while kept.evict(&mut kv, Some(&found)) {}
    assert_eq!((kept.find(&kv, 0, &longer).len, kept.bytes), (137, 5 * BYTES));
    while kept.evict(&mut kv, None) {}
    assert_eq!((kv.free_pages()[0], kept.bytes, kept.roots.len()), (100, 0, 0));
}

#[test]
fn behind_a_window_a_text_is_found_where_it_ended_and_not_in_its_middle() {
    let mut kv = kv(&[None, Some(40)], 100);
    let mut kept = Prefixes::new(u64::MAX);
    let long = text(200, 1);
    let seq = read(&mut kv, &long);
    kept.keep(&mut kv, 0, &long, seq);
    let len = |kept: &mut Prefixes, kv: &Kv, n: usize| kept.find(kv, 0, &long[..n]).len;
    assert_eq!(len(&mut kept, &kv, 200), 200);
    // The row behind 199 positions sees 160 to 199, which are there; the one behind 100 does not.
    assert_eq!((len(&mut kept, &kv, 199), len(&mut kept, &kv, 100)), (199, 0));
    // A shorter text brings what is missing.
    let seq = read(&mut kv, &long[..100]);
    kept.keep(&mut kv, 0, &long[..100], seq);
    assert_eq!((len(&mut kept, &kv, 100), len(&mut kept, &kv, 200)), (96, 200));
    let found = kept.find(&kv, 0, &long);
    let seq = kept.go_on(&mut kv, &found);
    let gone = |kv: &Kv, group: usize| kv.tables(seq)[group].iter().filter(|&&p| p == NO_PAGE).count();
    assert_eq!((gone(&kv, 0), gone(&kv, 1)), (0, 5), "it holds no more than a window does");
    kv.release(seq);
    kept.clear(&mut kv);
    assert_eq!((kv.free_pages(), kept.roots.len()), (vec![100, 100], 0));
}
