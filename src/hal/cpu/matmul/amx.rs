//! Products of many activation rows on AMX tiles: the same integers as `integer.rs` sums up, in larger squares.
//!
//! Sixteen words of sixteen weight rows are one tile, as they lie. What a tile cannot do is scale a part of its sums,
//! so sub-scales are multiplied into the integers when these are unpacked, once for all activation rows of the task.
//! The products take up to 13 bits, so they go to two planes of bytes (`Planes` says how), and the exact sum of a block
//! is `first + (second << n)`: eight products of tiles for sixteen rows, nothing scaled between them. Every product
//! of a plane with the activations stays below 256 * 255 * 127 < 2^23. Offsets are taken off before, for signed
//! bytes cost a tile nothing. What follows, the float operations of a block, is the other kernels' `Head::finish`.
//!
//! What is counted, in cycles of a core with two 512-bit loads, one store and two vector operations each. Superblocks
//! of Q4_K with 32 rows: 16 products of 16 cycles, 512 loads (of tiles, of sums, of what `finish` reads), 384 vector
//! operations, 96 stores: 256 cycles, where the AVX-512 kernel takes about 1570. 32-blocks with 16 rows: one product
//! (of 32 bytes, for the scale changes after them), 56 loads, 48 vector operations, 16 stores: 28 cycles, not 88.
//! So tiles never wait alone; sums of one block are folded while the next one is multiplied, which is why there are
//! two sets of squares. Unpacking a superblock costs 130 (Q4_K) to 420 cycles (Q6_K), so a task takes many
//! rows (`ROWS`) and pays it once. None of this has been measured yet.
//!
//! A task walks four groups over one step of the inner dimension before the next step, so that the activations of
//! the step, which may be larger than the second-level cache in all, are read from there four times. Rows that lie
//! apart (experts) and a last part of sixteen are first brought together; missing ones repeat the last.

#![expect(clippy::needless_range_loop, reason = "an index runs through several arrays at once")]

use super::super::activation::{Block, Block32, Block256};
use super::super::simd::Avx512;
use super::super::simd::amx::{Planes, Rows, Square, Tiles};
use super::integer::{Head, IntFormat, Subs};
use super::{
    Iq4Nl, Iq4Xs, LANES, Mxfp4, Pair, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Room, Simd, Task,
};
use std::arch::x86_64::{__m512, __m512i};
use std::marker::PhantomData;

/// Fewest rows that are worth a tile of sixteen.
pub const LEAST: usize = 9;

/// Most activation rows of a task.
pub const ROWS: usize = 512;

/// Elements of a row that are unpacked before the activation rows pass: 16 KiB in two planes.
const STEP: usize = 512;

/// Groups of weight rows that share a step's activations.
const GROUPS: usize = 4;

/// A format that tiles multiply.
pub trait TileFormat: IntFormat<X: Gather> {
    /// How its integers become bytes.
    const PLANES: Planes;
}

macro_rules! planes {
    ($($format:ty => $planes:expr),* $(,)?) => {
        $(impl TileFormat for $format {
            const PLANES: Planes = $planes;
        })*
    };
}

planes!(
    Q4_0 => Planes::Integers,
    Q4_1 => Planes::Integers,
    Q5_0 => Planes::Integers,
    Q5_1 => Planes::Integers,
    Q8_0 => Planes::Integers,
    Iq4Nl => Planes::Integers,
    Mxfp4 => Planes::Integers,
    // 3 * 15
    Q2K => Planes::Products,
    // -4 * -32 would be one too many for a signed byte, and there are negative ones.
    Q3K => Planes::Halves,
    // 15 * 15 and 15 * 3
    Q4K => Planes::Factors(4),
    // 31 * 7 twice
    Q5K => Planes::Factors(3),
    // -32 * -128
    Q6K => Planes::Halves,
    // -127 * -32
    Iq4Xs => Planes::Halves,
);

