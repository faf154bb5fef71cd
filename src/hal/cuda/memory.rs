//! Places in the device's memory: what a reservation takes, and where the values of a launch lie.
//!
//! Everything is allocated when it is reserved, each buffer by itself. On a GPU these are parts of one piece (`arena`);
//! in the tests' emulator each is alone, so that it sees an overrun leave its allocation. A buffer ends with `PAD` bytes
//! that nobody uses but a kernel that reads words across the end of a block (`load_words` in `kernels/common.cuh`).

use super::driver::{Address, Driver};
use crate::error::{Error, Result};
use crate::hal::{Batch, Reservation};
use crate::op::{Carry, Place, Program, RowSet, Type, Value, ValueId};

/// Bytes behind each buffer.
const PAD: u64 = 16;

/// Bytes that a buffer takes at most beyond what is asked for: those and what addresses are rounded to.
const BESIDE: u64 = PAD + 255;

/// Buffers at most that are no weights: values, carries, pages, places of the ring, angles.
const OTHERS: u64 = 256;

/// What buffers of so many bytes together take, so many of them weights.
pub(super) fn with_room(bytes: u64, weights: usize) -> u64 {
    bytes.saturating_add((weights as u64).saturating_add(OTHERS).saturating_mul(BESIDE))
}

/// Rows of the arena are a multiple of this, so that every value begins at a multiple of 256 bytes.
const ROUND: usize = 64;

impl Address {
    /// The address `bytes` behind.
    pub(super) fn offset(self, bytes: u64) -> Address {
        Address(self.0 + bytes)
    }
}

/// A buffer of the device. Who drops it must have given it back.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Buffer {
    pub(super) at: Address,
    pub(super) bytes: u64,
}

impl Buffer {
    /// Memory for `what`, filled with zeros.
    ///
    /// # Errors
    /// `Limit` when there is none.
    pub(super) fn new(driver: &mut dyn Driver, bytes: u64, what: &str) -> Result<Buffer> {
        let at = driver.alloc(bytes.saturating_add(PAD)).map_err(|e| match e {
            Error::Limit(why) => Error::Limit(format!("{what}: {why}")),
            other => other,
        })?;
        Ok(Buffer { at, bytes })
    }

    /// Gives it back.
    pub(super) fn free(self, driver: &mut dyn Driver) -> Result<()> {
        if self.at == Address(0) { Ok(()) } else { driver.free(self.at) }
    }
}

/// Most rows of what is reserved.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// Of a pass.
    pub(super) pass: usize,
    /// Of a batch, where a program has values of all its rows.
    pub(super) rows: usize,
    /// Whose logits are wanted.
    pub(super) outputs: usize,
}

impl Limits {
    pub(super) fn of(r: &Reservation) -> Limits {
        let rows = r.max_rows.max(r.max_outputs).next_multiple_of(ROUND);
        Limits { pass: r.pass_rows.max(rows), rows, outputs: r.max_outputs }
    }

    fn carry_bytes(self, c: &Carry) -> u64 {
        let rows = if c.rows == RowSet::All { self.pass } else { self.outputs };
        (c.width as u64).saturating_mul(4 * rows as u64)
    }
}

/// What a program's launches use beside its values.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    /// Elements of a row of the arena.
    pub(super) arena: usize,
    /// Elements of a row that is looked up in a table.
    pub(super) looked_up: usize,
    /// Elements of a row that are quantised at a time.
    pub(super) quantised: usize,
    /// Slots of a row, and experts, where a product goes by experts.
    pub(super) slots: usize,
    pub(super) experts: usize,
    /// Floats of one split of an attention, for all heads.
    pub(super) split: usize,
}

impl Needs {
    /// What serves both.
    pub(super) fn max(self, o: Needs) -> Needs {
        Needs {
            arena: self.arena.max(o.arena),
            looked_up: self.looked_up.max(o.looked_up),
            quantised: self.quantised.max(o.quantised),
            slots: self.slots.max(o.slots),
            experts: self.experts.max(o.experts),
            split: self.split.max(o.split),
        }
    }

