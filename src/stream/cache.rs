//! Experts in memory for a while: what is wanted comes, what is worth least goes.
//!
//! A step wants panels of some experts. Those that are missing are read in the order in which the step asks for them,
//! then whatever else the same experts have, for the steps that follow: the drive works from the moment of the choice
//! on. An expert that is wanted stays until the next step wants others. Where a step wants more experts than there are
//! places, each stays only until its panels of this step have been used, so they pass through, and only these are read.
//!
//! Between two steps the drive has nothing to do, and what the next one will want can be guessed (`ahead`).
//!
//! Parts of a place go from `Empty` to `Reading` to `Ready` or `Failed`, and back to `Empty` when its expert leaves; a
//! part that failed is the error of its pass, and is empty in the next. It knows no threads and no drive.

mod ahead;

use super::counters::Counters;
use super::uses::Uses;
use crate::error::{Error, Result};
use crate::hal::Wanted;
use crate::io::{Done, Slot};
use crate::plan;
use ahead::Guess;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

/// All places and what is in them.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The expert and the part of it that a panel is, by the panel's number.
    of: Vec<Option<(u32, u32)>>,
    experts: Vec<Expert>,
    places: Vec<Place>,
    /// Bytes of panels, by their number.
    lens: Vec<u64>,
    /// Panels to read.
    queue: VecDeque<u32>,
    guess: Guess,
    uses: Uses,
    /// The step that wants, and whether there are places for all its experts.
    step: u64,
    whole: bool,
    /// Experts that have come so far.
    moves: u64,
}

#[derive(Debug, Default)]
struct Expert {
    panels: Vec<u32>,
    place: Option<usize>,
    /// The last step that wanted it, and how many panels that has still to use.
    step: u64,
    left: u32,
    /// The last guess that it was in, and how many bytes of it were begun to be read for that.
    guess: u64,
    ahead: u64,
}

#[derive(Debug)]
struct Place {
    expert: Option<usize>,
    /// When it came.
    since: u64,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    content: Content,
    /// How many read it now, and how many have in this step.
    users: u32,
    done: u32,
}

#[derive(Debug)]
enum Content {
    Empty(Arc<Slot>),
    /// It is being read: because it is wanted, or on a guess.
    Reading {
        ahead: bool,
    },
    Ready {
        slot: Arc<Slot>,
        start: usize,
    },
    Failed(Arc<Slot>, Error),
}

impl Content {
    /// Lets go of what there is.
    fn empty(&mut self) {
        let slot = match self {
            Content::Ready { slot, .. } | Content::Failed(slot, _) => slot.clone(),
            Content::Empty(_) | Content::Reading { .. } => return,
        };
        *self = Content::Empty(slot);
    }

    fn is_ready(&self) -> bool {
        matches!(self, Content::Ready { .. })
    }
}

impl Cache {
    /// An empty cache for panels of these lengths; the slots are those of `places` times `sizes`.
    pub fn new(plan: &plan::Cache, lens: Vec<u64>, slots: Vec<Arc<Slot>>) -> Cache {
        let mut of = vec![None; lens.len()];
        for (e, numbers) in plan.experts.iter().enumerate() {
            (0..).zip(numbers).for_each(|(part, &n)| of[n as usize] = Some((e as u32, part)));
        }
        let expert = |panels: &Vec<u32>| Expert { panels: panels.clone(), ..Expert::default() };
        let mut slots = slots.into_iter();
        let mut place = || {
            let slots = slots.by_ref().take(plan.sizes.len());
            let part = |slot| Part { content: Content::Empty(slot), users: 0, done: 0 };
            Place { expert: None, since: 0, parts: slots.map(part).collect() }
        };
        Cache {
            of,
            experts: plan.experts.iter().map(expert).collect(),
            places: (0..plan.places).map(|_| place()).collect(),
            lens,
            uses: Uses::new(plan.experts.len()),
            ..Cache::default()
        }
    }

    /// Whether there is nothing to cache.
    pub fn is_empty(&self) -> bool {
        self.experts.is_empty()
    }

    /// Whether a panel belongs to an expert.
    pub fn has(&self, number: u32) -> bool {
        self.of.get(number as usize).is_some_and(Option::is_some)
    }

    fn of(&self, number: u32) -> (usize, usize) {
        let (expert, part) = self.of[number as usize].expect("it is a panel of an expert");
        (expert as usize, part as usize)
    }

    fn part(&mut self, number: u32) -> Option<&mut Part> {
        let (expert, part) = self.of(number);
        self.experts[expert].place.map(|p| &mut self.places[p].parts[part])
    }

    /// A pass begins: nothing is wanted yet, and what failed may be tried again.
    pub fn begin(&mut self, counters: &mut Counters) {
        self.queue.clear();
        self.step += 1;
        self.end_guess(counters);
        self.uses.begin();
        let parts = self.places.iter_mut().flat_map(|p| &mut p.parts);
        parts.filter(|p| matches!(p.content, Content::Failed(..))).for_each(|p| p.content.empty());
    }