/// Activation blocks that lay apart, in a thread's scratch.
#[derive(Debug, Default)]
pub struct Apart {
    blocks32: Vec<Block32>,
    blocks256: Vec<Block256>,
}

/// A block that is brought together there.
pub trait Gather: Block {
    /// The blocks of this kind.
    fn apart(apart: &mut Apart) -> &mut Vec<Self>;
}

impl Gather for Block32 {
    fn apart(apart: &mut Apart) -> &mut Vec<Self> {
        &mut apart.blocks32
    }
}

impl Gather for Block256 {
    fn apart(apart: &mut Apart) -> &mut Vec<Self> {
        &mut apart.blocks256
    }
}

/// A step of one group, unpacked, and the sums of two blocks.
struct Unpacked<F: TileFormat> {
    /// Of blocks without sub-scales `[block][word]`, else `[block][quarter][plane][word of the quarter]`.
    words: [__m512i; STEP / 2],
    scales: [__m512; STEP / 32],
    min_scales: [__m512; STEP / 32],
    subs: [Subs<Avx512>; STEP / 256],
    /// Of every other block: of two sixteens of rows, two planes each.
    sums: [[Square; 4]; 2],
    format: PhantomData<F>,
}

/// Both halves of each word are the word's lower one.
#[inline(always)]
fn twice(s: Avx512, v: __m512i) -> __m512i {
    s.or(s.and(v, s.isplat(0xffff)), s.shl(v, 16))
}

impl<F: TileFormat> Unpacked<F> {
    #[inline(always)]
    fn empty(s: Avx512) -> Self {
        let (zero, none) = (s.isplat(0), s.splat(0.0));
        Unpacked {
            words: [zero; STEP / 2],
            scales: [none; STEP / 32],
            min_scales: [none; STEP / 32],
            subs: [Subs::zero(s), Subs::zero(s)],
            sums: [[[zero; 16]; 4]; 2],
            format: PhantomData,
        }
    }

    #[inline(always)]
    fn read(&mut self, s: Avx512, blocks: &[u8]) {
        for (b, p) in blocks.chunks_exact(F::BYTES).enumerate() {
            self.scales[b] = F::scale(s, p);
            self.min_scales[b] = F::min_scale(s, p);
            self.subs[b * F::X::LEN / 256].read_exact::<F>(s, p);
            // The lower and the upper factor of each sub-block.
            let mut factors = [[s.isplat(0); 2]; 16];
            for sub in 0..if F::SCALED { F::X::LEN / F::SUB } else { 0 } {
                let scale = self.subs[b].scales[sub];
                factors[sub] = match F::PLANES {
                    Planes::Factors(bits) => {
                        let low = s.and(scale, s.isplat((1 << bits) - 1));
                        [twice(s, low), twice(s, s.shr(scale, bits))]
                    }
                    _ => [twice(s, scale); 2],
                };
            }
            for set in 0..F::X::LEN / (4 * F::RUN * F::WAYS) {
                for j in 0..F::RUN {
                    let w = F::quants(s, p, set, j);
                    for way in 0..F::WAYS {
                        let word = F::run(set, way) * F::RUN + j;
                        self.put(s, b, word, w[way], factors[word * 4 / F::SUB]);
                    }
                }
            }
        }
    }

    /// Stores a word of a block.
    #[inline(always)]
    fn put(&mut self, s: Avx512, b: usize, word: usize, w: __m512i, [low, high]: [__m512i; 2]) {
        let mut w = w;
        if F::SIGNED {
            w = s.signed_weight(w);
        }
        if F::OFFSET != 0 {
            w = s.sub_bytes(w, s.isplat(F::OFFSET * 0x0101_0101));
        }
        if F::PLANES == Planes::Integers {
            self.words[b * (F::X::LEN / 4) + word] = w;
            return;
        }
        let at = b * 128 + word / 16 * 32 + word % 16;
        match F::PLANES {
            // No product of a lower byte reaches the upper one.
            Planes::Integers | Planes::Products => self.words[at] = s.mul_halves(w, low),
            Planes::Factors(_) => {
                self.words[at] = s.mul_halves(w, low);
                self.words[at + 16] = s.mul_halves(w, high);
            }
            Planes::Halves => {
                let [even, odd] = s.signed_bytes(w);
                let [first, second] = s.join_bytes(s.mul_halves(even, low), s.mul_halves(odd, low));
                self.words[at] = first;
                self.words[at + 16] = second;
            }
        }
    }