    /// Bytes of each buffer, in the order of `Values`' fields.
    fn bytes(self, limits: Limits) -> [u64; 8] {
        let rows = limits.rows as u64;
        let of = |elements: usize, bytes: u64| rows.saturating_mul(elements as u64).saturating_mul(bytes);
        let tiles = (rows * self.slots as u64).div_ceil(super::kernels::TILE_INPUTS[0].into()) + self.experts as u64;
        [
            of(self.arena, 4),
            of(self.looked_up, 4),
            of(self.quantised, 1),
            of(self.quantised.div_ceil(32) + self.slots, 8),
            self.experts as u64 * 4,
            of(self.slots, 4),
            if self.slots > 0 { tiles * 16 } else { 0 },
            (super::rows::PARTIALS * self.split) as u64 * 4,
        ]
    }

    /// Bytes of all that `Values::new` takes.
    pub(super) fn total(self, carries: &[Carry], limits: Limits) -> u64 {
        let carries = carries.iter().map(|c| limits.carry_bytes(c));
        self.bytes(limits).into_iter().chain(carries).fold(0, u64::saturating_add)
    }
}

/// Memory of all values, and of what kernels hand to each other.
#[derive(Debug, Default)]
pub(super) struct Values {
    arena: Buffer,
    /// Rows of a table that is not here, in its format: at most as long as floats.
    pub(super) table: Buffer,
    /// Activations in eight bits, and their scales.
    pub(super) quants: Buffer,
    pub(super) scales: Buffer,
    /// Slots of each expert, slots by expert, tiles of them.
    pub(super) counts: Buffer,
    pub(super) order: Buffer,
    pub(super) tiles: Buffer,
    /// Splits of attention.
    pub(super) partials: Buffer,
    carries: Vec<(Carry, Buffer)>,
    limits: Limits,
}

impl Values {
    /// Reserves.
    ///
    /// # Errors
    /// `Limit` when memory is short; what was taken is given back.
    pub(super) fn new(d: &mut dyn Driver, needs: Needs, carries: &[Carry], limits: Limits) -> Result<Values> {
        let mut values = Values { limits, ..Values::default() };
        let done = values.take(d, needs, carries);
        if done.is_err() {
            values.free(d)?;
        }
        done.map(|()| values)
    }

    fn take(&mut self, d: &mut dyn Driver, needs: Needs, carries: &[Carry]) -> Result<()> {
        let bytes = needs.bytes(self.limits);
        for (buffer, bytes) in self.buffers().into_iter().zip(bytes) {
            *buffer = Buffer::new(d, bytes, "activations")?;
        }
        for c in carries {
            self.carries.push((c.clone(), Buffer::new(d, self.limits.carry_bytes(c), c.name)?));
        }
        Ok(())
    }

    fn buffers(&mut self) -> [&mut Buffer; 8] {
        let Values { arena, table, quants, scales, counts, order, tiles, partials, .. } = self;
        [arena, table, quants, scales, counts, order, tiles, partials]
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn free(&mut self, d: &mut dyn Driver) -> Result<()> {
        for buffer in self.buffers() {
            std::mem::take(buffer).free(d)?;
        }
        self.carries.drain(..).try_for_each(|(_, buffer)| buffer.free(d))
    }

    /// The buffer of a carry.
    pub(super) fn carry(&self, id: crate::op::CarryId) -> Buffer {
        self.carries[id.0 as usize].1
    }

    /// What a carry's elements are.
    pub(super) fn holds(&self, id: crate::op::CarryId) -> Type {
        self.carries[id.0 as usize].0.ty
    }

    /// Where a value of a launch begins.
    ///
    /// # Errors
    /// `Engine` when the batch has more rows than were reserved.
    pub(super) fn place(&self, program: &Program, id: ValueId, batch: &Batch) -> Result<Address> {
        let value: &Value = program.value(id);
        let rows = if value.rows == RowSet::All { batch.rows.len() } else { batch.outputs() };
        let first = if value.rows == RowSet::All { batch.first } else { 0 };
        let (buffer, from, room) = match value.place {
            Place::Arena(offset) => (self.arena, offset * self.limits.rows, self.limits.rows),
            Place::Carry(c) => {
                let (carry, buffer) = &self.carries[c.0 as usize];
                let room = if carry.rows == RowSet::All { self.limits.pass } else { self.limits.outputs };
                (*buffer, first * value.width, room.saturating_sub(first))
            }
        };
        if rows > room {
            let what = format!("{rows} rows of {} where {room} were reserved", value.name);
            return Err(super::misfit(program, what));
        }
        Ok(buffer.at.offset(from as u64 * 4))
    }
}
