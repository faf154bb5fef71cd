//! A backend that computes nothing: for the speed of all that stands around a model, and for tests of it.
//!
//! It keeps a number for each position of the sequence state, made of the number before it and the token there, and its
//! logits say a token that depends on all numbers that a row sees, read through the page tables as attention reads keys.
//! So an answer is noise, but depends on every token of its text and on every page that should hold it: a page that is
//! another's, was written too late or freed too early makes another answer. `chosen` says which token must come.
//!
//! No weight is computed with. A pass takes as long as whoever made it says.

use super::{
    Backend, Batch, Bindings, KvLayout, NO_PAGE, PAGE, Panel, ProgramId, Reservation, Row, Supply, WeightDesc, WeightId,
};
use crate::error::Result;
use crate::op::{CarryId, Op, Program, RowSet, Value};
use std::sync::Arc;

/// What stands in for the work of a pass: it is told its rows, may take its time, and may fail.
pub type Work = Box<dyn FnMut(&Batch) -> Result<()> + Send>;

/// How much more probable the chosen token is than the others, as a difference of logits.
const MARGIN: f32 = 100.0;

/// The backend.
pub struct Fake {
    work: Work,
    /// What a launch of each program does.
    programs: Vec<Task>,
    /// Where they are wanted, and how wide they are.
    head: CarryId,
    vocab: usize,
    logits: Vec<f32>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Task {
    /// Begins a pass.
    Begin,
    /// Writes sequence state, where it is bound to the first layer of a group.
    Layer,
    /// Writes logits.
    Head,
}

struct Group {
    window: Option<u32>,
    /// `[pages, PAGE]`
    numbers: Vec<u64>,
}

impl Group {
    fn at(&self, table: &[u32], pos: usize) -> usize {
        let page = table[pos / PAGE];
        assert_ne!(page, NO_PAGE, "position {pos} has been given back");
        page as usize * PAGE + pos % PAGE
    }
}

/// One number of two.
fn mix(a: u64, b: u64) -> u64 {
    let x = (a.rotate_left(23) ^ b).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^ (x >> 29)
}

/// The token that comes behind a text, where the groups of layers have these windows.
pub fn chosen(text: &[u32], windows: &[Option<u32>], vocab: usize) -> u32 {
    let numbers: Vec<u64> = text
        .iter()
        .scan(0, |last, &token| {
            *last = mix(*last, token.into());
            Some(*last)
        })
        .collect();
    let seen = |window: &Option<u32>| window.map_or(0, |w| numbers.len().saturating_sub(w as usize));
    let all = windows.iter().map(|w| numbers[seen(w)..].iter().fold(0, |all, &n| mix(all, n)));
    (all.fold(0, mix) % vocab as u64) as u32
}

impl Fake {
    /// One whose passes do this instead of computing.
    pub fn new(work: Work) -> Fake {
        Fake { work, programs: vec![], head: CarryId(0), vocab: 0, logits: vec![], groups: vec![] }
    }

    fn append(&mut self, group: usize, batch: &Batch) {
        let g = &mut self.groups[group];
        for row in batch.rows {
            let (table, pos) = (&batch.tables[row.seq as usize][group][..], row.pos as usize);
            let before = if pos == 0 { 0 } else { g.numbers[g.at(table, pos - 1)] };
            let at = g.at(table, pos);
            g.numbers[at] = mix(before, row.token.into());
        }
    }

    fn choose(&self, row: &Row, tables: &[Vec<u32>]) -> u32 {
        let of = |(g, table): (&Group, &Vec<u32>)| {
            let n = row.pos as usize + 1;
            let first = g.window.map_or(0, |w| n.saturating_sub(w as usize));
            (first..n).fold(0, |all, pos| mix(all, g.numbers[g.at(table, pos)]))
        };
        (self.groups.iter().zip(tables).map(of).fold(0, mix) % self.vocab as u64) as u32
    }
}

impl Backend for Fake {
    fn description(&self) -> String {
        "fake: computes nothing, answers are noise".into()
    }

    fn load(&mut self, _: &WeightDesc, _: &Arc<dyn Supply>) -> Result<WeightId> {
        Ok(WeightId(0))
    }

    fn rehome(&mut self, _: WeightId, _: &Panel) -> Result<()> {
        Ok(())
    }

    fn compile(&mut self, program: &Program) -> Result<ProgramId> {
        let begins = program.ops.iter().any(|op| matches!(op, Op::Embed { .. }));
        let head = program.values.iter().filter(|v| v.rows == RowSet::Outputs).find_map(Value::carry);
        self.head = head.unwrap_or(self.head);
        self.programs.push(match head {
            _ if begins => Task::Begin,
            Some(_) => Task::Head,
            None => Task::Layer,
        });
        Ok(ProgramId(self.programs.len() as u32 - 1))
    }

    fn workspace(&self, _: &Reservation) -> u64 {
        0
    }

    fn reserve(&mut self, r: &Reservation) -> Result<()> {
        let KvLayout { groups, .. } = r.kv;
        self.groups = groups.iter().map(|g| Group { window: g.window, numbers: vec![0; g.pages * PAGE] }).collect();
        self.vocab = r.carries[self.head.0 as usize].width;
        self.logits = vec![0.0; self.vocab * r.max_outputs];
        Ok(())
    }

    fn launch(&mut self, program: ProgramId, bindings: &Bindings, batch: &Batch) -> Result<()> {
        match (self.programs[program.0 as usize], bindings.layer) {
            (Task::Begin, _) => return (self.work)(batch),
            (Task::Layer, Some(layer)) if layer.layer == 0 => self.append(layer.group, batch),
            (Task::Layer, _) => {}
            (Task::Head, _) => {
                for (at, row) in batch.rows.iter().filter(|r| r.output).enumerate() {
                    let token = self.choose(row, batch.tables[row.seq as usize]);
                    let logits = &mut self.logits[at * self.vocab..][..self.vocab];
                    logits.fill(0.0);
                    logits[token as usize] = MARGIN;
                }
            }
        }
        Ok(())
    }

    fn read(&self, carry: CarryId, out: &mut [f32]) {
        match carry == self.head {
            true => out.copy_from_slice(&self.logits[..out.len()]),
            false => out.fill(0.0),
        }
    }

    fn write(&mut self, _: CarryId, _: &[f32]) {}

    fn copy_page(&mut self, group: usize, from: u32, to: u32) {
        let from = from as usize * PAGE;
        self.groups[group].numbers.copy_within(from..from + PAGE, to as usize * PAGE);
    }

    /// What was there is gone at once: a page that is used though it was given back shows.
    fn forget_pages(&mut self, group: usize, pages: &[u32]) {
        pages.iter().for_each(|&page| self.groups[group].numbers[page as usize * PAGE..][..PAGE].fill(u64::MAX));
    }
}