    #[inline(always)]
    fn head(&self, b: usize) -> Head<'_, Avx512, F> {
        Head::new(self.scales[b], self.min_scales[b], &self.subs[b * F::X::LEN / 256])
    }

    /// Adds the products of a step's superblocks with `T` sixteens of rows from the `first` one to their sums.
    #[inline(always)]
    fn superblocks<const T: usize>(
        &mut self,
        s: Avx512,
        tiles: &Tiles,
        x: &Gathered<F::X>,
        first: usize,
        sums: &mut [[f32; LANES]],
    ) {
        let shift = match F::PLANES {
            Planes::Factors(bits) => bits,
            _ => 8,
        };
        for b in 0..=x.blocks {
            if b < x.blocks {
                let others = if T == 2 { Some(rows(x.sixteen(first + 1, b))) } else { None };
                let words = self.words[b * 128..].first_chunk().expect("a step has whole superblocks");
                // SAFETY: the caller set the long shapes, and a block begins with 256 integers.
                unsafe { tiles.superblock(F::PLANES, rows(x.sixteen(first, b)), others, words, &mut self.sums[b % 2]) };
            }
            // The block before, meanwhile.
            let Some(b) = b.checked_sub(1) else { continue };
            let (head, squares) = (self.head(b), &self.sums[b % 2]);
            for t in 0..T {
                let x = x.sixteen(first + t, b);
                for r in 0..LANES {
                    let mut sum = squares[2 * t][r];
                    if F::PLANES != Planes::Products {
                        sum = s.iadd(sum, s.shl(squares[2 * t + 1][r], shift));
                    }
                    let acc = &mut sums[t * LANES + r];
                    s.store(head.finish(s, &x[r], sum, s.load(acc, 0)), acc, 0);
                }
            }
        }
    }

    /// Adds the products of a step's blocks with sixteen rows to their sums.
    #[inline(always)]
    fn blocks(&mut self, s: Avx512, tiles: &Tiles, x: &Gathered<F::X>, sixteen: usize, sums: &mut [[f32; LANES]]) {
        let mut acc = [s.splat(0.0); LANES];
        for r in 0..LANES {
            acc[r] = s.load(&sums[r], 0);
        }
        for b in 0..=x.blocks {
            if b < x.blocks {
                let words = self.words[b * 8..].first_chunk().expect("a step has whole blocks");
                // SAFETY: the caller set the short shapes, and a block begins with 32 integers.
                unsafe { tiles.block(b % 2 == 1, rows(x.sixteen(sixteen, b)), words, &mut self.sums[b % 2][0]) };
            }
            // The block before, meanwhile.
            let Some(b) = b.checked_sub(1) else { continue };
            let (head, square) = (self.head(b), &self.sums[b % 2][0]);
            let x = x.sixteen(sixteen, b);
            for r in 0..LANES {
                acc[r] = head.finish(s, &x[r], square[r], acc[r]);
            }
        }
        for r in 0..LANES {
            s.store(acc[r], &mut sums[r], 0);
        }
    }
}

/// The activations of a step by sixteens of rows.
struct Gathered<'a, X> {
    /// `[block][row]`
    x: &'a [X],
    stride: usize,
    blocks: usize,
    /// The first row of the sixteens that lie together, and how many such sixteens there are.
    first: usize,
    together: usize,
    /// `[sixteen][block][row]`, of the others.
    others: &'a [X],
}

