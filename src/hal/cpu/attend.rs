//! One attention of a launch: which queries share a read of the pages, and how the work is cut into tasks.
//!
//! Neighbouring rows of a sequence form a block. A task is one key head of a block, so keys and values are read once
//! for all query heads of the group and all rows of the block; a segment that one tile of queries has read comes from
//! the cache for the next. Where that makes too few tasks for the threads (one long sequence, many cores), segments are
//! spread too: their sums are kept and folded afterwards, in the same order, so the result is the same.

use super::attention::{Part, SEGMENT, Segment, TILE, Tile};
use super::isa::Kernels;
use super::launch::{Scratch, WORTH_SHARING, lock, page};
use super::pages::{Head, Pages};
use super::pool::Pool;
use super::simd::LANES;
use super::values::Mat;
use crate::error::Result;
use crate::hal::{Batch, KvLayerId, PAGE, Row};
use crate::op::Attention;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Queries of a block, unless one row has more: some tiles.
const QUERIES: usize = 4 * TILE;

/// Tasks for each thread, below which segments are spread.
const TASKS: usize = 4;

/// What one task reuses.
#[derive(Debug, Default)]
pub struct Queries {
    tiles: Vec<Tile>,
    part: Part,
}

/// Neighbouring rows of one sequence.
#[derive(Debug, Clone, Copy)]
struct Block {
    first: usize,
    rows: usize,
}

/// One attention of all rows and heads.
pub struct Attend<'a> {
    pages: &'a Pages,
    id: KvLayerId,
    a: &'a Attention,
    q: Mat,
    out: Mat,
    batch: &'a Batch<'a>,
    kernels: &'static Kernels,
    blocks: Vec<Block>,
    /// Tasks that share a block's segments.
    parts: usize,
    /// Most segments that a block sees.
    segments: usize,
}

/// A tile of a block: its first query (query heads of a group count from row to row), how many it has, and how many
/// its kernel has (the last one repeats).
struct Span {
    first: usize,
    len: usize,
    width: usize,
}

impl<'a> Attend<'a> {
    /// Cuts the work for a number of threads; `io` are the queries and where the result goes.
    pub fn new(
        pages: &'a Pages,
        id: KvLayerId,
        a: &'a Attention,
        io: (Mat, Mat),
        batch: &'a Batch<'a>,
        kernels: &'static Kernels,
        threads: usize,
    ) -> Self {
        let most = (QUERIES / (a.heads / a.kv_heads)).max(1);
        let mut blocks: Vec<Block> = vec![];
        for (r, row) in batch.rows.iter().enumerate() {
            match blocks.last_mut() {
                Some(b) if b.rows < most && follows(batch.rows[r - 1], *row) => b.rows += 1,
                _ => blocks.push(Block { first: r, rows: 1 }),
            }
        }
        let (parts, segments) = (1, 0);
        let mut attend = Attend { pages, id, a, q: io.0, out: io.1, batch, kernels, blocks, parts, segments };
        let wanted = (TASKS * threads).div_ceil((attend.blocks.len() * a.kv_heads).max(1));
        attend.segments = attend.blocks.iter().map(|&b| attend.segments_of(b).len()).max().unwrap_or(0);
        attend.parts = wanted.min(attend.segments).max(1);
        attend
    }

    /// Computes everything; false where a page is missing. `kept` is room that is reused.
    ///
    /// # Errors
    /// `Engine` when a thread fails.
    pub fn run(&self, pool: &mut Pool, kept: &mut Vec<f32>, scratch: &[Mutex<Scratch>]) -> Result<bool> {
        let (tasks, complete) = (self.blocks.len() * self.a.kv_heads, AtomicBool::new(true));
        let positions: usize = self.batch.rows.iter().map(|r| r.pos as usize + 1).sum();
        let worth = positions * self.a.heads * self.a.head_dim >= WORTH_SHARING;
        let rows = if self.parts == 1 { 0 } else { tasks * self.segments * self.queries() };
        let width = 2 + self.a.v_dim.next_multiple_of(LANES);
        kept.resize(kept.len().max(rows * width), 0.0);
        let kept = Mat { start: kept.as_mut_ptr(), width, rows };
        pool.run_if(worth, tasks * self.parts, &|thread, i| {
            if self.task(i / self.parts, i % self.parts, kept, &mut lock(&scratch[thread]).queries).is_none() {
                complete.store(false, Ordering::Relaxed);
            }
        })?;
        if self.parts > 1 {
            pool.run_if(worth, tasks, &|thread, i| self.gather(i, kept, &mut lock(&scratch[thread]).queries))?;
        }
        Ok(complete.into_inner())
    }