    /// A step wants panels; they are put in order. See `Supply::want`.
    pub fn want(&mut self, panels: &mut [Wanted], counters: &mut Counters) {
        self.step += 1;
        self.queue.clear();
        let mut experts = 0;
        for &(number, _) in &*panels {
            let (e, _) = self.of(number);
            if self.experts[e].step != self.step {
                experts += 1;
                (self.experts[e].step, self.experts[e].left) = (self.step, 0);
                let state = self.state(e);
                if self.uses.count(e) {
                    // One that was read on a guess had to come.
                    match state == State::Whole && !self.was_read_ahead(e) {
                        true => counters.hits += 1,
                        false => counters.misses += 1,
                    }
                }
            }
            self.experts[e].left += 1;
            if let Some(part) = self.part(number) {
                part.done = 0;
            }
        }
        self.end_guess(counters);
        self.whole = experts <= self.places.len();
        panels.sort_unstable_by_key(|&(number, _)| {
            let (e, _) = self.of(number);
            (self.state(e), e, number)
        });
        self.queue.extend(panels.iter().map(|p| p.0));
        let mut last = None;
        for &(number, _) in panels.iter().filter(|_| self.whole) {
            let (e, _) = self.of(number);
            if last.replace(e) != Some(e) {
                self.queue.extend(&self.experts[e].panels);
            }
        }
    }

    /// How much of an expert there is.
    fn state(&self, expert: usize) -> State {
        let Some(place) = self.experts[expert].place else { return State::Away };
        let parts = self.places[place].parts.iter().take(self.experts[expert].panels.len());
        if parts.into_iter().all(|p| p.content.is_ready()) { State::Whole } else { State::Begun }
    }

    /// The next panel to read, and where to; none where nothing is wanted, or no place is free.
    pub fn next(&mut self) -> Option<(u32, Arc<Slot>)> {
        while let Some(&number) = self.queue.front() {
            let (expert, _) = self.of(number);
            if self.experts[expert].place.is_none() {
                self.make_room(expert, false)?;
            }
            self.queue.pop_front();
            if let Some(slot) = self.begin_read(number, false) {
                return Some((number, slot));
            }
        }
        None
    }

    /// Where to read a panel to, if its place is empty.
    fn begin_read(&mut self, number: u32, ahead: bool) -> Option<Arc<Slot>> {
        let content = &mut self.part(number).expect("its expert has a place").content;
        let Content::Empty(slot) = content else { return None };
        let slot = slot.clone();
        *content = Content::Reading { ahead };
        Some(slot)
    }

    /// Gives an expert a place: a free one, or that of the expert that is worth least; of several the one that came
    /// last. On a guess, none that was guessed leaves.
    fn make_room(&mut self, expert: usize, ahead: bool) -> Option<()> {
        let worth = |p: &Place| p.expert.map_or(-1.0, |e| self.uses.worth(e));
        let candidates = self.places.iter().enumerate().filter(|(_, p)| self.may_leave(p, ahead));
        let order = |a: &Place, b: &Place| worth(a).total_cmp(&worth(b)).then(Reverse(a.since).cmp(&Reverse(b.since)));
        let found = candidates.min_by(|a, b| order(a.1, b.1)).map(|c| c.0)?;
        self.moves += 1;
        let place = &mut self.places[found];
        for part in &mut place.parts {
            part.content.empty();
            part.done = 0;
        }
        place.since = self.moves;
        let left = place.expert.replace(expert);
        if let Some(left) = left {
            self.experts[left].place = None;
        }
        self.experts[expert].place = Some(found);
        Some(())
    }

    fn may_leave(&self, place: &Place, ahead: bool) -> bool {
        let Some(expert) = place.expert.map(|e| &self.experts[e]) else { return true };
        let wanted = expert.step == self.step && (self.whole || expert.left > 0);
        let guessed = ahead && expert.guess == self.guess.number;
        let busy = |p: &Part| p.users > 0 || matches!(p.content, Content::Reading { .. });
        !wanted && !guessed && !place.parts.iter().any(busy)
    }

    /// A read has ended. One on a guess that failed never was; if it is wanted by now it is tried again.
    pub fn arrive(&mut self, number: u32, done: Done) {
        let part = self.part(number).expect("an expert stays while it is read");
        let Content::Reading { ahead } = part.content else { unreachable!("what arrives was being read") };
        part.content = match done.result {
            Ok(()) => Content::Ready { slot: done.slot, start: done.start },
            Err(_) if ahead => Content::Empty(done.slot),
            Err(e) => Content::Failed(done.slot, e),
        };
        let again = ahead && matches!(part.content, Content::Empty(_));
        self.guess.reading -= usize::from(ahead);
        if again && self.experts[self.of(number).0].step == self.step {
            self.queue.push_front(number);
        }
    }

    /// A panel that has arrived or failed; its user is counted.
    pub fn take(&mut self, number: u32) -> Option<Result<(Arc<Slot>, usize)>> {
        let part = self.part(number)?;
        match &part.content {
            Content::Ready { slot, start } => {
                part.users += 1;
                Some(Ok((slot.clone(), *start)))
            }
            Content::Failed(_, e) => Some(Err(e.clone())),
            Content::Empty(_) | Content::Reading { .. } => None,
        }
    }

    /// A user is through with a panel; whether that may have made room for what is wanted.
    pub fn give_back(&mut self, number: u32, uses: u32) -> bool {
        let (expert, _) = self.of(number);
        let part = self.part(number).expect("an expert stays while it is used");
        part.users -= 1;
        part.done += 1;
        if part.done < uses {
            return false;
        }
        part.done = 0;
        let left = &mut self.experts[expert].left;
        *left = left.saturating_sub(1);
        *left == 0 && !self.queue.is_empty()
    }
}

/// How much of an expert there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Whole,
    Begun,
    Away,
}