impl<'a, X: Block> Gathered<'a, X> {
    /// `x` begins with the step's columns of `stride` rows.
    #[inline(always)]
    fn new(x: &'a [X], stride: usize, blocks: usize, pairs: &[Pair], together: usize, others: &'a mut Vec<X>) -> Self {
        others.clear();
        for sixteen in together..pairs.len().div_ceil(LANES) {
            for b in 0..blocks {
                for r in 0..LANES {
                    let pair = pairs[(sixteen * LANES + r).min(pairs.len() - 1)];
                    others.push(x[b * stride..][..stride][pair.input as usize]);
                }
            }
        }
        Gathered { x, stride, blocks, first: pairs[0].input as usize, together, others }
    }

    /// Block `b` of a sixteen.
    #[inline(always)]
    fn sixteen(&self, sixteen: usize, b: usize) -> &[X; LANES] {
        let blocks = if sixteen < self.together {
            &self.x[b * self.stride + self.first + sixteen * LANES..]
        } else {
            &self.others[((sixteen - self.together) * self.blocks + b) * LANES..]
        };
        blocks.first_chunk().expect("every sixteen is whole")
    }
}

#[inline(always)]
fn rows<X: Block>(x: &[X; LANES]) -> Rows {
    Rows { start: x.as_ptr().cast(), stride: size_of::<X>() }
}

/// Sixteens of rows that lie together, from the first one on.
fn together(pairs: &[Pair]) -> usize {
    let follow = |p: &[Pair]| p[1].input == p[0].input + 1;
    if pairs.windows(2).all(follow) { pairs.len() / LANES } else { 0 }
}

/// Runs a task of one row or more.
///
/// # Safety
/// `simd::amx::available()` was true.
#[inline(always)]
pub unsafe fn multiply_tiles<F: TileFormat>(s: Avx512, task: &Task, room: &mut Room) {
    let (x, stride, pairs) = (F::X::of(&task.x), task.x.rows, task.pairs);
    let (sums, others) = (&mut room.sums, F::X::apart(&mut room.apart));
    // SAFETY: the caller's promise.
    let tiles = unsafe { Tiles::new(s, F::X::LEN == 32) };
    let mut unpacked = Unpacked::<F>::empty(s);
    let (columns, rows) = (task.group_bytes / F::BYTES, pairs.len().next_multiple_of(LANES));
    let together = together(pairs);
    for (g, groups) in task.weights.chunks(GROUPS * task.group_bytes).enumerate() {
        sums.clear();
        sums.resize(groups.len() / task.group_bytes * rows, [0.0; LANES]);
        for from in (0..columns).step_by(STEP / F::X::LEN) {
            let blocks = (columns - from).min(STEP / F::X::LEN);
            let x = Gathered::new(&x[from * stride..], stride, blocks, pairs, together, others);
            for (group, sums) in groups.chunks_exact(task.group_bytes).zip(sums.chunks_exact_mut(rows)) {
                unpacked.read(s, &group[from * F::BYTES..][..blocks * F::BYTES]);
                if F::X::LEN == 32 {
                    for (t, sums) in sums.chunks_exact_mut(LANES).enumerate() {
                        unpacked.blocks(s, &tiles, &x, t, sums);
                    }
                    continue;
                }
                for (t, sums) in sums.chunks_mut(2 * LANES).enumerate() {
                    if sums.len() == LANES {
                        unpacked.superblocks::<1>(s, &tiles, &x, 2 * t, sums);
                    } else {
                        unpacked.superblocks::<2>(s, &tiles, &x, 2 * t, sums);
                    }
                }
            }
        }
        for (i, sums) in sums.chunks_exact(rows).enumerate() {
            for (pair, sums) in pairs.iter().zip(sums) {
                task.finish(s, g * GROUPS + i, pair.output, s.load(sums, 0));
            }
        }
    }
}