    /// The block and the key head of a task: tasks of one head are neighbours, so its pages stay in a thread's cache.
    fn place(&self, task: usize) -> (Block, usize) {
        (self.blocks[task % self.blocks.len()], task / self.blocks.len())
    }

    /// Most queries of a block.
    fn queries(&self) -> usize {
        let rows = self.blocks.iter().map(|b| b.rows).max().unwrap_or(0);
        rows * self.a.heads / self.a.kv_heads
    }

    /// Positions that a row sees.
    fn view(&self, r: usize) -> Range<usize> {
        let end = self.batch.rows[r].pos as usize + 1;
        self.a.window.map_or(0, |w| end.saturating_sub(w as usize))..end
    }

    /// Positions that some row of a block sees: windows of neighbouring rows overlap or touch.
    fn view_of(&self, b: Block) -> Range<usize> {
        self.view(b.first).start..self.view(b.first + b.rows - 1).end
    }

    /// Segments that some row of a block sees.
    fn segments_of(&self, b: Block) -> Range<usize> {
        let view = self.view_of(b);
        view.start / SEGMENT..view.end.div_ceil(SEGMENT)
    }

    /// Tiles of a block.
    fn spans(&self, b: Block) -> impl Iterator<Item = Span> {
        let (queries, most) = (b.rows * self.a.heads / self.a.kv_heads, self.kernels.tile);
        (0..queries).step_by(most).map(move |first| {
            let len = most.min(queries - first);
            Span { first, len, width: len.next_power_of_two() }
        })
    }

    /// The row and the head of a query of a block.
    fn query(&self, b: Block, head: usize, i: usize) -> (usize, usize) {
        let group = self.a.heads / self.a.kv_heads;
        (b.first + i / group, head * group + i % group)
    }

    /// A task's share of its block's segments; nothing where a page is missing.
    fn task(&self, task: usize, share: usize, kept: Mat, work: &mut Queries) -> Option<()> {
        let (b, head) = self.place(task);
        let (segments, (keys, values)) = (self.segments_of(b), self.pages.formats());
        let cut = |share: usize| segments.start + segments.len() * share / self.parts;
        self.load(b, head, work);
        for n in cut(share)..cut(share + 1) {
            let mut pages = [Head { keys: &[], values: &[] }; SEGMENT / PAGE];
            let segment = self.segment(b, head, n, &mut pages)?;
            for (tile, span) in work.tiles.iter_mut().zip(self.spans(b)) {
                let part = &mut work.part;
                match self.narrow(segment, b, n, &span, part) {
                    // SAFETY: the kernels are of a set that the processor has.
                    Some(segment) => unsafe {
                        (self.kernels.scores)(keys, span.width)(&segment, tile, part);
                        (self.kernels.values)(values, span.width)(&segment, part);
                    },
                    None => part.sums.clear(span.width, self.a.v_dim),
                }
                if self.parts == 1 {
                    // SAFETY: as above.
                    unsafe { (self.kernels.fold)(&part.sums, &mut tile.sums, span.width) };
                } else {
                    for t in 0..span.len {
                        // SAFETY: `run` keeps the room alive, and this task alone has this head's part of the segment.
                        let row = unsafe { kept.row_mut(self.slot(task, n - segments.start, span.first + t)) };
                        part.sums.save(t, row);
                    }
                }
            }
        }
        if self.parts == 1 {
            self.finish(b, head, work);
        }
        Some(())
    }

    /// Folds what the tasks of a block's key head kept, in order.
    fn gather(&self, task: usize, kept: Mat, work: &mut Queries) {
        let (b, head) = self.place(task);
        self.load(b, head, work);
        for n in 0..self.segments_of(b).len() {
            for (tile, span) in work.tiles.iter_mut().zip(self.spans(b)) {
                let sums = &mut work.part.sums;
                sums.clear(span.width, self.a.v_dim);
                for t in 0..span.len {
                    // SAFETY: `run` keeps the room alive, and nobody writes it now.
                    sums.restore(t, unsafe { kept.row(self.slot(task, n, span.first + t)) });
                }
                // SAFETY: the kernel is of a set that the processor has.
                unsafe { (self.kernels.fold)(sums, &mut tile.sums, span.width) };
            }
        }
        self.finish(b, head, work);
    }

