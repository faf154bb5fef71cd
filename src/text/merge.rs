//! The greedy merge loop that both kinds of tokenizer share.
//!
//! A piece of text starts as a row of symbols (characters or bytes). As long as some adjacent pair may be merged, the
//! pair of the lowest rank is, the leftmost of equals first (Sennrich et al. 2016, "Neural machine translation of
//! rare words with subword units"). What may be merged, and its rank, is the caller's: ranks of a merge list for
//! byte-level BPE, falling scores for SentencePiece. Short pieces are searched; long ones use a heap, so that a
//! megabyte of one letter costs n log n. Both give the same symbols.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The id of a symbol that is no token.
pub(super) const NO_TOKEN: u32 = u32::MAX;

/// Up to this many symbols a search for the best pair is faster than a heap.
const SHORT: usize = 48;

/// A part of the piece, bytes `start..end`, and its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Symbol {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

/// A permitted merge: its rank, below `u32::MAX`, and the token that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    pub rank: u32,
    pub id: u32,
}

const NO_MERGE: Merge = Merge { rank: u32::MAX, id: NO_TOKEN };

/// Merges `symbols` in place until no adjacent pair has a merge.
pub(super) fn merge_all(symbols: &mut Vec<Symbol>, find: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    if symbols.len() <= SHORT {
        merge_short(symbols, find);
    } else {
        merge_long(symbols, find);
    }
}

fn merge_short(symbols: &mut Vec<Symbol>, find: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    let mut n = symbols.len();
    let mut pairs = [NO_MERGE; SHORT];
    for i in 1..n {
        pairs[i - 1] = find(symbols[i - 1], symbols[i]).unwrap_or(NO_MERGE);
    }
    while n > 1 {
        let (mut best, mut rank) = (0, u32::MAX);
        for (i, pair) in pairs[..n - 1].iter().enumerate() {
            if pair.rank < rank {
                (best, rank) = (i, pair.rank);
            }
        }
        if rank == u32::MAX {
            break;
        }
        symbols[best] = Symbol { start: symbols[best].start, end: symbols[best + 1].end, id: pairs[best].id };
        symbols.copy_within(best + 2..n, best + 1);
        pairs.copy_within(best + 1..n - 1, best);
        n -= 1;
        if best + 1 < n {
            pairs[best] = find(symbols[best], symbols[best + 1]).unwrap_or(NO_MERGE);
        }
        if best > 0 {
            pairs[best - 1] = find(symbols[best - 1], symbols[best]).unwrap_or(NO_MERGE);
        }
    }
    symbols.truncate(n);
}

/// A pair in the heap: ordered by rank, then from the left. It is stale when one of its symbols has changed, which
/// shows in where they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: usize,
    right: usize,
    middle: usize,
    end: usize,
    id: u32,
}

fn merge_long(symbols: &mut Vec<Symbol>, find: impl Fn(Symbol, Symbol) -> Option<Merge>) {
    let n = symbols.len();
    let mut previous: Vec<usize> = (0..n).map(|i| i.wrapping_sub(1)).collect();
    let mut next: Vec<usize> = (1..=n).collect();
    let pair = |symbols: &[Symbol], left: usize, right: usize| {
        let (l, r) = (*symbols.get(left)?, *symbols.get(right)?);
        let Merge { rank, id } = find(l, r)?;
        Some(Reverse(Pair { rank, left, right, middle: l.end, end: r.end, id }))
    };
    let mut heap: BinaryHeap<_> = (1..n).filter_map(|i| pair(symbols, i - 1, i)).collect();
    while let Some(Reverse(p)) = heap.pop() {
        if symbols[p.left].end != p.middle || symbols[p.right].end != p.end {
            continue;
        }
        symbols[p.left].end = p.end;
        symbols[p.left].id = p.id;
        symbols[p.right].end = symbols[p.right].start;
        next[p.left] = next[p.right];
        if let Some(after) = previous.get_mut(next[p.right]) {
            *after = p.left;
        }
        heap.extend(pair(symbols, previous[p.left], p.left));
        heap.extend(pair(symbols, p.left, next[p.left]));
    }
    symbols.retain(|s| s.end > s.start);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symbols are single digits; a pair may merge when its sum is below ten, at a rank that repeats often.
    fn sum(l: Symbol, r: Symbol) -> Option<Merge> {
        (l.id + r.id < 10).then(|| Merge { rank: (l.id * 7 + r.id * 3) % 5, id: l.id + r.id })
    }

    fn digits(n: usize, mut seed: u32) -> Vec<Symbol> {
        let mut digit = || {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            seed >> 29
        };
        (0..n).map(|i| Symbol { start: i, end: i + 1, id: digit() }).collect()
    }

    #[test]
    fn the_leftmost_of_the_lowest_rank_goes_first() {
        let mut s: Vec<_> =
            [5, 1, 1, 1, 9].iter().enumerate().map(|(i, &id)| Symbol { start: i, end: i + 1, id }).collect();
        merge_short(&mut s, |l, r| (l.id == r.id).then_some(Merge { rank: l.id, id: l.id + 1 }));
        assert_eq!(
            s.iter().map(|s| (s.start, s.end, s.id)).collect::<Vec<_>>(),
            [(0, 1, 5), (1, 3, 2), (3, 4, 1), (4, 5, 9)]
        );
    }

    #[test]
    fn search_and_heap_agree() {
        for seed in 0..2000 {
            let start = digits(2 + seed as usize % (SHORT - 2), seed);
            let (mut short, mut long) = (start.clone(), start.clone());
            merge_short(&mut short, sum);
            merge_long(&mut long, sum);
            assert_eq!(short, long, "{start:?}");
        }
    }

    #[test]
    fn a_long_row_of_one_symbol_merges() {
        let mut s = digits(100_000, 0);
        s.iter_mut().for_each(|s| s.id = 0);
        merge_all(&mut s, |l, r| (l.id == r.id && l.id < 9).then_some(Merge { rank: l.id, id: l.id + 1 }));
        assert_eq!(s.len(), 100_000 / 512 + (100_000usize % 512).count_ones() as usize);
    }
}
