//! The values of a launch: where each lies, and views that tasks of several threads share.
//!
//! Values lie in one arena or in carries; the program's placement keeps those that live at the same time
//! apart. So within an op inputs and outputs do not overlap, except that an `Add` may write the carry that it reads,
//! which it does element by element through pointers.

use super::memory::Memory;
use crate::error::{Error, Result};
use crate::hal::Reservation;
use crate::op::{Carry, CarryId, Place, Program, RowSet, ValueId};

/// Rows of a value.
#[derive(Debug, Clone, Copy)]
pub struct Mat {
    /// First element.
    pub start: *mut f32,
    /// Elements of a row.
    pub width: usize,
    /// Rows.
    pub rows: usize,
}

// SAFETY: a view is a pointer with a shape; the unsafe methods say what its users promise.
unsafe impl Send for Mat {}
// SAFETY: as above.
unsafe impl Sync for Mat {}

impl Mat {
    /// A row to read.
    ///
    /// # Safety
    /// The memory is alive, and nobody writes the row meanwhile.
    pub unsafe fn row<'a>(&self, r: usize) -> &'a [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: the row lies in the value, and the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(r * self.width), self.width) }
    }

    /// A row to write.
    ///
    /// # Safety
    /// The memory is alive, and nobody else uses the row meanwhile.
    pub unsafe fn row_mut<'a>(&self, r: usize) -> &'a mut [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: the row lies in the value, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(r * self.width), self.width) }
    }

    /// Elements `at..at + len` of all rows, to write.
    ///
    /// # Safety
    /// The memory is alive, and nobody else uses these elements meanwhile.
    pub unsafe fn part_mut<'a>(&self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at + len <= self.rows * self.width, "elements {at}.. of {}", self.rows * self.width);
        // SAFETY: the part lies in the value, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }

    /// Adds element i of `a` and `b`, which may be this value.
    ///
    /// # Safety
    /// The memory is alive, the values have one shape, i is in it, and nobody else uses the elements meanwhile.
    pub unsafe fn add(&self, a: &Mat, b: &Mat, i: usize) {
        // SAFETY: the caller's promise; both elements are read before this one is written.
        unsafe { *self.start.add(i) = *a.start.add(i) + *b.start.add(i) };
    }

    /// All rows to read.
    ///
    /// # Safety
    /// The memory is alive, and nobody writes it meanwhile.
    pub unsafe fn all<'a>(&self) -> &'a [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start, self.rows * self.width) }
    }
}

/// Memory of all values.
#[derive(Debug)]
pub struct Values {
    arena: Memory,
    carries: Vec<(Carry, Memory)>,
    limits: Limits,
}

/// Most rows of what is reserved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Of a pass.
    pub pass: usize,
    /// Of a batch, where a program has values of all its rows.
    pub rows: usize,
    /// Whose logits are wanted.
    pub outputs: usize,
}

impl Limits {
    /// Those of a reservation.
    pub fn of(r: &Reservation) -> Limits {
        let rows = r.max_rows.max(r.max_outputs);
        Limits { pass: r.pass_rows.max(rows), rows, outputs: r.max_outputs }
    }

    /// Rows of a carry.
    fn carry(self, c: &Carry) -> usize {
        if c.rows == RowSet::All { self.pass } else { self.outputs }
    }
}

impl Values {
    /// Reserves the arena (of `arena_width` elements a row) and the carries.
    ///
    /// # Errors
    /// `Limit` when memory is short.
    pub fn new(arena_width: usize, carries: &[Carry], limits: Limits) -> Result<Self> {
        let bytes = |width: usize, rows: usize| {
            let n = width.checked_mul(rows).and_then(|n| n.checked_mul(4));
            n.ok_or_else(|| Error::Limit(format!("no memory for {rows} rows of {width} elements")))
        };
        let arena = Memory::new(bytes(arena_width, limits.rows)?, "values")?;
        let mut buffers = vec![];
        for c in carries {
            buffers.push((c.clone(), Memory::new(bytes(c.width, limits.carry(c))?, c.name)?));
        }
        Ok(Values { arena, carries: buffers, limits })
    }

    /// Bytes that `new` would take.
    pub fn bytes(arena_width: usize, carries: &[Carry], limits: Limits) -> u64 {
        let carries = carries.iter().map(|c| c.width.saturating_mul(limits.carry(c)));
        let elements = carries.fold(arena_width.saturating_mul(limits.rows), usize::saturating_add);
        (elements as u64).saturating_mul(4)
    }

    /// Most rows.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether a program's values fit.
    ///
    /// # Errors
    /// `Engine` when the reservation does not cover the program.
    pub fn check(&self, program: &Program) -> Result<()> {
        let known = |v: &crate::op::Value| match v.place {
            Place::Arena(_) => true,
            Place::Carry(id) => {
                self.carries.get(id.0 as usize).is_some_and(|(c, _)| c.width == v.width && c.rows == v.rows)
            }
        };
        let fits = program.arena_width * self.limits.rows * 4 <= self.arena.len();
        if fits && program.values.iter().all(known) {
            return Ok(());
        }
        Err(Error::Engine(format!("program {} needs more than was reserved; reserve after compiling", program.name)))
    }

    /// A value's rows in a batch that begins at row `first` of its pass.
    pub fn mat(&self, program: &Program, id: ValueId, first: usize, rows: usize, outputs: usize) -> Mat {
        let v = program.value(id);
        let (first, rows) = if v.rows == RowSet::All { (first, rows) } else { (0, outputs) };
        let start: *mut f32 = match v.place {
            // In bounds: `check` compared the arena's length with the program's width, and a launch of more rows than
            // the arena has is one of a program that has only output rows there.
            Place::Arena(offset) => self.arena.as_ptr().cast::<f32>().wrapping_add(offset * self.limits.rows),
            // In bounds: whoever launches compared the batch with the limits.
            Place::Carry(carry) => {
                self.carries[carry.0 as usize].1.as_ptr().cast::<f32>().wrapping_add(first * v.width)
            }
        };
        Mat { start, width: v.width, rows }
    }

    /// A carry's buffer.
    pub fn carry(&self, id: CarryId) -> &[f32] {
        let memory = &self.carries[id.0 as usize].1;
        // SAFETY: the area is aligned to a page and zeroed or written with floats; `self` is borrowed.
        unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), memory.len() / 4) }
    }

    /// A carry's buffer to fill.
    pub fn carry_mut(&mut self, id: CarryId) -> &mut [f32] {
        let memory = &self.carries[id.0 as usize].1;
        // SAFETY: as in `carry`, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr().cast(), memory.len() / 4) }
    }
}