    /// Where the sums of a segment of a query are kept.
    fn slot(&self, task: usize, segment: usize, query: usize) -> usize {
        (task * self.segments + segment) * self.queries() + query
    }

    /// Begins a block's key head: its queries, and no sums yet.
    fn load(&self, b: Block, head: usize, work: &mut Queries) {
        let (n, scale) = (self.a.head_dim, self.a.scale * std::f32::consts::LOG2_E);
        work.tiles.resize_with(self.spans(b).count(), Tile::default);
        for (tile, span) in work.tiles.iter_mut().zip(self.spans(b)) {
            tile.sums.clear(span.width, self.a.v_dim);
            tile.q.resize(n * span.width, 0.0);
            for t in 0..span.width {
                let (r, h) = self.query(b, head, span.first + t.min(span.len - 1));
                // SAFETY: values outlive the launch and nobody writes the queries now.
                let q = &unsafe { self.q.row(r) }[h * n..][..n];
                for (to, x) in tile.q[t..].iter_mut().step_by(span.width).zip(q) {
                    *to = x * scale;
                }
            }
        }
    }

    /// Writes the results of a block's key head.
    fn finish(&self, b: Block, head: usize, work: &Queries) {
        let v_dim = self.a.v_dim;
        for (tile, span) in work.tiles.iter().zip(self.spans(b)) {
            for (t, sums) in tile.sums.out.chunks_exact(v_dim.next_multiple_of(LANES)).take(span.len).enumerate() {
                let (r, h) = self.query(b, head, span.first + t);
                // SAFETY: this head of this row belongs to this task alone.
                let out = unsafe { self.out.part_mut(r * self.out.width + h * v_dim, v_dim) };
                for (y, s) in out.iter_mut().zip(sums) {
                    *y = s / tile.sums.total[t];
                }
            }
        }
    }

    /// The pages of a segment that some row of a block sees; nothing where one is missing.
    fn segment<'p>(&self, b: Block, head: usize, n: usize, room: &'p mut [Head<'a>]) -> Option<Segment<'p>>
    where
        'a: 'p,
    {
        let (view, seq) = (self.view_of(b), self.batch.rows[b.first].seq);
        let get = |index: usize| {
            let page = page(self.batch, self.id.group, seq, index, self.pages.count())?;
            Some(self.pages.head(self.id.layer, page, head))
        };
        let first = view.start.max(n * SEGMENT) / PAGE;
        let last = view.end.min((n + 1) * SEGMENT).div_ceil(PAGE);
        for (room, index) in room.iter_mut().zip(first..last) {
            *room = get(index)?;
        }
        let pages = &room[..last - first];
        let next = if last * PAGE < view.end { get(last)? } else { pages[0] };
        Some(Segment { pages, start: first * PAGE - n * SEGMENT, next, v_dim: self.a.v_dim })
    }

    /// The pages that a tile sees, and what each of its queries sees of them; nothing where none sees any.
    fn narrow<'p>(&self, all: Segment<'p>, b: Block, n: usize, span: &Span, part: &mut Part) -> Option<Segment<'p>> {
        let (mut from, mut to) = (SEGMENT, 0);
        let within = |p: usize| p.clamp(n * SEGMENT, (n + 1) * SEGMENT) - n * SEGMENT;
        for t in 0..span.width {
            let view = self.view(self.query(b, 0, span.first + t.min(span.len - 1)).0);
            let view = (within(view.start), within(view.end));
            part.views[t] = view;
            if view.0 < view.1 {
                (from, to) = (from.min(view.0), to.max(view.1));
            }
        }
        if from >= to {
            return None;
        }
        let (first, last) = (from / PAGE, to.div_ceil(PAGE));
        let pages = &all.pages[first - all.start / PAGE..last - all.start / PAGE];
        Some(Segment { pages, start: first * PAGE, ..all })
    }
}

/// Whether a row's position is the next one of the same sequence.
fn follows(before: Row, row: Row) -> bool {
    before.seq == row.seq && before.pos.checked_add(1) == Some(row.pos)
}
