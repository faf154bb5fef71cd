//! Experts before they are wanted, on a drive that has nothing else to do.
//!
//! While attention computes, nobody knows what the layer will want, and the drive rests. But its router, asked about the
//! row as it comes into the layer, gives most of the answer that it will give behind the attention. What is missing of
//! that is read until the true answer is there: then the guess is over, and no read of it is begun any more.
//!
//! A guess must not cost what it is meant to spare. Its reads begin only where no other read is wanted or under way, and
//! few at once: a wanted one waits for these at most. For it leaves who is worth least, but nobody that is in use, or was
//! guessed too. A read that fails is forgotten. Whoever comes on a guess had to come, and is no hit.

use super::{Cache, Counters, Slot, State};
use std::collections::VecDeque;
use std::sync::Arc;

/// Reads on a guess at once. Two of about a megabyte keep a drive busy, and a wanted read waits a millisecond for them.
const AT_ONCE: usize = 2;

/// What the next step is thought to want.
#[derive(Debug, Default)]
pub(super) struct Guess {
    /// Which guess this is, from 1.
    pub number: u64,
    /// Panels to read, the likeliest expert's first.
    queue: VecDeque<u32>,
    /// Experts of which something was read for it.
    begun: Vec<u32>,
    /// Reads under way, also of earlier guesses.
    pub reading: usize,
}

impl Cache {
    /// The experts of these panels are likely to be wanted next, the first ones most.
    pub fn foresee(&mut self, panels: &[u32], counters: &mut Counters) {
        self.end_guess(counters);
        self.guess.number += 1;
        for &number in panels {
            let (e, _) = self.of(number);
            if self.experts[e].guess != self.guess.number {
                (self.experts[e].guess, self.experts[e].ahead) = (self.guess.number, 0);
                if self.state(e) != State::Whole {
                    self.guess.queue.extend(&self.experts[e].panels);
                }
            }
        }
    }

    /// The next panel to read on a guess, and where to; none while others of `busy` reads are under way, or wait.
    pub fn next_ahead(&mut self, busy: usize) -> Option<(u32, Arc<Slot>)> {
        if !self.queue.is_empty() || busy > self.guess.reading || busy >= AT_ONCE {
            return None;
        }
        while let Some(&number) = self.guess.queue.front() {
            let (expert, _) = self.of(number);
            if self.experts[expert].place.is_none() {
                self.make_room(expert, true)?;
            }
            self.guess.queue.pop_front();
            if let Some(slot) = self.begin_read(number, true) {
                if !self.was_read_ahead(expert) {
                    self.guess.begun.push(expert as u32);
                }
                self.experts[expert].ahead += self.lens[number as usize];
                self.guess.reading += 1;
                return Some((number, slot));
            }
        }
        None
    }

    /// Whether something of an expert was read for the guess that stands.
    pub(super) fn was_read_ahead(&self, expert: usize) -> bool {
        let e = &self.experts[expert];
        e.guess == self.guess.number && e.ahead > 0
    }

    /// What is wanted is known, or nothing will be: counts what the guess was good for.
    pub(super) fn end_guess(&mut self, counters: &mut Counters) {
        self.guess.queue.clear();
        for e in self.guess.begun.drain(..) {
            let e = &mut self.experts[e as usize];
            counters.foreseen += 1;
            match e.step == self.step {
                true => counters.foreseen_used += 1,
                false => counters.read_for_nothing += e.ahead,
            }
            e.ahead = 0;
        }
    }
}
